"""Commands that change a conversation, as they are typed.

Nothing here reads or writes a terminal: `cli/chat.py` does, and others may.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.decoder.adapters import NONE
from afm_mlx.errors import DataError
from afm_mlx.inference.schema_files import read_schema
from afm_mlx.inference.session import Piece, Session
from afm_mlx.inference.tool_files import tools_of_file
from afm_mlx.settings.mistakes import nearest

NOTHING = "-"
"""An argument that takes away what an earlier one set."""


@dataclass(frozen=True)
class Outcome:
    """What a command leads to."""

    text: str = ""
    """To show."""
    answer: Generator[Piece, None, None] | None = None
    """An answer to show, piece by piece."""
    quits: bool = False
    """The conversation is over."""


@dataclass(frozen=True)
class Command:
    """A line that starts with a slash."""

    argument: str
    """What follows the name, for the help; "" for nothing."""
    about: str
    """What it does, for the help."""
    run: Callable[[Session, str], Outcome]
    """Does it: the session, and what followed the name."""


def run_command(session: Session, line: str) -> Outcome:
    """Do what a line that starts with a slash asks for.

    Raises:
        DataError: there is no such command, or it lacks its argument, or it failed.
    """
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = nearest(name, COMMANDS)
        raise DataError(
            f"there is no command {name}", hint=f"did you mean {near}?" if near else "try /help"
        )
    return command.run(session, argument.strip())


def help_text() -> str:
    """One line per command."""
    rows = [(f"{name} {command.argument}".strip(), command) for name, command in COMMANDS.items()]
    width = max(len(shown) for shown, _ in rows)
    return "\n".join(f"{shown:{width}}  {command.about}" for shown, command in rows)


def _clear(session: Session, argument: str) -> Outcome:
    session.clear()
    return Outcome("forgotten; the system prompt stays" if session.instructions else "forgotten")


def _system(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(f"system prompt: {session.instructions or '(none)'}")
    session.instructions = "" if argument == NOTHING else argument
    return Outcome("system prompt set" if session.instructions else "system prompt removed")


def _tools(session: Session, argument: str) -> Outcome:
    if argument:
        session.tools = [] if argument == NOTHING else tools_of_file(Path(argument).expanduser())
    return Outcome(f"tools: {', '.join(tool.name for tool in session.tools) or '(none)'}")


def _schema(session: Session, argument: str) -> Outcome:
    if argument == NOTHING:
        session.form = None
    elif argument:
        session.form = session.form_of(read_schema(Path(argument).expanduser()))
    return Outcome(f"answers are {'of the schema' if session.form else 'free text'}")


def _adapter(session: Session, argument: str) -> Outcome:
    held = session.engine.adapters
    if argument:
        session.engine.use_adapter(None if argument == NONE else argument)
        return Outcome(f"adapter: {argument}")
    shown = f"of {', '.join(held.names)}" if held.names else "none is loaded; --adapter loads one"
    return Outcome(f"adapter: {held.active or NONE} ({shown})")


def _save(session: Session, argument: str) -> Outcome:
    if not argument:
        raise DataError("/save needs a file name", hint="/save talk.json")
    session.save(Path(argument))
    return Outcome(f"saved {len(session.messages)} messages to {argument}")


def _stats(session: Session, argument: str) -> Outcome:
    stats = session.engine.stats
    if not stats.prompt_tokens:
        return Outcome("nothing has been asked yet")
    used = stats.prompt_tokens + stats.answer_tokens
    context = session.engine.context_tokens
    return Outcome(f"{stats}\n{used:,} of {context:,} tokens of context used")


COMMANDS: dict[str, Command] = {
    "/help": Command("", "this list", lambda session, argument: Outcome(help_text())),
    "/clear": Command("", "forget the conversation", _clear),
    "/system": Command("TEXT", "set the system prompt; - for none, nothing to see it", _system),
    "/tools": Command(
        "FILE", "functions of a Python file that the model may call; - for none", _tools
    ),
    "/schema": Command("FILE", "JSON Schema that answers must have; - for none", _schema),
    "/adapter": Command(
        "NAME",
        "answer with another adapter; none for the model itself, nothing to see it",
        _adapter,
    ),
    "/retry": Command(
        "", "answer again, differently", lambda session, argument: Outcome(answer=session.retry())
    ),
    "/save": Command("FILE", "write the conversation as JSON", _save),
    "/stats": Command("", "tokens, speed and memory of the last answer", _stats),
    "/quit": Command("", "leave; Ctrl-D does, too", lambda session, argument: Outcome(quits=True)),
}
"""The commands, in the order of the help."""
