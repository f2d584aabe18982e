"""A recipe: one model, from documents to finished weights, as typed settings.

A recipe is a TOML file. `load_recipe` reads it, applies `section.name=value` assignments, and
explains each mistake: file, line, key, value, what was expected, and the nearest key.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from afm_mlx.errors import RecipeError
from afm_mlx.settings.alignment import Itec, Member, Prefer, Reject, Reward, Rl, Sft
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.compression import Distill, Prune, Teacher
from afm_mlx.settings.mistakes import Origin, invalid_settings, not_toml
from afm_mlx.settings.mistakes import all_names as all_names
from afm_mlx.settings.mistakes import nearest as nearest
from afm_mlx.settings.mistakes import reason as reason
from afm_mlx.settings.palette import Adapter, Quantize, Recover
from afm_mlx.settings.sections import (
    Optimizer,
    Pretraining,
    Section,
    Shape,
    Source,
    SourceKind,
    Tokenizer,
    Training,
    Watch,
    rope_base,
)
from afm_mlx.settings.synthetic import Generated

AnySection = TypeVar("AnySection", bound=Section)

PRETRAINING_STAGES = ("core", "continued", "context")
POST_TRAINING_STAGES = ("sft", "reward", "prefer", "reject", "itec", "rl")
"""Each starts from the model of [sft] where there is one, and else from the one before it; rl
starts from that of [itec] where there is one."""

MEMBER_SECTIONS = {
    Member.REJECT: "sft",
    Member.DPO: "prefer",
    Member.IPO: "prefer",
    Member.RL: "rl",
}
"""Which section says how a member of the committee is trained."""

# Sections that are read and checked, and whose stages do not exist yet.
NOT_BUILT_YET = (
    "quantize",
    "recover",
    "adapters",
)


class Recipe(Section):
    """Everything that decides one model."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the recipe, and of its folder of runs."""
    about: str = ""
    """One line for `afm models`."""
    base: str = ""
    """Model that [core] starts from, in place of random weights: folder, GGUF file, hub id, recipe
    name, or smollm2. Its tokenizer is taken, too. Without [core], post-training starts from it."""
    shape: Shape
    """The network."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer."""
    data: dict[str, Source] = Field(default={})
    """Sources of documents, by name. Post-training of a finished model needs none."""
    clean: Clean | None = None
    """Steps that clean the documents."""
    optimizer: Optimizer = Optimizer()
    """The update rule."""
    training: Training = Training()
    """What every training stage shares."""
    watch: Watch = Watch()
    """Logs, validations, snapshots."""
    core: Pretraining | None = None
    """Stage 1: most tokens, mostly web. It may be absent where a finished teacher is pruned, or a
    finished `base` post-trained."""
    continued: Pretraining | None = None
    """Stage 2: longer rows, more code and mathematics."""
    context: Pretraining | None = None
    """Stage 3: context lengthening."""
    teacher: Teacher | None = None
    """The larger model to prune and distill from."""
    prune: Prune | None = None
    """Choosing the teacher's units that [core] starts with."""
    distill: Distill | None = None
    """Distillation during pre-training."""
    synthetic: dict[str, Generated] = Field(default={})
    """Conversations that the recipe makes itself, by name: `synthetic:NAME` in later sections."""
    sft: Sft | None = None
    """Supervised fine-tuning."""
    reward: Reward | None = None
    """The reward model."""
    prefer: Prefer | None = None
    """Preference training."""
    reject: Reject | None = None
    """Rejection sampling: the best of several answers, as conversations for [sft]."""
    itec: Itec | None = None
    """Rounds with a committee of models."""
    rl: Rl | None = None
    """Online reinforcement learning."""
    quantize: Quantize | None = None
    """Palettization."""
    recover: Recover | None = None
    """Accuracy-recovery adapters."""
    adapters: dict[str, Adapter] = Field(default={})
    """Product adapters, by name."""

    def pretraining(self, stage: str) -> Pretraining:
        """Section of a pre-training stage; it must be in the recipe. `teacher` trains like core."""
        section: Pretraining | None = getattr(self, "core" if stage == "teacher" else stage)
        if section is None:
            raise RecipeError(f"recipe '{self.name}' has no [{stage}]")
        if stage == "teacher" and self.teacher and self.teacher.tokens:
            return section.model_copy(update={"tokens": self.teacher.tokens})
        return section

    def pretraining_stages(self) -> list[str]:
        """Names of the pre-training stages that this recipe has, in order."""
        return [name for name in PRETRAINING_STAGES if getattr(self, name) is not None]

    def trained_stages(self) -> list[str]:
        """Names of all training stages that this recipe has, in order."""
        teacher, prune = ["teacher"] * self.trains_teacher(), ["prune"] * (self.prune is not None)
        return [*teacher, *prune, *self.pretraining_stages()]

    def post_training_stages(self) -> list[str]:
        """Names of the post-training stages that this recipe has, in order.

        A section without data has no stage of its own: it says how [itec] trains. Nor has
        [reward] with an [itec], which trains the reward model itself, unless [reject] needs it.
        """
        sections = {name: getattr(self, name) for name in POST_TRAINING_STAGES}
        found = [name for name, section in sections.items() if section and section.data]
        if self.itec is not None and not self.judged_by_reward_stage("reject"):
            found = [name for name in found if name != "reward"]
        return found

    def generated(self, stage: str) -> list[str]:
        """Names of the [synthetic.NAME] that a post-training stage reads."""
        sections = [getattr(self, name) for name in self.sections_of(stage)]
        sources = [source for section in sections if section for source in section.data.values()]
        return [source.generated for source in sources if source.generated]

    def sections_of(self, stage: str) -> tuple[str, ...]:
        """Sections that say what a post-training stage does."""
        return ("sft", "reward", "prefer", "itec", "rl") if stage == "itec" else (stage,)

    def judged_by_reward_stage(self, stage: str) -> bool:
        """Whether a stage asks the model of [reward] what answers are worth."""
        section: Reject | Rl | None = getattr(self, stage) if stage in ("reject", "rl") else None
        return section is not None and section.model_weight > 0 and not section.reward_model

    def trains_teacher(self) -> bool:
        """Whether the teacher is trained here, as a stage."""
        return self.teacher is not None and not self.teacher.model

    def start_of(self, stage: str) -> str | None:
        """Stage whose model a training stage starts from; `None` for random weights."""
        if stage == "teacher":
            return None
        if stage == "prune":
            return "teacher"
        first = "prune" if self.prune else "base" if self.base else None
        stages = self.pretraining_stages()
        if stage in POST_TRAINING_STAGES:
            if stage == "rl" and self.itec is not None:
                return "itec"
            if self.sft is not None and self.sft.data and stage != "sft":
                return "sft"
            return stages[-1] if stages else first
        number = stages.index(stage)
        return stages[number - 1] if number else first

    def shape_of(self, stage: str) -> Shape:
        """Shape of the model that a training stage leaves: its width, RoPE base and context."""
        if stage == "prune":
            return self.shape
        section = self.pretraining(stage)
        context = {"max_tokens": section.row_tokens}
        if stage == "teacher":
            assert self.teacher is not None
            wide = {"intermediate_size": self.teacher.intermediate_size}
            return self.shape.model_copy(update=wide | context)
        before = self.start_of(stage)
        if before == "base":
            context = {}  # a finished model keeps the context it has
        trained = self.shape_of(before) if before in PRETRAINING_STAGES else self.shape
        base = section.rope_base or trained.rope_base
        if stage == "context" and section.rope_base is None and before is not None:
            base = rope_base(trained.rope_base, trained.max_tokens, section.row_tokens)
        return self.shape.model_copy(update={"rope_base": base} | context)

    def distilled_stages(self) -> list[str]:
        """Pre-training stages that learn from the teacher, in order."""
        wanted = self.distill.stages if self.distill else ()
        return [name for name in self.pretraining_stages() if name in wanted]

    def prune_mixture(self) -> dict[str, float]:
        """Share of rows from each data source in mask learning."""
        if self.prune and self.prune.mixture:
            return dict(self.prune.mixture)
        return dict(self.core.mixture) if self.core else dict.fromkeys(self.data, 1.0)

    def longest_row(self) -> int:
        """Tokens in the longest row of texts of any stage: what held-out text is measured in."""
        rows = [self.pretraining(stage).row_tokens for stage in self.pretraining_stages()]
        return max(rows + ([self.prune.row_tokens] if self.prune else []))

    def not_built_yet(self) -> list[str]:
        """Sections of this recipe whose stages do not exist yet, in order."""
        return [name for name in NOT_BUILT_YET if getattr(self, name)]

    @model_validator(mode="after")
    def _names_are_plain(self) -> Self:
        for table in ("data", "synthetic", "adapters"):
            for name in getattr(self, table):
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                    raise ValueError(
                        f"{table} holds '{name}': a name has letters, digits, dashes, underscores"
                    )
        return self

    @model_validator(mode="after")
    def _clean_fits(self) -> Self:
        for step, names in (self.clean.sources if self.clean else {}).items():
            for name in names:
                if name not in self.data:
                    near = nearest(name, self.data)
                    raise ValueError(
                        f"clean.sources.{step} names '{name}', and there is no [data.{name}]"
                        + (f"; did you mean '{near}'?" if near else "")
                    )
        for name, source in self.data.items():
            if source.kind is SourceKind.WARC and not (self.clean and self.clean.extract):
                raise ValueError(f"data.{name} is of kind warc, and needs a [clean.extract]")
            if self.clean and name == "steps":
                raise ValueError("with [clean], no data source may be called 'steps'")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        stages: dict[str, Pretraining | Prune] = {
            stage: self.pretraining(stage) for stage in self.pretraining_stages()
        }
        for stage, section in (stages | ({"prune": self.prune} if self.prune else {})).items():
            for name in section.mixture:
                if name not in self.data:
                    near = nearest(name, self.data)
                    raise ValueError(
                        f"{stage}.mixture names '{name}', and there is no [data.{name}]"
                        + (f"; did you mean '{near}'?" if near else "")
                    )
            if section.row_tokens > self.shape.max_tokens:
                raise ValueError(
                    f"{stage}.row_tokens ({section.row_tokens:,}) is above "
                    f"shape.max_tokens ({self.shape.max_tokens:,})"
                )
            micro_rows = self.training.rows_at_once(section.rows_per_step)
            if section.rows_per_step % micro_rows:
                raise ValueError(
                    f"{stage}.rows_per_step ({section.rows_per_step}) must be a multiple of "
                    f"training.micro_rows ({micro_rows})"
                )
        return self

    @model_validator(mode="after")
    def _sft_fits(self) -> Self:
        if self.sft is None:
            return self
        if self.sft.row_tokens > self.shape.max_tokens:
            raise ValueError(
                f"sft.row_tokens ({self.sft.row_tokens:,}) is above "
                f"shape.max_tokens ({self.shape.max_tokens:,})"
            )
        micro_rows = self.training.rows_at_once(self.sft.rows_per_step)
        if self.sft.rows_per_step % micro_rows:
            raise ValueError(
                f"sft.rows_per_step ({self.sft.rows_per_step}) must be a multiple of "
                f"training.micro_rows ({micro_rows})"
            )
        return self

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        for name in ("reward", "prefer"):
            section = getattr(self, name)
            if section is not None and section.max_tokens > self.shape.max_tokens:
                raise ValueError(
                    f"{name}.max_tokens ({section.max_tokens:,}) is above "
                    f"shape.max_tokens ({self.shape.max_tokens:,})"
                )
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> Self:
        for name in ("reject", "itec", "rl"):
            section: Reject | Itec | Rl | None = getattr(self, name)
            if section is None:
                continue
            if section.max_tokens >= self.shape.max_tokens:
                raise ValueError(
                    f"{name}.max_tokens ({section.max_tokens:,}) leaves no room for a prompt in "
                    f"shape.max_tokens ({self.shape.max_tokens:,})"
                )
            if not isinstance(section, Itec) and self._lacks_reward(name):
                raise ValueError(
                    f"{name}.model_weight ({section.model_weight:g}) needs a [reward], or "
                    f"{name}.reward_model"
                )
        if self.rl is not None:
            answers = self.rl.prompts_per_step * self.rl.responses_per_prompt
            micro_rows = self.training.rows_at_once(answers)
            if answers % micro_rows:
                raise ValueError(
                    f"rl.prompts_per_step times rl.responses_per_prompt ({answers:,}) must be a "
                    f"multiple of training.micro_rows ({micro_rows})"
                )
        return self

    def _lacks_reward(self, stage: str) -> bool:
        """Whether a stage asks for a reward model that no stage before it makes."""
        made = self.reward is not None and (bool(self.reward.data) or self.itec is not None)
        return self.judged_by_reward_stage(stage) and not made

    @model_validator(mode="after")
    def _examples_are_there(self) -> Self:
        for name in POST_TRAINING_STAGES:
            section = getattr(self, name)
            if section is None:
                continue
            if not section.data and self.itec is None:
                raise ValueError(f"{name} needs a [{name}.data.NAME], or an [itec]")
            for source in section.data.values():
                if (wanted := source.generated) and wanted not in self.synthetic:
                    near = nearest(wanted, self.synthetic)
                    raise ValueError(
                        f"{name}.data names '{source.path}', and there is no [synthetic.{wanted}]"
                        + (f"; did you mean '{near}'?" if near else "")
                    )
        return self

    @model_validator(mode="after")
    def _itec_fits(self) -> Self:
        if self.itec is None:
            return self
        needed = {"sft", "reward"} | {MEMBER_SECTIONS[member] for member in self.itec.members}
        for name in sorted(needed):
            if getattr(self, name) is None:
                raise ValueError(f"itec needs a [{name}]: it says how a member is trained")
        return self

    @model_validator(mode="after")
    def _has_texts(self) -> Self:
        if not self.data and (self.core or self.prune):
            raise ValueError("the recipe has no [data.NAME], and it trains on texts")
        return self

    @model_validator(mode="after")
    def _has_a_core(self) -> Self:
        if self.core is None:
            pruned = self.prune and self.teacher and self.teacher.model
            if not pruned and not (self.base and self.post_training_stages()):
                raise ValueError("the recipe has no [core]")
            for stage in ("continued", "context", "distill"):
                if getattr(self, stage) is not None:
                    raise ValueError(f"{stage} needs a [core]")
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> Self:
        if self.teacher is None:
            for stage in ("prune", "distill"):
                if getattr(self, stage) is not None:
                    raise ValueError(f"{stage} needs a [teacher]")
            return self
        if self.distill and self.distill.asked > self.shape.vocab_size:
            raise ValueError(
                f"distill.candidates ({self.distill.asked:,}) is above "
                f"shape.vocab_size ({self.shape.vocab_size:,})"
            )
        wide, narrow = self.teacher.intermediate_size, self.shape.intermediate_size
        if self.prune and wide is None:
            raise ValueError("prune needs teacher.intermediate_size")
        if self.prune and self.base:
            raise ValueError(f"[core] starts from the pruned teacher, or from base ('{self.base}')")
        if wide is not None and wide < narrow:
            raise ValueError(
                f"teacher.intermediate_size ({wide:,}) is below "
                f"shape.intermediate_size ({narrow:,})"
            )
        return self


