"""AFM's decoder: pre-norm, grouped-query attention, SwiGLU, no biases, usually a tied embedding.

Its tensor names are those of Qwen3, so a folder with `model_type = "qwen3"` opens in mlx-lm and
transformers; without QK-norm it is Llama's decoder and opens as "llama". It follows mlx-lm's model
interface, so that mlx-lm's caches and generation drive it unchanged.

Where we differ from Apple's code: norm, then rotate, is Qwen3's order, AX rotates first and R24
does not say. The norm commutes with a rotation, only its gain differs. AX rotates adjacent pairs,
we rotate halves, which is the same up to the order of rows.

Sources. R24: arXiv:2407.21075. AX: apple/axlearn 34aed43, experiments/text/gpt/honeycrisp.py.

Shapes. B batch, L tokens, D width, H query heads, K key/value heads, E width of one head,
V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.attention import Mask, causal_attention
from afm_mlx.decoder.exponential import silu
from afm_mlx.settings.sections import Llama3Rope, Shape

Branch = Callable[[int, mx.array], mx.array]
"""What becomes of what a block adds to the stream: from the addition's number, counted from 0 and
two in each block, and its values [B, L, D]. The same arguments give the same result."""


def llama3_wavelengths(head_dim: int, base: float, scaling: Llama3Rope) -> mx.array:
    """Tokens per radian of each rotated pair, [E / 2] float32, after Llama 3's rescaling.

    Pairs that turn often within the old context stay, those that turn less than
    `low_freq_factor` times are slowed by `factor`, the others are in between.

    Source: transformers 5.3, modeling_rope_utils.py, `_compute_llama3_parameters`.
    """
    slow, fast = scaling.low_freq_factor, scaling.high_freq_factor
    periods = base ** (mx.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_tokens / (2 * math.pi * periods)
    keep = mx.clip((turns - slow) / (fast - slow), 0, 1)  # 1: as it was, 0: slowed fully
    return periods / ((1 - keep) / scaling.factor + keep)


class Rotation(nn.Module):
    """Rotary position embedding of pairs (i, i + E / 2), with Llama 3's rescaling if asked for."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim, self.base = shape.head_dim, shape.rope_base
        # An underscore keeps it out of parameters(), and so out of checkpoints and gradients.
        self._periods = (
            None
            if shape.rope_scaling is None
            else llama3_wavelengths(shape.head_dim, shape.rope_base, shape.rope_scaling)
        )

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """[B, H, L, E] to the same. `offset`: position of the first token, one, or one per row."""
        return mx.fast.rope(
            x,
            self.head_dim,
            traditional=False,
            base=self.base if self._periods is None else None,
            scale=1.0,
            offset=offset,
            freqs=self._periods,
        )


