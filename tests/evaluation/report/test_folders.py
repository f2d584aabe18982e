"""Reading runs' folders: whatever lies there, there is a report, and it names what is wrong."""

import json

import pytest

from afm_mlx.decoder.config import config_of_shape
from afm_mlx.decoder.decoder import count_parameters as count_arrays
from afm_mlx.errors import RunError
from afm_mlx.evaluation.report.folders import State, count_parameters, read_run, tensor_bytes
from afm_mlx.evaluation.report.write import write_report
from afm_mlx.recipe import load_named_recipe, recipe_files

from .conftest import CONFIG, trained


def test_stages_come_after_those_that_they_read_from(made):
    made.stage("alpha", "zeta")
    made.stage("zeta", "sft")
    made.stage("sft", "core")
    made.stage("core", "data", "tokenizer")
    made.stage("data", "tokenizer")
    made.stage("tokenizer")
    names = [stage.name for stage in read_run(made.folder).stages]
    assert names == ["tokenizer", "data", "core", "sft", "zeta", "alpha"]


def test_stages_that_need_each_other_are_all_there(made):
    made.stage("one", "two")
    made.stage("two", "one")
    assert {stage.name for stage in read_run(made.folder).stages} == {"one", "two"}


def test_what_is_in_the_making_or_set_aside_is_told_apart(made):
    made.stage("core")
    made.stage("set-aside/core-1", seconds=5.0)
    made.making("sft", trained(40, 2.0))
    (made.folder / "notes").mkdir()
    (made.folder / "report.html").write_text("of last time")
    run = read_run(made.folder)
    states = [(stage.name, stage.state) for stage in run.stages]
    assert states == [("core", State.FINISHED), ("sft", State.MAKING)]
    assert [stage.name for stage in run.aside] == ["core-1"]
    assert run.problems == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged: it is not JSON"),
        ('{"stage": "core", "metr', "is damaged: it is not JSON"),
        ("\xff\xfe", "is damaged: it is not JSON"),
        ("[1]", "is damaged: it does not say what was measured"),
        ('{"metrics": 3}', "is damaged: it does not say what was measured"),
        ("[" * 100_000, "is damaged: it is not JSON"),
    ],
)
def test_a_damaged_manifest_is_named(made, text, said):
    made.stage("tokenizer", pieces=32)
    made.stage("core", log=trained(40, 5.0))
    (made.folder / "core" / "manifest.json").write_text(text, encoding="latin-1")
    run = read_run(made.folder)
    assert run.problems == (f"core/manifest.json {said}",)
    assert [stage.state for stage in run.stages] == [State.FINISHED, State.DAMAGED]
    assert f"core/manifest.json {said}" in write_report(made.folder).read_text()


def test_a_missing_manifest_is_named(made):
    made.stage("core")
    (made.stage("sft") / "fingerprint").write_text("0" * 64)
    (made.folder / "sft" / "manifest.json").unlink()
    assert read_run(made.folder).problems == ("sft/manifest.json is missing",)


@pytest.mark.parametrize("text", ["", "[]", '{"hidden'])
def test_damaged_settings_of_a_model_are_named(made, text):
    made.stage("core", model=True)
    (made.folder / "core" / "model" / "config.json").write_text(text)
    (problem,) = read_run(made.folder).problems
    assert problem.startswith("core/model/config.json is damaged")
    assert "core/model/config.json is damaged" in write_report(made.folder).read_text()


def test_damaged_lines_of_a_log_are_left_out_and_counted(made):
    made.stage("core", log=trained(60, 5.0))
    log = made.folder / "core" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"loss": 4}\n[3]\n{"step": 80, "lo')
    run = read_run(made.folder)
    assert run.problems == ("core/metrics.jsonl: 3 lines are damaged and left out",)
    assert [line["step"] for line in run.stages[0].logs[0].lines] == [20, 40, 60]


WRONG = (None, [], {}, "words", -1, 1e300, 1e400, float("nan"), True, "\x00", [[1]], 10**400)


def places(value, path=()):
    """Paths to everything inside a value of JSON."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_no_value_of_a_wrong_kind_stops_the_report(whole, every):
    """Places in the files of JSON in turn hold something that does not belong there."""
    tried = 0
    for file in sorted(whole.folder.rglob("*.json")):
        good = file.read_text()
        for number, path in enumerate(places(json.loads(good))):
            tried += 1
            if tried % every:
                continue
            wrong, changed = WRONG[(tried // every) % len(WRONG)], json.loads(good)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if path:
                parent[path[-1]] = wrong
            file.write_text(json.dumps(changed if number else wrong))
            write_report(whole.folder)
        file.write_text(good)
    assert tried > 300


def test_half_of_any_file_does_not_stop_the_report_and_is_named(whole):
    """Of files of weights, sizes alone are read."""
    cut = set()
    for file in sorted(path for path in whole.folder.rglob("*.*") if path.is_file()):
        good, name = file.read_bytes(), file.relative_to(whole.folder).as_posix()
        file.write_bytes(good[: len(good) // 2])
        page = write_report(whole.folder).read_text()
        assert page.endswith("</main></body></html>\n"), name
        assert page.count("<h2>") > 8, name
        assert (f"Not read: </b>{name}" in page) == (file.suffix != ".safetensors"), name
        file.write_bytes(good)
        cut.add(file.name)
    assert {"manifest.json", "metrics.jsonl", "config.json", "adapter.json", "scores.json"} < cut
    assert "Not read" not in write_report(whole.folder).read_text()


def test_a_folder_without_stages_is_refused_with_a_hint(tmp_path, whole):
    with pytest.raises(RunError, match="holds no stages of a run") as caught:
        read_run(whole.folder.parent)
    assert caught.value.hint == f"did you mean {whole.folder}?"
    with pytest.raises(RunError) as caught:
        read_run(whole.folder / "core")
    assert caught.value.hint == f"it is one stage: did you mean {whole.folder}?"
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as caught:
        read_run(tmp_path / "empty")
    assert caught.value.hint == "afm run RECIPE makes some"


@pytest.mark.parametrize("name", sorted(recipe_files()))
def test_parameters_counted_from_a_config_are_those_of_the_decoder(name):
    shape = load_named_recipe(name).shape
    for tied, qk_norm in ((True, True), (False, True), (True, False)):
        changed = shape.model_copy(update={"tied": tied, "qk_norm": qk_norm})
        config = config_of_shape(changed, dtype="float32", token_ids={}, facts={})
        assert count_parameters(config) == sum(count_arrays(changed).values())


@pytest.mark.parametrize("size", [None, 0, -3, "8", float("nan")])
def test_parameters_of_a_config_without_sizes_are_unknown(size):
    assert count_parameters(CONFIG | {"hidden_size": size}) is None


def test_bytes_of_tensors_are_those_that_mlx_stores(tmp_path):
    import mlx.core as mx

    mx.save_safetensors(
        str(tmp_path / "model.safetensors"),
        {"a": mx.zeros((3, 5), mx.float16), "b": mx.zeros((7,), mx.float32)},
    )
    assert tensor_bytes(tmp_path) == 3 * 5 * 2 + 7 * 4
    assert tensor_bytes(tmp_path / "none") is None
