"""Adapters on disk and at run time: a folder per adapter, and several beside one loaded model.

    summaries/
        adapters.safetensors        factors in float16, by mlx-lm's names: [I, r] and [r, O]
        adapter_config.json         what mlx-lm, and PEFT where it can, need to apply them
        adapter_model.safetensors   the same factors as PEFT has them; only beside a dense base
        adapter.json                ours: for which base, from which data

An adapter fits one base, which is known by a hash of its weights. Adapters of mlx-lm and PEFT are
read, too: without an adapter.json nothing says which base they are for, and only their sizes are
checked.

Source. B24: Apple's post of July 2024, for 16-bit factors and switching at run time.

Shapes. I columns (inputs) and O rows (outputs) of a linear layer, r rank.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.artifact import made_whole, write_text
from afm_mlx.decoder.adapter_formats import (
    FACTORS,
    PEFT_FACTORS,
    as_peft,
    foreign_facts,
    layers_of,
    mlx_config,
    peft_config,
    read_factors,
)
from afm_mlx.decoder.adapter_formats import AdapterFacts as AdapterFacts
from afm_mlx.decoder.base_hash import base_hash as base_hash
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts, save_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import LoraLinear, features
from afm_mlx.decoder.palette import linears, replace_linears
from afm_mlx.decoder.tensor_parallel import cut
from afm_mlx.decoder.weights import listed, write_file
from afm_mlx.errors import ModelError, RunError
from afm_mlx.ranks import ALONE, Ranks
from afm_mlx.settings.mistakes import nearest

MANIFEST = "adapter.json"
CONFIG = "adapter_config.json"

FOLDER = "adapters"
"""Folder of adapters inside a model folder."""

NONE = "none"
"""In place of an adapter: the base as it is."""

_SHOWN = 8  # digits of a hash in messages


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read."""

    facts: AdapterFacts
    arrays: dict[str, mx.array]
    """Factors by name, `model.layers.0.self_attn.q_proj.lora_a`: [I, r], `lora_b`: [r, O]."""

    @property
    def bytes(self) -> int:
        """Bytes of the factors in memory."""
        return sum(array.nbytes for array in self.arrays.values())


def base_name(folder: Path) -> str:
    """What people call the model in a folder: `afm-tiny/recover` for a stage's."""
    *_, recipe, stage, last = ("", "", *folder.resolve().parts)
    return f"{recipe}/{stage}" if last == "model" else last


