"""Low-rank adapters: `y = linear(x) + scale (x A) B`, with the linear layer frozen.

Names and layout of the factors are mlx-lm's, so its adapter files are ours.

Source: arXiv:2106.09685, section 4.1.

Shapes. I columns (inputs) and O rows (outputs) of a linear layer, r rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.palette import linears, replace_linears


class LoraLinear(nn.Module):
    """A frozen linear layer of any kind, and two factors beside it."""

    def __init__(self, linear: nn.Module, lora_a: mx.array, lora_b: mx.array, scale: float) -> None:
        """`lora_a` [I, r], `lora_b` [r, O]."""
        super().__init__()
        self.linear = linear
        self.lora_a, self.lora_b, self.scale = lora_a, lora_b, scale
        self.linear.freeze()

    @property
    def weight(self) -> mx.array:
        """[O, I] float32 with the factors in it, for whoever computes an output layer itself."""
        a, b = self.lora_a.astype(mx.float32), self.lora_b.astype(mx.float32)
        return cast(mx.array, self.linear.weight.astype(mx.float32) + self.scale * (a @ b).T)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] to [..., O]."""
        y = self.linear(x)
        delta = (x @ self.lora_a.astype(x.dtype)) @ self.lora_b.astype(x.dtype)
        return cast(mx.array, y + self.scale * delta)


def add_lora(model: Decoder, *, rank: int, scale: float, seed: int) -> None:
    """Give every linear layer of the blocks factors, and freeze everything else.

    A ~ N(0, 1 / I), drawn by the layer's name; B = 0, so the function stays. Source: AX.
    """
    model.freeze()
    wrapped: dict[str, nn.Module] = {}
    for name, linear in linears(model).items():
        if name == "lm_head":
            continue
        rows, columns = features(linear)
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        key = mx.random.key(int.from_bytes(digest[:8], "little"))
        a = columns**-0.5 * mx.random.normal((columns, rank), key=key)
        wrapped[name] = LoraLinear(linear, a, mx.zeros((rank, rows)), scale)
    replace_linears(model, wrapped)


def remove_lora(model: Decoder) -> None:
    """Take all factors out again."""
    found = linears(model)
    replace_linears(
        model, {name: each.linear for name, each in found.items() if isinstance(each, LoraLinear)}
    )


def lora_arrays(model: Decoder) -> dict[str, mx.array]:
    """All factors by name, such as `model.layers.0.self_attn.q_proj.lora_a`."""
    return {
        f"{name}.{factor}": layer[factor]
        for name, layer in linears(model).items()
        if isinstance(layer, LoraLinear)
        for factor in ("lora_a", "lora_b")
    }


def load_lora(model: Decoder, arrays: Mapping[str, mx.array], *, scale: float) -> None:
    """Wrap the layers that `arrays` names, or give them these factors where they are wrapped."""
    found = linears(model)
    wrapped: dict[str, nn.Module] = {}
    for name in dict.fromkeys(key.rpartition(".")[0] for key in arrays):
        layer: Any = found[name]
        linear = layer.linear if isinstance(layer, LoraLinear) else layer
        wrapped[name] = LoraLinear(
            linear, arrays[f"{name}.lora_a"], arrays[f"{name}.lora_b"], scale
        )
    replace_linears(model, wrapped)


def features(linear: Any) -> tuple[int, int]:
    """Rows (outputs) and columns (inputs) of a linear layer of any kind."""
    if isinstance(linear, nn.Linear):
        return int(linear.weight.shape[0]), int(linear.weight.shape[1])
    if hasattr(linear, "in_features"):
        return int(linear.out_features), int(linear.in_features)
    return int(linear.ids.shape[0]), int(linear.ids.shape[1])
