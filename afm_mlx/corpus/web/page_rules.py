"""What a page says of itself: may it be trained on, and may its links be followed?

`noindex` and `none` mean no training, and so does `noai` (ours). Sources: Apple, About Applebot;
Google, robots meta tag specifications.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

HEAD_CHARACTERS = 2**18  # of a page, in which its meta tags are looked for; ours

_META = re.compile(r"<meta\b[^>]{0,4000}>", re.I)  # bounded, or a hostile page takes minutes
_ATTRIBUTE = re.compile(r"""([a-z-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.I)
_NO_TRAINING = {"noindex", "none", "noai"}
_NO_FOLLOWING = {"nofollow", "none"}
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class PageRules:
    """What a page says of itself."""

    train: bool
    """Whether it may be trained on."""
    follow: bool
    """Whether its links may be followed."""
    evidence: str
    """The directives that forbid something, in order of the alphabet."""


def page_rules(page: str, headers: Iterable[str], *, agents: Iterable[str]) -> PageRules:
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
