"""A conversation with a model: its messages, and the commands that change them.

Nothing here reads or writes a terminal: `cli/chat.py` does, and others may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from afm_mlx.decoder.adapters import NONE
from afm_mlx.errors import DataError
from afm_mlx.inference.engine import Chunk, Engine

ANSWER_SHARE = 0.25
"""Share of the context that is kept free for an answer, where `max_tokens` is more. Ours."""


@dataclass
class Session:
    """One conversation. Iterate over what `ask` and `retry` return to get the answer."""

    engine: Engine
    max_tokens: int
    """Longest answer, in tokens."""
    temperature: float = 0.0
    top_p: float = 1.0
    system: str = ""
    """System prompt; "" leaves it to the chat template."""
    seed: int = 0
    """Each answer draws with the seed after that of the answer before."""
    messages: list[dict[str, str]] = field(default_factory=list)
    """Turns so far: user and assistant in alternation, without the system prompt."""
    num_dropped: int = 0
    """Oldest messages that the last answer was given without: they do not fit the context."""
    num_answers: int = 0
    """Answers begun so far, retries included."""

    def ask(self, text: str) -> Generator[Chunk, None, None]:
        """Say something, and get the answer in pieces.

        Whatever was said when the iterator is closed counts as the answer, so an answer that is
        stopped stays part of the conversation. A question without any answer leaves no trace.

        Raises:
            DataError: the question alone does not fit the model's context.
        """
        self.messages.append({"role": "user", "content": text})
        return self._answer()

    def retry(self) -> Generator[Chunk, None, None]:
        """Answer the last question again, with other random choices.

        Raises:
            DataError: nothing has been asked yet.
        """
        if not self.messages:
            raise DataError("there is no question to answer again")
        if self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return self._answer()

    def clear(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self.messages.clear()

    def transcript(self) -> list[dict[str, str]]:
        """All messages, the system prompt first if there is one."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return first + self.messages

    def save(self, file: Path) -> None:
        """Write the conversation as JSON, `{"messages": [...]}`: one line of training data.

        Raises:
            DataError: the file cannot be written.
        """
        text = json.dumps({"messages": self.transcript()}, ensure_ascii=False) + "\n"
        try:
            file.expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            described = (error.strerror or str(error)).lower()
            raise DataError(f"cannot write {file}: {described}") from error

    def _answer(self) -> Generator[Chunk, None, None]:
        said: list[str] = []
        try:
            prompt = self._fitting()
            seed = self.seed + self.num_answers
            self.num_answers += 1
            for chunk in self.engine.stream(
                prompt,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=seed,
            ):
                said.append(chunk.text)
                yield chunk
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self.messages.pop()  # the question: it has no answer

    def _fitting(self) -> list[dict[str, str]]:
        """The transcript, without the oldest turns if the context cannot hold all."""
        context = self.engine.context_tokens
        reserved = min(self.max_tokens, int(context * ANSWER_SHARE))
        whole = self.transcript()
        start = len(whole) - len(self.messages)
        self.num_dropped = 0
        while True:
            prompt = whole[:start] + whole[start + self.num_dropped :]
            oldest_are_left = len(prompt) - start > 2
            if not oldest_are_left or len(self.engine.prompt_ids(prompt)) + reserved <= context:
                return prompt
            self.num_dropped += 2


@dataclass(frozen=True)
class Outcome:
    """What a command leads to."""

    text: str = ""
    """To show."""
    answer: Generator[Chunk, None, None] | None = None
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
        from afm_mlx.recipe import nearest

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
    return Outcome("forgotten; the system prompt stays" if session.system else "forgotten")


def _system(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(f"system prompt: {session.system or '(none)'}")
    session.system = "" if argument == "-" else argument
    return Outcome("system prompt set" if session.system else "system prompt removed")


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
