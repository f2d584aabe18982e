import json

import pytest

from afm_mlx.alignment.preferences import (
    LEVELS,
    Preference,
    preferences_of_scores,
    read_preferences,
    write_preferences,
)
from afm_mlx.errors import DataError
from afm_mlx.settings.alignment import PreferenceLevels

GRADES = ("truthfulness", "verbosity")
GOOD = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}


def write(path, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts))
    return path


def read(path, **options):
    return list(read_preferences(path, grades=GRADES, grade_classes=3, **options))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_a_line_of_texts(tmp_path):
    (found,) = read(write(tmp_path / "p.jsonl", GOOD))
    assert found == Preference((user("2 + 2?"),), assistant("4"), assistant("5"), "better")
    assert found.where == "p.jsonl, line 1"


def test_a_line_of_the_grading_page(tmp_path):
    line = {
        "prompt": [{"role": "system", "content": "Be brief."}, user("2 + 2?")],
        "chosen": assistant("4"),
        "rejected": [assistant("It is 5.")],
        "level": "slightly_better",
        "chosen_grades": {"truthfulness": 2, "verbosity": None},
        "rejected_grades": {"truthfulness": 0},
        "tools": [{"name": "add"}],
    }
    (found,) = read(write(tmp_path / "p.jsonl", line))
    assert [message["role"] for message in found.prompt] == ["system", "user"]
    assert found.rejected == assistant("It is 5.")
    assert found.level == "slightly_better"
    assert found.chosen_grades == {"truthfulness": 2}
    assert found.rejected_grades == {"truthfulness": 0}
    assert found.tools == ({"name": "add"},)


def test_conversations_that_begin_alike_are_a_prompt_and_two_answers(tmp_path):
    line = {
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 2?"), assistant("5")],
    }
    assert read(write(tmp_path / "p.jsonl", line)) == read(write(tmp_path / "q.jsonl", GOOD))


BAD = [
    ("{", "not JSON"),
    ("[]", "not a comparison"),
    ({"prompt": "2 + 2?", "chosen": "4"}, "no 'rejected'"),
    ({"prompt": "2 + 2?", "chosen": None, "rejected": "5"}, "no 'chosen'"),
    (GOOD | {"rejected": "  "}, "'rejected' is empty"),
    (GOOD | {"rejected": {"role": "assistant", "content": None}}, "'rejected' is empty"),
    (GOOD | {"rejected": "4"}, "'chosen' and 'rejected' are equal"),
    ({"chosen": "4", "rejected": "5"}, "no 'prompt'"),
    (GOOD | {"prompt": " "}, "'prompt' is empty"),
    (GOOD | {"prompt": 4}, "neither a text nor a list"),
    (GOOD | {"prompt": [user("2?"), {"role": "bot", "content": ""}]}, "message 2 .*role 'bot'"),
    (GOOD | {"prompt": [user("2?"), assistant("2")]}, "ends with a turn of the assistant"),
    (GOOD | {"chosen": user("4")}, "'chosen' is neither a text nor a message of the assistant"),
    (GOOD | {"level": "much_better"}, "no level is called 'much_better'"),
    (GOOD | {"chosen_grades": {"truthfulness": 3}}, "has 3 for truthfulness: a grade is 0 to 2"),
    (GOOD | {"chosen_grades": {"truthfulness": -1}}, "has -1 for truthfulness"),
    (GOOD | {"rejected_grades": {"truthfulness": True}}, "has true for truthfulness"),
    (GOOD | {"rejected_grades": {"thruth": 1}}, "'rejected_grades' grades 'thruth'"),
    (GOOD | {"rejected_grades": [1]}, "not a table of grades"),
    (GOOD | {"tools": "add"}, "'tools' is not a list"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
    path = write(tmp_path / "p.jsonl", GOOD, "", line)
    with pytest.raises(DataError, match=rf"p\.jsonl, line 3: .*{message}") as caught:
        read(path)
    assert caught.value.hint


def test_bad_lines_can_be_skipped_and_are_listed(tmp_path):
    path = write(tmp_path / "p.jsonl", *(line for line, _ in BAD), GOOD)
    skipped = []
    assert len(read(path, skip_bad=True, skipped=skipped)) == 1
    assert [line.split(": ")[0] for line in skipped] == [
        f"p.jsonl, line {number}" for number in range(1, len(BAD) + 1)
    ]


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl, line 1: not UTF-8"):
        read(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl: no such file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_grades_that_nobody_asks_for_are_not_looked_at(tmp_path):
    path = write(tmp_path / "p.jsonl", GOOD | {"chosen_grades": {"charm": 9}})
    (found,) = read_preferences(path)
    assert found.chosen_grades == {}


def test_what_is_written_is_read(tmp_path):
    preference = Preference(
        (user("2 + 2?"),),
        assistant("4"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "add", "arguments": {"a": 2}}],
        },
        "negligibly_better",
        {"truthfulness": 2},
        {"verbosity": 0},
        ({"name": "add"},),
    )
    assert write_preferences(tmp_path / "p.jsonl", [preference]) == 1
    assert read(tmp_path / "p.jsonl") == [preference]


def test_scored_answers_pair_the_best_with_the_worst():
    prompt = [user("2 + 2?")]
    answers = [assistant(text) for text in ("5", "4", "four", "6")]
    found = preferences_of_scores(prompt, answers, [0.0, 1.0, 0.4, 0.1], most_pairs=9)
    assert [(pair.chosen["content"], pair.rejected["content"]) for pair in found] == [
        ("4", "5"),
        ("four", "6"),
    ]
    assert [pair.level for pair in found] == ["significantly_better", "slightly_better"]
    assert len(preferences_of_scores(prompt, answers, [0.0, 1.0, 0.4, 0.1], most_pairs=1)) == 1


def test_answers_of_equal_score_and_equal_answers_are_no_pairs():
    prompt = [user("2 + 2?")]
    answers = [assistant(text) for text in ("4", "four", "4")]
    assert preferences_of_scores(prompt, answers, [0.5, 0.5, 0.5], most_pairs=9) == []
    assert preferences_of_scores(prompt, answers, [1.0, 0.5, 0.0], most_pairs=9) == []
    assert preferences_of_scores(prompt, [], [], most_pairs=9) == []


def test_levels_are_those_of_the_settings():
    levels = PreferenceLevels()
    assert [getattr(levels, name) for name in LEVELS] == [0.95, 0.85, 0.75, 0.65]
