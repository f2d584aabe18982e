"""Rejection sampling: a model answers several times, and its best answers become demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from afm_mlx import compat
from afm_mlx.alignment.prompts import Prompt, read_prompts
from afm_mlx.alignment.rejection import as_conversation, best_answer
from afm_mlx.alignment.reward import Scorer, open_reward_model
from afm_mlx.alignment.rewards import Rewards, try_checks
from afm_mlx.alignment.sampling import sample_answers
from afm_mlx.artifact import Inputs, write_text
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress, bar
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import Reject
from afm_mlx.synthetic.checks import score
from afm_mlx.text.tokenizer import Tokenizer

FOLDER, FILE = "answers", "conversations.jsonl"
"""Where the kept answers are, in the stage's folder."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Leave the best answers of the model that comes before, as conversations, in `out`.

    Raises:
        DataError: a line is no conversation, or has a check that cannot be read; no prompt is
            short enough; or nothing says which answer is good.
    """
    section = recipe.reject
    start = recipe.start_of("reject")
    assert section is not None
    assert start is not None
    folder = inputs[start] / "model"
    tokenizer = Tokenizer.open(folder)
    model = open_checkpoint(folder, dtype=compat.compute_dtype(recipe.training.compute))
    model.eval()
    prompts = read_prompts(
        [source.file(inputs) for source in section.data.values()],
        tokenizer,
        max_tokens=model.shape.max_tokens - section.max_tokens,
        skip_bad=section.skip_bad,
        say=progress.say,
    )
    try_checks(score, prompts)
    if not section.model_weight and not any(prompt.conversation.check for prompt in prompts):
        raise DataError(
            "nothing says which answer is good: no prompt has a 'check', and reject.model_weight "
            "is 0",
            hint='a line needs "check": {"kind": "number", "answer": "42"} or another kind',
        )
    scorer = None
    if section.model_weight:
        own = Path(section.reward_model).expanduser() if section.reward_model else None
        scorer = open_reward_model(own or inputs["reward"] / "model")
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    step = section.prompts_at_once
    for number, first in enumerate(range(0, len(prompts), step), start=1):
        part = parts / f"{number:06d}.json"
        if not part.exists():  # else an interrupted run has done it
            asked = prompts[first : first + step]
            found = _part(
                model, tokenizer, asked, section, scorer, seed=recipe.training.seed, step=number
            )
            write_text(part, json.dumps(found))
        done = min(first + step, len(prompts))
        progress.status(
            f"  {bar(done, len(prompts))} {done:,} of {len(prompts):,} prompts",
            last=done == len(prompts),
        )
    done_parts = [json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))]
    lines = [line for found in done_parts for line in found["lines"]]
    (out / FOLDER).mkdir(exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(out / FOLDER / FILE, text)
    answers = len(prompts) * section.answers_per_prompt
    right = sum(found["right"] for found in done_parts)
    return {
        "prompts": len(prompts),
        "kept": len(lines),
        "answers": answers,
        "right": right / answers,
        "finished": sum(found["finished"] for found in done_parts) / answers,
    }


def _part(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    section: Reject,
    scorer: Scorer | None,
    *,
    seed: int,
    step: int,
) -> dict[str, Any]:
    """Kept answers to some prompts, and sums over all answers."""
    rewards = Rewards(
        score,
        scorer=scorer,
        check_weight=1.0,
        model_weight=section.model_weight,
        length_penalty=section.length_penalty,
        truncation_penalty=0.0,
        max_tokens=section.max_tokens,
    )
    with compat.memory_settings():
        sampled = sample_answers(
            model,
            tokenizer,
            [prompt.ids for prompt in prompts],
            samples=section.answers_per_prompt,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            seed=seed,
            step=step,
        )
    lines, right = [], 0.0
    for prompt, answers in zip(prompts, sampled, strict=True):
        checked = rewards.checked(prompt, answers)
        right += sum(checked)
        least = None if prompt.conversation.check is None else section.least_score
        worth = rewards.of_checked(prompt, answers, checked)
        best = best_answer(answers, worth, checked, least_score=least)
        if best is not None:
            lines.append(as_conversation(prompt, answers[best]))
    finished = sum(answer.finished for answers in sampled for answer in answers)
    return {"lines": lines, "right": right, "finished": finished}
