"""Run a function of a test file in several processes of this machine, which can talk."""

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SECONDS = 120
"""Longest time that the processes may take, imports included; the machine may be busy."""

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(ranks, *arguments)` returns on each of `size` ranks, by rank.

    Args:
        size: number of processes.
        function: of a test file; returns what JSON can hold.
        arguments: what JSON can hold; paths arrive as text.
    """
    command = [sys.executable, "-m", "tests.local_ranks", function.__module__, function.__name__]
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports(size)]))
        processes = [
            subprocess.Popen(
                [*command, json.dumps(arguments, default=str)],
                cwd=Path(__file__).parents[1],
                env={**os.environ, **THREADS, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        try:
            outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    import afm_mlx  # noqa: F401  (loads a tuned BLAS before MLX)
    from afm_mlx.ranks import joined

    module, name, text = sys.argv[1:]
    called = getattr(importlib.import_module(module), name)
    sys.stdout.write(json.dumps(called(joined(), *json.loads(text))) + "\n")
