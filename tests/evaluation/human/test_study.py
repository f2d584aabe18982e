from collections import Counter

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import read_answers
from afm_mlx.evaluation.human.study import Kind, make_study


def test_each_prompt_is_shown_once_for_each_pair_of_models(make):
    study = make("a", "b", "c")
    assert len(study.cards) == 3 * 20
    assert Counter(frozenset(card.models) for card in study.cards) == {
        frozenset(pair): 20 for pair in ("ab", "ac", "bc")
    }
    assert len({(card.prompt, frozenset(card.models)) for card in study.cards}) == 60


def test_single_answers_are_each_shown_once(make):
    cards = make("a", "b", kind=Kind.GRADES).cards
    assert sorted(card.models for card in cards) == [("a",)] * 20 + [("b",)] * 20


def test_order_and_sides_follow_from_the_seed_and_are_random(make):
    ids = [f"p{number}" for number in range(400)]
    cards = make("a", "b", ids=ids).cards
    assert cards == make("a", "b", ids=ids).cards
    others = make("a", "b", ids=ids, seed=1).cards
    left = [card.models[0] == "a" for card in cards]
    assert 160 < sum(left) < 240  # four standard deviations
    sides = {card.prompt: card.models for card in cards}
    changed = sum(sides[card.prompt] != card.models for card in others)
    assert 160 < changed < 240
    assert [card.prompt for card in cards] != [card.prompt for card in others]
    assert [card.prompt for card in cards] != ids


def test_the_order_of_files_and_of_their_lines_changes_nothing(make, answers_file):
    ids = [f"p{number}" for number in range(40)]
    study = make("a", "b", ids=ids)
    backwards = []
    for name in "ba":
        path = answers_file(name, ids)
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
        backwards.append(read_answers(path))
    other, _ = make_study(backwards, kind=Kind.PAIRS, seed=0)
    assert other.cards == study.cards
    assert other.hash == study.hash


def test_any_first_part_has_its_share_of_each_category_and_pair(make):
    cards = make("a", "b", "c", ids=[f"p{number}" for number in range(200)]).cards
    for part in (60, 120, 300):
        kinds = Counter((int(card.prompt[1:]) % 2, frozenset(card.models)) for card in cards[:part])
        assert len(kinds) == 6
        assert all(abs(count - part / 6) <= 1 for count in kinds.values()), kinds


def test_only_prompts_of_all_files_are_compared_and_the_others_counted(answers_file):
    files = [
        read_answers(answers_file("a", ["x", "y", "z"])),
        read_answers(answers_file("b", ["z", "y", "w"])),
    ]
    study, left_out = make_study(files, kind=Kind.PAIRS, seed=0)
    assert [asked.id for asked in study.prompts] == ["y", "z"]
    assert left_out == 2


def test_files_without_a_common_prompt_are_refused(answers_file):
    files = [read_answers(answers_file("a", ["x"])), read_answers(answers_file("b", ["y"]))]
    with pytest.raises(DataError, match="no prompt is answered in all 2 files"):
        make_study(files, kind=Kind.PAIRS, seed=0)


def test_one_file_is_no_comparison_but_can_be_graded(answers_file):
    files = [read_answers(answers_file("a"))]
    with pytest.raises(DataError, match="a comparison needs two") as caught:
        make_study(files, kind=Kind.PAIRS, seed=0)
    assert "--grades" in caught.value.hint
    assert len(make_study(files, kind=Kind.GRADES, seed=0)[0].cards) == 20


def test_two_files_of_one_model_another_text_and_an_empty_file_are_refused(answers_file, tmp_path):
    one, other = read_answers(answers_file("a")), read_answers(answers_file("b", prompt="Other?"))
    with pytest.raises(DataError, match="both have answers of 'a'"):
        make_study([one, one], kind=Kind.PAIRS, seed=0)
    with pytest.raises(DataError, match="prompt 'p0' is not the same text in"):
        make_study([one, other], kind=Kind.PAIRS, seed=0)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="has no answer"):
        make_study([one, read_answers(tmp_path / "empty.jsonl")], kind=Kind.PAIRS, seed=0)
