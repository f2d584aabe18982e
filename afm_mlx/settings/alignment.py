"""Sections of the stages that turn a base model into an assistant.

Sizes and learning rates have no default: a recipe states them. Constants of an algorithm do.
Source keys: R24 is arXiv:2407.21075; LS and OB are notes on it. `Ours`: nobody has published it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section

GENERATED = "synthetic:"
"""Begins the path of examples that the recipe's own [synthetic.NAME] makes."""

Probability = Annotated[float, Field(gt=0.5, lt=1)]


class Examples(Section):
    """A file of examples."""

    path: str

    def file(self, inputs: Mapping[str, Path]) -> Path:
        """Where the examples are; `inputs` has the folders of the stages before, by name."""
        if name := self.generated:
            return inputs["synthetic"] / f"{name}.jsonl"
        return Path(self.path).expanduser()

    @property
    def generated(self) -> str:
        """Name of the [synthetic.NAME] that is meant; empty for a file."""
        return self.path.removeprefix(GENERATED) if self.path.startswith(GENERATED) else ""


class Conversations(Examples):
    """One file of conversations, such as `[sft.data.NAME]`."""

    path: str
    """JSONL of conversations: ours, mlx-lm's, or that of Apple's adapter toolkit; or
    `synthetic:NAME`, what [synthetic.NAME] makes."""
    weight: Positive = 1.0
    """How often an epoch goes through the file: 1 is once; 0.5 is through one half of it, and in
    the next epoch through the other."""


class FineTuning(Section):
    """Training on conversations, of all weights or of an adapter: what the assistant says."""

    data: dict[str, Conversations] = Field(default={})
    """Files of conversations, by name."""
    lr: Positive
    """Learning rate."""
    final_lr_fraction: Fraction = 1.0
    """Learning rate at the end of the cosine, as a share of `lr`, 0 to 1; at 1 it is constant.
    Source: LS, OB; constant."""
    row_tokens: Annotated[int, Field(ge=8)]
    """Tokens in a row, at least 8. Conversations are packed into rows; longer ones are dropped and
    counted."""
    rows_per_step: Count
    """Rows of one optimizer step."""
    epochs: Count
    """Passes over the conversations."""
    dropout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of residual branch values set to zero, 0 to below 1. Source: LS, OB; the place is
    ours."""
    weight_decay: NotNegative = 0.0
    """Decoupled decay per step; not times the learning rate with `afm`. Ours."""
    document_mask: bool = True
    """Packed conversations do not see each other. Ours."""
    held_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of conversations, 0 to below 1, never trained on; the model is measured on them before
    and after. Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no conversation, instead of stopping at one."""


class Sft(FineTuning):
    """Supervised fine-tuning on demonstrations: what the assistant says in conversations."""

    data: dict[str, Conversations] = Field(default={})
    """Files of conversations, by name. Without any, the section only says how [itec] trains."""
    lr: Positive
    """Learning rate. Source: LS, OB; 2e-5 on the device, 5e-6 on the server."""


class PreferenceLevels(Section):
    """Probability that the preferred answer is better, by strength of preference. Source: LS."""

    significantly_better: Probability = 0.95
    """Above 0.5 and below 1; its best reward gap is logit(0.95) = 2.944. Source: LS."""
    better: Probability = 0.85
    """As above; best gap 1.735. Source: LS."""
    slightly_better: Probability = 0.75
    """As above; best gap 1.099. Source: LS."""
    negligibly_better: Probability = 0.65
    """As above; best gap 0.619. Source: LS."""

    @model_validator(mode="after")
    def _stronger_is_surer(self) -> Self:
        levels = [
            self.significantly_better,
            self.better,
            self.slightly_better,
            self.negligibly_better,
        ]
        if levels != sorted(levels, reverse=True):
            raise ValueError(
                f"significantly_better to negligibly_better ({', '.join(f'{p:g}' for p in levels)})"
                " must not rise"
            )
        return self


class Comparisons(Examples):
    """One file of comparisons, `[reward.data.NAME]` or `[prefer.data.NAME]`."""

    path: str
    """JSONL of comparisons: a prompt, the preferred answer, the other one."""
    weight: Positive = 1.0
    """How often an epoch goes through the file: 1 is once, 2 twice, 0.5 through half of it."""


