import numpy as np
import pytest

from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.pairs import Pair
from afm_mlx.alignment.reference import reference_logps

HOW = {"pairs_at_once": 2, "chunk_bytes": 2**24}


def some_pairs(count=7):
    random = np.random.default_rng(0)

    def answer():
        return Answer(random.integers(0, 48, random.integers(4, 30)).tolist(), 3)

    return [Pair(answer(), answer(), 1.0, (), ()) for _ in range(count)]


def test_each_pair_has_the_logps_of_both_answers(decoder, tmp_path):
    pairs = some_pairs()
    found = reference_logps(lambda: decoder, pairs, tmp_path / "r.f32", **HOW)
    assert found.shape == (7, 2)
    for pair, logps in zip(pairs, found.tolist(), strict=True):
        packed = pack_answers([pair.chosen, pair.rejected])
        alone = answer_logps(decoder, packed, chunk_bytes=2**24).answers
        assert logps == pytest.approx(alone.tolist(), rel=1e-5)


@pytest.mark.parametrize("left", [0, 5, 16, 17, 40, 55])
def test_a_file_cut_anywhere_goes_on_with_the_same_bits(decoder, tmp_path, left):
    pairs, whole, cut = some_pairs(), tmp_path / "whole.f32", tmp_path / "cut.f32"
    reference_logps(lambda: decoder, pairs, whole, **HOW)
    cut.write_bytes(whole.read_bytes()[:left])
    counts = []
    reference_logps(lambda: decoder, pairs, cut, **HOW, done=lambda done, _: counts.append(done))
    assert cut.read_bytes() == whole.read_bytes()
    assert len(counts) == 4 - left // 16


def test_a_complete_file_needs_no_model(decoder, tmp_path):
    pairs, file = some_pairs(), tmp_path / "r.f32"
    first = reference_logps(lambda: decoder, pairs, file, **HOW)

    def refuse():
        raise AssertionError

    assert np.array_equal(reference_logps(refuse, pairs, file, **HOW), first)
