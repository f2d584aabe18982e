"""Adapters on disk and at run time: a folder per adapter, and several beside one loaded model.

    summaries/
        adapters.safetensors        factors in float16, by mlx-lm's names: [I, r] and [r, O]
        adapter_config.json         what mlx-lm, and PEFT where it can, need to apply them
        adapter_model.safetensors   the same factors as PEFT has them; only beside a dense base
        adapter.json                ours: for which base, from which data

An adapter fits one base, which is known by a hash of its weights. PEFT transposes the factors and
names them otherwise, so both programs cannot read one file; nor can PEFT read a palettized base,
and there its file is left out.

Sources. B24: Apple's post of July 2024, for 16-bit factors and switching at run time. Names and
layouts: mlx-lm 0.32.2, tuner/utils.py; PEFT 0.18, tuners/lora.

Shapes. I columns (inputs) and O rows (outputs) of a linear layer, r rank.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from afm_mlx.artifact import made_whole, write_text
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts, save_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import LoraLinear, features
from afm_mlx.decoder.palette import linears, replace_linears
from afm_mlx.decoder.weights import listed, read_header, weight_files, write_file
from afm_mlx.errors import ModelError, RunError
from afm_mlx.settings.mistakes import nearest

MANIFEST = "adapter.json"
FACTORS, PEFT_FACTORS = "adapters.safetensors", "adapter_model.safetensors"
CONFIG = "adapter_config.json"

FOLDER = "adapters"
"""Folder of adapters inside a model folder."""

NONE = "none"
"""In place of an adapter: the base as it is."""

PIECE_BYTES = 2**26
"""Bytes of a base's weights that are hashed at a time; part of what a base's hash means."""

_SHOWN = 8  # digits of a hash in messages
_PEFT_PREFIX = "base_model.model."
_READ_BYTES = 2**20  # divides a piece


@dataclass(frozen=True)
class AdapterFacts:
    """What is known about an adapter besides its factors: adapter.json."""

    name: str
    base: str
    """`base_hash` of the model that it belongs to."""
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


def base_hash(folder: Path) -> str:
    """SHA-256 over a model's weight files, in the order of their names: 64 hexadecimal digits.

    To use all cores, it is that of the hashes of pieces. Adapters inside the folder, its config and
    its tokenizer are not in it. All bytes are read, once in a process: a file of the same size and
    time of change is taken to be the same.

    Raises:
        ModelError: there are no weights.
    """
    files = sorted(weight_files(folder), key=lambda file: file.name)
    return _hash(tuple((file.resolve(), *_stamp(file)) for file in files))


def base_name(folder: Path) -> str:
    """What people call the model in a folder: `afm-tiny/recover` for a stage's."""
    *_, recipe, stage, last = ("", "", *folder.resolve().parts)
    return f"{recipe}/{stage}" if last == "model" else last


