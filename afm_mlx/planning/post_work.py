"""What post-training stages do: steps, tokens, operations, time, from the recipe and its files.

Answers are taken to be as long as they may be, and every prompt to give all that it can: so what
is sampled is an upper bound. Validations are not counted, as in pre-training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from afm_mlx.planning.answers import (
    TRAIN,
    Work,
    computing,
    head_parameters,
    learning_flops,
    read,
    write,
)
from afm_mlx.planning.cost import flops_per_token
from afm_mlx.planning.examples import ASSUMED_TOKENS, Size, absent
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import Itec, RatioMode, Reject, Rl

PROMPT_SHARE = 1 / 3  # of a line of comparisons, and as much each answer; ours

ONE = "one step"
LONGEST = "answers of {:,} tokens, the longest: an upper bound"
PAIRS = "prompt and answer of {:,} tokens, the longest: an upper bound; half is the answer"
FULL = "rows are full"
THIRDS = "prompt and answers are a third of a line each"


@dataclass(frozen=True)
class Course:
    """What a stage does."""

    of: str
    """What the work is of: empty for the whole stage; else a part, such as `one step`, because the
    number of parts depends on `missing`."""
    missing: tuple[str, ...]
    """Files that decide how much is to be done, and are not there."""
    steps: int | None
    """Optimizer steps; None: they depend on data; 0: nothing is trained."""
    rounds: int
    """Rounds; 0 where there are none."""
    work: tuple[Work, ...]
    assumptions: tuple[str, ...]
    """What the numbers rest on, in sentences."""


@dataclass(frozen=True)
class Costs:
    """Costs the stages of a recipe on a machine."""

    recipe: Recipe
    hardware: Hardware
    sizes: Mapping[str, Size]
    """What the files of each section hold, by its name."""

    def course(self, stage: str) -> Course:
        """What a stage other than itec does."""
        if stage == "sft":
            return self._sft()
        if stage == "reject":
            return self._reject()
        return self._rl() if stage == "rl" else self._pairs(stage)

    def prompt_tokens(self, stage: str) -> int:
        """Tokens of a prompt of a stage that samples, estimated or assumed."""
        section: Reject | Itec | Rl = getattr(self.recipe, stage)
        room = self.recipe.shape.max_tokens - section.max_tokens
        return max(1, min(room, ceil(self.sizes[stage].line_tokens)))

    def pair_answer_tokens(self, stage: str) -> int:
        """Tokens of a prompt with one answer; the longest allowed where no file is there."""
        longest: int = getattr(self.recipe, stage).max_tokens
        size = self.sizes[stage]
        if not size.distinct:
            return longest
        return min(longest, ceil((1 + PROMPT_SHARE) / 2 * size.line_tokens))

    def _sft(self) -> Course:
        size, section = self.sizes["sft"], self.recipe.sft
        assert section is not None
        if size.lines is None:
            return Course(ONE, size.missing, None, 0, (self.rows("training", 1),), size.how)
        kept = size.lines * (1 - section.held_out_fraction)
        steps = self.sft_steps(kept * size.line_tokens)
        return Course("", (), steps, 0, (self.rows("training", steps),), (*size.how, FULL))

    def sft_steps(self, tokens: float) -> int:
        """Optimizer steps of fine-tuning on examples of so many tokens in all."""
        section = self.recipe.sft
        assert section is not None
        rows = section.epochs * ceil(tokens / section.row_tokens)
        return ceil(rows / section.rows_per_step)

    def rows(self, name: str, steps: int) -> Work:
        """Fine-tuning for so many steps."""
        section, recipe = self.recipe.sft, self.recipe
        assert section is not None
        again = recipe.training.activation_checkpointing
        per_token = flops_per_token(recipe.shape, section.row_tokens, recompute=again)
        tokens = steps * section.rows_per_step * section.row_tokens
        flops = tokens * sum(per_token.values())
        how = f"{steps:,} x {section.rows_per_step:,} rows of {section.row_tokens:,}"
        return Work(name, TRAIN, tokens, flops, computing(self.hardware, flops), how)

    def _pairs(self, stage: str) -> Course:
        size, section = self.sizes[stage], getattr(self.recipe, stage)
        tokens = self.pair_answer_tokens(stage)
        if size.lines is None:
            work = self.compare(stage, 1, section.pairs_per_step, tokens)
            how = (*size.how, THIRDS) if size.distinct else (PAIRS.format(tokens),)
            return Course(ONE, size.missing, None, 0, tuple(work), how)
        kept = 1 - section.held_out_fraction
        steps = self.pair_steps(stage, kept * size.lines)
        work = self.compare(stage, steps, kept * size.distinct, tokens)
        return Course("", (), steps, 0, tuple(work), (*size.how, THIRDS))

    def pair_steps(self, stage: str, drawn: float) -> int:
        """Optimizer steps on pairs of answers, of which an epoch draws so many."""
        section = getattr(self.recipe, stage)
        return ceil(section.epochs * drawn / section.pairs_per_step)

    def compare(self, stage: str, steps: int, distinct: float, tokens: int) -> list[Work]:
        """Training on pairs of answers, each with its prompt of `tokens` tokens.

        The reference of `prefer` reads the `distinct` ones once, before.
        """
        section, shape = getattr(self.recipe, stage), self.recipe.shape
        answers, half = 2 * section.pairs_per_step * steps, ceil(tokens / 2)
        logits = half * answers if stage == "prefer" else 0
        again = self.recipe.training.activation_checkpointing
        flops = learning_flops(shape, answers * tokens, tokens, logits, recompute=again)
        if stage == "reward":
            flops += 6.0 * head_parameters(shape, section) * answers
        how = f"{steps:,} x {section.pairs_per_step:,} pairs, 2 x {tokens:,} tokens each"
        seconds = computing(self.hardware, flops)
        training = Work("training", TRAIN, answers * tokens, flops, seconds, how)
        if stage == "reward":
            return [training]
        texts = 2 * ceil(distinct)
        reference = read(
            "reference",
            shape,
            self.hardware,
            texts=texts,
            tokens=tokens,
            logits=half,
            how=f"{texts:,} x {tokens:,} tokens, once",
        )
        return [reference, training]

    def _reject(self) -> Course:
        size, section = self.sizes["reject"], self.recipe.reject
        assert section is not None
        count = section.prompts_at_once if size.lines is None else ceil(size.distinct)
        prompt = self.prompt_tokens("reject")
        answers = count * section.answers_per_prompt
        work = [*self.write(count, answers, prompt, section.max_tokens)]
        if section.model_weight:
            work.append(self.judge(answers, prompt + section.max_tokens))
        of = f"{count:,} prompts" if size.lines is None else ""
        how = (*prompts_assumed(size), LONGEST.format(section.max_tokens))
        return Course(of, size.missing, 0, 0, tuple(work), how)

    def _rl(self) -> Course:
        section = self.recipe.rl
        assert section is not None
        size, prompt = self.sizes["rl"], self.prompt_tokens("rl")
        work = self.rounds(prompt)
        steps = section.rounds * section.updates_per_batch
        how = (*prompts_assumed(size), LONGEST.format(section.max_tokens))
        return Course("", (), steps, section.rounds, tuple(work), how)

    def rounds(self, prompt: int, *, prefix: str = "") -> list[Work]:
        """Work of all rounds of reinforcement learning."""
        section, shape, hardware = self.recipe.rl, self.recipe.shape, self.hardware
        assert section is not None
        answers = section.prompts_per_step * section.responses_per_prompt
        longest = section.max_tokens
        tokens, updates = prompt + longest, section.updates_per_batch
        passes = 3 if section.ratio is RatioMode.TOKEN else 2
        whose = "policy twice, and reference" if passes == 3 else "policy and reference"
        scoring = read(
            "likelihoods",
            shape,
            hardware,
            texts=passes * answers,
            tokens=tokens,
            logits=longest,
            how=f"{answers:,} x {tokens:,} tokens, {whose}",
        )
        again = self.recipe.training.activation_checkpointing
        flops = updates * learning_flops(
            shape, answers * tokens, tokens, answers * longest, recompute=again
        )
        training = Work(
            "training",
            TRAIN,
            updates * answers * tokens,
            flops,
            computing(hardware, flops),
            f"{updates} x {answers:,} x {tokens:,} tokens",
        )
        work = [*self.write(section.prompts_per_step, answers, prompt, longest), scoring]
        if section.model_weight:
            work.append(self.judge(answers, tokens))
        return [
            replace(each, name=prefix + each.name).times(section.rounds)
            for each in [*work, training]
        ]

    def write(
        self, prompts: int, answers: int, prompt_tokens: int, answer_tokens: int
    ) -> tuple[Work, Work]:
        """Prompts and answers of the recipe's model."""
        return write(
            self.recipe.shape,
            self.hardware,
            prompts=prompts,
            answers=answers,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
        )

    def judge(self, answers: int, tokens: int) -> Work:
        """Scores of the reward model."""
        return read(
            "scores",
            self.recipe.shape,
            self.hardware,
            texts=answers,
            tokens=tokens,
            logits=0,
            how=f"{answers:,} x {tokens:,} tokens",
        )


def prompts_assumed(size: Size) -> tuple[str, ...]:
    """What is known of the lengths of prompts."""
    if size.distinct or not size.missing:
        return size.how
    return (f"prompts of {ASSUMED_TOKENS} tokens: {absent(size.missing)}",)
