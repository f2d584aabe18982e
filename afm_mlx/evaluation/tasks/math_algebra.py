"""Whether two answers are equal as algebra, by sympy: where their texts do not tell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

from afm_mlx.errors import DataError

SECONDS = 5.0
"""Longest time for two answers; what takes longer is not equal. Source: lm-evaluation-harness."""

PACKAGES = ("sympy", "antlr4")


class _TooLongError(Exception):
    """The time is over."""


def check_packages() -> None:
    """Refuse to begin without sympy and what it needs to read LaTeX.

    Raises:
        DataError: a package is missing.
    """
    for package in PACKAGES:
        if not find_spec(package):
            raise DataError(
                f"algebra needs the package {package}", hint="pip install 'afm-mlx[math]'"
            )


def equal_as_algebra(one: str, other: str) -> bool:
    """Whether the difference of two expressions in LaTeX is 0.

    >>> equal_as_algebra("(x+1)^2", "x^2+2x+1"), equal_as_algebra("x", "y")
    (True, False)
    """
    from sympy import SympifyError, simplify
    from sympy.parsing.latex import parse_latex
    from sympy.parsing.latex.errors import LaTeXParsingError

    # What is no expression, such as an interval, fails in as many ways as sympy has.
    unequal = (
        _TooLongError, LaTeXParsingError, SympifyError, ArithmeticError, AttributeError,
        LookupError, NotImplementedError, RecursionError, TypeError, ValueError,
    )  # fmt: skip
    try:
        with _limited(SECONDS):
            return bool(simplify(parse_latex(one) - parse_latex(other)) == 0)
    except unequal:
        return False


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _TooLongError after a time. Only the main thread of a program can be stopped so."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
