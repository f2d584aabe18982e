"""Answers are those of mlx-lm itself, on its own model of the same folder."""

import mlx.core as mx
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.requests import Sampling
from afm_mlx.inference.speculative import Draft

PROMPT = "The cat sat on the hill. " * 12


def tokens_of(chunks) -> list[int]:
    return [chunk.token for chunk in chunks]


def theirs(folder, ids, max_tokens, eos_ids, **settings) -> list[int]:
    """What mlx-lm answers."""
    model, _ = import_mlx_lm("mlx_lm.utils").load_model(folder)
    steps = import_mlx_lm("mlx_lm.generate").generate_step(
        mx.array(ids), model, max_tokens=max_tokens, **settings
    )
    said = []
    for token, _ in steps:
        said.append(int(token))
        if said[-1] in eos_ids:
            break
    return said


@pytest.fixture
def expected(varied, varied_folder):
    """Greedy tokens of mlx-lm."""
    said = theirs(varied_folder, varied.prompt_ids(PROMPT), 60, varied.tokenizer.eos_ids)
    assert len(set(said)) > 10
    return said


def test_a_greedy_answer_is_mlx_lms(varied, expected):
    assert tokens_of(varied.stream(PROMPT, max_tokens=60)) == expected


def test_a_greedy_answer_to_a_prompt_that_is_known_in_part_is_mlx_lms(varied, expected):
    list(varied.stream(PROMPT.replace("hill", "mat", 11).replace("mat", "hill", 8), max_tokens=5))
    assert tokens_of(varied.stream(PROMPT, max_tokens=60)) == expected
    assert 0.5 < varied.stats.cached_tokens / varied.stats.prompt_tokens < 1


def test_a_greedy_answer_with_a_draft_is_mlx_lms(varied, expected, draft_folder):
    draft = Draft.open(draft_folder, dtype=mx.float32)
    for _ in range(2):  # the second time with a cache
        assert tokens_of(varied.stream(PROMPT, max_tokens=60, draft=draft)) == expected
    assert varied.stats.cached_tokens > 0


@pytest.mark.parametrize("bits", [4, 8])
def test_a_greedy_answer_with_rounded_keys_is_mlx_lms(varied, varied_folder, bits):
    ids, ends = varied.prompt_ids(PROMPT), varied.tokenizer.eos_ids
    rounded = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": 0}
    said = theirs(varied_folder, ids, 60, ends, **rounded)
    assert tokens_of(varied.stream(PROMPT, max_tokens=60, kv_bits=bits)) == said
    assert (bits == 8) or said != theirs(varied_folder, ids, 60, ends)


def test_rounded_and_exact_keys_are_kept_apart(varied, expected):
    list(varied.stream(PROMPT, max_tokens=2, kv_bits=4))
    assert tokens_of(varied.stream(PROMPT, max_tokens=60)) == expected
    assert varied.stats.cached_tokens == 0


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_drawn_answers_are_the_same_with_a_draft_and_without(varied, draft_folder, top_p):
    drawn = {"max_tokens": 60, "temperature": 0.8, "top_p": top_p, "seed": 7}
    alone = tokens_of(varied.stream(PROMPT, **drawn))
    draft = Draft.open(draft_folder, dtype=mx.float32)
    assert tokens_of(varied.stream(PROMPT, draft=draft, **drawn)) == alone


def test_a_draft_that_is_the_model_guesses_every_token_even_of_drawn_answers(varied, varied_folder):
    draft = Draft.open(varied_folder, dtype=mx.float32, tokens=3)
    list(varied.stream(PROMPT, max_tokens=40, temperature=1.0, seed=2, draft=draft))
    stats = varied.stats
    assert stats.answer_tokens == 40
    assert stats.drafted_tokens == 30  # of each four, the last one is the check's own


def test_an_answer_with_a_draft_can_be_closed_anywhere(varied, draft_folder):
    draft = Draft.open(draft_folder, dtype=mx.float32)
    whole = tokens_of(varied.stream(PROMPT, max_tokens=40))
    ids, four = varied.prompt_ids(PROMPT), Sampling(max_tokens=4)
    for length in range(1, 9):
        answer = varied.stream(PROMPT, max_tokens=40, draft=draft)
        assert [next(answer).token for _ in range(length)] == whole[:length]
        answer.close()
        again = varied.answer([*ids, *whole[:length]], four, draft=draft)
        assert tokens_of(again) == whole[length : length + 4]
        assert varied.stats.cached_tokens > len(ids) - 2


def test_a_draft_of_another_tokenizer_is_refused(varied, draft_folder):
    file = draft_folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<reserved:09>", "<reserved:99>"))
    draft = Draft.open(draft_folder)
    with pytest.raises(ModelError, match="has another tokenizer than") as refused:
        list(varied.stream(PROMPT, max_tokens=5, draft=draft))
    assert refused.value.hint == "a draft must be made with the model's own tokenizer"


def test_keys_are_rounded_to_4_or_8_bits_only(varied, engine):
    with pytest.raises(DataError, match="kv_bits is 3, and must be one of 4, 8"):
        list(varied.stream(PROMPT, max_tokens=5, kv_bits=3))
    with pytest.raises(
        ModelError, match="heads of a multiple of 32 numbers, and this model's have 8"
    ):
        list(engine.stream("The cat", max_tokens=5, kv_bits=4))


@pytest.mark.slow
@pytest.mark.parametrize("kv_bits", [None, 8])
def test_smollm2_answers_as_mlx_lm_does(smollm2, kv_bits):
    engine = Engine.open(smollm2, dtype=mx.float32)
    ids = engine.prompt_ids("Name three rivers, and say one thing about each.")
    rounded = {"kv_bits": kv_bits, "kv_group_size": 64, "quantized_kv_start": 0} if kv_bits else {}
    said = theirs(smollm2, ids, 80, engine.tokenizer.eos_ids, **rounded)
    for _ in range(2):
        answer = engine.stream(
            "Name three rivers, and say one thing about each.", max_tokens=80, kv_bits=kv_bits
        )
        assert tokens_of(answer) == said
