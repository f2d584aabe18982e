"""Sections of the filters that look at one document at a time.

Sources: Gopher is arXiv:2112.11446, table A1 and appendix A.1.1; C4 is arXiv:1910.10683, section
2.2; FineWeb is arXiv:2406.17557, sections 3.5 and 3.6, and its code in datatrove; Codex is
arXiv:2107.03374, section 3.1. AFM's own thresholds are not public. `Ours`: nobody has published it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section

LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
RegionCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Shares = tuple[Fraction, ...]


class Language(Section):
    """Which languages a document may be written in."""

    wanted: tuple[LanguageCode, ...] = ("en",)
    """Codes as fastText's lid.176 has them: ISO 639-1, or 639-3 where there is none. An empty list
    keeps all languages and only names them."""
    least_probability: Fraction = 0.65
    """Probability, 0 to 1, below which a language does not count as found. Source: FineWeb."""
    sample_characters: Count = 1_500
    """Characters looked at: a third each from the start, the middle and the end. Ours."""


class PiiKind(StrEnum):
    """Kinds of personal data; each is also its replacement, such as `<email>`."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"
    SSN = "ssn"
    IBAN = "iban"
    IP = "ip"


class PiiMode(StrEnum):
    """What happens to a document with personal data."""

    MASK = "mask"
    DROP = "drop"


class Pii(Section):
    """Personal data in text. R24 removes it, the device's paper names ssn and card."""

    mode: PiiMode = PiiMode.MASK
    """mask: each find becomes its kind, as in `<email>`; drop: a document with any find goes."""
    kinds: tuple[PiiKind, ...] = tuple(PiiKind)
    """What is looked for: email, phone, card (Luhn), ssn (United States), iban, ip (public)."""
    most_finds: Annotated[int, Field(ge=0)] = 20
    """A document with more finds is dropped, also when masking: it is a list of people. Ours."""
    region: RegionCode = "US"
    """Country (ISO 3166-1) whose phone numbers count without a leading + and country code."""


class Words(Section):
    """Profane and unsafe words, rated by severity."""

    path: str
    """The word list: a CSV file with columns `text` (or `word`) and `severity_rating` (or
    `severity`; 1 to 3), or a text file with a word or phrase on each line. None comes with us."""
    unrated_severity: Positive = 1.0
    """Severity of the words of a file without ratings. Ours: mild, since such lists hold words
    that reports on crime or health need."""
    strong_from: Positive = 1.5
    """Severity from which a word counts as strong; below, as mild. Source: the ratings of the
    Surge profanity list, mild 1 to 1.4, strong 1.6 to 2.4, severe from 2.6."""
    severe_from: Positive = 2.5
    """Severity from which a word counts as severe. Source: as above."""
    most_mild: NotNegative = 20.0
    """Most mild words per 1,000 words. Ours; such lists rate many everyday words as mild."""
    most_strong: NotNegative = 5.0
    """Most strong words per 1,000 words. Ours."""
    most_severe: NotNegative = 1.0
    """Most severe words per 1,000 words. Ours."""
    least_words: Count = 200
    """Shorter documents are counted as this long, in words, so that one mild word does not drop a
    short one. Ours."""

    @model_validator(mode="after")
    def _severe_is_above_strong(self) -> Self:
        if self.severe_from < self.strong_from:
            raise ValueError(
                f"severe_from ({self.severe_from:g}) must be at least "
                f"strong_from ({self.strong_from:g})"
            )
        return self


class HeuristicRule(StrEnum):
    """The rules of `Heuristics`, in the order they are asked."""

    TOO_SHORT = "too-short"
    TOO_LONG = "too-long"
    SHORT_WORDS = "short-words"
    LONG_WORDS = "long-words"
    SYMBOLS = "symbols"
    ALPHABETIC_WORDS = "alphabetic-words"
    STOP_WORDS = "stop-words"
    LOREM_IPSUM = "lorem-ipsum"
    JAVASCRIPT = "javascript"
    CURLY = "curly"
    BULLETS = "bullets"
    ELLIPSES = "ellipses"
    PUNCTUATION = "punctuation"
    SHORT_LINES = "short-lines"
    LINE_LENGTH = "line-length"
    DUPLICATE_LINES = "duplicate-lines"
    DUPLICATE_LINE_CHARACTERS = "duplicate-line-characters"
    DUPLICATE_PARAGRAPHS = "duplicate-paragraphs"
    DUPLICATE_PARAGRAPH_CHARACTERS = "duplicate-paragraph-characters"
    TOP_NGRAM = "top-ngram"
    DUPLICATE_NGRAMS = "duplicate-ngrams"


