"""Many answers to many prompts at once, on mlx-lm's batch generator and caches.

A prompt is read once, and all its answers start from the same cache. Answers of different lengths
share a batch: where one ends, the next one starts.

What is reproducible. Every draw has a key of its own, made from (seed, step, prompt, sample, place
of the token): it does not depend on what else is in the batch. A row's logits do, in their last
digits, since matrix products of other sizes add in another order. So the same call on the same
machine gives the same answers, bit for bit; another batch size, or another number of ranks that
share a round, gives the same answers but for the rare draw that falls between two such roundings.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.text.tokenizer import Tokenizer

BATCH_ANSWERS = 64
"""Answers that are written at once, unless told. Ours: on two CPU cores more gave nothing."""

PREFILL_TOKENS = 2_048
"""Tokens of a prompt that are read at once; mlx-lm's own default."""


@dataclass(frozen=True)
class Sampled:
    """What a model answered to a prompt."""

    ids: tuple[int, ...]
    """Tokens, the one that ended it included; at least one."""
    text: str
    """Without the ending token."""
    finished: bool
    """Ended by the model itself; False: cut at the longest length, or at the end of the context."""


def sample_answers(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    step: int,
    first: int = 0,
    batch_answers: int = BATCH_ANSWERS,
) -> list[list[Sampled]]:
    """`samples` answers to each prompt, in the order of the prompts.

    Args:
        model: in evaluation mode; its weights must not change meanwhile.
        tokenizer: names the tokens that end an answer, and spells it.
        prompts: token ids, at least one each, and fewer than the model's context.
        samples: K, above 0.
        max_tokens: longest answer, above 0; shorter where the context ends.
        temperature: log-probabilities are divided by it; 0 takes the likeliest token.
        seed: with `step` and the places of prompt and sample, decides all draws.
        step: which round of sampling this is.
        first: place of the first prompt among the round's, of which others sample the rest.
        batch_answers: written at once; memory is that many caches.
    """
    found: list[list[Sampled | None]] = [[None] * samples for _ in prompts]
    with _generator(model, tokenizer, batch_answers) as generator:
        places: dict[int, tuple[int, int]] = {}  # of the answers in the making, by their number
        written: dict[int, list[int]] = {}
        next_prompt = 0
        while places or next_prompt < len(prompts):
            while len(places) < batch_answers + samples and next_prompt < len(prompts):
                numbers = _insert(
                    generator,
                    model,
                    prompts[next_prompt],
                    [
                        _sampler(temperature, (seed, step, first + next_prompt, sample))
                        for sample in range(samples)
                    ],
                    max_tokens,
                )
                for sample, number in enumerate(numbers):
                    places[number], written[number] = (next_prompt, sample), []
                next_prompt += 1
            for response in generator.next_generated():
                ids = written[response.uid]
                ids.append(int(response.token))
                if response.finish_reason is not None:
                    prompt, sample = places.pop(response.uid)
                    found[prompt][sample] = _answer(tokenizer, written.pop(response.uid))
    return [[answer for answer in answers if answer is not None] for answers in found]


@contextlib.contextmanager
def _generator(model: Decoder, tokenizer: Tokenizer, batch_answers: int) -> Iterator[Any]:
    generation = import_mlx_lm("mlx_lm.generate")
    mx.eval(model.parameters())
    generator = generation.BatchGenerator(
        model,
        stop_tokens=[[number] for number in tokenizer.eos_ids],
        completion_batch_size=batch_answers,
        prefill_batch_size=batch_answers,
        prefill_step_size=PREFILL_TOKENS,
    )
    try:
        yield generator
    finally:
        generator.close()


def _insert(
    generator: Any,
    model: Decoder,
    prompt: Sequence[int],
    samplers: Sequence[Callable[[mx.array], mx.array]],
    max_tokens: int,
) -> list[int]:
    """Read a prompt once, and queue one answer to it for each sampler; the answers' numbers."""
    cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(model)
    *before, last = prompt
    with mx.stream(generator.stream):
        for start in range(0, len(before), PREFILL_TOKENS):
            model(mx.array([before[start : start + PREFILL_TOKENS]]), cache=cache)
            mx.eval([layer.state for layer in cache])
    count = len(samplers)
    limit = min(max_tokens, model.shape.max_tokens - len(prompt))
    # The one cache serves all: the generator copies it into the batch's.
    numbers: list[int] = generator.insert(
        [[last]] * count,
        max_tokens=[limit] * count,
        caches=[cache] * count,
        all_tokens=[list(before) for _ in range(count)],
        samplers=list(samplers),
    )
    return numbers


def _sampler(
    temperature: float, place: tuple[int, int, int, int]
) -> Callable[[mx.array], mx.array]:
    """Function from log-probabilities [1, V] to a token id [1], for one answer."""
    if temperature == 0:
        return lambda logps: mx.argmax(logps, axis=-1)
    digest = hashlib.sha256(":".join(map(str, place)).encode()).digest()
    key = mx.random.key(int.from_bytes(digest[:8], "little"))

    def draw(logps: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.categorical(logps.astype(mx.float32) / temperature, key=now)

    return draw


def _answer(tokenizer: Tokenizer, ids: list[int]) -> Sampled:
    finished = ids[-1] in tokenizer.eos_ids
    # A model may have rows to spare, which no piece belongs to.
    spelled = [
        number for number in (ids[:-1] if finished else ids) if number < tokenizer.vocab_size
    ]
    return Sampled(tuple(ids), tokenizer.decode(spelled), finished)
