"""Answers wait for memory, and memory never passes the budget."""

import random

import mlx.core as mx
import pytest

from afm_mlx.errors import FitError
from afm_mlx.inference.batches import PASSES, Batcher
from afm_mlx.inference.memory import FREED_SHARE
from afm_mlx.inference.requests import Sampling

from .asking import PROMPTS, ask, hold


@pytest.fixture
def tight(varied):
    """Function to make a batcher with room for answers to prompts of such sizes, and no more."""
    with Batcher(varied, memory_gb=1) as made:
        budget = made.budget
    fixed = budget.fixed - FREED_SHARE * budget.total

    def make(*sizes: tuple[int, int]) -> Batcher:
        total = (fixed + budget.together(sizes) + 1_000) / (1 - FREED_SHARE)
        return Batcher(varied, memory_gb=total / 1e9)

    return make


def test_a_request_that_can_never_fit_is_refused_with_both_sizes(tight):
    with tight((30, 270)) as batcher:
        with pytest.raises(FitError, match=r"a prompt of \d+ tokens and an answer of up to") as no:
            ask(batcher, PROMPTS[0], Sampling(max_tokens=1_500))
        most = int(no.value.hint.split()[1])
        assert no.value.hint == f"max_tokens {most} or less"
        assert len(ask(batcher, PROMPTS[0], Sampling(max_tokens=most))[0].tokens) == most
        with pytest.raises(FitError):
            ask(batcher, PROMPTS[0], Sampling(max_tokens=most + 1))


def test_answers_wait_for_memory_and_memory_never_passes_the_budget(tight, varied_folder):
    numbers = random.Random(1)
    peaks, together = [], []
    with tight(*[(650, 50)] * 3) as batcher:

        def note(answered):
            peaks.append(mx.get_peak_memory())
            together.append(batcher.load.answering)

        wanted = []
        for _ in range(16):
            ids = [numbers.randrange(20, 300) for _ in range(numbers.randrange(5, 650))]
            wanted.append((ids, Sampling(max_tokens=numbers.randrange(1, 50))))
        asked = [ask(batcher, ids, sampling, then=note) for ids, sampling in wanted]
        assert [len(answered.tokens) for answered, _ in asked] == [
            sampling.max_tokens for _, sampling in wanted
        ]
        total = batcher.budget.total
        again, _ = ask(batcher, *wanted[-1])
        assert again.tokens == asked[-1][0].tokens
    assert max(peaks) <= total
    assert 2 <= max(together) <= 8


def test_a_budget_below_the_model_is_refused(varied):
    with pytest.raises(
        FitError, match=r"the model alone needs .* and the memory budget is 1\.0 MB"
    ):
        Batcher(varied, memory_gb=0.001)


def test_a_request_that_waits_for_memory_is_passed_only_so_often(tight):
    order = []

    def note(name):
        return lambda answered: order.append(name) if len(answered.said) == 1 else None

    with tight((10, 310)) as batcher:
        held, _, _ = hold(batcher)
        # This one is being answered all the while, so that the large one has to wait for its end.
        asked = [ask(batcher, PROMPTS[2], Sampling(100), then=note("long"))]
        asked.append(ask(batcher, PROMPTS[2], Sampling(300), then=note("large")))
        for _ in range(PASSES + 4):
            asked.append(ask(batcher, PROMPTS[2], Sampling(2), then=note("small")))
        held.go.set()
        assert all(answered.tokens for answered, _ in asked)
    assert order == ["long", *["small"] * PASSES, "large", *["small"] * 4]
