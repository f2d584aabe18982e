"""Personal data in text: found by one scan, each find validated, then masked or dropped.

The scan stops at characters that every kind must contain (`@`, a digit, `+` or an opening
bracket), so that prose costs next to nothing; what has the shape of a kind is then checked by its
own rule (Luhn, mod 97, assigned ranges, numbering plans). Digits and addresses are ASCII.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.settings.filters import Pii, PiiKind, PiiMode

# Each branch begins behind the first character. A number does not begin inside a word, a decimal
# or a chain of hyphens (an identifier), and does not end there.
_START = r"(?<![\w-].)(?<![0-9][.,:].)"
_END = r"(?![\w]|[.,:/-][0-9]|-\w)"
_SCAN = re.compile(
    rf"""[@+(0-9](?:
      (?<=@)(?P<email>(?:[A-Za-z0-9\u00c0-\u024f-]{{1,63}}\.){{1,8}}[A-Za-z]{{2,24}})(?![A-Za-z0-9-])
    | (?<=[A-Z]{{2}}[0-9])(?<![0-9A-Za-z_][A-Z]{{2}}.)(?P<iban>[0-9](?:[ ]?[0-9A-Z]){{11,30}})
    | (?<=[23])(?<![\w:.].)(?P<ipv6>[0-9a-fA-F]{{3}}(?::{{1,2}}[0-9a-fA-F]{{1,4}}){{2,7}})(?![\w:])
    | (?<=[0-9]){_START}(?:
        (?P<ipv4>[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}})(?!\w|[.-]\w)
      | (?P<ssn>[0-9]{{2}}(?P<s>[- ]?)[0-9]{{2}}(?P=s)[0-9]{{4}}){_END}
      | (?P<card>[0-9]{{3}}(?P<c>[- ])[0-9]{{4}}(?P=c)[0-9]{{4}}(?P=c)[0-9]{{4}}
          |[0-9]{{3}}(?P<a>[- ])[0-9]{{6}}(?P=a)[0-9]{{4,5}}|[0-9]{{13,15}}){_END}
      )
    | (?=(?:[ .()/\u00a0\u2011-]{{0,3}}[0-9]){{6}}){_START}
      (?P<phone>(?:(?<=[0-9])|(?<=\+)\(?[0-9]|(?<=\()\+?[0-9])[0-9]{{0,14}}
        (?:[ .()/\u00a0\u2011-]{{1,3}}[0-9]{{2,12}}){{0,7}})
    )""",
    re.VERBOSE,
)
_LOCAL_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'")
_LONGEST_LOCAL_PART = 64  # characters; RFC 5321, section 4.5.3.1.1
# Not top-level domains, but what follows `@2x.` in names of pictures and `pkg@latest.` in code.
_FILE_ENDINGS = frozenset(
    ["png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "html"]
)

_CONTEXT_CHARACTERS = 24  # before a number, where a word may say what it is; ours
_PHONE_WORD = re.compile(
    r"(?i)\b(?:tele?(?:phone|fon\w*|f\w*)?|t[ée]l[ée]phone|t[ée]l|phone|mobile?|m[óo]vil|cell"
    r"|handy|fax|whatsapp|sms|text|call|dial|hotline|contact)\b|[\u260e\U0001f4de\U0001f4f1]"
)
_SSN_WORD = re.compile(r"(?i)\bSSN\b|social security")
_VERSION_WORD = re.compile(
    r"(?i)(?:\b(?:v|ver|version|release|build|rev|revision|section|sec|chapter|firmware|driver"
    r"|update|sdk|api)\.?:?[ ]?|[=<>~^]=?\s*|[A-Za-z]/|\xa7\s?)$"
)
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-/. ][0-9]{1,2}[-/. ]|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][12][0-9]"
)
_LEAST_DIGITS, _MOST_DIGITS = 7, 15  # of a telephone number; ours, and ITU-T E.164
_GROUP = re.compile(r"[0-9]+")
_SEPARATORS = str.maketrans("", "", " -")

_OBJECT_IDS = ("1.3.", "2.5.")  # how most object identifiers of ASN.1 begin

# Letters and digits of an IBAN. Source: the SWIFT IBAN registry.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FK FO FI GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


class Find(NamedTuple):
    """Personal data from character `start` to before `stop`."""

    kind: PiiKind
    start: int
    stop: int


class PiiFilter:
    """Masks personal data, or drops the documents that have it.

    Adds `facts["pii"]`, the finds of each kind, where there are any. Rules: `pii.found` (mode
    drop) and `pii.too-many`. Evidence counts and never quotes.

    Raises:
        DataError: phonenumbers is not installed.
        RecipeError: the region is not one of its countries.
    """

    def __init__(self, settings: Pii) -> None:
        self.settings = settings
        self._kinds = frozenset(settings.kinds)
        self._phones = _Phones(settings.region) if PiiKind.PHONE in self._kinds else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.settings,)

    def __call__(self, record: Record) -> Record | Drop:
        """The record without personal data, or a drop."""
        finds = list(self.find(record.text))
        if not finds:
            return record
        counts = Counter(find.kind.value for find in finds)
        evidence = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        if self.settings.mode is PiiMode.DROP:
            return drop(record, "pii.found", evidence)
        if len(finds) > self.settings.most_finds:
            return drop(record, "pii.too-many", f"{evidence}; most {self.settings.most_finds}")
        facts = {**record.facts, "pii": dict(sorted(counts.items()))}
        return replace(record, text=_mask(record.text, finds), facts=facts)

    def find(self, text: str) -> Iterator[Find]:
        """Finds of the wanted kinds, from left to right, without overlap."""
        position = 0
        while match := _SCAN.search(text, position):
            shape = match.lastgroup or ""
            found, resume = self._check(shape, text, match)
            # A number that is an address or a card of a kind not wanted is no telephone number.
            if found is not None and found.kind in self._kinds and found.start >= position:
                yield found
                resume = found.stop
            position = max(resume, match.start() + 1)

    def _check(self, shape: str, text: str, match: re.Match[str]) -> tuple[Find | None, int]:
        """The find in a match, if it is one, and where to look on otherwise."""
        if shape == "phone":
            if self._phones is None:
                return None, match.start() + 1
            return self._phones(text, match)
        start, stop = _CHECKS[shape](text, match)
        return (Find(_KINDS[shape], start, stop) if stop else None), match.end()


def _mask(text: str, finds: list[Find]) -> str:
    parts, position = [], 0
    for find in finds:
        parts += [text[position : find.start], f"<{find.kind.value}>"]
        position = find.stop
    return "".join(parts) + text[position:]


_NOTHING = (0, 0)  # start and stop of no find


def _email(text: str, match: re.Match[str]) -> tuple[int, int]:
    at = start = match.start()
    while start and at - start < _LONGEST_LOCAL_PART and text[start - 1] in _LOCAL_PART:
        start -= 1
    while start < at and text[start] in ".'-+%":
        start += 1
    local, ending = text[start:at], match["email"].rpartition(".")[2].lower()
    if not local or local == "git" or ending in _FILE_ENDINGS:
        return _NOTHING
    return start, match.end()


def _iban(text: str, match: re.Match[str]) -> tuple[int, int]:
    start = match.start() - 2
    length = _IBAN_LENGTHS.get(text[start : start + 2])
    if length is None:
        return _NOTHING
    stop, seen = start, 0
    while stop < match.end() and seen < length:
        seen += text[stop] != " "
        stop += 1
    code = text[start:stop].replace(" ", "")
    if seen < length or text[stop : stop + 1].isalnum():
        return _NOTHING
    number = int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4]))
    return (start, stop) if number % 97 == 1 else _NOTHING


def _ipv6(text: str, match: re.Match[str]) -> tuple[int, int]:
    return match.span() if _is_public(match[0]) else _NOTHING


def _ipv4(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Public addresses, except a version, an object identifier, or a resolver such as 8.8.8.8.

    Of a random address's four numbers, all are below 32 once in 4,096 times; of a version's,
    nearly always.
    """
    start = match.start()
    before = text[max(0, start - _CONTEXT_CHARACTERS) : start]
    version = max(map(int, match[0].split("."))) < 32 or _VERSION_WORD.search(before)
    if version or match[0].startswith(_OBJECT_IDS):
        return _NOTHING
    return match.span() if _is_public(match[0]) else _NOTHING


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


def _ssn(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Assigned ranges. Source: the Social Security Administration's randomization FAQ.

    Without hyphens, only where a word says what it is.
    """
    digits = match[0].translate(_SEPARATORS)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return _NOTHING
    before = text[max(0, match.start() - 2 * _CONTEXT_CHARACTERS) : match.start()]
    return match.span() if "-" in match[0] or _SSN_WORD.search(before) else _NOTHING


def _card(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Numbers of an issuer's range that pass Luhn's test (ISO/IEC 7812-1)."""
    digits = match[0].translate(_SEPARATORS)
    if not _is_of_an_issuer(digits) or text[max(0, match.start() - 1) : match.start()] in (
        "/",
        "#",
    ):
        return _NOTHING
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return match.span() if (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0 else _NOTHING


def _is_of_an_issuer(digits: str) -> bool:
    """Whether length and leading digits are those of Visa, Mastercard, Discover, JCB, ..."""
    four, two = int(digits[:4]), int(digits[:2])
    if len(digits) == 14:
        return two in (36, 38, 39) or 3_000 <= four <= 3_059
    if len(digits) == 15:
        return two in (34, 37)
    return (
        digits[0] == "4"
        or 51 <= two <= 55
        or 2_221 <= four <= 2_720
        or four == 6_011
        or 6_440 <= four <= 6_599
        or 3_528 <= four <= 3_589
        or two == 62
    )


_CHECKS: dict[str, Callable[[str, re.Match[str]], tuple[int, int]]] = {
    "email": _email,
    "iban": _iban,
    "ipv6": _ipv6,
    "ipv4": _ipv4,
    "ssn": _ssn,
    "card": _card,
}
_KINDS = {name: PiiKind("ip" if name.startswith("ip") else name) for name in _CHECKS}


class _Phones:
    """Telephone numbers by the numbering plans of Google's libphonenumber.

    A number with + and country code counts if it is valid. One without must be valid in the
    region and either be grouped as numbers there are written, or follow a word such as "phone".
    """

    def __init__(self, region: str) -> None:
        try:
            import phonenumbers
        except ImportError as error:
            raise DataError(
                "telephone numbers need phonenumbers", hint="pip install 'afm-mlx[corpus]'"
            ) from error
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise RecipeError(
                f"no telephone numbers are known for region '{region}'",
                hint="pii.region is a country's two letters, such as US",
            )
        self._library = phonenumbers
        self._region = region
        plan: Any = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
        self._prefix = plan.national_prefix or ""
        lengths = set(plan.general_desc.possible_length)
        self._lengths = lengths | {length + len(self._prefix) for length in lengths}
        # How numbers are grouped there, and whether the prefix is written with them.
        self._groupings = [
            (re.compile(form.pattern), self._prefix in (form.national_prefix_formatting_rule or ""))
            for form in plan.number_format
        ]

    def __call__(self, text: str, match: re.Match[str]) -> tuple[Find | None, int]:
        """The longest number that begins where `match` does, and where to look on otherwise."""
        start = match.start()
        groups = list(_GROUP.finditer(text, start, match.end()))
        foreign = "+" in text[start : start + 2]
        sizes = list(accumulate(group.end() - group.start() for group in groups))
        counts = [n for n in range(len(groups), 0, -1) if self._has_size(sizes[n - 1], foreign)]
        named = bool(counts) and bool(
            _PHONE_WORD.search(text, max(0, start - _CONTEXT_CHARACTERS), start)
        )
        for count in counts:
            stop = groups[count - 1].end()
            number = text[start:stop]
            usual = foreign or named or self._grouped([group[0] for group in groups[:count]])
            if not usual or _continues(text, stop) or _DATE.match(number):
                continue
            if self._is_number(number, foreign or named):
                return Find(PiiKind.PHONE, start, stop), stop
        return None, groups[0].end()

    def _has_size(self, digits: int, foreign: bool) -> bool:
        if foreign:
            return _LEAST_DIGITS <= digits <= _MOST_DIGITS
        return digits >= _LEAST_DIGITS and digits in self._lengths

    def _grouped(self, written: list[str]) -> bool:
        """Whether groups of digits are, in length, those of some number of the region."""
        prefix, first = self._prefix, written[0]
        prefixed = bool(prefix) and first.startswith(prefix)
        bare = [first[len(prefix) :], *written[1:]] if prefixed else written
        for groups, has_prefix in ((written, False), ([part for part in bare if part], prefixed)):
            for pattern, needs_prefix in self._groupings:
                form = pattern.fullmatch("".join(groups))
                if form and [*form.groups()] == groups and (has_prefix or not needs_prefix):
                    return True
        return False

    def _is_number(self, number: str, any_grouping: bool) -> bool:
        library = self._library
        try:
            parsed = library.parse(number, self._region)
        except library.NumberParseException:
            return False
        if not library.is_valid_number(parsed):
            return False
        usual = library.format_number(parsed, library.PhoneNumberFormat.NATIONAL)
        groups, written = _GROUP.findall(usual), _GROUP.findall(number)
        return any_grouping or (
            len(groups) > 1 and written in (groups, [str(parsed.country_code), *groups])
        )


def _continues(text: str, stop: int) -> bool:
    """Whether a number's end at `stop` is the middle of something longer."""
    after = text[stop : stop + 2]
    return (
        after[:1].isalnum()
        or after[:1] == "_"
        or (len(after) == 2 and after[0] in ".,:/-" and after[1].isalnum())
    )
