import json
from collections import Counter

import pytest

from afm_mlx.alignment.logps import Answer
from afm_mlx.alignment.pairs import ABSENT, Pair, PairOrder, in_parts, open_pairs, pack_pairs
from afm_mlx.errors import DataError
from afm_mlx.settings.alignment import PreferenceLevels


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines(count):
    return [
        {"prompt": f"{number % 7} cats?", "chosen": f"The cat {number}.", "rejected": "A mat."}
        for number in range(count)
    ]


def opened(files, tokenizer, **changes):
    how = {"max_tokens": 128, "held_out_fraction": 0.0} | changes
    return open_pairs(files, tokenizer, **how)


def test_an_answer_is_what_follows_the_assistants_head(tmp_path, tokenizer):
    file = write(tmp_path / "p.jsonl", [{"prompt": "On?", "chosen": "A house.", "rejected": "No"}])
    (pair,) = opened({"one": file}, tokenizer).all_train()
    prompt = tokenizer.decode(pair.chosen.ids[: pair.chosen.start])
    answer = tokenizer.decode(pair.chosen.ids[pair.chosen.start :])
    assert prompt == "</s><turn:user>On?<turn:end><turn:assistant>"
    assert answer == "A house.<turn:end>"
    assert tokenizer.decode(pair.rejected.ids[pair.rejected.start :]) == "No<turn:end>"


def test_only_the_last_answer_counts(tmp_path, tokenizer):
    prompt = [
        {"role": "user", "content": "On?"},
        {"role": "assistant", "content": "A hill."},
        {"role": "user", "content": "What?"},
    ]
    file = write(tmp_path / "p.jsonl", [{"prompt": prompt, "chosen": "A cat", "rejected": "No"}])
    (pair,) = opened({"one": file}, tokenizer).all_train()
    assert tokenizer.decode(pair.chosen.ids[pair.chosen.start :]) == "A cat<turn:end>"


def test_levels_and_grades_become_numbers(tmp_path, tokenizer):
    line = lines(1)[0] | {
        "level": "slightly_better",
        "chosen_grades": {"truthfulness": 2},
        "rejected_grades": {"verbosity": 0},
    }
    how = {
        "levels": PreferenceLevels(),
        "grades": ("verbosity", "truthfulness"),
        "grade_classes": 3,
    }
    (pair,) = opened({"one": write(tmp_path / "p.jsonl", [line])}, tokenizer, **how).all_train()
    assert pair.probability == 0.75
    assert pair.chosen_grades == (ABSENT, 2)
    assert pair.rejected_grades == (0, ABSENT)


def test_too_long_pairs_are_dropped_whole_and_counted(tmp_path, tokenizer):
    longer = {"prompt": "On?", "chosen": "The cat", "rejected": "mat " * 60}
    found = opened(
        {"one": write(tmp_path / "p.jsonl", [*lines(3), longer])}, tokenizer, max_tokens=60
    )
    assert found.counts() == {"pairs": {"one": 3}, "held_out_pairs": 0, "too_long": 1, "skipped": 0}


def test_held_out_prompts_are_never_trained_on(tmp_path, tokenizer):
    files = {
        "one": write(tmp_path / "p.jsonl", lines(40)),
        "two": write(tmp_path / "q.jsonl", lines(20)),
    }
    found = opened(files, tokenizer, held_out_fraction=0.3)

    def prompts(pairs):
        return {tuple(pair.chosen.ids[: pair.chosen.start].tolist()) for pair in pairs}

    assert found.held_out
    assert not prompts(found.held_out) & prompts(found.all_train())
    assert len(prompts(found.held_out) | prompts(found.all_train())) == 7
    assert len(found.held_out) + len(found.all_train()) == 60


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_with_two_prompts_each_side_has_one(tmp_path, tokenizer, fraction):
    file = write(tmp_path / "p.jsonl", lines(2))
    found = opened({"one": file}, tokenizer, held_out_fraction=fraction)
    assert len(found.held_out) == len(found.all_train()) == 1


