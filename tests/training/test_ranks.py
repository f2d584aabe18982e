"""Training on several ranks of this machine: real processes that exchange real messages."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.training.on_ranks import Job

PROGRAM = Path(__file__).with_name("on_ranks.py")
SECONDS = 240
"""After which processes that wait for each other are ended."""


def on_ranks(size, folder, jobs):
    """What each rank saw of some jobs; `size` 1 starts a process without others."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(size)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    (folder / "hosts.json").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    command = [sys.executable, str(PROGRAM), str(folder / "jobs.json"), str(folder / "seen-")]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MLX_RANK")}
    alone |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    together = {"MLX_HOSTFILE": str(folder / "hosts.json")}
    processes = [
        subprocess.Popen(
            command,
            env=alone | (together | {"MLX_RANK": str(rank)} if size > 1 else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"seen-{rank}").read_text()) for rank in range(size)]


def losses(seen):
    return [loss for _, loss in seen["losses"]]


def close(one, other):
    return losses(one) == pytest.approx(losses(other), rel=0, abs=1e-5)


VARIANTS = {
    "afm": {"rule": "afm"},
    "adamw": {"rule": "adamw"},
    "muon": {"rule": "muon"},
    "checkpointing": {"checkpointing": True, "micro_rows": 2},
    "uneven": {"rows": 5, "micro_rows": 1},
    "a row for few": {"rows": 1},
}
EVERY = [(name, shard) for name in VARIANTS for shard in ("none", "full")]
EVERY += [(name, "tensor") for name in VARIANTS]
SOME = [
    ("afm", "none"),
    ("uneven", "none"),
    *((name, "full") for name in VARIANTS),
    *((name, "tensor") for name in ("afm", "muon", "checkpointing")),
]
"""Of every one, what takes seconds."""


@pytest.fixture(
    scope="module",
    params=[(2, SOME), pytest.param((4, EVERY), marks=pytest.mark.slow)],
    ids=["2", "4"],
)
def seen(request, tmp_path_factory):
    """What one process saw, and what several did, of the same jobs."""
    folder, (size, names) = tmp_path_factory.mktemp("ranks"), request.param

    def runs(place):
        return {
            (name, shard): Job(
                str(folder / place / f"{name} {shard}"),
                shard=shard,
                kv_heads=4 if shard == "tensor" else 2,
                **settings,
            )
            for name, shard in names
            for settings in [VARIANTS[name]]
        }

    (alone,) = on_ranks(1, folder / "one", runs("one").values())
    together = on_ranks(size, folder / "many", runs("many").values())
    by_name = [dict(zip(names, each, strict=True)) for each in (alone, *together)]
    return size, by_name[0], by_name[1:]


def test_losses_are_those_of_one_process(seen):
    size, alone, together = seen
    for each in together:
        for name, found in each.items():
            assert found["size"] == size
            assert close(found, alone[name]), name


def test_all_ranks_end_with_the_same_bits(seen):
    _, _, together = seen
    for name in together[0]:
        assert len({each[name]["weights"] for each in together}) == 1, name


def test_rows_are_shared_out_and_every_rank_reads_equally_many_micro_batches(seen):
    size, _, together = seen
    assert [each["afm", "none"]["read"] for each in together] == [[8 // size]] * size
    assert [each["checkpointing", "full"]["read"] for each in together] == [
        [2] * (4 // size)
    ] * size
    most = -(-5 // size)
    assert [each["uneven", "full"]["read"] for each in together] == [[1] * most] * size


def test_fully_sharded_rank_holds_its_share_of_weights_and_state(seen):
    size, alone, together = seen
    for name in ("afm", "adamw"):
        whole = alone[name, "full"]["whole_bytes"]
        assert alone[name, "full"]["held_bytes"] >= whole
        for each in together:
            assert whole / size < each[name, "full"]["held_bytes"] < 1.1 * whole / size


def test_rank_with_a_part_of_the_model_reads_all_rows_and_holds_less(seen):
    size, alone, together = seen
    for each in together:
        assert each["checkpointing", "tensor"]["read"] == alone["checkpointing", "tensor"]["read"]
        held, whole = each["afm", "tensor"]["held_bytes"], alone["afm", "tensor"]["held_bytes"]
        assert whole / size < held < whole


def test_rank_that_is_interrupted_stops_all_in_the_same_step_and_any_number_goes_on(tmp_path):
    whole = tmp_path / "whole"
    stops = {"none": Job(str(tmp_path / "none"), stop_at=4)}
    stops["full"] = Job(str(tmp_path / "full"), shard="full", stop_at=4)
    stops["tensor"] = Job(str(tmp_path / "tensor"), shard="tensor", stop_at=4)
    for each in on_ranks(2, tmp_path / "two", stops.values()):
        assert ["saved at step 3" in seen["stopped"] for seen in each] == [True] * 3
    # From two to one, sharded or not; and from one to two, of which each may have a part.
    one = str(tmp_path / "one")
    alone = [Job(str(whole)), Job(stops["full"].work), Job(stops["tensor"].work)]
    (seen,) = on_ranks(1, tmp_path / "alone", [*alone, Job(one, stop_at=4)])
    complete, *resumed, stopped = seen
    for found in resumed:
        assert losses(found) == pytest.approx(losses(complete)[3:], rel=0, abs=1e-5)
    assert "saved at step 3" in stopped["stopped"]
    shutil.copytree(one, f"{one}-cut")
    goes_on = [
        Job(stops["none"].work, shard="full"),
        Job(one, shard="full"),
        Job(f"{one}-cut", shard="tensor"),
    ]
    for each in on_ranks(2, tmp_path / "again", goes_on):
        for found in each:
            assert losses(found) == pytest.approx(losses(complete)[3:], rel=0, abs=1e-5)
