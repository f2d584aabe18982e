"""What the sections of a recipe must agree on: each check raises ValueError with both values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from afm_mlx.settings.alignment import (
    MEMBER_SECTIONS,
    POST_TRAINING_STAGES,
    FineTuning,
    Itec,
    Reject,
    Rl,
)
from afm_mlx.settings.compression import Prune
from afm_mlx.settings.evaluation import HELD_OUT
from afm_mlx.settings.mistakes import nearest
from afm_mlx.settings.palette import Recover, RecoverMethod
from afm_mlx.settings.sections import Pretraining, Shard, SourceKind

if TYPE_CHECKING:
    from afm_mlx.settings.recipe import Recipe


PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""Names that a recipe gives to its sources, generated data and adapters."""


def check_sections(recipe: Recipe) -> None:
    """Raise ValueError at the first contradiction between two sections."""
    for check in _CHECKS:
        check(recipe)


def _names_are_plain(recipe: Recipe) -> None:
    for table in ("data", "synthetic", "adapters"):
        for name in getattr(recipe, table):
            if not re.fullmatch(PLAIN_NAME, name):
                raise ValueError(
                    f"{table} holds '{name}': a name has letters, digits, dashes, underscores"
                )


def _clean_fits(recipe: Recipe) -> None:
    for step, names in (recipe.clean.sources if recipe.clean else {}).items():
        for name in names:
            if name not in recipe.data:
                near = nearest(name, recipe.data)
                raise ValueError(
                    f"clean.sources.{step} names '{name}', and there is no [data.{name}]"
                    + (f"; did you mean '{near}'?" if near else "")
                )
    for name, source in recipe.data.items():
        if source.kind is SourceKind.WARC and not (recipe.clean and recipe.clean.extract):
            raise ValueError(f"data.{name} is of kind warc, and needs a [clean.extract]")
        if recipe.clean and name == "steps":
            raise ValueError("with [clean], no data source may be called 'steps'")


def _stages_fit(recipe: Recipe) -> None:
    stages: dict[str, Pretraining | Prune] = {
        stage: recipe.pretraining(stage) for stage in recipe.pretraining_stages()
    }
    stages |= {"prune": recipe.prune} if recipe.prune else {}
    for name, section in stages.items():
        _check_mixture(recipe, name, section.mixture)
        _check_rows(recipe, name, section.row_tokens, section.rows_per_step)


def _rows_fit(recipe: Recipe) -> None:
    sections: dict[str, FineTuning | Recover] = {"sft": recipe.sft} if recipe.sft else {}
    sections |= {"recover": recipe.recover} if recipe.recover else {}
    sections |= {f"adapters.{name}": adapter for name, adapter in recipe.adapters.items()}
    for name, section in sections.items():
        _check_rows(recipe, name, section.row_tokens, section.rows_per_step)


def _check_mixture(recipe: Recipe, section: str, mixture: Iterable[str]) -> None:
    """Raise where a section takes texts from a source that the recipe has not."""
    for name in mixture:
        if name not in recipe.data:
            near = nearest(name, recipe.data)
            raise ValueError(
                f"{section}.mixture names '{name}', and there is no [data.{name}]"
                + (f"; did you mean '{near}'?" if near else "")
            )


def _check_rows(recipe: Recipe, section: str, row_tokens: int, rows_per_step: int) -> None:
    """Raise where rows are longer than the context, or no whole number of micro-batches."""
    if row_tokens > recipe.shape.max_tokens:
        raise ValueError(
            f"{section}.row_tokens ({row_tokens:,}) is above "
            f"shape.max_tokens ({recipe.shape.max_tokens:,})"
        )
    micro_rows = recipe.training.rows_at_once(rows_per_step)
    if rows_per_step % micro_rows:
        raise ValueError(
            f"{section}.rows_per_step ({rows_per_step}) must be a multiple of "
            f"training.micro_rows ({micro_rows})"
        )


def _pairs_fit(recipe: Recipe) -> None:
    for name in ("reward", "prefer"):
        section = getattr(recipe, name)
        if section is not None and section.max_tokens > recipe.shape.max_tokens:
            raise ValueError(
                f"{name}.max_tokens ({section.max_tokens:,}) is above "
                f"shape.max_tokens ({recipe.shape.max_tokens:,})"
            )


def _answers_fit(recipe: Recipe) -> None:
    for name in ("reject", "itec", "rl"):
        section: Reject | Itec | Rl | None = getattr(recipe, name)
        if section is None:
            continue
        if section.max_tokens >= recipe.shape.max_tokens:
            raise ValueError(
                f"{name}.max_tokens ({section.max_tokens:,}) leaves no room for a prompt in "
                f"shape.max_tokens ({recipe.shape.max_tokens:,})"
            )
        if not isinstance(section, Itec) and _lacks_reward(recipe, name):
            raise ValueError(
                f"{name}.model_weight ({section.model_weight:g}) needs a [reward], or "
                f"{name}.reward_model"
            )
    if recipe.rl is not None:
        answers = recipe.rl.prompts_per_step * recipe.rl.responses_per_prompt
        micro_rows = recipe.training.rows_at_once(answers)
        if answers % micro_rows:
            raise ValueError(
                f"rl.prompts_per_step times rl.responses_per_prompt ({answers:,}) must be a "
                f"multiple of training.micro_rows ({micro_rows})"
            )


