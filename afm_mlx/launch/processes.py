"""Start a command once for each rank, here or over ssh, and end all when one is lost.

MLX has a launcher, too, and `mlx.launch -- afm run ...` works. It keeps a core busy while the ranks
work, takes the terminal away from rank 0, mixes all output, and asks the ranks for nothing. So the
processes are started here, with the same variables and from the same file of hosts.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from afm_mlx.errors import RunError
from afm_mlx.launch.hosts import Host, Hosts
from afm_mlx.launch.rank import AGAIN, BEAT, KILL, LOST, STOP
from afm_mlx.launch.told import BEATS, LIFELINE, STDERR

SSH = (
    "ssh",
    "-T",
    *("-o", "BatchMode=yes"),  # nobody is there to type a password
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),  # with the next: a machine that is gone is noticed in 15 s
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "LogLevel=ERROR"),
)
SSH_FAILED = 255
"""How ssh ends when the connection, or what ran there, was cut off."""

SSH_REFUSED = ("ssh:", "Permission denied", "Host key")
"""What ssh says where it has not reached a machine."""

SHELLS = ("/bin/sh:", "env:")
"""Who says that a folder or a program is not there, on another machine."""

SAME_PLACE = (
    'every host needs the same folder and Python, or "cwd" and "python" in the file of hosts'
)

ERRORS = ("error: ", "internal error: ")
"""How `afm` begins to say what is wrong."""

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_BEATS = 5.0
SILENT_SECONDS = 20.0
"""After so long without a beat, a rank on another machine ends. Ours: four beats."""

PATIENCE_SECONDS = 3.0
"""Time for rank 0 to meet the same error as another rank, and to tell it itself. Ours."""

FAREWELL_SECONDS = 30.0
"""Time for other ranks to end after rank 0 is done. Ours."""

HURRY_SECONDS = 5.0
"""Time for all ranks to end after they were asked twice. Ours."""

KEPT_LINES = 20
"""Last lines of each rank's stderr that are kept for a message."""


@dataclass(frozen=True)
class Ending:
    """How a command on several machines ended."""

    code: int
    """Exit code, of `afm`."""
    message: str = ""
    """What is to be said of it; empty where rank 0 has said it, or all is well."""
    hint: str = ""
    """What to do."""


def run(hosts: Hosts, command: Sequence[str], *, keyboard: bool = False) -> Ending:
    """Run `command`, words after `afm`, once for each rank; returns when all have ended.

    Rank 0 has this process's stdout and stderr. Of the others nothing is seen, unless one fails.

    Args:
        hosts: where the ranks run.
        command: words after `afm`, the same for all.
        keyboard: rank 0, on this machine, reads this process's stdin, and gets Ctrl-C itself.

    Raises:
        RunError: there is no ssh, or no keyboard on another machine.
    """
    if shutil.which("ssh") is None and not all(host.is_here for host in hosts.hosts):
        raise RunError("there is no ssh here, to reach other machines", hint="--hosts local:2")
    if keyboard and not hosts.hosts[0].is_here:
        raise RunError(
            f"the keyboard is here, and rank 0 on {hosts.hosts[0].name}",
            hint="name this machine first in the file of hosts",
        )
    ranks: list[_Rank] = []
    try:
        with _signals(mine=not keyboard) as asked:
            for rank in range(len(hosts.hosts)):
                ranks.append(_Rank.start(hosts, rank, command, keyboard=keyboard and rank == 0))
            return _watch(ranks, asked)
    finally:
        for each in ranks:
            each.end()


@dataclass
class _Rank:
    """One process, seen from the launcher."""

    number: int
    host: Host
    process: subprocess.Popen[bytes]
    lifeline: int
    """File descriptor on which it is asked for things."""
    reader: threading.Thread
    said: deque[str]
    """Its last lines on stderr."""

    @classmethod
    def start(cls, hosts: Hosts, number: int, command: Sequence[str], *, keyboard: bool) -> _Rank:
        host = hosts.hosts[number]
        variables = hosts.variables(number)
        options: dict[str, Any] = {"stderr": subprocess.PIPE}
        if number > 0:
            options["stdout"] = subprocess.DEVNULL
        if not keyboard:  # Ctrl-C reaches the launcher alone, which asks all ranks alike
            options["process_group"] = 0
        program = [host.python or sys.executable, "-P", "-m", "afm_cli", *command]
        hear, lifeline = os.pipe()
        lent = [hear]
        try:
            if host.is_here:
                variables[LIFELINE] = str(hear)
                if number == 0:
                    lent.append(os.dup(2))
                    variables[STDERR] = str(lent[-1])
                process = subprocess.Popen(
                    program,
                    stdin=None if keyboard else subprocess.DEVNULL,
                    env=os.environ | variables,
                    cwd=host.cwd or None,
                    pass_fds=lent,
                    **options,
                )
            else:
                variables |= {LIFELINE: "0", BEATS: str(SILENT_SECONDS)}
                words = [*SSH, host.ssh, _script(host.cwd or os.getcwd(), variables, program)]
                process = subprocess.Popen(words, stdin=hear, **options)
        except OSError as error:
            os.close(lifeline)
            raise RunError(f"rank {number} cannot start: {error}") from None
        finally:
            for descriptor in lent:
                os.close(descriptor)
        said: deque[str] = deque(maxlen=KEPT_LINES)
        reader = threading.Thread(
            target=_read, args=(process.stderr, said, number == 0), daemon=True
        )
        reader.start()
        return cls(number, host, process, lifeline, reader, said)

    @property
    def name(self) -> str:
        return f"rank {self.number} ({self.host.name})"

    def ask(self, word: bytes) -> None:
        """Say a word on the lifeline; a rank that has ended hears nothing."""
        with suppress(OSError):
            os.write(self.lifeline, word)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        if self.process.poll() is None:
            self.ask(KILL)
            if self.host.is_here:
                self.process.kill()

    def end(self) -> None:
        """Make sure that it has ended."""
        self.kill()
        os.close(self.lifeline)
        try:
            self.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # ssh, whose connection is stuck
            self.process.wait()
        # What a rank has started may still hold the pipe.
        self.reader.join(timeout=PATIENCE_SECONDS)


