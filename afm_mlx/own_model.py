"""Stages on a model of one's own: what `afm prune`, `afm distill`, `afm sft` and others do.

A recipe is made of the model, a file of data and a few settings, and the pipeline runs it in a
folder beside the result. So it resumes as every recipe does, and there is no second way to train.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from afm_mlx import artifact, pipeline
from afm_mlx.compression.palettize import check_target
from afm_mlx.compression.recover import not_in_tables
from afm_mlx.compression.teacher import check_original, check_teacher
from afm_mlx.corpus.clean import kind_of
from afm_mlx.corpus.documents import read_documents
from afm_mlx.decoder.adapters import NONE, default_adapter, read_adapter_facts
from afm_mlx.decoder.checkpoint import check_dense, read_palette, read_shape
from afm_mlx.errors import DataError, ModelError, RecipeError
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe, load_section
from afm_mlx.settings import own_model as defaults
from afm_mlx.settings.agreement import PLAIN_NAME
from afm_mlx.settings.compression import PruneMethod
from afm_mlx.settings.palette import RecoverMethod
from afm_mlx.settings.recipe import ADAPTER
from afm_mlx.settings.sections import Shape, Source, SourceKind
from afm_mlx.text.tokenizer import Tokenizer

RESULTS = {"reject": "answers", ADAPTER: "adapter"}
"""Folder that is the result of a stage, where it is not `model`, by the start of its name."""

BESIDE = {
    "itec": {"rounds.md": "rounds.md", "reward/model": "reward"},
    "quantize": {"bits.svg": "bits.svg"},
}
"""What else of a stage is kept, and its name in the result."""

NAME = "own"
"""Name of the recipe, and of the folder in the work folder."""


def prune_recipe(
    model: Path,
    texts: Path,
    *,
    width: int,
    method: PruneMethod = PruneMethod.MASKS,
    kind: SourceKind | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that narrows the feed-forward layers of the model in folder `model` to `width` units.

    Raises:
        ModelError: the folder holds no model of ours, or one that is not wider.
        RecipeError, DataError: an assignment is wrong, or there are no texts.
    """
    shape = _dense_shape(model)
    if not 0 < width < shape.intermediate_size:
        raise ModelError(
            f"{width:,} units are to be kept, and {model} has {shape.intermediate_size:,}",
            hint=f"--ffn with a number from 1 to {shape.intermediate_size - 1:,}",
        )
    row_tokens = min(defaults.ROW_TOKENS, shape.max_tokens)
    return _recipe(
        {
            "shape": shape.model_dump(mode="json") | {"intermediate_size": width},
            "data": _data(texts, kind),
            "teacher": {"model": str(model), "intermediate_size": shape.intermediate_size},
            "prune": defaults.PRUNE | {"row_tokens": row_tokens, "method": method.value},
        },
        assignments,
    )


