"""Settings of the crawler and of the reader of its archives."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section

APPLEBOT_GROUPS = ("Applebot", "Googlebot")  # Source: Apple, About Applebot
APPLEBOT_TRAINING_GROUPS = ("Applebot-Extended",)  # Source: as above

_TOKEN = re.compile(r"[A-Za-z_-]+")  # product token of RFC 9309, section 2.2.1
_NOT_OURS = ("applebot", "googlebot", "bingbot", "mozilla", "chrome", "safari", "firefox")


class Warc(Section):
    """What a web page may be, fetched or from a WARC archive."""

    max_page_bytes: Count = 8 * 2**20
    """Pages above this, in bytes after decompression, are skipped. Ours."""
    obey_page_rules: bool = True
    """Skip pages whose meta tags or `X-Robots-Tag` forbid training. Source: Applebot."""
    max_odd_fraction: Fraction = 0.01
    """Share of control characters above which a page is binary; 0 to 1. Ours."""
    max_undecodable_fraction: Fraction = 0.01
    """Share of characters that its charset cannot explain above which a page is skipped. Ours."""


class Scope(StrEnum):
    """Which addresses belong to a crawl."""

    HOSTS = "hosts"
    FOLDERS = "folders"
    ANYWHERE = "anywhere"


class RobotsRule(StrEnum):
    """How strictly robots.txt is read."""

    STRICTEST = "strictest"
    APPLEBOT = "applebot"


class Crawl(Section):
    """A polite crawl. `contact` has no default: who crawls must say who they are."""

    contact: str
    """Mail address or web page of who answers for the crawl; sent with every request."""
    product: str = "afm-mlx-crawler"
    """Product token: what site owners write after `User-agent:` to address this crawler."""
    robots: RobotsRule = RobotsRule.STRICTEST
    """strictest: a page must be allowed by the crawler's own group, if the file has one, by the
    first of `groups` that it has, and by `*`; the longest delay of these holds. Ours: many sites
    grant Apple or Google what they grant nobody else. applebot: the first of these that the file
    has decides alone. Source: Apple, About Applebot."""
    groups: tuple[str, ...] = APPLEBOT_GROUPS
    """Groups of robots.txt that count, the first that a file has; else `*`."""
    training_groups: tuple[str, ...] = APPLEBOT_TRAINING_GROUPS
    """Groups that forbid training alone; each that a file has counts."""
    scope: Scope = Scope.HOSTS
    """hosts: those of the seeds, `www.` or not; folders: below the seeds' paths; anywhere."""
    max_depth: Annotated[int, Field(ge=0)] = 5
    """Links between a seed and a page, at most. Ours."""
    max_pages: Count = 100_000
    """Pages fetched in all; the crawl then ends. Ours."""
    max_pages_per_host: Count = 10_000
    """Pages fetched from one host. Ours."""
    max_bytes: Count = 100 * 10**9
    """Bytes of pages received in all; the crawl then ends. Ours."""
    max_redirects: Annotated[int, Field(ge=0)] = 5
    """Redirects in a row. Source: RFC 9309, section 2.3.1.2, for robots.txt."""
    min_delay_seconds: NotNegative = 1.0
    """Seconds between the end of a request to a host and the next, at least. Ours."""
    max_delay_seconds: Positive = 120.0
    """A host that asks for a longer delay is left out: it is not fetched faster. Ours."""
    timeout_seconds: Positive = 30.0
    """Seconds until a request is given up, all of it. Ours."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Repeats after a failure that may pass: no connection, timeout, 429, 500, 502-504. Ours."""
    retry_seconds: Positive = 5.0
    """Seconds before the first repeat; twice as many before each further one. Ours."""
    connections: Count = 8
    """Requests on their way at once; never two to one host. Ours."""
    robots_seconds: Annotated[int, Field(gt=0, le=86_400)] = 86_400
    """Seconds for which a robots.txt holds, at most a day. Source: RFC 9309, section 2.4."""
    sitemaps: bool = False
    """Also take pages from the sitemaps that robots.txt names."""
    pages: Warc = Warc()
    """What a page may be."""
    save_untrainable: bool = False
    """Also save pages that may be fetched and not be trained on; each record says so."""
    warc_bytes: Count = 10**9
    """An archive that has grown to this is followed by the next, in bytes. Ours."""

    @property
    def user_agent(self) -> str:
        """What the crawler calls itself in every request."""
        return f"{self.product} (+{self.contact})"

    @field_validator("contact")
    @classmethod
    def _names_somebody(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~]+@[!-~]+\.[!-~]+|https?://[!-~]+", value):
            raise ValueError(f"contact '{value}' is no mail address and no https:// page")
        return value

    @field_validator("product")
    @classmethod
    def _is_honest(cls, value: str) -> str:
        if not _TOKEN.fullmatch(value):
            raise ValueError(f"product '{value}' may have letters, '-' and '_' only")
        if any(name in value.lower() for name in _NOT_OURS):
            raise ValueError(f"product '{value}' is the name of somebody else's program")
        return value

    @field_validator("groups", "training_groups")
    @classmethod
    def _are_tokens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"group '{name}' may have letters, '-' and '_' only")
        return value

    @model_validator(mode="after")
    def _delays_fit(self) -> Self:
        if self.max_delay_seconds < self.min_delay_seconds:
            raise ValueError(
                f"max_delay_seconds ({self.max_delay_seconds:g}) must be at least "
                f"min_delay_seconds ({self.min_delay_seconds:g})"
            )
        return self
