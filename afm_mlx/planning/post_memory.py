"""Memory of post-training stages, at each moment at which one may be at its peak.

Weights and states are exact; activations and caches an estimate, for the longest answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from afm_mlx.planning.answers import (
    BATCH_ANSWERS,
    caches,
    head_parameters,
    model_memory,
    scoring_pass,
    stored_logits,
)
from afm_mlx.planning.cost import WEIGHT_BYTES, Memory, training_memory
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import MEMBER_SECTIONS, Recipe
from afm_mlx.settings.alignment import RatioMode

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
        return {"training": _pairs(recipe, hardware, recipe, "prefer")}
    if stage == "reject":
        return _reject(recipe, hardware, prompt_tokens)
    if stage == "rl":
        return _rl(recipe, hardware, prompt_tokens)
    return _itec(recipe, hardware, prompt_tokens)


def _pairs(recipe: Recipe, hardware: Hardware, of: Recipe, stage: str) -> tuple[Memory, ...]:
    """Training on pairs, both answers of a pair at the least, each of the longest length."""
    section = getattr(recipe, stage)
    answers = 2 * section.pairs_per_step
    at_once = max(2, recipe.training.rows_at_once(answers) // 2 * 2)
    training = recipe.training.model_copy(update={"micro_rows": at_once})
    rows = Packed(section.max_tokens, answers)
    return training_memory(of.shape, rows, training, recipe.optimizer.name, hardware)


def _reward(recipe: Recipe, hardware: Hardware) -> tuple[Memory, ...]:
    """As training on pairs, with heads and without logits; an output layer of its own is frozen."""
    assert recipe.reward is not None
    shape = recipe.shape
    tied = recipe.model_copy(update={"shape": shape.model_copy(update={"tied": True})})
    parts = [each for each in _pairs(recipe, hardware, tied, "reward") if each.name != "loss"]
    heads = head_parameters(shape, recipe.reward)
    parts.append(Memory("heads", 16 * heads, f"16 bytes x {heads:,}, with averages and gradients"))
    if not shape.tied:
        layer = shape.vocab_size * shape.hidden_size
        parts.append(Memory("frozen", WEIGHT_BYTES * layer, f"4 bytes x {layer:,}, output layer"))
    return tuple(parts)


def _reject(recipe: Recipe, hardware: Hardware, prompt_tokens: int) -> Moments:
    section, shape = recipe.reject, recipe.shape
    assert section is not None
    models = [model_memory("weights", shape, hardware)]
    tokens = prompt_tokens + section.max_tokens
    if section.model_weight:
        models.append(model_memory("reward model", shape, hardware, scores=True))
    answers = section.prompts_at_once * section.answers_per_prompt
    found: Moments = {"writing answers": (*models, caches(shape, hardware, answers, tokens))}
    if section.model_weight:
        found["scoring answers"] = (*models, scoring_pass(shape, hardware, tokens))
    return found


def _rl(recipe: Recipe, hardware: Hardware, prompt_tokens: int) -> Moments:
    section, shape, training = recipe.rl, recipe.shape, recipe.training
    assert section is not None
    answers = section.prompts_per_step * section.responses_per_prompt
    tokens = prompt_tokens + section.max_tokens
    rows = Packed(tokens, answers)
    learns = training_memory(shape, rows, training, recipe.optimizer.name, hardware)
    token_mode = section.ratio is RatioMode.TOKEN
    each = ROUND_BYTES + (8 * section.stored_logits if token_mode else 0)
    kept = answers * section.max_tokens
    others = [model_memory("reference", shape, hardware)]
    if section.model_weight:
        others.append(model_memory("reward model", shape, hardware, scores=True))
    others.append(Memory("round", each * kept, f"{each} bytes x {kept:,} tokens of answers"))
    if token_mode:
        logits = stored_logits(shape, training.rows_at_once(answers) * section.max_tokens)
        learns = (*learns, logits)
    state = [part for part in learns if part.name in STATE]
    found: Moments = {
        "training": (*learns, *others),
        "writing answers": (*state, *others, caches(shape, hardware, answers, tokens)),
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
            caches(shape, hardware, BATCH_ANSWERS, tokens),
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
