"""Figures against ones that were computed by hand."""

import pytest

from afm_mlx.evaluation.human.results import results, share_of
from afm_mlx.evaluation.human.tables import tables

from .conftest import all_marks, for_model, say


def figures(scores) -> dict:
    return {name: (round(score["value"], 4), score["n"]) for name, score in scores.items()}


def test_the_interval_is_wilsons():
    # 8 of 10, z = 1.96: middle (0.8 + 0.19207) / 1.38415, half
    # 1.95996 / 1.38415 * sqrt(0.016 + 0.0096037).
    share = share_of([1.0] * 8 + [0.0] * 2)
    assert (share.value, share.n) == (0.8, 10)
    assert share.low == pytest.approx(0.4902, abs=1e-4)
    assert share.high == pytest.approx(0.9433, abs=1e-4)
    assert share_of([]).n == 0
    assert (share_of([]).low, share_of([]).high) == (0, 1)


def test_win_tie_and_lose_are_the_first_models_whatever_side_it_was_on(store):
    for number, strength in enumerate([3, 1, 2, 0, -1]):
        say(store, number, "Ann", for_model(store, number, "ours", strength))
    assert {card.models[0] for card in store.cards[:5]} == {"ours", "theirs"}
    (pair,) = results(store)["pairs"]
    assert pair["models"] == ["ours", "theirs"]
    assert figures(pair["scores"]) == {"win": (0.6, 5), "tie": (0.2, 5), "lose": (0.2, 5)}


def test_graders_of_one_card_have_an_equal_part_in_it(store):
    for grader, strength in (("Ann", 1), ("Bob", 3), ("Cid", 0)):
        say(store, 0, grader, for_model(store, 0, "ours", strength))
    say(store, 1, "Ann", for_model(store, 1, "ours", -2))
    (pair,) = results(store)["pairs"]
    scores = figures(pair["scores"])
    assert scores["win"] == (0.3333, 2)  # (2/3 + 0) / 2
    assert scores["tie"] == (0.1667, 2)
    assert scores["lose"] == (0.5, 2)


def test_categories_have_figures_of_their_own(store):
    category = {number: store.asked(card).category for number, card in enumerate(store.cards)}
    for number in range(20):
        strength = 1 if category[number] == "math" else -1
        say(store, number, "Ann", for_model(store, number, "ours", strength))
    (pair,) = results(store)["pairs"]
    assert list(pair["groups"]) == ["math", "writing"]
    assert figures(pair["groups"]["math"])["win"] == (1.0, 10)
    assert figures(pair["groups"]["writing"])["lose"] == (1.0, 10)


