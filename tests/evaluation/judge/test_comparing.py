"""Comparisons: what stand-ins for judges say gives the figures that it must."""

import json
import re

import pytest

from afm_mlx.evaluation.judge.asking import Judge
from afm_mlx.evaluation.judge.comparing import Comparing
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import ModelSubject

SHOWN = re.compile(r"ANSWER ([AB]) <<(\w+)>>\n(.*?)\n<</\2>>", re.DOTALL)


def shown(question):
    """The two answers in a question, as a judge sees them."""
    return {name: text for name, _, text in SHOWN.findall(question.prompt[0]["content"])}


def verdict(word):
    return json.dumps({"reason": "It is.", "verdict": word})


def prefers(key):
    """A judge that takes the answer with the higher value, whatever its place."""

    def writes(question):
        said = shown(question)
        first, second = key(said["A"]), key(said["B"])
        return verdict("tie" if first == second else "A" if first > second else "B")

    return writes


@pytest.fixture
def compare(stub, prompts, answers, quiet, tmp_path):
    """Function: the result of a judge that writes so, on what two models wrote."""

    def run(writes, mine, theirs, name="run"):
        task = Comparing(prompts, answers("mine", mine), answers("theirs", theirs))
        judge = Judge(stub(writes=writes), of=task.model)
        return run_task(task, judge, tmp_path / name, quiet)

    return run


def values(result, *names):
    return [result.scores[name].value for name in names]


