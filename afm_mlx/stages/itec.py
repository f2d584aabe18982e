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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from afm_mlx import compat
from afm_mlx.alignment import committee
from afm_mlx.alignment.committee import Answered
from afm_mlx.alignment.committee_models import START, Models
from afm_mlx.alignment.committee_report import report, told
from afm_mlx.alignment.preferences import Preference, write_preferences
from afm_mlx.alignment.prompts import Prompt, PromptOrder, hold_out, read_prompts
from afm_mlx.alignment.rejection import as_conversation
from afm_mlx.alignment.rewards import try_checks
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.artifact import SNAPSHOTS, Inputs, write_text
from afm_mlx.decoder.checkpoint import read_shape
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
        training = self.recipe.training
        self.models = Models(
            self.start,
            Tokenizer.open(self.start),
            score,
            compat.compute_dtype(training.compute),
            max_tokens=self.section.max_tokens,
            seed=training.seed,
            chunk_bytes=training.loss_bytes,
            held_out=self.out / "held-out",
            progress=self.progress,
        )

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
            measured, worth = self.models.measure(everyone, held_out, folder / "reward" / "model")
            found |= {"held_out": measured, "committee": list(members)}
            ranked = sorted(everyone, key=lambda name: -fmean(worth[name]))
            best_before = max(members, key=lambda name: fmean(worth[name]))
            members = {name: everyone[name] for name in ranked[: section.committee_size]}
            for name in ranked[section.committee_size :]:
                self._drop(everyone[name])
            rounds.append(found | {"next": list(members), "best": ranked[0]})
            write_text(self.out / "rounds.md", report(rounds))
            self.progress.say(told(rounds[-1]))
            more = number < section.rounds
            if more and committee.under_noise(worth[best_before], worth[ranked[0]]):
                self.progress.say("  the gain is under noise: no further round")
                break
        last_reward = Path(f"round-{len(rounds)}") / "reward"
        final = self._final(members, prompts, self.out / last_reward)
        (self.out / "reward").unlink(missing_ok=True)
        (self.out / "reward").symlink_to(last_reward, target_is_directory=True)
        tuned = self.out / "final" / "tuned" / "model"
        if tuned.exists():  # else a run that was killed has moved it
            tuned.rename(self.out / "model")
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
            self.models.tokenizer,
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
        train, held_out = hold_out(found, section.held_out_prompts, seed=self.recipe.training.seed)
        if not held_out:
            raise DataError(
                f"{len(found):,} prompts: members are measured on a tenth of them, so 10 are needed"
            )
        self.progress.say(f"  {len(train):,} prompts, {len(held_out):,} held out")
        return train, held_out

    def _round(
        self, number: int, folder: Path, members: Mapping[str, Path], asked: Sequence[Prompt]
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """One round: what is to be told of it, and the models that it made."""
        section, seed = self.section, self.recipe.training.seed
        given = self.models.answers(
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
        given = self.models.judged(folder / "reward" / "model", asked, given)
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
            "reward_pairs": rewarded.get("held_out_pairs"),
            "picked": sum(map(bool, picks)),
            "pairs": len(pairs),
            "picks": committee.count_picks(asked, picks),
        }, made

    def _reward(self, folder: Path) -> dict[str, Any]:
        """Train the reward model on all comparisons so far."""
        section = self.recipe.reward
        assert section is not None
        sources = dict(section.data)
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
        given = self.models.answers(
            folder / "answers",
            members,
            asked,
            samples=self.section.answers_per_member,
            temperature=self.section.temperature,
            step=self.section.rounds + 1,
        )
        given = self.models.judged(reward / "model", asked, given)
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
