import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from afm_mlx import zoo
from afm_mlx.decoder.adapters import MANIFEST, AdapterFacts
from afm_mlx.errors import ModelError
from afm_mlx.zoo import resolve_adapter, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AFM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def stage_in(folder: Path) -> Path:
    model = model_in(folder / "model")
    (folder / "manifest.json").write_text("{}")
    return model


@pytest.fixture
def gguf(tmp_path, monkeypatch) -> Path:
    """A file, and an import that only notes what it was given."""

    def import_model(source: Path, out: Path) -> None:
        model_in(out)
        (out / "imported").write_text(source.read_text())

    monkeypatch.setattr("afm_mlx.decoder.convert.import_model", import_model)
    file = tmp_path / "small.gguf"
    file.write_text("GGUF one")
    return file


def test_a_recipe_is_its_last_finished_stage(runs):
    stage_in(runs / "afm-tiny" / "core")
    continued = stage_in(runs / "afm-tiny" / "continued")
    model_in(runs / "afm-tiny" / "context" / "model")  # no manifest: not finished
    (runs / "afm-tiny" / "data").mkdir()
    (runs / "afm-tiny" / "data" / "manifest.json").write_text("{}")  # finished, and no model
    found = resolve_model("afm-tiny", runs=runs)
    assert found.path == continued
    assert found.said == f"afm-tiny: stage continued ({continued})"


def test_a_reward_model_is_not_what_a_recipe_stands_for(runs):
    sft = stage_in(runs / "mine" / "sft")
    stage_in(runs / "mine" / "reward")
    assert resolve_model("mine", runs=runs).path == sft


def test_a_recipe_without_a_finished_stage_says_how_to_make_one(runs):
    with pytest.raises(ModelError, match="recipe 'afm-tiny' has no finished") as caught:
        resolve_model("afm-tiny", runs=runs)
    assert caught.value.hint == "afm run afm-tiny"


def test_a_folder_is_itself(tmp_path, runs):
    folder = model_in(tmp_path / "some" / "model-folder")
    found = resolve_model(str(folder), runs=runs)
    assert (found.path, found.said) == (folder, "")


def test_a_stage_is_the_model_inside_it(runs):
    model = stage_in(runs / "afm-tiny" / "core")
    assert resolve_model(str(runs / "afm-tiny" / "core"), runs=runs).path == model
    assert resolve_model("afm-tiny/core", runs=runs).path == model


def test_a_folder_that_is_no_model_is_refused(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"not a model folder, it has no config\.json"):
        resolve_model("./empty", runs=runs)


def test_a_folder_of_stages_names_the_newest_one(tmp_path, runs):
    model = stage_in(tmp_path / "elsewhere" / "mine" / "core")
    with pytest.raises(ModelError) as caught:
        resolve_model(str(tmp_path / "elsewhere" / "mine"), runs=runs)
    assert caught.value.hint == f"did you mean {model}?"


def test_a_gguf_file_is_imported_once(gguf, runs, cache):
    said: list[str] = []
    first = resolve_model(str(gguf), runs=runs, say=said.append)
    assert first.path.parent == cache / "models"
    assert said[0].startswith("importing small.gguf")
    said.clear()
    assert resolve_model(str(gguf), runs=runs, say=said.append) == first
    assert said == []


