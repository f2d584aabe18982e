"""What a long job tells: a live line on a terminal, plain lines elsewhere, and JSON lines.

Everything goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 60.0  # where lines cannot be rewritten; ours


class Progress:
    """Tells how a job is going. `log_json` also gets every record as a line of JSON."""

    def __init__(self, stream: TextIO | None = None, log_json: Path | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._log = log_json.open("a", encoding="utf-8") if log_json else None
        self._width = 0
        self._last = 0.0

    def close(self) -> None:
        """End the live line, and close the JSON log, if there is one."""
        if self._width:  # else what comes next would stand behind it
            self._stream.write("\n")
            self._width = 0
        if self._log:
            self._log.close()

    def say(self, line: str) -> None:
        """Print one line that stays."""
        self._clear()
        self._stream.write(line + "\n")
        self._stream.flush()

    def status(self, line: str, *, last: bool = False) -> None:
        """Show where the job stands: rewritten in place, or a plain line a minute."""
        now = time.monotonic()
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))
            self._stream.flush()
            self._width = len(line)
            if last:
                self._stream.write("\n")
                self._width = 0
        elif last or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self.say(line)

    def record(self, record: dict[str, Any]) -> None:
        """Append one record to the JSON log, if there is one."""
        if self._log:
            try:
                self._log.write(json.dumps(record) + "\n")
                self._log.flush()
            except OSError as error:  # a full disk comes without the file's name
                error.filename = error.filename or self._log.name
                raise

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


class Silence(Progress):
    """Tells nothing: for a process that works beside the one that tells."""

    def __init__(self) -> None:
        super().__init__(stream=sys.stderr)

    def say(self, line: str) -> None:
        """Print nothing."""

    def status(self, line: str, *, last: bool = False) -> None:
        """Show nothing."""


def bar(done: int, total: int, width: int = 20) -> str:
    """A bar of text: `[#####.....]`."""
    filled = width * done // max(total, 1)
    return "[" + "#" * filled + "." * (width - filled) + "]"


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `3 min 20 s`, `5 h 10 min`, `12 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"
