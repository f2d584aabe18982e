"""What a recipe costs on a machine: parameters, operations, memory, time, disk. Runs nothing.

Each number says how it came about, so that a wrong one can be argued with. No weights exist, and
MLX is needed only to measure the machine when that is `this` one. GB is 10**9 bytes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afm_mlx.planning.cost import (
    LABELLED_ROWS,
    WEIGHT_BYTES,
    Memory,
    activity_memory,
    cache_bytes_per_token,
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
from afm_mlx.recipe import Recipe, load_named_recipe, recipe_files
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
class TeacherPlan:
    """Who teaches, and what is known of it."""

    model: str
    """As in the recipe; empty: it is trained here."""
    parameters: int | None
    """None: its shape is not known before it is there, and it is not planned."""


@dataclass(frozen=True)
class Plan:
    """A recipe on one machine."""

    recipe: str
    hardware: Hardware
    parameters: dict[str, int]
    """By part; `total` is their sum."""
    teacher: TeacherPlan | None
    """None: the recipe has none."""
    stages: tuple[StagePlan, ...]
    checkpoint_bytes: int
    """A stage's finished model."""
    snapshot_bytes: int
    """What an interrupted run resumes from; two are kept."""
    wide_snapshot_bytes: int
    """The same of stages `teacher` and `prune`, which train the teacher; 0 without them."""
    cache_bytes_per_token: int
    """Keys and values of one token, float16."""
    max_tokens: int
    """Longest context of the finished model."""
    not_planned: tuple[str, ...]
    """Stages of the recipe whose cost is not known here."""
    not_built_yet: tuple[str, ...]
    """Sections of the recipe that are not planned, because their stages do not exist yet."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        values = asdict(self)
        for values_of, stage in zip(values["stages"], self.stages, strict=True):
            values_of |= {"peak_bytes": stage.peak_bytes, "fits": stage.fits}
        return values


def plan_recipe(recipe: Recipe, hardware: Hardware) -> Plan:
    """The plan of all stages of a recipe that train, prune, or label texts.

    Raises:
        ModelError: the teacher is a folder that holds no model of ours.
    """
    parameters = count_by_part(recipe.shape)
    total = parameters["total"]
    planner = _Planner(recipe, hardware, teacher_shape(recipe))
    last = (recipe.pretraining_stages() or ["prune"])[-1]
    return Plan(
        recipe=recipe.name,
        hardware=hardware,
        parameters=parameters,
        teacher=_teacher(recipe, planner.teacher),
        stages=tuple(planner.plan(stage) for stage in planned_stages(recipe)),
        checkpoint_bytes=WEIGHT_BYTES * total,
        snapshot_bytes=WEIGHT_BYTES * total + state_bytes(recipe.shape, recipe.optimizer.name),
        wide_snapshot_bytes=planner.wide_snapshot_bytes(),
        cache_bytes_per_token=cache_bytes_per_token(recipe.shape),
        max_tokens=recipe.shape_of(last).max_tokens,
        not_planned=tuple(
            name for name in recipe.post_training_stages() if name not in recipe.not_built_yet()
        ),
        not_built_yet=tuple(recipe.not_built_yet()),
    )


def planned_stages(recipe: Recipe) -> list[str]:
    """Stages that cost, in order: all of the pipeline's but links, texts and tokenizer."""
    labelled = recipe.distill is not None and recipe.distill.labels is LabelTime.BEFORE
    return [
        *(["teacher"] if recipe.trains_teacher() else []),
        *(["prune"] if recipe.prune else []),
        *(["labels"] if labelled and recipe.distilled_stages() else []),
        *recipe.pretraining_stages(),
    ]


def teacher_shape(recipe: Recipe) -> Shape | None:
    """Shape of the teacher; None where there is none, or where it is known only to a hub or file.

    Raises:
        ModelError: it is a folder that holds no model of ours.
    """
    if recipe.teacher is None:
        return None
    word = recipe.teacher.model
    if not word:
        return recipe.shape_of("teacher")
    folder = Path(word).expanduser()
    if (folder / "config.json").is_file():
        from afm_mlx.decoder.config import read_shape  # needs no MLX

        return read_shape(folder)
    if word in recipe_files():
        return load_named_recipe(word).shape
    if (wide := recipe.teacher.intermediate_size) is not None:
        return recipe.shape.model_copy(update={"intermediate_size": wide})
    return None


def _teacher(recipe: Recipe, shape: Shape | None) -> TeacherPlan | None:
    if recipe.teacher is None:
        return None
    known = None if shape is None else count_by_part(shape)["total"]
    return TeacherPlan(recipe.teacher.model, known)


def _sum(parts: tuple[Memory, ...]) -> int:
    return sum(part.bytes for part in parts)


