"""Many answers at once: what a draw depends on, where answers end, and that the draws are right."""

import math
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.alignment.sampling import sample_answers

PROMPTS = [[5, 9, 20, 33], [7], [40, 41, 42, 43, 44, 45, 46, 47, 50, 60], [9, 9]]


def sample(chat_decoder, tokenizer, prompts=PROMPTS, **changes):
    settings = {"samples": 3, "max_tokens": 12, "temperature": 1.0, "seed": 4, "step": 1} | changes
    return sample_answers(chat_decoder, tokenizer, prompts, **settings)


def test_the_same_call_gives_the_same_answers(chat_decoder, tokenizer):
    one, other = (sample(chat_decoder, tokenizer) for _ in range(2))
    assert one == other
    assert [len(group) for group in one] == [3, 3, 3, 3]


def test_a_draw_does_not_depend_on_the_rest_of_the_batch(chat_decoder, tokenizer):
    together = sample(chat_decoder, tokenizer)
    assert sample(chat_decoder, tokenizer, batch_answers=2) == together
    assert sample(chat_decoder, tokenizer, PROMPTS[:2]) == together[:2]


def test_parts_of_the_prompts_get_the_answers_of_all(chat_decoder, tokenizer):
    parts = [sample(chat_decoder, tokenizer, PROMPTS[at : at + 2], first=at) for at in (0, 2)]
    assert parts[0] + parts[1] == sample(chat_decoder, tokenizer)
    assert sample(chat_decoder, tokenizer, PROMPTS[:2], first=2) != parts[0]


@pytest.mark.parametrize("change", [{"seed": 5}, {"step": 2}])
def test_another_seed_or_step_gives_other_answers(chat_decoder, tokenizer, change):
    assert sample(chat_decoder, tokenizer, **change) != sample(chat_decoder, tokenizer)


def test_samples_and_equal_prompts_differ(chat_decoder, tokenizer):
    found = sample(chat_decoder, tokenizer, [[5, 9], [5, 9]])
    assert len({answer.ids for group in found for answer in group}) == 6


def test_cold_answers_are_the_likeliest_tokens_of_one_pass_after_the_other(chat_decoder, tokenizer):
    for prompt, (answer,) in zip(
        PROMPTS,
        sample(chat_decoder, tokenizer, samples=1, temperature=0, max_tokens=6),
        strict=True,
    ):
        ids = list(prompt)
        for token in answer.ids:
            assert mx.argmax(chat_decoder(mx.array([ids]))[0, -1]).item() == token
            ids.append(token)


def test_tokens_are_drawn_as_often_as_the_model_says(chat_decoder, tokenizer):
    draws = 1_500
    (answers,) = sample(
        chat_decoder, tokenizer, [PROMPTS[0]], samples=draws, max_tokens=1, batch_answers=256
    )
    counts = Counter(answer.ids[0] for answer in answers)
    chances = np.array(mx.softmax(chat_decoder(mx.array([PROMPTS[0]]))[0, -1]))
    common = np.flatnonzero(chances * draws > 5)
    distance = sum((counts[i] - draws * chances[i]) ** 2 / (draws * chances[i]) for i in common)
    assert distance < len(common) + 4 * math.sqrt(2 * len(common))  # four standard deviations


def test_an_answer_ends_with_a_token_that_ends_it_or_is_cut(chat_decoder, tokenizer):
    found = sample(chat_decoder, tokenizer, samples=64, max_tokens=24)
    answers = [answer for group in found for answer in group]
    assert {answer.finished for answer in answers} == {True, False}
    for answer in answers:
        stops = [token in tokenizer.eos_ids for token in answer.ids]
        assert not any(stops[:-1])
        assert stops[-1] == answer.finished
        assert answer.finished or len(answer.ids) == 24
        spelled = [token for token in answer.ids if token < tokenizer.vocab_size]
        assert answer.text == tokenizer.decode(spelled[: -1 if answer.finished else None])


def test_an_answer_is_cut_where_the_context_ends(chat_decoder, tokenizer):
    prompt = [5] * (chat_decoder.shape.max_tokens - 3)
    (answers,) = sample(chat_decoder, tokenizer, [prompt], samples=8)
    assert max(len(answer.ids) for answer in answers) == 3
