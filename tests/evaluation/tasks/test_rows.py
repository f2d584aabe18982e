import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.tasks.gsm8k import GSM8K
from afm_mlx.evaluation.tasks.ifeval.task import IFEval
from afm_mlx.evaluation.tasks.math import MATH
from afm_mlx.evaluation.tasks.rows import task_rows
from tests.corpus.sources.conftest import hub  # noqa: F401  a fixture

SUM = {"question": "How many are 2 and 3?", "answer": "#### 5"}
PROBLEM = {"problem": "What is it?", "solution": r"\boxed{1}", "type": "Algebra", "level": "1"}
PROMPT = {"key": 1, "prompt": "Say it.", "instruction_id_list": ["startend:quotation"],
          "kwargs": [{"num_words": None}]}  # fmt: skip


@pytest.fixture
def sets(hub, tmp_path):  # noqa: F811
    """Function that puts files of rows into a set of a hub on this machine."""

    def write(name, files):
        for path, rows in {".gitattributes": [], **files}.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        hub.sets[name] = tmp_path / name

    return write


def test_of_a_set_of_the_hub_the_test_files_are_read(sets):
    sets("org/sums", {"main/test-0.jsonl": [SUM], "main/train-0.jsonl": [SUM, SUM],
                      "socratic/test-0.jsonl": [SUM]})  # fmt: skip
    parts = [f"{kind}/{part}.jsonl" for kind in ("algebra", "number") for part in ("test", "train")]
    sets("org/problems", {part: [PROBLEM] for part in parts})
    sets("org/prompts", {"ifeval_input_data.jsonl": [PROMPT], "README.md": []})
    assert len(GSM8K("hub:org/sums").items()) == 1
    assert len(GSM8K("hub:org/sums", shots=2, shots_from="hub:org/sums").items()) == 1
    assert len(MATH("hub:org/problems").items()) == 2
    assert len(IFEval("hub:org/prompts").items()) == 1


def test_a_set_without_such_files_is_refused(sets):
    sets("org/other", {"data.jsonl": [SUM]})
    with pytest.raises(DataError, match=r"hub:org/other has no file like main/test\*"):
        GSM8K("hub:org/other").items()


def test_of_files_that_match_those_that_cannot_be_read_are_left_out(sets):
    sets("org/texts", {"README.md": [], "a.jsonl": [{"text": "one"}], "b/picture.png": []})
    assert [row.row["text"] for row in task_rows("x", "hub:org/texts")] == ["one"]
    sets("org/pictures", {"README.md": [], "a.png": []})
    with pytest.raises(DataError, match=r"hub:org/pictures has no file like \* that can be read"):
        list(task_rows("x", "hub:org/pictures"))


def test_mistakes_speak_of_the_task_and_not_of_a_recipes_sources(sets):
    with pytest.raises(
        DataError, match=r"^the data of task gsm8k: hub set org/none is not on"
    ) as no:
        GSM8K("hub:org/none").items()
    assert no.value.hint.startswith("check the data of task gsm8k; ")
    with pytest.raises(DataError, match=r"^the data of task math: 'hub:none' is not hub:") as wrong:
        MATH("hub:none").items()
    assert wrong.value.hint == "for one revision write hub:ORG/NAME@REVISION"


def test_rows_of_a_file_know_their_lines(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row.place for row in task_rows("x", file, hub_files="*")] == ["line 1", "line 3"]
