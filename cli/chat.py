"""`afm chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from afm_mlx.errors import AfmError

from .models_io import open_engine
from .options import (
    MAX_TOKENS,
    RUNS,
    MaxTokensFlag,
    RunsFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    TopPFlag,
)
from .terminal import show_error, tell

if TYPE_CHECKING:
    from afm_mlx.inference.chat import Session
    from afm_mlx.inference.engine import Chunk

CHAT_TEMPERATURE = 0.3
"""The likeliest token each time soon repeats itself, and a retry would change nothing. Ours."""

CHAT_TOP_P = 0.9
"""Ours."""

PROMPT = "> "
HISTORY_LINES = 1_000


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
    max_tokens: MaxTokensFlag = MAX_TOKENS,
    temperature: TemperatureFlag = CHAT_TEMPERATURE,
    top_p: TopPFlag = CHAT_TOP_P,
    seed: SeedFlag = 0,
    runs: RunsFlag = RUNS,
) -> None:
    """Talk with a model. Type /help there for what else it understands."""
    from afm_mlx.inference.chat import Session

    engine = open_engine(model, runs, adapter)
    session = Session(engine, max_tokens, temperature, top_p, system, seed)
    if not engine.is_chat:
        tell("this model is not trained to chat: it continues what you type")
    with _questions() as questions:
        for line in questions:
            if not _respond(session, line):
                break


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


def _show(session: Session, answer: Generator[Chunk, None, None]) -> None:
    """Print an answer as it comes. Ctrl-C ends it after the token in work."""
    finished = None
    with contextlib.closing(answer), _interrupts() as interrupted:
        for chunk in answer:
            typer.echo(chunk.text, nl=False)
            sys.stdout.flush()
            finished = chunk.finished
            if interrupted:
                break
    typer.echo()
    if interrupted and finished is None:
        tell("(stopped)")
    elif finished == "length":
        tell(f"(stopped at {session.max_tokens:,} tokens; --max-tokens allows more)")
    elif finished == "context":
        tell(f"(stopped: the context of {session.engine.context_tokens:,} tokens is full)")
    if session.num_dropped:
        tell(f"(answered without the oldest {session.num_dropped} messages: the context is full)")


@contextlib.contextmanager
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


@contextlib.contextmanager
def _questions() -> Iterator[Iterator[str]]:
    """Lines that the user types, or that come through a pipe."""
    if not sys.stdin.isatty():
        yield (line.rstrip("\n") for line in sys.stdin)
        return
    tell("/help for commands, Ctrl-C stops an answer, Ctrl-D leaves")
    with _history():
        yield _typed()


def _typed() -> Iterator[str]:
    while True:
        try:
            if not sys.stdout.isatty():  # input() would print the prompt into the answers
                sys.stderr.write(PROMPT)
                sys.stderr.flush()
            yield input(PROMPT if sys.stdout.isatty() else "")
        except EOFError:
            typer.echo(err=True)
            return
        except KeyboardInterrupt:
            typer.echo(err=True)
            tell("Ctrl-D or /quit leaves")


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing, and what was typed in earlier conversations, where Python has readline."""
    from afm_mlx.zoo import cache_folder

    try:
        import readline
    except ImportError:
        yield
        return
    file = cache_folder() / "chat_history"
    with contextlib.suppress(OSError):  # no history yet, or one of another kind of readline
        readline.read_history_file(file)
    try:
        yield
    finally:
        _save_history(readline, file)


def _save_history(readline: ModuleType, file: Path) -> None:
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to fail
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(file)
