"""A polite crawler: from seeds to WARC archives and a log of every decision.

    out/
        pages-00000.warc.gz   the pages, of up to `warc_bytes` each
        log.jsonl             a line per address: when, which group decided, what, and why
        state.sqlite          what is known, done, and written; a killed crawl goes on from here

One host gets one request at a time, and at least the delay that it asks for in between. A page is
finished by one transaction, which holds the links it added and the lengths of the archive and of
the log; what these files have beyond was not finished, and is cut off when the crawl goes on. So a
kill loses nothing, and only the pages then on their way are asked for again.
"""

from __future__ import annotations

import asyncio
import html
import http.client
import ipaddress
import json
import os
import re
import socket
import sqlite3
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from afm_mlx.artifact import locked, writing
from afm_mlx.corpus.web.robots import MAX_ROBOTS_BYTES, Decision, PageRules, Robots, page_rules
from afm_mlx.corpus.web.warc import (
    HTML_TYPES,
    Unusable,
    WarcWriter,
    media_type,
    page_text,
    plain_body,
    values,
)
from afm_mlx.errors import DataError, RunError
from afm_mlx.progress import Progress
from afm_mlx.settings.web import Crawl, Scope, Warc

MAX_URL_CHARACTERS = 2_048  # longer addresses are most often traps; ours
MAX_SITEMAP_BYTES = 50 * 2**20  # Source: sitemaps.org, protocol
MAX_ROBOTS_REDIRECTS = 5  # Source: RFC 9309, section 2.3.1.2

_NO_RULES = PageRules(True, True, "")
_PIECE_BYTES = 2**16  # read at once from a connection; ours
_MAY_PASS = ("timeout", "no connection", 429, 500, 502, 503, 504)  # worth another try
_REDIRECTS = (301, 302, 303, 307, 308)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_LOCATION = re.compile(rb"<loc>\s*(?:<!\[CDATA\[)?\s*([^<\]]{1,2200})", re.I)
# Settings that a crawl keeps when it goes on: they decide what is found, and what is saved.
_DECIDING = (
    *("scope", "max_depth", "product", "groups", "training_groups", "obey_everyone"),
    *("sitemaps", "pages", "save_untrainable"),
)


def crawl(seeds: Sequence[str], out: Path, settings: Crawl, progress: Progress) -> dict[str, Any]:
    """Fetch what can be reached from `seeds`, into `out`; goes on with a crawl that was stopped.

    Only pages that may be trained on are saved, unless `settings.save_untrainable`; all are logged.

    Args:
        seeds: http and https addresses to start from.
        out: folder to make, or of the same crawl.
        settings: what to fetch, and how politely.
        progress: told how it goes.

    Returns:
        `pages` fetched, `saved`, `bytes` received, `hosts`, `left` (found and not yet asked for,
        when a limit ended the crawl), `outcomes` by name, all since the crawl's first start; and
        `seconds` of this run.

    Raises:
        DataError: a seed is no web address, or a package is missing.
        RunError: `out` holds a crawl with other seeds or settings, or another process is in it.
        KeyboardInterrupt: interrupted, with everything finished so far on disk.
    """
    started = time.monotonic()
    starts = [_seed(url) for url in seeds]
    if not starts:
        raise DataError("no seeds", hint="name at least one address to start from")
    Robots("")  # a missing package is told before anything is written
    _html_tree()
    with locked(out), closing(_Frontier(out / "state.sqlite")) as frontier:
        frontier.claim(_claim(starts, settings))
        frontier.add(starts, depth=0)
        frontier.commit()
        with closing(_Output(out, frontier, settings)) as output:
            crawler = _Crawler(frontier, output, starts, settings, progress)
            try:
                asyncio.run(crawler.run())
            except BaseExceptionGroup as group:
                raise _first(group) from None
            except KeyboardInterrupt:
                progress.say("interrupted: the same command goes on from here")
                raise
        return {**frontier.metrics(), "seconds": time.monotonic() - started}