def write_adapter(
    folder: Path, arrays: Mapping[str, mx.array], facts: AdapterFacts, *, dense: bool
) -> None:
    """Write an adapter as a folder: whole or not at all. An adapter that is there is replaced.

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
    if folder.exists():
        if not is_adapter(folder):
            raise ModelError(
                f"'{folder}' exists already and is no adapter",
                hint="name another folder, or delete it",
            )
        shutil.rmtree(folder)
    with made_whole(folder) as part:
        part.mkdir()
        write_file(part / FACTORS, halves)
        config = _mlx_config(halves, facts)
        if dense:
            write_file(part / PEFT_FACTORS, _as_peft(halves))
            config |= _peft_config(halves, facts)
        write_text(part / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(part / MANIFEST, json.dumps(asdict(facts), indent=2) + "\n")


def read_adapter(folder: Path, base: Path) -> Adapter:
    """The adapter in `folder`, which must belong to the model in folder `base`.

    Raises:
        ModelError: there is no adapter, it is damaged, or it belongs to another base.
    """
    facts = read_adapter_facts(folder)
    found = base_hash(base)
    if facts.base != found:
        raise ModelError(
            f"adapter '{facts.name}' is for '{facts.base_name}' ({facts.base[:_SHOWN]}), "
            f"and '{base_name(base)}' is another base ({found[:_SHOWN]})",
            hint=f"train one for this base: afm adapt {base} --name {facts.name} --data FILE",
        )
    return Adapter(facts, _read_factors(folder / FACTORS, facts.rank))


def read_adapter_facts(folder: Path) -> AdapterFacts:
    """What an adapter's folder says about it; the factors are not looked at.

    Raises:
        ModelError: there is no adapter, or what it says is damaged.
    """
    file = folder / MANIFEST
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
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
    """Whether a folder holds an adapter."""
    return (folder / MANIFEST).is_file()


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
    ranks = []
    for folder in (wanted, *others):
        facts = read_adapter_facts(folder)
        if facts.rank == rank and not facts.chat:
            read = read_adapter(folder, base)
            arrays = {name: array.astype(mx.float32) for name, array in read.arrays.items()}
            return Adapter(facts, arrays)
        ranks.append(facts.rank)
    raise ModelError(
        f"'{base_name(base)}' has recovery adapters of rank {listed(sorted(map(str, ranks)))}, "
        f"and an adapter of rank {rank} is to start from one",
        hint=f"--rank {read_adapter_facts(wanted).rank}",
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
    for name in _layers(read.arrays):
        a, b = (read.arrays[f"{name}.{each}"].astype(mx.float32) for each in ("lora_a", "lora_b"))
        weight = found[name].weight
        change = read.facts.scale * (a @ b).T
        found[name].weight = (weight.astype(mx.float32) + change).astype(weight.dtype)
    facts = {key: value for key, value in read_facts(base).items() if key != "adapter"}
    if read.facts.chat:
        facts["stage"] = "sft"  # it has seen conversations, whatever the base was
    with made_whole(out) as part:
        save_checkpoint(part, model, base, facts=facts | {"fused": read.facts.name})


class Adapters:
    """Adapters beside one loaded model, of which one at most is in use.

    A switch exchanges modules and copies nothing: the base's weights stay where they are.
    """

    def __init__(self, model: Decoder, base: Path, *, dtype: mx.Dtype = mx.float32) -> None:
        """`base` is the folder that `model` was opened from; factors are held in `dtype`."""
        self.model, self.base, self.dtype = model, base, dtype
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
        arrays = {key: array.astype(self.dtype) for key, array in read.arrays.items()}
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
            for layer in _layers(arrays)
        }
        return name

    def use(self, name: str | None) -> None:
        """Answer with this adapter from now on; None for the base as it is.

        Raises:
            ModelError: none of this name is held.
        """
        if name is not None and name not in self._held:
            near = nearest(name, self.names)
            known = f"there are {', '.join(self.names)}" if self._held else ""
            raise ModelError(
                f"no adapter is called '{name}'", hint=f"did you mean '{near}'?" if near else known
            )
        layers = self._layers[name] if name is not None else {}
        replace_linears(self.model, {**self._bare, **layers})
        self.active = name

    @property
    def names(self) -> list[str]:
        """Names of those held, in the order in which they came."""
        return list(self._held)

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
    wanted = list(_layers(arrays))
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


def _layers(arrays: Mapping[str, mx.array]) -> Iterator[str]:
    """Names of the layers that factors belong to."""
    yield from dict.fromkeys(name.rpartition(".")[0] for name in arrays)


def _read_factors(file: Path, rank: int) -> dict[str, mx.array]:
    """The factors of a file: two for each layer, of one rank."""
    if not file.is_file():
        raise ModelError(f"{file} is absent", hint="copy or train it again")
    read_header(file)  # MLX says little about a damaged file
    arrays = mx.load(str(file))
    assert isinstance(arrays, dict)
    for layer in _layers(arrays):
        a, b = (arrays.get(f"{layer}.{factor}") for factor in ("lora_a", "lora_b"))
        if a is None or b is None or a.ndim != 2 or b.ndim != 2:
            raise ModelError(f"{file}: {layer} has not two factors")
        if a.shape[1] != rank or b.shape[0] != rank:
            raise ModelError(
                f"{file}: {layer} has factors of rank {a.shape[1]} and {b.shape[0]}, "
                f"and the adapter rank {rank}"
            )
    return arrays


def _mlx_config(arrays: Mapping[str, mx.array], facts: AdapterFacts) -> dict[str, Any]:
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


def _peft_config(arrays: Mapping[str, mx.array], facts: AdapterFacts) -> dict[str, Any]:
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
    split = [layer.removeprefix("model.layers.").partition(".") for layer in _layers(arrays)]
    return sorted({int(number) for number, _, _ in split}), list(
        dict.fromkeys(key for _, _, key in split)
    )


def _as_peft(arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Factors by PEFT's names, and laid out as weights: A [r, I], B [O, r]."""
    letters = {"lora_a": "lora_A", "lora_b": "lora_B"}
    found = {}
    for name, array in arrays.items():
        layer, _, factor = name.rpartition(".")
        found[f"{_PEFT_PREFIX}{layer}.{letters[factor]}.weight"] = mx.contiguous(array.T)
    return found


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    pieces = [(path, start) for path, size, _ in files for start in range(0, size, PIECE_BYTES)]
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        digests = list(pool.map(_hash_piece, pieces))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_piece(piece: tuple[Path, int]) -> bytes:
    path, start = piece
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for _ in range(PIECE_BYTES // _READ_BYTES):
            digest.update(file.read(_READ_BYTES))
    return digest.digest()
