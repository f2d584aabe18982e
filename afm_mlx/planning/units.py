"""Quantities as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Time in the largest fitting unit: `4.2 minutes`."""
    units = (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3_600), ("minutes", 60))
    for unit, size in units:
        if seconds >= size:
            value = seconds / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def gigabytes(count: float) -> str:
    """Bytes in units of 10**9, with the digits that are worth reading."""
    value = count / 1e9
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4f}" if value < 0.1 else f"{value:,.2f}"


def short_duration(seconds: float) -> str:
    """Time of a step in a narrow column: `42 ms`, `3.1 s`, `12 min`."""
    if seconds < 1:
        return f"{seconds * 1e3:,.3g} ms"
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
