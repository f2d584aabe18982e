"""mlx-lm's quantizers on the model of `quantize_setup.py`: affine, mixed, GPTQ, AWQ and DWQ.

They run in float32, as their loss in bfloat16 is wrong on the CPU, and what they find is kept as
mlx-lm keeps it from a 16-bit model: ids of 2 to 8 bits, scale and bias of each group in float16.
The embedding takes 8 bits in groups of 64 everywhere, so that linear layers alone differ.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import quantize_setup as setup
from mlx.utils import tree_flatten, tree_unflatten

EMBEDDING_BITS, EMBEDDING_GROUP = 8, 64
SIDE_BITS = 32  # scale and bias of a group, float16 each
DWQ_ROWS_PER_STEP = 2
DWQ_VALID_ROWS = 2
GPTQ_ROWS = 32
AWQ_ROWS = 8


class Affine:
    """A weight in groups: ids, scales and biases; what mlx-lm stores."""

    def __init__(self, words: Any, scales: Any, biases: Any, bits: int, group: int) -> None:
        self.words, self.bits, self.group = words, bits, group
        self.scales, self.biases = (a.astype(mx.float16) for a in (scales, biases))

    @classmethod
    def of(cls, weight: Any, bits: int, group: int) -> Affine:
        """`mx.quantize`, as mlx-lm's convert does it."""
        return cls(*mx.quantize(weight, bits=bits, group_size=group), bits, group)

    @property
    def bits_per_weight(self) -> float:
        """Ids, scales and biases."""
        return self.bits + SIDE_BITS / self.group

    def dense(self) -> Any:
        """The weight [O, I] in float32."""
        scales, biases = (a.astype(mx.float32) for a in (self.scales, self.biases))
        return mx.dequantize(self.words, scales, biases, bits=self.bits, group_size=self.group)


def open_mlx_lm(folder: Path) -> Any:
    """mlx-lm's model of a folder, in float32."""
    from mlx_lm.utils import load_model

    return load_model(folder)[0]


def affine_layers(model: Any) -> dict[str, Affine]:
    """What a quantized mlx-lm model holds, by name."""
    return {
        name: Affine(module.weight, module.scales, module.biases, module.bits, module.group_size)
        for name, module in model.named_modules()
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding)
    }