def normalize_url(url: str, base: str = "") -> str | None:
    """One spelling of an address, without its fragment; None when it is no web address.

    Lower-case scheme and host, no default port or user, no dot segments, and percent-escapes in
    upper case and only where needed. Source: RFC 3986, section 6.2.2 and 6.2.3.

    Args:
        url: an address, or with `base` a reference as in a link.
        base: address of the page that holds it.
    """
    try:
        parts = urlsplit(urljoin(base, re.sub(r"[\t\r\n]", "", url).strip()))
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:  # also of IDNA
        return None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9._:-]+", host):
        return None
    host = f"[{host}]" if ":" in host else host
    if port and port != {"http": 80, "https": 443}[parts.scheme]:
        host += f":{port}"
    query = "?" + _escaped(parts.query) if parts.query else ""
    normal = f"{parts.scheme}://{host}{_escaped(_without_dots(parts.path))}{query}"
    return normal if len(normal) <= MAX_URL_CHARACTERS else None


def _without_dots(path: str) -> str:
    kept: list[str] = []
    for part in (parts := path.split("/")[1:]):
        if part == "..":
            kept[-1:] = []
        elif part != ".":
            kept.append(part)
    if parts and parts[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _escaped(text: str) -> str:
    def plain(escape: re.Match[str]) -> str:
        character = chr(int(escape[1], 16))
        return character if _UNRESERVED.fullmatch(character) else escape[0].upper()

    quoted = quote(text, safe="%/:=&?~+!$,;'@()*", errors="replace")
    return re.sub(r"%([0-9a-fA-F]{2})", plain, quoted)


def page_links(page: str, url: str) -> list[str]:
    """Normalized addresses that a page links to, in order, each once; not those with `nofollow`."""
    tree = _html_tree().parse(page)
    base, found = url, dict[str, None]()
    for node in tree.document.query_selector_all("base[href], a[href], area[href]"):
        target = node.getattr("href") or ""
        if node.tag == "base":
            base = normalize_url(target, url) or base
        elif "nofollow" in (node.getattr("rel") or "").lower().split():
            continue
        elif link := normalize_url(target, base):
            found[link] = None
    return list(found)


@dataclass(frozen=True)
class _Page:
    """An address on its way."""

    id: int
    url: str
    host: str
    depth: int
    hops: int
    sitemap: bool


@dataclass(frozen=True)
class _Answer:
    """What a host said."""

    status: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes
    too_long: bool = False
    """Whether the body is cut at the most that was asked for."""


@dataclass(frozen=True)
class _Content:
    """What an answer is, worked out off the event loop."""

    body: bytes = b""
    rules: PageRules = _NO_RULES
    links: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    unusable: str = ""


_Reader = Callable[[_Answer], _Content]


class _Request:
    """One GET in a thread, which the event loop can end at any time."""

    def __init__(
        self, url: str, settings: Crawl, *, max_bytes: int, wanted: Sequence[str], private: bool
    ) -> None:
        self.url, self.settings, self.private = url, settings, private
        self.max_bytes, self.wanted = max_bytes, wanted
        self._socket: socket.socket | None = None
        self.ended = False

    def run(self) -> _Answer:
        """The host's answer, without following redirects.

        Raises:
            OSError: no connection, or it broke or was ended.
            http.client.HTTPException: the answer is no HTTP.
            Unusable: the host is inside this machine's own network, and no seed is.
        """
        parts = urlsplit(self.url)
        seconds = self.settings.timeout_seconds
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=_tls())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=seconds)
        )
        with closing(connection):
            connection.connect()
            self._socket = connection.sock
            if self.ended:
                raise TimeoutError
            address = connection.sock.getpeername()[0].partition("%")[0]
            if not self.private and not ipaddress.ip_address(address).is_global:
                raise Unusable("private address")
            connection.request("GET", self.url.split(parts.netloc, 1)[1], headers=self._headers())
            with connection.getresponse() as response:
                return self._read(response)

    def end(self) -> None:
        """Make a blocked `run` fail now; after its end, nothing."""
        self.ended = True
        if self._socket is not None:
            try:  # the plain socket's: an encrypted one would wait to say goodbye
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                return

    def _headers(self) -> dict[str, str]:
        return {
            "User-Agent": self.settings.user_agent,
            "Accept": ", ".join(self.wanted) or "*/*",
            "Accept-Encoding": "gzip",
            "Connection": "close",
        }

    def _read(self, response: http.client.HTTPResponse) -> _Answer:
        headers = response.getheaders()
        version = "1.0" if response.version == 10 else "1.1"
        line = f"HTTP/{version} {response.status} {response.reason}"
        kind = media_type(headers)
        if response.status != 200 or (self.wanted and kind and kind not in self.wanted):
            return _Answer(response.status, line, headers, b"")
        body = bytearray()
        while piece := response.read(_PIECE_BYTES):  # read1 counts no bytes before Python 3.12
            body += piece
            if len(body) > self.max_bytes:
                return _Answer(200, line, headers, bytes(body[: self.max_bytes]), too_long=True)
        if response.length or self.ended:
            raise ConnectionError("the answer was cut")
        return _Answer(200, line, headers, bytes(body))


