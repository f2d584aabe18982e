"""Generated Python code, run where it can do no harm.

Each run is a fresh process (`python -I -S`, a cleaned environment, no inherited files) in a session
and a temporary folder of its own, both gone at the end. What holds it, from the outside in:

- **Linux**, x86-64 and arm64, no root needed. seccomp refuses all ways to start processes and
  threads, all sockets but pairs, signals, tracing, and changes of modes and owners. Landlock
  (Linux 5.13 and newer) allows writing below the folder only, and reading below the folder, Python
  and the system's libraries only: no home folder. Where Landlock is missing, the program can write
  nothing at all, and can read what the user can. Where seccomp is missing too, nothing is run.
- **macOS**: a profile of `sandbox-exec` denies network, starting processes and other programs'
  services; writing outside the folder; and reading in the home folder but for Python's own files.
  Where the profile cannot be applied, nothing is run. `sandbox-exec` is deprecated by Apple, and
  works as of macOS 15. Threads are possible.
- **Both**: limits of processor time, file size, open files and processes, set by the program's own
  process before the program begins, which cannot raise them; memory, as address space on Linux, and
  looked at 20 times a second on macOS, so that a fast program may pass the limit for a moment; wall
  time and the size of the folder, looked at 20 times a second. Then a Python audit hook, which
  makes clear errors out of what the layers below refuse, and is no protection by itself.

What it is not: a virtual machine. A hole in the kernel is a hole in the sandbox, and programs can
see the machine (its processors, the clock, the names of processes on Linux without Landlock). And
the program shares its process with its tests: one that looks for the tests in our frames can claim
to have passed them. It can lie about its result, and not reach further.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from afm_mlx.errors import RunError
from afm_mlx.settings.synthetic import Sandbox
from afm_mlx.synthetic import guard
from afm_mlx.synthetic.linux_filter import seccomp_program

LOOK_SECONDS = 0.05
"""Time between two looks at a running program. Ours."""

_OUTPUT_CHARACTERS = 20_000
_FIRST_LOOK_SECONDS = 0.002
_MOST_FILES = 1_000
_SANDBOX_EXEC = "/usr/bin/sandbox-exec"

# What Python and its libraries need to read on Linux beside Python's own folder.
_SYSTEM = (
    "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/etc/localtime", "/dev/urandom", "/dev/zero",
)  # fmt: skip

Piece = tuple[str, bool]


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    ended: str
    """"done"; "error": it raised; "time", "memory", "size": a limit; "died": it left or crashed
    before its end."""
    passed: int
    """Tests that passed."""
    failed: tuple[str, ...]
    """What the program or its tests raised, one line each."""
    stdout: str
    """What it printed, cut after 20,000 characters."""
    stderr: str
    """As `stdout`."""
    seconds: float
    """From start to end."""


def run_program(code: str, limits: Sandbox) -> Outcome:
    """Run a program. Raises RunError where this machine cannot hold it."""
    return run_tests(code, [], limits)


def run_tests(code: str, tests: Sequence[Piece], limits: Sandbox) -> Outcome:
    """Run a program, then pieces of code that use its names.

    Args:
        code: the program.
        tests: code, and whether it is a test: one passes if it raises nothing. All run, also after
            one that fails, unless the program itself raises.
        limits: of the whole run.

    Raises:
        RunError: this machine has no layer that can hold generated code.
    """
    layers = _needed_layers()
    return _run([(code, False), *tests], limits, layers)


@lru_cache(maxsize=1)
def layers() -> tuple[str, ...]:
    """The layers that hold on this machine, found by trying: seccomp, landlock; or sandbox-exec."""
    probe = Sandbox()
    if sys.platform == "darwin":
        if not Path(_SANDBOX_EXEC).exists():
            return ()
        return ("sandbox-exec",) if _run([("", False)], probe, ()).ended == "done" else ()
    found: list[str] = []
    _run([("", False)], probe, (), found)
    return tuple(found)


def _needed_layers() -> tuple[str, ...]:
    held = layers()
    if "seccomp" not in held and "sandbox-exec" not in held:
        lacks = "sandbox-exec" if sys.platform == "darwin" else "seccomp"
        raise RunError(
            f"generated code cannot be held on this machine: no {lacks} "
            f"({sys.platform}, {platform.machine()})",
            hint="run it on macOS, or on Linux for x86-64 or arm64",
        )
    return held


def _run(
    pieces: Sequence[Piece],
    limits: Sandbox,
    needed: Sequence[str],
    held: list[str] | None = None,
) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="afm-sandbox-")).resolve()
    try:
        with (
            tempfile.TemporaryFile() as job_file,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as report,
        ):
            token = secrets.token_hex(16)
            job = _job(folder, limits, pieces, needed) | {"report": report.fileno(), "token": token}
            job_file.write(json.dumps(job).encode())
            job_file.seek(0)
            began = time.perf_counter()
            process = subprocess.Popen(
                _command(folder),
                stdin=job_file,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=_environment(folder),
                pass_fds=(report.fileno(),),
                start_new_session=True,
            )
            try:
                broken = _wait(process, folder, limits, began)
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            seconds = time.perf_counter() - began
            return _outcome(
                process.returncode, broken, _text(report), token, held,
                stdout=_text(out), stderr=_text(err), seconds=seconds,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _job(
    folder: Path, limits: Sandbox, pieces: Sequence[Piece], needed: Sequence[str]
) -> dict[str, Any]:
    linux = sys.platform.startswith("linux")
    probing = not needed
    may_write = probing or "landlock" in needed
    program = seccomp_program(platform.machine(), may_write=may_write) if linux else b""
    return {
        "folder": str(folder),
        "limits": {
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
        },
        "filter": program.hex(),
        "readable": _readable() if linux and (probing or "landlock" in needed) else None,
        "layers": [name for name in needed if name != "sandbox-exec"],
        "pieces": list(pieces),
    }


def _readable() -> list[str]:
    """Python's own folders, and the system's libraries."""
    paths = sysconfig.get_paths()
    own = [sys.base_prefix, sys.base_exec_prefix, paths["stdlib"], paths["platstdlib"]]
    own = [os.path.realpath(path) for path in own]
    # A Python of the system has the prefix /usr, and all of that would be more than it needs.
    own = [path for path in own if path not in ("/", "/usr", "/usr/local")]
    dynamic = sysconfig.get_config_var("LIBDIR") or ""
    return [*dict.fromkeys([*own, *([dynamic] if dynamic else []), *_SYSTEM])]


def _command(folder: Path) -> list[str]:
    # `-c` and not a file: the file may be where the program must not read.
    python = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _guard_text()]
    if sys.platform == "darwin":
        return [_SANDBOX_EXEC, "-p", _macos_profile(folder), *python]
    return python


@lru_cache(maxsize=1)
def _guard_text() -> str:
    return Path(guard.__file__).read_text(encoding="utf-8")


def _macos_profile(folder: Path) -> str:
    """A profile of `sandbox-exec`, in its own language; later rules win."""
    own = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, sys.base_exec_prefix)}
    own.add(os.path.dirname(os.path.realpath(sys.executable)))
    readable = "".join(f" (subpath {_quoted(path)})" for path in sorted(own))
    home = _quoted(os.path.realpath(os.path.expanduser("~")))
    return (
        "(version 1)(allow default)"
        "(deny network*)(deny process-fork)(deny mach-lookup)(deny mach-register)"
        "(deny signal (target others))(deny iokit-open)"
        f'(deny file-read-data (subpath {home}) (subpath "/Volumes"))'
        f"(allow file-read-data (subpath {_quoted(str(folder))}){readable})"
        f"(deny file-write*)(allow file-write* (subpath {_quoted(str(folder))}))"
        '(allow file-write-data (literal "/dev/null"))'
    )


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _environment(folder: Path) -> dict[str, str]:
    names = {"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    return names | {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


def _wait(process: subprocess.Popen[bytes], folder: Path, limits: Sandbox, began: float) -> str:
    """Wait for the end, and look at what the system does not limit; which limit was broken."""
    look = _FIRST_LOOK_SECONDS  # most programs are done in hundredths of a second
    while True:
        try:
            process.wait(timeout=look)
        except subprocess.TimeoutExpired:
            pass
        else:
            return "size" if _is_too_large(folder, limits.folder_bytes) else ""
        look = min(LOOK_SECONDS, look * 1.5)
        if time.perf_counter() - began > limits.wall_seconds:
            return "time"
        if look == LOOK_SECONDS:
            if _is_too_large(folder, limits.folder_bytes):
                return "size"
            if sys.platform == "darwin" and resident_bytes(process.pid) > limits.memory_bytes:
                return "memory"


def _is_too_large(folder: Path, most: int) -> bool:
    """Whether a folder holds more bytes, or more files than we care to count."""
    size = number = 0
    for place, _, names in os.walk(folder):
        for name in names:
            number += 1
            with suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size
            if size > most or number > _MOST_FILES:
                return True
    return False


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use, in bytes; 0 where it is gone."""
    done = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return int(done.stdout.strip() or 0) * 1024


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(4 * _OUTPUT_CHARACTERS).decode("utf-8", "replace")[:_OUTPUT_CHARACTERS]


def _outcome(
    code: int,
    broken: str,
    report: str,
    token: str,
    held: list[str] | None,
    *,
    stdout: str,
    stderr: str,
    seconds: float,
) -> Outcome:
    lines = []
    for text in report.splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            lines.append(line if isinstance(line, dict) else {})
    if held is not None and lines:
        held += lines[0].get("layers", [])
    passed = sum(line.get("test") is True and line.get("error") == "" for line in lines)
    failed = [str(line["error"]) for line in lines if line.get("error")]
    whole = any(line.get("token") == token for line in lines)
    if not broken and code in (-signal.SIGXCPU, -signal.SIGKILL):
        broken = "time"  # the processor's
    if not broken and any("MemoryError" in error for error in failed):
        broken = "memory"
    ended = broken or ("died" if not whole else "error" if failed else "done")
    return Outcome(ended, passed, tuple(failed), stdout, stderr, seconds)
