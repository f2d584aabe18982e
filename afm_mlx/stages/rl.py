"""Online reinforcement learning: a model answers, answers are scored, better ones get likelier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx import compat
from afm_mlx.alignment.behind import InTurn, Trainer, sample_for
from afm_mlx.alignment.prompts import Prompt, PromptOrder, hold_out, read_prompts
from afm_mlx.alignment.reward import Scorer, open_reward_model
from afm_mlx.alignment.rewards import Rewards, try_checks
from afm_mlx.alignment.rollouts import Objective, round_loss, score_round
from afm_mlx.alignment.rounds import OnPolicy, Rounds, Source
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.artifact import SNAPSHOTS, Inputs
from afm_mlx.decoder.checkpoint import open_checkpoint, read_shape, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.ranks import Ranks, joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import RatioMode, Rl
from afm_mlx.synthetic.checks import score
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, interrupts, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import WHOLE, layout_of

SHOWN = 3
"""Held-out prompts whose answers are logged at each validation. Ours."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the model that comes before on its own answers; leave a checkpoint in `out`.

    Raises:
        DataError: a line is no conversation, or has a check that cannot be read; no prompt has a
            check or is short enough.
        FitError, RunError: see `training.loop.train`.
    """
    section, start, team = recipe.rl, recipe.start_of("rl"), joined()
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    # With a lag, rank 0 trains, and the others, if there are some, only sample.
    lags = section.sampling_lag > 0
    samples = lags and team.rank > 0
    tokenizer = Tokenizer.open(folder)
    answers = _Answers.open(
        recipe,
        section,
        inputs,
        folder,
        tokenizer,
        progress,
        makes_rounds=samples or not lags or team.size == 1,
    )
    if samples:
        model = _open(folder, compat.compute_dtype(recipe.training.compute))
        with interrupts():  # rank 0 may want one more round before it saves and ends
            metrics = sample_for(team, model, partial(answers.of_round, model))
    else:
        model = _open(folder, mx.float32)
        metrics = _train(recipe, section, answers, model, folder, out, progress)
    facts = {"recipe": recipe.name, "stage": "rl", "tokenizer": tokenizer.fingerprint}
    team.once(out, lambda: save_checkpoint(out / "model", model, folder, facts=facts))
    return metrics


def _train(
    recipe: Recipe,
    section: Rl,
    answers: _Answers,
    policy: Decoder,
    folder: Path,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train `policy`, of `folder`; metrics."""
    settings, team = recipe.training, joined()
    compute = compat.compute_dtype(settings.compute)
    layout = WHOLE if section.sampling_lag else layout_of(policy, settings)
    ranks, snapshots = layout.data, out / SNAPSHOTS
    source: Source
    if not section.sampling_lag:
        make = partial(answers.of_round, policy)
        source = OnPolicy(make, ranks=ranks, prepare=lambda: layout.gather(policy))
    elif team.size > 1:
        source = Trainer(snapshots, policy, team, rounds=section.rounds)
    else:
        sampler = _open(folder, compute)
        source = InTurn(snapshots, policy, sampler, partial(answers.of_round, sampler))
    rounds = Rounds(snapshots, source, updates=section.updates_per_batch, ranks=ranks)

    def evaluate(model: Decoder) -> dict[str, Any]:
        return answers.of_held_out(model, ranks)

    def batches(step: int) -> list[Batch]:
        found = rounds.of_step(step)
        return micro_batches(lambda part: found[part.start], len(found), 1, ranks)

    before = evaluate(policy)
    progress.say(
        f"  {sum(count_parameters(policy.shape).values()):,} parameters, "
        f"{len(answers.prompts):,} prompts, {len(answers.held_out):,} held out; "
        f"{section.rounds:,} rounds of {answers.of_a_round:,} answers"
        + (f"; right before: {before['held_out_right']:.1%}" if before else "")
    )
    outcome = train(
        policy,
        lambda model, *batch: round_loss(model, batch, answers.objective),
        batches,
        UpdateRule(recipe.optimizer, hidden_size=policy.shape.hidden_size),
        Course(
            steps=section.rounds * section.updates_per_batch,
            lr=section.lr,
            warmup_steps=section.warmup_steps,
            final_lr_fraction=1.0,
            weight_decay=0.0,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compute,
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=evaluate,
        counted="answers",
        layout=layout,
    )
    metrics = {
        **{"start_" + name: before[name] for name in before if name != "samples"},
        **(outcome.evaluation or evaluate(policy)),
        "answers": section.rounds * answers.of_a_round,
        **outcome.metrics(),
    }
    if isinstance(source, Trainer):
        source.end(metrics)
    return metrics


def _open(folder: Path, dtype: mx.Dtype) -> Decoder:
    """A model to sample from, and perhaps to train: dense."""
    model = open_checkpoint(folder, dtype=dtype, dense=True)
    model.eval()
    return model


@dataclass(frozen=True)
class _Answers:
    """Prompts, what answers to them are worth, and how rounds are made of them."""

    recipe: Recipe
    section: Rl
    tokenizer: Tokenizer
    reference: Decoder | None
    """Absent on a rank that makes no rounds."""
    prompts: list[Prompt]
    held_out: list[Prompt]
    rewards: Rewards
    objective: Objective

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        section: Rl,
        inputs: Inputs,
        folder: Path,
        tokenizer: Tokenizer,
        progress: Progress,
        *,
        makes_rounds: bool,
    ) -> _Answers:
        """Read the prompts, and open the models that judge answers to them."""
        settings = recipe.training
        reference = None
        if makes_rounds:
            reference = open_checkpoint(folder, dtype=compat.compute_dtype(settings.compute))
        files = [source.file(inputs) for source in section.data.values()]
        room = read_shape(folder).max_tokens - section.max_tokens
        prompts, held_out = _prompts(section, files, tokenizer, room, settings.seed, progress)
        rewards = Rewards(
            score,
            scorer=_scorer(section, inputs),
            check_weight=section.check_weight,
            model_weight=section.model_weight,
            length_penalty=section.length_penalty,
            truncation_penalty=section.truncation_penalty,
            max_tokens=section.max_tokens,
        )
        objective = Objective(
            by_token=section.ratio is RatioMode.TOKEN,
            beta=section.reference_pull,
            gamma=section.step_pull,
            limit=section.log_ratio_limit,
            stored=section.stored_logits,
            mask_truncated=section.mask_truncated,
            chunk_bytes=settings.loss_bytes,
            checkpoint=settings.activation_checkpointing,
        )
        return cls(recipe, section, tokenizer, reference, prompts, held_out, rewards, objective)

    @property
    def of_a_round(self) -> int:
        """Answers of one round."""
        return self.section.prompts_per_step * self.section.responses_per_prompt

    def of_round(self, model: Decoder, number: int, ranks: Ranks) -> list[Batch]:
        """A rank's share of a round, sampled from `model`."""
        assert self.reference is not None
        section, settings = self.section, self.recipe.training
        order = PromptOrder(
            len(self.prompts), per_round=section.prompts_per_step, seed=settings.seed
        )
        chosen = [self.prompts[place] for place in order.of_round(number)]
        asked, answers = self._sampled(
            model, chosen, ranks, step=number, samples=section.responses_per_prompt
        )
        most = -(-self.of_a_round // ranks.size)
        return score_round(
            model,
            self.reference,
            asked,
            answers,
            [self.rewards(*each) for each in zip(asked, answers, strict=True)],
            self.objective,
            micro_answers=min(settings.rows_at_once(self.of_a_round), most),
        )

    def of_held_out(self, model: Decoder, ranks: Ranks) -> dict[str, Any]:
        """What one answer each is worth to prompts that are not trained on, all ranks together."""
        if not self.held_out:
            return {}
        # Step 0: rounds are counted from 1.
        asked, given = self._sampled(model, self.held_out, ranks, step=0, samples=1)
        own = []
        for prompt, answers in zip(asked, given, strict=True):
            (answer,) = answers
            checked = self.rewards.checked(prompt, answers)
            (reward,) = self.rewards.of_checked(prompt, answers, checked)
            own.append((reward, checked[0], answer.finished, answer.text))
        found = [each for text in ranks.all_texts(json.dumps(own)) for each in json.loads(text)]
        worth, right, finished, texts = zip(*found, strict=True)
        questions = [each.conversation.messages[-1]["content"] for each in self.held_out[:SHOWN]]
        return {
            "held_out_reward": float(np.mean(worth)),
            "held_out_right": float(np.mean(right)),
            "held_out_finished": float(np.mean(finished)),
            "samples": dict(zip(questions, texts[:SHOWN], strict=True)),
        }

    def _sampled(
        self, model: Decoder, asked: list[Prompt], ranks: Ranks, *, step: int, samples: int
    ) -> tuple[list[Prompt], list[list[Sampled]]]:
        """A rank's share of the prompts, and answers to them."""
        share = ranks.share(len(asked))
        mine = asked[share]
        return mine, sample_answers(
            model,
            self.tokenizer,
            [prompt.ids for prompt in mine],
            samples=samples,
            max_tokens=self.section.max_tokens,
            temperature=self.section.temperature,
            seed=self.recipe.training.seed,
            step=step,
            first=share.start,
        )


def _scorer(section: Rl, inputs: Inputs) -> Scorer | None:
    """The reward model, if it has a say."""
    if not section.model_weight:
        return None
    if section.reward_model:
        return open_reward_model(Path(section.reward_model).expanduser())
    judge = inputs["itec"] / "reward" if "itec" in inputs else inputs["reward"]
    return open_reward_model(judge / "model")


def _prompts(
    section: Rl,
    files: list[Path],
    tokenizer: Tokenizer,
    room: int,
    seed: int,
    progress: Progress,
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of `room` tokens at most to train on, and held-out ones."""
    found = read_prompts(
        files,
        tokenizer,
        max_tokens=room,
        skip_bad=section.skip_bad,
        say=progress.say,
    )
    try_checks(score, found)
    if section.check_weight and not any(prompt.conversation.check for prompt in found):
        raise DataError(
            "no prompt has a 'check', and rl.check_weight is above 0",
            hint='a line needs "check": {"kind": "number", "answer": "42"} or another kind',
        )
    return hold_out(found, section.held_out_prompts, seed=seed)
