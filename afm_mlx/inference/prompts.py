"""What a model reads for a conversation: with its chat template, or as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError
from afm_mlx.inference.calls import for_template
from afm_mlx.inference.requests import Message
from afm_mlx.text.chat import plain_messages, render_chat
from afm_mlx.text.tokenizer import Tokenizer

BASE_STAGES = ("core", "continued", "context", "prune", "distill")
"""Stages whose models continue text: they have not seen their own tokenizer's chat template."""


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[int]:
    """Ids of a conversation in the form of the chat template, up to the head of the answer.

    A template that has no place for tools gets them in words, in the system message.

    Raises:
        DataError: the template refuses these messages.
    """
    written = for_template(messages)
    ids = render_chat(tokenizer, written, tools=tools or None)
    if tools and ids == render_chat(tokenizer, written):
        return render_chat(tokenizer, plain_messages(messages, tools))
    return ids


def plain_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation's texts, one per line, begun as the tokenizer's own files say.

    Raises:
        DataError: a message has no text.
    """
    text = "\n".join(_text_of(message) for message in messages)
    ids = [int(token) for token in _beginner(tokenizer).encode(text)]
    return ids or [tokenizer.eos_id]  # an empty text follows the end of another one


def has_chat_template(folder: Path) -> bool:
    """Whether a tokenizer's files say how messages are written."""
    file = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        return True
    return file.is_file() and '"chat_template"' in file.read_text(encoding="utf-8")


def chats_with(folder: Path, *, adapter_chats: bool) -> bool:
    """Whether messages to a model go through its chat template; else they are continued.

    They do unless nothing in use, model or adapter, has seen conversations.

    Args:
        folder: with the tokenizer's files; a checkpoint's says by its facts what it is.
        adapter_chats: whether an adapter is in use that has seen conversations.
    """
    from afm_mlx.decoder.checkpoint import trained_stage

    is_base = (folder / "config.json").is_file() and trained_stage(folder) in BASE_STAGES
    return has_chat_template(folder) and (not is_base or adapter_chats)


@lru_cache(maxsize=4)
def _beginner(tokenizer: Tokenizer) -> Any:
    """mlx-lm's wrapper, which adds what the tokenizer's own files say to begin a text with."""
    return import_mlx_lm("mlx_lm.tokenizer_utils").load(tokenizer.folder)


def _text_of(message: Message) -> str:
    """The text of a message, its parts joined where it has several.

    Raises:
        DataError: it has none.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    try:
        return "".join(part["text"] for part in content or ())
    except (TypeError, KeyError):
        raise DataError(f"a message of role '{message.get('role')}' has no text") from None
