"""Who may fetch a page, and who may train on it, by robots.txt.

The rule of Applebot: the group `Applebot` of the file decides; where there is none, the group of
`Googlebot`; else `*`. `Applebot-Extended` fetches nothing: its group says what may not be used for
training. Sources: Apple, About Applebot; RFC 9309.

That rule is Applebot's by its name. Sites that shut out everyone and let in Apple or Google mean
those two, and not whoever runs this crawler; so by default all who could be meant must allow a
page: the crawler's own group, Applebot's rule, and `*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afm_mlx.corpus.web.packages import load
from afm_mlx.settings.web import RobotsRule

if TYPE_CHECKING:
    from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024  # what must be read of a robots.txt; RFC 9309, section 2.5

_AGENT_LINE = re.compile(r"^[ \t]*user[- ]?agent[ \t]*(?::|[ \t])[ \t]*([^#\r\n]*)", re.I | re.M)
_TOKEN = re.compile(r"[A-Za-z_-]+")

Chain = tuple[str, ...]
"""Names of groups: the first that a file has decides."""


def chains(rule: RobotsRule, product: str, groups: Sequence[str]) -> tuple[Chain, ...]:
    """The chains that must allow a page, all of them.

    Args:
        rule: how strict.
        product: the crawler's own product token.
        groups: those whose rules it follows, before `*`.
    """
    match rule:
        case RobotsRule.STRICTEST:
            return (product,), (*groups, "*"), ("*",)
        case RobotsRule.APPLEBOT:
            return ((product, *groups, "*"),)


@dataclass(frozen=True)
class Decision:
    """What robots.txt says of one address."""

    fetch: bool
    """Whether it may be fetched."""
    train: bool
    """Whether it may be trained on; never without `fetch`."""
    group: str
    """The first group that forbids fetching, else the first that allows it; empty when the file
    has no group for us."""


class Robots:
    """A host's robots.txt, or what its absence means."""

    def __init__(self, text: str = "", *, closed: bool = False) -> None:
        """Read `text`; `closed` forbids everything, as when a host's robots.txt is out of order.

        Raises:
            DataError: the package protego is missing.
        """
        self.closed = closed
        self._groups: set[str] = set()
        protego = load("protego", "reading robots.txt")
        self._rules: Protego = protego.Protego.parse(_AGENT_LINE.sub(self._agent, text))

    @classmethod
    def of_response(cls, status: int | None, body: bytes) -> Robots:
        """Rules from the answer to a request for robots.txt.

        Args:
            status: HTTP status after redirects; None when no answer came. 2xx: the rules are read;
                4xx: there are none, all is allowed, but for 429 (ours: too many requests is no
                permission); everything else forbids all. Source: RFC 9309, section 2.3.1.
            body: the file; only its first 500 KiB count.
        """
        if status is not None and 200 <= status < 300:
            if len(body) > MAX_ROBOTS_BYTES:  # a line cut in the middle could mean another thing
                body = body[:MAX_ROBOTS_BYTES].rpartition(b"\n")[0]
            return cls(body.decode("utf-8-sig", "replace"))
        return cls(closed=not (status is not None and 400 <= status < 500 and status != 429))

    def decide(self, url: str, chains: Sequence[Chain], training_groups: Iterable[str]) -> Decision:
        """Whether `url` may be fetched and trained on.

        Args:
            url: address on this host.
            chains: each must allow fetching; one of which the file has no group allows it.
            training_groups: each of these that the file has must allow training, too.
        """
        if self.closed:
            return Decision(False, False, "")
        deciding = self.groups(chains)
        for group in deciding:
            if not self._allows(group, url):
                return Decision(False, False, group)
        train = all(
            self._allows(name, url) for name in training_groups if name.lower() in self._groups
        )
        return Decision(True, train, deciding[0] if deciding else "")

    def groups(self, chains: Sequence[Chain]) -> list[str]:
        """The group that decides in each chain, if any; each once."""
        found: dict[str, None] = {}
        for chain in chains:
            if named := [name for name in chain if name.lower() in self._groups]:
                found[named[0]] = None
        return list(found)

    def delay_seconds(self, chains: Sequence[Chain]) -> float:
        """The longest delay between requests that a deciding group asks for, in seconds, else 0."""
        delay = 0.0
        for group in self.groups(chains):
            rate = self._rules.request_rate(group)
            delay = max(delay, self._rules.crawl_delay(group) or 0.0)
            delay = max(delay, rate.seconds / rate.requests if rate else 0.0)
        return delay

    @property
    def sitemaps(self) -> list[str]:
        """Addresses of the sitemaps that the file names."""
        return list(self._rules.sitemaps)

    def _allows(self, group: str, url: str) -> bool:
        try:
            return self._rules.can_fetch(url, group)
        except ValueError:  # an address that cannot be taken apart
            return False

    def _agent(self, line: re.Match[str]) -> str:
        """A `User-agent` line, with its value reduced to the product token of RFC 9309.

        protego would find `Applebot/1.0` under no name. With tokens, an exact match is its longest
        match, so a group that we know to exist is the one that it applies.
        """
        value = line[1].strip()
        token = value if value == "*" else match[0] if (match := _TOKEN.match(value)) else ""
        if token:
            self._groups.add(token.lower())
        return f"User-agent: {token}"
