"""SPDX expressions: writing them in one form, and whether a list of licenses allows one."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from itertools import accumulate

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

_PERMISSIVE = """
    0BSD AFL-2.1 AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause
    BSD-2-Clause-Patent BSD-3-Clause BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-4-Clause BSL-1.0
    bzip2-1.0.6 CC-BY-3.0 CC-BY-4.0 CC0-1.0 CNRI-Python curl ECL-2.0 FSFAP HPND HPND-sell-variant
    ICU ISC libpng-2.0 Libpng MIT MIT-0 MIT-CMU MIT-Modern-Variant MIT-open-group MulanPSL-2.0 NCSA
    NTP OpenSSL PDDL-1.0 PHP-3.01 PostgreSQL PSF-2.0 Python-2.0 Python-2.0.1 SGI-B-2.0
    Spencer-99 TCL Unicode-3.0 Unicode-DFS-2016 Unlicense UPL-1.0 W3C WTFPL X11
    X11-distribute-modifications-variant Xnet Zlib ZPL-2.0 ZPL-2.1
"""
PERMISSIVE = frozenset(_PERMISSIVE.split())
"""What `permissive` stands for: licenses that ask for no more than a notice. Ours."""

DEEPEST = 20
"""Most parentheses inside each other in an expression; more is no license. Ours."""

ANY = "any"
"""Stands for every license that is known."""
PERMISSIVE_WORD = "permissive"

NOT_KNOWN = "NOASSERTION"
"""SPDX's word for: a license is stated, and which one cannot be told."""

# Only the GNU licenses have ids without "-only", from before SPDX 3.0.
_GNU = re.compile(r"\b((?:AGPL|GPL|LGPL|GFDL)-\d+\.\d+)(\+?)(?![\w.-])")


@lru_cache(maxsize=4_096)
def spdx(text: str) -> str | None:
    """The SPDX expression that a text is, in its usual spelling; None if it is none.

    >>> spdx("mit or gpl-2.0+")
    'MIT OR GPL-2.0-or-later'
    >>> spdx("((GPL-2.0-only WITH Linux-syscall-note) OR MIT)")
    'GPL-2.0-only WITH Linux-syscall-note OR MIT'
    """
    depth = max(accumulate((one == "(") - (one == ")") for one in text), default=0)
    if depth > DEEPEST:
        return None
    try:
        written: str = canonicalize_license_expression(" ".join(text.split()))
    except InvalidLicenseExpression:
        return None
    # Linux writes parentheses around single ids and around the whole.
    written = re.sub(r"\(([^()\s]+( WITH [^()\s]+)?)\)", r"\1", written)
    written = re.sub(r"^\(([^()]*)\)$", r"\1", written)
    return _GNU.sub(lambda found: found[1] + ("-or-later" if found[2] else "-only"), written)


def stated(text: str) -> str:
    """The SPDX expression that a text states; NOT_KNOWN for other words, empty for none."""
    return (spdx(text) or NOT_KNOWN) if text.strip() else ""


def both(licenses: Collection[str]) -> str:
    """The expression for a text that several licenses cover at once.

    >>> both(["MIT", "Apache-2.0 OR BSL-1.0", "MIT"])
    'MIT AND (Apache-2.0 OR BSL-1.0)'
    """
    distinct = list(dict.fromkeys(licenses))
    if len(distinct) == 1:
        return distinct[0]
    return " AND ".join(f"({one})" if " OR " in one else one for one in distinct)


def ids_in(expression: str) -> list[str]:
    """Ids of licenses in an expression, without exceptions and operators."""
    plain = re.sub(r" WITH [^\s()]+", "", expression)
    return [word for word in re.findall(r"[^\s()]+", plain) if word not in ("AND", "OR")]


@lru_cache(maxsize=4_096)
def allows(allowed: frozenset[str], expression: str) -> bool:
    """Whether a list of ids allows an expression: of OR one side is enough, of AND both must be.

    An exception (`WITH`) only gives more rights, and so does `+`: the license alone decides.

    >>> allows(frozenset({"MIT"}), "MIT OR GPL-3.0-only"), allows(frozenset({"MIT"}), "MIT AND ISC")
    (True, False)
    """
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r" WITH [^\s()]+", "", expression))
    return _one_side(tokens, allowed)


def _one_side(tokens: list[str], allowed: frozenset[str]) -> bool:
    result = _both_sides(tokens, allowed)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        result = _both_sides(tokens, allowed) or result
    return result


def _both_sides(tokens: list[str], allowed: frozenset[str]) -> bool:
    result = _single(tokens, allowed)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        result = _single(tokens, allowed) and result
    return result


def _single(tokens: list[str], allowed: frozenset[str]) -> bool:
    token = tokens.pop(0)
    if token == "(":
        result = _one_side(tokens, allowed)
        tokens.pop(0)
        return result
    known = ANY in allowed and token != NOT_KNOWN
    return known or token in allowed or token.removesuffix("+") in allowed


def allow_list(licenses: Collection[str]) -> frozenset[str]:
    """Ids that a setting names, with `permissive` written out."""
    names = frozenset(licenses)
    return names | PERMISSIVE if PERMISSIVE_WORD in names else names