class Attention(nn.Module):
    """Causal grouped-query attention with normalized queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, head = shape.hidden_size, shape.head_dim
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads
        self.scale = head**-0.5
        self.q_proj = nn.Linear(width, shape.num_heads * head, bias=False)
        self.k_proj = nn.Linear(width, shape.num_kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, shape.num_kv_heads * head, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * head, width, bias=False)
        self.qk_norm = shape.qk_norm
        if self.qk_norm:
            self.q_norm = nn.RMSNorm(head, shape.norm_eps)
            self.k_norm = nn.RMSNorm(head, shape.norm_eps)
        self.rope = Rotation(shape)

    def __call__(self, x: mx.array, mask: Mask = None, cache: Any = None) -> mx.array:
        """[B, L, D] to [B, L, D]. `cache` holds keys and values of the tokens before `x`."""
        B, L, _ = x.shape
        q = self.q_proj(x).reshape(B, L, self.num_heads, -1)  # [B, L, H, E]
        k = self.k_proj(x).reshape(B, L, self.num_kv_heads, -1)  # [B, L, K, E]
        v = self.v_proj(x).reshape(B, L, self.num_kv_heads, -1)  # [B, L, K, E]
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, H or K, L, E]
        if cache is None:
            y = causal_attention(self.rope(q), self.rope(k), v, scale=self.scale, mask=mask)
        else:
            # Rotate before the cache is updated: a batch's offsets are changed in place.
            q, k = self.rope(q, cache.offset), self.rope(k, cache.offset)
            k, v = cache.update_and_fetch(k, v)
            base = import_mlx_lm("mlx_lm.models.base")
            y = base.scaled_dot_product_attention(q, k, v, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(y.swapaxes(1, 2).reshape(B, L, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.hidden_size, shape.intermediate_size
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, L, D] to [B, L, D]."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True)
class Source:
    """What a block's weights are made of for a pass, when they are made of less."""

    made: dict[str, mx.array]
    """The weights, by their names in the block, as they were put into it."""
    parts: list[mx.array]
    """What they are made of."""
    make: Callable[[list[mx.array]], dict[str, mx.array]]
    """How: weights by name from the parts, also other ones."""

    @classmethod
    def of(cls, layer: Block) -> Source:
        """What it was told of its weights, or the weights themselves if it has others."""
        flat: dict[str, mx.array] = dict(tree_flatten(layer.trainable_parameters()))
        told = layer._source
        if told and all(told.made.get(name) is array for name, array in flat.items()):
            return told
        return cls(flat, list(flat.values()), lambda parts: dict(zip(flat, parts, strict=True)))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalized stream and added to it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._source: Source | None = None
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)

    def __call__(
        self, x: mx.array, mask: Mask = None, cache: Any = None, branch: Branch | None = None
    ) -> mx.array:
        """[B, L, D] to [B, L, D]."""
        attended = self.self_attn(self.input_layernorm(x), mask, cache)
        x = x + (attended if branch is None else branch(0, attended))
        fed = self.mlp(self.post_attention_layernorm(x))
        return x + (fed if branch is None else branch(1, fed))