class PairTraining(Section):
    """What training on pairs of answers has in common."""

    data: dict[str, Comparisons] = Field(default={})
    """Files of comparisons, by name. Without any, the section only says how [itec] trains."""
    lr: Positive
    """Peak learning rate."""
    pairs_per_step: Count
    """Preference pairs of one optimizer step."""
    max_tokens: Count
    """Longest prompt plus answer, in tokens; pairs with a longer one are dropped and counted."""
    epochs: Count = 1
    """Passes over the pairs. Ours."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps, 0 to 1, in which the learning rate rises to its peak. Ours."""
    final_lr_fraction: Fraction = 0.1
    """Learning rate at the end of the cosine, as a share of the peak, 0 to 1. Ours."""
    weight_decay: NotNegative = 0.0
    """Decoupled decay per step; not times the learning rate with `afm`. Ours."""
    skip_norm: Positive = 1e6
    """Takes the place of `optimizer.skip_norm`: the gradient of a pair is that of whole answers, up
    to thousands of tokens, and IPO's begins ten times larger still. Ours."""
    held_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of prompts, 0 to below 1, never trained on; the model is measured on their pairs before
    and after. Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no comparison, instead of stopping at one."""


class Reward(PairTraining):
    """The reward model: one scalar, and four graded qualities beside it."""

    head_lr_factor: Positive = 10.0
    """Learning rate of the heads, which start anew, as a multiple of `lr`. Ours."""
    grade_weight: NotNegative = 0.1
    """Weight of each grade's cross entropy beside the ranking loss. Ours; R24 gives no value."""
    likelihood_weight: NotNegative = 0.0
    """Weight, in the reward itself, of the mean log-probability of the answer's tokens: the model
    then judges by what it knows from the first step on. Ours; R24's reward has no such term."""
    grades: tuple[str, ...] = (
        "instruction_following",
        "verbosity",
        "truthfulness",
        "harmlessness",
    )
    """Qualities that people grade in each answer. Source: LS."""
    grade_classes: Count = 3
    """Classes of one grade. Source: LS."""
    grade_width_divisor: Count = 4
    """A grade's hidden layer is this many times narrower than the model. Ours."""
    levels: PreferenceLevels = PreferenceLevels()
    """Target probability of each strength of preference."""


class PreferenceMethod(StrEnum):
    """Losses on preference pairs."""

    DPO = "dpo"
    IPO = "ipo"


class Prefer(PairTraining):
    """Preference training on pairs of answers."""

    method: PreferenceMethod = PreferenceMethod.DPO
    """Loss to use."""
    beta: Positive = 0.1
    """DPO's pull towards the reference; unitless. Ours, as in arXiv:2305.18290."""
    tau: Positive = 0.1
    """IPO's regularization; unitless. Ours, as in arXiv:2310.12036."""


class RatioMode(StrEnum):
    """Where the ratio of new to old policy is taken."""

    SEQUENCE = "sequence"
    TOKEN = "token"


class Rl(Section):
    """Online reinforcement learning by MDLOO: mirror descent with a leave-one-out baseline."""

    data: dict[str, Conversations] = Field(default={})
    """Files of conversations, by name: what the user says last is asked, and what follows is
    ignored. Weights do not count: a round takes from all prompts alike. Without any, the section
    only says how [itec] trains."""
    lr: Positive
    """Learning rate, constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of linear warm-up. Ours."""
    rounds: Count
    """Rounds: answers are sampled, and the model takes `updates_per_batch` steps on them."""
    max_tokens: Count
    """Longest answer, in tokens; longer ones are cut."""
    prompts_per_step: Count
    """Prompts sampled before each round of updates."""
    responses_per_prompt: Annotated[int, Field(ge=2)]
    """Responses to each prompt; the baseline of one is the mean of the others, so at least 2."""
    updates_per_batch: Count
    """Optimizer steps on one batch of responses."""
    sampling_lag: Literal[0, 1] = 0
    """Rounds that the policy which samples is behind. 0: it is the one that a round begins with. 1:
    the one that the round before began with, so that of several ranks one can train while the
    others sample; the result does not depend on their number. Ours."""
    reference_pull: NotNegative
    """Beta: weight of the divergence from the reference inside the reward; unitless."""
    step_pull: NotNegative
    """Gamma: weight of the divergence from the sampling policy; unitless."""
    temperature: Positive = 1.0
    """Sampling temperature. The objective needs 1."""
    ratio: RatioMode = RatioMode.SEQUENCE
    """sequence: one ratio per response; token: one per token, for long responses. Ours."""
    log_ratio_limit: Positive = 5.0
    """Largest absolute logarithm of a response's ratio, in nats. Ours."""
    stored_logits: Count = 64
    """Largest logits of each token kept for the divergence in token mode. Ours."""
    check_weight: NotNegative = 1.0
    """Weight of a prompt's check in the reward, which says 0 to 1. Ours."""
    model_weight: NotNegative = 0.0
    """Weight of the reward model in the reward; 0 needs none. Ours."""
    reward_model: str = ""
    """Folder of the reward model. Absent: that of [reward]."""
    length_penalty: NotNegative = 0.0
    """Taken from the reward of an answer of `max_tokens`, from shorter ones in proportion. Ours."""
    truncation_penalty: NotNegative = 0.0
    """Taken from the reward of an answer that was cut; needs `mask_truncated = false`. Ours."""
    mask_truncated: bool = True
    """Answers that were cut train nothing, and are in nobody's baseline. Ours."""
    held_out_prompts: Annotated[int, Field(ge=0)] = 64
    """Prompts, at most a tenth of all, that are never trained on; the model is measured on them.
    Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no conversation, instead of stopping at one."""

    @model_validator(mode="after")
    def _rewards_fit(self) -> Self:
        if not self.check_weight and not self.model_weight:
            raise ValueError("check_weight and model_weight are both 0: nothing is rewarded")
        if self.truncation_penalty and self.mask_truncated:
            raise ValueError(
                f"truncation_penalty ({self.truncation_penalty:g}) needs mask_truncated = false: "
                "answers that are masked train nothing"
            )
        return self


