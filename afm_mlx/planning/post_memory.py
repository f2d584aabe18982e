"""Memory of post-training stages, at each moment at which one may be at its peak.

Weights and states are exact; activations and caches an estimate, for the longest answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from afm_mlx.planning.answers import (
    BATCH_ANSWERS,
    answer_loss,
    caches,
    head_parameters,
    model_memory,
    scoring_pass,
    stored_logits,
)
from afm_mlx.planning.cost import WEIGHT_BYTES, Memory, training_memory
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import MEMBER_SECTIONS, RatioMode
from afm_mlx.settings.sections import Shape, Training

ROUND_BYTES = 30  # of a token of a round's answers; docs/rl.md

STATE = ("weights", "frozen", "optimizer", "compute copy", "heads")
"""Parts that stay while a model in training writes answers."""

Moments = dict[str, tuple[Memory, ...]]


@dataclass(frozen=True)
class Packed:
    """Answers in rows, as a training step takes them."""

    row_tokens: int
    rows_per_step: int


def moments(recipe: Recipe, hardware: Hardware, stage: str, prompt_tokens: int) -> Moments:
    """Memory of a stage by moment; `prompt_tokens` of one that samples."""
    if stage == "sft":
        assert recipe.sft is not None
        training = recipe.training
        given = (recipe.shape, recipe.sft, training, recipe.optimizer.name, hardware)
        return {"training": training_memory(*given)}
    if stage == "reward":
        return {"training": _reward(recipe, hardware)}
    if stage == "prefer":
        return {"training": _prefer(recipe, hardware)}
    if stage == "reject":
        return _reject(recipe, hardware, prompt_tokens)
    if stage == "rl":
        return _rl(recipe, hardware, prompt_tokens)
    return _itec(recipe, hardware, prompt_tokens)


def _pairs(recipe: Recipe, hardware: Hardware, stage: str, shape: Shape) -> tuple[Memory, ...]:
    """Training on pairs, one pair at the least, answers of the longest length; without logits."""
    section = getattr(recipe, stage)
    rows = Packed(section.max_tokens, 2 * section.pairs_per_step)
    training = recipe.training.model_copy(update={"micro_rows": _at_once(recipe, stage)})
    return _learning(recipe, hardware, shape, rows, training)


def _learning(
    recipe: Recipe, hardware: Hardware, shape: Shape, rows: Packed, training: Training
) -> tuple[Memory, ...]:
    """Training on packed answers, without the logits."""
    parts = training_memory(shape, rows, training, recipe.optimizer.name, hardware)
    return tuple(part for part in parts if part.name != "loss")


def _at_once(recipe: Recipe, stage: str) -> int:
    """Answers in memory at once in training on pairs."""
    answers = 2 * getattr(recipe, stage).pairs_per_step
    return max(2, recipe.training.rows_at_once(answers) // 2 * 2)


def _prefer(recipe: Recipe, hardware: Hardware) -> tuple[Memory, ...]:
    """Half of the tokens are taken to be the answer's, as in `post_work`."""
    assert recipe.prefer is not None
    tokens = _at_once(recipe, "prefer") * recipe.prefer.max_tokens // 2
    loss = answer_loss(recipe.shape, tokens, recipe.training)
    return (*_pairs(recipe, hardware, "prefer", recipe.shape), loss)


def _reward(recipe: Recipe, hardware: Hardware) -> tuple[Memory, ...]:
    """As training on pairs, with heads and without logits; an output layer of its own is frozen."""
    assert recipe.reward is not None
    shape = recipe.shape
    tied = shape.model_copy(update={"tied": True})
    heads = head_parameters(shape, recipe.reward)
    how = f"16 bytes x {heads:,}, with averages and gradients"
    parts = [*_pairs(recipe, hardware, "reward", tied), Memory("heads", 16 * heads, how)]
    if not shape.tied:
        layer = shape.vocab_size * shape.hidden_size
        parts.append(Memory("frozen", WEIGHT_BYTES * layer, f"4 bytes x {layer:,}, output layer"))
    return tuple(parts)


def _reject(recipe: Recipe, hardware: Hardware, prompt_tokens: int) -> Moments:
    section, shape = recipe.reject, recipe.shape
    assert section is not None
    models = [model_memory("weights", shape, hardware)]
    tokens = prompt_tokens + section.max_tokens
    cache = caches(
        shape,
        hardware,
        answers=section.prompts_at_once * section.answers_per_prompt,
        samples=section.answers_per_prompt,
        prompt_tokens=prompt_tokens,
        answer_tokens=section.max_tokens,
    )
    if section.model_weight:
        models.append(model_memory("reward model", shape, hardware, scores=True))
    found: Moments = {"writing answers": (*models, cache)}
    if section.model_weight:
        found["scoring answers"] = (*models, scoring_pass(shape, hardware, tokens))
    return found


def _rl(recipe: Recipe, hardware: Hardware, prompt_tokens: int) -> Moments:
    section, shape, training = recipe.rl, recipe.shape, recipe.training
    assert section is not None
    answers = section.prompts_per_step * section.responses_per_prompt
    tokens = prompt_tokens + section.max_tokens
    rows = Packed(tokens, answers)
    token_mode = section.ratio is RatioMode.TOKEN
    each = ROUND_BYTES + (8 * section.stored_logits if token_mode else 0)
    kept = answers * section.max_tokens
    others = [model_memory("reference", shape, hardware)]
    if section.sampling_lag:
        others.append(model_memory("policy that samples", shape, hardware))
    if section.model_weight:
        others.append(model_memory("reward model", shape, hardware, scores=True))
    others.append(Memory("round", each * kept, f"{each} bytes x {kept:,} tokens of answers"))
    learned = training.rows_at_once(answers) * section.max_tokens
    logits = stored_logits(shape, learned) if token_mode else answer_loss(shape, learned, training)
    learns = (*_learning(recipe, hardware, shape, rows, training), logits)
    state = [part for part in learns if part.name in STATE]
    cache = caches(
        shape,
        hardware,
        answers=answers,
        samples=section.responses_per_prompt,
        prompt_tokens=prompt_tokens,
        answer_tokens=section.max_tokens,
    )
    found: Moments = {
        "training": (*learns, *others),
        "writing answers": (*state, *others, cache),
    }
    if section.model_weight:
        scoring = scoring_pass(shape, hardware, tokens)
        found["scoring answers"] = (*state, *others, scoring)
    return found


def _itec(recipe: Recipe, hardware: Hardware, prompt_tokens: int) -> Moments:
    """One after the other: committees, the reward model, and each kind of member."""
    section, shape = recipe.itec, recipe.shape
    assert section is not None
    tokens = prompt_tokens + section.max_tokens
    found: Moments = {
        "writing answers": (
            model_memory("weights", shape, hardware),
            caches(
                shape,
                hardware,
                answers=BATCH_ANSWERS,
                samples=section.answers_per_member,
                prompt_tokens=prompt_tokens,
                answer_tokens=section.max_tokens,
            ),
        ),
        "scoring answers": (
            model_memory("reward model", shape, hardware, scores=True),
            scoring_pass(shape, hardware, tokens),
        ),
    }
    stages = dict.fromkeys(MEMBER_SECTIONS[member] for member in section.members)
    for stage in dict.fromkeys(["reward", *stages, "sft"]):
        for name, parts in moments(recipe, hardware, stage, prompt_tokens).items():
            found[f"{name}, as [{stage}]"] = parts
    return found
