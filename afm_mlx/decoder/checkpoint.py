"""Checkpoints: a folder with config.json, safetensors and the tokenizer's files.

A dense checkpoint is a Qwen3 folder (Llama, when QK-norm is off) that mlx-lm and transformers open
as it is. What only we need stands in the table `afm` of its config.json. A palettized one, see
palette_format.py, opens here only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from afm_mlx.decoder.config import config_of_shape, read_config
from afm_mlx.decoder.config import read_shape as read_shape
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.palette_format import (
    PaletteFormat,
    StoredBits,
    count_bits,
    format_of_config,
    format_of_model,
    tensors,
)
from afm_mlx.decoder.tensor_parallel import checked_part, cut, filled_decoder
from afm_mlx.decoder.weights import (
    INDEX,
    SHARD_BYTES,
    TensorFact,
    check_tensors,
    listed,
    read_headers,
    read_weights,
    weight_files,
    write_weights,
)
from afm_mlx.errors import ModelError
from afm_mlx.ranks import ALONE, Ranks
from afm_mlx.settings.sections import Shape

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""Copied with a model, where they exist."""

_NO_FACTS: Mapping[str, Any] = MappingProxyType({})
_DTYPE_NAMES = {mx.float32: "float32", mx.bfloat16: "bfloat16", mx.float16: "float16"}


def save_checkpoint(
    folder: Path,
    model: Decoder,
    tokenizer_folder: Path | None,
    *,
    facts: Mapping[str, Any] = _NO_FACTS,
) -> None:
    """Write a model as a folder that this toolkit opens; a dense one, mlx-lm and transformers too.

    Not atomic by itself: stages write into a folder that is published by one rename.

    Args:
        folder: created if absent; its weight files are replaced.
        model: with weights in float32, bfloat16 or float16, which they keep, or palettized.
        tokenizer_folder: its tokenizer files are copied; None leaves the model without.
        facts: what to remember in the table `afm` of config.json; JSON values.

    Raises:
        ModelError: the tokenizer has more pieces than the model has rows, or the model has
            tensors beside its own, such as low-rank factors.
        RunError: the weights could not be written whole.
    """
    weights, palette = named_parameters(model), format_of_model(model)
    beside = [name for name in weights if name not in tensors(model.shape, palette)]
    if beside:
        raise ModelError(
            f"a checkpoint cannot hold {listed(beside)}",
            hint="save an adapter as an adapter, or make it one with its layers",
        )
    write_checkpoint(folder, model.shape, weights, tokenizer_folder, facts=facts, palette=palette)


