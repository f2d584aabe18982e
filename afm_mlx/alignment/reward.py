"""The reward model: a decoder that reads a conversation, and heads that say how good its end is.

The state after the last token goes through one linear layer to the reward, and through a small
network for each quality that people grade. A checkpoint is the decoder's, with `reward.safetensors`
beside it and the facts of the heads in the table `afm` of its config.json.

Source: R24 and LS for the heads and the state they read; their sizes are ours.

Shapes. A answers, D width, G graded qualities, C classes of a grade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx.alignment.logps import (
    Answer,
    PackedAnswers,
    answer_sums,
    linear_logps,
    pack_answers,
    packed_hidden,
)
from afm_mlx.alignment.pairs import encode_answer
from afm_mlx.compat import compute_dtype
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts, save_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.weights import check_tensors, write_file
from afm_mlx.errors import DataError, ModelError
from afm_mlx.text.conversations import Conversation
from afm_mlx.text.tokenizer import Tokenizer

HEADS_FILE = "reward.safetensors"
"""The heads' weights, beside the decoder's."""

HEADS = ("reward", "grades")
"""First names of the paths of the heads' weights; they stay float32."""

LOGIT_BYTES = 2**26
"""About the most bytes of logits at once. Ours."""

BATCH_ANSWERS = 16
"""Answers that are scored at once. Ours."""


class Scores(NamedTuple):
    """What the heads say, float32."""

    rewards: mx.array
    """[A], higher is better; only differences have a meaning."""
    grades: mx.array
    """[A, G, C], logits of each quality's classes."""


class GradeHead(nn.Module):
    """One quality's classes from the last state."""

    def __init__(self, width: int, inner: int, classes: int) -> None:
        super().__init__()
        self.grade_hidden = nn.Linear(width, inner)
        self.grade_output = nn.Linear(inner, classes)

    def __call__(self, state: mx.array) -> mx.array:
        """[A, D] to logits [A, C]."""
        return self.grade_output(nn.silu(self.grade_hidden(state)))


class RewardModel(nn.Module):
    """A decoder with a head for the reward and one for each graded quality."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        qualities: Sequence[str],
        classes: int,
        inner: int,
        likelihood_weight: float = 0.0,
    ) -> None:
        """Heads of zeros on `decoder`; `inner` is the width of a grade's hidden layer.

        `likelihood_weight` times the mean log-probability of an answer's tokens is in its reward.
        """
        super().__init__()
        width = decoder.shape.hidden_size
        self.decoder = decoder
        self.qualities = tuple(qualities)
        self.classes, self.inner = classes, inner
        self.likelihood_weight = likelihood_weight
        self.reward = nn.Linear(width, 1, bias=False)  # a constant would be in both rewards
        self.reward.weight = mx.zeros((1, width))
        self.grades = [GradeHead(width, inner, classes) for _ in qualities]
        if not (decoder.shape.tied or likelihood_weight):
            decoder.lm_head.freeze()  # no token is predicted

    def __call__(self, packed: PackedAnswers, *, checkpoint: bool = False) -> Scores:
        """Scores of packed answers. `checkpoint`: recompute the blocks in the backward pass."""
        hidden = packed_hidden(self.decoder, packed, checkpoint=checkpoint)
        # Rewards differ by a few units, of which bfloat16 keeps two digits.
        state = hidden[packed.lasts].astype(mx.float32)
        rewards = self.reward(state).squeeze(-1)
        if self.likelihood_weight:
            rewards = rewards + self.likelihood_weight * self._likelihood(hidden, packed)
        if not self.grades:
            return Scores(rewards, mx.zeros((rewards.size, 0, self.classes)))
        return Scores(rewards, mx.stack([head(state) for head in self.grades], axis=1))

    def _likelihood(self, hidden: mx.array, packed: PackedAnswers) -> mx.array:
        """Mean log-probability [A] of each answer's tokens, in nats."""
        tokens = packed.weights * linear_logps(
            hidden[packed.places],
            self.decoder.output_weight,
            packed.targets,
            chunk_bytes=LOGIT_BYTES,
        )
        return answer_sums(tokens, packed) / packed.lengths

    def heads(self) -> dict[str, mx.array]:
        """The heads' weights by name."""
        parameters = self.parameters()
        found: Any = tree_flatten({name: parameters[name] for name in HEADS})
        return dict(found)


