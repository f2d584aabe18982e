"""Which line comes next in a document?"""

import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.continuations import Continuations
from tests.corpus.sources.conftest import hub  # noqa: F401  (a fixture)

TEXTS = [
    "".join(f"line {line} of document {number} says {number * line}\n" for line in range(8))
    for number in range(20)
]


def test_the_true_next_line_is_the_right_one():
    for item in Continuations(TEXTS, count=30, context_chars=80).items():
        context = item.options[0].context
        document = next(text for text in TEXTS if context in text)
        right = item.options[item.right].continuation
        assert context + right + "\n" in document
        assert len(context) <= 82
        assert len({option.continuation for option in item.options}) == 4
        assert all(option.context == context for option in item.options)


def test_items_are_the_same_each_time_and_others_with_another_seed():
    first = Continuations(TEXTS, count=10).items()
    assert Continuations(TEXTS, count=10).items() == first
    assert Continuations(TEXTS, count=10, seed=1).items() != first
    assert len({item.key for item in first}) == 10


def test_scores_of_stand_ins(always_right, always_a, never_replies, quiet, tmp_path):
    task = Continuations(TEXTS, count=40)
    first = sum(item.right == 0 for item in task.items()) / 40
    whos = {"right": always_right(), "a": always_a, "nothing": never_replies}
    for (name, who), wanted in zip(whos.items(), (1.0, first, 0.0), strict=True):
        score = run_task(task, who, tmp_path / name, quiet).scores["accuracy"]
        assert (score.value, score.n) == (wanted, 40)


def test_too_few_lines_are_refused():
    with pytest.raises(DataError, match="2 lines of 12 characters or more, and 4 are to choose"):
        Continuations(["first line of it\nsecond line of it\nthird line of it\n"]).items()


def test_documents_come_from_files(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "some text {n}\\nanother line {n}\\n"}}\n' for n in range(9))
    )
    assert len(Continuations(tmp_path / "a.jsonl", count=5).items()) == 5


def test_documents_come_from_the_hub(hub, tmp_path):  # noqa: F811
    (tmp_path / ".gitattributes").touch()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    hub.sets["org/texts"] = tmp_path
    assert Continuations("hub:org/texts").items() == Continuations(TEXTS).items()
