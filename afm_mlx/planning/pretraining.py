"""What the stages up to pre-training cost: the teacher, pruning, labels, and the three stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from afm_mlx.planning.cost import (
    LABELLED_ROWS,
    WEIGHT_BYTES,
    Memory,
    activity_memory,
    count_by_part,
    distilling_memory,
    flops_per_token,
    id_bytes,
    label_bytes_per_token,
    mask_memory,
    reading_flops_per_token,
    reading_memory,
    scoring_flops_per_token,
    scoring_memory,
    state_bytes,
    training_memory,
)
from afm_mlx.planning.hardware import Hardware
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import Recipe
from afm_mlx.settings.compression import LabelTime, PruneMethod
from afm_mlx.settings.sections import Pretraining, Shape

# Parts of memory that no setting makes smaller.
FIXED = ("weights", "optimizer", "gradients", "compute copy", "scores", "masked copy")


@dataclass(frozen=True)
class StagePlan:
    """One stage on one machine: training, pruning or labelling."""

    stage: str
    tokens: int
    """Tokens of all its steps; without steps, those that are read."""
    steps: int
    """Optimizer steps; 0 where nothing is trained."""
    tokens_per_step: int
    """0 where nothing is trained."""
    row_tokens: int
    rows_per_step: int
    """0 where nothing is trained."""
    micro_rows: int
    flops: dict[str, float]
    """Operations of the whole stage, by part of the model."""
    memory: tuple[Memory, ...]
    allowed_bytes: int
    """Memory at which the run would stop: `watch.memory_fraction` of what a job may use."""
    advice: str
    """What to change so that it fits; empty if it does."""
    seconds: float
    """Time at the assumed utilization."""
    shard_bytes: int
    """Token shards on disk, if no text is read twice."""
    label_bytes: int
    """Label files on disk, if each token is labelled that is trained on, and none twice."""
    notes: tuple[str, ...]
    """What is to be known of its memory, in sentences."""

    @property
    def peak_bytes(self) -> int:
        """Memory that the stage needs at most."""
        return _sum(self.memory)

    @property
    def fits(self) -> bool:
        """Whether the peak is within what is allowed."""
        return self.peak_bytes <= self.allowed_bytes


@dataclass(frozen=True)
class Planner:
    """Plans stages of a recipe, as it is and with settings that take less memory."""

    recipe: Recipe
    hardware: Hardware
    teacher: Shape | None

    def plan(self, stage: str) -> StagePlan:
        """Cost of one stage, and what to change where it does not fit."""
        recipe, hardware, training = self.recipe, self.hardware, self.recipe.training
        section = recipe.prune if stage == "prune" else None
        moments, flops = self.moments(stage), self.flops(stage)
        memory = max(moments.values(), key=_sum)
        allowed = int(recipe.watch.memory_fraction * hardware.usable_bytes)
        rows, steps = section or self.first_section(stage), 0
        if stage != "labels" and not (section and section.method is PruneMethod.ACTIVATION):
            steps = rows.steps
        per_step = rows.row_tokens * rows.rows_per_step if steps else 0
        tokens = self.tokens_read(stage) if not steps else steps * per_step
        fits = _sum(memory) <= allowed
        return StagePlan(
            stage=stage,
            tokens=tokens,
            steps=steps,
            tokens_per_step=per_step,
            row_tokens=rows.row_tokens,
            rows_per_step=rows.rows_per_step if steps else 0,
            micro_rows=min(
                training.rows_at_once(rows.rows_per_step),
                LABELLED_ROWS if stage == "labels" else rows.rows_per_step,
            ),
            flops=flops,
            memory=memory,
            allowed_bytes=allowed,
            advice="" if fits else self.advice(stage, allowed),
            seconds=sum(flops.values()) / (hardware.flops * hardware.utilization),
            shard_bytes=id_bytes(recipe.shape) * tokens,
            label_bytes=self.label_bytes(tokens) if stage == "labels" else 0,
            notes=tuple(self.notes(stage, moments, allowed)),
        )

    def wide_snapshot_bytes(self) -> int:
        """Snapshot of a stage that trains the teacher; 0 where none does."""
        recipe, wide = self.recipe, self.teacher
        masks = recipe.prune is not None and recipe.prune.method is PruneMethod.MASKS
        if wide is None or not (masks or recipe.trains_teacher()):
            return 0
        scores = wide.num_layers * wide.intermediate_size if masks else 0
        weights = WEIGHT_BYTES * (count_by_part(wide)["total"] + 3 * scores)
        return weights + state_bytes(wide, recipe.optimizer.name)

    def first_section(self, stage: str) -> Pretraining:
        """Section of a pre-training stage; of labels, that of the longest rows they are of."""
        if stage != "labels":
            return self.recipe.pretraining(stage)
        sections = [self.recipe.pretraining(each) for each in self.recipe.distilled_stages()]
        return max(sections, key=lambda section: section.row_tokens)

    def tokens_read(self, stage: str) -> int:
        """Tokens of first scores, or of what is labelled: all that the distilled stages read."""
        if stage == "prune":
            section = self.recipe.prune
            assert section is not None
            step = section.row_tokens * section.rows_per_step
            return -(-section.scoring_tokens // step) * step
        sections = [self.recipe.pretraining(each) for each in self.recipe.distilled_stages()]
        return sum(section.steps * section.tokens_per_step for section in sections)

    def label_bytes(self, tokens: int) -> int:
        """Label files of so many tokens."""
        assert self.recipe.distill is not None
        return label_bytes_per_token(self.recipe.shape, self.recipe.distill.asked) * tokens

    def flops(self, stage: str) -> dict[str, float]:
        """Operations of a whole stage, by part."""
        recipe, again = self.recipe, self.recipe.training.activation_checkpointing
        if stage == "labels":
            return {"teacher": sum(map(self.reading_flops, recipe.distilled_stages()))}
        if stage == "prune":
            section, wide = recipe.prune, self.teacher
            assert section is not None
            assert wide is not None
            scored = self.tokens_read("prune")
            if section.method is PruneMethod.ACTIVATION:
                return {"scores": reading_flops_per_token(wide, section.row_tokens) * scored}
            tokens = section.steps * section.row_tokens * section.rows_per_step
            parts = flops_per_token(wide, section.row_tokens, recompute=again)
            first = scoring_flops_per_token(wide, section.row_tokens, recompute=again)
            return {part: each * tokens for part, each in parts.items()} | {
                "first scores": first * scored
            }
        rows = recipe.pretraining(stage)
        tokens = rows.steps * rows.tokens_per_step
        parts = flops_per_token(recipe.shape_of(stage), rows.row_tokens, recompute=again)
        flops = {part: each * tokens for part, each in parts.items()}
        if self.is_live(stage) and self.teacher is not None:
            flops["teacher"] = self.reading_flops(stage)
        return flops

    def reading_flops(self, stage: str) -> float:
        """Operations of a teacher that reads all tokens of a stage once."""
        if self.teacher is None:
            return 0.0
        section = self.recipe.pretraining(stage)
        per_token = reading_flops_per_token(self.teacher, section.row_tokens)
        return per_token * section.steps * section.tokens_per_step

    def is_live(self, stage: str) -> bool:
        """Whether the teacher is asked while the stage trains."""
        distill = self.recipe.distill
        live = distill is not None and distill.labels is LabelTime.LIVE
        return live and stage in self.recipe.distilled_stages()

    def moments(self, stage: str) -> dict[str, tuple[Memory, ...]]:
        """Memory of a stage, at each moment at which it may be at its peak."""
        recipe, training, hardware = self.recipe, self.recipe.training, self.hardware
        optimizer, distill = recipe.optimizer.name, recipe.distill
        if stage == "prune":
            assert recipe.prune is not None
            assert self.teacher is not None
            given = (self.teacher, recipe.prune, training)
            if recipe.prune.method is PruneMethod.ACTIVATION:
                return {"measuring activations": activity_memory(*given, hardware)}
            return {
                "learning masks": mask_memory(*given, optimizer, hardware),
                "taking first scores": scoring_memory(*given, hardware),
            }
        if stage == "labels":
            if self.teacher is None:
                return {"reading": ()}
            return {
                each: reading_memory(
                    self.teacher,
                    recipe.pretraining(each).row_tokens,
                    min(
                        training.rows_at_once(recipe.pretraining(each).rows_per_step),
                        LABELLED_ROWS,
                    ),
                    training,
                    hardware,
                    candidates=distill.asked if distill else 1,
                )
                for each in recipe.distilled_stages()
            }
        section, shape = recipe.pretraining(stage), recipe.shape_of(stage)
        if distill is None or stage not in recipe.distilled_stages():
            return {"training": training_memory(shape, section, training, optimizer, hardware)}
        return {
            "training": distilling_memory(
                shape,
                self.teacher,
                section,
                training,
                optimizer,
                hardware,
                candidates=distill.asked,
                live=self.is_live(stage),
            )
        }

    def peak(self, stage: str) -> int:
        """Most memory of a stage, in bytes."""
        return max(map(_sum, self.moments(stage).values()))

    def notes(self, stage: str, moments: dict[str, tuple[Memory, ...]], allowed: int) -> list[str]:
        """Which moment the memory is of; whether teacher and student fit together."""
        recipe = self.recipe
        if len(moments) > 1 and stage == "prune":
            first, second = sorted(moments, key=lambda name: -_sum(moments[name]))
            return [
                f"memory is that of {first}; {second} needs {gigabytes(_sum(moments[second]))} GB"
            ]
        if self.teacher is None and (stage == "labels" or self.is_live(stage)):
            assert recipe.teacher is not None
            return [f"'{recipe.teacher.model}' is not planned: its shape is not known here"]
        if stage not in recipe.distilled_stages():
            return []
        live, before = self.with_labels(LabelTime.LIVE), self.with_labels(LabelTime.BEFORE)
        together, student = live.peak(stage), before.peak(stage)
        if not self.is_live(stage):
            if self.teacher is None:
                return []
            fit = "would fit" if together <= allowed else "would not fit"
            return [f"a live teacher {fit}: {gigabytes(together)} GB together with the student"]
        fit = "fit together" if together <= allowed else "do not fit together"
        return [
            f"teacher and student {fit}: {gigabytes(together - student)} GB and "
            f"{gigabytes(student)} GB"
        ]

    def with_labels(self, labels: LabelTime) -> Planner:
        """The same with labels made at another time."""
        return self.changed("distill", labels=labels)

    def changed(self, name: str, **update: Any) -> Planner:
        """The same with other settings in a section."""
        section = getattr(self.recipe, name).model_copy(update=update)
        recipe = self.recipe.model_copy(update={name: section})
        return Planner(recipe, self.hardware, self.teacher)

    def advice(self, stage: str, allowed: int) -> str:
        """Settings with which a stage fits, those that cost least first.

        Labels made before; then most rows, then recomputing, then shorter rows: with a live
        teacher, and without. For pruning at last the method that trains nothing.
        """
        if stage == "labels":
            return self._less(stage, "", allowed) or self._teacher_is_too_large()
        before = self.with_labels(LabelTime.BEFORE) if self.is_live(stage) else None
        labels = "distill.labels=before"
        if before and before.peak("labels") > allowed:
            before = None
        if before and (needed := before.peak(stage)) <= allowed:
            return f"--set {labels} needs {gigabytes(needed)} GB"
        if found := self._less(stage, "", allowed):
            return found
        if before and (found := before._less(stage, labels, allowed)):
            return found
        if self.recipe.prune and stage == "prune":
            method = self.changed("prune", method=PruneMethod.ACTIVATION)
            if found := method._less(stage, "prune.method=activation", allowed):
                return found
        if self.is_live(stage) and self.teacher is not None and before is None:
            return self._teacher_is_too_large()
        parts = next(iter((before or self).moments(stage).values()))
        fixed = sum(part.bytes for part in parts if part.name in FIXED)
        return f"no setting is enough: weights, averages and gradients take {gigabytes(fixed)} GB"

    def _teacher_is_too_large(self) -> str:
        assert self.teacher is not None
        size = self.hardware.compute_bytes * count_by_part(self.teacher)["total"]
        return f"no setting is enough: the teacher takes {gigabytes(size)} GB"

    def _less(self, stage: str, others: str, allowed: int) -> str:
        """Settings of [training] and of row length with which it fits, after `others`; or ""."""
        recipe = self.recipe
        rows = recipe.prune if stage == "prune" else self.first_section(stage)
        assert rows is not None
        asked, full = recipe.training.activation_checkpointing, rows.row_tokens
        now = recipe.training.rows_at_once(rows.rows_per_step)
        choices = [each for each in micro_row_choices(recipe) if each <= now]
        tries = [(each, recompute, full) for recompute in {asked, True} for each in choices]
        tries.sort(key=lambda each: each[1])
        if stage != "labels":  # whose rows are those of other stages
            tries += [(1, True, full >> halvings) for halvings in range(1, full.bit_length() - 1)]
        section = "core" if stage == "teacher" else stage
        for micro_rows, recompute, row_tokens in tries:
            changed = self.changed(
                "training", micro_rows=micro_rows, activation_checkpointing=recompute
            )
            if row_tokens != full:
                changed = changed.changed(section, row_tokens=row_tokens)
            needed = changed.peak(stage)
            if needed <= allowed:
                changes = [others] if others else []
                if micro_rows != now:
                    changes.append(f"training.micro_rows={micro_rows}")
                if recompute != asked:
                    changes.append("training.activation_checkpointing=true")
                if row_tokens != full:
                    changes.append(f"{section}.row_tokens={row_tokens}")
                settings = " ".join(f"--set {change}" for change in changes)
                return f"{settings} needs {gigabytes(needed)} GB"
        return ""


def _sum(parts: tuple[Memory, ...]) -> int:
    return sum(part.bytes for part in parts)


def micro_row_choices(recipe: Recipe) -> list[int]:
    """Values of `training.micro_rows`, most first: it divides the rows of all stages."""
    per_step = [recipe.pretraining(each).rows_per_step for each in recipe.pretraining_stages()]
    if recipe.prune:
        per_step.append(recipe.prune.rows_per_step)
    if recipe.sft:
        per_step.append(recipe.sft.rows_per_step)
    if recipe.recover:
        per_step.append(recipe.recover.rows_per_step)
    per_step += [adapter.rows_per_step for adapter in recipe.adapters.values()]
    if recipe.rl:
        per_step.append(recipe.rl.prompts_per_step * recipe.rl.responses_per_prompt)
    # Training on pairs takes any number.
    pairs = [2 * each.pairs_per_step for each in (recipe.reward, recipe.prefer) if each]
    common = math.gcd(*per_step) or math.gcd(*pairs) or 1
    most = min(recipe.training.micro_rows or common, common)
    return [each for each in range(most, 0, -1) if common % each == 0]
