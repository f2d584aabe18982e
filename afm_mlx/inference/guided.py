"""Guided generation: answers that always have the form that was asked for.

A form (a JSON Schema, a Pydantic model, a regular expression, a list of choices, calls of tools)
is compiled once into a `Guide`. For each token of an answer its state says which tokens may come
next. llguidance computes these masks; what lies beyond them is ours: which schemas can be promised,
and that an answer reaches its end before its limit of tokens.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afm_mlx.errors import DataError, RunError
from afm_mlx.inference.forms.endings import Endings, Progress
from afm_mlx.inference.forms.lark import grammar_of
from afm_mlx.inference.forms.nodes import Either, Form, Match, Text
from afm_mlx.inference.forms.patterns import PatternError, read_pattern
from afm_mlx.inference.forms.schemas import Schema, form_of_schema
from afm_mlx.inference.vocabulary import CHOICES_PER_TOKEN, Vocabulary, set_bits, tokens_in

if TYPE_CHECKING:
    import llguidance
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from afm_mlx.text.tokenizer import Tokenizer

KEPT_GUIDES = 64
"""Compiled guides that are kept for the next answer of the same form. Ours."""

KEPT_CHECKS = 20_000
"""Checks of a token near the end that a guide keeps: about 10 MB. Ours."""

WRONG_TOKEN = "doesn't satisfy the grammar"
"""In llguidance's error for a token that is not allowed; all others are its own limits."""

CHECKED_TOKENS = 64
"""Most tokens whose own way to the end is looked at, near the end. Ours."""


class Guides:
    """Compiles forms for one tokenizer, and keeps them; threads may share it."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        """Read the vocabulary.

        Args:
            tokenizer: of the model.
            rows: tokens that the model tells apart, as its logits have them; those beyond the
                vocabulary are never allowed.

        Raises:
            DataError: the pieces of the tokenizer do not say which bytes they stand for.
        """
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer, rows)
        self._kept: OrderedDict[str, Guide] = OrderedDict()
        self._lock = threading.Lock()

    def json_schema(self, schema: Schema) -> Guide:
        """JSON on one line that a schema accepts.

        Raises:
            DataError: the schema is not valid or not supported; the message names the place.
        """
        try:
            key = json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the schema is not JSON: {error}") from None
        return self._get(f"schema {key}", lambda: form_of_schema(schema))

    def model(self, cls: type[BaseModel]) -> Guide:
        """JSON that a Pydantic model accepts.

        Raises:
            DataError: as `json_schema`, for the model's schema.
        """
        return self.json_schema(cls.model_json_schema())

    def regex(self, pattern: str) -> Guide:
        """Texts that match a regular expression as a whole.

        Raises:
            DataError: the pattern cannot be read or is not supported.
        """
        try:
            read = read_pattern(pattern, search=False)
        except PatternError as error:
            raise DataError(f"pattern '{pattern}': {error}") from None
        return self._get(f"regex {pattern}", lambda: Form(Match(read), {}))

    def choices(self, texts: Sequence[str]) -> Guide:
        """One of some texts.

        Raises:
            DataError: there are none, or one is empty or not text.
        """
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise DataError("choices must be texts, one or more, none of them empty")
        options = tuple(Text(text) for text in dict.fromkeys(texts))
        key = json.dumps(list(texts))
        return self._get(f"choices {key}", lambda: Form(Either(options), {}))

    def form(self, form: Form, key: str) -> Guide:
        """A form of one's own; `key` tells it from all others."""
        return self._get(f"form {key}", lambda: form)

    def _get(self, key: str, make: Any) -> Guide:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        guide = Guide(make(), self.vocabulary)  # outside: others need not wait
        with self._lock:
            self._kept[key] = guide
            while len(self._kept) > KEPT_GUIDES:
                self._kept.popitem(last=False)
        return guide


