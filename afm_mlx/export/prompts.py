"""The prompts of every verification: fixed, few, and each there for a reason."""

from __future__ import annotations

from pathlib import Path

from afm_mlx.export.verify import Prompt
from afm_mlx.inference.prompts import chat_ids, plain_ids
from afm_mlx.text.tokenizer import Tokenizer

TEXTS: dict[str, str] = {
    # The everyday case.
    "question": "What is the capital of France?",
    # The shortest: a prompt far smaller than one chunk of a fixed-shape prefill.
    "greeting": "Hi",
    # Digits are pieces of their own in many tokenizers.
    "numbers": "Compute 17 * 23 - 4.5 and show each step, then 2024 / 8.",
    # Runs of spaces, line ends, names in snake case.
    "code": "def read_all(path):\n    with open(path) as file:\n        return file.read()\n\n#",
    # Braces, quotes and escapes, as in typed answers.
    "json": 'Fill in: {"name": "Ada", "born": 1815, "tags": ["a\\\\b", null]}',
    # Bytes in place of pieces, and pieces that end within a character.
    "scripts": "Caf\u00e9, na\u00efve, \u00fcber; \u4f60\u597d\uff0c\u4e16\u754c; "
    "\u041f\u0440\u0438\u0432\u0435\u0442; \U0001f642",
    # Keys that repeat: which of them is attended to shows errors of rotation.
    "repetition": "Go on: " + "red green blue " * 12 + "red green",
    # Several chunks of prefill, and positions in the hundreds.
    "long": " ".join(
        f"On day {day}, {3 * day} ships left harbor {day % 7} and {day * day} crates came back."
        for day in range(1, 31)
    )
    + " How many crates came back on day 12?",
}
"""Text by name."""


def prompts(folder: Path, *, chats: bool) -> list[Prompt]:
    """The prompts in the words of a model's tokenizer.

    Args:
        folder: with the tokenizer's files.
        chats: write them with the chat template, as messages of the user; else as plain text.
    """
    tokenizer = Tokenizer.open(folder)
    found = []
    for name, text in TEXTS.items():
        messages = [{"role": "user", "content": text}]
        ids = chat_ids(tokenizer, messages, None) if chats else plain_ids(tokenizer, messages)
        found.append(Prompt(name, text, tuple(ids), chats))
    return found