def copy_model(source: Path, folder: Path, *, facts: Mapping[str, Any] = _NO_FACTS) -> None:
    """Make `folder` the same model, whose weights are the same files where the disk can do that.

    `facts` are added to the table `afm` of its config.json. Adapters are left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in [*weight_files(source), *(source / name for name in (INDEX, *TOKENIZER_FILES))]:
        place = folder / file.name
        if file.is_file() and not place.exists():
            try:
                place.hardlink_to(file.resolve())
            except OSError:  # another disk, or one without links
                part = place.with_name(f"{file.name}.part")
                shutil.copyfile(file, part)
                part.replace(place)
    config = read_config(source)
    config["afm"] = read_facts(source) | dict(facts)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_checkpoint(
    folder: Path,
    shape: Shape,
    weights: Mapping[str, mx.array],
    tokenizer_folder: Path | None,
    *,
    facts: Mapping[str, Any] = _NO_FACTS,
    token_ids: Mapping[str, Any] | None = None,
    palette: PaletteFormat | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """`save_checkpoint` of weights by tensor name, in files of at most `shard_bytes` each.

    `token_ids` are bos_token_id, eos_token_id and pad_token_id; None: as the tokenizer says.
    `palette` says which layers have ids in place of weights.
    """
    if tokenizer_folder is not None:
        pieces = tokenizer_pieces(tokenizer_folder)
        if pieces is not None:
            check_tokenizer(shape, pieces, tokenizer_folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, weights, shard_bytes=shard_bytes)
    if token_ids is None:
        token_ids = {} if tokenizer_folder is None else _token_ids(tokenizer_folder)
    number = weights.get("model.embed_tokens.weight")
    if number is None:  # palettized: the gains are numbers in any case
        number = next(array for name, array in weights.items() if name.endswith(".weight"))
    config = config_of_shape(
        shape,
        dtype=_DTYPE_NAMES[number.dtype],
        token_ids=token_ids,
        facts=facts,
        quantization=None if palette is None else palette.as_config(),
    )
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    if tokenizer_folder is not None and tokenizer_folder.resolve() != folder.resolve():
        copy_tokenizer(tokenizer_folder, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a model's tokenizer files, those that there are, into another folder."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def open_checkpoint(
    folder: Path,
    *,
    shape: Shape | None = None,
    dtype: mx.Dtype | None = None,
    dense: bool = False,
    ranks: Ranks = ALONE,
) -> Decoder:
    """Model of a folder: ours, or any Qwen3- or Llama-class one.

    Args:
        folder: with config.json and safetensors.
        shape: of the decoder to make, which may rotate by another base; None: the folder's.
        dtype: convert the weights to it; None keeps theirs. Tables and scales stay float16.
        dense: refuse a palettized model: for whoever changes its weights.
        ranks: whose parts make up the model, see tensor_parallel.py; only this one's is kept.

    Raises:
        ModelError: the folder, its config or its tensors are not those of our decoder, or it is
            palettized and must not be, or it cannot be cut in so many parts.
    """
    shape = shape or read_shape(folder)
    if dense:
        check_dense(folder, shape)
    palette = read_palette(folder, shape)
    part = checked_part(shape, ranks.size, palette)
    weights = read_tensors(folder, shape)
    if dtype is not None:
        weights = {
            name: array.astype(dtype) if name.endswith(".weight") else array
            for name, array in weights.items()
        }
    if ranks.size > 1:
        for name in weights:
            weights[name] = cut(name, weights[name], ranks)
            mx.eval(weights[name])  # one at a time: the whole of it is freed before the next
    model = filled_decoder(part, palette, weights, ranks)
    mx.eval(model.parameters())
    return model


def read_tensors(folder: Path, shape: Shape) -> dict[str, mx.array]:
    """Weights of a folder by tensor name, in our order and their formats; read lazily.

    Rotation tables (`rotary_emb.inv_freq`), and an output layer beside a tied embedding, are left
    out: they are recomputed and unused.

    Raises:
        ModelError: a tensor is missing, too many, of another shape, or of another number format.
    """
    wanted = tensors(shape, read_palette(folder, shape))
    facts = _own_headers(folder, shape)
    sizes = {name: tensor.shape for name, tensor in wanted.items()}
    check_tensors({name: fact.shape for name, fact in facts.items()}, sizes, f"'{folder}'")
    formats = {name: tensor.format for name, tensor in wanted.items() if tensor.format is not None}
    weights = read_weights(folder, facts, formats)
    return {name: weights[name] for name in wanted}


def read_palette(folder: Path, shape: Shape) -> PaletteFormat | None:
    """Which layers of a folder's model are palettized, and how; None when none is.

    Raises:
        ModelError: its config.json does not say it as we do.
    """
    return format_of_config(read_config(folder), shape, str(folder / "config.json"))


def check_dense(folder: Path, shape: Shape) -> None:
    """Raise unless a folder's weights are numbers: for whoever changes them.

    Raises:
        ModelError: some are look-up tables.
    """
    if read_palette(folder, shape) is not None:
        raise ModelError(
            f"the weights of '{folder}' are look-up tables, which this does not change",
            hint="name the model that it was quantized from, or train an adapter: afm adapt",
        )


def stored_bits(folder: Path) -> dict[str, StoredBits]:
    """What a folder's weight files hold, counted from their headers, tables and scales with it.

    Returns:
        Sizes of "linears" (an untied output layer is one), "embedding", "norms" and "all".
    """
    shape = read_shape(folder)
    return count_bits(shape, _own_headers(folder, shape))


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Sizes of each tensor of a decoder of numbers, by name. Allocates nothing."""
    return {name: tensor.shape for name, tensor in tensors(shape, None).items()}


