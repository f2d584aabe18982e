"""A model that answers: prompt in, text out token by token, on mlx-lm's generation and caches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import compute_dtype, import_mlx_lm
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.answers import Answer
from afm_mlx.inference.leading import Lead
from afm_mlx.inference.memory import PROMPT_SHARE, Budget, Sizes, default_budget, sizes_of
from afm_mlx.inference.prompt_cache import PromptCache
from afm_mlx.inference.prompts import chat_ids, chats_with, plain_ids
from afm_mlx.inference.requests import Chunk as Chunk
from afm_mlx.inference.requests import Guide, Message, Sampling
from afm_mlx.inference.requests import Stats as Stats
from afm_mlx.inference.steps import READ_TOKENS, answer_steps, kv_settings, new_caches

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.decoder.adapters import Adapters
    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.inference.calls import ToolFormat
    from afm_mlx.inference.guided import Guides
    from afm_mlx.inference.speculative import Draft
    from afm_mlx.ranks import Ranks


class Engine:
    """A decoder, its tokenizer, and what it has read. Serves one at a time; `Batcher` many."""

    def __init__(
        self,
        model: Decoder,
        folder: Path,
        *,
        reuse_cache: bool = False,
        memory_gb: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Put `model` together with the tokenizer files in `folder`.

        Args:
            model: with weights; they may change between answers.
            folder: with the tokenizer's files; a checkpoint's says by its facts what it is.
            reuse_cache: keep what was read for later answers; not for weights that change.
            memory_gb: memory budget in 10^9 bytes, weights included; None for the machine's.
            ranks: who has the other parts of the model; None: it is whole.

        Raises:
            DataError: there is no tokenizer in the folder, or it cannot be read.
            ModelError: the tokenizer has more pieces than the model has rows.
        """
        from afm_mlx.decoder.checkpoint import check_tokenizer
        from afm_mlx.ranks import ALONE
        from afm_mlx.text.tokenizer import Tokenizer

        self.model = model
        self.folder = folder
        self.tokenizer = Tokenizer.open(folder)
        check_tokenizer(model.shape, self.tokenizer.vocab_size, folder)
        self.context_tokens: int = model.shape.max_tokens
        self.stats = Stats()
        """Of the newest answer; kept up to date while it is written."""
        self.default_adapter: str | None = None
        """Name of the adapter that the folder wants to be used with."""
        self.ranks = ranks or ALONE
        """Who has parts of the model; rank 0 answers, and the others `follow`."""
        self.lead = Lead(self.ranks)
        """What they tell each other."""
        budget = default_budget() if memory_gb is None else int(memory_gb * 1e9)
        self.budget_bytes = self.lead.least(budget)
        """Memory that may be used, weights included: on each rank what the smallest has."""
        self._chats = {chats: chats_with(folder, adapter_chats=chats) for chats in (False, True)}
        self._reuse_cache = reuse_cache
        self._read = PromptCache()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        dtype: mx.Dtype | None = None,
        memory_gb: float | None = None,
        ranks: Ranks | None = None,
    ) -> Engine:
        """Load a model folder; in bfloat16 on a GPU and float32 on the CPU, unless told.

        The adapter that the folder wants to be used with is in use. `memory_gb` is the memory
        budget in 10^9 bytes, weights included; None for the machine's. Of several `ranks`, each
        loads its part of the model.

        Raises:
            ModelError: the folder is no model that we can represent, or its tokenizer is not its;
                or it does not divide among the ranks.
            RunError: the ranks have other models, or other versions of MLX.
            DataError: it has no tokenizer that can be read.
        """
        from afm_mlx.decoder.adapters import default_adapter
        from afm_mlx.decoder.checkpoint import open_checkpoint
        from afm_mlx.ranks import ALONE

        import_mlx_lm("mlx_lm.generate")  # a second that would count as the first answer's
        Lead(ranks or ALONE).agree(path)
        model = open_checkpoint(path, dtype=dtype or compute_dtype(), ranks=ranks or ALONE)
        engine = cls(model, path, reuse_cache=True, memory_gb=memory_gb, ranks=ranks)
        if (adapter := default_adapter(path)) is not None:
            engine.default_adapter = engine.adapters.add(adapter)
            engine.use_adapter(engine.default_adapter)
        return engine

    @property
    def is_chat(self) -> bool:
        """Whether messages go through the folder's chat template; else they are continued."""
        return self.chats_with(self.adapters.active)

    def chats_with(self, adapter: str | None) -> bool:
        """Whether messages go through the chat template when this adapter answers, or none."""
        return self._chats[adapter is not None and self.adapters[adapter].facts.chat]

    @cached_property
    def adapters(self) -> Adapters:
        """Adapters that are loaded beside the model. `use_adapter` changes between them."""
        from afm_mlx.decoder.adapters import Adapters

        return Adapters(self.model, self.folder, dtype=compute_dtype(), ranks=self.ranks)

    @cached_property
    def guides(self) -> Guides:
        """Compiles forms that answers must have."""
        from afm_mlx.inference.guided import Guides

        return Guides(self.tokenizer, self.model.output_weight.shape[0])

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model writes calls of tools: as its chat template has it, else as ours has."""
        from afm_mlx.inference.calls import JSON_CALLS, tool_format

        return tool_format(self.folder) or JSON_CALLS

    @cached_property
    def sizes(self) -> Sizes:
        """What the model takes in memory, adapters apart."""
        return sizes_of(self.model)

    def use_adapter(self, name: str | None) -> None:
        """Answer with an adapter of `adapters` from now on; None for the model as it is.

        What another adapter has read is not used: keys and values are an adapter's own.

        Raises:
            ModelError: none of this name is loaded.
        """
        if name != self.adapters.active:
            self.adapters.use(name)

    def prompt_ids(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapter: str | None = None,
    ) -> list[int]:
        """Token ids that the model reads for a text or a conversation.

        Args:
            prompt: a text, which counts as one message of the user, or messages.
            raw: continue the text as it stands, without the chat template. Base models always do,
                and take a conversation's texts one per line. Text that looks like a control piece
                is one here, and stays text in a chat.
            tools: that the model may call, declared as in OpenAI's API.
            adapter: who is to answer: an adapter, or "none" for the model as it is; None for
                whichever is in use.

        Raises:
            DataError: the chat template refuses these messages.
        """
        from afm_mlx.decoder.adapters import NONE

        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        who = self.adapters.active if adapter is None else adapter
        if self.chats_with(None if who == NONE else who) and not raw:
            return chat_ids(self.tokenizer, messages, tools)
        if tools:
            raise DataError(
                "tools need a chat model, and this one continues text",
                hint="leave the tools away, or take a model that has seen conversations",
            )
        return plain_ids(self.tokenizer, messages)

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        guide: Guide | None = None,
        draft: Draft | None = None,
        kv_bits: int | None = None,
    ) -> Generator[Chunk, None, None]:
        """Answer, one chunk per token. Closing the iterator stops the answer.

        Only the part of the prompt that no earlier prompt or answer began with is read.

        Args:
            prompt: as for `prompt_ids`.
            raw: as for `prompt_ids`.
            tools: as for `prompt_ids`.
            max_tokens: as in `Sampling`; so are the next five.
            temperature: see there.
            top_p: see there.
            seed: see there.
            stop: see there.
            top_logprobs: see there.
            guide: a form that the answer must have.
            draft: guesses tokens ahead; guided answers do without.
            kv_bits: round keys and values to 4 or 8 bits, which takes less memory; None: exact.

        Raises:
            DataError: the prompt does not leave room for an answer in the model's context, or a
                number is out of its range.
            ModelError: the draft's tokenizer is another one, or the keys cannot be rounded.
            FitError: it does not fit the memory budget.
        """
        sampling = Sampling(max_tokens, temperature, top_p, seed, tuple(stop), top_logprobs)
        ids = self.prompt_ids(prompt, raw=raw, tools=tools)
        return self.answer(ids, sampling, guide=guide, draft=draft, kv_bits=kv_bits)

    def answer(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        guide: Guide | None = None,
        draft: Draft | None = None,
        kv_bits: int | None = None,
    ) -> Generator[Chunk, None, None]:
        """As `stream`, of a prompt that is token ids already."""
        answer = Answer(
            self.tokenizer, ids, sampling, context_tokens=self.context_tokens, guide=guide
        )
        guesser = draft if guide is None else None
        if guesser is not None:
            self._check_draft(guesser)
        kv = kv_settings(self.model.shape, kv_bits)
        room = self._room(ids, answer, guesser, kv)
        self.lead.tell(
            {
                "ids": [int(each) for each in ids],
                "max_tokens": answer.limit,
                "kv": kv,
                "room": room,
                "adapters": self.told_adapters,
                "adapter": self.adapters.active,
            }
        )
        with contextlib.closing(self._tokens(list(ids), answer, guesser, kv, room)) as tokens:
            for token, logps in tokens:
                over = True  # so it is where nobody wants more, or a guide fails
                try:
                    chunk = answer.take(token, logps)
                    yield chunk
                    over = chunk.finished is not None
                finally:
                    self.lead.is_over(over)
                if over:
                    return

    def follow(self) -> None:
        """On ranks above 0: compute this rank's part of all that rank 0 answers, until it is done.

        Raises:
            ModelError: an adapter that rank 0 uses is not on this machine.
        """
        while (told := self.lead.hear()) is not None:
            self.hold(told["adapters"])
            self.use_adapter(told["adapter"])
            ids, sampling = told["ids"], Sampling(told["max_tokens"])
            answer = Answer(self.tokenizer, ids, sampling, context_tokens=self.context_tokens)
            steps = self._tokens(ids, answer, None, told["kv"], told["room"])
            with contextlib.closing(steps) as tokens:
                for _ in tokens:
                    if self.lead.is_over(False):
                        break

    @property
    def told_adapters(self) -> list[str]:
        """Folders of adapters, as the others `hold` them."""
        return [_told(folder, self.folder) for folder in self.adapters.folders]

    def hold(self, told: Sequence[str]) -> None:
        """Load the adapters that rank 0 has told of.

        Raises:
            ModelError: one is not on this machine.
        """
        for folder in told:
            self.adapters.add(self.folder / folder)

    def dismiss(self) -> None:
        """On rank 0: end what the others do when they follow. Nothing is answered from then on."""
        self.lead.tell(None)

    def forget(self) -> None:
        """Drop what was read of earlier prompts, and the memory it takes."""
        self._read.clear()

    def _check_draft(self, draft: Draft) -> None:
        if self.ranks.size > 1:
            raise ModelError(
                f"a draft cannot guess for a model on {self.ranks.size} machines",
                hint="leave the draft away",
            )
        draft.check(self.tokenizer)

    def _room(
        self, ids: Sequence[int], answer: Answer, draft: Draft | None, kv: dict[str, int]
    ) -> int:
        """Bytes for what was read of earlier prompts, while this one is answered.

        Raises:
            FitError: there is not even room for this one.
        """
        models = [self.sizes, *([draft.sizes] if draft is not None else [])]
        if kv:
            models = [each.rounded(kv["kv_bits"], kv["kv_group_size"]) for each in models]
        budget = Budget.of(
            models,
            total=self.budget_bytes,
            held=self.adapters.bytes,
            read_tokens=min(READ_TOKENS, len(ids)),
            together=1,
        )
        budget.check(len(ids), answer.limit)
        free = budget.free - budget.together([(len(ids), answer.limit)])
        return min(free, int(PROMPT_SHARE * self.budget_bytes)) if self._reuse_cache else 0

    def _tokens(
        self,
        ids: list[int],
        answer: Answer,
        draft: Draft | None,
        kv: dict[str, int],
        room: int,
    ) -> Generator[tuple[int, mx.array | None], None, None]:
        """Chosen tokens, at most the answer's limit; log-probabilities [V] where a draft guesses.

        Keeps `stats` up to date, and what was read for later answers.
        """
        import mlx.core as mx

        generation = import_mlx_lm("mlx_lm.generate")
        kind = (self.adapters.active, *kv.values(), draft)
        caches, start = self._read.take(kind, ids, room=room)
        caches = caches or new_caches(self.model, draft)
        stats = self.stats = Stats(prompt_tokens=len(ids), cached_tokens=start)
        read = list(ids)
        mx.reset_peak_memory()
        began = time.perf_counter()
        whole = False
        try:
            with contextlib.ExitStack() as stack:
                with contextlib.redirect_stdout(sys.stderr):  # it prints a warning of its own
                    stream = generation.generation_stream
                    stack.enter_context(generation.wired_limit(self.model, [stream]))
                answer.sampler = self.lead.chooser(answer.sampler)
                left = mx.array(ids[start:])
                steps = answer_steps(self.model, left, answer, caches, draft=draft, kv=kv)
                stack.enter_context(contextlib.closing(steps))
                for token, logps, guessed in steps:
                    now = time.perf_counter() - began
                    stats.answer_tokens += 1
                    stats.drafted_tokens += guessed
                    if stats.answer_tokens == 1:
                        stats.first_seconds = now
                    stats.answer_seconds = now - stats.first_seconds
                    stats.peak_gb = mx.get_peak_memory() / 1e9
                    read.append(token)
                    yield token, logps
            whole = True
        except GeneratorExit:
            whole = True
            raise
        finally:
            # Interrupted between two layers, their caches would differ in length.
            if whole and self._reuse_cache:
                self._read.put(kind, read, caches, room=room)


def _told(folder: Path, model: Path) -> str:
    """An adapter's folder for other machines: inside the model's folder, wherever that is there."""
    inside = folder.is_relative_to(model.resolve())
    return str(folder.relative_to(model.resolve()) if inside else folder)
