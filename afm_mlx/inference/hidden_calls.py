"""Calls of tools, kept out of the text that is shown while an answer comes in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afm_mlx.inference.answers import overlap

if TYPE_CHECKING:
    from afm_mlx.inference.tools import ToolFormat


class HiddenCalls:
    """What of an answer is text: `add` and `end` give back what may be shown."""

    def __init__(self, format: ToolFormat | None) -> None:
        """`format` is how the model writes calls; None: all is text."""
        self._format = format
        self._held = ""  # may be the start of a mark
        self._inside = False
        self.found = False
        """Whether there was a call."""

    def add(self, text: str) -> str:
        """Take the next piece; what may be shown now."""
        if self._format is None:
            return text
        self._held += text
        shown = ""
        while True:
            mark = self._format.end if self._inside else self._format.start
            before, found, after = self._held.partition(mark) if mark else (self._held, "", "")
            if not found:
                break
            shown += "" if self._inside else before
            self._held, self._inside, self.found = after, not self._inside, True
        cut = len(self._held) - overlap(self._held, [mark]) if mark else len(self._held)
        certain, self._held = self._held[:cut], self._held[cut:]
        return shown + ("" if self._inside else certain)

    def end(self) -> str:
        """The rest, when the answer is over."""
        rest, self._held = ("" if self._inside else self._held), ""
        return rest
