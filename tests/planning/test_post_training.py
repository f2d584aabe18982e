"""Plans of post-training: each figure by hand, what is counted, and what is said to be assumed."""

import json
import re
from dataclasses import fields
from math import ceil
from pathlib import Path

import pytest

from afm_mlx.planning.answers import cache_bytes
from afm_mlx.planning.committee import committee_sizes
from afm_mlx.planning.cost import flops_per_token
from afm_mlx.planning.examples import ASSUMED_TOKENS
from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.planning.post_training import PostTrainingPlan
from afm_mlx.planning.text import format_plan
from afm_mlx.planning.units import gigabytes
from afm_mlx.recipe import load_named_recipe
from tests.planning.small_plans import (
    CPU,
    ITEC,
    MATRICES,
    OUTPUT,
    PREFER,
    RATE,
    REJECT,
    REWARD,
    RL,
    SEEN,
    SFT,
    TOTAL,
    lines,
    memory,
    small_shape,
    stage,
    work,
)


def test_fine_tuning_counts_the_lines_of_its_files(plan, tmp_path):
    lines(tmp_path / "chats.jsonl", 50, 40)
    sft = stage(plan(SFT), "sft")
    tokens = 0.8 * 50 * 40
    assert sft.steps == ceil(3 * ceil(tokens / 64) / 4)
    assert sft.trained_tokens == sft.steps * 4 * 64
    per_token = sum(flops_per_token(small_shape(), 64, recompute=False).values())
    assert sft.flops == sft.trained_tokens * per_token
    assert sft.seconds == pytest.approx(sft.flops / RATE)
    assert sft.assumptions[0].endswith("50 lines, 8,000 bytes, 4 a token assumed")


def test_a_file_of_half_the_weight_is_half_an_epoch(plan, tmp_path):
    lines(tmp_path / "chats.jsonl", 400, 40)
    whole = stage(plan(SFT), "sft")
    half = stage(plan(SFT, "sft.data.chats.weight=0.5"), "sft")
    assert half.steps == ceil(3 * ceil(0.8 * 200 * 40 / 64) / 4)
    assert half.steps < whole.steps


def test_what_depends_on_files_that_are_not_there_is_planned_for_one_step(plan):
    planned = plan(SFT + REWARD + PREFER)
    for after in planned.post_training:
        assert after.steps is None
        assert after.of == "one step"
        (missing,) = after.missing
        assert f"depends on its data: {missing} is not there" in format_plan(planned)
    sft, reward, prefer = planned.post_training
    assert sft.trained_tokens == 4 * 64
    assert reward.trained_tokens == prefer.trained_tokens == 8 * 2 * 100
    assert "prompt and answer of 100 tokens, the longest" in reward.assumptions[0]


def test_generated_conversations_are_counted_in_the_recipe(plan):
    made = """
[synthetic.sums]
kind = "basics"
count = 1_000
"""
    planned = plan(SFT.replace("FOLDER/chats.jsonl", "synthetic:sums") + made)
    sft = stage(planned, "sft")
    found = re.fullmatch(
        r"synthetic:sums: 1,000 lines of (\d+) tokens, of 50 that were made to see",
        sft.assumptions[0],
    )
    assert found
    assert 12 <= int(found[1]) <= 40  # "How much is 4 + 7?", "11", and two turns
    assert sft.steps == ceil(3 * ceil(0.8 * 1_000 * int(found[1]) / 64) / 4)


def test_the_reward_model_has_heads_and_no_logits(plan, tmp_path):
    lines(tmp_path / "pairs.jsonl", 64, 90)
    reward = stage(plan(REWARD), "reward")
    # A third of a line is the prompt, which stands before both answers: 60 tokens each.
    assert reward.steps == 32 / 8
    assert reward.trained_tokens == 64 * 60
    blocks = 3 * (2 * MATRICES + 4 * SEEN * 60)
    heads = 64 + 4 * ((64 + 1) * 16 + (16 + 1) * 3)
    assert reward.flops == 64 * 60 * blocks + 64 * 6 * heads
    assert memory(reward)["heads"] == 16 * heads
    assert "loss" not in memory(reward)


def test_an_output_layer_of_its_own_is_frozen_in_the_reward_model(plan):
    untied = stage(plan(REWARD, "shape.tied=false"), "reward")
    tied = stage(plan(REWARD), "reward")
    assert untied.peak_bytes - tied.peak_bytes == memory(untied)["frozen"] == 4 * OUTPUT