def write_adapter(
    folder: Path, arrays: Mapping[str, mx.array], facts: AdapterFacts, *, dense: bool
) -> None:
    """Write an adapter as a folder: whole or not at all. Then it replaces one that is there.

    Args:
        folder: to make.
        arrays: all factors, as `lora.lora_arrays` gives them; kept as float16.
        facts: about it.
        dense: whether the base is dense; then PEFT's file is written, too, which doubles the size.

    Raises:
        ModelError: something that is no adapter stands there.
        RunError: a factor is too large for float16 or not finite, or the disk is full.
    """
    halves = {name: array.astype(mx.float16) for name, array in arrays.items()}
    bad = [name for name, array in halves.items() if not mx.isfinite(array).all().item()]
    if bad:
        raise RunError(
            f"adapter '{facts.name}' has numbers that float16 cannot hold: {listed(bad)}"
        )
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise ModelError(
            f"'{folder}' exists already and is no adapter",
            hint="name another folder, or delete it",
        )
    with made_whole(folder) as part:
        part.mkdir()
        write_file(part / FACTORS, halves)
        config = mlx_config(halves, facts)
        if dense:
            write_file(part / PEFT_FACTORS, as_peft(halves))
            config |= peft_config(halves, facts)
        write_text(part / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(part / MANIFEST, json.dumps(asdict(facts), indent=2) + "\n")
        if folder.exists():  # only now: the old one stays where the new one cannot be written
            shutil.rmtree(folder)


def read_adapter(folder: Path, base: Path) -> Adapter:
    """The adapter in `folder`, which must belong to the model in folder `base`.

    Raises:
        ModelError: there is no adapter, it is damaged, or it belongs to another base.
    """
    facts = read_adapter_facts(folder)
    found = base_hash(base)
    if facts.base and facts.base != found:
        raise ModelError(
            f"adapter '{facts.name}' is for '{facts.base_name}' ({facts.base[:_SHOWN]}), "
            f"and '{base_name(base)}' is another base ({found[:_SHOWN]})",
            hint=f"train one for this base: afm adapt {base} --name {facts.name} --data FILE",
        )
    return Adapter(facts, read_factors(folder, facts.rank))


def read_adapter_facts(folder: Path) -> AdapterFacts:
    """What an adapter's folder says about it; the factors are not looked at.

    Raises:
        ModelError: there is no adapter, or what it says is damaged, or it is of another kind than
            low-rank factors alone.
    """
    file = folder / (MANIFEST if (folder / MANIFEST).is_file() else CONFIG)
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        if file.name == CONFIG:
            return foreign_facts(known, folder)
        known["data"] = tuple(known["data"])
        facts = AdapterFacts(**{one.name: known[one.name] for one in fields(AdapterFacts)})
        if facts.rank < 1 or not isinstance(facts.base, str):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        inside = find_adapters(folder)
        raise ModelError(
            f"'{folder}' is no adapter: it has no {MANIFEST}",
            hint=f"did you mean {inside[0]}?" if inside else "afm adapters list DIR shows some",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{file} is damaged", hint="copy or train it again") from None
    return facts


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, of ours or another program's."""
    return (folder / MANIFEST).is_file() or (folder / CONFIG).is_file()


def find_adapters(folder: Path) -> list[Path]:
    """Adapter folders in a folder of adapters, or of a model."""
    inside = [*folder.glob("*"), *(folder / FOLDER).glob("*")]
    return sorted(each for each in inside if is_adapter(each))


def default_adapter(model: Path) -> Path | None:
    """Folder of the adapter that a model folder wants to be used with; None for none."""
    name = read_facts(model).get("adapter")
    return model / FOLDER / str(name) if name else None


def recovery_adapter(base: Path, *, rank: int) -> Adapter | None:
    """The adapter of a model folder to start a product adapter of this rank from.

    Factors are float32, to be trained. None where the folder has no adapter that it wants to be
    used with.

    Raises:
        ModelError: it has, and none of this rank; or it is damaged or of another base.
    """
    wanted = default_adapter(base)
    if wanted is None:
        return None
    others = [folder for folder in find_adapters(base) if folder != wanted]
    known = {folder: read_adapter_facts(folder) for folder in (wanted, *others)}
    recovery = {folder: facts for folder, facts in known.items() if not facts.chat}
    for folder, facts in recovery.items():
        if facts.rank == rank:
            read = read_adapter(folder, base)
            arrays = {name: array.astype(mx.float32) for name, array in read.arrays.items()}
            return Adapter(facts, arrays)
    ranks = sorted(facts.rank for facts in recovery.values())
    raise ModelError(
        f"'{base_name(base)}' has recovery adapters of rank {', '.join(map(str, ranks))}, "
        f"and an adapter of rank {rank} is to start from one",
        hint=f"--rank {known[wanted].rank}",
    )


def fuse(base: Path, adapter: Path, out: Path) -> None:
    """Write a dense model with an adapter melted in: W + scale (A B)^T, in the base's formats.

    Args:
        base: folder of a dense model.
        adapter: folder of an adapter for it.
        out: folder to make: whole or not at all.

    Raises:
        ModelError: as `read_adapter`; or the base is palettized.
    """
    read = read_adapter(adapter, base)
    model = open_checkpoint(base)
    found: dict[str, Any] = linears(model)
    looked_up = [name for name in found if not isinstance(found[name], nn.Linear)]
    if looked_up:
        raise ModelError(
            f"'{base_name(base)}' is palettized ({listed(looked_up)}), and an adapter's values do "
            "not fit its tables",
            hint="use both side by side: --adapter, or fuse with the model before quantization",
        )
    check_factors(read.arrays, found, read.facts.name)
    for name in layers_of(read.arrays):
        weight = found[name].weight
        found[name].weight = melted(weight, read, name).astype(weight.dtype)
    with made_whole(out) as part:
        save_checkpoint(part, model, base, facts=melted_facts(base, read.facts))


def melted(weight: mx.array, adapter: Adapter, layer: str) -> mx.array:
    """A layer's weight [O, I] with an adapter melted in, W + scale (A B)^T, in float32."""
    a, b = (adapter.arrays[f"{layer}.{each}"].astype(mx.float32) for each in ("lora_a", "lora_b"))
    return weight.astype(mx.float32) + adapter.facts.scale * (a @ b).T


def melted_facts(base: Path, adapter: AdapterFacts | None) -> dict[str, Any]:
    """Facts of a base with an adapter melted in; None: of the base without any."""
    facts = {key: value for key, value in read_facts(base).items() if key != "adapter"}
    if adapter is not None:
        facts["fused"] = adapter.name
        if adapter.chat:
            facts["stage"] = "sft"  # it has seen conversations, whatever the base was
            facts.pop("stage_before", None)
    return facts


class Adapters:
    """Adapters beside one loaded model, of which one at most is in use.

    A switch exchanges modules and copies nothing: the base's weights stay where they are.
    """

    def __init__(
        self,
        model: Decoder,
        base: Path,
        *,
        dtype: mx.Dtype = mx.float32,
        ranks: Ranks = ALONE,
    ) -> None:
        """`base` is the folder that `model` was opened from; factors are held in `dtype`.

        Of several `ranks`, each holds its part of the factors beside its part of the model.
        """
        self.model, self.base, self.dtype, self.ranks = model, base, dtype, ranks
        self.active: str | None = None
        """Name of the one in use; None: the base as it is."""
        self._held: dict[str, Adapter] = {}
        self._folders: dict[str, Path] = {}
        self._layers: dict[str, dict[str, nn.Module]] = {}

    def add(self, folder: Path) -> str:
        """Hold the adapter in a folder, under its name, which is returned; once, however often.

        Raises:
            ModelError: as `read_adapter`; or another one of this name is held, or its factors are
                not of the model's sizes.
        """
        read = read_adapter(folder, self.base)
        name = read.facts.name
        if self._folders.get(name) == folder.resolve():
            return name
        if name == NONE or name in self._held:
            raise ModelError(
                f"another adapter is called '{name}' already ({folder})",
                hint=f"change its name in {folder / MANIFEST}",
            )
        arrays = {
            key: cut(key, array.astype(self.dtype), self.ranks)
            for key, array in read.arrays.items()
        }
        check_factors(arrays, self._bare, name)
        mx.eval(arrays)
        self._folders[name] = folder.resolve()
        self._held[name] = Adapter(read.facts, arrays)
        self._layers[name] = {
            layer: LoraLinear(
                self._bare[layer],
                arrays[f"{layer}.lora_a"],
                arrays[f"{layer}.lora_b"],
                read.facts.scale,
            )
            for layer in layers_of(arrays)
        }
        return name

    def use(self, name: str | None) -> None:
        """Answer with this adapter from now on; None for the base as it is.

        Raises:
            ModelError: none of this name is held.
        """
        self.check(name)
        layers = self._layers[name] if name is not None else {}
        replace_linears(self.model, {**self._bare, **layers})
        self.active = name

    def check(self, name: str | None) -> None:
        """Look whether an adapter of this name is held; None is the base, which always is.

        Raises:
            ModelError: it is not.
        """
        if name is not None and name not in self._held:
            near = nearest(name, self.names)
            known = f"there are {', '.join(self.names)}" if self._held else ""
            raise ModelError(
                f"no adapter is called '{name}'", hint=f"did you mean '{near}'?" if near else known
            )

    @property
    def names(self) -> list[str]:
        """Names of those held, in the order in which they came."""
        return list(self._held)

    @property
    def folders(self) -> list[Path]:
        """Folders of those held, likewise."""
        return list(self._folders.values())

    @property
    def bytes(self) -> int:
        """Bytes of all factors held."""
        return sum(adapter.bytes for adapter in self._held.values())

    def __getitem__(self, name: str) -> Adapter:
        return self._held[name]

    @cached_property
    def _bare(self) -> dict[str, nn.Module]:
        """The model's linear layers without any adapter."""
        found = linears(self.model).items()
        return {
            key: layer.linear if isinstance(layer, LoraLinear) else layer for key, layer in found
        }


def check_factors(
    arrays: Mapping[str, mx.array], found: Mapping[str, nn.Module], name: str
) -> None:
    """Raise ModelError unless each factor belongs to one of the linear layers, and has its size."""
    wanted = list(layers_of(arrays))
    strange = [layer for layer in wanted if layer not in found]
    if strange:
        raise ModelError(
            f"adapter '{name}' is for layers that this model has not: {listed(sorted(strange))}"
        )
    for layer in found:
        if layer not in wanted:
            continue
        rows, columns = features(found[layer])
        sizes = arrays[f"{layer}.lora_a"].shape[0], arrays[f"{layer}.lora_b"].shape[1]
        if sizes != (columns, rows):
            raise ModelError(
                f"adapter '{name}': {layer} takes {sizes[0]:,} to {sizes[1]:,}, "
                f"and this model's {columns:,} to {rows:,}"
            )
