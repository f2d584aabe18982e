"""Online reinforcement learning: a model answers, answers are scored, better ones get likelier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx import compat
from afm_mlx.alignment.prompts import Prompt, PromptOrder, hold_out, read_prompts
from afm_mlx.alignment.reward import Scorer, open_reward_model
from afm_mlx.alignment.rewards import Rewards, try_checks
from afm_mlx.alignment.rollouts import Objective, Rounds, round_loss, score_round
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.artifact import SNAPSHOTS, Inputs
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, count_parameters
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.ranks import joined
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import RatioMode, Rl
from afm_mlx.synthetic.checks import score
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.loop import Course, train
from afm_mlx.training.micro_batches import Batch, micro_batches
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import layout_of

SHOWN = 3
"""Held-out prompts whose answers are logged at each validation. Ours."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the model that comes before on its own answers; leave a checkpoint in `out`.

    Raises:
        DataError: a line is no conversation, or has a check that cannot be read; no prompt has a
            check or is short enough.
        FitError, RunError: see `training.loop.train`.
    """
    section, settings = recipe.rl, recipe.training
    start = recipe.start_of("rl")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    policy = open_checkpoint(folder, dtype=mx.float32, dense=True)
    policy.eval()
    reference = open_checkpoint(folder, dtype=compat.compute_dtype(settings.compute))
    files = [source.file(inputs) for source in section.data.values()]
    prompts, held_out = _prompts(section, files, tokenizer, policy, settings.seed, progress)
    order = PromptOrder(len(prompts), per_round=section.prompts_per_step, seed=settings.seed)
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
    num_answers = section.prompts_per_step * section.responses_per_prompt
    layout = layout_of(policy, settings)
    ranks = layout.data

    def answered(
        asked: list[Prompt], step: int, samples: int
    ) -> tuple[list[Prompt], list[list[Sampled]]]:
        """This rank's share of the prompts, and its answers to them."""
        share = ranks.share(len(asked))
        mine = asked[share]
        return mine, sample_answers(
            policy,
            tokenizer,
            [prompt.ids for prompt in mine],
            samples=samples,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            seed=settings.seed,
            step=step,
            first=share.start,
        )

    def one_round(number: int) -> list[Batch]:
        """This rank's share of a round."""
        places = order.of_round(number)
        asked, answers = answered(
            [prompts[place] for place in places], number, section.responses_per_prompt
        )
        return score_round(
            policy,
            reference,
            asked,
            answers,
            [rewards(*each) for each in zip(asked, answers, strict=True)],
            objective,
            micro_answers=min(settings.rows_at_once(num_answers), -(-num_answers // ranks.size)),
        )

    def evaluate(model: Decoder) -> dict[str, Any]:
        """Of the policy as it samples, on prompts that are not trained on."""
        if not held_out:
            return {}
        pairs = zip(*answered(held_out, 0, 1), strict=True)  # rounds are counted from 1
        own = [
            (rewards(*pair)[0], rewards.checked(*pair)[0], pair[1][0].finished, pair[1][0].text)
            for pair in pairs
        ]
        found = [each for text in ranks.all_texts(json.dumps(own)) for each in json.loads(text)]
        worth, right, finished, texts = zip(*found, strict=True)
        questions = [prompt.conversation.messages[-1]["content"] for prompt in held_out[:SHOWN]]
        return {
            "held_out_reward": float(np.mean(worth)),
            "held_out_right": float(np.mean(right)),
            "held_out_finished": float(np.mean(finished)),
            "samples": dict(zip(questions, texts[:SHOWN], strict=True)),
        }

    steps = section.rounds * section.updates_per_batch
    before = evaluate(policy)
    progress.say(
        f"  {sum(count_parameters(policy.shape).values()):,} parameters, {len(prompts):,} prompts, "
        f"{len(held_out):,} held out; {section.rounds:,} rounds of {num_answers:,} answers"
        + (f"; right before: {before['held_out_right']:.1%}" if before else "")
    )
    rounds = Rounds(
        out / SNAPSHOTS,
        one_round,
        updates=section.updates_per_batch,
        ranks=ranks,
        prepare=lambda: layout.gather(policy),
    )

    def batches(step: int) -> list[Batch]:
        found = rounds.of_step(step)
        return micro_batches(lambda part: found[part.start], len(found), 1, ranks)

    outcome = train(
        policy,
        lambda model, *batch: round_loss(model, batch, objective),
        batches,
        UpdateRule(recipe.optimizer, hidden_size=policy.shape.hidden_size),
        Course(
            steps=steps,
            lr=section.lr,
            warmup_steps=section.warmup_steps,
            final_lr_fraction=1.0,
            weight_decay=0.0,
            most_skipped_steps=settings.most_skipped_steps,
        ),
        compute=compat.compute_dtype(settings.compute),
        work=out,
        watch=recipe.watch,
        progress=progress,
        evaluate=evaluate,
        counted="answers",
        layout=layout,
    )
    final = outcome.evaluation or evaluate(policy)
    facts = {"recipe": recipe.name, "stage": "rl", "tokenizer": tokenizer.fingerprint}
    joined().once(out, lambda: save_checkpoint(out / "model", policy, folder, facts=facts))
    return {
        **{"start_" + name: before[name] for name in before if name != "samples"},
        **final,
        "answers": section.rounds * num_answers,
        **outcome.metrics(),
    }


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
    model: Decoder,
    seed: int,
    progress: Progress,
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and held-out ones."""
    found = read_prompts(
        files,
        tokenizer,
        max_tokens=model.shape.max_tokens - section.max_tokens,
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
