"""What was read once is not read again: keys and values of earlier prompts, by their tokens.

mlx-lm's own `LRUPromptCache` finds a prefix in a tree that holds every token as a Python object.
Here a prefix is found by comparing arrays, which at some dozens of entries takes microseconds, and
an entry that a conversation continues is handed over, not copied.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Caches = list[Any]
"""One of mlx-lm's caches per layer."""


@dataclass(eq=False)
class _Entry:
    kind: Hashable
    ids: NDArray[np.int64]
    caches: Caches
    nbytes: int


class PromptCache:
    """Keys and values of prompts and their answers, the least recently used dropped first."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []  # newest use last

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()

    def take(self, kind: Hashable, ids: Sequence[int], *, room: int) -> tuple[Caches, int]:
        """Caches that hold the longest known beginning of `ids`, and how many tokens that is.

        They are the caller's to extend; empty and 0 where nothing is known. At least one token is
        left to read, since reading is what gives the next one's logits.

        Args:
            kind: what made the entry, as told to `put`; others are not looked at.
            ids: a prompt.
            room: bytes that all entries may take from now on.
        """
        import numpy as np

        wanted = np.asarray(ids[:-1], dtype=np.int64)
        best, shared = None, 0
        for entry in self._entries:
            if entry.kind == kind and (length := _shared(entry.ids, wanted)) > shared:
                best, shared = entry, length
        if best is None:
            self.shrink(room)
            return [], 0
        self._entries.remove(best)
        if shared == best.ids.size:  # its beginning is its whole: it goes on in this conversation
            self.shrink(room)
            return best.caches, shared
        self.shrink(max(0, room - best.nbytes))
        if best.nbytes > room:
            return [], 0
        self._entries.append(best)
        return [_beginning(cache, shared) for cache in best.caches], shared

    def put(self, kind: Hashable, ids: Sequence[int], caches: Caches, *, room: int) -> None:
        """Keep what was read, as far as all caches hold it; only where it fits in `room` bytes.

        The caches must not be changed from then on. Entries that are a beginning of this one are
        dropped: it serves in their place.
        """
        import mlx.core as mx
        import numpy as np

        length = min([len(ids), *(int(cache.offset) for cache in caches)])
        nbytes = sum(int(cache.nbytes) for cache in caches)
        trimmable = import_mlx_lm("mlx_lm.models.cache").can_trim_prompt_cache(caches)
        if length == 0 or nbytes > room or not trimmable:
            return
        for cache in caches:
            cache.trim(int(cache.offset) - length)
        new = _Entry(kind, np.asarray(ids[:length], dtype=np.int64), caches, nbytes)
        self._entries = [
            old
            for old in self._entries
            if old.kind != kind or _shared(old.ids, new.ids) < old.ids.size
        ]
        self.shrink(room - nbytes)
        # Else a slice would keep alive the whole of what it was cut from.
        mx.eval([cache.state for cache in caches])
        self._entries.append(new)

    def shrink(self, room: int) -> None:
        """Drop the least recently used entries until the others take `room` bytes or less."""
        while self._entries and self.nbytes > room:
            self._entries.pop(0)


def _shared(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Number of tokens that two sequences begin with alike."""
    length = min(ours.size, theirs.size)
    differ = ours[:length] != theirs[:length]
    return int(differ.argmax()) if differ.any() else length


def _beginning(cache: Any, length: int) -> Any:
    """A cache of the first `length` tokens of another, which it leaves as it is."""
    import mlx.core as mx
    from mlx.utils import tree_map

    new = copy(cache)
    # Exactly as long as what it holds, so that the first token more makes a buffer of its own.
    new.keys, new.values = tree_map(
        lambda array: mx.contiguous(array[..., :length, :]), (cache.keys, cache.values)
    )
    new.offset = length
    mx.eval(new.keys, new.values)
    return new