def test_a_gguf_file_that_changed_is_imported_again(gguf, runs):
    first = resolve_model(str(gguf), runs=runs).path
    status = gguf.stat()
    gguf.write_text("GGUF two")  # of the same size, and made to look as old
    os.utime(gguf, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = resolve_model(str(gguf), runs=runs).path
    assert second != first
    assert (second / "imported").read_text() == "GGUF two"


def test_of_two_imports_at_once_both_get_the_model(gguf, runs, cache, monkeypatch):
    theirs = cache / "models" / f"small-{zoo._fingerprint(gguf)}"

    def slower(source: Path, out: Path) -> None:
        model_in(out)
        model_in(theirs)  # another process is done first

    monkeypatch.setattr("afm_mlx.decoder.convert.import_model", slower)
    assert resolve_model(str(gguf), runs=runs).path == theirs
    assert list(theirs.parent.iterdir()) == [theirs]  # ours is not left behind


def test_an_import_that_fails_leaves_nothing(gguf, runs, cache, monkeypatch):
    def broken(source: Path, out: Path) -> None:
        model_in(out)
        raise ModelError("tensor missing")

    monkeypatch.setattr("afm_mlx.decoder.convert.import_model", broken)
    with pytest.raises(ModelError, match="tensor missing"):
        resolve_model(str(gguf), runs=runs)
    assert list((cache / "models").iterdir()) == []


def test_leftovers_of_crashed_imports_go_after_a_day(gguf, runs, cache):
    old, new = cache / "models" / "old.part", cache / "models" / "new.part"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    resolve_model(str(gguf), runs=runs)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_of_another_kind_is_refused(tmp_path, runs):
    (tmp_path / "weights.bin").write_text("x")
    with pytest.raises(ModelError, match=r"neither a model folder nor a \.gguf file"):
        resolve_model("weights.bin", runs=runs)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(runs, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'someone/some-model' is no folder here") as caught:
        resolve_model("someone/some-model", runs=runs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("smolm2", "did you mean 'smollm2'?"),
        ("afm-tyni", "did you mean 'afm-tiny'?"),
        ("my-mdoel", "did you mean 'my-model'?"),
        ("qqqqqqqqq", "try smollm2, or see afm models"),
    ],
)
def test_an_unknown_word_names_the_nearest(runs, word, hint):
    (runs / "my-model").mkdir(parents=True)
    with pytest.raises(ModelError, match=f"no model is called '{word}'") as caught:
        resolve_model(word, runs=runs)
    assert caught.value.hint == hint


def test_import_starts_from_the_file_itself(gguf, runs, cache):
    assert zoo.find_source(str(gguf), runs=runs).path == gguf
    assert not cache.exists()


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("AFM_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert zoo.cache_folder() == tmp_path / "xdg" / "afm_mlx"
    monkeypatch.setattr("sys.platform", "darwin")
    assert zoo.cache_folder() == tmp_path / "Library" / "Caches" / "afm_mlx"


def test_identity_changes_with_a_model_s_files_and_not_with_their_place(runs, tmp_path):
    folder = model_in(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(bytes(3 * zoo.HEAD_BYTES))
    before = zoo.identity("model", runs=runs)
    folder.rename(tmp_path / "moved")
    assert zoo.identity("moved", runs=runs) == before
    for place in (0, 3 * zoo.HEAD_BYTES - 1):
        data = bytearray(3 * zoo.HEAD_BYTES)
        data[place] = 1
        (tmp_path / "moved" / "model.safetensors").write_bytes(data)
        assert zoo.identity("moved", runs=runs) != before
    (tmp_path / "moved" / "model.safetensors").write_bytes(bytes(3 * zoo.HEAD_BYTES))
    (tmp_path / "moved" / "config.json").write_text('{"rope_theta": 1}')
    assert zoo.identity("moved", runs=runs) != before


def test_identity_of_a_recipe_s_name_is_that_of_its_newest_stage(runs):
    core = stage_in(runs / "mine" / "core")
    before = zoo.identity("mine", runs=runs)
    assert before == zoo.identity(str(core), runs=runs)
    context = stage_in(runs / "mine" / "context")
    (context / "config.json").write_text('{"longer": 1}')
    assert zoo.identity("mine", runs=runs) != before


def test_identity_of_a_hub_id_or_a_missing_model_is_the_word(runs):
    assert zoo.identity("some/model", runs=runs) == "some/model"
    assert zoo.identity("nothing", runs=runs) == "nothing"


def adapter_in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    facts = AdapterFacts(name, "0" * 64, "base", 4, 4.0)
    (folder / MANIFEST).write_text(json.dumps(asdict(facts)))
    return folder


def test_an_adapter_is_a_folder_or_a_name_beside_its_model(runs, tmp_path):
    model = stage_in(runs / "mine" / "recover")
    own = adapter_in(model / "adapters" / "recovery-4", "recovery-4")
    here = adapter_in(tmp_path / "adapters" / "letters", "letters")
    made = adapter_in(runs / "mine" / "adapter-mail" / "adapter", "mail")
    adapter_in(tmp_path / "adapters" / "mail", "mail")
    assert resolve_adapter("recovery-4", model) == own
    assert resolve_adapter("letters", model).resolve() == here
    assert resolve_adapter("mail", model) == Path("adapters/mail")  # what is here comes first
    assert resolve_adapter(str(made), model) == made
    assert resolve_adapter(str(made.parent), model) == made
    with pytest.raises(ModelError, match="no adapter is called 'leters'") as refused:
        resolve_adapter("leters", model)
    assert refused.value.hint == "did you mean 'letters'?"
    with pytest.raises(ModelError, match="no adapter is called 'other'") as refused:
        resolve_adapter("other", model)
    assert refused.value.hint == "there are letters, mail, recovery-4"


def test_a_folder_that_is_no_adapter_is_said_to_be_none(tmp_path):
    model = model_in(tmp_path / "model")
    with pytest.raises(ModelError, match=r"is no adapter: it has no adapter\.json"):
        resolve_adapter(str(model), model)
    with pytest.raises(ModelError, match="no adapter is called 'mail'") as refused:
        resolve_adapter("mail", model)
    assert refused.value.hint.endswith("--name mail --data FILE makes one")
