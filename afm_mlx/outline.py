"""Which stages a recipe has, in order: what each reads, and what decides its result."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from afm_mlx.artifact import Inputs
from afm_mlx.evaluation.registry import check_task
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import Examples
from afm_mlx.settings.compression import LabelTime
from afm_mlx.settings.evaluation import HELD_OUT
from afm_mlx.settings.recipe import ADAPTER
from afm_mlx.stages import (
    adapt,
    clean,
    data,
    evaluate,
    itec,
    labels,
    link,
    prefer,
    pretrain,
    prune,
    quantize,
    recover,
    reject,
    reward,
    rl,
    sft,
    synthetic,
    tokenizer,
)
from afm_mlx.zoo import identity

Runner = Callable[[Recipe, Inputs, Path, Progress], dict[str, Any]]
"""Does a stage's work in a folder in the making, and returns metrics."""


@dataclass(frozen=True)
class Stage:
    """One verb of the pipeline."""

    name: str
    """Its name, and its folder's."""
    run: Runner
    """What it does."""
    parents: tuple[str, ...]
    """Stages whose folders it reads."""
    sections: tuple[str, ...]
    """Sections of the recipe that decide its result, as dotted names."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else decides it, outside the recipe."""
    version: int = 1
    """Raised when the same settings give another result."""
    shared: bool = False
    """Whether several ranks do it together; else one does it for all that see its folder."""


def stages_of(recipe: Recipe, runs: Path) -> list[Stage]:
    """The stages that a recipe has, in order; `runs` is where models of other recipes are."""
    own_texts = any(source.path.startswith("python:") for source in recipe.data.values())
    facts: dict[str, Any] = {"python": platform.python_version()} if own_texts else {}
    stages = [
        Stage(name, partial(link.run, word=word), (), (), {"model": identity(word, runs=runs)})
        for name, word in _finished_models(recipe).items()
    ]
    given = next((stage.name for stage in stages), None)  # whose tokenizer is taken
    examples = _synthetic(recipe) + _post_training(recipe, runs)
    if not recipe.data:  # then nothing is trained on texts
        return stages + examples + _finishing(recipe) + _evaluation(recipe)
    cleaned = () if recipe.clean is None else ("clean",)
    if cleaned:
        stages.append(Stage("clean", clean.run, (), ("data", "clean"), facts))
    if given:
        stages.append(Stage("tokenizer", partial(link.tokenizer, of=given), (given,), ()))
    else:
        words = ("data", "tokenizer", "shape.vocab_size")
        stages.append(Stage("tokenizer", tokenizer.run, cleaned, words, facts))
    stages.append(Stage("data", data.run, ("tokenizer", *cleaned), ("data",), facts))
    trained = _training_stages(recipe) + examples + _finishing(recipe)
    return stages + trained + _evaluation(recipe)


def _finished_models(recipe: Recipe) -> dict[str, str]:
    """Stages that are links to finished models, and the models' words."""
    models = {"base": recipe.base, "teacher": recipe.teacher.model if recipe.teacher else ""}
    return {name: word for name, word in models.items() if word}


def _training_stages(recipe: Recipe) -> list[Stage]:
    texts = ("tokenizer", "data")
    common = ("optimizer", "training")
    every: tuple[str, ...] = ("shape", *common)
    stages: list[Stage] = []
    if recipe.trains_teacher():
        run = partial(pretrain.run, stage="teacher")
        # Not [shape]: one teacher serves students of every width.
        shape = {"shape": recipe.shape_of("teacher").model_dump(mode="json")}
        words = (*common, "core", "teacher")
        stages.append(Stage("teacher", run, texts, words, shape, shared=True))
    if recipe.prune:
        mixture = {"mixture": recipe.prune_mixture()}
        parents = [*texts, "teacher"]
        sections = (*every, "prune")
        stages.append(Stage("prune", prune.run, tuple(parents), sections, mixture, shared=True))
    distilled = recipe.distilled_stages()
    before = recipe.distill is not None and recipe.distill.labels is LabelTime.BEFORE
    if before and distilled:
        read = _decides_labels(recipe)
        stages.append(Stage("labels", labels.run, (*texts, "teacher"), (), read))
    for name in recipe.pretraining_stages():
        start = recipe.start_of(name)
        parents = [*texts, *([start] if start else [])]
        sections = (*every, name)
        if name in distilled:
            parents.append("labels" if before else "teacher")
            sections = (*sections, "distill")
        run = partial(pretrain.run, stage=name)
        stages.append(Stage(name, run, tuple(parents), sections, shared=True))
    return stages


def _decides_labels(recipe: Recipe) -> dict[str, Any]:
    """What labels depend on: not on learning rates, so that these can be tried out."""
    assert recipe.distill is not None
    return {
        "candidates": recipe.distill.asked,
        "temperature": recipe.distill.temperature,
        "document_mask": recipe.training.document_mask,
        "compute": recipe.training.compute,
        "vocab_size": recipe.shape.vocab_size,
        "rows": {
            stage: [recipe.pretraining(stage).row_tokens, sorted(recipe.pretraining(stage).mixture)]
            for stage in recipe.distilled_stages()
        },
    }