class Reject(Section):
    """Rejection sampling: several answers to each prompt, of which the best is kept."""

    data: dict[str, Conversations] = Field(min_length=1)
    """Files of conversations, by name: what the user says last is asked, and what follows is
    ignored. Weights do not count."""
    answers_per_prompt: Count = 4
    """Answers to choose from. Ours."""
    max_tokens: Count
    """Longest answer, in tokens; one that is cut is never kept."""
    temperature: Positive = 0.8
    """Sampling temperature. Ours."""
    least_score: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Least share of its check that an answer must pass to be kept. Ours."""
    model_weight: NotNegative = 0.0
    """Weight of the reward model beside the check; 0 needs none. Ours."""
    reward_model: str = ""
    """Folder of the reward model. Absent: that of [reward]."""
    length_penalty: NotNegative = 0.0
    """As in `[rl]`: decides between answers that pass. Ours."""
    prompts_at_once: Count = 64
    """Prompts of one part of the work; an interrupted run repeats at most one. Decides the draws,
    too. Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no conversation, instead of stopping at one."""


class Member(StrEnum):
    """Ways to train a member of the committee."""

    REJECT = "reject"
    DPO = "dpo"
    IPO = "ipo"
    RL = "rl"


class Itec(Section):
    """Committee rounds: many models answer, the reward model picks, the next models learn.

    Members are trained as [sft], [prefer] and [rl] say, and the reward model as [reward] does.
    """

    data: dict[str, Conversations] = Field(min_length=1)
    """Files of conversations, by name: what the user says last is asked, and what follows is
    ignored. Weights do not count."""
    rounds: Count
    """Rounds, at most."""
    prompts_per_round: Count
    """Prompts that the committee answers in a round."""
    max_tokens: Count
    """Longest answer, in tokens; one that is cut is never picked."""
    answers_per_member: Count = 4
    """Answers that each member gives to a prompt. Ours."""
    temperature: Positive = 0.8
    """Sampling temperature of the answers. Ours."""
    members: Annotated[tuple[Member, ...], Field(min_length=1)] = tuple(Member)
    """Models that each round trains. Source: R24; fine-tuned on picked answers (reject), by DPO,
    by IPO, by reinforcement learning."""
    committee_size: Annotated[int, Field(ge=2)] = 5
    """Models in the committee, at most: the best of all rounds. Ours."""
    pairs_per_prompt: Count = 2
    """Pairs of answers to one prompt that are compared, at most. Ours."""
    newest_weight: Positive = 2.0
    """Weight of the newest comparisons when the reward model is trained again. Ours."""
    held_out_prompts: Annotated[int, Field(ge=1)] = 64
    """Prompts, at most a tenth of all, that are never trained on; members are measured on them.
    Ours."""
    device_answers: Count
    """Prompts, at most, that the last committee answers for the final fine-tuning. Source: R24,
    more than a million."""
    final_weight: Positive = 1.0
    """Weight of these answers beside the conversations of [sft]. Ours."""
    skip_bad: bool = False
    """Leave out, name and count lines that are no conversation, instead of stopping at one."""


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
