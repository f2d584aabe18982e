"""What an answer holds: a page's rules and links, a sitemap's addresses, a redirect's target."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from afm_mlx.corpus.crawl.addresses import normalize_url
from afm_mlx.corpus.crawl.fetch import Answer
from afm_mlx.corpus.web.charset import page_text
from afm_mlx.corpus.web.packages import load
from afm_mlx.corpus.web.page_rules import PageRules, page_rules
from afm_mlx.corpus.web.response import Unusable, plain_body, values
from afm_mlx.settings.web import Warc

MAX_SITEMAP_BYTES = 50 * 2**20  # Source: sitemaps.org, protocol

_NO_RULES = PageRules(True, True, "")
_LOCATION = re.compile(rb"<loc>\s*(?:<!\[CDATA\[)?\s*([^<\]]{1,2200})", re.I)


@dataclass(frozen=True)
class Content:
    """What an answer is, worked out off the event loop."""

    body: bytes = b""
    rules: PageRules = _NO_RULES
    links: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    unusable: str = ""
    """Why it is not used; empty when it is."""


def read_page(answer: Answer, url: str, limits: Warc, agents: Iterable[str]) -> Content:
    """The content of a page.

    Args:
        answer: with status 200; with another there is no content.
        url: its address, to which its links are relative.
        limits: what a page may be.
        agents: names under which its meta tags and headers may speak to us, beside `robots`.
    """
    if answer.status != 200:
        return Content()
    try:
        body = _plain(answer, limits.max_page_bytes)
        text, _ = page_text(answer.headers, body, limits)
    except Unusable as reason:
        return Content(unusable=str(reason))
    rules = page_rules(text, values(answer.headers, "x-robots-tag"), agents=agents)
    return Content(body=body, rules=rules, links=tuple(page_links(text, url)))


def read_sitemap(answer: Answer, url: str) -> Content:
    """The pages, or further sitemaps, that a sitemap lists. Arguments as in `read_page`."""
    if answer.status != 200:
        return Content()
    try:
        body = _plain(answer, MAX_SITEMAP_BYTES)
        if body.startswith(b"\x1f\x8b"):  # sitemap.xml.gz
            packed = [("Content-Encoding", "gzip")]
            body = plain_body(packed, body, max_bytes=MAX_SITEMAP_BYTES)
    except Unusable as reason:
        return Content(unusable=str(reason))
    named = (html.unescape(place.decode("utf-8", "replace")) for place in _LOCATION.findall(body))
    urls = tuple(dict.fromkeys(found for name in named if (found := normalize_url(name, url))))
    if b"<sitemapindex" in body[:4096].lower():
        return Content(sitemaps=urls)
    return Content(links=urls)


def page_links(page: str, url: str) -> list[str]:
    """Normalized addresses that a page links to, in order, each once; not those with `nofollow`."""
    tree = html_tree().parse(page)
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


def redirect_target(answer: Answer, url: str) -> str | None:
    """Where an answer for `url` sends us; None when that is no web address."""
    places = values(answer.headers, "location")
    # Headers come as Latin-1, and addresses in them are most often UTF-8.
    place = places[0].encode("latin-1", "replace").decode("utf-8", "replace") if places else ""
    return normalize_url(place, url) if place else None


def html_tree() -> Any:
    """The class that parses HTML, resiliparse's.

    Raises:
        DataError: the package is missing.
    """
    return load("resiliparse.parse.html", "crawling").HTMLTree


def _plain(answer: Answer, max_bytes: int) -> bytes:
    if answer.too_long:
        raise Unusable("too long")
    return plain_body(answer.headers, answer.body, max_bytes=max_bytes)
