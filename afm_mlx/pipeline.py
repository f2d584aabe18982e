"""The stages in order: what each needs, what it makes; skips what is published and unchanged."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from afm_mlx import artifact
from afm_mlx.artifact import Inputs
from afm_mlx.errors import AfmError, DataError, RunError
from afm_mlx.evaluation.registry import check_task
from afm_mlx.evaluation.table import score_table
from afm_mlx.progress import Progress, duration
from afm_mlx.ranks import ALONE, Ranks, apart, joined
from afm_mlx.recipe import Recipe, nearest
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

MEMORY_SETTINGS = ("micro_rows", "activation_checkpointing", "loss_bytes", "shard")
"""Settings of [training] that trade memory for time. The result is the same but for rounding, so a
run that met the memory guard goes on with other values."""

SHOWN_DIGITS = 12
"""Digits of a hash that are shown where two differ."""


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


@dataclass(frozen=True)
class Step:
    """What `run` will do, or did, about one stage."""

    stage: Stage
    folder: Path
    fingerprint: str
    todo: str
    """Why it runs; empty when it is done."""


def plan_steps(
    recipe: Recipe, runs: Path, *, first: str | None = None, last: str | None = None
) -> list[Step]:
    """The stages up to `last`, and which of them must run. Those from `first` on run again.

    Raises:
        RunError: the recipe has no such stage, or they are in the wrong order.
    """
    stages = stages_of(recipe, runs)
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            near = nearest(name, names)
            raise RunError(
                f"recipe '{recipe.name}' has no stage '{name}': it has {', '.join(names)}",
                hint=f"did you mean '{near}'?" if near else "",
            )
    if first and last and names.index(first) > names.index(last):
        raise RunError(f"stage '{first}' comes after '{last}'")
    steps: list[Step] = []
    fingerprints: dict[str, str] = {}
    for stage in stages[: names.index(last) + 1 if last else None]:
        folder = runs / recipe.name / stage.name
        wanted = fingerprints[stage.name] = artifact.fingerprint(
            stage.name,
            version=stage.version,
            settings={name: _deciding(recipe, name) for name in stage.sections} | stage.facts,
            parents={name: fingerprints[name] for name in stage.parents},
        )
        asked = first is not None and names.index(stage.name) >= names.index(first)
        steps.append(Step(stage, folder, wanted, _todo(folder, wanted, asked=asked)))
    return steps


def run(
    recipe: Recipe,
    runs: Path,
    progress: Progress,
    *,
    first: str | None = None,
    last: str | None = None,
) -> list[dict[str, Any]]:
    """Run the recipe's stages, and return their manifests in order.

    Raises:
        AfmError: a stage could not do its work; what is published stays, and what was interrupted
            goes on from its last snapshot when run again.
    """
    # Refuses names, and files that are not there, before anything is written.
    _check_files(plan_steps(recipe, runs, first=first, last=last))
    ranks, place = joined(), runs / recipe.name
    if ranks.size > 1:
        _check_same_program(ranks, recipe)
        places = ", ".join(dict.fromkeys(ranks.hosts))
        progress.say(f"{ranks.size} ranks" + (f" on {places}" if places else ""))
    leads = ranks.leads(place)
    manifests: list[dict[str, Any]] = []
    with artifact.locked(place) if leads else nullcontext():
        steps = plan_steps(recipe, runs, first=first, last=last)
        _check_same_files(ranks, steps)  # all have looked, then: now folders may change
        folders = {step.stage.name: step.folder for step in steps}
        for step in steps:
            progress.say(f"{step.stage.name}: {step.todo or 'done already'}")
            if not ranks.any(bool(step.todo)):
                pass
            elif step.stage.shared:
                _check_same_start(ranks, step, folders, leads=leads)
                _run_stage(recipe, step, folders, progress, ranks, leads=leads)
            else:
                ranks.once(place, partial(_run_apart, recipe, step, folders, progress))
            manifests.append(artifact.read_manifest(step.folder) or {})
    return manifests


def summary(manifests: list[dict[str, Any]]) -> str:
    """A table of what ran: stage, time, and held-out loss; and of scores, where there are some."""
    scores: list[str] = []
    width = max([11, *(len(manifest["stage"]) for manifest in manifests)]) + 1
    lines = [f"{'stage':{width}}{'time':>14}{'nats/token':>12}{'bits/byte':>11}{'peak GB':>9}"]
    for manifest in manifests:
        metrics = manifest["metrics"]
        lines.append(
            f"{manifest['stage']:{width}}{duration(manifest['seconds']):>14}"
            + _cell(metrics, "held_out_nats", 12, ".3f")
            + _cell(metrics, "bits_per_byte", 11, ".3f")
            + _cell(metrics, "peak_gb", 9, ".2f")
        )
        if results := metrics.get("results"):
            scores = ["", score_table(results)]
    lines += scores
    return "\n".join(lines)


def _cell(metrics: Mapping[str, Any], name: str, width: int, form: str) -> str:
    value = metrics.get(name)
    return f"{format(value, form) if isinstance(value, float) else '':>{width}}"


def _run_apart(recipe: Recipe, step: Step, folders: Mapping[str, Path], progress: Progress) -> None:
    """Run a stage, if it must, on this rank alone."""
    if step.todo:
        with apart():
            _run_stage(recipe, step, folders, progress)


def _run_stage(
    recipe: Recipe,
    step: Step,
    folders: Mapping[str, Path],
    progress: Progress,
    ranks: Ranks = ALONE,
    *,
    leads: bool = True,
) -> None:
    """Run a stage on all of `ranks` together; the one that leads writes its folder."""
    started = time.monotonic()
    work = artifact.work_folder(step.folder)
    if leads:
        artifact.open_work(step.folder, step.fingerprint)
    ranks.wait()
    inputs = {name: folders[name] for name in step.stage.parents}
    try:
        metrics = step.stage.run(recipe, inputs, work, progress)
    except AfmError:
        if leads:
            artifact.drop_if_empty(work)
        raise
    seconds = time.monotonic() - started + metrics.pop("earlier_seconds", 0.0)
    manifest = {
        "stage": step.stage.name,
        "recipe": recipe.name,
        "fingerprint": step.fingerprint,
        "parents": {name: _fingerprint_of(folder) for name, folder in inputs.items()},
        "settings": {name: _setting(recipe, name) for name in step.stage.sections},
        "metrics": metrics,
        "seconds": round(seconds, 1),
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if ranks.size > 1:
        manifest["ranks"] = ranks.size
    ranks.wait()
    if leads:
        artifact.publish(work, step.folder, manifest)
    ranks.wait()
    progress.record({"stage": step.stage.name, "finished": True, "seconds": round(seconds, 1)})
    progress.say(f"{step.stage.name}: done in {duration(seconds)}")


def _check_same_program(ranks: Ranks, recipe: Recipe) -> None:
    """Raise RunError where ranks have other versions, code or settings."""
    facts = {f"the version of {name}": version for name, version in versions().items()}
    del facts["the version of python"]  # where it decides a result, a fingerprint holds it
    code = artifact.contents(Path(__file__).parent, "*.py")
    facts["the code of afm_mlx"] = code[:SHOWN_DIGITS]
    ranks.agree(facts, hint="install the same on every machine")
    ranks.agree({f"setting {name}": value for name, value in _flat(recipe.model_dump(mode="json"))})


def _check_same_files(ranks: Ranks, steps: Sequence[Step]) -> None:
    """Raise RunError where a stage reads other files on some rank; waits for all ranks."""
    if ranks.size > 1:
        ranks.agree(
            {f"the fingerprint of {s.stage.name}": s.fingerprint[:SHOWN_DIGITS] for s in steps},
            hint="its data, models or Python differ: copy them from one machine to the other",
        )


def _check_same_start(
    ranks: Ranks, step: Step, folders: Mapping[str, Path], *, leads: bool
) -> None:
    """Raise RunError where ranks would start a stage from other results, or not all of them."""
    if ranks.size == 1:
        return
    name = step.stage.name
    states = {True: "not done", False: "done"}
    ranks.agree(
        {f"stage {name}": states[bool(step.todo)]},
        hint=f"copy {step.folder} from where it is done to the other machines",
    )
    if ranks.all_texts(str(leads)).count(str(True)) == 1:
        return  # all see the same files
    for parent in step.stage.parents:
        ranks.agree(
            {f"the contents of {parent}": artifact.contents(folders[parent])[:SHOWN_DIGITS]},
            hint=f"copy {folders[parent]} from one machine to the others",
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of all values in nested tables, and the values as text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def _check_files(steps: Iterable[Step]) -> None:
    """Raise DataError where a stage is to read a file of examples that is not there."""
    for step in steps:
        for path in step.stage.facts.get("data", {}) if step.todo else ():
            if not Path(path).expanduser().exists():
                part = "tasks" if step.stage.name == "eval" else "data"
                raise DataError(
                    f"cannot read {path}: no such file",
                    hint=f"check --data, or [{step.stage.name}.{part}.NAME] of the recipe",
                )


def _todo(folder: Path, wanted: str, *, asked: bool) -> str:
    """Why a stage must run; empty when it need not."""
    manifest = artifact.read_manifest(folder)
    # First: also a result that is made again, as asked, goes on, and the old one stays until then.
    if artifact.in_the_making(folder, wanted):
        return "going on where it was interrupted"
    if manifest is None:
        return "new"
    if manifest["fingerprint"] != wanted:
        return "settings changed; the old result is set aside"
    return "again, as asked; the old result is set aside" if asked else ""


def _fingerprint_of(folder: Path) -> str:
    return (artifact.read_manifest(folder) or {}).get("fingerprint", "")


def _setting(recipe: Recipe, name: str) -> Any:
    """The value of a dotted name, ready for JSON."""
    value: Any = recipe.model_dump(mode="json")
    for part in name.split("."):
        value = value[part]
    return value


def _deciding(recipe: Recipe, name: str) -> Any:
    """`_setting`, without what does not decide the result."""
    value = _setting(recipe, name)
    if name == "training":
        value = {key: value[key] for key in value if key not in MEMORY_SETTINGS}
    if name == "clean":
        value = {key: value[key] for key in value if key != "workers"}
    return value


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    packages = ("afm-mlx", "mlx", "mlx-lm", "numpy", "sentencepiece", "tokenizers")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
            found[package] = "not installed"
    return found
