"""Machines to plan for: Macs by name, from published figures, and this machine, measured.

Arithmetic rates of the Macs are peaks of the largest GPU sold with a chip, in float32. Apple
publishes few of them; ours are those of Hugging Face's hardware pages (huggingface.co/hardware,
read in 2026) and of huggingface.js, pull request 1044, where a chip is listed, and scaled by GPU
cores from the same generation's Max where it is not. The matrix units of M5 GPUs are not in them.
Memory bandwidths are Apple's published peaks of a chip's largest configuration, from its press
releases and technical specifications; those of M5 as Andyyyy64/whichllm, pull request 92, and
midudev/canirun.ai, pull request 26, read them there.
Nothing here was measured on a Mac by us.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

from afm_mlx import compat
from afm_mlx.errors import RecipeError

GIB = 2**30

# Share of the GPU's peak (or of the measured matrix product) that training is assumed to reach.
# Apple's report has 0.52 on TPUs; no figure is published for training on Macs. Ours.
ASSUMED_UTILIZATION = 0.35

# Share of the peak memory bandwidth (or of the measured one) that writing answers is assumed to
# reach. Reports of single machines have 0.6 to 0.85. Ours.
ASSUMED_BANDWIDTH_SHARE = 0.7

MEASURED_BYTES = 2**28  # read to measure the bandwidth: more than any cache of these chips

# Share of a Mac's memory that Metal recommends for a GPU job, up to 36 GiB and above. Reports have
# 10.67 of 16 GiB (exo-explore/exo, pull request 1672) and three quarters of larger machines
# (gpustack/gpustack, issue 1375); recent macOS allows more (107.5 of 128, antirez/ds4, issue 890).
SMALL_MAC_GIB = 36
SMALL_MAC_SHARE = 2 / 3
LARGE_MAC_SHARE = 3 / 4


@dataclass(frozen=True)
class Chip:
    """A chip of Apple's M series with its largest GPU."""

    teraflops: float
    """Peak float32 rate in 10**12 operations per second; a multiply-add is two."""
    memories: tuple[int, ...]
    """Memory sizes it is sold with, in GiB."""
    gigabytes_per_second: float
    """Peak memory bandwidth, in 10**9 bytes per second."""
    listed: bool = True
    """The rate is a published figure; else it is scaled by GPU cores."""


CHIPS = {
    "m1": Chip(2.6, (8, 16), 68.25),
    "m1-pro": Chip(5.2, (16, 32), 200),
    "m1-max": Chip(10.4, (32, 64), 400),
    "m1-ultra": Chip(21.0, (64, 128), 800),
    "m2": Chip(3.6, (8, 16, 24), 100),
    "m2-pro": Chip(6.8, (16, 32), 200),
    "m2-max": Chip(13.5, (32, 64, 96), 400),
    "m2-ultra": Chip(27.2, (64, 128, 192), 800),
    "m3": Chip(4.1, (8, 16, 24), 100),
    "m3-pro": Chip(7.4, (18, 36), 150),
    "m3-max": Chip(14.2, (36, 48, 64, 96, 128), 400),
    "m3-ultra": Chip(28.4, (96, 256, 512), 819),
    "m4": Chip(4.6, (16, 24, 32), 120),
    "m4-pro": Chip(9.2, (24, 48, 64), 273),
    "m4-max": Chip(18.4, (36, 48, 64, 128), 546),
    "m5": Chip(5.7, (16, 24, 32), 153, listed=False),  # 10 of 40 cores
    "m5-pro": Chip(11.4, (24, 48, 64), 307, listed=False),  # 20 of 40 cores
    "m5-max": Chip(22.8, (36, 48, 64, 128), 614),
    "m5-ultra": Chip(45.6, (96, 256), 1_200),
}


@dataclass(frozen=True)
class Hardware:
    """What a plan needs to know of a machine."""

    name: str
    """As given on the command line; `this` for the machine we run on."""
    described: str
    """In words."""
    usable_bytes: int
    """Memory that one job may use."""
    flops: float
    """Rate that `utilization` is a share of, in operations per second."""
    flops_source: str
    """Where the rate is from, in words."""
    utilization: float
    """Assumed share of the rate that training reaches, 0 to 1."""
    bandwidth: float
    """Rate at which memory is read, that `bandwidth_share` is a share of, in bytes per second."""
    bandwidth_source: str
    """Where it is from, in words."""
    bandwidth_share: float
    """Assumed share of it that writing answers reaches, 0 to 1."""
    compute_bytes: int
    """Bytes of one number in forward and backward passes: 2 on a GPU, 4 on the CPU."""
    on_gpu: bool
    """Attention is MLX's fused one, and not the one of our CPU path."""


