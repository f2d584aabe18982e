import json
import os
import socket

import pytest
from mlx._distributed_utils.common import Host as MlxHost
from mlx._distributed_utils.common import Hostfile

from afm_mlx.errors import RunError
from afm_mlx.launch.hosts import PORT, RANKS_PER_CORE, read_hosts
from afm_mlx.launch.told import RANKS, Together

TWO = [{"ssh": "a.local", "ips": ["10.0.0.1"]}, {"ssh": "b.local", "ips": ["10.0.0.2"]}]


@pytest.fixture
def written(tmp_path):
    """Function that reads hosts from a file with this in it."""

    def read(content):
        path = tmp_path / "hosts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_hosts(str(path))

    return read


def told(hosts, rank):
    return Together.of(hosts.variables(rank)[RANKS])


def test_local_ranks_meet_at_free_ports_of_this_machine_and_share_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    hosts = read_hosts("local:2")
    first, second = (told(hosts, rank) for rank in range(2))
    assert first == second
    assert first.hosts == ("this machine",) * 2
    places = [place for [place] in json.loads(first.files["MLX_HOSTFILE"])]
    assert len(set(places)) == 2
    assert all(place.startswith("127.0.0.1:") for place in places)
    assert [hosts.variables(rank)["MLX_RANK"] for rank in range(2)] == ["0", "1"]
    assert hosts.variables(1)["OMP_NUM_THREADS"] == "4"


def test_cores_are_not_divided_where_the_user_has_said_how_many(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert read_hosts("local:2").variables(0)["OMP_NUM_THREADS"] == "3"


def test_file_that_mlx_writes_is_read(written):
    file = Hostfile(
        [MlxHost(0, "a.local", ["10.0.0.1"], []), MlxHost(1, "b.local", ["10.0.0.2"], [])],
        backend="ring",
        envs=["MLX_METAL_FAST_SYNCH=1"],
    )
    hosts = written(file.to_json())
    assert [host.ssh for host in hosts.hosts] == ["a.local", "b.local"]
    assert hosts.variables(1)["MLX_METAL_FAST_SYNCH"] == "1"
    places = json.loads(told(hosts, 1).files["MLX_HOSTFILE"])
    assert places == [[f"10.0.0.1:{PORT}"], [f"10.0.0.2:{PORT + 1}"]]
    assert "OMP_NUM_THREADS" not in hosts.variables(1)  # one rank has a machine to itself


def test_jaccl_gets_devices_and_the_address_of_rank_0(written):
    rdma = [[None, "rdma_en2"], ["rdma_en3", None]]
    hosts = [host | {"rdma": devices} for host, devices in zip(TWO, rdma, strict=True)]
    found = written({"backend": "jaccl-ring", "hosts": hosts})
    assert json.loads(told(found, 1).files["MLX_IBV_DEVICES"]) == rdma
    assert told(found, 1).backend == "jaccl"
    variables = found.variables(1)
    assert variables["MLX_JACCL_COORDINATOR"] == f"10.0.0.1:{PORT}"
    assert variables["MLX_JACCL_RING"] == "1"


def test_nccl_gives_each_rank_of_a_machine_its_own_gpu(written):
    hosts = written({"backend": "nccl", "hosts": [TWO[0], TWO[1], TWO[1]]})
    found = [hosts.variables(rank) for rank in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "0", "1"]
    assert {each["MLX_WORLD_SIZE"] for each in found} == {"3"}


def test_this_machine_is_known_by_its_name(written):
    hosts = written([{"ssh": socket.gethostname(), "ips": ["10.0.0.1"]}, TWO[1]])
    assert [host.is_here for host in hosts.hosts] == [True, False]


@pytest.mark.parametrize("number", ["0", "-1", "two", "", "1.5", "1000000"])
def test_number_of_local_ranks_must_make_sense(number):
    most = RANKS_PER_CORE * os.cpu_count()
    with pytest.raises(RunError, match=f"must be 1 to {most}"):
        read_hosts(f"local:{number}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hosts", "is not JSON"),
        (3, "names no hosts"),
        ([], "names no hosts"),
        ({"hosts": "a.local"}, "names no hosts"),
        (["a.local"], "host 1 has no 'ssh'"),
        ([{"ips": ["10.0.0.1"]}], "host 1 has no 'ssh'"),
        ([TWO[0], {"ssh": "b.local"}], "host 2 has no 'ips'"),
        ([TWO[0], {"ssh": "-oProxyCommand=x", "ips": ["10.0.0.2"]}], "must be a name"),
        ([{"ssh": "a.local", "ips": "10.0.0.1"}], "ips must be a list"),
        ([TWO[0] | {"cwd": 3}], "cwd is 3"),
        ({"hosts": TWO, "envs": ["A"]}, "envs must be a list of NAME=VALUE"),
        ({"hosts": TWO, "backend": "smoke"}, "backend is 'smoke', not one of ring"),
        ({"hosts": TWO, "backend": ["ring"]}, r"backend is \['ring'\], not one of ring"),
        ({"hosts": TWO, "backend": "mpi"}, "starts its processes itself"),
        ({"hosts": TWO, "backend": "jaccl"}, "rdma must name a device towards each of the 2"),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(written, content, message):
    with pytest.raises(RunError, match=message) as caught:
        written(content)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_says_what_hosts_may_be(tmp_path):
    with pytest.raises(RunError, match="no such file") as caught:
        read_hosts(str(tmp_path / "none.json"))
    assert "--hosts local:2" in caught.value.hint
