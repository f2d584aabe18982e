"""What iTeC's rounds do: committees answer, the reward model learns, members are trained.

All rounds are counted, each prompt gives all its comparisons, a pair and a pick: upper bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from afm_mlx.planning.answers import Work
from afm_mlx.planning.examples import absent
from afm_mlx.planning.post_work import LONGEST, Costs, Course, prompts_assumed
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import Member


def committee_sizes(recipe: Recipe) -> list[int]:
    """Models that answer in each round, and for the final fine-tuning, at most."""
    section = recipe.itec
    assert section is not None
    sizes = [1 + ("prefer" in recipe.post_training_stages())]
    for _ in range(section.rounds):
        sizes.append(min(section.committee_size, sizes[-1] + len(section.members)))
    return sizes


def committee_course(costs: Costs) -> Course:
    """What the stage does in all its rounds, and in the final fine-tuning."""
    section = costs.recipe.itec
    assert section is not None
    *members, last = committee_sizes(costs.recipe)
    prompt, rounds = costs.prompt_tokens("itec"), section.rounds
    answering = _answer(costs, sum(members) * section.prompts_per_round, "")
    reward_steps, reward = _reward(costs, prompt + section.max_tokens)
    steps, trained = _members(costs, prompt, prompt + section.max_tokens)
    asked = _final_prompts(costs)
    final_steps = costs.sft_steps(_final_tokens(costs, asked, prompt + section.max_tokens))
    final = [*_answer(costs, last * asked, "final "), costs.rows("final training", final_steps)]
    return Course(
        "",
        (),
        reward_steps + steps * rounds + final_steps,
        rounds,
        (*answering, reward, *(each.times(rounds) for each in trained), *final),
        (
            *prompts_assumed(costs.sizes["itec"]),
            LONGEST.format(section.max_tokens),
            f"all {rounds:,} rounds; committees of {', '.join(map(str, members))}, at last {last}",
            "every prompt gives a pick, a pair and all its comparisons: an upper bound",
            *_left_out(costs),
        ),
    )


def _answer(costs: Costs, prompts: int, prefix: str) -> list[Work]:
    """Answers to prompts, of a member each, and what the reward model says of them."""
    section = costs.recipe.itec
    assert section is not None
    prompt, answers = costs.prompt_tokens("itec"), prompts * section.answers_per_member
    work = [
        *costs.write(prompts, answers, prompt, section.max_tokens),
        costs.judge(answers, prompt + section.max_tokens),
    ]
    return [replace(each, name=prefix + each.name) for each in work]


def _reward(costs: Costs, tokens: int) -> tuple[int, Work]:
    """Steps and work of training the reward model in each round, on all comparisons so far."""
    recipe = costs.recipe
    section, reward = recipe.itec, recipe.reward
    assert section is not None
    assert reward is not None
    people = costs.sizes["reward"].lines or 0.0
    new = section.prompts_per_round * section.pairs_per_prompt
    steps, done = 0, list[Work]()
    for number in range(section.rounds):
        drawn = people + (number + (section.newest_weight if number else 1.0)) * new
        kept = (1 - reward.held_out_fraction) * drawn
        more = costs.pair_steps("reward", kept)
        steps += more
        done += costs.compare("reward", more, kept, min(tokens, reward.max_tokens))
    return steps, together("reward training", done, f"{steps:,} x {reward.pairs_per_step:,} pairs")


def _members(costs: Costs, prompt: int, tokens: int) -> tuple[int, list[Work]]:
    """Steps and work of training the members of one round."""
    recipe = costs.recipe
    assert recipe.itec is not None
    asked, steps, done = recipe.itec.prompts_per_round, 0, list[Work]()
    for member in recipe.itec.members:
        more, work = 0, list[Work]()
        if member is Member.REJECT and recipe.sft:
            kept = (1 - recipe.sft.held_out_fraction) * asked
            more = costs.sft_steps(kept * min(tokens, recipe.sft.row_tokens))
            work = [costs.rows(member.value, more)]
        elif member is Member.RL and recipe.rl:
            more = recipe.rl.rounds * recipe.rl.updates_per_batch
            work = costs.rounds(prompt, prefix="rl ")
        elif recipe.prefer:
            kept = (1 - recipe.prefer.held_out_fraction) * asked
            length = min(tokens, recipe.prefer.max_tokens)
            more = costs.pair_steps("prefer", kept)
            reference, training = costs.compare("prefer", more, kept, length)
            work = [
                replace(reference, name=f"{member.value} reference"),
                replace(training, name=f"{member.value} training"),
            ]
        steps, done = steps + more, done + work
    return steps, done


def _final_prompts(costs: Costs) -> int:
    """Prompts that the last committee answers."""
    section, size = costs.recipe.itec, costs.sizes["itec"]
    assert section is not None
    if size.lines is None:
        return section.device_answers
    lines = int(size.distinct)
    held_out = max(1, min(section.held_out_prompts, lines // 10))
    return max(1, min(section.device_answers, lines - held_out))


def _final_tokens(costs: Costs, asked: int, tokens: int) -> float:
    """Tokens of an epoch of the final fine-tuning: picks, and the conversations of [sft]."""
    section, sft, size = costs.recipe.itec, costs.recipe.sft, costs.sizes["sft"]
    assert section is not None
    assert sft is not None
    picked = section.final_weight * asked * min(tokens, sft.row_tokens)
    told = (size.lines or 0.0) * size.line_tokens
    return (1 - sft.held_out_fraction) * (picked + told)


def _left_out(costs: Costs) -> list[str]:
    """Files of other sections that would add to the work, and are not there."""
    found = {name: costs.sizes[name].missing for name in ("sft", "reward")}
    return [f"nothing of [{name}.data]: {absent(files)}" for name, files in found.items() if files]


def together(name: str, work: Sequence[Work], how: str) -> Work:
    """Several pieces of work of one kind as one."""
    return Work(
        name,
        work[0].kind,
        sum(each.tokens for each in work),
        sum(each.flops for each in work),
        sum(each.seconds for each in work),
        how,
    )
