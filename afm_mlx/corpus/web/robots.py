"""Who may fetch a page, and who may train on it: robots.txt, meta tags and headers.

Applebot's rules: its own group of robots.txt decides; a file without one but with a group for
Googlebot is read as Googlebot would; else `*`. `Applebot-Extended` fetches nothing, its group says
what may not be used for training. A page's own `noindex`, `none` or `noai` also means no training
(ours). Sources: Apple, About Applebot; RFC 9309; Google, robots meta tag specifications.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afm_mlx.errors import DataError

if TYPE_CHECKING:
    from protego import Protego

GROUPS = ("Applebot", "Googlebot")  # Source: Apple, About Applebot
TRAINING_GROUPS = ("Applebot-Extended",)  # Source: as above
MAX_ROBOTS_BYTES = 500 * 1024  # what must be read of a robots.txt; RFC 9309, section 2.5
HEAD_CHARACTERS = 2**18  # of a page, in which its meta tags are looked for; ours

_AGENT_LINE = re.compile(r"^[ \t]*user[- ]?agent[ \t]*(?::|[ \t])[ \t]*([^#\r\n]*)", re.I | re.M)
_TOKEN = re.compile(r"[A-Za-z_-]+")
_META = re.compile(r"<meta\b[^>]{0,4000}>", re.I)  # bounded, or a hostile page takes minutes
_ATTRIBUTE = re.compile(r"""([a-z-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.I)
_NO_TRAINING = {"noindex", "none", "noai"}
_NO_FOLLOWING = {"nofollow", "none"}
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class Decision:
    """What robots.txt says of one address."""

    fetch: bool
    """Whether it may be fetched."""
    train: bool
    """Whether it may be trained on; never without `fetch`."""
    group: str
    """The group that decided about fetching; empty when no group applies."""


@dataclass(frozen=True)
class PageRules:
    """What a page says of itself."""

    train: bool
    """Whether it may be trained on."""
    follow: bool
    """Whether its links may be followed."""
    evidence: str
    """The directives that forbid something, in order of the alphabet."""


class Robots:
    """A host's robots.txt, or what its absence means."""

    def __init__(self, text: str = "", *, closed: bool = False) -> None:
        """Read `text`; `closed` forbids everything, as when a host's robots.txt is out of order.

        Raises:
            DataError: the package protego is missing.
        """
        self.closed = closed
        self._groups: set[str] = set()
        self._rules: Protego = _protego().parse(_AGENT_LINE.sub(self._agent, text))

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

    def decide(
        self,
        url: str,
        *,
        groups: Sequence[str] = GROUPS,
        training_groups: Sequence[str] = TRAINING_GROUPS,
        obey_everyone: bool = False,
    ) -> Decision:
        """Whether `url` may be fetched and trained on.

        Args:
            url: address on this host.
            groups: the first of these that the file has decides; else `*`.
            training_groups: each of these that the file has must allow training, too.
            obey_everyone: the group `*` must allow fetching as well.
        """
        if self.closed:
            return Decision(False, False, "")
        group = self.group(groups)
        fetch = self._allows(group, url)
        if obey_everyone and "*" in self._groups:
            fetch = fetch and self._allows("*", url)
        forbidden = [name for name in training_groups if name.lower() in self._groups]
        train = fetch and all(self._allows(name, url) for name in forbidden)
        return Decision(fetch, train, group)

    def group(self, groups: Sequence[str] = GROUPS) -> str:
        """The first of `groups` that the file has, else `*`, else nothing."""
        return next((name for name in (*groups, "*") if name.lower() in self._groups), "")

    def delay_seconds(self, groups: Sequence[str] = GROUPS) -> float:
        """Seconds that the file asks for between requests; 0 when it does not."""
        if not (group := self.group(groups)):
            return 0.0
        rate = self._rules.request_rate(group)
        return max(
            self._rules.crawl_delay(group) or 0.0, rate.seconds / rate.requests if rate else 0.0
        )

    @property
    def sitemaps(self) -> list[str]:
        """Addresses of the sitemaps that the file names."""
        return list(self._rules.sitemaps)

    def _allows(self, group: str, url: str) -> bool:
        try:
            return not group or self._rules.can_fetch(url, group)
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


def decide(robots_txt: str, url: str) -> Decision:
    """What a robots.txt says of `url`, by Applebot's rules."""
    return Robots(robots_txt).decide(url)


def page_rules(
    page: str, headers: Iterable[str] = (), *, agents: Iterable[str] = (*GROUPS, *TRAINING_GROUPS)
) -> PageRules:
    """What a page's meta tags and its `X-Robots-Tag` headers say.

    Args:
        page: its HTML, of which the first 262,144 characters are looked at.
        headers: values of its `X-Robots-Tag` headers.
        agents: names beside `robots` whose meta tags and header directives count.
    """
    names = {name.lower() for name in agents}
    found: set[str] = set()
    for header in headers:
        found |= _header_directives(header, names)
    found |= _meta_directives(page[:HEAD_CHARACTERS], {*names, "robots"})
    forbidding = found & (_NO_TRAINING | _NO_FOLLOWING)
    return PageRules(
        train=not found & _NO_TRAINING,
        follow=not found & _NO_FOLLOWING,
        evidence=", ".join(sorted(forbidding)),
    )


def _header_directives(header: str, agents: set[str]) -> set[str]:
    """Directives of one header that concern us: `noindex, otherbot: nofollow` has one."""
    found, ours = set(), True
    for part in header.lower().split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in _WITH_VALUE:
            ours = name.strip() in agents
            part = rest
        if ours:
            found.add(part.strip())
    return found


def _meta_directives(head: str, agents: set[str]) -> set[str]:
    """Directives of the meta tags for us. One inside a comment counts, too: when in doubt, not."""
    found: set[str] = set()
    for tag in _META.finditer(head):
        values = {name.lower(): value.strip("\"'") for name, value in _ATTRIBUTE.findall(tag[0])}
        if values.get("name", "").strip().lower() in agents:
            content = html.unescape(values.get("content", "")).lower()
            found |= {word for word in re.split(r"[,;\s]+", content) if word}
    return found


def _protego() -> type[Protego]:
    try:
        from protego import Protego
    except ImportError:
        raise DataError(
            "reading robots.txt needs the package protego", hint="pip install 'afm-mlx[corpus]'"
        ) from None
    return Protego
