"""lm-evaluation-harness: its tasks on our subjects, with its own marks."""

import json
import math
import sys

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation import harness
from afm_mlx.evaluation.items import Likelihood
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import ModelSubject
from afm_mlx.evaluation.tasks.choices import Choices

SCENES = [
    {"goal": f"Say {n}", "sol1": "a cat", "sol2": "the dog looked at the cat", "label": n % 2}
    for n in range(6)
]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(DataError, match="need lm-evaluation-harness") as caught:
        harness.harness_task("harness:arc_easy")
    assert caught.value.hint == "pip install lm-eval"


@pytest.fixture
def included(tmp_path, monkeypatch):
    """Folder of YAML tasks over local files."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in SCENES))
    folder = tmp_path / "yaml"
    folder.mkdir()
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{validation: {rows}}}}}\n"
    common += "validation_split: validation\n"
    (folder / "choose.yaml").write_text(
        "task: local_choose\noutput_type: multiple_choice\n" + common
        + 'doc_to_text: "Question: {{goal}}\\nAnswer:"\ndoc_to_target: label\n'
        + 'doc_to_choice: "{{[sol1, sol2]}}"\n'
        + "metric_list: [{metric: acc}, {metric: acc_bytes}]\n"
    )  # fmt: skip
    (folder / "read.yaml").write_text(
        "task: local_read\noutput_type: loglikelihood_rolling\n" + common
        + 'doc_to_text: ""\ndoc_to_target: "{{sol2}}"\n'
        + "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n"
    )  # fmt: skip
    (folder / "write.yaml").write_text(
        "task: local_write\noutput_type: generate_until\n" + common
        + 'doc_to_text: "{{goal}}"\ndoc_to_target: "{{sol1}}"\n'
        + 'generation_kwargs: {until: ["."], max_gen_toks: 8}\n'
        + "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )  # fmt: skip
    return folder


@pytest.fixture
def task_of(included):
    return lambda name, **settings: harness.harness_task(name, include=included, **settings)


def test_stand_ins_score_what_they_must(task_of, stub, never_replies, quiet, tmp_path):
    first = run_task(task_of("harness:local_choose"), stub(), tmp_path / "first", quiet)
    assert first.scores["acc"].value == 0.5
    assert set(first.scores) == {"acc", "acc_bytes"}
    never = run_task(task_of("local_choose"), never_replies, tmp_path / "never", quiet)
    assert (never.scores["acc"].value, never.refused) == (0.0, {"not asked": 6})
    writer = stub(writes=lambda question: "a cat")
    for name, who, share in (("writer", writer, 1.0), ("nothing", stub(), 0.0)):
        wrote = run_task(task_of("local_write"), who, tmp_path / name, quiet)
        assert wrote.scores["exact_match"].value == share
    reader = stub(reads=lambda passage: Likelihood(-6 * math.log(2), 3))
    read = run_task(task_of("local_read"), reader, tmp_path / "read", quiet).scores
    assert read["word_perplexity"].value == pytest.approx(2.0)  # six words
    assert read["bits_per_byte"].value == pytest.approx(6 / 25)


def test_as_our_own_task_and_as_the_harness_itself(task_of, included, engine, quiet, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    who = ModelSubject(engine, "tiny")
    ours = run_task(Choices("piqa", included.parent / "rows.jsonl"), who, tmp_path / "ours", quiet)
    through = run_task(task_of("local_choose"), who, tmp_path / "through", quiet)
    model = harness.harness_model(who)
    whole = lm_eval.simple_evaluate(
        model=model,
        tasks=["local_choose", "local_read", "local_write"],
        task_manager=TaskManager(include_path=str(included), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    assert whole["local_choose"]["acc,none"] == through.scores["acc"].value
    assert ours.scores["accuracy"].value == through.scores["acc"].value
    assert ours.scores["accuracy_per_byte"].value == through.scores["acc_bytes"].value
    read = run_task(task_of("local_read"), who, tmp_path / "read", quiet)
    for name, ends in (("word_perplexity", 1e-4), ("bits_per_byte", 1e-4)):
        assert read.scores[name].value == pytest.approx(
            whole["local_read"][f"{name},none"], rel=ends
        )
    wrote = run_task(task_of("local_write"), who, tmp_path / "wrote", quiet)
    assert wrote.scores["exact_match"].value == whole["local_write"]["exact_match,none"]
    assert model.refused == {}


@pytest.mark.slow  # it looks through thousands of files
def test_an_unknown_task_names_the_nearest(task_of):
    with pytest.raises(DataError, match="has no task 'local_chose'") as caught:
        task_of("local_chose")
    assert caught.value.hint == "did you mean harness:local_choose?"


def test_examples_are_counted(task_of, included):
    yaml = included / "choose.yaml"
    yaml.write_text(
        yaml.read_text() + "fewshot_split: validation\nfewshot_config: {sampler: first_n}\n"
    )
    task = task_of("local_choose", shots=2)
    assert task.settings["shots"] == 2
    assert task.items()[5].options[0].context.count("Question:") == 3
