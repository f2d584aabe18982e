"""Machines that work together: what `--hosts` names, and how their ranks find each other."""

from __future__ import annotations

import json
import os
import platform
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.errors import RunError
from afm_mlx.launch.told import RANKS, Together

LOCAL = "local:"
"""Before a number: so many ranks on this machine."""

HINT = (
    "--hosts local:2, or a file as mlx.distributed_config writes it: see docs/several-machines.md"
)

BACKENDS = {"ring": "ring", "jaccl": "jaccl", "jaccl-ring": "jaccl", "nccl": "nccl"}
"""Who can carry messages, and how MLX calls it."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

RANKS_PER_CORE = 4
"""More on one machine would only wait for each other. Ours."""

PORT = 32_323
"""First port of ring and JACCL, and one more for each address. Source: mlx.launch."""

NCCL_PORT = 12_345
"""Source: mlx.launch."""


@dataclass(frozen=True)
class Host:
    """Where one rank runs."""

    ssh: str
    """What to call it in `ssh`; 127.0.0.1 for this machine."""
    ips: tuple[str, ...] = ()
    """Addresses at which the other ranks reach it."""
    rdma: tuple[Any, ...] = ()
    """For JACCL: its device towards each rank, `None` towards itself."""
    cwd: str = ""
    """Folder to work in; empty: this one's path."""
    python: str = ""
    """Python that has `afm`; empty: this one's path."""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, which needs no ssh."""
        return self.ssh in LOOPBACK or _plain(self.ssh) == _plain(socket.gethostname())

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "this machine" if self.is_here else self.ssh


@dataclass(frozen=True)
class Hosts:
    """Where all ranks run, by rank."""

    hosts: tuple[Host, ...]
    """One for each rank."""
    backend: str
    """One of `BACKENDS`."""
    envs: tuple[str, ...] = ()
    """`NAME=VALUE` for all processes."""
    ports: tuple[int, ...] = ()
    """Ports of ranks on one machine; empty: counted from `PORT`."""

    def variables(self, rank: int) -> dict[str, str]:
        """Environment of a rank, by which it finds the others."""
        names = tuple(host.name for host in self.hosts)
        told = Together(names, BACKENDS[self.backend], self._files())
        found = dict(each.partition("=")[::2] for each in self.envs)
        found |= {RANKS: told.text(), "MLX_RANK": str(rank)} | self._meeting(rank)
        here = sum(host.is_here for host in self.hosts)
        if self.hosts[rank].is_here and here > 1:
            # Else every rank would take all cores, and all would wait for each other.
            threads = str(max(1, (os.cpu_count() or 1) // here))
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                found.setdefault(name, os.environ.get(name, threads))
        return found

    def _files(self) -> dict[str, str]:
        """Files that MLX reads, by the variable that names each."""
        if self.backend == "ring":
            ports = iter(self.ports or range(PORT, PORT + sum(len(h.ips) for h in self.hosts)))
            places = [[f"{ip}:{next(ports)}" for ip in host.ips] for host in self.hosts]
            return {"MLX_HOSTFILE": json.dumps(places)}
        if self.backend == "nccl":
            return {}
        return {"MLX_IBV_DEVICES": json.dumps([host.rdma for host in self.hosts])}

    def _meeting(self, rank: int) -> dict[str, str]:
        """Where rank 0 is found, for those that do not all know each other."""
        first = self.hosts[0].ips[0]
        if self.backend == "nccl":
            beside = [other for other in self.hosts[:rank] if other.ssh == self.hosts[rank].ssh]
            return {
                "NCCL_HOST_IP": first,
                "NCCL_PORT": str(NCCL_PORT),
                "MLX_WORLD_SIZE": str(len(self.hosts)),
                "CUDA_VISIBLE_DEVICES": str(len(beside)),
            }
        if self.backend == "ring":
            return {}
        ring = {"MLX_JACCL_RING": "1"} if self.backend == "jaccl-ring" else {}
        return ring | {"MLX_JACCL_COORDINATOR": f"{first}:{PORT}"}


def read_hosts(word: str) -> Hosts:
    """The machines that `--hosts` names: `local:N`, or a file in the format of `mlx.launch`.

    Raises:
        RunError: there is no such file, it is not such a file, or no so many ranks can be.
    """
    if word.startswith(LOCAL):
        return _on_this_machine(word)
    path = Path(word).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise RunError(f"cannot read hosts from '{word}': {what}", hint=HINT) from None
    except ValueError as error:
        raise RunError(f"'{word}' is not JSON: {error}", hint=HINT) from None
    table: dict[str, Any] = found if isinstance(found, dict) else {"hosts": found}
    listed = table.get("hosts")
    if not isinstance(listed, list) or not listed:
        raise RunError(f"'{word}' names no hosts", hint=HINT)
    hosts = tuple(_host(entry, f"'{word}', host {at}") for at, entry in enumerate(listed, 1))
    backend = table.get("backend") or _backend()
    envs = table.get("envs", [])
    if not _are_texts(envs) or not all("=" in each for each in envs):
        raise RunError(f"'{word}': envs must be a list of NAME=VALUE", hint=HINT)
    _check(word, hosts, backend)
    return Hosts(hosts, backend, tuple(envs))


def _on_this_machine(word: str) -> Hosts:
    number = word.removeprefix(LOCAL)
    cores = os.cpu_count() or 1
    most = RANKS_PER_CORE * cores
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= most):
        raise RunError(
            f"--hosts {word}: the number of processes must be 1 to {most}, "
            f"{RANKS_PER_CORE} for each of this machine's {cores} cores",
            hint=f"--hosts {LOCAL}{min(2, most)}",
        )
    host = Host(LOOPBACK[0], (LOOPBACK[0],))
    backend = _backend()
    return Hosts((host,) * int(number), backend, ports=_free_ports(int(number)))


def _free_ports(number: int) -> tuple[int, ...]:
    """Ports that nobody listens at, so that several runs on one machine do not meet."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((LOOPBACK[0], 0))
        return tuple(each.getsockname()[1] for each in sockets)


