"""Log-probabilities under the model that training began with, computed once and kept.

Two floats a pair take the place of a second model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from afm_mlx.alignment.logps import answer_logps
from afm_mlx.alignment.pairs import Pair, pack_pairs
from afm_mlx.artifact import writing
from afm_mlx.decoder.decoder import Decoder

BYTES_PER_PAIR = 8  # two float32


def reference_logps(
    open_model: Callable[[], Decoder],
    pairs: Sequence[Pair],
    file: Path,
    *,
    pairs_at_once: int,
    chunk_bytes: int,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """[N, 2] log-probabilities in nats of each pair's preferred answer, and of the other one.

    They are added to `file` as they are found, and what is there already is not computed again.
    Batches are the same however often this was interrupted, and so are the bits.

    Args:
        open_model: gives the model; not called when the file is complete.
        pairs: in the order of the result.
        file: for these pairs and this model alone.
        pairs_at_once: pairs of one batch.
        chunk_bytes: budget for logits, see `answer_logps`.
        done: called with the number of finished pairs and that of all.
    """
    total, batch_bytes = len(pairs), pairs_at_once * BYTES_PER_PAIR
    size = file.stat().st_size if file.exists() else 0
    if size < total * BYTES_PER_PAIR:
        model = open_model()
        whole = size // batch_bytes  # batches; a killed process may have left a part of one
        with writing(file), file.open("ab") as opened:
            opened.truncate(whole * batch_bytes)
            for start in range(whole * pairs_at_once, total, pairs_at_once):
                part = pairs[start : start + pairs_at_once]
                logps = answer_logps(model, pack_pairs(part), chunk_bytes=chunk_bytes).answers
                opened.write(np.array(logps).reshape(2, -1).T.astype("<f4").tobytes())
                opened.flush()
                done(start + len(part), total)
        del model
        mx.clear_cache()
    return np.fromfile(file, dtype="<f4").reshape(-1, 2)[:total]
