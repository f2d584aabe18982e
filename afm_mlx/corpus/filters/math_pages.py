"""Which pages are about mathematics: by tags, symbols, a classifier, and a list of domains.

The four filters are those of arXiv:2407.21075 and the notes on it, which say that there were 40
template strings and 350 symbols, and not which ones: both lists are ours.

Tags are in a page's HTML and most of them are gone from its text; symbols are in the text. So run
the filter twice, before extraction to mark pages and after it to decide: what the first pass found
is in the fact `math`, and counts in the second.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from afm_mlx.corpus.filters.quality import QualityModel
from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.errors import DataError
from afm_mlx.settings.quality import MathPages

RULE = "math.not-math"

TAGS = (
    # MathML, also with a prefix and as escaped text; and its parts that pages hold without it.
    *("<math>", "<math ", "<m:math", "<mml:math", "&lt;math", "</mfrac>", "</msup>", "</mrow>"),
    *("http://www.w3.org/1998/math/mathml", "application/mathml"),
    # MathJax: its scripts, containers, and configuration.
    *("mathjax.js", "mathjax@", "mathjax.hub", "mathjax_", "<mjx-", "mjx-container", "tex2jax"),
    *("mathjax-", "math/tex", "math/asciimath", "asciimath"),
    # KaTeX.
    *("katex.min.js", "katex.min.css", "katex-display", "katex-html", "katex-mathml"),
    # Classes and addresses of formulas in wikis, blogs, forums and journals.
    *(
        "mwe-math-element",
        "mwe-math-fallback",
        "math-container",
        "wp-katex-eq",
        "application/x-tex",
    ),
    *("latex.php?", "latex.codecogs.com", "mathtex.cgi", "mimetex.cgi", "data-latex=", "ltx_math"),
    # LaTeX that authors write into pages.
    *(
        "\\begin{equation",
        "\\begin{align",
        "\\begin{theorem",
        "\\documentclass",
        "\\usepackage{ams",
    ),
)
"""Template strings, in lower case: each is found in any case, anywhere in the page."""

_COMMANDS = """
frac dfrac tfrac sqrt sum prod int iint oint lim limsup liminf infty partial nabla forall exists
nexists emptyset varnothing notin subset supset subseteq supseteq cup cap setminus times cdot cdots
ldots leq geq neq approx equiv cong simeq propto perp oplus otimes wedge vee neg implies iff mapsto
rightarrow leftarrow Rightarrow Leftarrow leftrightarrow Leftrightarrow hookrightarrow alpha beta
gamma epsilon varepsilon zeta theta lambda sigma varphi phi psi omega Gamma Delta Theta Lambda Sigma
Phi Psi Omega mathbb mathcal mathbf mathrm mathfrak operatorname overline widehat binom pmatrix
langle rangle lfloor rfloor lceil rceil bmod pmod hbar ell aleph
"""
LATEX_COMMANDS = frozenset(_COMMANDS.split())
"""Commands of formulas; without those that are also common words of paths, such as `log`."""


def _unicode_symbols() -> frozenset[str]:
    """Symbols by rule: operators, and letters and arrows that hardly occur outside formulas.

    Not Greek letters, which are most of a Greek text; not mathematical alphabets, which decorate
    advertisements; and not the minus sign, bullets and ratio of ordinary typesetting.
    """
    operators = {chr(code) for code in range(0x2200, 0x2300)} - set(
        "\u2212\u2215\u2217\u2219\u2236"
    )
    letters = {
        chr(code)
        for code in range(0x2100, 0x2150)
        if "DOUBLE-STRUCK" in unicodedata.name(chr(code), "")
    }
    letters |= set("\u2102\u210b\u210f\u2112\u2113\u2118\u2135\u2136")
    arrows = set("\u21a6\u21aa\u21cc\u21d2\u21d4\u27e8\u27e9\u27f6\u27f9\u27fa")
    return frozenset(operators | letters | arrows)


UNICODE_SYMBOLS = _unicode_symbols()
_SYMBOL = re.compile(rf"\\([A-Za-z]{{2,20}})|([{re.escape(''.join(sorted(UNICODE_SYMBOLS)))}])")


class MathPageFilter:
    """Adds the fact `math`, and where told drops pages that are not mathematics.

    The fact holds `is_math`, `tags` (the template strings found), `symbols` (different ones),
    `symbols_per_1000_chars`, `domain` (whether listed), and `score` where there is a classifier.
    """

    def __init__(self, settings: MathPages) -> None:
        """Read the list of domains and the classifier, if named.

        Raises:
            DataError: one of them cannot be read.
        """
        self.settings = settings
        self.domains = read_domains(Path(settings.domains)) if settings.domains else frozenset()
        self.model = QualityModel.open(Path(settings.model)) if settings.model else None

    def __call__(self, record: Record) -> Record | Drop:
        """The record with what was found, or why it goes."""
        fact = self._look(record)
        if self.settings.drop and not fact["is_math"]:
            return drop(record, RULE, self._evidence(fact))
        return replace(record, facts=record.facts | {"math": fact})

    def _look(self, record: Record) -> dict[str, Any]:
        settings = self.settings
        text = record.text[: settings.max_chars]
        earlier = record.facts.get("math")
        tags = set(find_tags(text))
        if isinstance(earlier, dict):
            tags |= set(earlier.get("tags", ()))
        symbols, per_1000 = count_symbols(text)
        listed = any(domain in self.domains for domain in domains_of(record.url))
        by_symbols = symbols >= settings.least_symbols
        by_symbols = by_symbols and per_1000 >= settings.symbols_per_1000_chars
        is_math = listed or len(tags) >= settings.least_tags or by_symbols
        fact: dict[str, Any] = {
            "tags": sorted(tags),
            "symbols": symbols,
            "symbols_per_1000_chars": round(per_1000, 3),
            "domain": listed,
        }
        if self.model:
            fact["score"] = float(self.model.scores([text])[0])
            is_math = is_math and fact["score"] >= settings.model_threshold
        return fact | {"is_math": is_math}

    def _evidence(self, fact: dict[str, Any]) -> str:
        settings = self.settings
        evidence = (
            f"{len(fact['tags'])} of {settings.least_tags} tags; "
            f"{fact['symbols']} of {settings.least_symbols} symbols, "
            f"{fact['symbols_per_1000_chars']:g} of {settings.symbols_per_1000_chars:g} "
            "per 1000 characters"
        )
        if "score" in fact:
            evidence += f"; score {fact['score']:.3f}, threshold {settings.model_threshold:g}"
        return evidence


def find_tags(page: str) -> list[str]:
    """Template strings of `TAGS` that occur in a page, in any case."""
    lowered = page.lower()
    return [tag for tag in TAGS if tag in lowered]


def count_symbols(text: str) -> tuple[int, float]:
    """Different symbols in a text, and occurrences among a thousand characters."""
    found: set[str] = set()
    count = 0
    for match in _SYMBOL.finditer(text):
        command, symbol = match.groups()
        if symbol or command in LATEX_COMMANDS:
            found.add(symbol or command)
            count += 1
    return len(found), 1000 * count / max(len(text), 1)


def domains_of(url: str) -> Iterator[str]:
    """The host of an address and the domains above it: `a.b.org`, `b.org`, `org`; or nothing."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # such as a broken IPv6 address
        return
    labels = host.strip(".").split(".") if host else []
    for start in range(len(labels)):
        yield ".".join(labels[start:])


def read_domains(path: Path) -> frozenset[str]:
    """Domains of a file, one a line; "#" starts a comment.

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"the list of domains {path} cannot be read: {reason}") from None
    names = (line.partition("#")[0].strip().strip(".").lower() for line in lines)
    return frozenset(name for name in names if name)
