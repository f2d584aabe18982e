"""`config.json` of a checkpoint: what our `Shape` is in the words of transformers and mlx-lm.

Only configurations that mean exactly our decoder are read; anything else is refused by name, since
a model that loads and computes something slightly different is worse than one that does not load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""What we write: with QK-norm, and without."""

QUANT_METHOD = "afm_palette"
"""Our name in the table `quantization_config`: look-up tables, see palette_format.py."""

_READABLE = ("qwen3", "llama", "mistral")  # without a sliding window, mistral is llama

# Settings that change the function, and their values that do not. Absent counts as neutral.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu",),
    "hidden_activation": ("silu", None),
    "rope_traditional": (False, None),
    "partial_rotary_factor": (1, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "attention_multiplier": (None,),
    "query_pre_attn_scalar": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "logit_scale": (1, None),
    "quantization": (None,),
    "quantization_config": (None,),
}

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        ModelError: there is none, or it is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(
            f"'{folder}' is not a model folder: it has no config.json",
            hint="name a folder with config.json and model.safetensors, or a .gguf file",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds a {type(config).__name__}, not a table of settings")
    return config


def read_shape(folder: Path) -> Shape:
    """Shape of the model in a folder, without touching its weights.

    Raises:
        ModelError: no config.json, a setting is absent, or it describes another architecture.
    """
    return shape_of_config(read_config(folder), str(folder / "config.json"))


def shape_of_config(config: Mapping[str, Any], where: str) -> Shape:
    """The shape that a Qwen3, Llama or Mistral configuration describes.

    Absent settings take the value that transformers gives them where that is a rule and not one
    model's size: `head_dim` of Llama, `num_key_value_heads` of Llama, `rope_theta` of Llama 1.

    Args:
        config: the parsed config.json.
        where: the file's name, for messages.

    Raises:
        ModelError: a setting is absent or its value means something else than our decoder.
    """
    kind = config.get("model_type")
    if kind not in _READABLE:
        raise ModelError(
            f"{where}: model_type is '{kind}', not one of {', '.join(_READABLE)}",
            hint="only models with exactly the decoder of Qwen3 or Llama can be represented",
        )
    _refuse_other_functions(config, str(kind), where)
    values = {key: config[key] for key in config if config[key] is not None}
    if kind != "qwen3":
        width, heads = values.get("hidden_size"), values.get("num_attention_heads")
        values.setdefault("num_key_value_heads", heads)
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            values.setdefault("head_dim", width // heads)
    rope = _rope_settings(config, str(kind), where)
    names = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
        "norm_eps": "rms_norm_eps",
        "max_tokens": "max_position_embeddings",
    }
    absent = [theirs for theirs in names.values() if values.get(theirs) is None]
    if absent:
        raise ModelError(f"{where} lacks {', '.join(absent)}")
    try:
        return Shape(
            **{ours: values[theirs] for ours, theirs in names.items()},
            **rope,
            qk_norm=kind == "qwen3",
            tied=bool(values.get("tie_word_embeddings", False)),
        )
    except ValidationError as error:
        found = error.errors()[0]
        name = ".".join(str(part) for part in found["loc"]) or "shape"
        raise ModelError(f"{where}: {name}: {found['msg'].lower()}") from None


def config_of_shape(
    shape: Shape,
    *,
    dtype: str,
    token_ids: Mapping[str, Any],
    facts: Mapping[str, Any],
    quantization: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config.json of a checkpoint: model_type qwen3, or llama when QK-norm is off.

    Names are written twice where programs disagree: transformers 4 and mlx-lm read `rope_theta`
    and `torch_dtype`, transformers 5 reads `rope_parameters` and `dtype`.

    Args:
        shape: of the model.
        dtype: of its weights: "float32", "bfloat16" or "float16".
        token_ids: any of bos_token_id, eos_token_id, pad_token_id.
        facts: ours, kept in the table `afm`, which other programs ignore.
        quantization: the table `quantization_config`; None where all weights are numbers.
    """
    kind = "qwen3" if shape.qk_norm else "llama"
    rope: dict[str, Any] = {"rope_type": "default"}
    if shape.rope_scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": shape.rope_scaling.factor,
            "low_freq_factor": shape.rope_scaling.low_freq_factor,
            "high_freq_factor": shape.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": shape.rope_scaling.original_max_tokens,
        }
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.norm_eps,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_tokens,
        "rope_theta": shape.rope_base,
        "rope_parameters": {"rope_theta": shape.rope_base, **rope},
        **({"rope_scaling": rope} if shape.rope_scaling is not None else {}),
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        **({} if shape.qk_norm else {"mlp_bias": False}),
        "hidden_act": "silu",
        "dtype": dtype,
        "torch_dtype": dtype,
        **{name: token_ids.get(name) for name in _TOKEN_IDS},
        **({} if quantization is None else {"quantization_config": dict(quantization)}),
        "afm": dict(facts),
    }


def _refuse_other_functions(config: Mapping[str, Any], kind: str, where: str) -> None:
    """Raise for the first setting that makes the model compute something else than ours."""
    for name, neutral in _NEUTRAL.items():
        if name == "quantization_config" and _is_ours(config.get(name)):
            continue
        if name in config and config[name] not in neutral:
            value = "set" if isinstance(config[name], dict) else f"'{config[name]}'"
            hint = "take the model's unquantized weights" if "quantization" in name else ""
            raise ModelError(f"{where}: {name} is {value}, which cannot be represented", hint=hint)
    types = config.get("layer_types") or []
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise ModelError(f"{where}: layer_types is not a list of names")
    layers = set(types) - {"full_attention"}
    window = config.get("sliding_window")
    if kind == "qwen3" and not config.get("use_sliding_window"):
        window = None  # Qwen3 writes a window that it does not use
    if layers or window is not None:
        raise ModelError(
            f"{where}: layers with {', '.join(sorted(layers)) or f'a sliding window of {window}'}"
            " cannot be represented, only full attention can"
        )


def _is_ours(quantization: object) -> bool:
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def _rope_settings(config: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """`rope_base` and `rope_scaling` of a configuration, whichever way it spells them."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        table = config.get(name) or {}
        if not isinstance(table, dict):
            raise ModelError(f"{where}: {name} is '{table}', not a table")
        for key, value in table.items():
            if rope.setdefault(key, value) != value:
                raise ModelError(
                    f"{where}: {key} is {rope[key]} in rope_scaling and {value} beside"
                )
    base, inner_base = config.get("rope_theta"), rope.pop("rope_theta", None)
    if None not in (base, inner_base) and base != inner_base:
        raise ModelError(f"{where}: rope_theta is {base} and rope_parameters say {inner_base}")
    base = base if inner_base is None else inner_base
    if base is None and kind != "qwen3":
        base = 10_000.0  # transformers' default; Llama 1 does not write it
    if base is None:
        raise ModelError(f"{where} lacks rope_theta")
    if rope.pop("partial_rotary_factor", 1) not in (1, None):
        raise ModelError(f"{where}: partial_rotary_factor is not 1, which cannot be represented")
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type == "default":
        return {"rope_base": base}
    if rope_type != "llama3":
        raise ModelError(
            f"{where}: rope_type is '{rope_type}', which cannot be represented",
            hint="default and llama3 can",
        )
    names = {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_tokens": "original_max_position_embeddings",
    }
    absent = [theirs for theirs in names.values() if rope.get(theirs) is None]
    if absent:
        raise ModelError(f"{where}: rope scaling 'llama3' lacks {', '.join(absent)}")
    scaling = {ours: rope[theirs] for ours, theirs in names.items()}
    return {"rope_base": base, "rope_scaling": scaling}