def test_preference_training_reads_each_pair_once_more_by_the_reference(plan, tmp_path):
    lines(tmp_path / "pairs.jsonl", 64, 90)
    prefer = stage(plan(PREFER), "prefer")
    assert prefer.steps == 2 * 32 / 8
    found = work(prefer)
    assert found["training"].tokens == 2 * found["reference"].tokens == 2 * 64 * 60
    token = 2 * MATRICES + 4 * SEEN * 60
    # Half of the 60 tokens are the answer's, which alone have logits.
    assert found["reference"].flops == 64 * (60 * token + 2 * OUTPUT * 30)
    assert found["training"].flops == 2 * 64 * (3 * 60 * token + 8 * OUTPUT * 30)


def test_rejection_sampling_writes_the_answers_of_all_prompts(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 30, 20)
    reject = stage(plan(REJECT), "reject")
    assert (reject.steps, reject.trained_tokens) == (0, 0)
    assert reject.sampled_tokens == 30 * 3 * 32
    assert work(reject)["prompts"].tokens == 30 * 20
    assert memory(reject)["weights"] == 4 * TOTAL
    # 64 answers at once to 22 prompts, and one prompt more; caches grow by 256 tokens.
    slots = 64 * (20 + 256) + 23 * 256
    assert memory(reject)["caches"] == slots * cache_bytes(small_shape(), CPU)


def test_without_its_file_rejection_sampling_is_planned_for_one_part(plan):
    reject = stage(plan(REJECT), "reject")
    assert reject.of == "64 prompts"
    assert reject.sampled_tokens == 64 * 3 * 32
    assert reject.assumptions[0].startswith(f"prompts of {ASSUMED_TOKENS} tokens: ")


def test_a_reward_model_that_decides_is_in_memory_and_reads_all_answers(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 30, 20)
    judged = ("reject.model_weight=0.5", "reject.reward_model=judge")
    reject = stage(plan(REJECT, *judged), "reject")
    assert work(reject)["scores"].tokens == 30 * 3 * 52
    assert work(reject)["scores"].flops == 90 * 52 * (2 * MATRICES + 4 * SEEN * 52)
    assert memory(reject)["reward model"] == 4 * TOTAL


def test_rounds_of_reinforcement_learning_by_hand(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 30, 20)
    rl = stage(plan(RL), "rl")
    assert (rl.rounds, rl.steps, rl.of) == (5, 5 * 3, "")
    found = work(rl)
    assert found["prompts"].tokens == 5 * 4 * 20
    assert rl.sampled_tokens == 5 * 24 * 32
    assert rl.trained_tokens == 5 * 3 * 24 * 52
    text = 52 * (2 * MATRICES + 4 * SEEN * 52)
    assert found["likelihoods"].flops == 5 * 2 * 24 * (text + 2 * OUTPUT * 32)
    assert found["training"].flops == 5 * 3 * 24 * (3 * text + 8 * OUTPUT * 32)
    assert rl.seconds == pytest.approx(sum(each.seconds for each in rl.work))
    assert memory(rl)["reference"] == 4 * TOTAL
    assert memory(rl)["optimizer"] == 8 * TOTAL
    assert "policy that samples" not in memory(rl)
    lagging = stage(plan(RL, "rl.sampling_lag=1"), "rl")
    assert memory(lagging)["policy that samples"] == 4 * TOTAL


def test_token_mode_reads_once_more_and_holds_logits(plan):
    sequence, token = (stage(plan(RL, f"rl.ratio={mode}"), "rl") for mode in ("sequence", "token"))
    assert 2 * work(token)["likelihoods"].tokens == 3 * work(sequence)["likelihoods"].tokens
    assert memory(token)["logits"] == 4 * 4 * 24 * 32 * 512


def test_rl_does_not_depend_on_how_many_prompts_there_are(plan, tmp_path):
    without = stage(plan(RL), "rl")
    assert without.missing == ()
    assert without.assumptions[0].startswith(f"prompts of {ASSUMED_TOKENS} tokens: ")
    lines(tmp_path / "prompts.jsonl", 3, ASSUMED_TOKENS)
    assert stage(plan(RL), "rl").work == without.work


def test_committees_grow_to_their_size():
    recipe = load_named_recipe("afm-on-device")
    assert committee_sizes(recipe) == [2, 5, 5, 5, 5, 5, 5]  # the start, and the model of [prefer]
    larger = load_named_recipe("afm-on-device", ["itec.committee_size=12", "itec.rounds=3"])
    assert committee_sizes(larger) == [2, 6, 10, 12]


