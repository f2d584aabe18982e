"""What a launcher tells each process that it starts: environment variables, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

RANKS = "AFM_RANKS"
"""What ranks there are: a `Together` as text. A process that has it is one of several."""

LIFELINE = "AFM_LIFELINE"
"""Number of a file descriptor by which the launcher asks for things: see `launch.rank`."""

BEATS = "AFM_BEATS"
"""Seconds of silence on the lifeline after which the launcher's machine counts as gone."""

STDERR = "AFM_STDERR"
"""Number of a file descriptor that is the launcher's own stderr."""


@dataclass(frozen=True)
class Together:
    """The ranks that a process is one of."""

    hosts: tuple[str, ...]
    """Machine of each rank; as many as there are ranks."""
    backend: str
    """Who carries messages, as `mx.distributed.init` calls it."""
    files: Mapping[str, str]
    """Texts of files that MLX reads, by the variables that name the files."""

    def text(self) -> str:
        """The value of `RANKS`."""
        return json.dumps({"hosts": self.hosts, "backend": self.backend, "files": dict(self.files)})

    @classmethod
    def of(cls, text: str) -> Together:
        """What `text` makes."""
        found = json.loads(text)
        return cls(tuple(found["hosts"]), found["backend"], found["files"])
