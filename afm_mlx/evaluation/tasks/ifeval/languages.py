"""The language of a response, as langdetect tells it.

langdetect draws which pieces of a text it looks at. The official code lets it draw anew each time,
so that verdicts on short or mixed texts change between runs; here the draws are always the same.
langdetect_rs gives the same answers as langdetect, faster.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

SEED = 0
"""Of the draws. Ours."""


@cache
def _detector() -> ModuleType:
    try:
        import langdetect_rs as detector
    except ImportError:
        import langdetect as detector

    detector.DetectorFactory.seed = SEED
    return detector


def is_in_language(text: str, language: str) -> bool:
    """Whether a text is in a language, given as langdetect's code such as `en`.

    A text without letters is in every language, as in the official code.
    """
    detector = _detector()
    try:
        return detector.detect(text) == language
    except detector.LangDetectException:
        return True
