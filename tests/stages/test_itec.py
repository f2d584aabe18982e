"""Rounds with a committee: what is made of them, and that parts are not done twice."""

import io
import json

import pytest

from afm_mlx import own_model
from afm_mlx.alignment.reward import open_reward_model
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.progress import Progress

SETTINGS = [
    "itec.rounds=2",
    "itec.prompts_per_round=8",
    "itec.max_tokens=20",
    "itec.answers_per_member=16",
    "itec.temperature=1.0",
    "itec.device_answers=12",
    "itec.committee_size=3",
    "reward.pairs_per_step=4",
    "prefer.pairs_per_step=4",
    "sft.row_tokens=64",
    "rl.rounds=2",
    "rl.max_tokens=20",
    "rl.prompts_per_step=2",
    "rl.responses_per_prompt=4",
    "rl.lr=1e-3",
    "training.micro_rows=4",
]


@pytest.fixture
def prompts(tmp_path):
    """Questions that a random model answers to the checker's satisfaction now and then."""
    file = tmp_path / "prompts.jsonl"
    check = {"kind": "constraints", "list": [{"name": "lower_case"}]}
    asked = [[{"role": "user", "content": f"Where is {n}?"}] for n in range(24)]
    lines = [
        {"messages": messages, "check": check, "id": f"x/{n % 2}/{n}"}
        for n, messages in enumerate(asked)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def rounds(base, prompts, out, *more, progress=None):
    recipe = own_model.itec_recipe(base, prompts, assignments=[*SETTINGS, *more])
    return own_model.run(recipe, "itec", out, progress or Progress())["metrics"]


@pytest.fixture
def all_rounds(monkeypatch):
    """No round is the last one because nothing was gained."""
    monkeypatch.setattr("afm_mlx.alignment.committee.under_noise", lambda *_: False)


def test_rounds_leave_a_model_a_reward_model_and_a_table(chatty, prompts, tmp_path, all_rounds):
    metrics = rounds(chatty, prompts, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").shape == open_checkpoint(chatty).shape
    assert open_reward_model(tmp_path / "out" / "reward")
    first, second = metrics["rounds"]
    assert first["committee"] == ["start"]
    assert set(first["held_out"]["members"]) == {"start", "1-reject", "1-dpo", "1-ipo", "1-rl"}
    assert second["committee"] == first["next"]
    assert len(second["next"]) == 3
    assert first["held_out"]["members"]["start"]["to_start"] == pytest.approx(0, abs=1e-5)
    assert first["held_out"]["members"]["1-rl"]["to_start"] != 0
    assert sum(sum(counts.values()) for counts in first["picks"].values()) == 8
    assert set(first["picks"]) == {"x/0", "x/1"}
    worths = [one["worth"] for one in second["held_out"]["members"].values()]
    assert metrics["best_member"] == max(worths)
    table = (tmp_path / "out" / "rounds.md").read_text()
    assert "## Round 2" in table
    assert "| 1-dpo |" in table


class Stopping(Progress):
    """Stops where a line begins with some words."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def say(self, line):
        if line.strip().startswith(self.words):
            raise KeyboardInterrupt
        super().say(line)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    chatty, prompts, tmp_path, all_rounds
):
    rounds(chatty, prompts, tmp_path / "whole")
    for words in ("round-1/dpo", "round 2", "round-2/rl", "final"):
        with pytest.raises(KeyboardInterrupt):
            rounds(chatty, prompts, tmp_path / "cut", progress=Stopping(words))
    said = io.StringIO()
    metrics = rounds(chatty, prompts, tmp_path / "cut", progress=Progress(stream=said))
    assert "final/tuned" in said.getvalue()
    assert "round-" not in said.getvalue()
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert metrics["rounds"][1]["round"] == 2


def test_without_checks_and_people_nothing_says_what_is_better(chatty, tmp_path):
    file = tmp_path / "prompts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"Where is {n}?"}]} for n in range(24)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match="nothing says which of two answers is better"):
        rounds(chatty, file, tmp_path / "out")
    people = tmp_path / "people.jsonl"
    pairs = [{"prompt": f"Where is {n}?", "chosen": "In", "rejected": "Out"} for n in range(24)]
    people.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = own_model.itec_recipe(
        chatty, file, comparisons=people, assignments=[*SETTINGS, "rl.model_weight=1.0",
        "rl.check_weight=0.0", "itec.rounds=1"]
    )  # fmt: skip
    metrics = own_model.run(recipe, "itec", tmp_path / "out", Progress())["metrics"]
    (only,) = metrics["rounds"]
    assert only["comparisons"] == 0
    assert only["picked"] == 8
    assert only["held_out"]["members"]["start"]["worth"] == 0.5


def test_assignments_leave_the_presets_alone(chatty, prompts):
    own_model.itec_recipe(chatty, prompts, assignments=[*SETTINGS, "prefer.beta=0.5"])
    recipe = own_model.itec_recipe(chatty, prompts, assignments=SETTINGS)
    assert recipe.prefer.beta == 0.1


def test_members_need_the_sections_that_say_how_they_are_trained(chatty, prompts):
    with pytest.raises(RecipeError, match=r"itec\.max_tokens \(64\) leaves no room"):
        own_model.itec_recipe(chatty, prompts, assignments=["itec.max_tokens=64"])
