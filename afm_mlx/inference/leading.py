"""Several ranks that answer as one: rank 0 decides, and the others compute their parts with it.

Each rank has a part of every layer, see decoder/tensor_parallel.py, so all must make the same
passes. Before an answer, rank 0 tells what is read; each token is the one that rank 0 has chosen;
after each, it tells whether the answer goes on. So only rank 0 needs to know how an answer is
drawn, guided or ended, and ranks whose machines round differently do not come apart. How answers
are written together is told in passes.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.inference.choices import Sampler

if TYPE_CHECKING:
    import mlx.core as mx

    from afm_mlx.decoder.decoder import Decoder
    from afm_mlx.inference.prompt_cache import Caches
    from afm_mlx.ranks import Ranks


class Lead:
    """What rank 0 tells the others while it answers. Alone, nothing is told."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def leads(self) -> bool:
        """Whether this is rank 0 of several."""
        return self.ranks.size > 1 and self.ranks.rank == 0

    @property
    def follows(self) -> bool:
        """Whether this is one of the others."""
        return self.ranks.rank > 0

    def agree(self, model: Path) -> None:
        """Check that all ranks are to answer with the same model, and compute alike.

        Raises:
            RunError: they differ; on every rank, with the same words.
        """
        if self.ranks.size == 1:
            return
        from importlib.metadata import version

        from afm_mlx.decoder.base_hash import base_hash

        weights = {"the hash of the weights": base_hash(model)[:_SHOWN]}
        self.ranks.agree(weights, hint=f"copy '{model}' to every machine")
        self.ranks.agree({"the version of MLX": version("mlx")}, hint="install the same everywhere")

    def least(self, count: int) -> int:
        """The smallest that any rank has of something."""
        return min(int(each) for each in self.ranks.all_texts(str(count)))

    def tell(self, told: Any) -> None:
        """On rank 0: what the others are to do next, as JSON; None: there is no more to do.

        Returns at once, and they hear it when what is being computed is done; the last time, when
        they have heard it.
        """
        if not self.leads:
            return
        import mlx.core as mx
        import numpy as np

        text = b"" if told is None else json.dumps(told, default=int).encode()
        message = len(text).to_bytes(_LENGTH_BYTES, "big") + text
        message += bytes(max(0, _FRAME_BYTES - len(message)))
        evaluate = mx.eval if told is None else mx.async_eval
        with _in_turn():
            for part in (message[:_FRAME_BYTES], message[_FRAME_BYTES:]):
                if part:
                    evaluate(self.ranks.same(mx.array(np.frombuffer(part, np.uint8))))

    def hear(self) -> Any:
        """On the others: what rank 0 tells next. Waits for it, with a core at work."""
        with _in_turn():
            message = self._heard(_FRAME_BYTES)
            end = _LENGTH_BYTES + int.from_bytes(message[:_LENGTH_BYTES], "big")
            if end > _FRAME_BYTES:
                message += self._heard(end - _FRAME_BYTES)
        return json.loads(message[_LENGTH_BYTES:end]) if end > _LENGTH_BYTES else None

    def meet(self) -> None:
        """Go on when all ranks have come here."""
        self.is_over(False)

    def is_over(self, over: bool) -> bool:
        """Whether an answer is over, which rank 0 knows; to be asked by all after each token."""
        if self.ranks.size == 1:
            return over
        with _in_turn():
            return self.ranks.any(over)

    def chooser(self, sampler: Sampler) -> Sampler:
        """What chooses tokens on every rank as `sampler` does on rank 0."""
        if self.ranks.size == 1:
            return sampler
        first = int(self.ranks.rank == 0)

        def choose(logps: mx.array) -> mx.array:
            # The others multiply by zero: they must compute their part of what is chosen from.
            chosen: mx.array = self.ranks.total([sampler(logps) * first])[0]
            return chosen

        return choose

    def led(self, model: Decoder) -> Callable[..., mx.array]:
        """`model`, but each rank reads the tokens that rank 0 has chosen, whatever it is given."""
        if self.ranks.size == 1:
            return model

        def read(tokens: mx.array, cache: Caches) -> mx.array:
            return model(self.ranks.same(tokens), cache=cache)

        return read

    def _heard(self, size: int) -> bytes:
        import mlx.core as mx
        import numpy as np

        told = self.ranks.same(mx.zeros(size, mx.uint8))
        mx.eval(told)  # NumPy would keep Python from other threads meanwhile
        return bytes(np.array(told))


_SHOWN = 8  # digits of a hash in messages
_FRAME_BYTES = 512  # what is told at once; ours: most of what is told while answers are written
_LENGTH_BYTES = 4  # at its beginning: how long what is told is


@contextmanager
def _in_turn() -> Iterator[None]:
    """Exchange messages on the stream that mlx-lm generates on, and so in their order."""
    import mlx.core as mx

    with mx.stream(import_mlx_lm("mlx_lm.generate").generation_stream):
        yield
