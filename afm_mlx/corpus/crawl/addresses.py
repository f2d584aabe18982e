"""Addresses of the web: their one spelling, and which of them belong to a crawl."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

from afm_mlx.settings.web import Scope

MAX_URL_CHARACTERS = 2_048  # longer addresses are most often traps; ours

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


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


def origin_of(url: str) -> str:
    """Scheme and host of an address: what a robots.txt is about."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Bounds:
    """What belongs to a crawl: `url in bounds`."""

    scope: Scope
    hosts: frozenset[str]
    """Of the seeds, with their ports, without `www.`."""
    folders: tuple[str, ...]
    """Of the seeds: host, and path up to its last slash."""

    @classmethod
    def around(cls, seeds: Iterable[str], scope: Scope) -> Self:
        """The bounds of a crawl from `seeds`, normalized addresses."""
        places = [_place(seed) for seed in seeds]
        hosts = frozenset(place.partition("/")[0] for place in places)
        return cls(scope, hosts, tuple(place.rpartition("/")[0] + "/" for place in places))

    def __contains__(self, url: str) -> bool:
        match self.scope:
            case Scope.ANYWHERE:
                return True
            case Scope.HOSTS:
                return self.has_seed(url)
            case Scope.FOLDERS:
                return _place(url).startswith(self.folders)

    def has_seed(self, url: str) -> bool:
        """Whether a seed is on the host of `url`."""
        return _place(url).partition("/")[0] in self.hosts


def _place(url: str) -> str:
    """Host and path, by which `www.` or not and http or https are the same."""
    parts = urlsplit(url)
    return parts.netloc.removeprefix("www.") + parts.path


def _without_dots(path: str) -> str:
    """The path without dot segments; `urljoin` would also drop empty segments, which count."""
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