def _examples_are_there(recipe: Recipe) -> None:
    for name in POST_TRAINING_STAGES:
        section = getattr(recipe, name)
        if section is not None and not section.data and recipe.itec is None:
            raise ValueError(f"{name} needs a [{name}.data.NAME], or an [itec]")
    named = {name: getattr(recipe, name) for name in (*POST_TRAINING_STAGES, "recover")}
    named |= {f"adapters.{name}": adapter for name, adapter in recipe.adapters.items()}
    for name, section in named.items():
        for source in section.data.values() if section is not None else ():
            if (wanted := source.generated) and wanted not in recipe.synthetic:
                near = nearest(wanted, recipe.synthetic)
                raise ValueError(
                    f"{name}.data names '{source.path}', and there is no [synthetic.{wanted}]"
                    + (f"; did you mean '{near}'?" if near else "")
                )


def _itec_fits(recipe: Recipe) -> None:
    if recipe.itec is None:
        return
    needed = {"sft", "reward"} | {MEMBER_SECTIONS[member] for member in recipe.itec.members}
    for name in sorted(needed):
        if getattr(recipe, name) is None:
            raise ValueError(f"itec needs a [{name}]: it says how a member is trained")


def _has_texts(recipe: Recipe) -> None:
    if not recipe.data and (recipe.core or recipe.prune):
        raise ValueError("the recipe has no [data.NAME], and it trains on texts")


def _has_a_core(recipe: Recipe) -> None:
    if recipe.core is None:
        pruned = recipe.prune and recipe.teacher and recipe.teacher.model
        later = [*recipe.post_training_stages(), *recipe.finishing_stages()]
        if not pruned and not (recipe.base and later):
            raise ValueError("the recipe has no [core]")
        for stage in ("continued", "context", "distill"):
            if getattr(recipe, stage) is not None:
                raise ValueError(f"{stage} needs a [core]")


def _teacher_fits(recipe: Recipe) -> None:
    if recipe.teacher is None:
        for stage in ("prune", "distill"):
            if getattr(recipe, stage) is not None:
                raise ValueError(f"{stage} needs a [teacher]")
        return
    if recipe.distill and recipe.distill.asked > recipe.shape.vocab_size:
        raise ValueError(
            f"distill.candidates ({recipe.distill.asked:,}) is above "
            f"shape.vocab_size ({recipe.shape.vocab_size:,})"
        )
    wide, narrow = recipe.teacher.intermediate_size, recipe.shape.intermediate_size
    if recipe.prune and wide is None:
        raise ValueError("prune needs teacher.intermediate_size")
    if recipe.prune and recipe.base:
        raise ValueError(f"[core] starts from the pruned teacher, or from base ('{recipe.base}')")
    if wide is not None and wide < narrow:
        raise ValueError(
            f"teacher.intermediate_size ({wide:,}) is below shape.intermediate_size ({narrow:,})"
        )


def _recovery_fits(recipe: Recipe) -> None:
    section = recipe.recover
    if section is None:
        return
    taught = recipe.base and recipe.teacher and recipe.teacher.model
    if section.method is RecoverMethod.QAT:
        if recipe.quantize is not None:
            raise ValueError("recover.method 'qat' rounds weights itself: leave out [quantize]")
    elif recipe.quantize is None and not taught:
        raise ValueError(
            "recover needs a [quantize], or a quantized base and the teacher.model it was made of"
        )
    if not recipe.data and not section.data:
        raise ValueError("recover needs a [data.NAME] or a [recover.data.NAME]")
    if section.candidates > recipe.shape.vocab_size:
        raise ValueError(
            f"recover.candidates ({section.candidates:,}) is above "
            f"shape.vocab_size ({recipe.shape.vocab_size:,})"
        )
    _check_mixture(recipe, "recover", section.mixture)


def _adapters_fit(recipe: Recipe) -> None:
    for name, section in recipe.adapters.items():
        if name == "none":
            raise ValueError("adapters holds 'none', which stands for the model without any")
        if recipe.recover and section.rank not in recipe.recover.ranks:
            raise ValueError(
                f"adapters.{name}.rank ({section.rank}) is not one of "
                f"recover.ranks {recipe.recover.ranks}"
            )


def _evaluation_fits(recipe: Recipe) -> None:
    known = recipe.stages_with_models()
    for name, task in recipe.eval.tasks.items() if recipe.eval else ():
        if not re.fullmatch(PLAIN_NAME, name):
            raise ValueError(
                f"eval.tasks holds '{name}': a name has letters, digits, dashes, underscores"
            )
        for stage in task.stages:
            if stage not in known:
                near = nearest(stage, known)
                raise ValueError(
                    f"eval.tasks.{name} asks stage '{stage}', which leaves no model here"
                    + (f"; did you mean '{near}'?" if near else "")
                )
        if task.path == HELD_OUT and not any(
            source.held_out_fraction for source in recipe.data.values()
        ):
            raise ValueError(f"eval.tasks.{name} reads held-out texts, and no [data] keeps any")


def _samplers_fit(recipe: Recipe) -> None:
    shard = recipe.training.shard
    if recipe.rl and recipe.rl.sampling_lag and shard is not Shard.NONE:
        raise ValueError(
            f"rl.sampling_lag is 1, so one rank has all weights, and training.shard is '{shard}'"
        )


def _lacks_reward(recipe: Recipe, stage: str) -> bool:
    """Whether a stage asks for a reward model that no stage before it makes."""
    made = recipe.reward is not None and (bool(recipe.reward.data) or recipe.itec is not None)
    return recipe.judged_by_reward_stage(stage) and not made


_CHECKS = (
    _names_are_plain,
    _clean_fits,
    _stages_fit,
    _rows_fit,
    _pairs_fit,
    _answers_fit,
    _samplers_fit,
    _examples_are_there,
    _itec_fits,
    _has_texts,
    _has_a_core,
    _teacher_fits,
    _recovery_fits,
    _adapters_fit,
    _evaluation_fits,
)