def test_every_pair_of_models_is_compared(make, tmp_path):
    from afm_mlx.evaluation.human.store import Store

    with Store.of_study(tmp_path / "three.sqlite", make("a", "b", "c")) as store:
        best = {"a": 2, "b": 1, "c": 0}
        for number, card in enumerate(store.cards):
            left, right = card.models
            say(store, number, "Ann", best[right] - best[left])
        found = results(store)
    assert [pair["models"] for pair in found["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert all(figures(pair["scores"])["win"] == (1.0, 20) for pair in found["pairs"])


def test_position_bias_is_the_share_that_the_left_side_won(store):
    for number, verdict in enumerate([-3, -1, -2, 1, 0]):
        say(store, number, "Ann", verdict)
    say(store, 3, "Bob", -1)  # card 3: half for each side
    left = results(store)["left_won"]
    assert (left["value"], left["n"]) == (3.5 / 4, 4)  # the tie does not count


def test_agreement_by_hand(store):
    for number, (one, other) in enumerate([(1, 2), (-1, 0), (3, 3)]):
        say(store, number, "Ann", one)
        say(store, number, "Bob", other)
    say(store, 3, "Ann", 2)
    agreement = results(store)["agreement"]
    assert agreement["cards"] == 3
    assert agreement["equal"] == pytest.approx(2 / 3)  # win or lose, whatever the strength
    # Signs 1 1 | -1 0 | 1 1: observed 2, of pooled 1, 1, 1, 1, -1, 0 unlike 2 * (4 + 4 + 1).
    assert agreement["alpha"] == pytest.approx(1 - 5 * 2 / 18)
    # Squares 1, 1, 0, twice each; pooled 1, 2, -1, 0, 3, 3: 2 * (6 * 24 - 8**2) / 2 = 80.
    assert agreement["alpha_strength"] == pytest.approx(1 - 5 * 4 / 160)


def test_graders_are_told_apart(store):
    for number, (verdict, seconds) in enumerate([(-1, 2.0), (-2, 9.0), (0, 4.0)]):
        say(store, number, "Ann", verdict, seconds=seconds)
    say(store, 3, "Ann", None)
    say(store, 0, "Bob", 3)
    ann, bob = results(store)["graders"]
    assert ann == {
        "name": "Ann",
        "graded": 3,
        "skipped": 1,
        "median_seconds": 4.0,
        "left": 2,
        "tie": 1,
        "right": 0,
    }
    assert (bob["name"], bob["right"]) == ("Bob", 1)


def test_good_is_good_in_all_and_poor_is_poor_in_any(graded):
    verdicts = {
        "ours": [all_marks(2), all_marks(2, groundedness=1), all_marks(1, composition=0)],
        "theirs": [all_marks(0), all_marks(2, harmfulness=0)],
    }
    for model, marks in verdicts.items():
        cards = [number for number, card in enumerate(graded.cards) if card.models == (model,)]
        for number, each in zip(cards, marks, strict=False):
            say(graded, number, "Ann", each)
    ours, theirs = results(graded)["answers"]
    assert figures(ours["scores"]) == {"good": (0.3333, 3), "poor": (0.3333, 3)}
    assert figures(theirs["scores"]) == {"good": (0.0, 2), "poor": (1.0, 2)}
    assert figures(ours["dimensions"]["groundedness"]) == {
        "good": (0.3333, 3),
        "poor": (0.0, 3),
    }


def test_agreement_on_single_answers_is_by_dimension(graded):
    say(graded, 0, "Ann", all_marks(2))
    say(graded, 0, "Bob", all_marks(2, composition=0))
    agreement = results(graded)["agreement"]
    assert agreement["composition"]["equal"] == 0
    assert agreement["groundedness"] == {"cards": 1, "equal": 1, "alpha": None}


def test_comments_come_with_whose_answers_they_are_about(store):
    say(store, 2, "Ann", 1, "too long")
    (comment,) = results(store)["comments"]
    assert comment["comment"] == "too long"
    assert comment["models"] == list(store.cards[2].models)


def test_the_tables_say_it_in_lines(store):
    assert list(tables(results(store))) == [
        "0 of 20 comparisons graded, 0 grades of 0 people; intervals are of 95 %"
    ]
    for number in range(4):
        say(store, number, "Ann", for_model(store, number, "ours", 1 if number else 0), "c")
        say(store, number, "Bob", for_model(store, number, "ours", 2))
    lines = list(tables(results(store)))
    assert lines[0].startswith("4 of 20 comparisons graded, 8 grades of 2 people")
    assert " ".join(lines[2].split()) == "ours against theirs win % tie % lose % prompts"
    assert " ".join(lines[3].split()).startswith("all 87.5 (")
    assert lines[3].endswith(" 4")
    assert any(line.startswith("  math") for line in lines)
    assert any("75.0% equal" in line and "alpha" in line for line in lines)
    assert lines[-1] == "4 comments: --json FILE has them"
    assert len({len(line) for line in lines[2:6]}) == 1  # columns are aligned


def test_single_answers_have_a_table_of_each_model(graded):
    for number in range(40):
        say(graded, number, "Ann", all_marks(number % 3))
    lines = list(tables(results(graded)))
    assert sum(line.endswith("answers") for line in lines) == 2
    assert sum(line.startswith("  groundedness") for line in lines) == 2
