"""MMLU: the prompts of the harness, groups, and files that lack something."""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.mmlu import MMLU, PARTS


def rows(count, first=0):
    return [[f"What is {n}? ", *(f"{letter}{n}" for letter in "abcd"), "ABCD"[(n + first) % 4]]
            for n in range(count)]  # fmt: skip


def write_csv(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines))


@pytest.fixture
def data(tmp_path):
    """Two subjects of four items and five examples, as in the original archive."""
    folder = tmp_path / "data"
    for subject in ("anatomy", "us_foreign_policy"):
        write_csv(folder / "test" / f"{subject}_test.csv", rows(4))
        write_csv(folder / "dev" / f"{subject}_dev.csv", rows(5, first=1))
    return folder


def test_prompts_are_those_of_the_harness(data):
    item = MMLU(data, shots=1).items()[4]
    assert item.options[2].context == (
        "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
        "What is 0?\nA. a0\nB. b0\nC. c0\nD. d0\nAnswer: B\n\n"
        "What is 0?\nA. a0\nB. b0\nC. c0\nD. d0\nAnswer:"
    )
    assert [option.continuation for option in item.options] == [" A", " B", " C", " D"]
    assert (item.key, item.group, item.right) == ("us_foreign_policy/1", "us_foreign_policy", 0)


def test_without_letters_the_texts_are_compared(data, always_right, quiet, tmp_path):
    task = MMLU(data, shots=1, cloze=True)
    item = task.items()[0]
    assert item.options[1].continuation == " b0"
    assert item.options[1].context == (
        "The following are questions (with answers) about anatomy.\n\n"
        "Question: What is 0?\nAnswer: b0\n\nQuestion: What is 0?\nAnswer:"
    )
    result = run_task(task, always_right(), tmp_path / "run", quiet)
    assert list(result.scores) == ["accuracy", "accuracy_per_byte", "stem", "social_sciences"]
    assert list(task.figures)[:3] == ["accuracy", "accuracy_per_byte", "stem"]


def test_always_a_is_right_where_a_is(data, always_a, quiet, tmp_path):
    result = run_task(MMLU(data), always_a, tmp_path / "run", quiet)
    assert result.scores["accuracy"].value == 0.25
    assert result.scores["stem"].n == result.scores["social_sciences"].n == 4
    assert set(result.scores) == {"accuracy", "stem", "social_sciences"}
    assert result.groups["anatomy"]["accuracy"].value == 0.25
    assert result.settings["shots"] == 5


def test_always_right_and_never(data, always_right, never_replies, quiet, tmp_path):
    for who, accuracy in [(always_right(), 1.0), (never_replies, 0.0)]:
        result = run_task(MMLU(data), who, tmp_path / str(accuracy), quiet)
        assert {score.value for score in result.scores.values()} == {accuracy}
    assert result.refused == {"not asked": 8}


def test_the_hubs_files_read_alike(data, tmp_path):
    hub = tmp_path / "hub" / "all"
    hub.mkdir(parents=True)
    for part, count, first in (("test", 4, 0), ("dev", 5, 1)):
        lines = [
            {"question": q, "subject": subject, "choices": answers, "answer": "ABCD".index(right)}
            for subject in ("anatomy", "us_foreign_policy")
            for q, *answers, right in rows(count, first)
        ]
        file = hub / f"{part}-00000-of-00001.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert MMLU(hub.parent).items() == MMLU(data).items()


def test_without_examples_it_says_what_to_do(data, tmp_path):
    dev = data / "dev"
    dev.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no examples for 5 shots") as caught:
        MMLU(data).items()
    assert "--set shots=0" in caught.value.hint
    assert len(MMLU(data, shots=0).items()) == 8
    assert (
        MMLU(data, shots_from=tmp_path / "elsewhere").items()[0].options[0].context.count("A.") == 6
    )


def test_too_few_examples_are_named(data):
    with pytest.raises(DataError, match="6 shots, and 5 examples of anatomy"):
        MMLU(data, shots=6).items()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"Q","a","b","c","d","E"', r"'answer' is 'E', and must be A to D or 0 to 3"),
        ('"Q","a","b","c","A"', "5 columns where there should be 6"),
        ('" ","a","b","c","d","A"', "'question' is"),
    ],
)
def test_a_broken_row_is_named(data, line, said):
    file = data / "test" / "anatomy_test.csv"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"anatomy_test\.csv, line 5: {said}"):
        MMLU(data).items()


def test_a_missing_column_is_named(data):
    (data / "test" / "anatomy_test.csv").write_text("question,A,B,C,D\nQ,a,b,c,d\n")
    with pytest.raises(DataError, match="line 2: no 'answer'"):
        MMLU(data).items()


def test_every_subject_of_the_real_data_has_a_part(real_data):
    files = sorted((real_data / "mmlu" / "test").glob("*.csv"))
    assert {file.name.removesuffix("_test.csv") for file in files} == set(PARTS)
    items = MMLU(real_data / "mmlu", shots=0).items()
    assert len(items) == 9_183