def distill_recipe(
    student: Path,
    teacher: Path,
    texts: Path,
    *,
    kind: SourceKind | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that trains the model in folder `student` on what the one in `teacher` predicts.

    Raises:
        ModelError: a folder holds no model of ours, or the teacher cannot teach this student.
        RecipeError, DataError: an assignment is wrong, or there are no texts.
    """
    shape, taught_by = _dense_shape(student), read_shape(teacher)
    check_teacher(teacher, shape, Tokenizer.open(student))
    row_tokens = min(defaults.ROW_TOKENS, shape.max_tokens, taught_by.max_tokens)
    return _recipe(
        {
            "base": str(student),
            "shape": shape.model_dump(mode="json"),
            "data": _data(texts, kind),
            "teacher": {"model": str(teacher)},
            "core": defaults.CORE | {"row_tokens": row_tokens},
            "distill": dict(defaults.DISTILL),
        },
        assignments,
    )


def sft_recipe(
    model: Path, conversations: Path, *, skip_bad: bool = False, assignments: Sequence[str] = ()
) -> Recipe:
    """Recipe that fine-tunes the model in folder `model` on a file of conversations.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    section = defaults.SFT | {
        "row_tokens": min(defaults.CHAT_ROW_TOKENS, _dense_shape(model).max_tokens),
        "skip_bad": skip_bad,
        "data": _file(defaults.CHATS, conversations),
    }
    return _post_training_recipe(model, {"sft": section}, assignments)


def adapt_recipe(
    model: Path,
    conversations: Path,
    *,
    name: str,
    rank: int | None = None,
    skip_bad: bool = False,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that trains adapter `name` for the model in folder `model`.

    Args:
        model: dense or palettized; where it has a recovery adapter, training starts from that.
        conversations: what to learn from.
        name: of the adapter.
        rank: of the factors; None: the recovery adapter's, else the default.
        skip_bad: leave out bad lines.
        assignments: `name=value`.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment or the name is wrong.
    """
    if name == NONE or not re.fullmatch(PLAIN_NAME, name):
        raise RecipeError(
            f"an adapter cannot be called '{name}'",
            hint=f"--name with letters, digits, dashes and underscores, and not '{NONE}'",
        )
    shape = read_shape(model)
    section = defaults.ADAPT | {
        "row_tokens": min(defaults.CHAT_ROW_TOKENS, shape.max_tokens),
        "skip_bad": skip_bad,
        "data": _file(defaults.CHATS, conversations),
    }
    recovery = default_adapter(model)
    if rank is None and recovery is not None:
        rank = read_adapter_facts(recovery).rank
    if rank is not None:
        section["rank"] = rank
    return _post_training_recipe(model, {"adapters": {name: section}}, assignments)


def reward_recipe(
    model: Path, comparisons: Path, *, skip_bad: bool = False, assignments: Sequence[str] = ()
) -> Recipe:
    """Recipe that makes a reward model of the model in folder `model`, from comparisons.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    section = defaults.REWARD | {"skip_bad": skip_bad}
    return _comparisons_recipe("reward", section, model, comparisons, assignments)


def prefer_recipe(
    model: Path,
    comparisons: Path,
    *,
    method: str,
    skip_bad: bool = False,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that trains the model in folder `model` on comparisons, by `method`.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    section = defaults.PREFER | {"method": method, "skip_bad": skip_bad}
    return _comparisons_recipe("prefer", section, model, comparisons, assignments)


def _comparisons_recipe(
    stage: str,
    section: Mapping[str, Any],
    model: Path,
    comparisons: Path,
    assignments: Sequence[str],
) -> Recipe:
    given = {
        "max_tokens": min(defaults.PAIR_TOKENS, _dense_shape(model).max_tokens),
        "data": _file(defaults.COMPARISONS, comparisons),
    }
    return _post_training_recipe(model, {stage: dict(section) | given}, assignments)


def rl_recipe(
    model: Path, prompts: Path, *, skip_bad: bool = False, assignments: Sequence[str] = ()
) -> Recipe:
    """Recipe that trains the model in folder `model` on its own answers to a file of prompts.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    _dense_shape(model)
    section = defaults.RL | {"skip_bad": skip_bad, "data": _file(defaults.PROMPTS, prompts)}
    return _post_training_recipe(model, {"rl": section}, assignments, watch=defaults.RL_WATCH)


def reject_recipe(
    model: Path, prompts: Path, *, skip_bad: bool = False, assignments: Sequence[str] = ()
) -> Recipe:
    """Recipe that keeps the best answers of the model in folder `model` to a file of prompts.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    section = defaults.REJECT | {"skip_bad": skip_bad, "data": _file(defaults.PROMPTS, prompts)}
    return _post_training_recipe(model, {"reject": section}, assignments)


def itec_recipe(
    model: Path,
    prompts: Path,
    *,
    comparisons: Path | None = None,
    skip_bad: bool = False,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that holds rounds with a committee, from the model in folder `model`.

    Args:
        model: a model that answers.
        prompts: conversations; what the user says last is asked.
        comparisons: by people, for the reward model. Needed where prompts have no check.
        skip_bad: leave out bad lines.
        assignments: `name=value`.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError: an assignment is wrong.
    """
    context = _dense_shape(model).max_tokens
    judged = {} if comparisons is None else _file(defaults.COMPARISONS, comparisons)
    pairs = {"max_tokens": min(defaults.PAIR_TOKENS, context), "skip_bad": skip_bad}
    sections = {
        "sft": defaults.SFT | {"row_tokens": min(defaults.CHAT_ROW_TOKENS, context)},
        "reward": defaults.REWARD | pairs | {"data": judged},
        "prefer": defaults.PREFER | pairs,
        "itec": defaults.ITEC | {"skip_bad": skip_bad, "data": _file(defaults.PROMPTS, prompts)},
        "rl": defaults.RL,
    }
    return _post_training_recipe(model, sections, assignments, watch=defaults.RL_WATCH)


def quantize_recipe(
    model: Path,
    *,
    texts: Path | None = None,
    kind: SourceKind | None = None,
    bits_per_weight: float = defaults.BITS_PER_WEIGHT,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that palettizes the model in folder `model`.

    Args:
        model: a model of numbers.
        texts: to calibrate on; None: what the model itself writes.
        kind: of the texts.
        bits_per_weight: average over the matrices of the blocks.
        assignments: `name=value`.

    Raises:
        ModelError: the folder holds no model of ours.
        RecipeError, DataError: an assignment is wrong, no choice of bits has this average, or there
            are no texts.
    """
    shape = _dense_shape(model)
    section = {
        "calibration_row_tokens": min(defaults.ROW_TOKENS, shape.max_tokens),
        "target_bits_per_weight": bits_per_weight,
    }
    recipe = _recipe(
        {
            "base": str(model),
            "shape": shape.model_dump(mode="json"),
            "data": {} if texts is None else _data(texts, kind),
            "quantize": defaults.QUANTIZE | section,
        },
        assignments,
    )
    assert recipe.quantize is not None
    check_target(shape, recipe.quantize)
    return recipe


def recover_recipe(
    model: Path,
    texts: Path,
    *,
    teacher: Path | None = None,
    method: RecoverMethod = RecoverMethod.LORA,
    rank: int | None = None,
    kind: SourceKind | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Recipe that wins back what quantization took from the model in folder `model`.

    Args:
        model: in tables; with method qat, the 16-bit model itself.
        texts: to train on.
        teacher: the 16-bit model that `model` was made of; with qat there is none beside `model`.
        method: what is trained.
        rank: of the one adapter; None: the default.
        kind: of the texts.
        assignments: `name=value`.

    Raises:
        ModelError: a folder holds no model of ours, `model` is not in tables, or not made of
            `teacher`.
        RecipeError, DataError: an assignment is wrong, or there are no texts.
    """
    shape = read_shape(model)
    section = defaults.RECOVER | defaults.RECOVER_BY_METHOD[method.value]
    section |= {
        "method": method.value,
        "row_tokens": min(defaults.RECOVER_ROW_TOKENS, shape.max_tokens),
        "candidates": min(defaults.CANDIDATES, shape.vocab_size),
    }
    if rank is not None:
        section |= {"ranks": [rank], "product_rank": rank}
    sections: dict[str, Any] = {}
    if method is RecoverMethod.LORA:
        sections["optimizer"] = defaults.LORA_OPTIMIZER
    if method is RecoverMethod.QAT:
        check_dense(model, shape)
        if teacher is not None:
            raise ModelError(
                "with method qat, the model is its own teacher",
                hint=f"leave out --teacher, and name the 16-bit model: afm recover {teacher}",
            )
    else:
        if read_palette(model, shape) is None:
            raise not_in_tables(model)
        if teacher is None:
            raise ModelError(
                f"'{model}' was made of a 16-bit model, and none is named",
                hint="--teacher MODEL, the one that was quantized",
            )
        check_original(teacher, model)
        sections["teacher"] = {"model": str(teacher)}
    return _recipe(
        {
            "base": str(model),
            "shape": shape.model_dump(mode="json"),
            "data": _data(texts, kind),
            "recover": section,
        }
        | sections,
        assignments,
    )


def check_out(out: Path) -> None:
    """Raise ModelError where the result's folder is taken."""
    if out.exists():
        raise ModelError(f"'{out}' exists already", hint="name another --out, or delete it")


def run(recipe: Recipe, stage: str, out: Path, progress: Progress) -> dict[str, Any]:
    """Run a recipe up to `stage`, and leave that stage's model in the folder `out`.

    Work is done in `out`.work, from where an interrupted run goes on; it is deleted at the end.

    Returns:
        The stage's manifest, which also stands in `out`.

    Raises:
        ModelError: `out` exists. Else as `pipeline.run`.
    """
    check_out(out)
    work = out.with_name(f"{out.name}.work")
    *_, manifest = pipeline.run(recipe, work, progress, last=stage)
    joined().once(out.parent, partial(_deliver, recipe, stage, work, out))
    return manifest


def _deliver(recipe: Recipe, stage: str, work: Path, out: Path) -> None:
    """Leave the stage's result in `out`, and nothing else."""
    folder = work / recipe.name / stage
    result = folder / next((RESULTS[word] for word in RESULTS if stage.startswith(word)), "model")
    # The manifest first: killed in between, the stage counts as not done, and is done again.
    (folder / artifact.MANIFEST).rename(result / artifact.MANIFEST)
    for name, place in BESIDE.get(stage, {}).items():
        (folder / name).rename(result / place)
    result.rename(out)
    shutil.rmtree(work)


def _dense_shape(model: Path) -> Shape:
    """Shape of a model whose weights will be changed; ModelError where they are tables."""
    shape = read_shape(model)
    check_dense(model, shape)
    return shape


def _file(name: str, file: Path) -> dict[str, Any]:
    """A section's one file of examples."""
    return {name: {"path": str(file.expanduser().resolve())}}


def _post_training_recipe(
    model: Path,
    sections: Mapping[str, Any],
    assignments: Sequence[str],
    *,
    watch: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """A recipe that starts from the model in a folder, and reads no texts."""
    shape = read_shape(model).model_dump(mode="json")
    shared = {"watch": defaults.SHARED["watch"] | dict(watch)}
    return _recipe({"base": str(model), "shape": shape} | shared | dict(sections), assignments)


def _data(texts: Path, kind: SourceKind | None) -> dict[str, Any]:
    """The one data source, in which a first document was found."""
    path = texts.expanduser().resolve()
    source = Source(
        kind=kind or kind_of(path), path=str(path), held_out_fraction=defaults.HELD_OUT_FRACTION
    )
    try:
        next(read_documents(defaults.TEXTS, source, Counter()))
    except DataError as error:
        said = str(error).removeprefix(f"data.{defaults.TEXTS}: ")
        raise DataError(said, hint="check --data and --kind") from None
    return {defaults.TEXTS: source.model_dump(mode="json")}


def _recipe(sections: Mapping[str, Any], assignments: Sequence[str]) -> Recipe:
    return load_section(Recipe, {"name": NAME} | defaults.SHARED | dict(sections), assignments)