def test_a_file_without_a_usable_pair_is_refused(tmp_path, tokenizer):
    file = write(tmp_path / "p.jsonl", lines(3))
    with pytest.raises(DataError, match="no comparison to train on: 3 are longer than 5 tokens"):
        opened({"one": file}, tokenizer, max_tokens=5)


def test_a_refused_file_is_told_by_its_own_numbers(tmp_path, tokenizer):
    long = [line | {"chosen": "The cat. " * 40} for line in lines(3)]
    files = {
        "one": write(tmp_path / "one.jsonl", [*lines(2), long[0], {"prompt": "On?"}]),
        "two": write(tmp_path / "two.jsonl", long),
    }
    wanted = (
        r"two\.jsonl has no comparison to train on: 3 are longer than 60 tokens, 0 lines are bad"
    )
    with pytest.raises(DataError, match=wanted):
        opened(files, tokenizer, max_tokens=60, skip_bad=True)
    del files["two"]
    found = opened(files, tokenizer, max_tokens=60, skip_bad=True)
    assert (len(found.all_train()), found.too_long, len(found.skipped)) == (2, 1, 1)


def test_answers_that_the_template_makes_equal_are_a_bad_line(tmp_path, tokenizer):
    parts = [{"text": "A "}, {"text": "cat"}]
    line = {
        "prompt": "On?",
        "chosen": "A cat",
        "rejected": {"role": "assistant", "content": parts, "name": "x"},
    }
    file = write(tmp_path / "p.jsonl", [lines(1)[0], line])
    with pytest.raises(DataError, match=r"p\.jsonl, line 2: 'chosen' and 'rejected' are equal"):
        opened({"one": file}, tokenizer)
    assert len(opened({"one": file}, tokenizer, skip_bad=True).skipped) == 1


def test_measured_pairs_fit_the_budget(tmp_path, tokenizer):
    file = write(tmp_path / "p.jsonl", lines(40))
    found = opened({"one": file}, tokenizer, held_out_fraction=0.5)
    most = sum(pair.num_tokens for pair in found.held_out[:3])
    assert found.measured(most) == found.held_out[:3]
    assert found.measured(most - 1) == found.held_out[:2]
    assert found.measured(0) == found.held_out[:1]


def some_order(seed=3, **changes):
    weights = {"one": 1.0, "two": 2.0, "three": 0.5} | changes
    return PairOrder({"one": 10, "two": 4, "three": 7}, weights, pairs_per_step=5, seed=seed)


def test_an_epoch_takes_each_source_by_its_weight():
    order = some_order(three=1.0)
    assert order.epoch_pairs == 10 + 8 + 7
    seen = Counter(number for step in range(1, 6) for number in order.pairs(step))
    assert [seen[number] for number in range(21)] == [1] * 10 + [2] * 4 + [1] * 7
    assert order.steps(2) == 10


def test_half_of_a_source_comes_in_one_epoch_and_the_rest_in_the_next():
    order = PairOrder({"one": 6}, {"one": 0.5}, pairs_per_step=3, seed=0)
    assert order.steps(2) == 2
    assert sorted(order.pairs(1) + order.pairs(2)) == list(range(6))


def test_the_order_is_a_function_of_seed_and_step():
    assert some_order().pairs(4) == some_order().pairs(4)
    assert some_order().pairs(4) != some_order(seed=4).pairs(4)
    epochs = [[n for step in range(first, first + 5) for n in some_order(three=1.0).pairs(step)]
              for first in (1, 6)]  # fmt: skip
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_parts_hold_at_most_so_many_answers():
    assert [len(part) for part in in_parts(range(10), 8)] == [3, 3, 4]
    assert [len(part) for part in in_parts(range(3), 1)] == [1, 1, 1]
    assert [number for part in in_parts(range(10), 8) for number in part] == list(range(10))
    assert in_parts([], 8) == []


def test_packed_pairs_have_the_preferred_answers_first():
    def pair(good, bad):
        return Pair(Answer([1, good], 1), Answer([1, bad], 1), 1.0, (), ())

    packed = pack_pairs([pair(10, 20), pair(11, 21)])
    assert packed.targets[:4].tolist() == [10, 11, 20, 21]
