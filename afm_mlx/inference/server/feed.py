"""From the model's thread to a coroutine: what is told of the answers of one request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from afm_mlx.errors import AfmError
from afm_mlx.inference.requests import Chunk

Said = Chunk | AfmError


class SlowReader(Exception):
    """More waits to be read than is kept."""


class Feed:
    """Chunks of several answers, in the order in which they were told, until somebody takes them.

    The model's thread never waits for a reader: when too much is untaken, all of it is dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most: int | None) -> None:
        """For a coroutine of `loop`; `most` chunks are kept, None for all."""
        self._loop = loop
        self._most = most
        self._lock = threading.Lock()
        self._said: deque[tuple[int, Said]] = deque()
        self._ready = asyncio.Event()
        self._overflowed = asyncio.Event()
        self._closed = False

    def teller(self, number: int) -> Callable[[Said], None]:
        """What the batcher tells answer `number` to, from its thread."""

        def tell(said: Said) -> None:
            with self._lock:
                if self._closed:
                    return
                wakes = [] if self._said else [self._ready]
                self._said.append((number, said))
                if self._most is not None and len(self._said) > self._most:
                    self._closed = True
                    self._said.clear()
                    wakes = [self._ready, self._overflowed]
            with contextlib.suppress(RuntimeError):  # the loop has ended before the model
                for each in wakes:
                    self._loop.call_soon_threadsafe(each.set)

        return tell

    async def take(self) -> list[tuple[int, Said]]:
        """All that was told since the last call, once there is something: answer and chunk.

        Raises:
            SlowReader: it was too much to be kept.
        """
        await self._ready.wait()
        with self._lock:
            self._ready.clear()
            said = list(self._said)
            self._said.clear()
        if self._overflowed.is_set():
            raise SlowReader
        return said

    async def overflow(self) -> None:
        """Wait until more was told than is kept."""
        await self._overflowed.wait()

    def close(self) -> None:
        """Keep nothing from now on."""
        with self._lock:
            self._closed = True
            self._said.clear()
