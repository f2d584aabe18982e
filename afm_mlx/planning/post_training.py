"""What the stages after pre-training cost: work, time, memory, and what the numbers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from afm_mlx.planning.answers import TRAIN, WRITE, Work
from afm_mlx.planning.committee import committee_course
from afm_mlx.planning.cost import WEIGHT_BYTES, Memory, count_by_part
from afm_mlx.planning.examples import Size, measure
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.post_memory import Moments, moments
from afm_mlx.planning.post_work import Costs
from afm_mlx.planning.pretraining import FIXED, micro_row_choices
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import POST_TRAINING_STAGES

SHORTEST = 32  # tokens; nothing shorter is advised; ours


@dataclass(frozen=True)
class PostTrainingPlan:
    """One post-training stage on one machine."""

    stage: str
    of: str
    """What `work` is of: empty for the whole stage; else a part of it, such as `one step`, because
    the number of parts depends on `missing`."""
    missing: tuple[str, ...]
    """Files that decide how much is to be done, and are not there."""
    steps: int | None
    """Optimizer steps; None: they depend on files that are not there; 0: nothing is trained."""
    rounds: int
    """Rounds; 0 where there are none."""
    work: tuple[Work, ...]
    """What is done, in order."""
    memory: tuple[Memory, ...]
    allowed_bytes: int
    """Memory at which the run would stop: `watch.memory_fraction` of what a job may use."""
    advice: str
    """What to change so that it fits; empty if it does."""
    assumptions: tuple[str, ...]
    """What the numbers rest on, in sentences: what was counted, and what is assumed."""
    notes: tuple[str, ...]
    """What is to be known of its memory, in sentences."""

    @property
    def flops(self) -> float:
        """Operations of all work."""
        return sum(each.flops for each in self.work)

    @property
    def seconds(self) -> float:
        """Time of all work, at the assumed shares of the machine's rates."""
        return sum(each.seconds for each in self.work)

    @property
    def trained_tokens(self) -> int:
        """Tokens that go through a forward and a backward pass, prompts and repetitions too."""
        return sum(each.tokens for each in self.work if each.kind == TRAIN)

    @property
    def sampled_tokens(self) -> int:
        """Tokens that models write."""
        return sum(each.tokens for each in self.work if each.kind == WRITE)

    @property
    def peak_bytes(self) -> int:
        """Memory that the stage needs at most."""
        return _sum(self.memory)

    @property
    def fits(self) -> bool:
        """Whether the peak is within what is allowed."""
        return self.peak_bytes <= self.allowed_bytes

    def derived(self) -> dict[str, Any]:
        """What follows from the fields, for `--json`."""
        names = ("flops", "seconds", "trained_tokens", "sampled_tokens", "peak_bytes", "fits")
        return {name: getattr(self, name) for name in names}


def plan_post_training(recipe: Recipe, hardware: Hardware) -> tuple[PostTrainingPlan, ...]:
    """Plans of all post-training stages of a recipe, in order."""
    found = {name: getattr(recipe, name) for name in POST_TRAINING_STAGES}
    sizes = {name: measure(recipe, each.data) for name, each in found.items() if each}
    planner = _Planner(recipe, hardware, sizes)
    return tuple(planner.plan(stage) for stage in recipe.post_training_stages())


