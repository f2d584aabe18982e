"""A committee's models at work: they answer, are judged, and are measured on held-out prompts.

What took time is kept in files, so that a run that goes on reads it. One model is open at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.alignment.committee import Answered, values
from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.reward import open_reward_model
from afm_mlx.alignment.rewards import Check
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.artifact import write_text
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.progress import Progress
from afm_mlx.text.tokenizer import Tokenizer

START = "start"
"""Name of the member that training starts from."""

BATCH_ANSWERS = 16  # answers whose log-probabilities are read at once; ours


@dataclass(frozen=True)
class Models:
    """What all models of a committee share."""

    start: Path
    """Folder of the model that training starts from."""
    tokenizer: Tokenizer
    check: Check
    dtype: mx.Dtype
    """Number format of the models while they answer."""
    max_tokens: int
    """Longest answer."""
    seed: int
    chunk_bytes: int
    """Memory of one chunk of logits."""
    held_out: Path
    """Folder for answers to held-out prompts."""
    progress: Progress

    def answers(
        self,
        folder: Path,
        members: Mapping[str, Path],
        prompts: Sequence[Prompt],
        *,
        samples: int,
        temperature: float,
        step: int,
    ) -> list[list[Answered]]:
        """All members' answers to each prompt, checked; each member's are kept in a file."""
        folder.mkdir(exist_ok=True)
        given: list[list[Answered]] = [[] for _ in prompts]
        for name, model in members.items():
            file = folder / f"{name}.json"
            if not file.exists():
                self.progress.status(f"  {name} answers {len(prompts):,} prompts")
                began = time.monotonic()
                found = self._sample(model, prompts, samples, temperature, step)
                count, seconds = samples * len(prompts), time.monotonic() - began
                write_text(file, json.dumps([[vars(each) for each in group] for group in found]))
                self.progress.status(
                    f"  {name} answered {len(prompts):,} prompts, {count / seconds:,.0f} answers/s",
                    last=True,
                )
            read = json.loads(file.read_text())
            for prompt, into, group in zip(prompts, given, read, strict=True):
                for facts in group:
                    answer = Sampled(**facts | {"ids": tuple(facts["ids"])})
                    into.append(Answered(name, answer, self._checked(prompt, answer), 0.0))
        return given

    def judged(
        self, reward: Path, prompts: Sequence[Prompt], given: Sequence[Sequence[Answered]]
    ) -> list[list[Answered]]:
        """The same answers with what the reward model in a folder says."""
        scorer = open_reward_model(reward)
        pairs = zip(prompts, given, strict=True)
        read = [_as_ids(prompt, each) for prompt, answers in pairs for each in answers]
        rewards = iter(scorer.score_answers(read))
        return [[replace(each, reward=next(rewards)) for each in answers] for answers in given]

    def measure(
        self, members: Mapping[str, Path], prompts: Sequence[Prompt], reward: Path
    ) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """What members are worth on held-out prompts, as they sample; and by prompt.

        All are compared with the model that training started from, whether it still is a member or
        not.
        """
        known = {**members, START: self.start}
        given = self.answers(self.held_out, known, prompts, samples=1, temperature=1.0, step=0)
        given = self.judged(reward, prompts, given)
        by_name = [{each.member: each for each in answers} for answers in given]
        first = [each[START] for each in by_name]
        own = {name: [each[name] for each in by_name] for name in members}
        worth = {name: values(prompts, answers, first) for name, answers in own.items()}
        picked = [max((each[name] for name in members), key=lambda a: a.reward) for each in by_name]
        facts = {
            name: {
                "worth": fmean(worth[name]),
                "finished": fmean(each.answer.finished for each in answers),
                "reward": fmean(each.reward for each in answers),
                "to_start": self._to_start(name, members[name], prompts, answers),
            }
            for name, answers in own.items()
        }
        together = fmean(values(prompts, picked, first))
        return {"members": facts, "picked_by_reward": together}, worth

    def _checked(self, prompt: Prompt, answer: Sampled) -> float:
        check = prompt.conversation.check
        return self.check(check, answer.text) if check is not None and answer.finished else 0.0

    def _sample(
        self, model: Path, prompts: Sequence[Prompt], samples: int, temperature: float, step: int
    ) -> list[list[Sampled]]:
        decoder = open_checkpoint(model, dtype=self.dtype)
        decoder.eval()
        with compat.memory_settings():
            return sample_answers(
                decoder,
                self.tokenizer,
                [prompt.ids for prompt in prompts],
                samples=samples,
                max_tokens=self.max_tokens,
                temperature=temperature,
                seed=self.seed,
                step=step,
            )

    def _to_start(
        self, name: str, model: Path, prompts: Sequence[Prompt], answers: Sequence[Answered]
    ) -> float:
        """Divergence of a member from the start, in nats per answer, estimated from its answers."""
        file = self.held_out / f"{name}.divergence.json"
        if not file.exists():
            read = [_as_ids(*each) for each in zip(prompts, answers, strict=True)]
            gaps = self._logps(model, read) - self._logps(self.start, read)
            write_text(file, json.dumps(float(mx.mean(gaps))))
        return float(json.loads(file.read_text()))

    def _logps(self, model: Path, answers: Sequence[Answer]) -> mx.array:
        decoder = open_checkpoint(model, dtype=self.dtype)
        found = []
        for start in range(0, len(answers), BATCH_ANSWERS):
            packed = pack_answers(answers[start : start + BATCH_ANSWERS])
            found.append(answer_logps(decoder, packed, chunk_bytes=self.chunk_bytes).answers)
            mx.eval(found[-1])
        return mx.concatenate(found)


def _as_ids(prompt: Prompt, each: Answered) -> Answer:
    return Answer([*prompt.ids, *each.answer.ids], len(prompt.ids))
