"""Recovery: training that wins back what quantization lost, with the 16-bit model as teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from afm_mlx import compat
from afm_mlx.artifact import SNAPSHOTS, Inputs, write_text
from afm_mlx.compression import qat
from afm_mlx.compression.coordinates import in_coordinates_of
from afm_mlx.compression.divergence import Reference, in_parts
from afm_mlx.compression.recover import (
    ALL,
    KeptLabels,
    not_in_tables,
    store_tables,
    unfreeze_tables,
    won_back,
)
from afm_mlx.compression.residual import output_worths, residual_factors
from afm_mlx.compression.teacher import check_original, open_teacher
from afm_mlx.corpus.packing import shift_right
from afm_mlx.decoder.adapters import (
    FOLDER,
    AdapterFacts,
    base_hash,
    base_name,
    is_adapter,
    write_adapter,
)
from afm_mlx.decoder.checkpoint import (
    copy_model,
    open_checkpoint,
    read_palette,
    read_shape,
    save_checkpoint,
    stage_before,
)
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import add_lora, load_lora, lora_arrays, remove_lora
from afm_mlx.decoder.weights import write_file
from afm_mlx.progress import Progress, bar
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.compression import LabelTime
from afm_mlx.settings.palette import Recover, RecoverMethod
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.examples import Examples, fill
from afm_mlx.training.lessons import Lessons, learn, open_lessons
from afm_mlx.training.loop import Outcome, Rule
from afm_mlx.training.micro_batches import rows_read
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import data_ranks
from afm_mlx.training.texts import open_held_out
from afm_mlx.training.validation import Validation, held_out_answers

LABELS = "labels"
"""Folder of what the teacher said, as long as training is under way."""

START = "start.safetensors"
"""Factors that an adapter begins with, until it is trained."""

Measure = Callable[[Any], dict[str, Any]]


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train by [recover]'s method; leave a quantized model, or one with adapters, in `out`.

    Raises:
        DataError: texts or conversations are damaged, or shorter than a row.
        ModelError: the model is not quantized, or the teacher is not what it was made of.
        FitError, RunError: see `training.loop.train`.
    """
    section, start, taught_by = recipe.recover, recipe.start_of("recover"), recipe.compared_with()
    assert section is not None
    assert start is not None
    assert taught_by is not None
    base, rounded = inputs[start] / "model", section.method is RecoverMethod.QAT
    model = open_checkpoint(base, dense=rounded)
    if not rounded and read_palette(base, model.shape) is None:
        raise not_in_tables(base)
    check_original(inputs[taught_by] / "model", base)
    if section.starts_with_residual:
        first = open_checkpoint(inputs[taught_by] / "model").layers[0]  # before it reads all rows
        in_coordinates_of(model.layers[0], first, model.shape, name="model.layers.0")
    work = _Recovery.open(recipe, section, inputs, base, inputs[taught_by] / "model", out, progress)
    before = {} if rounded else work.told("before", model)
    trained = {
        RecoverMethod.LORA: _train_adapters,
        RecoverMethod.TABLES: _train_tables,
        RecoverMethod.QAT: _train_rounded,
    }[section.method](work, model, before)
    joined().once(out, lambda: shutil.rmtree(out / LABELS, ignore_errors=True))
    return {
        **trained,
        **{f"base_{name}": value for name, value in before.items()},
        **{f"teacher_{name}": value for name, value in work.of_teacher.items()},
        "tokens": section.steps * section.row_tokens * section.rows_per_step,
        "text_steps": work.lessons.text_steps,
    }


def _train_adapters(work: _Recovery, model: Decoder, before: dict[str, Any]) -> dict[str, Any]:
    """One adapter of each rank, beside the same frozen base and from the same labels."""
    section, seed = work.section, work.recipe.training.seed
    folder = work.out / "model"
    active = f"recovery-{section.product_rank}"
    facts_of_model = work.facts | {"adapter": active}
    joined().once(work.out, lambda: copy_model(work.base, folder, facts=facts_of_model))
    found: dict[str, dict[str, Any]] = {}
    worths = cache(lambda: output_worths(model, work.calibration(), seed=seed))  # of all ranks
    for rank in section.ranks:
        name = f"recovery-{rank}"
        result = work.out / f"rank-{rank}" / "result.json"
        if joined().any(not is_adapter(folder / FOLDER / name)):
            result.parent.mkdir(exist_ok=True)
            first = work.first_factors(model, worths, rank, result.parent)
            add_lora(model, rank=rank, scale=section.scale, seed=seed)
            load_lora(model, first, scale=section.scale)
            if first:
                work.told(f"rank {rank}, not trained", model, before)
            outcome = work.train(model, result.parent)
            # What is measured is what is kept: 16 bits.
            halves = {key: each.astype(mx.float16) for key, each in lora_arrays(model).items()}
            load_lora(model, halves, scale=section.scale)
            final = work.told(f"rank {rank}", model, before) | outcome.metrics()
            remove_lora(model)
            final["parameters"] = sum(each.size for each in halves.values())
            facts = AdapterFacts(
                name=name,
                base=base_hash(folder),
                base_name=base_name(work.base),
                rank=rank,
                alpha=section.scale * rank,
                tokenizer=work.tokenizer.fingerprint,
                data=(*work.recipe.data, *section.data),
            )
            joined().once(work.out, partial(_keep, folder / FOLDER, halves, facts, result, final))
        found[str(rank)] = json.loads(result.read_text())
    chosen = found[str(section.product_rank)]
    seconds = sum(each["earlier_seconds"] for each in found.values())
    return {**chosen, "ranks": found, "adapter": active, "earlier_seconds": seconds}


