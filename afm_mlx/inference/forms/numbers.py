"""Regular expressions of the decimal numbers between two bounds."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

SAFE_DIGITS = 15
"""Decimal digits that any double keeps apart. Source: IEEE 754, DBL_DIG."""

FRACTION_DIGITS = 6
"""Most digits after the point, unless a bound has more. Ours: what calm answers need."""

ANY_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[1-9][0-9]?)?"
"""Without bounds: at most 15 digits before and after the point, and an exponent of two digits, so
that no number is too large to be read."""


def integers_between(low: int, high: int) -> str:
    """Pattern of the integers from `low` to `high`, both included, in JSON's spelling."""
    options = []
    if low < 0:
        options.append("-" + _one_of(_whole(max(1, -high), -low)))
    if high >= 0:
        options.append(_one_of(_whole(max(0, low), high)))
    return _one_of(options)


def numbers_between(
    low: Decimal, high: Decimal, *, above: bool = False, below: bool = False
) -> str | None:
    """Pattern of the numbers from `low` to `high`, without exponents; None where there is none.

    `above` leaves out `low` itself, and `below` leaves out `high`.
    They have as many digits as a double can tell apart, so none is rounded across a bound.
    """
    size = max(len(str(abs(int(bound)))) for bound in (low, high))
    given = max(-int(bound.normalize().as_tuple().exponent) for bound in (low, high))
    digits = max(given, min(FRACTION_DIGITS, max(0, SAFE_DIGITS - size)))
    scale = Decimal(10) ** digits
    first = int((low * scale).to_integral_value(ROUND_CEILING))
    last = int((high * scale).to_integral_value(ROUND_FLOOR))
    first += above and first == low * scale
    last -= below and last == high * scale
    if first > last:
        return None
    options = []
    if first < 0:
        options.append("-" + _one_of(_scaled(max(1, -last), -first, digits)))
    if last >= 0:
        options.append(_one_of(_scaled(max(0, first), last, digits)))
    return _one_of(options)


def _one_of(options: list[str]) -> str:
    return options[0] if len(options) == 1 else "(?:" + "|".join(options) + ")"


def _whole(low: int, high: int) -> list[str]:
    """Patterns of the integers from `low` to `high`, 0 or more each, by their lengths."""
    found = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        found.append(_fixed(str(first), str(last)))
    return found


def _fixed(low: str, high: str) -> str:
    """Pattern of the texts of digits from `low` to `high`, all of one length."""
    if low == high:
        return low
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}"
    if len(low) == 1:
        return f"[{low}-{high}]"
    zeros, nines = "0" * (len(low) - 1), "9" * (len(low) - 1)
    if low[0] == high[0]:
        return low[0] + _fixed(low[1:], high[1:])
    options = []
    begin, end = int(low[0]), int(high[0])
    if low[1:] != zeros:
        options.append(low[0] + _fixed(low[1:], nines))
        begin += 1
    if high[1:] != nines:
        options.append(high[0] + _fixed(zeros, high[1:]))
        end -= 1
    if begin <= end:
        options.append(f"[{begin}-{end}][0-9]{{{len(zeros)}}}")
    return _one_of(options)


def _scaled(low: int, high: int, digits: int) -> list[str]:
    """Patterns of the numbers from `low` to `high`, each times 10**-digits."""
    if digits == 0:
        return _whole(low, high)
    scale = 10**digits
    (first, begin), (last, end) = divmod(low, scale), divmod(high, scale)
    if first == last:
        return [f"{first}{_fraction(begin, end, digits)}"]
    found = []
    if begin:
        found.append(f"{first}{_fraction(begin, scale - 1, digits)}")
        first += 1
    if end != scale - 1:
        found.append(f"{last}{_fraction(0, end, digits)}")
        last -= 1
    if first <= last:
        found.append(_one_of(_whole(first, last)) + _fraction(0, scale - 1, digits))
    return found


def _fraction(low: int, high: int, digits: int) -> str:
    """Pattern of a point and up to `digits` digits; of nothing, too, where that is in bounds."""
    shown = r"\." + _tail(f"{low:0{digits}}", f"{high:0{digits}}")
    return shown if low else f"(?:{shown})?"


def _tail(low: str, high: str) -> str:
    """Pattern of 1 digit or more, `len(low)` at most, that lie in bounds with zeros after them."""
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{1,{len(low)}}}"
    if len(low) == 1:
        return f"[{low}-{high}]"
    zeros, nines = "0" * (len(low) - 1), "9" * (len(low) - 1)
    options = []
    begin, end = int(low[0]), int(high[0])
    if begin == end:
        rest = _tail(low[1:], high[1:])
        return low[0] + (f"(?:{rest})?" if low[1:] == zeros else rest)
    if low[1:] != zeros:
        options.append(low[0] + _tail(low[1:], nines))
        begin += 1
    if high[1:] != nines:
        options.append(f"{high[0]}(?:{_tail(zeros, high[1:])})?")
        end -= 1
    if begin <= end:
        options.append(f"[{begin}-{end}][0-9]{{0,{len(zeros)}}}")
    return _one_of(options)
