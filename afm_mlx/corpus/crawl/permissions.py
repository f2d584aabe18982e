"""The robots.txt of each host: fetched when it is needed, kept for a day at most, also on disk."""

from __future__ import annotations

import time
from collections.abc import Callable

from afm_mlx.corpus.crawl.addresses import Bounds, origin_of
from afm_mlx.corpus.crawl.contents import Content, redirect_target
from afm_mlx.corpus.crawl.frontier import Frontier
from afm_mlx.corpus.crawl.polite import Asker
from afm_mlx.corpus.crawl.robots import MAX_ROBOTS_BYTES, Robots
from afm_mlx.corpus.web.response import Unusable, plain_body
from afm_mlx.settings.web import Crawl

MAX_REDIRECTS = 5  # Source: RFC 9309, section 2.3.1.2
MAX_PLAIN_BYTES = 100 * 2**20  # of a robots.txt that came packed; ours


class Permissions:
    """What hosts allow."""

    def __init__(
        self,
        settings: Crawl,
        frontier: Frontier,
        asker: Asker,
        bounds: Bounds,
        fetched: Callable[[str, Robots], None],
    ) -> None:
        """Start with what the frontier has kept.

        Args:
            settings: of the crawl.
            frontier: keeps what was fetched.
            asker: fetches.
            bounds: a host outside this machine's network may redirect to one inside, if it has a
                seed.
            fetched: told of an address and the rules of its host that have just been fetched; what
                it does to the frontier is committed with them.
        """
        self._settings, self._frontier, self._asker = settings, frontier, asker
        self._bounds, self._fetched = bounds, fetched
        self._held: dict[str, tuple[Robots, float]] = {}

    async def of(self, url: str) -> Robots:
        """The rules of an address's host."""
        origin = origin_of(url)
        if origin not in self._held and (kept := self._frontier.robots(origin)):
            self._held[origin] = Robots.of_response(*kept[1:]), kept[0]
        rules, when = self._held.get(origin, (None, 0.0))
        if rules is None or not 0 <= time.time() - when < self._settings.robots_seconds:
            status, body = await self._fetch(f"{origin}/robots.txt")
            rules = Robots.of_response(status, body)
            self._held[origin] = rules, time.time()
            self._frontier.keep_robots(origin, time.time(), status, body)
            self._fetched(url, rules)
            self._frontier.commit()
        return rules

    def forget(self, host: str) -> None:
        """Hold a host's rules on disk only: those of thousands would fill the memory."""
        for scheme in ("http", "https"):
            self._held.pop(f"{scheme}://{host}", None)

    async def _fetch(self, url: str) -> tuple[int | None, bytes]:
        """Status and content of a robots.txt; no status when there is no answer."""
        for _ in range(MAX_REDIRECTS + 1):
            answer, _ = await self._asker.ask(
                url,
                self._settings.min_delay_seconds,
                read=lambda _answer: Content(),
                max_bytes=MAX_ROBOTS_BYTES + 1,
                private=self._bounds.has_seed(url),
            )
            if isinstance(answer, str):
                return None, b""
            if not answer.is_redirect:
                try:
                    body = plain_body(answer.headers, answer.body, max_bytes=MAX_PLAIN_BYTES)
                except Unusable:
                    return None, b""
                return answer.status, body
            if (target := redirect_target(answer, url)) is None:
                return None, b""
            url = target
        return 404, b""  # RFC 9309: after five redirects, as if there were none
