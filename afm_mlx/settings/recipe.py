"""A whole recipe: one section per part of the model's making, and which stages follow from them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from afm_mlx.errors import RecipeError
from afm_mlx.settings.agreement import check_sections
from afm_mlx.settings.alignment import (
    POST_TRAINING_STAGES,
    Examples,
    Itec,
    Prefer,
    Reject,
    Reward,
    Rl,
    Sft,
)
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.compression import Distill, Prune, Teacher
from afm_mlx.settings.evaluation import Eval
from afm_mlx.settings.palette import Adapter, Quantize, Recover, RecoverMethod
from afm_mlx.settings.sections import (
    Optimizer,
    Pretraining,
    Section,
    Shape,
    Source,
    Tokenizer,
    Training,
    Watch,
    rope_base,
)
from afm_mlx.settings.synthetic import Generated

PRETRAINING_STAGES = ("core", "continued", "context")

ADAPTER = "adapter-"
"""Begins the name of the stage of a product adapter."""


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
    eval: Eval | None = None
    """Tasks that the models of all stages are asked at the end."""

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

    def finishing_stages(self) -> list[str]:
        """Names of the stages that make the finished model smaller, and its adapters, in order."""
        smaller = [name for name in ("quantize", "recover") if getattr(self, name) is not None]
        return smaller + [f"{ADAPTER}{name}" for name in self.adapters]

    def evaluated_stages(self) -> list[str]:
        """Stages whose models or adapters the tasks of [eval] are asked, in order."""
        tasks = self.eval.tasks.values() if self.eval else ()
        return [name for name in self.stages_with_models() if any(t.asks(name) for t in tasks)]

    def stages_with_models(self) -> list[str]:
        """Stages that leave a model that answers, or an adapter, in order."""
        base = ["base"] if self.base else []
        aligned = self._stages_with_assistants()
        return [*base, *self.trained_stages(), *aligned, *self.finishing_stages()]

    def _stages_with_assistants(self) -> list[str]:
        """Post-training stages that leave a model that answers, in order."""
        return [name for name in self.post_training_stages() if name not in ("reward", "reject")]

    def generated(self, stage: str) -> list[str]:
        """Names of the [synthetic.NAME] that a stage reads."""
        return [source.generated for source in self.examples_of(stage) if source.generated]

    def examples_of(self, stage: str) -> list[Examples]:
        """Files of examples that a post-training or finishing stage reads."""
        sections = [self.section(name) for name in self.sections_of(stage)]
        return [each for section in sections for each in getattr(section, "data", {}).values()]

    def sections_of(self, stage: str) -> tuple[str, ...]:
        """Sections, as dotted names, that say what a post-training or finishing stage does."""
        if stage == "itec":
            return ("sft", "reward", "prefer", "itec", "rl")
        if stage.startswith(ADAPTER):
            return (f"adapters.{stage.removeprefix(ADAPTER)}",)
        return (stage,)

    def section(self, name: str) -> Section | None:
        """The section of a dotted name; None where the recipe has none."""
        table, _, inner = name.partition(".")
        found = getattr(self, table)
        section: Section | None = found.get(inner) if inner else found
        return section

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
        if stage in self.finishing_stages():
            before = {"quantize": (), "recover": ("quantize",)}.get(stage, ("recover", "quantize"))
            made = [name for name in before if getattr(self, name) is not None]
            return made[0] if made else self.trained_last()
        if stage in POST_TRAINING_STAGES:
            if stage == "rl" and self.itec is not None:
                return "itec"
            if self.sft is not None and self.sft.data and stage != "sft":
                return "sft"
            return stages[-1] if stages else first
        number = stages.index(stage)
        return stages[number - 1] if number else first

    def trained_last(self) -> str | None:
        """Stage that leaves the model at the end of all training."""
        stages = [*self.pretraining_stages(), *self._stages_with_assistants()]
        return stages[-1] if stages else "prune" if self.prune else "base" if self.base else None

    def compared_with(self) -> str | None:
        """Stage of the 16-bit model that [recover] learns from."""
        rounds = self.recover is not None and self.recover.method is RecoverMethod.QAT
        return self.trained_last() if rounds or self.quantize is not None else "teacher"

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

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_sections(self)
        return self
