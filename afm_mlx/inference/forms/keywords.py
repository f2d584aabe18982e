"""Keywords of JSON Schema: which there are, and what those of strings and numbers say.

Source: JSON Schema 2020-12, validation; RFC 3339 for dates and times, RFC 5321 for addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.inference.forms.nodes import Match, Multiple, Node, String
from afm_mlx.inference.forms.numbers import ANY_NUMBER, integers_between, numbers_between
from afm_mlx.inference.forms.patterns import PatternError, read_pattern

LARGEST = 2**53 - 1
"""Bound of integers that have none: beyond it, JSON's numbers are not exact everywhere.
Source: RFC 8259, section 6."""

YEAR = r"[1-9][0-9]{3}"
DATE = (
    rf"(?:{YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)"
)
TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?:Z|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,30}[a-z0-9])?"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}T{TIME}",
    "duration": r"P(?:[1-9][0-9]{0,3}D(?:T[1-9][0-9]{0,3}[HMS])?|T[1-9][0-9]{0,3}[HMS])",
    "email": rf"[A-Za-z0-9_\-]{{1,32}}(?:\.[A-Za-z0-9_\-]{{1,32}})?@{LABEL}\.[a-z]{{2,10}}",
    "hostname": rf"{LABEL}(?:\.{LABEL}){{0,2}}\.[a-z]{{2,10}}",
    "ipv4": rf"(?:{OCTET}\.){{3}}{OCTET}",
    "ipv6": r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "uri": rf"https?://{LABEL}(?:\.{LABEL}){{0,2}}\.[a-z]{{2,10}}"
    r"(?:/[A-Za-z0-9._~\-]{0,32}){0,4}(?:\?[A-Za-z0-9._~=&\-]{1,64})?",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}
"""Formats of strings, each with a pattern that is narrower than its standard, never wider."""

NOTES = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "$comment",
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentMediaType",
        "contentEncoding",
        "discriminator",
    ]
)
"""Keywords that say nothing about which values are valid."""

WORDS = {
    "object": ["properties", "required", "additionalProperties", "minProperties", "maxProperties"],
    "array": ["items", "prefixItems", "minItems", "maxItems", "uniqueItems"],
    "string": ["minLength", "maxLength", "pattern", "format"],
    "number": ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
}
"""Keywords by the type they are about."""

CHOICES = ("anyOf", "oneOf", "allOf")
UNSUPPORTED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "contains",
        "minContains",
        "maxContains",
        "unevaluatedProperties",
        "unevaluatedItems",
        "propertyNames",
        "patternProperties",
        "additionalItems",
        "$dynamicRef",
        "$recursiveRef",
        "$anchor",
        "$dynamicAnchor",
    ]
)
KNOWN = (
    NOTES
    | {"type", "enum", "const", "$ref", *CHOICES}
    | {word for words in WORDS.values() for word in words}
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """Types that are named, or that the words are about; all where there is no hint."""
    kinds = schema.get("type")
    if kinds is None:
        kinds = [kind for kind, words in WORDS.items() if any(word in schema for word in words)]
        kinds = kinds or ["null", "boolean", "number", "string", "array", "object"]
    return [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))


def string_form(schema: dict[str, Any], place: str) -> Node:
    """JSON strings that a schema accepts.

    Raises:
        DataError: there are none, or their pattern or format is not supported.
    """
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is not None and least > most:
        raise refused(f"{place}/minLength", f"{least}, and maxLength is {most}")
    pattern = None
    if "pattern" in schema and "format" in schema:
        raise refused(f"{place}/pattern", "'pattern' together with 'format' is not supported")
    if "format" in schema:
        if schema["format"] not in FORMATS:
            raise refused(
                f"{place}/format",
                f"'{schema['format']}' is not supported",
                f"one of {', '.join(FORMATS)}; or write a pattern",
            )
        pattern = read_pattern(FORMATS[schema["format"]])
    if "pattern" in schema:
        try:
            pattern = read_pattern(schema["pattern"], search=True)
        except PatternError as error:
            raise refused(f"{place}/pattern", str(error)) from None
    if pattern is not None:
        way = pattern.automaton.rest(pattern.automaton.start, int(least))
        if len(way) < least or (most is not None and len(way) > most):
            raise refused(place, "no string has this pattern or format and this length")
        if pattern.max_length is not None and (most is None or most >= pattern.max_length):
            most = None  # the pattern says it
    return String(int(least), None if most is None else int(most), pattern)


def number_form(schema: dict[str, Any], place: str) -> Node:
    """Numbers that a schema accepts, integers among them.

    Raises:
        DataError: there are none, or they are multiples of a fraction.
    """
    if "multipleOf" in schema:
        step = schema["multipleOf"]
        if step != int(step):
            raise refused(
                f"{place}/multipleOf",
                f"{step}: fractions are not supported, as no double is exactly 0.29",
                "count in the smaller unit, as an integer",
            )
        return integer_form(schema, place)
    low, above, high, below = _bounds(schema, place)
    if low is None and high is None:
        return Match(read_pattern(ANY_NUMBER))
    low = Decimal(-LARGEST) if low is None else low
    high = Decimal(LARGEST) if high is None else high
    regex = numbers_between(low, high, above=above, below=below) if low <= high else None
    if regex is None:
        raise refused(place, f"no number is between {low} and {high}")
    return Match(read_pattern(regex))


def integer_form(schema: dict[str, Any], place: str) -> Node:
    """Integers that a schema accepts.

    Raises:
        DataError: there are none.
    """
    low, above, high, below = _bounds(schema, place)
    first = -LARGEST if low is None else int(low.to_integral_value("ROUND_CEILING"))
    last = LARGEST if high is None else int(high.to_integral_value("ROUND_FLOOR"))
    first += above and first == low
    last -= below and last == high
    if first > last:
        raise refused(place, f"no integer is between {first} and {last}")
    step = int(schema.get("multipleOf", 1))
    if step == 1:
        return Match(read_pattern(integers_between(first, last)))
    if -(-first // step) * step > last:
        raise refused(place, f"no multiple of {step} is between {first} and {last}")
    return Multiple(first, last, step)


def _bounds(
    schema: dict[str, Any], place: str
) -> tuple[Decimal | None, bool, Decimal | None, bool]:
    """Least and greatest value, each with whether it is itself left out."""
    found: list[Any] = []
    for plain, strict, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        given = [
            (sign * Decimal(repr(schema[word])), word == strict)
            for word in (plain, strict)
            if word in schema
        ]
        bound, leaves_out = max(given, default=(None, False))
        found += [None if bound is None else sign * bound, leaves_out]
        if bound is not None and abs(bound) > 10**15 * LARGEST:
            raise refused(f"{place}/{plain}", "bounds this large are not supported")
    return found[0], found[1], found[2], found[3]


def is_note(word: str) -> bool:
    """Whether a keyword says nothing about which values are valid."""
    return word in NOTES or word.startswith("x-")


def refused(place: str, why: str, hint: str = "") -> DataError:
    """The error of a schema; `place` is a JSON pointer."""
    return DataError(f"schema at {place}: {why}", hint=hint)
