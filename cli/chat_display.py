"""How an answer is shown as it comes: as Markdown in a terminal, else as it is."""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

if TYPE_CHECKING:
    from rich.live import Live

REFRESHES_PER_SECOND = 12
"""Of the paragraph that is being written. Ours."""

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
"""A line that begins or ends a block of code."""


class PlainAnswer:
    """Prints text as it comes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        typer.echo()

    def add(self, text: str) -> None:
        """Show the next piece."""
        typer.echo(text, nl=False)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Show a line that is not of the answer, such as a call of a tool."""
        typer.echo(f"\n[{text}]")


class MarkdownAnswer:
    """Renders Markdown: finished paragraphs for good, the one in work again and again."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._tail = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._print(self._tail)
        self._tail = ""

    def add(self, text: str) -> None:
        """Show the next piece."""
        from rich.markdown import Markdown

        self._tail += text
        done, self._tail = finished_blocks(self._tail)
        if done:
            self._stop()
            self._print(done)
            self._start()
        assert self._live is not None
        self._live.update(Markdown(self._tail))

    def note(self, text: str) -> None:
        """Show a line that is not of the answer, such as a call of a tool."""
        from rich.text import Text

        self._stop()
        self._print(self._tail)
        self._tail = ""
        self._console.print(Text(text, style="dim"))
        self._start()

    def _start(self) -> None:
        from rich.live import Live

        # Transient: the paragraph is printed for good when it is whole. One that is higher than
        # the window is cut until then.
        self._live = Live(
            console=self._console, transient=True, refresh_per_second=REFRESHES_PER_SECOND
        )
        self._live.start()

    def _stop(self) -> None:
        from rich.text import Text

        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        from rich.markdown import Markdown

        if text.strip():
            self._console.print(Markdown(text))
            self._console.print()


def finished_blocks(text: str) -> tuple[str, str]:
    """Cut Markdown behind its last blank line that is in no block of code; either may be empty.

    A list whose items have blank lines between them is cut there, and shows the same.
    """
    cut = 0
    for place in re.finditer(r"\n[ \t]*\n", text):
        if len(FENCE.findall(text[: place.end()])) % 2 == 0:
            cut = place.end()
    return text[:cut], text[cut:]


def shown_answer() -> PlainAnswer | MarkdownAnswer:
    """How answers are shown here: rendered where somebody looks at a terminal."""
    return MarkdownAnswer() if sys.stdout.isatty() and sys.stdin.isatty() else PlainAnswer()