class _Frontier:
    """What a crawl has found, asked for, and finished, on disk."""

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

    def next(self, host: str) -> _Page | None:
        """The address of a host to fetch next: nearest to the seeds, then first found."""
        row = self._database.execute(
            "SELECT id, url, host, depth, hops, sitemap FROM page"
            " WHERE outcome IS NULL AND host = ? ORDER BY depth, id LIMIT 1",
            [host],
        ).fetchone()
        return _Page(*row) if row else None

    def finish(self, page: _Page, outcome: str, *, asked: bool, size: int) -> None:
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


class _Output:
    """The archives and the log, as long as the frontier says."""

    def __init__(self, out: Path, frontier: _Frontier, settings: Crawl) -> None:
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
        self, page: _Page, answer: _Answer, body: bytes, decision: Decision, when: str
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
            fields = {
                "software": "afm_mlx",
                "format": "WARC File Format 1.1",
                "operator": self.settings.contact,
                "http-header-user-agent": self.settings.user_agent,
                "robots": f"RFC 9309, groups {', '.join(self.settings.groups)}",
            }
            archive.write_info(fields, date=_now())
        return archive


class _Crawler:
    """One task per host, and one pool of threads for the requests of all."""

    def __init__(
        self,
        frontier: _Frontier,
        output: _Output,
        starts: Sequence[str],
        settings: Crawl,
        progress: Progress,
    ) -> None:
        self.frontier, self.output = frontier, output
        self.settings, self.progress = settings, progress
        self.seed_hosts = {_bare(urlsplit(url).netloc) for url in starts}
        self.folders = tuple(_folder(url) for url in starts)
        self.groups = (settings.product, *settings.groups)
        self.robots: dict[str, tuple[Robots, float]] = {}
        self.working: set[str] = set()
        self.turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.asked = frontier.asked_by_host()
        self.pages = self.asked.total()
        self.received = frontier.metrics()["bytes"]

    async def run(self) -> None:
        """Fetch until nothing is left, or a limit is reached."""
        self.free = asyncio.Semaphore(self.settings.connections)
        with ThreadPoolExecutor(self.settings.connections) as self.threads:
            async with asyncio.TaskGroup() as self.tasks:
                self._start(self.frontier.hosts())

    def _start(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            if host not in self.working:
                self.working.add(host)
                self.tasks.create_task(self._host(host))

    async def _host(self, host: str) -> None:
        """Fetch a host's pages, one after the other."""
        try:
            while not self._full(host) and (page := self.frontier.next(host)):
                await self._page(page)
        finally:
            self.working.discard(host)
            for scheme in ("http", "https"):  # thousands of hosts' rules would fill the memory
                self.robots.pop(f"{scheme}://{host}", None)

    def _full(self, host: str) -> bool:
        return (
            self.pages >= self.settings.max_pages
            or self.asked[host] >= self.settings.max_pages_per_host
            or self.received >= self.settings.max_bytes
        )

    async def _page(self, page: _Page) -> None:
        """Decide about one address, fetch it if that is allowed, and finish it."""
        settings = self.settings
        robots = await self._robots(page)
        decision = robots.decide(
            page.url,
            groups=self.groups,
            training_groups=settings.training_groups,
            obey_everyone=settings.obey_everyone,
        )
        delay = max(settings.min_delay_seconds, robots.delay_seconds(self.groups))
        if not decision.fetch:
            self._finish(page, "robots unavailable" if robots.closed else "robots", decision)
        elif delay > settings.max_delay_seconds:
            self._finish(page, "crawl-delay too long", decision, evidence=f"{delay:g} s")
        elif not self._full(page.host):  # meanwhile others may have reached the limit
            self.asked[page.host] += 1
            self.pages += 1
            wanted = () if page.sitemap else HTML_TYPES
            most = MAX_SITEMAP_BYTES if page.sitemap else settings.pages.max_page_bytes
            answer, content = await self._ask(
                page.url, delay, wanted=wanted, most=most, read=self._reader(page)
            )
            self._receive(page, decision, answer, content)

    def _receive(
        self, page: _Page, decision: Decision, answer: _Answer | str, content: _Content
    ) -> None:
        """Finish an address that was asked for."""
        if isinstance(answer, str):
            return self._finish(page, answer, decision, asked=True)
        more: dict[str, Any] = {"status": answer.status, "bytes": len(answer.body)}
        found: list[str] = []
        when = _now()
        if answer.status in _REDIRECTS:
            more["redirect"] = target = _redirect(answer, page.url)
            outcome = "redirect"
            if target is None:
                outcome = "redirect nowhere"
            elif not self._in_scope(target):
                outcome = "redirect out of scope"
            elif page.hops >= self.settings.max_redirects:
                outcome = "too many redirects"
            else:
                hops = page.hops + 1
                found = self.frontier.add(
                    [target], depth=page.depth, hops=hops, sitemap=page.sitemap
                )
        elif answer.status != 200:
            outcome = f"status {answer.status}"
        elif content.unusable:
            outcome = content.unusable
        else:
            found = self._add_links(page, content)
            train = decision.train and content.rules.train
            decision = Decision(decision.fetch, train, decision.group)
            more["evidence"] = content.rules.evidence
            outcome = "sitemap" if page.sitemap else "saved" if train else "not for training"
            if not page.sitemap and (train or self.settings.save_untrainable):
                more |= self.output.save(page, answer, content.body, decision, when)
        self.received += len(answer.body)
        self._finish(page, outcome, decision, asked=True, fetched=when, **more)
        self._start(found)

    def _add_links(self, page: _Page, content: _Content) -> list[str]:
        found: list[str] = []
        if page.depth < self.settings.max_depth and content.rules.follow:
            links = filter(self._in_scope, content.links)
            found = self.frontier.add(links, depth=page.depth + 1)
        if page.hops < self.settings.max_redirects:
            maps = filter(self._in_scope, content.sitemaps)
            found += self.frontier.add(maps, depth=page.depth, hops=page.hops + 1, sitemap=True)
        return found

    def _finish(
        self,
        page: _Page,
        outcome: str,
        decision: Decision,
        *,
        asked: bool = False,
        fetched: str = "",
        **more: Any,
    ) -> None:
        """Log an address and finish it: from here on it is done, whatever happens."""
        line = {
            "url": page.url,
            "fetched": fetched or _now(),
            "group": decision.group,
            "fetch": decision.fetch,
            "train": decision.train,
            "outcome": outcome,
            "depth": page.depth,
            **{name: value for name, value in more.items() if value not in ("", None)},
        }
        self.output.note(line)
        self.frontier.finish(page, outcome, asked=asked, size=more.get("bytes", 0))
        self.frontier.commit()
        self.progress.status(
            f"crawl  {self.pages:,} pages  {self.frontier.fact('saved', 0):,} saved  "
            f"{self.received / 1e6:,.1f} MB  {len(self.working):,} hosts"
        )

    async def _ask(
        self, url: str, delay: float, *, wanted: Sequence[str], most: int, read: _Reader
    ) -> tuple[_Answer | str, _Content]:
        """Ask for `url`, and again after a failure that may pass; a text says what failed."""
        settings, host = self.settings, urlsplit(url).netloc
        answer: _Answer | str = ""
        content = _Content()
        for repeat in range(settings.retries + 1):
            wait = delay
            if repeat:
                asked_for = 0.0 if isinstance(answer, str) else _retry_after(answer)
                wait = max(delay, asked_for, settings.retry_seconds * 2 ** (repeat - 1))
                if asked_for > settings.max_delay_seconds:
                    break
            private = _bare(host) in self.seed_hosts
            request = _Request(url, settings, max_bytes=most, wanted=wanted, private=private)
            async with self.turns[host]:
                # A clock that was set back must not stop the crawl.
                ready = self.frontier.asked(host) + wait - time.time()
                await asyncio.sleep(min(max(ready, 0), wait))
                async with self.free:
                    answer, content = await self._in_thread(request, read)
                self.frontier.ask(host, time.time())
            result = answer if isinstance(answer, str) else answer.status
            if result not in _MAY_PASS:
                break
        return answer, content

    async def _in_thread(self, request: _Request, read: _Reader) -> tuple[_Answer | str, _Content]:
        loop = asyncio.get_running_loop()
        watch = loop.call_later(self.settings.timeout_seconds, request.end)
        try:
            answer = await loop.run_in_executor(self.threads, request.run)
            watch.cancel()
            return answer, await loop.run_in_executor(self.threads, read, answer)
        except Unusable as reason:
            return str(reason), _Content()
        except ssl.SSLCertVerificationError:
            return "bad certificate", _Content()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            late = request.ended or isinstance(error, TimeoutError)
            return "timeout" if late else "no connection", _Content()
        finally:  # also when the crawl is interrupted
            watch.cancel()
            request.end()

    def _reader(self, page: _Page) -> _Reader:
        """Function that takes the answer for a page apart, in a thread."""
        agents = (*self.groups, *self.settings.training_groups)

        def read(answer: _Answer) -> _Content:
            if answer.status != 200:
                return _Content()
            try:
                if answer.too_long:
                    raise Unusable("too long")
                if page.sitemap:
                    return _read_sitemap(answer, page.url)
                return _read_page(answer, page.url, self.settings.pages, agents)
            except Unusable as reason:
                return _Content(unusable=str(reason))

        return read

    async def _robots(self, page: _Page) -> Robots:
        """The rules of a page's host: kept for a day at most, else fetched."""
        parts = urlsplit(page.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self.robots and (kept := self.frontier.robots(origin)):
            self.robots[origin] = Robots.of_response(*kept[1:]), kept[0]
        rules, fetched = self.robots.get(origin, (None, 0.0))
        if rules is None or not 0 <= time.time() - fetched < self.settings.robots_seconds:
            status, body = await self._fetch_robots(f"{origin}/robots.txt")
            rules = Robots.of_response(status, body)
            self.robots[origin] = rules, time.time()
            self.frontier.keep_robots(origin, time.time(), status, body)
            if self.settings.sitemaps:
                urls = (normalize_url(url, page.url) for url in rules.sitemaps)
                maps = [url for url in urls if url and self._in_scope(url)]
                self._start(self.frontier.add(maps, depth=0, sitemap=True))
            self.frontier.commit()
        return rules

    async def _fetch_robots(self, url: str) -> tuple[int | None, bytes]:
        """Status and content of a robots.txt; no status when there is no answer."""
        for _ in range(MAX_ROBOTS_REDIRECTS + 1):
            delay, most = self.settings.min_delay_seconds, MAX_ROBOTS_BYTES + 1
            answer, _ = await self._ask(
                url, delay, wanted=(), most=most, read=lambda _answer: _Content()
            )
            if isinstance(answer, str):
                return None, b""
            if answer.status not in _REDIRECTS:
                try:
                    most = 2 * MAX_SITEMAP_BYTES
                    return answer.status, plain_body(answer.headers, answer.body, max_bytes=most)
                except Unusable:
                    return None, b""
            if (target := _redirect(answer, url)) is None:
                return None, b""
            url = target
        return 404, b""  # RFC 9309: after five redirects, as if there were none

    def _in_scope(self, url: str) -> bool:
        match self.settings.scope:
            case Scope.ANYWHERE:
                return True
            case Scope.HOSTS:
                return _bare(urlsplit(url).netloc) in self.seed_hosts
            case Scope.FOLDERS:
                return _address(url).startswith(self.folders)


def _read_page(answer: _Answer, url: str, limits: Warc, agents: Iterable[str]) -> _Content:
    body = plain_body(answer.headers, answer.body, max_bytes=limits.max_page_bytes)
    text, _ = page_text(answer.headers, body, limits)
    rules = page_rules(text, values(answer.headers, "x-robots-tag"), agents=agents)
    return _Content(body=body, rules=rules, links=tuple(page_links(text, url)))


def _read_sitemap(answer: _Answer, url: str) -> _Content:
    """The pages, or further sitemaps, that a sitemap lists."""
    body = plain_body(answer.headers, answer.body, max_bytes=MAX_SITEMAP_BYTES)
    if body.startswith(b"\x1f\x8b"):  # sitemap.xml.gz
        body = plain_body([("Content-Encoding", "gzip")], body, max_bytes=MAX_SITEMAP_BYTES)
    named = (html.unescape(place.decode("utf-8", "replace")) for place in _LOCATION.findall(body))
    urls = tuple(dict.fromkeys(found for name in named if (found := normalize_url(name, url))))
    if b"<sitemapindex" in body[:4096].lower():
        return _Content(sitemaps=urls)
    return _Content(links=urls)


def _redirect(answer: _Answer, url: str) -> str | None:
    places = values(answer.headers, "location")
    # Headers come as Latin-1, and addresses in them are most often UTF-8.
    place = places[0].encode("latin-1", "replace").decode("utf-8", "replace") if places else ""
    return normalize_url(place, url) if place else None


def _retry_after(answer: _Answer) -> float:
    """Seconds after which a host wants to be asked again; 0 when it does not say in seconds."""
    said = next(iter(values(answer.headers, "retry-after")), "")
    return float(said) if re.fullmatch(r"\d{1,9}", said) else 0.0


def _bare(host: str) -> str:
    return host.removeprefix("www.")


def _address(url: str) -> str:
    parts = urlsplit(url)
    return _bare(parts.netloc) + parts.path


def _folder(url: str) -> str:
    return _address(url).rpartition("/")[0] + "/"


def _seed(url: str) -> str:
    if (normal := normalize_url(url)) is None:
        hint = f"did you mean 'https://{url}'?" if normalize_url(f"https://{url}") else ""
        raise DataError(f"seed '{url}' is no web address", hint=hint)
    return normal


def _claim(seeds: Sequence[str], settings: Crawl) -> dict[str, Any]:
    chosen = settings.model_dump(mode="json")
    return {"seeds": list(seeds), **{name: chosen[name] for name in _DECIDING}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@cache
def _tls() -> ssl.SSLContext:
    """Verifies certificates; Pythons from python.org know none on macOS until certifi helps."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        with suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context


def _html_tree() -> Any:
    try:
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise DataError(
            "crawling needs the package resiliparse", hint="pip install 'afm-mlx[corpus]'"
        ) from None
    return HTMLTree