def _script(cwd: str, variables: dict[str, str], program: Sequence[str]) -> str:
    """A command line for any login shell: the program, in that folder, with these variables."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    words = shlex.join(["env", *settings, *program])
    return shlex.join(["/bin/sh", "-c", f"cd {shlex.quote(cwd)} && exec {words}"])


def _read(stream: Any, said: deque[str], is_first: bool) -> None:
    """Keep a rank's last lines; those of rank 0 are shown at once."""
    for raw in stream:
        line = raw.decode(errors="replace")
        if line.startswith(LOST):
            continue
        said.append(line.rstrip("\n"))
        if is_first:
            sys.stderr.write(line)
            sys.stderr.flush()
    stream.close()


@contextmanager
def _signals(*, mine: bool) -> Iterator[list[int]]:
    """A list to which each Ctrl-C or termination of this process is added."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if mine or number != signal.SIGINT:
            asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(ranks: Sequence[_Rank], asked: list[int]) -> Ending:
    """Wait until all have ended, or one has failed, or must end with the others."""
    failed: _Rank | None = None
    heard, beat_at = 0, time.monotonic()
    asked_at = failed_at = done_at = math.inf
    while True:
        now = time.monotonic()
        if now - beat_at >= SECONDS_BETWEEN_BEATS:
            beat_at = now
            for rank in ranks:
                if not rank.host.is_here:
                    rank.ask(BEAT)
        if len(asked) > heard:
            heard, asked_at = heard + 1, now
            for rank in ranks:
                rank.ask(STOP)
        codes = [rank.process.poll() for rank in ranks]
        hurried = heard > 1
        if hurried and (None not in codes or now - asked_at > HURRY_SECONDS):
            return Ending(130, "" if codes[0] == 130 else f"interrupted; {AGAIN}")
        if failed is None and not hurried:
            # A rank that was asked to stop is done with 130, and others may still save.
            fine = (None, 0, 130) if asked else (None, 0)
            bad = (rank for rank, code in zip(ranks, codes, strict=True) if code not in fine)
            if failed := next(bad, None):
                failed_at = now
        if failed is not None:
            spoken = (codes[0] or 0) > 0 and not _is_lost(ranks[0])
            if spoken or _is_lost(failed) or now - failed_at > PATIENCE_SECONDS:
                return Ending(codes[0] or 1) if spoken else _failure(failed)
        elif None not in codes:
            return Ending(130 if 130 in codes else 0)
        elif codes[0] is not None:
            done_at = min(done_at, now)
            if now - done_at > FAREWELL_SECONDS:
                return Ending(codes[0])
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_lost(rank: _Rank) -> bool:
    """Whether it ended without being able to say why."""
    code = rank.process.poll()
    return code is not None and (code < 0 or (code == SSH_FAILED and not rank.host.is_here))


def _failure(rank: _Rank) -> Ending:
    """What to say of a rank that failed, and that has not been heard."""
    code = rank.process.returncode
    rank.reader.join(timeout=PATIENCE_SECONDS)
    lines = [line.strip() for line in rank.said if line.strip()]
    last = lines[-1] if lines else ""
    if code == SSH_FAILED and any(word in last for word in SSH_REFUSED):
        return Ending(2, f"{rank.name} cannot be reached: {last}", f"try: ssh {rank.host.ssh} true")
    if _is_lost(rank):
        how = f": killed by {_signal(-code)}" if code < 0 else ""
        if code == -signal.SIGALRM:
            how = ": it waited in vain for the others"
        words = f"; its last words: {last}" if last and rank.number > 0 else ""
        return Ending(2, f"{rank.name} was lost{how}{words}; the other ranks were ended", AGAIN)
    if rank.number == 0:
        return Ending(code)
    if last.startswith(SHELLS):
        return Ending(2, f"{rank.name}: {last}", SAME_PLACE)
    starts = [at for at, line in enumerate(lines) if line.startswith(ERRORS)]
    told = lines[starts[-1] :] if starts else lines
    hints = [line.removeprefix("hint: ") for line in told if line.startswith("hint: ")]
    words = "\n".join(
        line.removeprefix("error: ") for line in told if not line.startswith("hint: ")
    )
    return Ending(code, f"{rank.name}: {words or f'ended with code {code}'}", "".join(hints[-1:]))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
