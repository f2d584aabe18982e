from collections import Counter

import pytest

from afm_mlx.alignment.preferences import LEVELS, read_preferences, write_preferences
from afm_mlx.errors import DataError
from afm_mlx.evaluation.human.preferences import level_of, preferences_of
from afm_mlx.evaluation.human.store import Store

from .conftest import for_model, say


@pytest.mark.parametrize(
    ("mean", "level"),
    [
        (3, "significantly_better"),
        (-2.5, "significantly_better"),
        (2, "better"),
        (1.5, "better"),
        (-1, "slightly_better"),
        (0.5, "slightly_better"),
        (1 / 3, "negligibly_better"),
    ],
)
def test_the_level_is_the_mean_verdict_rounded(mean, level):
    assert level_of(mean) == level


def test_our_own_reader_reads_what_is_exported(store, tmp_path):
    strengths = [3, 2, 1, -1, -2, -3]
    for number, strength in enumerate(strengths):
        say(store, number, "Ann", for_model(store, number, "ours", strength))
    found = preferences_of(store)
    path = tmp_path / "pairs.jsonl"
    assert write_preferences(path, found.found) == 6
    read = list(read_preferences(path))
    assert read == found.found
    for number, (each, strength) in enumerate(zip(read, strengths, strict=True)):
        prompt = store.cards[number].prompt
        better, worse = ("ours", "theirs") if strength > 0 else ("theirs", "ours")
        assert each.prompt == ({"role": "user", "content": f"What is {prompt}?"},)
        assert each.chosen["content"] == f"{better}'s answer to {prompt}"
        assert each.rejected["content"] == f"{worse}'s answer to {prompt}"
    assert Counter(each.level for each in read) == dict.fromkeys(LEVELS[:3], 2)


def test_several_graders_make_one_comparison_of_their_mean(store):
    for grader, verdict in (("Ann", 3), ("Bob", 1), ("Cid", -3)):
        say(store, 0, grader, verdict)
    for grader, verdict in (("Ann", 2), ("Bob", -2)):
        say(store, 1, grader, verdict)
    say(store, 2, "Ann", None)
    found = preferences_of(store)
    assert [each.level for each in found.found] == ["negligibly_better"]  # 1/3
    assert (found.ties, found.unusable) == (1, 0)


def test_equal_and_empty_answers_teach_nothing(make, tmp_path):
    study = make("ours", "theirs", answer="The same.")
    with Store.of_study(tmp_path / "same.sqlite", study) as store:
        say(store, 0, "Ann", 2)
        found = preferences_of(store)
    assert (found.found, found.ties, found.unusable) == ([], 0, 1)


def test_grades_of_single_answers_are_no_comparisons(graded):
    with pytest.raises(DataError, match="grades of single answers, and no comparisons"):
        preferences_of(graded)
