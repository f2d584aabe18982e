"""GGUF files of architecture qwen3 and llama: their settings and weights in our terms.

Settings are read by a list of those we know. A file with any other setting of its architecture is
refused, as it may mean another function.

Sources. ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, convert_hf_to_gguf.py: names of tensors,
order of Llama's query and key rows, rotation factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from pydantic import ValidationError

from afm_mlx.decoder.checkpoint import tensor_shapes, write_checkpoint
from afm_mlx.decoder.decoder import llama3_wavelengths
from afm_mlx.decoder.gguf_tokenizer import write_tokenizer
from afm_mlx.decoder.weights import check_tensors, listed
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Llama3Rope, Shape

_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Our names of tensors by those of GGUF, within a block and beside the blocks."""

ROTATION = "rope_freqs.weight"
"""What `rotation_factors` gives, in a file of a model whose rotation is rescaled."""

# Settings below "ARCHITECTURE." that our Shape holds.
_SHAPE_KEYS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.original_context_length",
    "vocab_size",
)
_NEEDED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
# Others, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scale_linear": (1,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (1,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.finetuned": (True, False),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}

# Llama 3.1 to 3.3: what their rotation factors were made from. GGUF keeps only the result.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_TRAINED_TOKENS = 8_192


@dataclass(frozen=True)
class GgufModel:
    """What a GGUF file holds, in our terms."""

    fields: dict[str, Any]
    """All settings by name."""
    shape: Shape
    weights: dict[str, mx.array]
    """By our names. Of a quantized file float32, which holds its values exactly."""


def import_gguf(file: Path, out: Path) -> Shape:
    """Write the model of a GGUF file as a checkpoint folder, tokenizer included.

    Raises:
        ModelError: the file is damaged, or something in it cannot be represented exactly.
    """
    model = read_gguf(file)
    out.mkdir(parents=True)
    token_ids = write_tokenizer(model.fields, out, file)
    facts = {"imported_from": file.name}
    write_checkpoint(out, model.shape, model.weights, out, facts=facts, token_ids=token_ids)
    return model.shape


def read_gguf(file: Path) -> GgufModel:
    """Settings, shape and weights of a GGUF file; its tokenizer is not looked at.

    Raises:
        ModelError: as `import_gguf`.
    """
    fields, tensors = _read(file)
    architecture = str(fields.get("general.architecture"))
    if architecture not in ("qwen3", "llama"):
        raise ModelError(
            f"{file}: architecture is '{architecture}', not qwen3 or llama",
            hint="only models with exactly the decoder of Qwen3 or Llama can be represented",
        )
    factors = tensors.pop(ROTATION, None)
    shape = _shape(file, architecture, fields, tensors, factors)
    return GgufModel(fields, shape, _weights(file, architecture, shape, tensors))


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by name, and the package's tensor records by name."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file", hint="name a folder or a .gguf file")
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(
            f"{file} ({file.stat().st_size:,} bytes) is cut off or damaged: {error}",
            hint="copy or download it again",
        ) from None
    return fields, tensors


def _shape(
    file: Path,
    architecture: str,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Any],
    factors: Any,
) -> Shape:
    """The Shape that a file's settings describe; refuses settings that it has no place for."""
    prefix = architecture + "."
    own = {name[len(prefix) :]: value for name, value in fields.items() if name.startswith(prefix)}
    for name, value in own.items():
        known = name in _SHAPE_KEYS or value in _NEUTRAL.get(name, ())
        if not known or isinstance(value, list):
            raise ModelError(f"{file}: {prefix}{name} is '{value}', which cannot be represented")
    absent = [prefix + name for name in _NEEDED if name not in own]
    absent += [name for name in ("token_embd.weight",) if name not in tensors]
    if absent:
        raise ModelError(f"{file} lacks {listed(absent)}")
    heads, width = own["attention.head_count"], own["embedding_length"]
    head_dim = own.get("attention.key_length") or width // max(heads, 1)
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.get(name, head_dim) != head_dim:
            raise ModelError(
                f"{file}: {prefix}{name} is {own[name]}, the width of a head is {head_dim}; "
                "they must be equal"
            )
    base = _decimal(own.get("rope.freq_base", 10_000.0))  # llama.cpp's default
    trained_tokens = own.get("rope.scaling.original_context_length", _LLAMA3_TRAINED_TOKENS)
    try:
        return Shape(
            num_layers=own["block_count"],
            hidden_size=width,
            num_heads=heads,
            num_kv_heads=own.get("attention.head_count_kv", heads),
            head_dim=head_dim,
            intermediate_size=own["feed_forward_length"],
            vocab_size=int(tensors["token_embd.weight"].shape[1]),
            rope_base=base,
            norm_eps=_decimal(own["attention.layer_norm_rms_epsilon"]),
            max_tokens=own["context_length"],
            qk_norm=architecture == "qwen3",
            tied="output.weight" not in tensors,
            rope_scaling=_rope_scaling(file, factors, head_dim, base, trained_tokens),
        )
    except ValidationError as error:
        found = error.errors()[0]
        name = ".".join(str(part) for part in found["loc"]) or "shape"
        raise ModelError(f"{file}: {name}: {found['msg'].lower()}") from None


