import mlx.core as mx
import pytest

from afm_mlx.errors import RunError
from afm_mlx.training.state import State, load_snapshot, save_snapshot, step_key


def state(step):
    params = {"layers": [{"weight": mx.full((2, 3), step + 0.1)}, {"weight": mx.zeros((1,))}]}
    rule = {"step": mx.array(step, mx.uint32), "mean": {"layers": [{"weight": mx.ones((2, 3))}]}}
    return State(step, params, rule, seconds=1.5 * step)


def test_snapshot_gives_back_the_same_bits(tmp_path):
    save_snapshot(tmp_path, state(7))
    loaded = load_snapshot(tmp_path)
    assert (loaded.step, loaded.seconds) == (7, 10.5)
    assert mx.array_equal(loaded.params["layers"][0]["weight"], mx.full((2, 3), 7.1))
    assert loaded.rule["step"].item() == 7
    assert loaded.rule["step"].dtype == mx.uint32


def test_newest_two_snapshots_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_snapshot(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]
    assert load_snapshot(tmp_path).step == 10


def test_half_a_snapshot_is_not_a_snapshot(tmp_path):
    (tmp_path / "step-00000003.part").mkdir()
    assert load_snapshot(tmp_path) is None
    save_snapshot(tmp_path, state(3))
    assert load_snapshot(tmp_path).step == 3


def test_damaged_snapshot_is_named(tmp_path):
    path = save_snapshot(tmp_path, state(4)) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match="step-00000004 is damaged"):
        load_snapshot(tmp_path)


def test_step_keys_differ_by_seed_and_step_and_repeat():
    draws = {(s, t): mx.random.uniform(key=step_key(s, t)).item() for s in (0, 1) for t in (1, 2)}
    assert len(set(draws.values())) == 4
    assert mx.random.uniform(key=step_key(1, 2)).item() == draws[1, 2]