@dataclass(frozen=True)
class _Planner:
    """Plans stages of a recipe, as it is and with settings that take less memory."""

    recipe: Recipe
    hardware: Hardware
    teacher: Shape | None

    def plan(self, stage: str) -> StagePlan:
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

    def with_labels(self, labels: LabelTime) -> _Planner:
        return self.changed("distill", labels=labels)

    def changed(self, name: str, **update: Any) -> _Planner:
        """The same with other settings in a section."""
        section = getattr(self.recipe, name).model_copy(update=update)
        recipe = self.recipe.model_copy(update={name: section})
        return _Planner(recipe, self.hardware, self.teacher)

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
        # The setting holds for all stages, so it divides the rows of each.
        per_step = [recipe.pretraining(each).rows_per_step for each in recipe.pretraining_stages()]
        if recipe.prune:
            per_step.append(recipe.prune.rows_per_step)
        common = math.gcd(*per_step)
        choices = [each for each in range(min(now, common), 0, -1) if common % each == 0]
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


def format_plan(plan: Plan) -> str:
    """The plan as plain text."""
    machine, total = plan.hardware, plan.parameters["total"]
    rate = machine.flops / 1e12
    lines = [
        f"model       {plan.recipe}, {total:,} parameters",
        *_teacher_lines(plan.teacher),
        f"hardware    {machine.described}; {gigabytes(machine.usable_bytes)} GB for one job",
        f"speed       {rate:,.3g} TFLOP/s ({machine.flops_source}) x {machine.utilization:g} "
        "(assumed, not measured)",
        "",
        "parameters",
        *(f"  {part:14}{count:>18,}" for part, count in plan.parameters.items()),
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, machine)]
    lines += [
        "",
        "disk and cache",
        _row("checkpoint", plan.checkpoint_bytes, f"{WEIGHT_BYTES} bytes x {total:,}"),
        _row("snapshot", plan.snapshot_bytes, "weights and averages; two are kept"),
        *(
            [_row("wide snapshot", plan.wide_snapshot_bytes, "of a stage that trains the teacher")]
            if plan.wide_snapshot_bytes
            else []
        ),
        _row(
            "cache",
            plan.cache_bytes_per_token * plan.max_tokens,
            f"{plan.cache_bytes_per_token:,} bytes of float16 x {plan.max_tokens:,} tokens",
        ),
    ]
    if plan.not_planned:
        lines += ["", f"not planned: {', '.join(plan.not_planned)}"]
    if plan.not_built_yet:
        lines += ["", f"not planned, not built yet: {', '.join(plan.not_built_yet)}"]
    return "\n".join(lines)


def _teacher_lines(teacher: TeacherPlan | None) -> list[str]:
    if teacher is None:
        return []
    name = teacher.model or "trained here"
    if teacher.parameters is None:
        return [f"teacher     {name}, not planned: its shape is not known here"]
    return [f"teacher     {name}, {teacher.parameters:,} parameters"]


def _stage_lines(stage: StagePlan, machine: Hardware) -> list[str]:
    total = sum(stage.flops.values())
    seen = {part: each / total for part, each in stage.flops.items() if each > 0.005 * total}
    parts = " + ".join(f"{share:.0%} {part}" for part, share in seen.items())
    rate = stage.tokens / stage.seconds if stage.seconds else 0.0
    limit = f"of {gigabytes(stage.allowed_bytes)} at which a run stops"
    if stage.steps:
        work = (
            f"  steps           {stage.steps:,} of {stage.tokens_per_step:,} tokens "
            f"({stage.rows_per_step:,} rows x {stage.row_tokens:,}): {stage.tokens:,} tokens"
        )
    else:
        work = f"  reads           {stage.tokens:,} tokens in rows of {stage.row_tokens:,}, once"
    lines = [stage.stage, work]
    if total:
        lines += [
            f"  operations      {total:.2e} FLOP: {parts}",
            f"  time            {duration(stage.seconds)} at {rate:,.0f} tokens/s",
        ]
    lines.append(_row("shards", stage.shard_bytes, "on disk, if no text is read twice"))
    if stage.label_bytes:
        each = stage.label_bytes // stage.tokens
        lines.append(_row("labels", stage.label_bytes, f"on disk, {each} bytes x {stage.tokens:,}"))
    if stage.memory:
        lines += [
            f"  {'memory':14}{'GB':>8}  how",
            *(_row(f"  {part.name}", part.bytes, part.how) for part in stage.memory),
            _row("  peak", stage.peak_bytes, limit + ("" if stage.fits else ": does not fit")),
        ]
    lines += [f"  note            {note}" for note in stage.notes]
    return lines + ([f"  hint            {stage.advice}"] if stage.advice else [])


def _row(name: str, count: int, how: str) -> str:
    return f"  {name:14}{gigabytes(count):>8}  {how}"


def duration(seconds: float) -> str:
    """Time in the largest fitting unit: `4.2 minutes`."""
    units = (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3_600), ("minutes", 60))
    for unit, size in units:
        if seconds >= size:
            value = seconds / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def gigabytes(count: float) -> str:
    """Bytes in units of 10**9, with the digits that are worth reading."""
    value = count / 1e9
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4f}" if value < 0.1 else f"{value:,.2f}"
