"""What a crawl has found, asked for and finished, on disk."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from afm_mlx.errors import RunError


@dataclass(frozen=True)
class Address:
    """An address on its way."""

    id: int
    url: str
    host: str
    """With its port, if that is not the usual one."""
    depth: int
    """Links between it and the nearest seed."""
    hops: int
    """Redirects, or sitemaps in sitemaps, that led to it."""
    sitemap: bool
    """Whether it is a sitemap and no page."""


class Frontier:
    """What a crawl knows, in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        # A power failure may lose the last pages of the state; never its order with the archives,
        # which are on disk before.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(
            """
            CREATE TABLE IF NOT EXISTS page (
                id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, host TEXT NOT NULL,
                depth INTEGER NOT NULL, hops INTEGER NOT NULL, sitemap INTEGER NOT NULL,
                outcome TEXT, asked INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0);
            CREATE INDEX IF NOT EXISTS waiting ON page (host, depth, id) WHERE outcome IS NULL;
            CREATE TABLE IF NOT EXISTS robots (
                origin TEXT PRIMARY KEY, fetched REAL NOT NULL, status INTEGER, body BLOB NOT NULL);
            CREATE TABLE IF NOT EXISTS host (name TEXT PRIMARY KEY, asked REAL NOT NULL);
            CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value NOT NULL);
            """
        )

    def close(self) -> None:
        """Close without finishing what is not committed."""
        self._database.close()

    def commit(self) -> None:
        """Finish everything since the last commit, at once."""
        self._database.commit()

    def claim(self, claim: dict[str, Any]) -> None:
        """Hold the folder for one crawl; RunError when it is another's."""
        held = json.loads(self.fact("claim", "{}"))
        for name in claim:
            if held and held.get(name) != claim[name]:
                raise RunError(
                    "the folder holds a crawl "
                    + (
                        "that started from other seeds"
                        if name == "seeds"  # there may be thousands
                        else f"whose {name} is {held.get(name)}, not {claim[name]}"
                    ),
                    hint="name another folder, or the same seeds and settings",
                )
        self.keep("claim", json.dumps(claim))

    def fact(self, name: str, default: Any) -> Any:
        """A value that was kept."""
        row = self._database.execute("SELECT value FROM fact WHERE name = ?", [name]).fetchone()
        return row[0] if row else default

    def keep(self, name: str, value: Any) -> None:
        """Keep a value."""
        self._database.execute("REPLACE INTO fact VALUES (?, ?)", [name, value])

    def add(
        self, urls: Iterable[str], *, depth: int, hops: int = 0, sitemap: bool = False
    ) -> list[str]:
        """Addresses to fetch, but for those known; returns their hosts."""
        rows = [(url, urlsplit(url).netloc, depth, hops, sitemap) for url in urls]
        self._database.executemany(
            "INSERT INTO page (url, host, depth, hops, sitemap) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (url) DO UPDATE SET depth = min(depth, excluded.depth)"
            " WHERE outcome IS NULL",
            rows,
        )
        return list(dict.fromkeys(row[1] for row in rows))

    def hosts(self) -> list[str]:
        """Hosts with addresses to fetch."""
        found = self._database.execute("SELECT DISTINCT host FROM page WHERE outcome IS NULL")
        return [host for (host,) in found]

    def next(self, host: str) -> Address | None:
        """The address of a host to fetch next: nearest to the seeds, then first found."""
        row = self._database.execute(
            "SELECT id, url, host, depth, hops, sitemap FROM page"
            " WHERE outcome IS NULL AND host = ? ORDER BY depth, id LIMIT 1",
            [host],
        ).fetchone()
        return Address(*row) if row else None

    def finish(self, page: Address, outcome: str, *, asked: bool, size: int) -> None:
        """Note what became of an address."""
        self._database.execute(
            "UPDATE page SET outcome = ?, asked = ?, bytes = ? WHERE id = ?",
            [outcome, asked, size, page.id],
        )

    def asked(self, host: str) -> float:
        """When a host was last asked for anything, in seconds since 1970; 0 for never."""
        row = self._database.execute("SELECT asked FROM host WHERE name = ?", [host]).fetchone()
        return float(row[0]) if row else 0.0

    def ask(self, host: str, when: float) -> None:
        """Note that a host was asked."""
        self._database.execute("REPLACE INTO host VALUES (?, ?)", [host, when])

    def robots(self, origin: str) -> tuple[float, int | None, bytes] | None:
        """When robots.txt was fetched, its status and content."""
        row: tuple[float, int | None, bytes] | None = self._database.execute(
            "SELECT fetched, status, body FROM robots WHERE origin = ?", [origin]
        ).fetchone()
        return row

    def keep_robots(self, origin: str, fetched: float, status: int | None, body: bytes) -> None:
        """Keep a robots.txt."""
        self._database.execute(
            "REPLACE INTO robots VALUES (?, ?, ?, ?)", [origin, fetched, status, body]
        )

    def asked_by_host(self) -> Counter[str]:
        """Pages that each host was asked for."""
        found = self._database.execute(
            "SELECT host, sum(asked) FROM page WHERE outcome IS NOT NULL GROUP BY host"
        )
        return Counter(dict(found))

    def metrics(self) -> dict[str, Any]:
        """Counts since the crawl's first start."""
        outcomes = dict(
            self._database.execute(
                "SELECT outcome, count(*) FROM page WHERE outcome IS NOT NULL"
                " GROUP BY outcome ORDER BY outcome"
            )
        )
        pages, size, hosts, left = self._database.execute(
            "SELECT total(asked), total(bytes), count(DISTINCT host), total(outcome IS NULL)"
            " FROM page"
        ).fetchone()
        saved = self.fact("saved", 0)
        return {
            "pages": int(pages),
            "saved": saved,
            "bytes": int(size),
            "hosts": hosts,
            "left": int(left),
            "outcomes": outcomes,
        }
