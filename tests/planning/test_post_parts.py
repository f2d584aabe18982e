"""What plans of post-training are made of: operations, steps of writing, lines of files, rates."""

import pytest

from afm_mlx.planning import answers, examples
from afm_mlx.planning.answers import cache_bytes, forward_flops, learning_flops, write
from afm_mlx.planning.cost import flops_per_token
from afm_mlx.planning.examples import count_lines
from afm_mlx.planning.hardware import CHIPS, read_bandwidth
from tests.planning.small_plans import BANDWIDTH, CPU, MATRICES, OUTPUT, RATE, SEEN, small_shape


def test_constants_of_other_files_are_theirs():
    from afm_mlx.alignment import logps, reward, sampling
    from afm_mlx.compat import import_mlx_lm

    assert answers.BATCH_ANSWERS == sampling.BATCH_ANSWERS
    assert answers.SCORED_ANSWERS == reward.BATCH_ANSWERS
    assert logps.ARRAYS_PER_CHUNK == answers.LOGPS_ARRAYS
    assert import_mlx_lm("mlx_lm.models.cache").BatchKVCache.step == answers.CACHE_BLOCK


def test_operations_of_reading_and_of_learning_by_hand():
    shape = small_shape()
    blocks = 2 * MATRICES * 10 + 4 * SEEN * 7 * 10
    assert forward_flops(shape, 10, 7, 3) == blocks + 2 * OUTPUT * 3
    # The backward pass takes twice the forward one, and computes the logits again.
    assert learning_flops(shape, 10, 7, 3, recompute=False) == 3 * blocks + 8 * OUTPUT * 3
    assert learning_flops(shape, 10, 7, 3, recompute=True) == 4 * blocks + 8 * OUTPUT * 3


def test_reading_agrees_with_what_pretraining_counts():
    shape = small_shape()
    training = sum(flops_per_token(shape, 32, recompute=False).values())
    assert 3 * forward_flops(shape, 1, 32, 1) == pytest.approx(training)


def test_heads_are_those_of_the_reward_model():
    from afm_mlx.alignment.reward import RewardModel
    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.settings.alignment import Reward

    section = Reward(lr=1, pairs_per_step=1, max_tokens=1)
    model = RewardModel(Decoder(small_shape()), qualities=section.grades, classes=3, inner=64 // 4)
    counted = sum(array.size for array in model.heads().values())
    assert answers.head_parameters(small_shape(), section) == counted


def test_a_step_of_writing_takes_as_long_as_reading_or_computing_whichever_is_longer():
    shape = small_shape()
    given = {"prompts": 3, "answers": 12, "prompt_tokens": 20, "answer_tokens": 8}
    prompts, written = write(shape, CPU, **given)
    assert prompts.flops == 3 * (20 * (2 * MATRICES + 4 * SEEN * 20) + 2 * OUTPUT)
    assert prompts.seconds == pytest.approx(prompts.flops / RATE)
    # An answer sees its prompt and on average half of itself: 20 + 4 tokens.
    one = 2 * MATRICES + 2 * OUTPUT + 4 * SEEN * 24
    assert written.flops == 12 * 8 * one
    bytes_read = 4 * (MATRICES + OUTPUT) + 12 * 24 * cache_bytes(shape, CPU)
    assert cache_bytes(shape, CPU) == 2 * 4 * 2 * 2 * 16
    reading, computing = bytes_read / BANDWIDTH, 12 * one / RATE
    assert reading > computing
    assert written.seconds == pytest.approx(8 * reading)
    many = write(shape, CPU, **(given | {"answers": 640}))[1]
    assert many.seconds == pytest.approx(640 / 64 * 8 * 64 * one / RATE)


def test_lines_are_counted_without_empty_ones(tmp_path, monkeypatch):
    file = tmp_path / "lines.jsonl"
    text = b'{"a": 1}\n\n  \n{"b": 2}\r\n{"c": "no end"}'
    file.write_bytes(text)
    for size in (1, 3, 7, 2**20):  # wherever a chunk ends
        monkeypatch.setattr(examples, "CHUNK_BYTES", size)
        assert count_lines(file) == (3, len(text))
    file.write_bytes(b"")
    assert count_lines(file) == (0, 0)


def test_bandwidths_rise_within_a_generation_and_one_is_measured_here():
    for generation in range(1, 6):
        chips = [chip for name, chip in CHIPS.items() if name.startswith(f"m{generation}")]
        rates = [chip.gigabytes_per_second for chip in chips]
        assert rates == sorted(rates)
    assert read_bandwidth(2**20) > 1e7
