"""How numbers are written in a report."""

from __future__ import annotations

from datetime import UTC, datetime

from afm_mlx.progress import duration as in_words

LARGEST = 1e15
"""Where numbers become too large to be written out."""

POINTS = " points"
"""Ends a difference of shares."""


def count(value: float | None) -> str:
    """Whole things: 2,835,565."""
    return "" if value is None else _short(value) or f"{round(value):,}"


def duration(seconds: float) -> str:
    """A time: `42 s`, `3 min 20 s`, `5 h 10 min`, `12 days`."""
    return f"{seconds:.4g} s" if abs(seconds) >= LARGEST else in_words(seconds)


def share(value: float | None) -> str:
    """Of 0 to 1: 42.0%."""
    return "" if value is None else f"{value:.1%}"


def decimal(value: float | None, digits: int = 4) -> str:
    """A measured number: 5.4812; long ones with fewer decimals."""
    if value is None:
        return ""
    return _short(value) or f"{value:,.{digits if abs(value) < 1_000 else 1}f}"


def size(num_bytes: float | None) -> str:
    """Bytes on disk or in memory, in units of 1,000."""
    if num_bytes is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.2f} {unit}"
    return f"{num_bytes:,.0f} bytes"


def rate(value: float | None) -> str:
    """Things per second: whole ones, and two digits where they are few."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def signed(value: float, digits: int = 4) -> str:
    """A difference: +0.0123, and 0 where nothing differs."""
    text = f"{value:+,.{digits}f}"
    return f"{0:.{digits}f}" if float(text.replace(",", "")) == 0 else text


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{signed(100 * value, 1)}{POINTS}"


def is_share(metric: str) -> bool:
    """Whether a score of this name is a share of 0 to 1: all are, but those that name a unit."""
    units = ("perplexity", "bits", "nats", "seconds", "tokens", "bytes", "length", "grade", "kl")
    return not any(unit in metric for unit in units)


def score(value: float, metric: str) -> str:
    """A score: percent where it is a share, else about five digits."""
    return share(value) if is_share(metric) else decimal(value, _digits(value))


def gain(difference: float, beside: float, metric: str) -> str:
    """What a score has more than another one, in as many digits as that one has."""
    return points(difference) if is_share(metric) else signed(difference, _digits(beside))


def _short(value: float) -> str:
    """A number that is too large to be read as 3.2e+20; "" for the others."""
    return f"{value:.4g}" if abs(value) >= LARGEST else ""


def both(low: str, high: str) -> str:
    """Ends of an interval, with their unit once."""
    for unit in ("%", POINTS):
        if low.endswith(unit) and high.endswith(unit):
            low = low.removesuffix(unit)
    return f"{low} to {high}"


def _digits(value: float) -> int:
    return 4 if abs(value) < 10 else 2 if abs(value) < 100 else 1


def day(when: float) -> str:
    """Seconds since 1970 as a day and minute, in UTC, the same on every machine."""
    moment = datetime.fromtimestamp(when, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
