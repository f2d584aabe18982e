"""`afm chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from afm_mlx.errors import AfmError

from .chat_display import shown_answer
from .chat_input import questions
from .models_io import find_model, follows, open_engine, open_guardrails
from .options import (
    MAX_TOKENS,
    RUNS,
    AnswerHostsFlag,
    MaxTokensFlag,
    PolicyFlag,
    RunsFlag,
    SchemaFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    TopPFlag,
)
from .terminal import show_error, tell

if TYPE_CHECKING:
    from afm_mlx.inference.session import Piece, Session
    from afm_mlx.inference.speculative import Draft

CHAT_TEMPERATURE = 0.3
"""The likeliest token each time soon repeats itself, and a retry would change nothing. Ours."""

CHAT_TOP_P = 0.9
"""Ours."""


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="Recipe name, model folder, GGUF file, hub id, or smollm2, a small model "
            "that is always at hand.",
        ),
    ] = "smollm2",
    system: SystemFlag = "",
    adapter: Annotated[
        list[str],
        typer.Option(
            "--adapter",
            metavar="ADAPTER",
            help="Folder or name of an adapter to answer with; none for the model itself. "
            "Can be repeated: /adapter changes between them.",
            show_default=False,
        ),
    ] = [],
    tools: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Python file with functions that the model may call. It is run.",
            show_default=False,
        ),
    ] = None,
    schema: SchemaFlag = None,
    policy: PolicyFlag = None,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Smaller model that guesses tokens ahead.", show_default=False
        ),
    ] = None,
    kv_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Keep keys and values in 4 or 8 bits.", show_default="all bits"
        ),
    ] = None,
    max_tokens: MaxTokensFlag = MAX_TOKENS,
    temperature: TemperatureFlag = CHAT_TEMPERATURE,
    top_p: TopPFlag = CHAT_TOP_P,
    seed: SeedFlag = 0,
    hosts: AnswerHostsFlag = None,
    runs: RunsFlag = RUNS,
) -> None:
    """Talk with a model. Type /help there for what else it understands."""
    from afm_mlx.inference.chat import COMMANDS, run_command
    from afm_mlx.inference.session import Session

    if follows(model, runs):
        return
    engine = open_engine(model, runs, adapter, together=True)
    session = Session(
        engine,
        instructions=system,
        guardrails=open_guardrails(policy),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        draft=_draft(draft, runs),
        kv_bits=kv_bits,
    )
    for command, file in (("/tools", tools), ("/schema", schema)):
        if file is not None:
            tell(run_command(session, f"{command} {file}").text)
    if not engine.is_chat:
        tell("this model is not trained to chat: it continues what you type")
    for line in questions(list(COMMANDS)):
        if not _respond(session, line):
            break
    engine.dismiss()


def _draft(word: str | None, runs: Path) -> Draft | None:
    if word is None:
        return None
    from afm_mlx.inference.speculative import Draft

    return Draft.open(find_model(word, runs))


def _respond(session: Session, line: str) -> bool:
    """Answer one line, or do its command; False when the conversation is over."""
    from afm_mlx.inference.chat import run_command

    try:
        if not line.strip():
            return True
        if not line.startswith("/"):
            _show(session, session.ask(line))
            return True
        outcome = run_command(session, line)
        if outcome.text:
            typer.echo(outcome.text)
        if outcome.answer is not None:
            _show(session, outcome.answer)
        return not outcome.quits
    except AfmError as error:  # said, and the conversation goes on
        show_error(str(error), error.hint)
        return True


def _show(session: Session, answer: Generator[Piece, None, None]) -> None:
    """Print an answer as it comes. Ctrl-C ends it after the token in work."""
    finished = None
    with closing(answer), _interrupts() as interrupted, closing(shown_answer()) as shown:
        for piece in answer:
            if piece.kind in ("call", "result"):
                shown.note(piece.text if piece.kind == "call" else f"= {piece.text}")
            else:
                shown.add(piece.text)
            finished = piece.finished
            if interrupted:
                break
    if interrupted and finished is None:
        tell("(stopped)")
    elif finished == "length":
        tell(f"(stopped at {session.max_tokens:,} tokens; --max-tokens allows more)")
    elif finished == "context":
        tell(f"(stopped: the context of {session.engine.context_tokens:,} tokens is full)")
    elif finished == "refused":
        assert session.verdict is not None
        found = session.verdict.subcategory or session.verdict.category
        tell(f"(refused: {found})")
    if session.num_dropped:
        tell(f"(answered without the oldest {session.num_dropped} messages: the context is full)")


@contextmanager
def _interrupts() -> Iterator[list[bool]]:
    """A list that gets an entry at the first Ctrl-C; the second one raises KeyboardInterrupt.

    An exception could come between two layers, and leave the model's cache in pieces.
    """
    seen: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
