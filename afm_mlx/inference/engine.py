"""A model that answers: prompt in, text out token by token, on mlx-lm's generation and caches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import compute_dtype, import_mlx_lm
from afm_mlx.errors import DataError
from afm_mlx.inference.requests import Chunk as Chunk
from afm_mlx.inference.requests import Finish, Message
from afm_mlx.inference.requests import Stats as Stats

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.decoder.adapters import Adapters
    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.text.tokenizer import Tokenizer

MAX_CHARACTER_TOKENS = 4
"""Most tokens of one character: UTF-8 has up to four bytes."""

BASE_STAGES = ("core", "continued", "context", "prune", "distill")
"""Stages whose models continue text: they have not seen their own tokenizer's chat template."""


class Engine:
    """A decoder, its tokenizer, and the cache of the last conversation. Serves one at a time."""

    def __init__(self, model: Decoder, folder: Path, *, reuse_cache: bool = False) -> None:
        """Put `model` together with the tokenizer files in `folder`.

        Args:
            model: with weights; they may change between answers.
            folder: with the tokenizer's files; a checkpoint's says by its facts what it is.
            reuse_cache: keep what was read for the next answer; not for weights that change.

        Raises:
            DataError: there is no tokenizer in the folder, or it cannot be read.
            ModelError: the tokenizer has more pieces than the model has rows.
        """
        from afm_mlx.decoder.checkpoint import check_tokenizer, read_facts
        from afm_mlx.text.tokenizer import Tokenizer

        self.model = model
        self.folder = folder
        self.tokenizer = Tokenizer.open(folder)
        check_tokenizer(model.shape, self.tokenizer.vocab_size, folder)
        self.context_tokens: int = model.shape.max_tokens
        self.stats = Stats()
        """Of the newest answer; kept up to date while it is written."""
        facts = read_facts(folder) if (folder / "config.json").is_file() else {}
        self._has_template = _has_chat_template(folder)
        self._is_base = facts.get("stage") in BASE_STAGES
        self._adapter_chats = False
        self._reuse_cache = reuse_cache
        self._cache: list[Any] = []
        self._cached_ids: list[int] = []

    @classmethod
    def open(cls, path: Path, *, dtype: mx.Dtype | None = None) -> Engine:
        """Load a model folder; in bfloat16 on a GPU and float32 on the CPU, unless told.

        The adapter that the folder wants to be used with is in use.

        Raises:
            ModelError: the folder is no model that we can represent, or its tokenizer is not its.
            DataError: it has no tokenizer that can be read.
        """
        from afm_mlx.decoder.adapters import default_adapter
        from afm_mlx.decoder.checkpoint import open_checkpoint

        import_mlx_lm("mlx_lm.generate")  # a second that would count as the first answer's
        model = open_checkpoint(path, dtype=dtype or compute_dtype())
        engine = cls(model, path, reuse_cache=True)
        if (adapter := default_adapter(path)) is not None:
            engine.use_adapter(engine.adapters.add(adapter))
        return engine

    @property
    def is_chat(self) -> bool:
        """Whether messages go through the folder's chat template; else they are continued.

        They do unless nothing in use, model or adapter, has seen conversations.
        """
        return self._has_template and (not self._is_base or self._adapter_chats)

    @cached_property
    def adapters(self) -> Adapters:
        """Adapters that are loaded beside the model. `use_adapter` changes between them."""
        from afm_mlx.decoder.adapters import Adapters

        return Adapters(self.model, self.folder, dtype=compute_dtype())

    def use_adapter(self, name: str | None) -> None:
        """Answer with an adapter of `adapters` from now on; None for the model as it is.

        What was read of the last conversation is read again: its keys and values are the old
        adapter's.

        Raises:
            ModelError: none of this name is loaded.
        """
        if name == self.adapters.active:
            return
        self.adapters.use(name)
        self._adapter_chats = name is not None and self.adapters[name].facts.chat
        self.forget()

    def prompt_ids(self, prompt: str | Sequence[Message], *, raw: bool = False) -> list[int]:
        """Token ids that the model reads for a text or a conversation.

        Args:
            prompt: a text, which counts as one message of the user, or messages.
            raw: continue the text as it stands, without the chat template. Base models always do,
                and take a conversation's texts one per line. Text that looks like a control piece
                is one here, and stays text in a chat.

        Raises:
            DataError: the chat template refuses these messages.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self.is_chat and not raw:
            from afm_mlx.text.chat import render_chat

            return render_chat(self.tokenizer, messages)
        text = "\n".join(message["content"] for message in messages)
        ids = [int(token) for token in self._raw_tokenizer.encode(text)]
        return ids or [self.tokenizer.eos_id]  # an empty text follows the end of another one

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Generator[Chunk, None, None]:
        """Answer, one chunk per token. Closing the iterator stops the answer.

        Only the part of the prompt that differs from the last conversation is read again.

        Args:
            prompt: as for `prompt_ids`.
            raw: as for `prompt_ids`.
            max_tokens: longest answer in tokens, above 0.
            temperature: 0 takes the likeliest token; else log-probabilities are divided by it.
            top_p: above 0, to 1; choose among the fewest tokens that have this probability
                together, before the temperature is applied (mlx-lm's order).
            seed: decides the choices; the same seed, prompt and model give the same answer.
            stop: texts at which the answer ends; they are not part of it.

        Raises:
            DataError: the prompt does not leave room for an answer in the model's context.
        """
        ids = self.prompt_ids(prompt, raw=raw)
        room = self.context_tokens - len(ids)
        if room < 1:
            raise DataError(
                f"the prompt has {len(ids):,} tokens, and the model's context of "
                f"{self.context_tokens:,} must hold it and an answer",
                hint=f"shorten the prompt by {1 - room:,} tokens or more",
            )
        limit = min(max_tokens, room)
        at_limit: Finish = "length" if max_tokens <= room else "context"
        text = _Text(self.tokenizer, ids, stop)
        sampler = _sampler(temperature, top_p, seed)
        with contextlib.closing(self._tokens(ids, limit, sampler)) as tokens:
            for number, token in enumerate(tokens, start=1):
                finished: Finish | None = at_limit if number == limit else None
                if token in self.tokenizer.eos_ids:
                    finished = "stop"
                else:
                    text.add(token)
                piece, stopped = text.take(everything=finished is not None)
                finished = "stop" if stopped else finished
                yield Chunk(piece, token, finished)
                if finished:
                    return

    def forget(self) -> None:
        """Drop the cache of the last conversation, and the memory it takes."""
        self._cache, self._cached_ids = [], []

    def _tokens(self, ids: list[int], limit: int, sampler: Any) -> Generator[int, None, None]:
        """Sampled token ids, at most `limit`, with `stats` and the cache kept up to date."""
        import mlx.core as mx

        generation = import_mlx_lm("mlx_lm.generate")
        start = self._trim_cache(ids)
        stats = self.stats = Stats(prompt_tokens=len(ids), cached_tokens=start)
        # The list and not a copy: it must say what the cache holds wherever this generator ends.
        read = self._cached_ids = list(ids)
        mx.reset_peak_memory()
        began = time.perf_counter()
        whole = False
        try:
            with contextlib.ExitStack() as stack:
                with contextlib.redirect_stdout(sys.stderr):  # it prints a warning of its own
                    stream = generation.generation_stream
                    stack.enter_context(generation.wired_limit(self.model, [stream]))
                steps = generation.generate_step(
                    mx.array(ids[start:]),
                    self.model,
                    max_tokens=limit,
                    sampler=sampler,
                    prompt_cache=self._cache,
                )
                stack.enter_context(contextlib.closing(steps))
                for token, _ in steps:
                    now = time.perf_counter() - began
                    stats.answer_tokens += 1
                    if stats.answer_tokens == 1:
                        stats.first_seconds = now
                    stats.answer_seconds = now - stats.first_seconds
                    stats.peak_gb = mx.get_peak_memory() / 1e9
                    read.append(int(token))
                    yield int(token)
            whole = self._reuse_cache
        except GeneratorExit:
            whole = self._reuse_cache
            raise
        finally:
            if not whole:  # interrupted between two layers, their caches would differ in length
                self.forget()

    def _trim_cache(self, ids: list[int]) -> int:
        """Cut the cache back to what it shares with `ids`; how many tokens that is.

        At least one token is left to read, since reading is what gives the next one's logits.
        """
        caches = import_mlx_lm("mlx_lm.models.cache")
        held = min((int(cache.offset) for cache in self._cache), default=0)
        shared = 0
        for ours, theirs in zip(self._cached_ids[:held], ids[:-1], strict=False):
            if ours != theirs:
                break
            shared += 1
        if shared == 0 or not caches.can_trim_prompt_cache(self._cache):
            self._cache = caches.make_prompt_cache(self.model)
            return 0
        for cache in self._cache:
            cache.trim(int(cache.offset) - shared)
        return shared

    @cached_property
    def _raw_tokenizer(self) -> Any:
        """mlx-lm's wrapper, which adds what the tokenizer's own files say to begin a text with."""
        return import_mlx_lm("mlx_lm.tokenizer_utils").load(self.folder)


class _Text:
    """Text of an answer, taken in pieces that never end inside a character or a stop text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        # New tokens are decoded together with those before them, and the difference is the new
        # text: alone, the first word would lose its space. These begin and end with a character.
        self._before: list[int] = []
        for length in range(1, min(len(prompt), MAX_CHARACTER_TOKENS) + 1):
            if "\ufffd" not in tokenizer.decode(prompt[-length:]):
                self._before = list(prompt[-length:])
                break
        self._new: list[int] = []
        self._held = ""  # decoded, and may be the beginning of a stop text

    def add(self, token: int) -> None:
        if token < self._tokenizer.vocab_size:  # a model may have rows to spare
            self._new.append(token)

    def take(self, *, everything: bool) -> tuple[str, bool]:
        """Text that is complete since the last call, and whether a stop text ends it."""
        decode = self._tokenizer.decode
        known, decoded = decode(self._before), decode(self._before + self._new)
        whole = not decoded.endswith("\ufffd")  # else bytes of the last character are missing
        if len(decoded) > len(known) and (whole or everything):
            self._held += decoded[len(known) :]
            self._before, self._new = self._new, []
        ends = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if ends:
            return self._held[: min(ends)], True
        cut = len(self._held) - (0 if everything else _overlap(self._held, self._stop))
        piece, self._held = self._held[:cut], self._held[cut:]
        return piece, False


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


def _sampler(temperature: float, top_p: float, seed: int) -> Any:
    """Function from log-probabilities [1, V] to token ids [1], as mlx-lm's generation takes.

    Not mlx-lm's own: it draws from the process's random state, and calls a C++ compiler on the CPU.
    """
    import mlx.core as mx

    key = mx.random.key(seed)

    def greedy(logps: mx.array) -> mx.array:
        return mx.argmax(logps, axis=-1)

    def draw(logps: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        if top_p < 1:
            order = mx.argsort(-logps, axis=-1)
            ranked = mx.take_along_axis(logps, order, axis=-1)
            chances = mx.softmax(ranked.astype(mx.float32), axis=-1)
            before = mx.cumsum(chances, axis=-1, inclusive=False)
            ranked = mx.where(before < max(top_p, 1e-9), ranked, -mx.inf)
            drawn = mx.random.categorical(ranked / temperature, key=now)
            return mx.take_along_axis(order, drawn[..., None], axis=-1).squeeze(-1)
        return mx.random.categorical(logps / temperature, key=now)

    return draw if temperature > 0 else greedy


def _has_chat_template(folder: Path) -> bool:
    """Whether a tokenizer's files say how messages are written."""
    file = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        return True
    return file.is_file() and '"chat_template"' in file.read_text(encoding="utf-8")
