"""Pairs of answers as a model sees them: ids, held-out pairs, and which pairs a step takes."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afm_mlx.alignment.logps import Answer, PackedAnswers, pack_answers
from afm_mlx.alignment.preferences import FORMAT, Preference, note_or_raise, read_preferences
from afm_mlx.corpus.held_out import border_of, text_hash
from afm_mlx.corpus.mixture import permute
from afm_mlx.errors import DataError
from afm_mlx.settings.alignment import PreferenceLevels
from afm_mlx.text.conversations import Conversation, render
from afm_mlx.text.tokenizer import Tokenizer

ABSENT = -1
"""Stands for a grade that nobody gave."""


@dataclass(frozen=True)
class Pair:
    """A comparison as a model sees it."""

    chosen: Answer
    """The preferred answer, with its prompt."""
    rejected: Answer
    """The other one."""
    probability: float
    """That the preferred answer is better, above 0.5, to 1."""
    chosen_grades: tuple[int, ...]
    """Grade of each quality; `ABSENT` where nobody gave it."""
    rejected_grades: tuple[int, ...]
    """The same of the other answer."""

    @property
    def num_tokens(self) -> int:
        """Tokens of both answers with their prompts."""
        return len(self.chosen.ids) + len(self.rejected.ids)


def pack_pairs(pairs: Sequence[Pair]) -> PackedAnswers:
    """Answers of pairs in rows: first the preferred ones of all pairs, then the others."""
    return pack_answers([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])


def in_parts(pairs: Sequence[Any], most_answers: int) -> list[Any]:
    """Pairs in parts of nearly even size with at most so many answers each, or one pair."""
    count = -(-len(pairs) // max(1, most_answers // 2))
    ends = [number * len(pairs) // max(1, count) for number in range(count + 1)]
    return [pairs[start:end] for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Pairs:
    """All comparisons of some files that a model can be trained with."""

    train: dict[str, list[Pair]]
    """Those to train on, by source, in the order of its file."""
    held_out: list[Pair]
    """Those to measure on; none has a prompt of the others."""
    too_long: int
    """Comparisons left out because a prompt with an answer was longer than allowed."""
    skipped: list[str]
    """What was wrong with each line that was left out."""

    def all_train(self) -> list[Pair]:
        """Those to train on, numbered as `PairOrder` does."""
        return list(itertools.chain(*self.train.values()))

    def measured(self, most_tokens: int) -> list[Pair]:
        """Of those to measure on the first that have `most_tokens` together, or the first one."""
        ends = itertools.accumulate(pair.num_tokens for pair in self.held_out)
        count = sum(end <= most_tokens for end in ends)
        return self.held_out[: max(count, 1)]

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{sum(map(len, self.train.values())):,} pairs, {len(self.held_out):,} held out, "
            f"{self.too_long:,} too long, {len(self.skipped):,} bad lines"
        )

    def counts(self) -> dict[str, Any]:
        """Numbers for a manifest."""
        return {
            "pairs": {name: len(pairs) for name, pairs in self.train.items()},
            "held_out_pairs": len(self.held_out),
            "too_long": self.too_long,
            "skipped": len(self.skipped),
        }


def open_pairs(
    files: Mapping[str, Path],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    held_out_fraction: float,
    levels: PreferenceLevels | None = None,
    grades: Sequence[str] = (),
    grade_classes: int = 0,
    skip_bad: bool = False,
) -> Pairs:
    """Read files of comparisons, in the form of the tokenizer's chat template.

    Args:
        files: JSONL by name of the source, see `preferences`.
        tokenizer: of the model.
        max_tokens: longest prompt with an answer; comparisons with a longer one are counted and
            left out whole, because a cut answer has no end to learn.
        held_out_fraction: share of prompts to measure on, 0 to below 1.
        levels: probability that the preferred answer is better, by strength; None: always 1.
        grades: qualities that are graded; none: grades are not looked at.
        grade_classes: classes of a grade.
        skip_bad: leave out and count lines that are no comparison, instead of stopping.

    Raises:
        DataError: as `read_preferences`; the template refuses a prompt; a source is empty; or
            nothing is left to train on.
    """
    skipped: dict[str, list[str]] = {name: [] for name in files}
    found: dict[str, list[tuple[int, Pair]]] = {name: [] for name in files}
    too_long = dict.fromkeys(files, 0)
    for name, path in files.items():
        for preference in read_preferences(
            path,
            grades=grades,
            grade_classes=grade_classes,
            skip_bad=skip_bad,
            skipped=skipped[name],
        ):
            try:
                pair = _pair(preference, tokenizer, levels, grades)
            except DataError as error:
                note_or_raise(error, preference.where, skip_bad=skip_bad, skipped=skipped[name])
                continue
            if max(len(pair.chosen.ids), len(pair.rejected.ids)) > max_tokens:
                too_long[name] += 1
            else:
                found[name].append((_hash(preference), pair))
    border = border_of([value for pairs in found.values() for value, _ in pairs], held_out_fraction)
    train = {
        name: [pair for value, pair in pairs if value >= border] for name, pairs in found.items()
    }
    for name, kept in train.items():
        if not kept and not (found[name] and any(train.values())):
            raise DataError(
                f"{files[name]} has no comparison to train on: {too_long[name]:,} are longer than "
                f"{max_tokens:,} tokens, {len(skipped[name]):,} lines are bad, "
                f"{len(found[name]):,} held out",
                hint=skipped[name][0] if skipped[name] else FORMAT,
            )
    held_out = [pair for pairs in found.values() for value, pair in pairs if value < border]
    bad = list(itertools.chain(*skipped.values()))
    return Pairs(train, held_out, sum(too_long.values()), bad)


class PairOrder:
    """Which pairs a step sees: a function of the seed and the step."""

    def __init__(
        self,
        counts: Mapping[str, int],
        weights: Mapping[str, float],
        *,
        pairs_per_step: int,
        seed: int,
    ) -> None:
        """An epoch draws `weight` times its count from each source, in an endless shuffled round.

        Pairs are numbered from 0, those of the first source first.
        """
        self.pairs_per_step, self.seed = pairs_per_step, seed
        self._names, self._counts = list(counts), list(counts.values())
        self._firsts = list(itertools.accumulate(self._counts, initial=0))
        self._drawn = [
            max(1, round(weights[name] * count)) if count else 0 for name, count in counts.items()
        ]
        self._ends = list(itertools.accumulate(self._drawn))

    @property
    def epoch_pairs(self) -> int:
        """Pairs of an epoch."""
        return self._ends[-1]

    def steps(self, epochs: int) -> int:
        """Optimizer steps that cover so many epochs; the last one goes on with the next."""
        return -(-epochs * self.epoch_pairs // self.pairs_per_step)

    def pairs(self, step: int) -> list[int]:
        """Numbers of the pairs of a step, counted from 1."""
        last = step * self.pairs_per_step
        return [self._at(place) for place in range(last - self.pairs_per_step, last)]

    def _at(self, place: int) -> int:
        epoch, index = divmod(place, self.epoch_pairs)
        slot = self._shuffled("epoch", epoch, index, self.epoch_pairs)
        source = bisect_right(self._ends, slot)
        count, drawn = self._counts[source], self._drawn[source]
        visit = epoch * drawn + slot - (self._ends[source] - drawn)
        round_number, rank = divmod(visit, count)
        name = self._names[source]
        return self._firsts[source] + self._shuffled(f"of {name}", round_number, rank, count)

    def _shuffled(self, name: str, number: int, index: int, size: int) -> int:
        digest = hashlib.sha256(f"{self.seed}:{name}:{number}".encode()).digest()
        key = int.from_bytes(digest[:8], "little")
        return int(permute(np.array([index]), size, key)[0])


def encode_answer(conversation: Conversation, tokenizer: Tokenizer) -> Answer:
    """A conversation up to the end of its last answer, and where that begins.

    Raises:
        DataError: as `conversations.render`.
    """
    rendered = render(conversation, tokenizer)
    mask = np.array(rendered.mask)
    end = int(np.flatnonzero(mask)[-1]) + 1
    before = np.flatnonzero(mask[:end] == 0)
    return Answer(np.array(rendered.ids[:end], np.int32), int(before[-1]) + 1)


def _pair(
    preference: Preference,
    tokenizer: Tokenizer,
    levels: PreferenceLevels | None,
    grades: Sequence[str],
) -> Pair:
    chosen, rejected = (
        encode_answer(preference.conversation(answer), tokenizer)
        for answer in (preference.chosen, preference.rejected)
    )
    if list(chosen.ids) == list(rejected.ids):
        raise DataError("'chosen' and 'rejected' are equal as the chat template writes them")
    return Pair(
        chosen,
        rejected,
        1.0 if levels is None else getattr(levels, preference.level),
        tuple(preference.chosen_grades.get(quality, ABSENT) for quality in grades),
        tuple(preference.rejected_grades.get(quality, ABSENT) for quality in grades),
    )


def _hash(preference: Preference) -> int:
    """Of the prompt, so that comparisons of one prompt are on the same side."""
    return text_hash(json.dumps([preference.prompt, preference.tools], sort_keys=True))
