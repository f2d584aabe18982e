"""What a crawl writes: archives of pages, and a log of every decision."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afm_mlx.artifact import writing
from afm_mlx.corpus.crawl.fetch import Answer
from afm_mlx.corpus.crawl.frontier import Address, Frontier
from afm_mlx.corpus.crawl.robots import Decision
from afm_mlx.corpus.web.warc_writer import WarcWriter
from afm_mlx.settings.web import Crawl


class Output:
    """The archives and the log, as long as the frontier says."""

    def __init__(self, out: Path, frontier: Frontier, settings: Crawl) -> None:
        self.out, self.frontier, self.settings = out, frontier, settings
        self.number = frontier.fact("archive", 0)
        for later in out.glob("pages-*.warc.gz"):
            if int(later.name[6:11]) > self.number:
                later.unlink()
        self.archive = self._open(frontier.fact("archive_bytes", 0))
        self.log_path = out / "log.jsonl"
        self.log = self.log_path.open("ab")
        self.log.truncate(frontier.fact("log_bytes", 0))

    def close(self) -> None:
        """Close the files."""
        self.archive.close()
        self.log.close()

    def save(
        self, page: Address, answer: Answer, body: bytes, decision: Decision, when: str
    ) -> dict[str, Any]:
        """Append a page to the archive; returns where it is, for the log."""
        if self.archive.size >= self.settings.warc_bytes:
            self.archive.close()
            self.number += 1
            self.archive = self._open(0)
        offset, length = self.archive.write_response(
            page.url,
            date=when,
            status_line=answer.line,
            headers=answer.headers,
            body=body,
            group=decision.group,
            train=decision.train,
        )
        self.archive.sync()
        self.frontier.keep("saved", self.frontier.fact("saved", 0) + 1)
        return {"file": self.archive.path.name, "offset": offset, "length": length}

    def note(self, line: dict[str, Any]) -> None:
        """Append a line to the log, and tell the frontier how long the files are."""
        with writing(self.log_path):
            self.log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self.log.flush()
            os.fsync(self.log.fileno())
        self.frontier.keep("log_bytes", self.log.tell())
        self.frontier.keep("archive", self.number)
        self.frontier.keep("archive_bytes", self.archive.size)

    def _open(self, length: int) -> WarcWriter:
        archive = WarcWriter(self.out / f"pages-{self.number:05d}.warc.gz", length=length)
        if not archive.size:
            groups = ", ".join(self.settings.groups)
            fields = {
                "software": "afm_mlx",
                "format": "WARC File Format 1.1",
                "operator": self.settings.contact,
                "http-header-user-agent": self.settings.user_agent,
                "robots": f"RFC 9309, {self.settings.robots}, groups {groups}",
            }
            archive.write_info(fields, date=now())
        return archive


def now() -> str:
    """The time, as archives write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
