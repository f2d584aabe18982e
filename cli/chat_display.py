"""How an answer is shown as it comes: as Markdown in a terminal, else as it is."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.live import Live

REFRESHES_PER_SECOND = 12
"""Of the paragraph that is being written. Ours."""

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
"""A line that begins or ends a block of code."""


class PlainAnswer:
    """Prints text as it comes."""

    def add(self, text: str) -> None:
        """Show the next piece."""
        typer.echo(text, nl=False)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Show a line that is not of the answer, such as a call of a tool."""
        typer.echo(f"\n[{text}]")

    def close(self) -> None:
        """The answer is over."""
        typer.echo()


class MarkdownAnswer:
    """Renders Markdown: finished paragraphs for good, the one in work again and again."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._tail = ""
        self._live: Live | None = None

    def add(self, text: str) -> None:
        """Show the next piece."""
        from rich.markdown import Markdown

        self._tail += text
        done, self._tail = finished_blocks(self._tail)
        if done:
            self._stop()
            self._print(done)
        self._started().update(Markdown(self._tail))

    def note(self, text: str) -> None:
        """Show a line that is not of the answer, such as a call of a tool."""
        from rich.text import Text

        self.close()
        self._console.print(Text(text, style="dim"))

    def close(self) -> None:
        """The answer, or a part of it, is over."""
        self._stop()
        self._print(self._tail)
        self._tail = ""

    def _started(self) -> Live:
        from rich.live import Live

        if self._live is None:
            # Transient: the paragraph is printed for good when it is whole. One that is higher
            # than the window is cut until then.
            self._live = Live(
                console=self._console, transient=True, refresh_per_second=REFRESHES_PER_SECOND
            )
            self._live.start()
        return self._live

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
