"""What is asked: lines through a pipe, or what a user types, with history and several lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import typer

from .terminal import tell

PROMPT = "> "
CONTINUED = "  "


def questions(commands: Sequence[str]) -> Iterator[str]:
    """Questions and commands, until there are no more.

    Args:
        commands: words to complete, such as `/help`.
    """
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.rstrip("\n")
        return
    tell("/help for commands, Alt-Enter for a new line, Ctrl-C stops an answer, Ctrl-D leaves")
    yield from _typed(commands)


def _typed(commands: Sequence[str]) -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    from afm_mlx.zoo import cache_folder

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")  # Alt-Enter
    @keys.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history: History = InMemoryHistory()
    with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to fail
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "chat_questions", "a"):
            history = FileHistory(str(folder / "chat_questions"))
    # The prompt goes to stderr where the answers go to a file.
    output = create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr)
    session: PromptSession[str] = PromptSession(
        history=history,
        key_bindings=keys,
        multiline=True,
        prompt_continuation=CONTINUED,
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        output=output,
    )
    while True:
        try:
            yield session.prompt(PROMPT)
        except EOFError:
            return
        except KeyboardInterrupt:
            typer.echo(err=True)
            tell("Ctrl-D or /quit leaves")