def plain(folder: Path, bits: int, group: int) -> tuple[Any, dict[str, Affine]]:
    """Affine quantization of every linear layer."""
    model = open_mlx_lm(folder)
    return model, {
        name: Affine.of(module.weight, bits, group)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def mixed(folder: Path, recipe: str) -> tuple[Any, dict[str, Affine]]:
    """One of the recipes of `mlx_lm.convert --quant-predicate`."""
    from mlx_lm.convert import mixed_quant_predicate_builder

    model = open_mlx_lm(folder)
    choose = mixed_quant_predicate_builder(recipe, model)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            chosen = choose(name, module)
            found[name] = Affine.of(module.weight, chosen["bits"], chosen["group_size"])
    return model, found


def gptq(folder: Path, rows: Any, bits: int, group: int) -> tuple[Any, dict[str, Affine]]:
    """`mlx_lm.quant.gptq`. It cannot pack 3 bits, so those are packed here."""
    from mlx_lm.quant import gptq as module

    packing = module.quantize
    if bits == 3:
        module.quantize = _packed
    try:
        model, _ = module.gptq_quantize(
            open_mlx_lm(folder), rows, bits, group, EMBEDDING_BITS, EMBEDDING_GROUP, batch_size=2
        )
    finally:
        module.quantize = packing
    return model, affine_layers(model)


def _packed(weight: Any, bits: int, scales: Any, biases: Any) -> Any:
    """Words [O, I * bits / 32] of a weight [O, I]: ids one after the other, lowest bits first."""
    grouped = np.array(weight).reshape(*scales.shape, -1)
    scaled = (grouped - np.array(biases)[..., None]) / np.array(scales)[..., None]
    ids = np.clip(np.round(scaled), 0, 2**bits - 1).astype(np.uint8).reshape(weight.shape)
    spread = (ids[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    bytes_ = np.packbits(spread.reshape(len(ids), -1), axis=-1, bitorder="little")
    return mx.array(bytes_.view(np.uint32))


def awq(folder: Path, rows: Any, bits: int, group: int) -> tuple[Any, dict[str, Affine]]:
    """`mlx_lm.quant.awq` with its settings for Llama."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize

    model = open_mlx_lm(folder)
    awq_quantize(
        model,
        rows,
        AWQ_MODEL_CONFIGS["llama"],
        group_size=group,
        bits=bits,
        embed_group_size=EMBEDDING_GROUP,
        embed_bits=EMBEDDING_BITS,
    )
    return model, affine_layers(model)


class TrainedAffine(nn.Module):
    """An affine layer whose scales and biases are trained by one matrix product, not by groups.

    The same function and gradients as `nn.QuantizedLinear`, which is eight times slower on the CPU.
    """

    def __init__(self, layer: Affine) -> None:
        super().__init__()
        self.bits, self.group_size, self.mode = layer.bits, layer.group, "affine"
        self.scales, self.biases = (a.astype(mx.float32) for a in (layer.scales, layer.biases))
        one = mx.ones_like(self.scales)
        ids = mx.dequantize(
            layer.words, one, mx.zeros_like(one), bits=layer.bits, group_size=layer.group
        )
        self._ids = ids.reshape(*one.shape, layer.group)
        self.weight = layer.words
        self.freeze()

    def __call__(self, x: Any) -> Any:
        """[..., I] to [..., O]."""
        weight = self._ids * self.scales[..., None] + self.biases[..., None]
        return x @ weight.reshape(weight.shape[0], -1).T

    def layer(self) -> Affine:
        """What mlx-lm would save."""
        return Affine(self.weight, self.scales, self.biases, self.bits, self.group_size)


def dwq(
    folder: Path,
    rows: Any,
    bits: int,
    group: int,
    *,
    tokens: int,
    lr: float,
    kept: Path,
    seen: Callable[[int, Any, dict[str, Affine]], None] | None = None,
    every: int = 0,
) -> tuple[Any, dict[str, Affine]]:
    """`mlx_lm.quant.dwq.dwq_quantize` at its settings, on the decoder of ours with affine layers.

    The teacher's logits are whole: its last states are computed once and kept in `kept`.
    `seen(tokens, model, layers)` is called after each `every` steps.
    """
    import mlx.optimizers as optimizers
    from mlx_lm.quant.dwq import dwq_quantize

    from afm_mlx.decoder.checkpoint import open_checkpoint
    from afm_mlx.decoder.palette import linears, replace_linears

    model = open_checkpoint(folder, dtype=mx.float32)
    count = tokens // (rows.shape[1] - 1) // DWQ_ROWS_PER_STEP * DWQ_ROWS_PER_STEP
    parts = {"train": rows[:count], "valid": rows[len(rows) - DWQ_VALID_ROWS :]}
    full = open_checkpoint(folder, dtype=mx.float32)
    kept.mkdir(parents=True, exist_ok=True)

    def teach(batch: Any, _number: int, split: str) -> Any:
        found = []
        for row in np.array(batch):
            path = kept / f"{hashlib.sha256(row.tobytes()).hexdigest()[:16]}.npy"
            if not path.is_file():
                part = kept / f"{os.getpid()}.npy"
                np.save(part, np.array(full.hidden(mx.array(row[None]))[0]))
                part.replace(path)
            found.append(mx.array(np.load(path)))
        return mx.stack(found) @ full.output_weight.T

    replace_linears(
        model,
        {n: TrainedAffine(Affine.of(m.weight, bits, group)) for n, m in linears(model).items()},
    )
    embedding = Affine.of(model.model.embed_tokens.weight, EMBEDDING_BITS, EMBEDDING_GROUP)
    model.model.embed_tokens.weight = embedding.dense()
    model.model.embed_tokens.freeze()
    mx.eval(model.parameters())
    optimizer = optimizers.Adam(learning_rate=lr, bias_correction=True)
    applied, steps = optimizer.apply_gradients, [0]

    def found() -> dict[str, Affine]:
        return {name: module.layer() for name, module in linears(model).items()}

    def apply(gradients: Any, parameters: Any) -> Any:
        made = applied(gradients, parameters)
        steps[0] += 1
        at = steps[0] * DWQ_ROWS_PER_STEP * (rows.shape[1] - 1)
        if seen is not None and every and steps[0] % every == 0:
            mx.eval(made, optimizer.state)
            model.update(made)
            seen(at, model, found())
        return made

    optimizer.apply_gradients = apply
    data = {name: [(row.tolist(), 0) for row in np.array(part)] for name, part in parts.items()}
    dwq_quantize(
        model,
        teach,
        optimizer,
        data["train"],
        data["valid"],
        batch_size=DWQ_ROWS_PER_STEP,
        max_seq_length=rows.shape[1],
        seed=0,
        dtype=mx.float32,
    )
    return model, found()


def dense_weights(model: Any, layers: Mapping[str, Affine]) -> dict[str, Any]:
    """All weights of a quantized model as dense float32 tensors, by their names in a checkpoint."""
    rounded = dict(layers)
    if setup.EMBEDDING not in rounded:
        weight = model.model.embed_tokens.weight
        rounded[setup.EMBEDDING] = Affine.of(weight, EMBEDDING_BITS, EMBEDDING_GROUP)
    gains = {
        name: array.astype(mx.float16).astype(mx.float32)
        for name, array in tree_flatten(model.parameters())
        if name.endswith("norm.weight")
    }
    return gains | {f"{name}.weight": layer.dense() for name, layer in rounded.items()}


def layer_bits(layers: Mapping[str, Affine]) -> dict[str, float]:
    """Bits per weight of each layer, and of the embedding."""
    found = {name: layer.bits_per_weight for name, layer in layers.items()}
    return found | {setup.EMBEDDING: EMBEDDING_BITS + SIDE_BITS / EMBEDDING_GROUP}


def checks(folder: Path, work: Path) -> Iterator[str]:
    """Lines that say how far what is fast is from what mlx-lm computes."""
    from afm_mlx.text.tokenizer import Tokenizer

    yield f"trained affine layer, outputs and gradients: {_trained_affine_gap():.1e} at most"
    row = mx.array(setup.read_rows(work / "held.jsonl", Tokenizer.open(folder))[0, :16])
    yield f"logits of dense weights, of the largest: {_dense_gap(folder, row):.1e} at most"
    weight = mx.random.normal((32, 128), key=mx.random.key(3))
    layer = Affine(*mx.quantize(weight, bits=3, group_size=64), 3, 64)
    packed = _packed(layer.dense(), 3, layer.scales, layer.biases)
    yield f"words of 3 bits are MLX's: {bool((packed == layer.words).all())}"


def _trained_affine_gap() -> float:
    """Largest relative difference of outputs and gradients from MLX's own quantized product."""
    weight = mx.random.normal((64, 128), key=mx.random.key(0))
    x = mx.random.normal((8, 128), key=mx.random.key(1))
    aim = mx.random.normal((8, 64), key=mx.random.key(2))
    layer = TrainedAffine(Affine.of(weight, 4, 64))

    def ours(scales: Any, biases: Any, x: Any) -> Any:
        layer.scales, layer.biases = scales, biases
        return (layer(x) * aim).sum()

    def theirs(scales: Any, biases: Any, x: Any) -> Any:
        product = mx.quantized_matmul(
            x, layer.weight, scales, biases, transpose=True, group_size=64, bits=4
        )
        return (product * aim).sum()

    start = layer.scales, layer.biases, x
    pairs = zip(
        tree_flatten(mx.value_and_grad(ours, argnums=(0, 1, 2))(*start)),
        tree_flatten(mx.value_and_grad(theirs, argnums=(0, 1, 2))(*start)),
        strict=True,
    )
    return max((mx.abs(a - b).max() / mx.abs(b).max()).item() for (_, a), (_, b) in pairs)


def _dense_gap(folder: Path, row: Any) -> float:
    """Largest difference of a row's logits, mlx-lm's quantized model against dense weights.

    Relative to the largest logit. Both take scales and gains in float16 as float32 numbers.
    """
    from mlx_lm.utils import quantize_model

    model = open_mlx_lm(folder)
    quantize_model(model, {}, 64, 4)
    layers = affine_layers(model)
    weights = dense_weights(model, layers)
    arrays = {name: array for name, array in weights.items() if name.endswith("norm.weight")}
    for name, layer in layers.items():
        arrays |= {f"{name}.scales": layer.scales, f"{name}.biases": layer.biases}
    model.update(tree_unflatten([(n, a.astype(mx.float32)) for n, a in arrays.items()]))
    decoder = setup.with_weights(
        folder, weights | {f"{setup.EMBEDDING}.weight": layers[setup.EMBEDDING].dense()}
    )
    theirs, ours = model(row[None]), decoder(row[None])
    return (mx.abs(theirs - ours).max() / mx.abs(theirs).max()).item()