def _keep(
    adapters: Path,
    arrays: dict[str, mx.array],
    facts: AdapterFacts,
    result: Path,
    final: dict[str, Any],
) -> None:
    """Write what was measured, then the adapter: where it is there, its training is done."""
    write_text(result, json.dumps(final))
    write_adapter(adapters / facts.name, arrays, facts, dense=False)
    shutil.rmtree(result.parent / SNAPSHOTS, ignore_errors=True)
    (result.parent / START).unlink(missing_ok=True)


def _train_tables(work: _Recovery, model: Decoder, before: dict[str, Any]) -> dict[str, Any]:
    """Better values in the same tables, and better gains."""
    dtype = model.model.norm.weight.dtype
    unfreeze_tables(model)
    outcome = work.train(model, work.out)
    store_tables(model, dtype)
    _save(work, model)
    return work.told("tables", model, before) | outcome.metrics()


def _train_rounded(work: _Recovery, model: Decoder, before: dict[str, Any]) -> dict[str, Any]:
    """All weights, of which the average over the last steps is rounded and kept."""
    dtype = model.model.norm.weight.dtype
    qat.prepare(model, group_rows=work.section.group_channels)
    start = work.told("rounded", model)
    outcome = work.train(
        model, work.out, lambda rule: qat.Averaged(rule, work.section.average_decay)
    )
    model.update(outcome.rule["average"])
    mx.eval(model.parameters())  # all ranks: it may be gathered
    qat.store(model)
    store_tables(model, dtype)
    _save(work, model)
    return (
        work.told("trained", model, start)
        | {f"start_{name}": value for name, value in start.items()}
        | outcome.metrics()
    )


def _save(work: _Recovery, model: Decoder) -> None:
    folder = work.out / "model"
    joined().once(work.out, lambda: save_checkpoint(folder, model, work.base, facts=work.facts))


