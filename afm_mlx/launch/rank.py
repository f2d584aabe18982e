"""The launcher's hand in each process that it starts.

A rank on another machine gets no signals from here, and an error on one is noticed by the others
within milliseconds. So there is a lifeline, a pipe on which the launcher asks to stop, and whose
end means that the launcher is gone; and errors that another rank has caused are held back.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

from afm_mlx.launch.told import BEATS, LIFELINE, RANKS, STDERR

STOP, KILL, BEAT = b"s", b"k", b"."
"""What the launcher says: stop and save; end at once; I am here."""

LAST_SECONDS = 60.0
"""Time to save and end after the launcher has gone. Ours."""

HOLD_SECONDS = 5.0
"""How long an error is held back that may be another rank's. The launcher ends all before. Ours."""

AGAIN = "type the same command again: a run goes on where it was saved last"
"""What to do when a rank was lost."""

LOST = ("[ring]", "[jaccl]", "[nccl]", "[mpi]")
"""How messages of MLX begin, such as "[ring] connection to a peer was lost"."""


_asked = threading.Event()  # whether the launcher has asked to stop


def is_rank() -> bool:
    """Whether a launcher of ours has started this process."""
    return RANKS in os.environ


def follow() -> None:
    """Do from now on what the launcher asks; speak on its stderr, where it lends that."""
    if (speech := os.environ.pop(STDERR, "")) != "":
        os.set_inheritable(int(speech), False)
        # File descriptor 2 stays the launcher's pipe: MLX writes ten lines there for a lost peer.
        sys.stderr = os.fdopen(
            int(speech), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )
    if (line := os.environ.pop(LIFELINE, "")) != "":
        descriptor = int(line)
        if descriptor == 0:  # over ssh, stdin is all there is; nobody else may read it
            descriptor = os.dup(0)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        os.set_inheritable(descriptor, False)
        silence = float(os.environ.pop(BEATS, "0")) or None
        listener = threading.Thread(target=_listen, args=(descriptor, silence), daemon=True)
        listener.start()


def is_from_another_rank(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    return any(mark in str(error) for mark in LOST)


def was_asked_to_stop() -> bool:
    """Whether the user wants the ranks to end: then some end before others, and no error is one."""
    return _asked.is_set()


def hold_back() -> None:
    """Wait before an error is told: if another rank caused it, the launcher ends this one."""
    time.sleep(HOLD_SECONDS)


def _listen(descriptor: int, silence: float | None) -> None:
    while select.select([descriptor], [], [], silence)[0]:
        heard = os.read(descriptor, 4_096)
        if KILL in heard:
            break
        if STOP in heard or not heard:
            _asked.set()
            os.kill(os.getpid(), signal.SIGINT)
        if not heard:
            time.sleep(LAST_SECONDS)
            break
    os.kill(os.getpid(), signal.SIGKILL)
