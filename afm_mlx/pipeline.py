"""Run the stages of a recipe in order; skip what is published and unchanged, resume the rest."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from afm_mlx import artifact
from afm_mlx.errors import AfmError, DataError, RunError
from afm_mlx.evaluation.table import score_table
from afm_mlx.outline import Stage, stages_of
from afm_mlx.progress import Progress, duration
from afm_mlx.ranks import ALONE, Ranks, apart, joined
from afm_mlx.recipe import Recipe, nearest

MEMORY_SETTINGS = ("micro_rows", "activation_checkpointing", "loss_bytes", "shard")
"""Settings of [training] that trade memory for time. The result is the same but for rounding, so a
run that met the memory guard goes on with other values."""

SHOWN_DIGITS = 12
"""Digits of a hash that are shown where two differ."""


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
