"""Every touch of what lies below us: the BLAS, the device, and the insides of MLX and mlx-lm.

When one of them changes, this is the file that breaks.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import mlx.core as mx

CPU_CACHE_BYTES = 2**30  # freed buffers kept for reuse on the CPU; measured, see memory_settings


@cache
def load_blas() -> str:
    """Load a tuned BLAS on Linux, before MLX does, and say which: a path, or "" for none.

    MLX's CPU wheel for Linux links the reference BLAS. A library that is loaded first and exports
    `cblas_*` to all takes its place: 1024 x 1024 float32 products went from 6 to 190 GFLOP/s on
    two cores. macOS needs nothing, MLX uses Metal and Accelerate there.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return ""
    # The same product must give the same bits however many threads are free: runs resume exactly.
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    mkl = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"), reverse=True)
    for library in [*map(str, mkl), "libmkl_rt.so", "libopenblas.so.0", "libopenblas.so"]:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return library
    return ""


def import_mlx_lm(name: str = "mlx_lm") -> ModuleType:
    """Import mlx-lm, or a module of it, and keep the process's limits as they are.

    `import mlx_lm` lowers the limit of open files, the hard limit included, which an ordinary
    process cannot raise again. It also takes about a second, so only call it where it is needed.
    """
    if name in sys.modules:
        return sys.modules[name]
    import resource

    setrlimit = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        return importlib.import_module(name)
    finally:
        resource.setrlimit = setrlimit


def on_gpu() -> bool:
    """Whether MLX computes on a GPU: Metal or CUDA."""
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu


def is_frozen(module: Any, name: str) -> bool:
    """Whether a module's own array is frozen.

    `trainable_parameters()` says it too, in 40 us; a model asks 200 times for each token.
    """
    return name in module._no_grad


def compute_dtype(compute: str = "device") -> mx.Dtype:
    """Number format for forward and backward passes: "device", "bfloat16" or "float32".

    "device" is bfloat16 on a GPU and float32 on the CPU, where MLX multiplies bfloat16 matrices
    ten times slower than float32 ones.
    """
    import mlx.core as mx

    if compute == "device":
        return mx.bfloat16 if on_gpu() else mx.float32
    return {"bfloat16": mx.bfloat16, "float32": mx.float32}[compute]


def device_memory_bytes() -> int:
    """Memory that computations may use: what Metal recommends, else the machine's memory."""
    import mlx.core as mx

    recommended = mx.device_info().get("max_recommended_working_set_size", 0)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(recommended) if on_gpu() and recommended else physical


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`mx.compile` on a GPU; on the CPU the function itself.

    There, compiling calls g++ for every kernel (25 s for a first step) and runs no faster.
    """
    import mlx.core as mx

    return mx.compile(function) if on_gpu() else function


class ModelThread:
    """A thread for work that calls MLX. It never ends, and later work gets it again.

    A thread that has called compiled functions of MLX 0.32.4 needs Python when it ends, after
    Python has let it go. A program that ends at that moment dies ("terminate called without an
    active exception"). Can go when a compile cache is freed with its thread's Python state.
    """

    _idle: ClassVar[list[queue.SimpleQueue[ModelThread]]] = []

    def __init__(self, work: Callable[[], None]) -> None:
        """Begin work."""
        self._work, self._over = work, threading.Event()
        self._ident: int | None = None
        try:
            turns = ModelThread._idle.pop()
        except IndexError:
            turns = queue.SimpleQueue()
            threading.Thread(
                target=self._take_turns, args=(turns,), name="afm-model", daemon=True
            ).start()
        turns.put(self)

    @property
    def is_alive(self) -> bool:
        """Whether the work is under way."""
        return not self._over.is_set()

    def join(self) -> None:
        """Wait until the work has ended; the work itself does not wait."""
        if threading.get_ident() != self._ident:
            self._over.wait()

    @staticmethod
    def _take_turns(turns: queue.SimpleQueue[ModelThread]) -> None:
        while True:
            turn = turns.get()
            turn._ident = threading.get_ident()
            try:
                turn._work()
            except Exception as error:
                traceback.print_exception(error)
            turn._over.set()
            del turn  # and what its work holds, while nobody needs the thread
            ModelThread._idle.append(turns)


@contextmanager
def memory_settings() -> Iterator[None]:
    """MLX's memory settings for long work, put back at the end.

    On the CPU, freed buffers are kept for the next step (MLX keeps 32 MiB there), which saves
    about a sixth of a step. On Metal, weights and states stay wired, so that macOS does not page
    them out between steps.
    """
    import mlx.core as mx

    cache_limit = mx.set_cache_limit(CPU_CACHE_BYTES) if not on_gpu() else None
    wired_limit = mx.set_wired_limit(device_memory_bytes()) if mx.metal.is_available() else None
    try:
        yield
    finally:
        if cache_limit is not None:
            mx.set_cache_limit(cache_limit)
        if wired_limit is not None:
            mx.set_wired_limit(wired_limit)
