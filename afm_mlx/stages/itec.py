"""iTeC: a committee of models answers, the reward model learns, the next models learn from both.

Each round trains its members and the reward model by the stages of their names, in folders of its
own; what a round has finished stays, so an interrupted run repeats one part of it at most.

    round-1/answers/     what each member of the committee answered
    round-1/reward/      the reward model
    round-1/dpo/ ...     the members that were trained
    final/               answers of the last committee, and the model fine-tuned on them
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import mlx.core as mx

from afm_mlx import compat
from afm_mlx.alignment import committee
from afm_mlx.alignment.committee import Answered
from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.preferences import Preference, write_preferences
from afm_mlx.alignment.prompts import Prompt, PromptOrder, read_prompts, shuffled
from afm_mlx.alignment.rejection import as_conversation
from afm_mlx.alignment.reward import open_reward_model
from afm_mlx.alignment.rewards import try_checks
from afm_mlx.alignment.sampling import Sampled, sample_answers
from afm_mlx.artifact import SNAPSHOTS, Inputs, write_text
from afm_mlx.decoder.checkpoint import open_checkpoint, read_shape
from afm_mlx.errors import DataError
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import (
    Comparisons,
    Conversations,
    Itec,
    Member,
    PreferenceMethod,
)
from afm_mlx.synthetic.checks import score
from afm_mlx.text.tokenizer import Tokenizer

Trainer = Callable[[Recipe, Inputs, Path, Progress], dict[str, Any]]

START = "start"
"""Name of the member that training starts from."""

HELD_OUT_EPOCH = 2**31
"""Number of the shuffled order that decides which prompts are held out: no epoch has it."""

BATCH_ANSWERS = 16  # answers whose log-probabilities are read at once; ours


def run(
    recipe: Recipe,
    inputs: Inputs,
    out: Path,
    progress: Progress,
    *,
    trainers: Mapping[str, Trainer],
) -> dict[str, Any]:
    """Hold the rounds, and leave the model that is fine-tuned on the last picks in `out`.

    `trainers` are the stages sft, reward, prefer and rl, by name.

    Raises:
        DataError: a line is no conversation, or has a check that cannot be read; no prompt is short
            enough; or nothing says which of two answers is better.
        FitError, RunError: see `training.loop.train`.
    """
    section = recipe.itec
    assert section is not None
    return _Itec(recipe, section, inputs, out, progress, trainers).run()


@dataclass
class _Itec:
    """A run of the stage."""

    recipe: Recipe
    section: Itec
    inputs: Inputs
    out: Path
    progress: Progress
    trainers: Mapping[str, Trainer]
    earlier_seconds: float = 0.0
    """Of parts that an interrupted run had finished."""
    comparisons: list[Path] = field(default_factory=list)
    """Of each round, the newest last."""

    def __post_init__(self) -> None:
        self.start_stage = str(self.recipe.start_of("itec"))
        self.start = self.inputs[self.start_stage] / "model"
        self.tokenizer = Tokenizer.open(self.start)
        self.compute = compat.compute_dtype(self.recipe.training.compute)

    def run(self) -> dict[str, Any]:
        prompts, held_out = self._prompts()
        section = self.section
        order = PromptOrder(
            len(prompts), per_round=section.prompts_per_round, seed=self.recipe.training.seed
        )
        members = {START: self.start}
        if "prefer" in self.inputs:
            members["prefer"] = self.inputs["prefer"] / "model"
        rounds: list[dict[str, Any]] = []
        worth: dict[str, list[float]] = {}
        for number in range(1, section.rounds + 1):
            folder = self.out / f"round-{number}"
            folder.mkdir(exist_ok=True)
            self.progress.say(f"  round {number}: committee of {', '.join(members)}")
            asked = [prompts[at] for at in order.of_round(number)]
            found, made = self._round(number, folder, members, asked)
            everyone = members | made
            measured, worth = self._measure(everyone, held_out, folder / "reward")
            found |= {"held_out": measured, "committee": list(members)}
            ranked = sorted(everyone, key=lambda name: -fmean(worth[name]))
            best_before = max(members, key=lambda name: fmean(worth[name]))
            members = {name: everyone[name] for name in ranked[: section.committee_size]}
            for name in ranked[section.committee_size :]:
                self._drop(everyone[name])
            rounds.append(found | {"next": list(members), "best": ranked[0]})
            write_text(self.out / "rounds.md", _report(rounds))
            self.progress.say(_told(rounds[-1]))
            if committee.under_noise(worth[best_before], worth[ranked[0]]):
                self.progress.say("  the gain is under noise: no further round")
                break
        reward = self.out / f"round-{len(rounds)}" / "reward"
        final = self._final(members, prompts, reward)
        _move(reward, self.out / "reward")
        _move(self.out / "final" / "tuned" / "model", self.out / "model")
        best = max(rounds[-1]["held_out"]["members"].values(), key=lambda one: one["worth"])
        return {
            "rounds": rounds,
            "best_member": best["worth"],
            "committee": rounds[-1]["held_out"]["picked_by_reward"],
            **final,
            "earlier_seconds": self.earlier_seconds,
        }

    def _prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Prompts to train on, and held-out ones."""
        section = self.section
        context = read_shape(self.start).max_tokens
        found = read_prompts(
            [source.file(self.inputs) for source in section.data.values()],
            self.tokenizer,
            max_tokens=context - section.max_tokens,
            skip_bad=section.skip_bad,
            say=self.progress.say,
        )
        try_checks(score, found)
        people = self.recipe.reward is not None and self.recipe.reward.data
        if not people and not any(prompt.conversation.check for prompt in found):
            raise DataError(
                "nothing says which of two answers is better: no prompt has a 'check', and "
                "[reward] has no data",
                hint='give lines a "check", or comparisons by people',
            )
        order = shuffled(len(found), self.recipe.training.seed, HELD_OUT_EPOCH)
        count = max(1, min(section.held_out_prompts, len(found) // 10))
        if count >= len(found):
            raise DataError(f"{len(found):,} prompts: one is held out, and one trained on")
        self.progress.say(f"  {len(found) - count:,} prompts, {count:,} held out")
        return [found[at] for at in sorted(order[count:])], [found[at] for at in order[:count]]

    def _round(
        self, number: int, folder: Path, members: Mapping[str, Path], asked: Sequence[Prompt]
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """One round: what is to be told of it, and the models that it made."""
        section, seed = self.section, self.recipe.training.seed
        given = self._answers(
            folder / "answers",
            members,
            asked,
            samples=section.answers_per_member,
            temperature=section.temperature,
            step=number,
        )
        found = [
            preference
            for at, (prompt, answers) in enumerate(zip(asked, given, strict=True))
            for preference in committee.compare(
                prompt,
                answers,
                most_pairs=section.pairs_per_prompt,
                key=f"{seed} {number} {at}",
            )
        ]
        compared = _write(folder / "comparisons.jsonl", found)
        if found:
            self.comparisons.append(compared)
        rewarded = self._reward(folder / "reward")
        given = self._judged(folder / "reward", asked, given)
        picks = [committee.pick(*each) for each in zip(asked, given, strict=True)]
        pairs = [
            pair
            for each in zip(asked, given, strict=True)
            if (pair := committee.best_and_worst(*each))
        ]
        picked = folder / "picked.jsonl"
        _write_lines(picked, _conversations(asked, picks))
        _write(folder / "pairs.jsonl", pairs)
        _write_lines(folder / "prompts.jsonl", [_asked(prompt) for prompt in asked])
        made = self._members(number, folder, num_picks=sum(map(bool, picks)), num_pairs=len(pairs))
        return {
            "round": number,
            "comparisons": len(found),
            "reward_accuracy": rewarded.get("held_out_accuracy"),
            "picked": sum(map(bool, picks)),
            "pairs": len(pairs),
            "picks": committee.count_picks(asked, picks),
        }, made

    def _reward(self, folder: Path) -> dict[str, Any]:
        """Train the reward model on all comparisons so far."""
        section = self.recipe.reward
        assert section is not None
        sources = {name: source for name, source in section.data.items()}
        files = self.comparisons
        for number, file in enumerate(files, start=1):
            newest = number == len(files) > 1
            weight = self.section.newest_weight if newest else 1.0
            sources[f"round-{number}"] = Comparisons(path=str(file.resolve()), weight=weight)
        if not sources:
            raise DataError(
                "all answers to all prompts are equally right: there is nothing to compare",
                hint="more prompts, easier or harder ones, or a higher itec.temperature",
            )
        recipe = self.recipe.model_copy(
            update={"reward": section.model_copy(update={"data": sources})}
        )
        return self._train("reward", recipe, folder)

    def _members(
        self, number: int, folder: Path, *, num_picks: int, num_pairs: int
    ) -> dict[str, Path]:
        """The models of a round, by name; those that have nothing to learn from are left out."""
        recipe, made = self.recipe, {}
        for member in self.section.members:
            enough = {Member.REJECT: num_picks > 1, Member.RL: True}.get(member, num_pairs > 1)
            if not enough:
                self.progress.say(f"  {member.value}: left out, there is nothing to learn from")
                continue
            stage, changed = _as_member(recipe, member, folder)
            place = folder / member.value
            self._train(stage, recipe.model_copy(update=changed), place, judge=folder / "reward")
            made[f"{number}-{member.value}"] = place / "model"
        return made

    def _drop(self, model: Path) -> None:
        """Delete a model of an earlier round; what was measured of it stays."""
        if model.is_relative_to(self.out):
            shutil.rmtree(model, ignore_errors=True)

    def _final(
        self, members: Mapping[str, Path], prompts: Sequence[Prompt], reward: Path
    ) -> dict[str, Any]:
        """Fine-tune on what the last committee answers, together with the data of [sft]."""
        folder = self.out / "final"
        folder.mkdir(exist_ok=True)
        asked = prompts[: self.section.device_answers]
        given = self._answers(
            folder / "answers",
            members,
            asked,
            samples=self.section.answers_per_member,
            temperature=self.section.temperature,
            step=self.section.rounds + 1,
        )
        given = self._judged(reward, asked, given)
        picks = [committee.pick(*each) for each in zip(asked, given, strict=True)]
        file = folder / "picked.jsonl"
        _write_lines(file, _conversations(asked, picks))
        sft = self.recipe.sft
        assert sft is not None
        count = sum(map(bool, picks))
        data = dict(sft.data)
        if count:
            weight = self.section.final_weight
            data["picked"] = Conversations(path=str(file.resolve()), weight=weight)
        if not data:
            raise DataError("no answer of the last committee was picked: nothing to learn from")
        self.progress.say(f"  final: {count:,} of {len(asked):,} prompts have a picked answer")
        tuned = sft.model_copy(update={"data": data})
        base = self.recipe.start_of("sft") if sft.data else self.start_stage
        recipe = self.recipe.model_copy(update={"sft": tuned, "itec": None})
        metrics = self._train("sft", recipe, folder / "tuned", start=self.inputs[str(base)])
        nats = {name: metrics[name] for name in ("held_out_nats",) if name in metrics}
        return {"final_picked": count, "final_prompts": len(asked), **nats}

    def _train(
        self,
        stage: str,
        recipe: Recipe,
        folder: Path,
        *,
        start: Path | None = None,
        judge: Path | None = None,
    ) -> dict[str, Any]:
        """Run a stage in a folder, unless it was finished there, and return its metrics."""
        done = folder / "metrics.json"
        if done.exists():
            metrics: dict[str, Any] = json.loads(done.read_text())
            self.earlier_seconds += metrics["seconds"]
            return metrics
        folder.mkdir(exist_ok=True)
        self.progress.say(f"  {folder.relative_to(self.out)}")
        began = time.monotonic()
        before = {str(recipe.start_of(stage)): start or self.inputs[self.start_stage]}
        inputs = dict(self.inputs) | before | ({"reward": judge} if judge else {})
        metrics = self.trainers[stage](recipe, inputs, folder, self.progress)
        earlier = metrics.pop("earlier_seconds", 0.0)
        self.earlier_seconds += earlier
        metrics["seconds"] = round(time.monotonic() - began + earlier, 1)
        write_text(done, json.dumps(metrics))
        shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
        return metrics

    def _answers(
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
                    into.append(Answered(name, answer, _checked(prompt, answer), 0.0))
        return given

    def _sample(
        self, model: Path, prompts: Sequence[Prompt], samples: int, temperature: float, step: int
    ) -> list[list[Sampled]]:
        decoder = open_checkpoint(model, dtype=self.compute)
        decoder.eval()
        with compat.memory_settings():
            return sample_answers(
                decoder,
                self.tokenizer,
                [prompt.ids for prompt in prompts],
                samples=samples,
                max_tokens=self.section.max_tokens,
                temperature=temperature,
                seed=self.recipe.training.seed,
                step=step,
            )

    def _judged(
        self, reward: Path, prompts: Sequence[Prompt], given: Sequence[Sequence[Answered]]
    ) -> list[list[Answered]]:
        """The same answers with their rewards."""
        scorer = open_reward_model(reward / "model")
        read = [
            Answer([*prompt.ids, *each.answer.ids], len(prompt.ids))
            for prompt, answers in zip(prompts, given, strict=True)
            for each in answers
        ]
        rewards = iter(scorer.score_answers(read))
        return [[replace(each, reward=next(rewards)) for each in answers] for answers in given]

    def _measure(
        self, members: Mapping[str, Path], held_out: Sequence[Prompt], reward: Path
    ) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """What members are worth on held-out prompts, as they sample; and by prompt."""
        given = self._answers(
            self.out / "held-out", members, held_out, samples=1, temperature=1.0, step=0
        )
        given = self._judged(reward, held_out, given)
        by_member = {
            name: [next(a for a in answers if a.member == name) for answers in given]
            for name in members
        }
        first = by_member[START]
        worth = {
            name: committee.values(held_out, answers, first) for name, answers in by_member.items()
        }
        picked = [max(answers, key=lambda each: each.reward) for answers in given]
        facts = {
            name: {
                "worth": fmean(worth[name]),
                "finished": fmean(each.answer.finished for each in answers),
                "reward": fmean(each.reward for each in answers),
                "to_start": self._to_start(name, members[name], held_out, answers),
            }
            for name, answers in by_member.items()
        }
        together = fmean(committee.values(held_out, picked, first))
        return {"members": facts, "picked_by_reward": together}, worth

    def _to_start(
        self, name: str, model: Path, prompts: Sequence[Prompt], answers: Sequence[Answered]
    ) -> float:
        """Divergence of a member from the start, in nats per answer, estimated from its answers."""
        file = self.out / "held-out" / f"{name}.divergence.json"
        if not file.exists():
            read = [
                Answer([*prompt.ids, *each.answer.ids], len(prompt.ids))
                for prompt, each in zip(prompts, answers, strict=True)
            ]
            gaps = self._logps(model, read) - self._logps(self.start, read)
            write_text(file, json.dumps(float(mx.mean(gaps))))
        return float(json.loads(file.read_text()))

    def _logps(self, model: Path, answers: Sequence[Answer]) -> mx.array:
        decoder = open_checkpoint(model, dtype=self.compute)
        chunk_bytes = self.recipe.training.loss_bytes
        found = []
        for start in range(0, len(answers), BATCH_ANSWERS):
            packed = pack_answers(answers[start : start + BATCH_ANSWERS])
            found.append(answer_logps(decoder, packed, chunk_bytes=chunk_bytes).answers)
            mx.eval(found[-1])
        return mx.concatenate(found)


def _as_member(recipe: Recipe, member: Member, folder: Path) -> tuple[str, dict[str, Any]]:
    """The stage that trains a member, and what is changed in the recipe for it."""
    sft, prefer, rl = recipe.sft, recipe.prefer, recipe.rl
    if member is Member.REJECT:
        assert sft is not None
        data: dict[str, Any] = {"picked": Conversations(path=str(folder / "picked.jsonl"))}
        return "sft", {"sft": sft.model_copy(update={"data": data}), "itec": None}
    if member is Member.RL:
        assert rl is not None
        data = {"asked": Conversations(path=str(folder / "prompts.jsonl"))}
        return "rl", {"rl": rl.model_copy(update={"data": data}), "itec": None}
    assert prefer is not None
    data = {"pairs": Comparisons(path=str(folder / "pairs.jsonl"))}
    method = PreferenceMethod(member.value)
    return "prefer", {"prefer": prefer.model_copy(update={"data": data, "method": method})}


def _checked(prompt: Prompt, answer: Sampled) -> float:
    check = prompt.conversation.check
    return score(check, answer.text) if check is not None and answer.finished else 0.0


def _asked(prompt: Prompt) -> dict[str, Any]:
    """A line of a file of prompts."""
    line = as_conversation(prompt, Sampled((), "", True))
    return line | {"messages": line["messages"][:-1]}


def _conversations(
    prompts: Sequence[Prompt], picks: Sequence[Answered | None]
) -> list[dict[str, Any]]:
    pairs = zip(prompts, picks, strict=True)
    return [as_conversation(prompt, each.answer) for prompt, each in pairs if each]


def _write(file: Path, preferences: Sequence[Preference]) -> Path:
    write_preferences(file, preferences)
    return file


def _write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _move(place: Path, to: Path) -> None:
    """Rename, unless a run that was killed has done so."""
    if place.exists():
        place.rename(to)


def _told(found: Mapping[str, Any]) -> str:
    """A round in a few lines."""
    held_out = found["held_out"]
    width = max(map(len, held_out["members"]))
    lines = [
        f"  {name:{width}}  {facts['worth']:6.1%}, {facts['to_start']:7.3f} nats from the start"
        for name, facts in held_out["members"].items()
    ]
    return "\n".join(
        [*lines, f"  {'picked':{width}}  {held_out['picked_by_reward']:6.1%} by the reward model"]
    )


def _report(rounds: Sequence[Mapping[str, Any]]) -> str:
    """All rounds in Markdown: who won, where, and what the members are worth."""
    parts = []
    for found in rounds:
        accuracy = found["reward_accuracy"]
        lines = [
            f"## Round {found['round']}",
            "",
            f"{found['comparisons']:,} comparisons; the reward model tells "
            f"{'' if accuracy is None else f'{accuracy:.1%} of '}held-out ones right. "
            f"{found['picked']:,} prompts have a picked answer, {found['pairs']:,} a pair.",
            "",
            "Whose answers were picked:",
            "",
            committee.picks_table(found["committee"], found["picks"]),
            "",
            "On held-out prompts, sampled at temperature 1:",
            "",
            "| model | worth | ended | reward | nats from the start |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, facts in found["held_out"]["members"].items():
            lines.append(
                f"| {name} | {facts['worth']:.1%} | {facts['finished']:.1%} | "
                f"{facts['reward']:.3f} | {facts['to_start']:.3f} |"
            )
        together = found["held_out"]["picked_by_reward"]
        lines += [
            f"| picked among all by the reward model | {together:.1%} | | | |",
            "",
            f"Next committee: {', '.join(found['next'])}.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