@dataclass(frozen=True)
class _Planner:
    """Plans stages of a recipe, as it is and with settings that take less memory."""

    recipe: Recipe
    hardware: Hardware
    sizes: dict[str, Size]

    def plan(self, stage: str) -> PostTrainingPlan:
        costs = Costs(self.recipe, self.hardware, self.sizes)
        course = committee_course(costs) if stage == "itec" else costs.course(stage)
        found = self.moments(stage)
        when = max(found, key=lambda name: _sum(found[name]))
        allowed = int(self.recipe.watch.memory_fraction * self.hardware.usable_bytes)
        fits = _sum(found[when]) <= allowed
        return PostTrainingPlan(
            stage=stage,
            of=course.of,
            missing=course.missing,
            steps=course.steps,
            rounds=course.rounds,
            work=course.work,
            memory=found[when],
            allowed_bytes=allowed,
            advice="" if fits else self.advice(stage, allowed),
            assumptions=course.assumptions,
            notes=tuple(self.notes(stage, when, len(found))),
        )

    def notes(self, stage: str, when: str, num_moments: int) -> list[str]:
        notes = [f"memory is that of {when}"] if num_moments > 1 else []
        itec = self.recipe.itec
        if stage == "itec" and itec is not None:
            models = itec.rounds + itec.committee_size + len(itec.members)
            size = models * WEIGHT_BYTES * count_by_part(self.recipe.shape)["total"]
            notes.append(
                f"on disk, at most: {itec.rounds:,} reward models and "
                f"{models - itec.rounds:,} others, {gigabytes(size)} GB"
            )
        return notes

    def moments(self, stage: str) -> Moments:
        samples = stage in ("reject", "itec", "rl")
        prompt = (
            Costs(self.recipe, self.hardware, self.sizes).prompt_tokens(stage) if samples else 0
        )
        return moments(self.recipe, self.hardware, stage, prompt)

    def advice(self, stage: str, allowed: int) -> str:
        """Settings with which a stage fits: fewest rows changed first, then recomputing, length."""
        least = max(map(_sum, self.moments(stage).values()))
        for changed, settings in self.smaller(stage):
            needed = max(map(_sum, changed.moments(stage).values()))
            if needed <= allowed:
                words = " ".join(f"--set {setting}" for setting in settings)
                return f"{words} needs {gigabytes(needed)} GB"
            least = min(least, needed)
        largest = max(self.moments(stage).values(), key=_fixed)
        if _fixed(largest) <= allowed:
            return f"no setting is enough: fewer rows and shorter ones need {gigabytes(least)} GB"
        return f"no setting is enough: {_names(largest)} take {gigabytes(_fixed(largest))} GB"

    def smaller(self, stage: str) -> Iterator[tuple[_Planner, list[str]]]:
        """The same with settings that take less memory, and those settings."""
        asked = self.recipe.training.activation_checkpointing
        micro_rows = self.recipe.training.micro_rows
        full = self.lengths(stage)
        most = max(full.values())
        shorter = [most >> halvings for halvings in range(1, (most // SHORTEST).bit_length())]
        if stage == "reject":  # which trains nothing
            tries = [(micro_rows, asked, length) for length in shorter]
        else:
            choices = micro_row_choices(self.recipe)
            tries = [(rows, again, most) for again in sorted({asked, True}) for rows in choices]
            tries += [(1, True, length) for length in shorter]
        for rows, again, length in tries:
            settings = [f"training.micro_rows={rows}"] if rows != micro_rows else []
            if again != asked:
                settings.append("training.activation_checkpointing=true")
            training = {"micro_rows": rows, "activation_checkpointing": again}
            changed = self.changed("training", training)
            for (section, key), asked_length in full.items():
                if asked_length > length:
                    settings.append(f"{section}.{key}={length}")
                    changed = changed.changed(section, {key: length})
            yield changed, settings

    def lengths(self, stage: str) -> dict[tuple[str, str], int]:
        """Lengths of rows or answers that decide a stage's memory, by section and key."""
        found = {}
        for name in self.recipe.sections_of(stage):
            if section := getattr(self.recipe, name):
                key = "row_tokens" if name == "sft" else "max_tokens"
                found[name, key] = getattr(section, key)
        return found

    def changed(self, name: str, update: dict[str, Any]) -> _Planner:
        """The same with other settings in a section."""
        section = getattr(self.recipe, name).model_copy(update=update)
        recipe = self.recipe.model_copy(update={name: section})
        return _Planner(recipe, self.hardware, self.sizes)


MODELS = (*FIXED, "heads", "frozen", "reference", "reward model")
"""Parts of memory that no setting makes smaller."""


def _fixed(parts: tuple[Memory, ...]) -> int:
    return sum(part.bytes for part in parts if part.name in MODELS)


def _names(parts: tuple[Memory, ...]) -> str:
    *first, last = [part.name for part in parts if part.name in MODELS]
    return f"{', '.join(first)} and {last}" if first else last


def _sum(parts: tuple[Memory, ...]) -> int:
    return sum(part.bytes for part in parts)