class Guide:
    """A form that answers must have; compiled once, shared by answers."""

    def __init__(self, form: Form, vocabulary: Vocabulary) -> None:
        """Compile a form; `Guides` does, and keeps the result.

        Raises:
            DataError: it is too large.
        """
        import llguidance

        self.vocabulary = vocabulary
        self.endings = Endings(form)
        self._lock = threading.Lock()
        self._checks: dict[tuple[Progress, int], int | None] = {}
        grammar = grammar_of(form)
        self._matcher = llguidance.LLMatcher(vocabulary.engine, grammar, log_level=0)
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0]
            raise DataError(f"the form cannot be compiled: {reason[:200]}")
        self._shortest = self.tokens_of(self.endings.shortest or "")
        # One token moves the end by this much at most, and a character can be open after it.
        jump = self.endings.longest_jump(lambda text: len(self.tokens_of(text)))
        self.reach = CHOICES_PER_TOKEN * jump + 8
        """Spare tokens below which each token's own way to the end is looked at."""
        if self._matcher.validate_tokens(self._shortest) != len(self._shortest):
            raise DataError("the vocabulary has no tokens for the shortest answer of this form")

    @property
    def least_tokens(self) -> int:
        """Tokens of a shortest answer, the stop token included."""
        return len(self._shortest) + 1

    def start(self, max_tokens: int | None = None) -> GuideState:
        """The state of an answer that has no token yet.

        Args:
            max_tokens: tokens that the answer may have, the stop token included: it ends before.
                None for no limit.

        Raises:
            DataError: no answer of this form is that short.
        """
        if max_tokens is not None and max_tokens < self.least_tokens:
            raise DataError(
                f"answers of this form have {self.least_tokens:,} tokens or more, and may have "
                f"{max_tokens:,} here",
                hint=f"raise max_tokens to {4 * self.least_tokens:,}",
            )
        with self._lock:
            matcher = self._matcher.deep_copy()
        return GuideState(self, matcher, max_tokens)

    def tokens_of(self, text: str) -> list[int]:
        """Tokens of an ending; not always those that the tokenizer would take."""
        pieces = self.endings.pieces
        if not pieces:
            return self.vocabulary.tokens_of(text)
        found: list[int] = []
        plain = ""
        for character in text:
            token = pieces.get(character)
            if token is None:
                plain += character
            else:
                found += [*self.vocabulary.tokens_of(plain), token]
                plain = ""
        return found + self.vocabulary.tokens_of(plain)

    def shortest_end(self, progress: Progress) -> list[int]:
        """Tokens that end an answer, as few as we know."""
        return self.tokens_of(min(self.endings.ends(progress), key=lambda text: (len(text), text)))

    def need_after(self, progress: Progress, token: int) -> int | None:
        """Tokens that end an answer after one more; None where we cannot say."""
        key = progress, token
        if key not in self._checks:
            if len(self._checks) >= KEPT_CHECKS:
                self._checks = {}
            after = self.endings.advance(progress, self.vocabulary.said(token))
            known = after.places and not after.pending
            self._checks[key] = len(self.shortest_end(after)) if known else None
        return self._checks[key]


class GuideState:
    """Where one guided answer is."""

    def __init__(self, guide: Guide, matcher: llguidance.LLMatcher, max_tokens: int | None) -> None:
        """Made by `Guide.start`."""
        self._guide = guide
        self._words = guide.vocabulary
        self._matcher = matcher
        self._left = max_tokens
        self._progress = guide.endings.start()
        self._unread: list[int] = []  # tokens that `_progress` does not know yet
        self._unwatched = 0  # tokens before the end needs to be looked at again

    @property
    def finished(self) -> bool:
        """Whether nothing but a stop token may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.uint32]:
        """Tokens that may come next: bits [ceil(V / 32)], bit i % 32 of word i // 32 for token i.

        Stop tokens are among them where the answer may end.

        Raises:
            RunError: the form is more than the library can follow here.
        """
        bits = np.zeros(self._words.num_words, np.uint32)
        may_end = self._matcher.is_accepting()
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._check()
        bits &= self._words.usable
        if self._left is not None:
            bits = self._in_reach(bits, self._left)
        if may_end:
            bits |= self._words.stops
        return bits

    def accept(self, token: int) -> None:
        """Go on with a token that was allowed, stop tokens excepted: they are not told.

        Raises:
            ValueError: it was not allowed.
            RunError: the form is more than the library can follow here.
        """
        if not self._matcher.consume_token(token):
            self._check()
            raise ValueError(f"token {token} was not allowed: {self._matcher.get_error()[:200]}")
        if self._left is not None:
            self._left -= 1
            self._unread.append(token)

    def _check(self) -> None:
        reason = self._matcher.get_error() if self._matcher.is_error() else ""
        if reason and WRONG_TOKEN not in reason:
            reason = reason.splitlines()[0]
            raise RunError(f"the form is too complex: {reason[:200]}")

    def _in_reach(self, bits: NDArray[np.uint32], left: int) -> NDArray[np.uint32]:
        """Of the tokens in `bits`, those after which `left` tokens are enough to end."""
        guide, words = self._guide, self._words
        if self._unwatched > 0:
            self._unwatched -= 1
            return bits & words.simple
        for token in self._unread:
            self._progress = guide.endings.advance(self._progress, words.said(token))
        self._unread.clear()
        if not self._progress.places:  # cannot be; the answer is still right, if it ends
            return bits
        if self._progress.pending:
            return bits & words.simple
        end = guide.shortest_end(self._progress)
        spare = left - 1 - len(end)
        if spare > guide.reach:
            self._unwatched = (spare - guide.reach) // (guide.reach + 1)
            return bits & words.simple
        chosen = np.zeros_like(bits)
        if end:
            set_bits(chosen, end[:1])
        if spare > 0:
            self._add_close(chosen, bits, left)
        return chosen & bits

    def _add_close(self, chosen: NDArray[np.uint32], bits: NDArray[np.uint32], left: int) -> None:
        """Add to `chosen` what can follow near the end, other than the end itself."""
        guide, words = self._guide, self._words
        tokens = tokens_in(bits)
        if len(tokens) > CHECKED_TOKENS:
            if guide.endings.loose(self._progress):
                chosen |= bits & words.plain
                tokens = tokens_in(bits & words.single & ~words.plain)
            else:
                tokens = tokens_in(bits & words.single)
        close = []
        for token in tokens.tolist():
            need = guide.need_after(self._progress, token)
            if need is not None and need + 1 <= left - 1:
                close.append(token)
        set_bits(chosen, close)
