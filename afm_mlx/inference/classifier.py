"""A classifier that needs no training: ask a language model, and look how likely "yes" is."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError, ModelError
from afm_mlx.settings.policy import Questions

if TYPE_CHECKING:
    from afm_mlx.inference.engine import Engine


class AskedModel:
    """Any model folder, asked the policy's questions. Loaded with the first text.

    One text takes two short readings per question, after one reading of the text itself.
    """

    def __init__(self, settings: Questions, folder: Path) -> None:
        """Name a model.

        Raises:
            ModelError: there is no model in the folder.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"classifier.model is {settings.model}, and there is no model in {folder}",
                hint="name a model folder; afm import makes one of a GGUF file or hub id",
            )
        self._settings = settings
        self._folder = folder
        self._lock = threading.Lock()

    def score(self, text: str) -> Mapping[str, float]:
        """Probability of "yes", of "yes" and "no", for each question; of the worst part of a text.

        Raises:
            DataError: a question and a part of the text do not fit the model's context.
        """
        with self._lock:  # the model is loaded once, and one text is read at a time
            scores = dict.fromkeys(self._settings.questions, 0.0)
            for part in self._parts(text):
                for name, score in self._scores(part):
                    scores[name] = max(scores[name], score)
        return scores

    @cached_property
    def _engine(self) -> Engine:
        import mlx.core as mx

        from afm_mlx.inference.engine import Engine

        engine = Engine.open(self._folder)
        mx.eval(engine.model.parameters())  # what is lazy can be evaluated in this thread only
        return engine

    def _parts(self, text: str) -> Iterator[str]:
        tokenizer, size = self._engine.tokenizer, self._settings.text_tokens
        ids = tokenizer.encode(text)
        if len(ids) <= size:
            yield text
            return
        for start in range(0, len(ids), size):
            yield tokenizer.decode(ids[start : start + size])

    def _scores(self, text: str) -> Iterator[tuple[str, float]]:
        import mlx.core as mx

        caches = import_mlx_lm("mlx_lm.models.cache")
        settings, engine = self._settings, self._engine
        head, _, rest = settings.prompt.partition("{text}")
        prompts = [
            engine.prompt_ids(
                head.replace("{question}", question) + text + rest.replace("{question}", question)
            )
            for question in settings.questions.values()
        ]
        answers = [engine.tokenizer.encode(answer) for answer in (settings.yes, settings.no)]
        longest = max(map(len, prompts)) + max(map(len, answers))
        if longest > engine.context_tokens:
            raise DataError(
                f"the classifier's question has {longest:,} tokens with the text, and its model's "
                f"context is {engine.context_tokens:,}",
                hint="set text_tokens of [classifier] lower",
            )
        shared = _num_shared([prompt[:-1] for prompt in prompts])
        cache = caches.make_prompt_cache(engine.model)
        if shared:
            engine.model(mx.array([prompts[0][:shared]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        for name, prompt in zip(settings.questions, prompts, strict=True):
            yes, no = (_logp(engine.model, prompt[shared:], answer, cache) for answer in answers)
            yield name, 1 / (1 + math.exp(min(no - yes, 700.0)))


def _num_shared(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with."""
    first, last = min(prompts), max(prompts)
    same = (number for number, ids in enumerate(zip(first, last, strict=False)) if ids[0] != ids[1])
    return next(same, min(len(first), len(last)))


def _logp(model: Any, prompt: Sequence[int], answer: list[int], cache: Sequence[Any]) -> float:
    """Log-probability of an answer in nats; the cache is left as it was."""
    import mlx.core as mx

    caches = import_mlx_lm("mlx_lm.models.cache")
    ids = [*prompt, *answer]
    logits = model(mx.array([ids[:-1]]), cache=cache)[0, -len(answer) :].astype(mx.float32)
    logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    total = mx.take_along_axis(logps, mx.array(answer)[:, None], axis=-1).sum()
    logp: Any = total.item()  # before the cache changes
    caches.trim_prompt_cache(list(cache), len(ids) - 1)
    return logp
