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
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from afm_mlx.artifact import locked
from afm_mlx.corpus.crawl.addresses import Bounds, normalize_url
from afm_mlx.corpus.crawl.contents import (
    MAX_SITEMAP_BYTES,
    Content,
    html_tree,
    read_page,
    read_sitemap,
    redirect_target,
)
from afm_mlx.corpus.crawl.fetch import Answer
from afm_mlx.corpus.crawl.frontier import Address, Frontier
from afm_mlx.corpus.crawl.output import Output, now
from afm_mlx.corpus.crawl.permissions import Permissions
from afm_mlx.corpus.crawl.polite import Asker
from afm_mlx.corpus.crawl.robots import Decision, Robots, chains
from afm_mlx.corpus.web.response import HTML_TYPES
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.settings.web import Crawl

# Settings that a crawl keeps when it goes on: they decide what is found, and what is saved.
_DECIDING = (
    *("scope", "max_depth", "product", "robots", "groups", "training_groups"),
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
    html_tree()
    with locked(out), closing(Frontier(out / "state.sqlite")) as frontier:
        frontier.claim(_claim(starts, settings))
        frontier.add(starts, depth=0)
        frontier.commit()
        with closing(Output(out, frontier, settings)) as output:
            crawler = _Crawler(frontier, output, starts, settings, progress)
            try:
                asyncio.run(crawler.run())
            except BaseExceptionGroup as group:
                raise _first(group) from None
            except KeyboardInterrupt:
                progress.say("interrupted: the same command goes on from here")
                raise
        return {**frontier.metrics(), "seconds": time.monotonic() - started}


class _Crawler:
    """One task per host, and one pool of threads for the requests of all."""

    def __init__(
        self,
        frontier: Frontier,
        output: Output,
        starts: Sequence[str],
        settings: Crawl,
        progress: Progress,
    ) -> None:
        self.frontier, self.output = frontier, output
        self.settings, self.progress = settings, progress
        self.bounds = Bounds.around(starts, settings.scope)
        self.chains = chains(settings.robots, settings.product, settings.groups)
        self.agents = (settings.product, *settings.groups, *settings.training_groups)
        self.working: set[str] = set()
        self.asked = frontier.asked_by_host()
        self.pages = self.asked.total()
        self.received = frontier.metrics()["bytes"]

    async def run(self) -> None:
        """Fetch until nothing is left, or a limit is reached."""
        settings, frontier = self.settings, self.frontier
        with ThreadPoolExecutor(settings.connections) as threads:
            self.asker = Asker(settings, frontier, threads)
            self.permissions = Permissions(
                settings, frontier, self.asker, self.bounds, self._add_sitemaps
            )
            async with asyncio.TaskGroup() as self.tasks:
                self._start(frontier.hosts())

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
            self.permissions.forget(host)

    def _full(self, host: str) -> bool:
        return (
            self.pages >= self.settings.max_pages
            or self.asked[host] >= self.settings.max_pages_per_host
            or self.received >= self.settings.max_bytes
        )

    async def _page(self, page: Address) -> None:
        """Decide about one address, fetch it if that is allowed, and finish it."""
        settings = self.settings
        robots = await self.permissions.of(page.url)
        decision = robots.decide(page.url, self.chains, settings.training_groups)
        delay = max(settings.min_delay_seconds, robots.delay_seconds(self.chains))
        if not decision.fetch:
            self._finish(page, "robots unavailable" if robots.closed else "robots", decision)
        elif delay > settings.max_delay_seconds:
            self._finish(page, "crawl-delay too long", decision, evidence=f"{delay:g} s")
        elif not self._full(page.host):  # meanwhile others may have reached the limit
            self.asked[page.host] += 1
            self.pages += 1
            if page.sitemap:
                read, max_bytes = partial(read_sitemap, url=page.url), MAX_SITEMAP_BYTES
            else:
                limits = settings.pages
                read = partial(read_page, url=page.url, limits=limits, agents=self.agents)
                max_bytes = limits.max_page_bytes
            answer, content = await self.asker.ask(
                page.url,
                delay,
                read=read,
                max_bytes=max_bytes,
                wanted=() if page.sitemap else HTML_TYPES,
                private=self.bounds.has_seed(page.url),
            )
            self._receive(page, decision, answer, content)

    def _receive(
        self, page: Address, decision: Decision, answer: Answer | str, content: Content
    ) -> None:
        """Finish an address that was asked for."""
        if isinstance(answer, str):
            return self._finish(page, answer, decision, asked=True)
        more: dict[str, Any] = {"status": answer.status, "bytes": len(answer.body)}
        found: list[str] = []
        when = now()
        if answer.is_redirect:
            more["redirect"] = target = redirect_target(answer, page.url)
            outcome = "redirect"
            if target is None:
                outcome = "redirect nowhere"
            elif target not in self.bounds:
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

    def _add_links(self, page: Address, content: Content) -> list[str]:
        found: list[str] = []
        if page.depth < self.settings.max_depth and content.rules.follow:
            links = [url for url in content.links if url in self.bounds]
            found = self.frontier.add(links, depth=page.depth + 1)
        if page.hops < self.settings.max_redirects:
            maps = [url for url in content.sitemaps if url in self.bounds]
            found += self.frontier.add(maps, depth=page.depth, hops=page.hops + 1, sitemap=True)
        return found

    def _add_sitemaps(self, url: str, robots: Robots) -> None:
        """Take up the sitemaps that a host's robots.txt names."""
        if self.settings.sitemaps:
            maps = [found for name in robots.sitemaps if (found := normalize_url(name, url))]
            maps = [found for found in maps if found in self.bounds]
            self._start(self.frontier.add(maps, depth=0, sitemap=True))

    def _finish(
        self,
        page: Address,
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
            "fetched": fetched or now(),
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


def _seed(url: str) -> str:
    if (normal := normalize_url(url)) is None:
        hint = f"did you mean 'https://{url}'?" if normalize_url(f"https://{url}") else ""
        raise DataError(f"seed '{url}' is no web address", hint=hint)
    return normal


def _claim(seeds: Sequence[str], settings: Crawl) -> dict[str, Any]:
    chosen = settings.model_dump(mode="json")
    return {"seeds": list(seeds), **{name: chosen[name] for name in _DECIDING}}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