def find_hardware(name: str, compute: str = "device") -> Hardware:
    """The machine called `this`, or like `m4-max-64`: chip and memory in GiB.

    Args:
        name: without a memory size, the smallest that the chip is sold with.
        compute: the recipe's `training.compute`: "device", "bfloat16" or "float32".

    Raises:
        RecipeError: no such chip, or not with that memory.
    """
    if name == "this":
        return this_machine(compute)
    plain = name.lower().replace(" ", "-").removesuffix("gb")
    chip_name, _, size = plain.rpartition("-")
    if not size.isdigit():
        chip_name, size = plain, ""
    chip = CHIPS.get(chip_name)
    if chip is None:
        raise RecipeError(
            f"no hardware is called '{name}'",
            hint=f"this, or chip and memory as in m4-max-64; chips: {', '.join(CHIPS)}",
        )
    gib = int(size or chip.memories[0])
    if gib not in chip.memories:
        sizes = ", ".join(map(str, chip.memories))
        raise RecipeError(f"the {chip_name} is not sold with {gib} GB", hint=f"sizes: {sizes}")
    share = SMALL_MAC_SHARE if gib <= SMALL_MAC_GIB else LARGE_MAC_SHARE
    return Hardware(
        name=f"{chip_name}-{gib}",
        described=f"{chip_name.replace('-', ' ').title()}, {gib} GiB, largest GPU",
        usable_bytes=int(share * gib * GIB),
        flops=chip.teraflops * 1e12,
        flops_source="published peak" if chip.listed else "estimate, scaled by GPU cores",
        utilization=ASSUMED_UTILIZATION,
        bandwidth=chip.gigabytes_per_second * 1e9,
        bandwidth_source="published peak",
        bandwidth_share=ASSUMED_BANDWIDTH_SHARE,
        compute_bytes=4 if compute == "float32" else 2,
        on_gpu=True,
    )


def this_machine(compute: str = "device", seconds: float = 0.3) -> Hardware:
    """This machine; its rate is that of matrix products, measured for about `seconds`."""
    dtype = compat.compute_dtype(compute)
    return Hardware(
        name="this",
        described=describe_device(),
        usable_bytes=compat.device_memory_bytes(),
        flops=matmul_flops(str(dtype).removeprefix("mlx.core."), seconds),
        flops_source="matrix products, measured now",
        utilization=ASSUMED_UTILIZATION,
        bandwidth=read_bandwidth(MEASURED_BYTES if seconds else 2**20),
        bandwidth_source="a matrix times a vector, measured now",
        bandwidth_share=ASSUMED_BANDWIDTH_SHARE,
        compute_bytes=dtype.size,
        on_gpu=compat.on_gpu(),
    )


def describe_device() -> str:
    """The device that MLX computes on, in words: `Apple M4 Max, Metal`."""
    import mlx.core as mx

    name = mx.device_info().get("device_name", platform.machine())
    if not compat.on_gpu():
        return f"{name}, CPU, {os.cpu_count()} cores"
    return f"{name}, {'Metal' if mx.metal.is_available() else 'CUDA'}"


def matmul_flops(dtype: str, seconds: float = 0.3) -> float:
    """Operations per second of square matrix products of `dtype` ("float32", "bfloat16").

    Sizes double until one product is long enough to time; the fastest one counts, so that work
    beside us lowers it less. Takes about `seconds`.
    """
    import mlx.core as mx

    size, best = 256, 0.0
    started = time.perf_counter()
    while True:
        matrix = mx.random.normal((size, size)).astype(getattr(mx, dtype))
        mx.eval(matrix @ matrix)  # the first one of a size is slow on a GPU
        while True:
            lap = time.perf_counter()
            mx.eval(matrix @ matrix)
            now = time.perf_counter()
            best = max(best, 2 * size**3 / (now - lap))
            left = seconds - (now - started)
            if left <= 0:
                return best
            # Twice the size is 8 times the work, done twice: go on only when there is time for it.
            if 16 * (now - lap) < left / 2 and size < 4_096:
                size *= 2
                break


def read_bandwidth(size: int = MEASURED_BYTES) -> float:
    """Bytes per second at which a float32 matrix of `size` bytes is read to multiply a vector.

    The fastest of three; takes a few tenths of a second.
    """
    import mlx.core as mx

    width = 4_096
    matrix = mx.full((size // (4 * width), width), 0.5, mx.float32)
    vector = mx.ones((width,), mx.float32)
    mx.eval(matrix, vector, matrix @ vector)
    best = 0.0
    for _ in range(3):
        lap = time.perf_counter()
        mx.eval(matrix @ vector)
        best = max(best, matrix.nbytes / (time.perf_counter() - lap))
    return best
