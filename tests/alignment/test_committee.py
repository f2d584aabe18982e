"""What a committee's answers become: comparisons, picks, pairs, and who won where."""

from collections import Counter

import pytest

from afm_mlx.alignment.committee import (
    Answered,
    best_and_worst,
    category,
    compare,
    count_picks,
    pick,
    under_noise,
    values,
)
from afm_mlx.alignment.committee_report import picks_table
from afm_mlx.alignment.preferences import level_of_reward_gap
from afm_mlx.alignment.prompts import Prompt
from afm_mlx.alignment.sampling import Sampled
from afm_mlx.text.conversations import Conversation

CHECK = {"kind": "exact", "answer": "yes"}


def prompt(*, check=CHECK, name=None):
    return Prompt((1,), Conversation(({"role": "user", "content": "?"},), id=name, check=check))


def answer(member, text, checked=0.0, reward=0.0, finished=True):
    return Answered(member, Sampled((1, 2), text, finished), checked, reward)


def test_comparisons_are_between_two_members_and_the_righter_answer_is_preferred():
    answers = [answer("a", "yes", 1.0), answer("a", "no"), answer("b", "Yes", 1.0)]
    answers += [answer("b", "nope"), answer("b", "half", 0.6)]
    found = compare(prompt(), answers, most_pairs=3, key="k")
    assert len(found) == 3
    owner = {each.answer.text: each for each in answers}
    for each in found:
        better, worse = owner[each.chosen["content"]], owner[each.rejected["content"]]
        assert better.member != worse.member
        assert better.checked > worse.checked
        gap = better.checked - worse.checked
        assert each.level == ("significantly_better" if gap >= 0.75 else "better" if gap >= 0.5
                              else "slightly_better")  # fmt: skip
    again = compare(prompt(), answers, most_pairs=3, key="k")
    assert [each.line() for each in again] == [each.line() for each in found]


def test_all_pairs_of_members_are_compared_alike():
    answers = [answer(name, f"{name}{right}", float(right)) for name in "abc" for right in (0, 1)]
    pairs = Counter()
    for number in range(300):
        for found in compare(prompt(), answers, most_pairs=1, key=str(number)):
            pairs[frozenset((found.chosen["content"][0], found.rejected["content"][0]))] += 1
    assert set(map(len, pairs)) == {2}
    assert all(70 < count < 130 for count in pairs.values()), pairs


def test_a_committee_of_one_is_compared_with_itself():
    answers = [answer("a", "yes", 1.0), answer("a", "no")]
    (found,) = compare(prompt(), answers, most_pairs=1, key="k")
    assert (found.chosen["content"], found.rejected["content"]) == ("yes", "no")


def test_equally_right_or_unchecked_answers_are_not_compared():
    alike = [answer("a", "yes", 1.0), answer("b", "Yes", 1.0)]
    assert compare(prompt(), alike, most_pairs=2, key="k") == []
    assert compare(prompt(check=None), [*alike, answer("b", "no")], most_pairs=2, key="k") == []


def test_the_pick_passes_its_check_and_has_the_highest_reward():
    answers = [
        answer("a", "wrong", 0.9, 9.0),
        answer("a", "cut", 1.0, 8.0, finished=False),
        answer("b", "good", 1.0, 1.0),
        answer("c", "better", 1.0, 2.0),
    ]
    assert pick(prompt(), answers).member == "c"
    assert pick(prompt(), answers[:2]) is None
    assert pick(prompt(check=None), answers).answer.text == "wrong"


def test_best_and_worst_go_by_the_check_first_and_then_by_the_reward():
    answers = [
        answer("a", "r-", 1.0, -5.0),
        answer("b", "r+", 1.0, 5.0),
        answer("c", "w+", 0.0, 9.0),
        answer("c", "w-", 0.0, -9.0),
    ]
    found = best_and_worst(prompt(), answers)
    assert (found.chosen["content"], found.rejected["content"]) == ("r+", "w-")
    assert best_and_worst(prompt(), answers[:2]) is None
    found = best_and_worst(prompt(check=None), [answer("a", "x", 0, 0.2), answer("b", "y", 0, 3.0)])
    assert (found.chosen["content"], found.rejected["content"]) == ("y", "x")
    assert found.level == "significantly_better"


@pytest.mark.parametrize(
    ("gap", "level"),
    [(2.944, "significantly_better"), (1.735, "better"), (1.099, "slightly_better"),
     (0.619, "negligibly_better"), (0.1, "negligibly_better"), (100.0, "significantly_better")],
)  # fmt: skip
def test_a_gap_of_rewards_is_the_level_that_has_it_as_its_best(gap, level):
    assert level_of_reward_gap(gap) == level


def test_worth_is_the_check_or_else_a_win_against_the_start():
    prompts = [prompt(), *[prompt(check=None)] * 3]
    start = [answer("start", "s", 0.0, 1.0)] * 4
    own = [answer("a", "x", 0.25, -9.0)] + [answer("a", "x", 0.0, r) for r in (2.0, 1.0, 0.0)]
    assert values(prompts, own, start) == [0.25, 1.0, 0.5, 0.0]


def test_a_gain_under_its_standard_error_is_noise():
    before = [0.0] * 100
    assert under_noise(before, [1.0] + [0.0] * 99)  # mean 0.01, standard error 0.01
    assert not under_noise(before, [1.0] * 9 + [0.0] * 91)  # 0.09, 0.029
    assert under_noise(before, before)
    assert under_noise([0.0], [1.0])


def test_who_won_where_is_counted_by_the_id():
    names = ["math/ages/0-1", "math/ages/0-2", "basics/sum.3/0-7", None]
    prompts = [prompt(name=name) for name in names]
    assert [category(each.conversation) for each in prompts] == [
        "math/ages",
        "math/ages",
        "basics/sum",
        "",
    ]
    picks = [answer("a", "x"), answer("b", "x"), None, answer("b", "x")]
    found = count_picks(prompts, picks)
    assert found == {
        "all": {"b": 1},
        "basics/sum": {"nobody": 1},
        "math/ages": {"a": 1, "b": 1},
    }
    table = picks_table(["a", "b"], found).splitlines()
    assert table[0] == "| prompts | a | b | nobody |"
    assert table[-1] == "| all | 1 | 2 | 1 |"