POST_TRAINING: dict[str, Runner] = {
    "sft": sft.run,
    "reward": reward.run,
    "prefer": prefer.run,
    "reject": reject.run,
    "rl": rl.run,
}
"""What a post-training stage does, by the name of the stage and of its section."""
POST_TRAINING["itec"] = partial(itec.run, trainers=dict(POST_TRAINING))

SHARED = ("sft", "reward", "prefer", "rl", "recover")
"""Stages after pre-training that several ranks do together, besides adapters."""


def _synthetic(recipe: Recipe) -> list[Stage]:
    """The stage that makes the recipe's own conversations, where a later one reads them."""
    later = [*recipe.post_training_stages(), *recipe.finishing_stages()]
    if not any(recipe.generated(name) for name in later):
        return []
    documents = {"python": platform.python_version()} if _reads_documents(recipe) else {}
    return [Stage("synthetic", synthetic.run, (), ("synthetic",), documents)]


def _post_training(recipe: Recipe, runs: Path) -> list[Stage]:
    """Stages after pre-training. Each reads the model it starts from, and files of its section."""
    names = recipe.post_training_stages()
    stages = []
    for name in names:
        parents = [recipe.start_of(name)]
        if recipe.judged_by_reward_stage(name) and recipe.start_of(name) != "itec":
            parents.append("reward")
        if recipe.generated(name):
            parents.append("synthetic")
        if name == "itec":
            parents += [recipe.start_of("sft"), *(["prefer"] if "prefer" in names else [])]
        sections = recipe.sections_of(name)
        facts: dict[str, Any] = {"data": _contents(recipe.examples_of(name))}
        for word in sections:
            if model := getattr(recipe.section(word), "reward_model", ""):
                facts["reward_model"] = identity(model, runs=runs)
        different = tuple(dict.fromkeys(filter(None, parents)))
        words = ("optimizer", "training", *sections)
        shared = name in SHARED
        stages.append(Stage(name, POST_TRAINING[name], different, words, facts, shared=shared))
    return stages


def _finishing(recipe: Recipe) -> list[Stage]:
    """Stages that make the finished model smaller, and adapters for it."""
    texts = ("tokenizer", "data") if recipe.data else ()
    stages = []
    for name in recipe.finishing_stages():
        run: Runner
        parents: tuple[str | None, ...]
        if name.startswith(ADAPTER):
            run, parents = partial(adapt.run, name=name.removeprefix(ADAPTER)), ()
        elif name == "recover":
            run, parents = recover.run, (recipe.compared_with(), *texts)
        else:
            run, parents = quantize.run, texts
        generated = ("synthetic",) if recipe.generated(name) else ()
        different = dict.fromkeys(filter(None, (recipe.start_of(name), *parents, *generated)))
        words = ("optimizer", "training", *recipe.sections_of(name))
        facts = {"data": _contents(recipe.examples_of(name))}
        shared = name in SHARED or name.startswith(ADAPTER)
        stages.append(Stage(name, run, tuple(different), words, facts, shared=shared))
    return stages


def _evaluation(recipe: Recipe) -> list[Stage]:
    """The stage that asks all models the tasks of [eval].

    Raises:
        RecipeError: a task or a setting is unknown.
        DataError: a task cannot be made of such data.
    """
    if recipe.eval is None:
        return []
    for name, task in recipe.eval.tasks.items():
        place = () if task.path == HELD_OUT else f"{name}.jsonl" if task.make else task.path
        check_task(task.task, place, task.settings)
    texts = any(task.path == HELD_OUT for task in recipe.eval.tasks.values())
    parents = [*recipe.evaluated_stages(), *(("tokenizer", "data") if texts else ())]
    bases = [recipe.start_of(name) for name in parents if name.startswith(ADAPTER)]
    made = any(task.make for task in recipe.eval.tasks.values())
    generated = ("synthetic",) if made and _synthetic(recipe) else ()
    different = dict.fromkeys(filter(None, (*parents, *bases, *generated)))
    facts = {"data": _contents(recipe.examples_of("eval"))}
    return [Stage("eval", evaluate.run, tuple(different), ("eval",), facts)]


def _reads_documents(recipe: Recipe) -> bool:
    """Whether generated data are made of the running Python's own texts."""
    settings = [each.section().model_dump() for each in recipe.synthetic.values()]
    return any(str(each.get("documents", "")).startswith("python:") for each in settings)


def _contents(sources: Iterable[Examples]) -> dict[str, str]:
    """SHA-256 of each file of examples, by its path; "" where there is none yet."""
    found = {}
    for source in sources:
        path = Path(source.path).expanduser()
        if source.generated:
            continue
        if path.is_file():
            with path.open("rb") as file:
                found[source.path] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            found[source.path] = ""
    return found