def test_rounds_of_itec_by_hand(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 80, 20)
    itec = stage(plan(SFT + REWARD + PREFER + RL + ITEC), "itec")
    found = work(itec)
    # Committees of 2, 5 and 5; 20 prompts, 4 answers each of 32 tokens at most.
    assert found["answers"].tokens == 12 * 20 * 4 * 32
    assert found["scores"].tokens == 12 * 20 * 4 * 52
    # 8 of 80 prompts are held out, so 70 are there for the last committee of 5.
    assert found["final answers"].tokens == 5 * 70 * 4 * 32
    # 40 comparisons a round, half held out; the newest count twice: 40, 40 + 80, 80 + 80.
    steps = [ceil(0.5 * drawn / 8) for drawn in (40, 120, 160)]
    assert found["reward training"].tokens == sum(steps) * 16 * 52
    # Picks and pairs of 20 prompts; [sft] holds a fifth out, [prefer] a half.
    rejects = ceil(3 * ceil(0.8 * 20 * 52 / 64) / 4)
    assert found["reject"].tokens == 3 * rejects * 4 * 64
    pair_steps = ceil(2 * 0.5 * 20 / 8)
    assert found["dpo training"].tokens == 3 * pair_steps * 16 * 52
    assert found["ipo training"].flops == found["dpo training"].flops
    rl = stage(plan(RL), "rl")
    assert found["rl training"].tokens == 3 * rl.trained_tokens
    last = ceil(3 * ceil(0.8 * 70 * 52 / 64) / 4)
    assert found["final training"].tokens == last * 4 * 64
    assert itec.steps == sum(steps) + 3 * (rejects + 2 * pair_steps + 15) + last


def test_data_of_people_are_added_where_they_are_there(plan, tmp_path):
    sections = SFT + REWARD + PREFER + RL + ITEC
    lines(tmp_path / "prompts.jsonl", 80, 20)
    without = stage(plan(sections), "itec")
    assert any("[reward.data]" in each for each in without.assumptions)
    lines(tmp_path / "pairs.jsonl", 800, 90)
    lines(tmp_path / "chats.jsonl", 100, 40)
    itec = stage(plan(sections), "itec")
    steps = [ceil(0.5 * (800 + drawn) / 8) for drawn in (40, 120, 160)]
    assert work(itec)["reward training"].tokens == sum(steps) * 16 * 52
    told = ceil(3 * ceil(0.8 * (70 * 52 + 100 * 40) / 64) / 4)
    assert work(itec)["final training"].tokens == told * 4 * 64
    assert not any(".data]" in each for each in itec.assumptions)


def test_memory_of_itec_is_that_of_its_hungriest_part(plan):
    planned = plan(SFT + REWARD + PREFER + RL + ITEC)
    itec, rl = stage(planned, "itec"), stage(planned, "rl")
    assert itec.peak_bytes >= max(each.peak_bytes for each in planned.post_training)
    assert itec.peak_bytes == rl.peak_bytes
    assert itec.notes[0].startswith("memory is that of ")
    # 3 reward models, a committee of 5, and 4 new members.
    assert itec.notes[1].endswith(f"3 reward models and 9 others, {gigabytes(12 * 4 * TOTAL)} GB")


def test_device_recipe_has_a_plan_of_all_its_stages():
    planned = plan_recipe(load_named_recipe("afm-on-device"), find_hardware("m4-max-128"))
    found = {each.stage: each for each in planned.post_training}
    assert list(found) == ["sft", "prefer", "itec", "rl", "quantize", "recover"]
    assert {name for name, each in found.items() if each.missing} == {"sft", "prefer"}
    assert found["rl"].sampled_tokens == 500 * 64 * 8 * 1_024
    assert found["itec"].rounds == 6
    assert work(found["itec"])["final answers"].tokens == 5 * 1_000_000 * 4 * 1_024
    assert all(each.fits and not each.advice for each in found.values())


def test_the_text_names_every_assumption_and_fits_a_screen(plan, tmp_path):
    lines(tmp_path / "prompts.jsonl", 80, 20)
    planned = plan(SFT + REWARD + PREFER + REJECT + RL + ITEC)
    text = format_plan(planned)
    assert text.isascii()
    for after in planned.post_training:
        assert all(each in text for each in after.assumptions)
    assert "bandwidth   2 GB/s (made up) x 0.5 (assumed, not measured)" in text
    assert "not planned" not in text
    zoo = format_plan(plan_recipe(load_named_recipe("afm-on-device"), find_hardware("m1-8")))
    assert max(map(len, zoo.splitlines())) <= 120


def test_the_example_of_the_page_of_plans_is_what_plan_says():
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    (example,) = re.findall(r"(?ms)^```\nrl\n(.*?)^```", page)
    planned = plan_recipe(load_named_recipe("afm-on-device"), find_hardware("m4-max-128"))
    assert set(example.splitlines()) <= set(format_plan(planned).splitlines())


def test_every_key_of_json_is_in_the_page_of_plans(plan):
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    (rl,) = json.loads(json.dumps(plan(RL).as_json()))["post_training"]
    names = {each.name for each in fields(PostTrainingPlan)}
    assert names < set(rl)
    for key in [*rl, *rl["work"][0]]:
        assert re.search(rf"(?m)^\| .*`{key}`.* \|", page), key
