"""Models in MLX as runtimes: where a target's own program is not installed, or is MLX itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.export.verify import Logits
from afm_mlx.settings.sections import Shape


class MlxRuntime:
    """A model with mlx-lm's interface, as a runtime."""

    context_tokens = None

    def __init__(self, model: Any, name: str, *, is_stand_in: bool) -> None:
        self.name, self.is_stand_in = name, is_stand_in
        self._model = model
        self._cache: Any = None

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int] | None:
        """None: it has no tokenizer of its own."""
        return None

    def reset(self) -> None:
        """Forget what was read."""
        self._cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(self._model)

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        logits = self._model(mx.array([list(ids)]), cache=self._cache)[0, -1]
        return np.array(logits.astype(mx.float32))

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])


def dense_model(shape: Shape, weights: Iterable[tuple[str, mx.array]]) -> Decoder:
    """A decoder of dense weights, in float32."""
    model = Decoder(shape)
    model.update(tree_unflatten([(name, each.astype(mx.float32)) for name, each in weights]))
    mx.eval(model.parameters())
    return model
