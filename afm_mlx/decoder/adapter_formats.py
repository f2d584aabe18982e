"""What stands in an adapter's files, and how mlx-lm and PEFT have the same.

PEFT transposes the factors and names them otherwise, so both programs cannot read one file.

Sources. mlx-lm 0.32.2, tuner/utils.py; PEFT 0.21.2, tuners/lora.

Shapes. I columns (inputs) and O rows (outputs) of a linear layer, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlx.core as mx

from afm_mlx.decoder.weights import listed, read_header
from afm_mlx.errors import ModelError

FACTORS, PEFT_FACTORS = "adapters.safetensors", "adapter_model.safetensors"

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterFacts:
    """What is known about an adapter besides its factors: adapter.json."""

    name: str
    base: str
    """`base_hash` of the model that it belongs to; "" where another program has made it."""
    base_name: str
    """What that model was called; for people."""
    rank: int
    """Columns of A."""
    alpha: float
    """Rank times what the adapter's output is multiplied by."""
    parent: str = ""
    """Adapter that it started from; "" for none."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that it was trained with."""
    data: tuple[str, ...] = ()
    """What it was trained on."""
    chat: bool = False
    """Whether that was conversations: then it answers in the chat template."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When, UTC."""

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""
        return self.alpha / self.rank


def foreign_facts(config: Mapping[str, Any], folder: Path) -> AdapterFacts:
    """What is known of an adapter that mlx-lm or PEFT has made, from its adapter_config.json.

    Raises:
        ModelError: it is more than low-rank factors of one rank.
        KeyError, TypeError, ValueError: the config is damaged.
    """
    if "peft_type" in config:
        kind = str(config["peft_type"]).lower()
        special = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        used = [key for key in special if config.get(key)]
        kind = f"{kind} with {', '.join(used)}" if used else kind
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    else:
        kind = config.get("fine_tune_type", "lora")
        parameters = config["lora_parameters"]
        rank = int(parameters["rank"])
        alpha = rank * float(parameters["scale"])
    if kind != "lora":
        raise ModelError(f"adapter '{folder}' is of kind {kind}, and only plain lora is read")
    named = str(config.get("base_model_name_or_path") or config.get("model") or "")
    return AdapterFacts(folder.resolve().name, "", named, rank, alpha, chat=True, created="")


def read_factors(folder: Path, rank: int) -> dict[str, mx.array]:
    """The factors of a folder: two for each layer, of one rank.

    Raises:
        ModelError: they are absent or damaged, of another rank, or there is more than factors.
    """
    file = folder / FACTORS
    if not file.is_file() and (folder / PEFT_FACTORS).is_file():
        file = folder / PEFT_FACTORS
    if not file.is_file():
        raise ModelError(f"{file} is absent", hint="copy or train it again")
    read_header(file)  # MLX says little about a damaged file
    arrays = mx.load(str(file))
    assert isinstance(arrays, dict)
    if file.name == PEFT_FACTORS:
        arrays = _from_peft(arrays)
    strange = [name for name in arrays if not name.endswith((".lora_a", ".lora_b"))]
    if strange:
        raise ModelError(f"{file} holds more than low-rank factors: {listed(sorted(strange))}")
    for layer in layers_of(arrays):
        a, b = (arrays.get(f"{layer}.{factor}") for factor in ("lora_a", "lora_b"))
        if a is None or b is None or a.ndim != 2 or b.ndim != 2:
            raise ModelError(f"{file}: {layer} has not two factors")
        if a.shape[1] != rank or b.shape[0] != rank:
            raise ModelError(
                f"{file}: {layer} has factors of rank {a.shape[1]} and {b.shape[0]}, "
                f"and the adapter rank {rank}"
            )
    return arrays


def mlx_config(arrays: Mapping[str, mx.array], facts: AdapterFacts) -> dict[str, Any]:
    """adapter_config.json as mlx-lm reads it."""
    numbers, keys = _targets(arrays)
    return {
        "fine_tune_type": "lora",
        "num_layers": len(numbers),
        "lora_parameters": {
            "rank": facts.rank,
            "scale": facts.scale,
            "dropout": 0.0,
            "keys": keys,
        },
    }


def peft_config(arrays: Mapping[str, mx.array], facts: AdapterFacts) -> dict[str, Any]:
    """What PEFT wants in the same file; it warns of mlx-lm's keys and goes on."""
    _, keys = _targets(arrays)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": facts.base_name,
        "r": facts.rank,
        "lora_alpha": facts.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(key.rpartition(".")[2] for key in keys),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _targets(arrays: Mapping[str, mx.array]) -> tuple[list[int], list[str]]:
    """Numbers of the blocks with an adapter, and the names of its layers in a block."""
    split = [layer.removeprefix("model.layers.").partition(".") for layer in layers_of(arrays)]
    return sorted({int(number) for number, _, _ in split}), list(
        dict.fromkeys(key for _, _, key in split)
    )


def as_peft(arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Factors by PEFT's names, and laid out as weights: A [r, I], B [O, r]."""
    letters = {"lora_a": "lora_A", "lora_b": "lora_B"}
    found = {}
    for name, array in arrays.items():
        layer, _, factor = name.rpartition(".")
        found[f"{_PEFT_PREFIX}{layer}.{letters[factor]}.weight"] = mx.contiguous(array.T)
    return found


def _from_peft(arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """PEFT's factors by our names and in our layout; names that are no factor's stay."""
    found = {}
    for name, array in arrays.items():
        layer, _, factor = name.removesuffix(".weight").rpartition(".")
        known = factor in ("lora_A", "lora_B")
        found[f"{layer.removeprefix(_PEFT_PREFIX)}.{factor.lower()}" if known else name] = (
            mx.contiguous(array.T) if known else array
        )
    return found


def layers_of(arrays: Mapping[str, mx.array]) -> Iterator[str]:
    """Names of the layers that factors belong to."""
    yield from dict.fromkeys(name.rpartition(".")[0] for name in arrays)