def recipe_files() -> dict[str, Path]:
    """The recipes that come with the toolkit, by name."""
    folder = Path(str(files("afm_models")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_named_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe of that name in the zoo, or of that `.toml` file, with `assignments` applied.

    Raises:
        RecipeError: no recipe has that name, or as `load_recipe`.
    """
    if name_or_path.endswith(".toml"):
        return load_recipe(Path(name_or_path), assignments)
    recipes = recipe_files()
    if name_or_path in recipes:
        return load_recipe(recipes[name_or_path], assignments)
    near = nearest(name_or_path, recipes)
    raise RecipeError(
        f"no recipe is called '{name_or_path}'",
        hint=f"did you mean '{near}'?"
        if near
        else f"there are {', '.join(recipes)}; a path must end in .toml",
    )


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe, then apply each `section.name=value`, left to right.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value is not allowed, or
            two settings contradict each other. The first two such keys are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {reason(error)}") from None
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise not_toml(error, path, text) from None
    settings.setdefault("name", path.stem)
    assigned = tuple(_assign(settings, assignment) for assignment in assignments)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise invalid_settings(error, Recipe, Origin(path, text, assigned)) from None


def load_section(
    model: type[AnySection], settings: Mapping[str, Any], assignments: Sequence[str] = ()
) -> AnySection:
    """A section on its own: of `settings`, then with each `name=value` applied, left to right.

    Raises:
        RecipeError: as `load_recipe`.
    """
    given = copy.deepcopy(dict(settings))  # presets are everyone's
    assigned = tuple(_assign(given, assignment) for assignment in assignments)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid_settings(error, model, Origin(Path("--set"), "", assigned)) from None


def _assign(settings: dict[str, Any], assignment: str) -> str:
    """Put `section.name=value` into `settings`, and give the name back.

    The value is TOML; what is not TOML is text.
    """
    name, equals, value = (part.strip() for part in assignment.partition("="))
    *sections, key = name.split(".")
    if not equals or not all([*sections, key]):
        raise RecipeError(f"--set: '{assignment}' is not NAME=VALUE", hint="try --set core.lr=0.02")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set: '{name}' goes through '{section}', which holds no settings")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    table[key] = parsed["value"] if parsed.keys() == {"value"} else value
    return name
