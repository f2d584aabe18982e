"""[eval]: the models that stages leave are asked, and what was asked stays."""

import json

import pytest

from afm_mlx import pipeline
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.evaluation.table import score_table
from afm_mlx.recipe import load_recipe

LINES = [
    "eval.tasks.lines.task=continuations",
    "eval.tasks.lines.path=held-out",
    "eval.tasks.lines.settings.count=12",
]
EXAM = [
    "eval.tasks.exam.task=checks",
    "eval.tasks.exam.make.kind=basics",
    "eval.tasks.exam.settings.max_tokens=2",
]
TAUGHT = [
    "synthetic.tasks.kind=basics",
    "synthetic.tasks.count=40",
    "sft.data.tasks.path=synthetic:tasks",
    "sft.lr=1e-3",
    "sft.row_tokens=32",
    "sft.rows_per_step=4",
    "sft.epochs=1",
]


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_stage_has_scores_of_the_tasks_that_it_is_asked(copied):
    runs = copied("tokenizer", "data", "teacher", "prune", "core")
    asked = [*LINES, *EXAM, "eval.tasks.exam.make.count=6", 'eval.tasks.exam.stages=["core"]']
    manifests = runs(*asked)
    scores = json.loads((runs.stage("eval") / "scores.json").read_text())
    assert [(each["stage"], each["name"], each["items"]) for each in scores] == [
        ("teacher", "lines", 12),
        ("prune", "lines", 12),
        ("core", "lines", 12),
        ("core", "exam", 6),
    ]
    told = manifests["eval"]["metrics"]["results"]
    assert [each["scores"] for each in told] == [each["scores"] for each in scores]
    assert len(lines_of(runs.stage("eval") / "core" / "exam" / "samples.jsonl")) == 6
    table = pipeline.summary(list(manifests.values())).splitlines()
    assert table[-4].split() == ["scores", "lines", "exam"]
    assert table[-1].startswith("core")
    assert runs.todo(*asked) == []
    assert runs.todo(*asked, "eval.tasks.exam.limit=3") == ["eval"]


def test_prompts_of_the_training_data_are_not_asked(runs):
    asked = [*EXAM, "eval.tasks.exam.make.count=60", 'eval.tasks.exam.stages=["sft"]']
    runs(*TAUGHT, *asked)
    trained, made = (
        {json.dumps(row["messages"][:-1]) for row in lines_of(file)}
        for file in (
            runs.stage("synthetic") / "tasks.jsonl",
            runs.stage("eval") / "exam.jsonl",
        )
    )
    # Both are parts of one stream, which begins with the forty of the training data.
    assert (len(trained), len(made), len(made & trained)) == (40, 20, 0)
    left = {path.name for path in runs.stage("eval").iterdir()}
    assert left == {"exam.jsonl", "manifest.json", "scores.json", "sft", "fingerprint"}


def test_a_file_that_is_not_there_is_told_where_it_is_given(runs):
    with pytest.raises(DataError, match=r"cannot read none\.jsonl") as refused:
        runs("eval.tasks.a.task=checks", "eval.tasks.a.path=none.jsonl")
    assert "[eval.tasks.NAME]" in refused.value.hint


def test_a_task_without_a_score_is_shown_as_such():
    results = [{"task": "perplexity", "model": "tiny", "scores": {}}]
    assert score_table(results).splitlines()[1].split() == ["tiny", "none"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["eval.tasks.a.task=lines"], "no task is called 'lines'"),
        (["eval.tasks.a.task=judge"], "task judge needs a model that judges"),
        (
            ["eval.tasks.a.task=gsm8k", "eval.tasks.a.settings.shot=3"],
            "task gsm8k has no setting 'shot'",
        ),
        (
            ["eval.tasks.a.task=gsm8k", "eval.tasks.a.settings.shots=few"],
            "task gsm8k: shots is 'few'",
        ),
        (["eval.tasks.a.task=checks"], "task checks needs data"),
        (
            ["eval.tasks.a.task=checks", "eval.tasks.a.path=held-out"],
            "task checks is not made of documents",
        ),
        (
            ["eval.tasks.a.task=checks", 'eval.tasks.a.stages=["cores"]'],
            "eval.tasks.a asks stage 'cores'",
        ),
        (
            [
                "eval.tasks.a.task=checks",
                "eval.tasks.a.path=x.jsonl",
                "eval.tasks.a.make.kind=basics",
                "eval.tasks.a.make.count=2",
            ],
            "it has a path (x.jsonl) and a make",
        ),
        (
            ["eval.tasks.a.task=checks", "eval.tasks.a.path=synthetic:sums"],
            "path is synthetic:sums, which is trained on: make = { kind = ... } makes others",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(recipe_file, tmp_path, changes, said):
    with pytest.raises((RecipeError, DataError)) as refused:
        pipeline.plan_steps(load_recipe(recipe_file, changes), tmp_path / "runs")
    assert said in str(refused.value)
