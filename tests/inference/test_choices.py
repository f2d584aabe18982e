import math
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.inference.choices import Draw, Watch, greedy, sampler, told
from afm_mlx.inference.requests import Sampling

LOGPS = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))


def drawn(count, **settings) -> list[int]:
    draw = Draw(Sampling(1, **settings))
    return [draw(LOGPS).item() for _ in range(count)]


def test_all_greedy_answers_share_one_sampler():
    assert sampler(Sampling(5)) is sampler(Sampling(9, seed=3)) is greedy
    assert greedy(LOGPS).tolist() == [0]


def test_draws_have_the_frequencies_of_the_probabilities():
    counts = Counter(drawn(2_000, temperature=1.0, seed=1))
    for token, chance in enumerate((0.5, 0.3, 0.15, 0.05)):
        spread = math.sqrt(2_000 * chance * (1 - chance))
        assert counts[token] == pytest.approx(2_000 * chance, abs=4 * spread)


def test_a_temperature_divides_the_log_probabilities():
    counts = Counter(drawn(2_000, temperature=0.5, seed=1))
    assert counts[0] / counts[1] == pytest.approx((0.5 / 0.3) ** 2, rel=0.25)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_least_temperature_takes_the_likeliest(top_p):
    backwards = LOGPS[:, ::-1]
    draw = Draw(Sampling(1, temperature=5e-324, top_p=top_p))
    assert [draw(backwards).item() for _ in range(20)] == [3] * 20


def test_top_p_leaves_the_fewest_that_have_the_probability_together():
    assert set(drawn(200, temperature=1.0, top_p=0.79)) == {0, 1}
    assert set(drawn(200, temperature=1.0, top_p=0.81)) == {0, 1, 2}


def test_a_draw_is_that_of_its_place_however_often_and_in_whatever_order():
    expected = drawn(8, temperature=1.0, seed=5)
    draw = Draw(Sampling(1, temperature=1.0, seed=5))
    for place in (3, 0, 3, 7, 1):
        draw.placed(mx.zeros(place + 1), LOGPS)
        assert draw(LOGPS).item() == expected[place]


def test_any_whole_number_is_a_seed():
    assert drawn(4, temperature=1.0, seed=-1) != drawn(4, temperature=1.0, seed=2**70 + 1)


def test_what_is_told_is_the_tokens_own_log_probability_and_the_likeliest():
    own, top = told(LOGPS[0], 2, 2)
    assert own == pytest.approx(math.log(0.15))
    assert [token for token, _ in top] == [0, 1]
    assert told(LOGPS[0], 2, 0)[1] == ()
    assert [token for token, _ in told(LOGPS[0], 3, 99)[1]] == [0, 1, 2, 3]


class Bits:
    """A guide of fixed bits, and its own state."""

    finished = False

    def __init__(self, *words) -> None:
        self.words, self.accepted = np.array(words, dtype=np.uint32), []

    def start(self, max_tokens=None):
        return self

    def allowed(self):
        return self.words

    def accept(self, token) -> None:
        self.accepted.append(token)


def test_bits_are_read_from_the_little_end_word_by_word():
    watch = Watch(Bits(1 << 3, 1 << 31), ends=(), keeps=False)
    masked = watch(mx.array([1]), mx.zeros((1, 70)))  # rows without a bit are not allowed
    assert [token for token, value in enumerate(masked[0].tolist()) if value == 0] == [3, 63]


def test_a_guide_is_told_every_token_of_the_answer_but_the_end():
    guide = Bits(2**32 - 1)
    watch = Watch(guide, ends=(2,), keeps=False)
    for tokens in ([9, 8], [9, 8, 5], [9, 8, 5, 6], [9, 8, 5, 6, 2]):
        watch(mx.array(tokens), mx.zeros((1, 32)))
    assert guide.accepted == [5, 6]
