r"""Final answers of mathematics in LaTeX: where one stands in a text, and when two say the same.

Two answers are the same if their normal forms are the same text, or the same number, or lists of
such. A normal form has no dollar signs, spaces, sizes of brackets, units and degrees; `\frac12` is
`\frac{1}{2}`. Source: the rules of Hendrycks et al., arXiv:2103.03874 (math_equivalence.py), and of
Lewkowycz et al., arXiv:2206.14858, appendix D. Ours beyond theirs: numbers are compared as numbers,
and lists without brackets in any order. Theirs and not ours: Lewkowycz et al. take away a long list
of words, such as `sue` and `a`, wherever they stand, and bars, so that $0.\overline{3}$ is 0.3.
"""

from __future__ import annotations

import re
from fractions import Fraction

from afm_mlx.synthetic.checks import as_number

_STATED = re.compile(
    r"[Ff]inal answer is:?\s*(.*?)\s*(?:\.?\s*I hope it is correct|$)", re.MULTILINE
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_GONE = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-zA-Z])|(?<!\\)\\[!,;:> ]"
    r"|\\?\$|\\?%|\^\{?\\circ\}?|~|\s"
)
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}")
_AND = re.compile(r"\s*,?\s*\\(?:text|mbox)\{\s*(?:and|or)\s*\}\s*|\s*,?\s+(?:and|or)\s+")
_UNIT = re.compile(r"(?<=[\d}])\s*\\(?:text|mbox|textrm|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?\s*$")
_SHORT_FRACTION = re.compile(r"\\frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))")
_SHORT_ROOT = re.compile(r"\\sqrt(\[[^\]]*\])?(\w)")
_SLASHED = re.compile(r"(-?\d+)/(-?\d+)")
_NAMED = re.compile(r"^\\?[a-zA-Z]{1,2}(?:=|\\in)(?=.)")
_GROUPED = re.compile(r"-?\d{1,3}(?:\{?,\}?\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"(-?)(\d*)\\frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}")
_SAME = str.maketrans({"\u2212": "-", "\u00d7": r"\times", "\u03c0": r"\pi", "\u221e": r"\infty"})
_OPEN, _CLOSE = "([{", ")]}"


def final_answer(text: str) -> str | None:
    r"""What a solution answers: after "final answer is", else in its last box.

    >>> final_answer(r"So $x = \boxed{\frac{1}{2}}$."), final_answer("It is 3.")
    ('\\frac{1}{2}', None)
    """
    return stated_answer(text) or last_boxed(text)


def stated_answer(text: str) -> str | None:
    """The answer in the form of the four examples; None where it has none."""
    found = _STATED.search(text)
    if not found:
        return None
    return last_boxed(found[1]) or found[1].rstrip(".") or None


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed` or `\fbox` holds; None where there is none that is closed."""
    for box in reversed(list(_BOX.finditer(text))):
        rest = text[box.end() :]
        if not rest.startswith("{"):  # \boxed 5
            return re.split(r"[\s$]", rest, maxsplit=1)[0] or None
        depth = 0
        for place, character in enumerate(rest):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return rest[1:place]
    return None


def same_answer(one: str, other: str) -> bool:
    r"""Whether two answers say the same.

    >>> same_answer(r"\dfrac12", "0.5"), same_answer("(1, 2)", "(2, 1)")
    (True, False)
    """
    return _same(normal_form(one), normal_form(other))


def normal_form(answer: str) -> str:
    r"""An answer as it is compared.

    >>> normal_form(r"x = \dfrac 1{72}\text{ cm}^2"), normal_form(r"\$1,\!000")
    ('\\frac{1}{72}', '1000')
    """
    text = answer.translate(_SAME).strip().rstrip(".")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = _UNIT.sub("", _AND.sub(",", text))
    text = _GONE.sub("", _WORDS.sub(r"\1", text))
    if text.count("=") + text.count(r"\in") == 1:
        text = _NAMED.sub("", text)
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    text = _SHORT_FRACTION.sub(_whole_fraction, text)
    text = _SHORT_ROOT.sub(lambda part: rf"\sqrt{part[1] or ''}{{{part[2]}}}", text)
    if found := _SLASHED.fullmatch(text):
        text = rf"\frac{{{found[1]}}}{{{found[2]}}}"
    if _GROUPED.fullmatch(text):
        text = re.sub(r"[{},]", "", text)
    if re.fullmatch(r"\([A-Z]\)", text):  # a choice
        text = text[1]
    return text


def number_of(form: str) -> Fraction | None:
    """The exact value of a normal form that is a decimal number, a fraction or a mixed number."""
    if found := _FRACTION.fullmatch(form):
        above, below = as_number(found[3]), as_number(found[4])
        if above is None or not below:
            return None
        value = int(found[2] or 0) + above / below
        return -value if found[1] else value
    return as_number(form) if re.fullmatch(r"[-+]?\d+(?:\.\d*)?", form) else None


def _same(one: str, other: str) -> bool:
    word = one.isalpha() and len(one) > 2
    if one == other or (word and one.casefold() == other.casefold()):
        return True
    numbers = number_of(one), number_of(other)
    if None not in numbers:
        return numbers[0] == numbers[1]
    parts, others = _parts(one), _parts(other)
    if len(parts) != len(others) or len(parts) + len(others) == 2:
        return _same_in_brackets(one, other)
    left = list(others)
    for part in parts:
        match = next((each for each in left if _same(part, each)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_in_brackets(one: str, other: str) -> bool:
    """Whether two points, intervals or sets are the same: bracket by bracket, in this order."""
    ends = [(form[:1], form[-1:]) for form in (one, other)]
    if ends[0] != ends[1] or ends[0][0] not in _OPEN or ends[0][1] not in _CLOSE or not one:
        return False
    parts, others = _parts(one[1:-1]), _parts(other[1:-1])
    if len(parts) != len(others) or parts == [one] or len(parts) < 2:
        return False
    return all(map(_same, parts, others))


def _parts(form: str) -> list[str]:
    """Between commas that no bracket holds."""
    parts, depth = [""], 0
    for character in form:
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _whole_fraction(part: re.Match[str]) -> str:
    above = part[2] if part[1] is None else part[1]
    below = part[4] if part[3] is None else part[3]
    return rf"\frac{{{above}}}{{{below}}}"