def initialize_heads(model: RewardModel, seed: int) -> None:
    """First weights of the heads: rewards are 0, grades nearly so; a function of the seed."""
    weights = []
    for name, old in model.heads().items():
        new = mx.zeros(old.shape)
        if name.endswith("grade_hidden.weight") or name.endswith("grade_output.weight"):
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            key = mx.random.key(int.from_bytes(digest[:8], "little"))
            new = old.shape[1] ** -0.5 * mx.random.normal(old.shape, key=key)
        weights.append((name, new))
    model.update(tree_unflatten(weights))


def save_reward_model(
    folder: Path, model: RewardModel, tokenizer_folder: Path, *, facts: Mapping[str, Any]
) -> None:
    """Write the decoder as a checkpoint, and the heads beside it."""
    heads: dict[str, Any] = {
        "grades": list(model.qualities),
        "classes": model.classes,
        "inner": model.inner,
    }
    if model.likelihood_weight:
        heads["likelihood_weight"] = model.likelihood_weight
    save_checkpoint(folder, model.decoder, tokenizer_folder, facts=dict(facts) | {"reward": heads})
    write_file(folder / HEADS_FILE, model.heads())


class Scorer:
    """A reward model with its tokenizer: conversations in, rewards out."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer) -> None:
        """A model with weights, and the tokenizer it was trained with."""
        self.model, self.tokenizer = model, tokenizer

    def score(self, conversations: Iterable[Conversation]) -> list[float]:
        """Reward of each conversation's last answer.

        Raises:
            DataError: one has no answer, the template refuses it, or it is too long.
        """
        return self.score_answers([self._encoded(each) for each in conversations])

    def grades(self, conversations: Iterable[Conversation]) -> list[dict[str, list[float]]]:
        """Probability of each class of each graded quality. Raises as `score`."""
        answers = [self._encoded(each) for each in conversations]
        found: list[dict[str, list[float]]] = []
        for scores in self._scores(answers):
            probabilities: Any = mx.softmax(scores.grades, axis=-1).tolist()
            found += [dict(zip(self.model.qualities, each, strict=True)) for each in probabilities]
        return found

    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        """Reward of each answer that is ids already, in their order."""
        found: list[float] = []
        for scores in self._scores(answers):
            rewards: Any = scores.rewards.tolist()
            found += rewards
        return found

    def _scores(self, answers: Sequence[Answer]) -> Iterator[Scores]:
        for start in range(0, len(answers), BATCH_ANSWERS):
            yield self.model(pack_answers(answers[start : start + BATCH_ANSWERS]))

    def _encoded(self, conversation: Conversation) -> Answer:
        answer = encode_answer(conversation, self.tokenizer)
        most = self.model.decoder.shape.max_tokens
        if len(answer.ids) > most:
            raise DataError(
                f"{conversation.where + ': ' if conversation.where else ''}{len(answer.ids):,} "
                f"tokens, and the reward model reads {most:,}"
            )
        return answer


def open_reward_model(folder: Path, *, dtype: mx.Dtype | None = None) -> Scorer:
    """The reward model in a folder that `afm reward` made; heads are float32 always.

    Args:
        folder: a checkpoint with `reward.safetensors`.
        dtype: number format of the decoder. None: bfloat16 on a GPU and float32 on the CPU.

    Raises:
        ModelError: there is no reward model in the folder, or it is damaged.
        DataError: its tokenizer cannot be read.
    """
    facts = read_facts(folder).get("reward")
    file = folder / HEADS_FILE
    if not isinstance(facts, dict) or not file.is_file():
        raise ModelError(
            f"{folder} is no reward model", hint="afm reward MODEL --data FILE --out DIR makes one"
        )
    try:
        model = RewardModel(
            open_checkpoint(folder, dtype=dtype or compute_dtype()),
            qualities=facts["grades"],
            classes=facts["classes"],
            inner=facts["inner"],
            likelihood_weight=facts.get("likelihood_weight", 0.0),
        )
        weights: Any = mx.load(str(file))
        found = {name: array.shape for name, array in weights.items()}
        wanted = {name: array.shape for name, array in model.heads().items()}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"the heads of {folder} are damaged: {error}") from None
    check_tensors(found, wanted, f"'{file}'")
    model.update(tree_unflatten(list(weights.items())))
    mx.eval(model.parameters())
    return Scorer(model, Tokenizer.open(folder))
