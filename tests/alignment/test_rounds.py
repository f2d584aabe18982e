"""Rounds in files: made once, kept as long as needed, and sampled from the weights they should be.

How several ranks share them is in tests/stages/test_rl_on_ranks.py.
"""

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from afm_mlx.alignment.behind import InTurn
from afm_mlx.alignment.logps import PackedAnswers
from afm_mlx.alignment.rollouts import Scored
from afm_mlx.alignment.rounds import OnPolicy, Rounds
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import RunError
from afm_mlx.ranks import ALONE

FIELDS = (*PackedAnswers._fields, *Scored._fields)


def batch(number: int) -> tuple[mx.array, ...]:
    """A micro-batch that says its round's number; nobody computes with it here."""
    return tuple(mx.full((2,), number + place) for place in range(len(FIELDS)))


def on_policy(made: list[int]) -> OnPolicy:
    def make(number, ranks):
        made.append(number)
        return [batch(number), batch(100 + number)]

    return OnPolicy(make, ranks=ALONE, prepare=lambda: None)


def test_a_round_is_made_once_kept_for_its_steps_and_read_back_the_same(tmp_path):
    made: list[int] = []
    rounds = Rounds(tmp_path, on_policy(made), updates=3)
    first = rounds.of_step(1)
    assert [rounds.of_step(step) is first for step in (2, 3)] == [True, True]
    assert made == [1]
    again = Rounds(tmp_path, on_policy(made), updates=3).of_step(2)
    assert made == [1]
    for found in (first, again):
        for number, each in zip((1, 101), found, strict=True):
            assert all(mx.array_equal(a, b) for a, b in zip(each, batch(number), strict=True))
    rounds.of_step(4)
    assert made == [1, 2]


def test_rounds_that_a_snapshot_may_need_are_kept(tmp_path):
    rounds = Rounds(tmp_path, on_policy([]), updates=2)
    rounds.of_step(1)
    (tmp_path / "step-00000003").mkdir()  # in the middle of round 2
    for step in (3, 5, 7):
        rounds.of_step(step)
    files = sorted(file.name for file in (tmp_path / "rounds").iterdir())
    assert files == [f"round-00000{number}.safetensors" for number in (2, 3, 4)]


def test_a_round_that_is_gone_or_damaged_is_refused(tmp_path):
    rounds = Rounds(tmp_path, on_policy([]), updates=2)
    with pytest.raises(RunError, match=r"round-000002.safetensors is missing, and step 4 needs it"):
        rounds.of_step(4)
    rounds.of_step(1)
    file = tmp_path / "rounds" / "round-000001.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged"):
        Rounds(tmp_path, on_policy([]), updates=2).of_step(2)


@pytest.fixture
def behind(decoder, tmp_path):
    """Makes rounds of two steps; each sample says the first weight that it was sampled with."""
    sampler = Decoder(decoder.shape)

    def first_weight(model: Decoder) -> float:
        return model.model.norm.weight[0].item()

    def make(number, ranks):
        return [tuple(mx.full((2,), first_weight(sampler)) for _ in FIELDS)]

    def open_rounds() -> Rounds:
        return Rounds(tmp_path, InTurn(tmp_path, decoder, sampler, make), updates=2)

    decoder.model.norm.weight = mx.zeros_like(decoder.model.norm.weight)
    return open_rounds


def train(decoder: Decoder) -> None:
    """One step: the first weight is one larger."""
    decoder.update(tree_map(lambda each: each + 1, decoder.parameters()))


def test_rounds_are_sampled_from_the_policy_that_the_round_before_began_with(decoder, behind):
    rounds, found = behind(), []
    for step in range(1, 9):
        found.append(rounds.of_step(step)[0][0][0].item())
        train(decoder)
    assert found == [0, 0, 0, 0, 2, 2, 4, 4]  # round 1 has no round before it


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_run_that_goes_on_samples_from_the_same_policy(decoder, behind, tmp_path, cut):
    rounds = behind()
    for step in range(1, 9):
        if step == cut:
            (tmp_path / f"step-{step - 1:08d}").mkdir()
            rounds = behind()  # another process, which knows files alone
        found = rounds.of_step(step)[0][0][0].item()
        assert found == [0, 0, 0, 0, 2, 2, 4, 4][step - 1]
        train(decoder)


def test_weights_of_rounds_that_nobody_needs_are_deleted(decoder, behind, tmp_path):
    rounds = behind()
    for step in range(1, 11):
        rounds.of_step(step)
    files = sorted(file.name for file in (tmp_path / "rounds").iterdir())
    assert files == [
        "policy-000004.safetensors",
        "policy-000005.safetensors",
        "round-000005.safetensors",
    ]