class Trunk(nn.Module):
    """Embedding, blocks and the last norm; a name of its own only for Qwen3's `model.` prefix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = [Block(shape) for _ in range(shape.num_layers)]
        self.norm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)


class Decoder(nn.Module):
    """Next-token logits of a sequence of token ids."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        if not shape.tied:
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def __call__(
        self,
        tokens: mx.array,
        cache: Sequence[Any] | None = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """Logits [B, L, V] of token ids [B, L], each from the tokens up to and with its own.

        Args:
            tokens: [B, L] integers, 0 to V - 1.
            cache: one mlx-lm cache per layer, with the tokens that came before; it is extended.
            input_embeddings: [B, L, D], taken in place of the embedding of `tokens`.
        """
        x = self.model.embed_tokens(tokens) if input_embeddings is None else input_embeddings
        if cache is None or cache[0] is None:
            return self._logits(self._blocks(x, mask="causal"))
        mask = import_mlx_lm("mlx_lm.models.base").create_attention_mask(x, cache[0])
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x = layer(x, mask, layer_cache)
        return self._logits(self.model.norm(x))

    def hidden(
        self,
        tokens: mx.array,
        *,
        mask: Mask = None,
        checkpoint: bool = False,
        branch: Branch | None = None,
    ) -> mx.array:
        """States [B, L, D] after the last norm, for training; `output_weight` makes logits of them.

        Args:
            tokens: [B, L] integers.
            mask: who may attend to whom. None or "causal": all earlier tokens. Else booleans that
                broadcast to [B, 1, L, L] (query, key), True where it may; none above the diagonal.
            checkpoint: keep only the input of each block and compute the block again in the
                backward pass.
            branch: changes what the blocks add to the stream, such as dropout.
        """
        x = self.model.embed_tokens(tokens)
        return self._blocks(x, mask=mask, checkpoint=checkpoint, branch=branch)

    @property
    def output_weight(self) -> mx.array:
        """Matrix [V, D] of the output layer: the embedding when tied."""
        return self.model.embed_tokens.weight if self.shape.tied else self.lm_head.weight

    @property
    def layers(self) -> list[Block]:
        """The blocks, for mlx-lm, which makes one cache for each."""
        return self.model.layers

    def _blocks(
        self,
        x: mx.array,
        *,
        mask: Mask,
        checkpoint: bool = False,
        branch: Branch | None = None,
    ) -> mx.array:
        for number, layer in enumerate(self.layers):
            own = None if branch is None else _shifted(branch, 2 * number)
            x = _recomputed(layer, x, mask, own) if checkpoint else layer(x, mask, branch=own)
        return self.model.norm(x)

    def _logits(self, states: mx.array) -> mx.array:
        if self.shape.tied:
            return self.model.embed_tokens.as_linear(states)
        return self.lm_head(states)


def _shifted(branch: Branch, first: int) -> Branch:
    """`branch` for one block, whose additions are numbered from 0."""
    return lambda number, added: branch(first + number, added)


def _recomputed(layer: Block, x: mx.array, mask: Mask, branch: Branch | None) -> mx.array:
    """`layer(x, mask)`, keeping none of its inner values for the backward pass.

    `mx.checkpoint` recomputes them too, but leaves every block's weight gradients for the end, and
    so keeps all recomputed values alive (MLX 0.32.4). Here a block's gradients are finished before
    those of the block below are begun: half the memory, the same bits.
    """
    source = Source.of(layer)

    def call(*arrays: mx.array) -> mx.array:
        *parts, x = arrays
        if source is layer._source:  # not before `x` is there: else all blocks' weights are
            parts = list(mx.depends(parts, [x]))
        layer.update(tree_unflatten(list(source.make(parts).items())))
        # The mask is closed over, and what `branch` holds: all array arguments are differentiated.
        return layer(x, mask, branch=branch)

    block = mx.custom_function(call)

    @block.vjp
    def backward(
        primals: tuple[mx.array, ...] | mx.array, cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, ...]:
        # A frozen block has one primal, and MLX hands it over bare.
        arrays = [primals] if isinstance(primals, mx.array) else list(primals)
        arrays = mx.depends(arrays, [cotangent])
        _, (*gradients, to_x) = mx.vjp(call, arrays, [cotangent])
        (to_x,) = mx.depends([to_x], gradients)
        return *gradients, to_x

    y = block(*source.parts, x)
    # Or the layer would be left with what was made of the arguments of `call`.
    layer.update(tree_unflatten(list(source.made.items())))
    return cast(mx.array, y)


def initialize(model: Decoder, seed: int) -> None:
    """Draw new float32 weights: linears N(0, 1 / fan_in), embedding N(0, 1 / D), gains 1.

    The key of each tensor is made from the seed and its name, so a tensor more or less leaves the
    others as they were. Source: AX.
    """
    weights = []
    for name, old in named_parameters(model).items():
        if old.ndim == 1:
            weights.append((name, mx.ones(old.shape, dtype=mx.float32)))
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        key = mx.random.key(int.from_bytes(digest[:8], "little"))
        spread = old.shape[1] ** -0.5  # fan-in of a linear, D of the embedding: both the last axis
        weights.append((name, spread * mx.random.normal(old.shape, dtype=mx.float32, key=key)))
    model.update(tree_unflatten(weights))


def count_parameters(shape: Shape) -> dict[str, int]:
    """Numbers in each tensor of a decoder, by name. Allocates nothing, arrays are lazy."""
    return {name: array.size for name, array in named_parameters(Decoder(shape)).items()}


def named_parameters(model: nn.Module) -> dict[str, mx.array]:
    """All tensors of a model by their dotted names, as in a checkpoint."""
    return cast("dict[str, mx.array]", tree_flatten(model.parameters(), destination={}))