@dataclass(frozen=True)
class _Recovery:
    """What all methods share: lessons, the teacher's labels, and what is measured."""

    recipe: Recipe
    section: Recover
    base: Path
    original: Path
    """Of the 16-bit model."""
    tokenizer: Tokenizer
    lessons: Lessons
    labels: KeptLabels
    measure: Measure
    of_teacher: dict[str, Any]
    """What the 16-bit model reaches."""
    facts: dict[str, Any]
    """What a checkpoint remembers."""
    out: Path
    progress: Progress

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        section: Recover,
        inputs: Inputs,
        base: Path,
        original: Path,
        out: Path,
        progress: Progress,
    ) -> _Recovery:
        """Read texts and conversations, and ask the teacher in `original`."""
        tokenizer, settings = Tokenizer.open(base), recipe.training
        lessons, held_out = open_lessons(recipe, inputs, tokenizer)
        teacher = open_teacher(
            original,
            read_shape(base),
            tokenizer,
            dtype=compat.compute_dtype(settings.compute),
            candidates=section.candidates,
            temperature=1.0,
            document_mask=settings.document_mask,
            micro_rows=settings.rows_at_once(section.rows_per_step),
            chunk_bytes=settings.loss_bytes,
        )
        measure = _measure(recipe, section, inputs, tokenizer, held_out, teacher.model)
        of_teacher = {
            key: value for key, value in measure(teacher.model).items() if "kl" not in key
        }
        ranks, folder, read = data_ranks(), out / LABELS, ALL
        if ranks.size > 1:  # each has the teacher read its own rows
            folder = folder / f"{ranks.rank}-of-{ranks.size}"
            read = rows_read(section.rows_per_step, ranks)
        labels = KeptLabels(folder, teacher, lessons.step, read=read)
        if section.labels is LabelTime.BEFORE and section.reference_weight:
            for step in range(1, section.steps + 1):
                labels.step(step)
                line = f"  {bar(step, section.steps)} the 16-bit model reads step {step:,}"
                progress.status(line, last=step == section.steps)
            labels.forget_teacher()
        facts = {"recipe": recipe.name, "stage": "recover", "tokenizer": tokenizer.fingerprint}
        facts |= stage_before(original)
        return cls(
            recipe,
            section,
            base,
            original,
            tokenizer,
            lessons,
            labels,
            measure,
            of_teacher,
            facts,
            out,
            progress,
        )

    def train(
        self, model: Decoder, work: Path, around: Callable[[Rule], Rule] = lambda rule: rule
    ) -> Outcome:
        """Train what is not frozen; `around` may add to the update rule."""
        trained: Any = tree_flatten(model.trainable_parameters())
        count = sum(array.size for _, array in trained)
        del trained  # or what is cut would stay whole
        section = self.section
        self.progress.say(
            f"  {count:,} parameters, {section.steps:,} steps of {section.rows_per_step:,} rows of "
            f"{section.row_tokens:,} tokens"
        )
        return learn(
            model,
            self.lessons,
            self.labels.step if section.reference_weight else None,
            section,
            settings=self.recipe.training,
            rule=around(UpdateRule(self.recipe.optimizer, hidden_size=model.shape.hidden_size)),
            watch=self.recipe.watch,
            work=work,
            progress=self.progress,
            evaluate=self.measure,
        )

    def told(
        self, what: str, model: Decoder, before: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Measure a model and say what was found; beside what was `before`, what is won back."""
        found = self.measure(model)
        words = []
        for name, texts in (("held_out", "texts"), ("answers", "answers")):
            if f"{name}_kl" not in found:
                continue
            line = f"{texts}: KL {found[f'{name}_kl']:.4f}"
            if before:
                share = won_back(before[f"{name}_kl"], found[f"{name}_kl"])
                found[f"{name}_won_back"] = share
                line += f", {share:.1%} won back"
            nats, full = found[f"{name}_nats"], self.of_teacher[f"{name}_nats"]
            words.append(f"{line}, {nats:.4f} nats per token (16-bit {full:.4f})")
        self.progress.say(f"  {what}: {'; '.join(words)}")
        return found

    def calibration(self) -> list[mx.array]:
        """Rows that the first factors are found on, in parts that are read at once."""
        at_once = self.recipe.training.rows_at_once(self.section.rows_per_step)
        return in_parts(self.lessons.first_rows(self.section.calibration_rows), at_once)

    def first_factors(
        self, model: Decoder, worths: Callable[[], dict[str, mx.array]], rank: int, work: Path
    ) -> dict[str, mx.array]:
        """Factors that an adapter begins with, kept in `work`; none where they are drawn."""
        if not self.section.starts_with_residual:
            return {}
        file = work / START

        def find() -> None:
            if file.exists():
                return
            dtype = compat.compute_dtype(self.recipe.training.compute)
            found = residual_factors(
                model,
                open_checkpoint(self.original, dtype=dtype),
                self.calibration(),
                worths(),
                rank=rank,
                scale=self.section.scale,
                seed=self.recipe.training.seed,
                done=lambda number: self.progress.status(
                    f"  {bar(number, len(model.layers))} rank {rank} takes what it can of the "
                    f"errors of block {number}",
                    last=number == len(model.layers),
                ),
            )
            part = file.with_name("start.part.safetensors")
            write_file(part, found)
            part.replace(file)

        joined().once(self.out, find)
        arrays: Any = mx.load(str(file))
        return dict(arrays)


def _measure(
    recipe: Recipe,
    section: Recover,
    inputs: Inputs,
    tokenizer: Tokenizer,
    answers: Examples,
    original: Decoder,
) -> Measure:
    """Loss on held-out texts and answers, and the divergence from the 16-bit model there."""
    settings, watch = recipe.training, recipe.watch
    micro_rows = settings.rows_at_once(section.rows_per_step)
    texts = (
        {}
        if not recipe.data
        else open_held_out(
            inputs["data"],
            recipe.data,
            tokenizer,
            row_tokens=section.row_tokens,
            span_tokens=section.row_tokens,
            most_tokens=watch.evaluation_tokens,
        )
    )
    validation = Validation(
        texts, eos_id=tokenizer.eos_id, micro_rows=micro_rows, chunk_bytes=settings.loss_bytes
    )
    most = max(1, watch.evaluation_tokens // section.row_tokens)
    plan = [[("", number)] for number in range(min(len(answers), most))]
    filled = fill({"": answers}, plan, num_rows=len(plan), row_tokens=section.row_tokens)
    reference = partial(
        Reference.of_rows, original, rows_at_once=micro_rows, chunk_bytes=settings.loss_bytes
    )
    references = {}
    if texts:
        references["held_out"] = reference(
            (shift_right(mx.array(each.targets), tokenizer.eos_id), each.counts)
            for each in texts.values()
        )
    if plan:
        references["answers"] = reference([(filled.inputs, filled.weights)])

    def measure(model: Any) -> dict[str, Any]:
        found = validation(model)
        if plan:
            loss = held_out_answers(
                model,
                answers,
                row_tokens=section.row_tokens,
                most_tokens=watch.evaluation_tokens,
                micro_rows=micro_rows,
                chunk_bytes=settings.loss_bytes,
            )
            found["answers_nats"] = loss["held_out_nats"]
        return found | {f"{name}_kl": each.kl(model) for name, each in references.items()}

    return measure