def _backend() -> str:
    """Who carries messages where nobody says it. As in mlx.launch."""
    if platform.system() == "Darwin":
        return "ring"
    import mlx.core as mx

    return "nccl" if mx.cuda.is_available() else "ring"


def _host(entry: Any, where: str) -> Host:
    if not isinstance(entry, dict) or not isinstance(entry.get("ssh"), str):
        raise RunError(f"{where} has no 'ssh', the name to reach it by", hint=HINT)
    if not entry["ssh"] or entry["ssh"].startswith("-"):  # ssh would take it for an option
        raise RunError(f"{where}: ssh is '{entry['ssh']}', and must be a name", hint=HINT)
    if not _are_texts(entry.get("ips", [])):
        raise RunError(f"{where}: ips must be a list of addresses", hint=HINT)
    if not isinstance(entry.get("rdma", []), list):
        raise RunError(f"{where}: rdma must be a list of devices", hint=HINT)
    texts = {name: entry.get(name, "") for name in ("cwd", "python")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise RunError(f"{where}: {name} is {value!r}, and must be a path", hint=HINT)
    return Host(entry["ssh"], tuple(entry.get("ips", [])), tuple(entry.get("rdma", [])), **texts)


def _check(word: str, hosts: tuple[Host, ...], backend: Any) -> None:
    """Raise RunError where the ranks could not find each other."""
    if backend == "mpi":
        raise RunError(
            f"'{word}' says backend mpi, which starts its processes itself",
            hint=f"mpirun -n {len(hosts)} afm ..., without --hosts",
        )
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise RunError(
            f"'{word}': backend is {backend!r}, not one of {', '.join(BACKENDS)}", hint=HINT
        )
    needed = hosts if backend == "ring" else hosts[:1]
    for at, host in enumerate(needed, 1):
        if not host.ips:
            raise RunError(f"'{word}', host {at} has no 'ips', an address to reach it at")
    if backend.startswith("jaccl"):
        for at, host in enumerate(hosts):
            if len(host.rdma) != len(hosts) or host.rdma[at] is not None:
                raise RunError(
                    f"'{word}', host {at + 1}: rdma must name a device towards each of the "
                    f"{len(hosts)} hosts, and null towards itself",
                    hint="mlx.distributed_config writes this",
                )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _plain(name: str) -> str:
    """A machine's name without what networks add to it."""
    return name.casefold().rstrip(".").removesuffix(".local")