class Heuristics(Section):
    """Rules on a document's words and lines. Shares are 0 to 1. Lines that are blank never count.

    A word is a run of characters between spaces; in scripts without spaces, one character.
    """

    off: tuple[HeuristicRule, ...] = ()
    """Rules that are not asked, such as `stop-words`."""
    least_words: Count = 50
    """too-short: least words. Source: Gopher."""
    most_words: Count = 100_000
    """too-long: most words. Source: Gopher."""
    least_mean_word_length: Positive = 3.0
    """short-words: least mean length of a word, in characters; not asked of scripts without
    spaces. Source: Gopher."""
    most_mean_word_length: Positive = 10.0
    """long-words: most mean length of a word, in characters; as above. Source: Gopher."""
    most_symbols: Fraction = 0.1
    """symbols: most hash signs per word, and most ellipses per word. Source: Gopher."""
    least_alphabetic_words: Fraction = 0.8
    """alphabetic-words: least share of words with a letter. Source: Gopher."""
    least_stop_words: Count = 2
    """stop-words: least distinct words of `the be to of and that have with`; asked of documents
    in English only. Source: Gopher."""
    most_lorem_ipsum: Annotated[int, Field(ge=0)] = 0
    """lorem-ipsum: most times that `lorem ipsum` may occur. Source: C4."""
    most_javascript_lines: Fraction = 0.1
    """javascript: most share of lines that name it. Ours; C4 removes each such line."""
    most_curly_lines: Fraction = 0.3
    """curly: most share of lines with a curly bracket. Ours; C4 drops a page for one, which also
    costs the pages with LaTeX or code examples."""
    most_bullet_lines: Fraction = 0.9
    """bullets: most share of lines that start with a bullet. Source: Gopher."""
    most_ellipsis_lines: Fraction = 0.3
    """ellipses: most share of lines that end with an ellipsis. Source: Gopher."""
    least_punctuated_lines: Fraction = 0.12
    """punctuation: least share of lines that end with a mark that ends a sentence or closes a
    quotation. Source: FineWeb."""
    most_short_lines: Fraction = 0.67
    """short-lines: most share of lines of at most `short_line_characters`. Source: FineWeb."""
    short_line_characters: Count = 30
    """Longest line, in characters, that counts as short. Source: FineWeb."""
    most_mean_line_length: Positive = 100_000.0
    """line-length: most mean length of a line, in characters; a guard against data in one line.
    Ours. For source code, Codex has 100."""
    most_duplicate_lines: Fraction = 0.3
    """duplicate-lines: most share of lines that an earlier line equals. Source: Gopher."""
    most_duplicate_line_characters: Fraction = 0.1
    """duplicate-line-characters: their most share of characters. Source: FineWeb; Gopher 0.2."""
    most_duplicate_paragraphs: Fraction = 0.3
    """duplicate-paragraphs: most share of paragraphs that an earlier one equals; a paragraph ends
    at a blank line. Source: Gopher."""
    most_duplicate_paragraph_characters: Fraction = 0.2
    """duplicate-paragraph-characters: their most share of characters. Source: Gopher."""
    most_top_ngram: Shares = (0.20, 0.18, 0.16)
    """top-ngram: most share of the words' characters in the most frequent run of 2, 3, 4, ...
    words, where it occurs twice at least; 1 switches a length off. Source: Gopher."""
    most_duplicate_ngrams: Shares = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """duplicate-ngrams: most share of the words' characters in runs of 5, 6, 7, ... words that
    occurred before; 1 switches a length off. Source: Gopher."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.most_words < self.least_words:
            raise ValueError(
                f"most_words ({self.most_words:,}) must be at least "
                f"least_words ({self.least_words:,})"
            )
        if self.most_mean_word_length < self.least_mean_word_length:
            raise ValueError(
                f"most_mean_word_length ({self.most_mean_word_length:g}) must be at least "
                f"least_mean_word_length ({self.least_mean_word_length:g})"
            )
        return self