def test_a_judge_that_always_says_a_gives_exactly_a_half_and_shows_its_bias(compare):
    result = compare(lambda question: "A", lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert values(result, "win_rate", "win", "tie", "lose") == [0.5, 0, 1, 0]
    assert values(result, "position_bias", "first_place", "consistency") == [1, 1, 0]
    assert result.scores["unreadable"].value == 0


def test_a_judge_that_always_says_b_shows_its_bias_for_the_second_place(compare):
    result = compare(lambda question: "B", lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert values(result, "win_rate", "position_bias", "first_place") == [0.5, 1, 0]


def test_a_judge_that_always_ties_is_consistent_and_without_bias(compare):
    result = compare(lambda question: "tie", lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert values(result, "win_rate", "tie", "position_bias", "consistency") == [0.5, 1, 0, 1]
    assert "first_place" not in result.scores


def test_a_judge_that_prefers_the_longer_answer_shows_it(compare):
    result = compare(
        prefers(len),
        lambda n: "long " * 9 if n < 6 else "short",
        lambda n: "middling answer",
    )
    assert values(result, "prefers_longer", "win_rate", "win", "lose") == [1, 6 / 8, 6 / 8, 2 / 8]
    assert values(result, "position_bias", "consistency", "first_place") == [0, 1, 0.5]
    assert result.scores["characters"].value == pytest.approx((6 * 45 + 2 * 5) / 8)
    assert result.scores["characters_opponent"].value == 15
    assert "win_rate_like_length" not in result.scores


def test_a_perfect_judge_gives_the_win_rate_that_it_must(compare):
    better = prefers(lambda text: int(text.rpartition(" ")[2]))
    # By number: 3 wins, 2 ties, 3 losses.
    mine, theirs = [5, 6, 7, 1, 1, 1, 2, 3], [1, 2, 3, 1, 1, 9, 8, 7]
    result = compare(better, lambda n: f"mine {mine[n]}", lambda n: f"their {theirs[n]}")
    assert values(result, "win", "tie", "lose", "win_rate") == [3 / 8, 2 / 8, 3 / 8, 0.5]
    assert values(result, "consistency", "position_bias") == [1, 0]
    assert result.scores["win_rate_like_length"].n == 8
    assert result.groups["summarization"]["win"].value == 2 / 4  # numbers 0, 2, 4, 6
    swapped = compare(better, lambda n: f"mine {theirs[n]}", lambda n: f"their {mine[n]}", "other")
    assert values(swapped, "win", "tie", "lose") == [3 / 8, 2 / 8, 3 / 8]


def test_a_preference_in_one_order_alone_is_a_tie_and_counts_half_in_the_rate(compare):
    def writes(question):
        return "A" if shown(question)["A"].startswith("mine") else "tie"

    result = compare(writes, lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert values(result, "win", "tie", "win_rate", "consistency") == [0, 1, 0.75, 0]
    assert values(result, "position_bias", "first_place") == [0, 1]


def test_nonsense_is_unreadable_and_counts_for_nothing_else(compare):
    result = compare(lambda question: "Both are nice.", lambda n: f"m {n}", lambda n: f"t {n}")
    assert (result.scores["unreadable"].value, result.scores["unreadable"].n) == (1, 8)
    assert set(result.scores) == {"unreadable", "characters", "characters_opponent"}


def test_a_pair_with_one_verdict_that_cannot_be_read_is_not_counted_by_the_other(compare):
    def writes(question):
        odd = question.key in ("p1", "p3") and shown(question)["A"].startswith("mine")
        return "Hm." if odd else verdict("A")

    result = compare(writes, lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert values(result, "unreadable", "win_rate") == [2 / 8, 0.5]
    assert result.scores["win_rate"].n == 6


def test_empty_and_equal_answers_need_no_judge(stub, prompts, answers, quiet, tmp_path):
    mine = ["", "words", "same", " ", "words", *["mine"] * 3]
    theirs = ["words", " ", "same\n", "", "", *["theirs"] * 3]
    task = Comparing(
        prompts, answers("mine", mine.__getitem__), answers("theirs", theirs.__getitem__)
    )
    judge = stub(writes=lambda question: "A")
    result = run_task(task, Judge(judge, of="mine"), tmp_path / "run", quiet)
    assert judge.asked == [f"p{n}" for n in (5, 6, 7) for _ in range(2)]
    assert values(result, "win", "lose", "tie") == [2 / 8, 1 / 8, 5 / 8]
    assert (result.scores["position_bias"].value, result.scores["position_bias"].n) == (1, 3)


def test_a_refused_order_is_a_refused_pair(compare):
    def writes(question):
        return None if shown(question)["B"] == "mine 3" else verdict("B")

    result = compare(writes, lambda n: f"mine {n}", lambda n: f"theirs {n}")
    assert result.refused == {"not asked": 1}
    assert result.scores["unreadable"].value == 1 / 8


def test_an_interrupted_comparison_goes_on_with_whole_pairs(
    stub, prompts, answers, quiet, tmp_path
):
    class Gone(Exception):
        pass

    def task():
        return Comparing(
            prompts, answers("mine", lambda n: f"m {n}"), answers("theirs", lambda n: f"t {n}")
        )

    def between_two_orders(question):
        if question.key == "p2" and shown(question)["A"].startswith("t"):
            raise Gone
        return verdict("A")

    with pytest.raises(Gone):
        run_task(task(), Judge(stub(writes=between_two_orders), of="m"), tmp_path / "run", quiet)
    later = stub(writes=lambda question: verdict("A"))
    result = run_task(task(), Judge(later, of="m"), tmp_path / "run", quiet)
    assert later.asked == [f"p{n}" for n in range(2, 8) for _ in range(2)]
    assert values(result, "win_rate", "position_bias") == [0.5, 1]
    kept = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])["kept"]
    assert kept["verdicts"] == ["A", "B"]
    assert kept["answer"] == kept["answer_swapped"] == verdict("A")


def test_orders_that_come_back_in_any_order_are_put_together(
    stub, prompts, answers, quiet, tmp_path
):
    class Backwards(stub):
        def answer(self, questions):
            yield from reversed(list(super().answer(questions)))

    task = Comparing(
        prompts, answers("mine", lambda n: f"m {n}"), answers("theirs", lambda n: f"t {n}")
    )
    judge = Backwards(writes=prefers(lambda text: text.startswith("m")))
    result = run_task(task, Judge(judge, of="mine"), tmp_path / "run", quiet)
    assert values(result, "win", "position_bias") == [1, 0]


def test_both_orders_have_the_same_mark(prompts, answers):
    task = Comparing(prompts, answers("mine", lambda n: "m"), answers("theirs", lambda n: "t"))
    item = task.items()[0]
    first, second = item.prompt[0]["content"], item.swapped[0]["content"]
    assert first.partition("ANSWER A")[0] == second.partition("ANSWER A")[0]
    assert SHOWN.findall(first) == [
        (name, mark, text)
        for (name, mark, _), text in zip(SHOWN.findall(second), "mt", strict=True)
    ]


def test_a_random_model_that_is_held_to_the_form_is_always_readable(
    long_engine, prompts, answers, quiet, tmp_path
):
    mine, theirs = answers("mine", lambda n: "It is a house."), answers("t", lambda n: "A cat.")
    task = Comparing(prompts[:1], mine, theirs, max_tokens=200)
    judge = Judge(ModelSubject(long_engine, "tiny"), of="mine")
    result = run_task(task, judge, tmp_path / "run", quiet)
    assert (result.scores["unreadable"].value, result.scores["consistency"].n) == (0, 1)
