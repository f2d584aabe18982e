"""Three real processes on this machine, of which the first two share a folder."""

import json
import os
import subprocess
import sys

import pytest

from afm_mlx.launch.hosts import read_hosts
from afm_mlx.ranks import ALONE, Ranks, apart, joined

SIZE = 3

SCRIPT = """
import json, os, sys
from pathlib import Path
import afm_mlx
import mlx.core as mx
from afm_mlx.errors import RunError
from afm_mlx.ranks import apart, joined

ranks = joined()
folder = Path(sys.argv[1], "shared" if ranks.rank < 2 else "own")
found = {"rank": ranks.rank, "names": [ranks.name(rank) for rank in range(ranks.size)]}
told = ("AFM_RANKS", "MLX_RANK", "MLX_HOSTFILE")
found["variables"] = [name for name in told if name in os.environ]
found["leader"] = ranks.leader(folder)

def work():
    with (folder / "worked").open("a") as file:
        file.write(str(ranks.rank))

for _ in range(2):
    ranks.once(folder, work)
found["worked"] = (folder / "worked").read_text()
ranks.wait()
found["left"] = sorted(os.listdir(folder))
found["same"] = ranks.same({"a": mx.array([ranks.rank + 1.5])})["a"].item()
found["total"] = ranks.total({"a": mx.array([ranks.rank + 1.5])})["a"].item()
own = [mx.full((ranks.rank, 2), ranks.rank + 0.5, mx.bfloat16), mx.array([ranks.rank == 1])]
own += [mx.arange(3, dtype=mx.int32)] * ranks.rank
told = ranks.all_arrays(own)
found["arrays"] = [[[str(a.dtype), list(a.shape), a.tolist()] for a in each] for each in told]
found["none"] = ranks.all_arrays([])
with apart():
    found["apart"] = joined().size
ranks.agree({"lr": "0.1"})
try:
    ranks.agree({"lr": "0.1", "mlx": "new" if ranks.rank == 2 else "old"}, hint="update")
except RunError as error:
    found["differ"] = [str(error), error.hint]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank saw."""
    folder, hosts = tmp_path_factory.mktemp("ranks"), read_hosts(f"local:{SIZE}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=os.environ | hosts.variables(rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), said
    return [json.loads(out) for out, _ in said]


def test_ranks_know_their_number_and_each_others_names(found):
    assert [each["rank"] for each in found] == [0, 1, 2]
    assert found[0]["names"] == [f"rank {rank} (this machine)" for rank in range(SIZE)]


def test_what_a_rank_starts_does_not_take_itself_for_the_rank(found):
    assert not any(each["variables"] for each in found)


def test_the_lowest_rank_that_sees_the_same_files_leads(found):
    assert [each["leader"] for each in found] == [0, 0, 2]


def test_what_is_done_once_is_done_by_the_leader_of_each_folder_and_leaves_no_marks(found):
    assert [each["worked"] for each in found] == ["00", "00", "22"]
    assert all(each["left"] == ["worked"] for each in found)


def test_every_rank_gets_the_first_ones_arrays_or_the_sum(found):
    assert [each["same"] for each in found] == [1.5] * SIZE
    assert [each["total"] for each in found] == [1.5 + 2.5 + 3.5] * SIZE


def test_every_rank_gets_the_arrays_of_all_whose_shapes_and_number_may_differ(found):
    integers = ["mlx.core.int32", [3], [0, 1, 2]]
    wanted = [
        [
            ["mlx.core.bfloat16", [rank, 2], [[rank + 0.5] * 2] * rank],
            ["mlx.core.bool", [1], [rank == 1]],
            *[integers] * rank,
        ]
        for rank in range(SIZE)
    ]
    assert [each["arrays"] for each in found] == [wanted] * SIZE
    assert [each["none"] for each in found] == [[[]] * SIZE] * SIZE


def test_a_rank_can_be_alone_for_a_while(found):
    assert [each["apart"] for each in found] == [1] * SIZE


def test_a_difference_is_told_by_all_ranks_with_the_same_words(found):
    said = "mlx is old on rank 0 (this machine), and new on rank 2 (this machine)"
    assert [each["differ"] for each in found] == [[said, "update"]] * SIZE


def test_a_process_by_itself_is_alone_and_leads(tmp_path):
    assert joined() is ALONE
    done = []
    ALONE.once(tmp_path / "none", lambda: done.append(1))
    assert done == [1]
    assert ALONE.leads(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    ALONE.agree({"mlx": "new"})
    with apart():
        assert joined() is ALONE


def test_a_rank_whose_peers_cannot_be_is_an_error_and_no_world_of_one():
    code = "import afm_mlx; from afm_mlx.ranks import joined; joined()"
    told = read_hosts("local:2").variables(0)
    told["AFM_RANKS"] = told["AFM_RANKS"].replace("127.0.0.1", "nowhere")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "the 2 ranks cannot meet" in done.stderr


def test_names_of_ranks_whose_machines_are_not_known():
    assert Ranks(0, 2).name(1) == "rank 1"
