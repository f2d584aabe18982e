import json
import shutil
from dataclasses import replace
from importlib.metadata import version

import mlx.core as mx
import pytest

from afm_mlx.errors import DataError, ExportError, ModelError
from afm_mlx.export.publish import RECORD, export_model
from afm_mlx.export.targets import MODULES, Need, find_target, read_settings

from .conftest import spoiled

pytestmark = pytest.mark.filterwarnings("default")  # torch and transformers have their own

TARGETS = list(MODULES)


@pytest.fixture(params=TARGETS)
def target(request):
    found = find_target(request.param)
    for need in found.needs:
        pytest.importorskip(need.module)
    return found


@pytest.fixture
def refuse(tmp_path):
    """Exports, checks that it is refused and leaves nothing, and gives what was said."""

    def refuse(source, target, error=ExportError, **settings):
        out, said = tmp_path / "out", []
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error) as caught:
            export_model(source, target, out, read_settings(target, settings), say=said.append)
        assert sorted(tmp_path.iterdir()) == before
        return str(caught.value), getattr(caught.value, "hint", ""), said

    return refuse


def test_what_is_published_says_how_it_was_verified(source, target, tmp_path):
    exported = export_model(source(), target, tmp_path / "out", target.section(), steps=2)
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["target"] == target.name
    assert record["verified"]["none"]["all"]["steps"] == 8 * 3
    assert record["verified"] == exported.to_json()["verified"]
    assert not list(tmp_path.glob("out-*"))  # nothing in the making is left beside


def test_what_is_told_comes_in_order(source, target, tmp_path):
    said = []
    export_model(source(), target, tmp_path / "out", target.section(), steps=1, say=said.append)
    assert said[0] == f"writing {target.name}"
    assert said[1].startswith("verifying with ")
    assert [line.split()[0] for line in said[2:]] == ["checking:"] * 8


def test_a_folder_that_exists_is_left_alone(source, target, tmp_path, refuse):
    (tmp_path / "out").mkdir()
    message, hint, _ = refuse(source(), target)
    assert message == f"'{tmp_path / 'out'}' exists already"
    assert hint == "name another --out, or delete it"


def test_an_adapter_of_another_base_is_refused_before_anything_is_written(
    source, target, with_adapter, refuse
):
    adapted = with_adapter(source())
    model = source(norm_eps=1e-6, hidden_size=64)  # in the same place
    message, _, said = refuse(replace(adapted, shape=model.shape), target, ModelError)
    assert message.startswith("adapter 'cats' is for 'small'")
    assert said == []


def test_two_adapters_do_not_fit_one_set_of_weights(source, target, with_adapter, refuse):
    if not target.folds:
        pytest.skip(f"{target.name} keeps adapters apart")
    two = with_adapter(with_adapter(source()), "dogs")
    message, hint, _ = refuse(two, target)
    assert message == (
        f"--to {target.name} folds an adapter into the weights, so there can be one, not 2"
    )
    assert hint == "export once for each adapter"


def test_a_missing_package_is_named_with_what_to_type(source, target, refuse):
    needy = replace(target, needs=(Need("no_such_package", "pip install no-such-package"),))
    message, hint, _ = refuse(source(), needy)
    assert message == (
        f"--to {target.name} needs the package no_such_package, which is not installed"
    )
    assert hint == "pip install no-such-package"


def test_another_version_of_a_package_is_named(source, target, refuse):
    numpy = version("numpy")
    needy = replace(target, needs=(Need("numpy", "pip install numpy==0.1", "numpy", "0.1"),))
    message, hint, _ = refuse(source(), needy)
    assert message == f"--to {target.name} needs numpy 0.1, and {numpy} is installed"
    assert hint == "pip install numpy==0.1"


def test_a_model_without_a_tokenizer_is_refused(source, target, refuse):
    model = source()
    (model.folder / "tokenizer.json").unlink()
    message, _, _ = refuse(model, target, DataError)
    assert "tokenizer.json is missing" in message


def test_a_write_that_fails_leaves_nothing(source, target, refuse):
    def fail(folder):
        assert list(folder.iterdir())  # something is there, to be taken away
        raise OSError("disk full")

    message, _, said = refuse(source(), spoiled(target, fail), OSError)
    assert message == "disk full"
    assert said == [f"writing {target.name}"]


def test_another_models_weights_are_not_published(source, target, refuse, tmp_path):
    model = source()
    other = replace(model, folder=tmp_path / "other")
    shutil.copytree(model.folder, other.folder)
    weights = mx.load(str(other.folder / "model.safetensors"))
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = mx.zeros_like(weights[name])
    mx.save_safetensors(str(other.folder / "model.safetensors"), weights)

    def write(_, folder, settings):
        target.write(other, folder, settings)

    swapped = replace(target, write=write, differences=lambda *_: ())
    message, _, said = refuse(model, swapped)
    assert message.startswith("what was written is not the model, nothing is published: ")
    assert said[-1].startswith("all ")


def test_no_target_is_called_so():
    with pytest.raises(ExportError, match="no target is called 'ggfu'") as caught:
        find_target("ggfu")
    assert caught.value.hint == "did you mean 'gguf'?"


def test_every_setting_of_a_target_is_documented_and_has_a_default(target):
    for name, field in target.section.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