def _rope_scaling(
    file: Path, factors: Any, head_dim: int, base: float, trained_tokens: int
) -> Llama3Rope | None:
    """The rescaling that gives a file's rotation factors, found by computing them."""
    if factors is None:
        return None
    wanted = np.asarray(factors.data, dtype=np.float32).reshape(-1)
    if bool((wanted == 1).all()):
        return None
    scaling = Llama3Rope(
        factor=_decimal(float(wanted.max())), original_max_tokens=trained_tokens, **_LLAMA3
    )
    ours = rotation_factors(head_dim, base, scaling)
    if ours.shape != wanted.shape or not np.allclose(ours, wanted, rtol=1e-5, atol=0):
        raise ModelError(
            f"{file}: {ROTATION} is not the rescaling of Llama 3, the only one that can be "
            "represented",
            hint="import the safetensors folder of the same model",
        )
    return scaling


def rotation_factors(head_dim: int, base: float, scaling: Llama3Rope) -> np.ndarray[Any, Any]:
    """[E / 2] float32: how much slower than without rescaling each pair is turned."""
    plain = base ** (mx.arange(0, head_dim, 2) / head_dim)
    return np.array(llama3_wavelengths(head_dim, base, scaling) / plain)


def _weights(
    file: Path, architecture: str, shape: Shape, tensors: Mapping[str, Any]
) -> dict[str, mx.array]:
    """Tensors by our names, Llama's query and key rows in half-split order."""
    records = {_our_name(name): tensor for name, tensor in tensors.items()}
    wanted = tensor_shapes(shape)
    found = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in records.items()}
    check_tensors(found, wanted, str(file))
    for name, tensor in records.items():
        if tensor.tensor_type.name not in _TYPES:
            raise ModelError(
                f"{file}: {name} is {tensor.tensor_type.name}, not one of {', '.join(_TYPES)}",
                hint="take a file in one of those formats, best f16 or bf16",
            )
    quantized = any(tensor.tensor_type.name.startswith("Q") for tensor in records.values())
    heads = {"q_proj": shape.num_heads, "k_proj": shape.num_kv_heads}
    weights = {}
    for name in wanted:
        array = _array(records[name], quantized)
        projection = name.split(".")[-2]
        if architecture == "llama" and projection in heads:
            array = _half_split(array, heads[projection])
        weights[name] = array
    common = weights["model.embed_tokens.weight"].dtype
    return {name: _narrowed(array, common) for name, array in weights.items()}


def _our_name(name: str) -> str:
    """Our name of a GGUF tensor; a name that we do not know stays as it is, and is refused."""
    parts = name.removesuffix(".weight").split(".")
    if name.endswith(".weight") and parts[-1] in NAMES:
        if len(parts) == 3 and parts[0] == "blk":
            return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        if len(parts) == 1:
            return f"{NAMES[parts[0]]}.weight"
    return name


def _array(tensor: Any, quantized: bool) -> mx.array:
    """A tensor in its own precision; float32 throughout when the file has quantized ones."""
    import gguf

    kind = tensor.tensor_type.name
    if kind.startswith("Q"):
        return mx.array(gguf.dequantize(tensor.data, tensor.tensor_type))
    if kind == "BF16":
        array = mx.array(np.ascontiguousarray(tensor.data).view(np.uint16)).view(mx.bfloat16)
    else:
        array = mx.array(np.ascontiguousarray(tensor.data))
    return array.astype(mx.float32) if quantized else array


def _half_split(rows: mx.array, num_heads: int) -> mx.array:
    """Rows [H x E, D] of adjacent rotary pairs (2i, 2i + 1) in the order of pairs (i, i + E/2)."""
    split = rows.reshape(num_heads, -1, 2, rows.shape[-1])  # [H, E / 2, 2, D]
    return split.swapaxes(1, 2).reshape(rows.shape)


def _narrowed(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """The array in the model's format where no bit is lost: GGUF keeps all gains in float32."""
    narrow = array.astype(dtype)
    same = mx.array_equal(narrow.astype(mx.float32), array.astype(mx.float32)).item()
    return narrow if same else array


def _decimal(value: float) -> float:
    """The shortest decimal that rounds to a float32: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))