def read_facts(folder: Path) -> dict[str, Any]:
    """What we noted in the table `afm` of a checkpoint's config.json; empty for other folders."""
    facts = read_config(folder).get("afm")
    return dict(facts) if isinstance(facts, dict) else {}


def trained_stage(folder: Path) -> str:
    """Stage that a folder's model comes from; of one in tables, that of the model it was before.

    "" where it is not known, as for models of others.
    """
    facts = read_facts(folder)
    return str(facts.get("stage_before", facts.get("stage")) or "")


def stage_before(folder: Path) -> dict[str, str]:
    """Facts for a model in tables that is made of the one in `folder`: what stage it came from."""
    stage = trained_stage(folder)
    return {"stage_before": stage} if stage else {}


def check_tokenizer(shape: Shape, tokenizer_pieces: int, folder: Path) -> None:
    """Raise when a tokenizer has ids that a model has no row for. Spare rows are allowed.

    Args:
        shape: of the model.
        tokenizer_pieces: the tokenizer's highest id plus one.
        folder: where the tokenizer is, for the message.

    Raises:
        ModelError: there are more pieces than rows.
    """
    if tokenizer_pieces > shape.vocab_size:
        raise ModelError(
            f"the tokenizer of '{folder}' has {tokenizer_pieces:,} pieces "
            f"and the model {shape.vocab_size:,} rows",
            hint="take the tokenizer that the model was trained with",
        )


def check_context(shape: Shape, tokens: int, setting: str) -> None:
    """Raise ModelError where a setting asks for more tokens at once than a model reads."""
    if tokens > shape.max_tokens:
        raise ModelError(
            f"{setting} is {tokens:,}, and the model's context {shape.max_tokens:,}",
            hint=f"--set {setting}={shape.max_tokens}",
        )


def tokenizer_pieces(folder: Path) -> int | None:
    """Highest id plus one of the folder's tokenizer.json; None when it has none.

    Raises:
        ModelError: tokenizer.json is not a tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        vocab = tokenizer["model"]["vocab"]
        added = [int(piece["id"]) for piece in tokenizer.get("added_tokens") or ()]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ModelError(f"{file} is not a tokenizer") from None
    # A unigram model lists [piece, score] in the order of ids, the others map pieces to ids.
    own = len(vocab) - 1 if isinstance(vocab, list) else max(vocab.values(), default=-1)
    return max([own, *added]) + 1


def _own_headers(folder: Path, shape: Shape) -> dict[str, TensorFact]:
    """Headers of a folder's files, without the tensors that are recomputed or unused."""
    return {
        name: fact
        for name, fact in read_headers(folder).items()
        if not name.endswith("rotary_emb.inv_freq")
        and not (shape.tied and name == "lm_head.weight")
    }


def _token_ids(folder: Path) -> dict[str, Any]:
    """bos, eos and pad ids of a tokenizer: as its config.json says, else found by their pieces."""
    ids: dict[str, Any] = {}
    names = ("bos_token", "eos_token", "pad_token")
    if (folder / "config.json").is_file():
        config = read_config(folder)
        ids = {f"{name}_id": config.get(f"{name}_id") for name in names}
    absent = [name for name in names if ids.get(f"{name}_id") is None]
    settings, tokenizer = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if absent and settings.is_file() and tokenizer.is_file():
        pieces = json.loads(settings.read_text(encoding="utf-8"))
        known = json.loads(tokenizer.read_text(encoding="utf-8"))
        vocab = known["model"]["vocab"]
        by_piece = dict(vocab) if isinstance(vocab, dict) else {}
        by_piece |= {piece["content"]: piece["id"] for piece in known.get("added_tokens") or ()}
        for name in absent:
            piece = pieces.get(name)
            piece = piece.get("content") if isinstance(piece, dict) else piece
            ids[f"{name}_id"] = by_piece.get(piece)
    return ids
