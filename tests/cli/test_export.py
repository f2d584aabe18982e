"""afm export: what is printed and published, and what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest

from afm_mlx.decoder.adapters import AdapterFacts, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.export.targets import MODULES, find_target

pytestmark = pytest.mark.filterwarnings("default")  # torch and transformers have their own


@pytest.fixture
def cats(chat_model, tmp_path):
    """Folder of an adapter for the chat model."""
    model = open_checkpoint(chat_model)
    add_lora(model, rank=2, scale=2.0, seed=0)
    facts = AdapterFacts("cats", base_hash(chat_model), "chat", 2, 4.0, chat=True)
    write_adapter(tmp_path / "cats", lora_arrays(model), facts, dense=True)
    return tmp_path / "cats"


def test_a_folder_for_transformers_is_verified_and_described(afm, chat_model, tmp_path):
    answer = afm("export", chat_model, "--to", "huggingface", "--out", "out")
    assert answer.code == 0, answer.err
    folder, adapter, verified, _, head, *rest = answer.out.splitlines()
    assert folder == "folder      out"
    assert adapter == "adapter     none"
    assert verified.startswith("verified    with ")
    assert head.split()[:3] == ["prompt", "tokens", "steps"]
    assert sum(line.startswith("all ") for line in rest) == 2  # of the table, and of the sizes
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer.model", "tokenizer_config.json", "README.md", "export.json"),
    }
    assert (tmp_path / "out/README.md").read_text().count("\n# ") == 1


def test_a_file_for_llama_cpp_and_its_facts_as_json(afm, chat_model, tmp_path):
    words = ["export", chat_model, "--to", "gguf", "--set", "weights=f32", "--out", "out"]
    answer = afm(*words, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["folder"], found["target"]) == ("out", "gguf")
    assert found["verified"]["none"]["all"]["steps"] > 100
    assert found["rounding"] is None
    planned = {size["component"]: size["planned_bytes"] for size in found["sizes"]}
    assert planned["embedding"] == 320 * 16 * 4
    assert [path.suffix for path in (tmp_path / "out").iterdir()].count(".gguf") == 1


def test_an_adapter_is_named_and_folded_in(afm, chat_model, cats):
    words = ["export", chat_model, "--to", "huggingface", "--adapter", cats, "--out", "out"]
    answer = afm(*words, "--json")
    assert answer.code == 0, answer.err
    assert f"adapter: {cats}\n" in answer.err
    assert list(json.loads(answer.out)["verified"]) == ["cats"]


def test_the_adapter_that_a_model_is_used_with_comes_along_unless_none(afm, chat_model, tmp_path):
    shutil.copytree(chat_model, tmp_path / "base")
    model = open_checkpoint(chat_model)
    add_lora(model, rank=2, scale=2.0, seed=0)
    facts = AdapterFacts("recovery", base_hash(chat_model), "chat", 2, 4.0)
    write_adapter(tmp_path / "base/adapters/recovery", lora_arrays(model), facts, dense=True)
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["afm"]["adapter"] = "recovery"
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    for more, wanted in ([], "recovery"), (["--adapter", "none"], "none"):
        words = ["export", "base", "--to", "huggingface", "--out", f"out-{wanted}", *more]
        answer = afm(*words, "--json")
        assert answer.code == 0, answer.err
        assert list(json.loads(answer.out)["verified"]) == [wanted]


def test_the_targets_are_listed_with_their_settings(afm):
    lines = afm("export", "--list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODULES)
    assert lines[0].endswith("(dtype=bfloat16)")
    assert lines[1].endswith("(weights=f16)")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onnx"], "error: no target is called 'onnx'\nhint: there are huggingface, gguf"),
        (
            ["--to", "gguf", "--set", "dtype=f16"],
            "error: --set: no setting is called 'dtype'\nhint: the settings here are weights",
        ),
        (
            ["--to", "gguf", "--set", "weights=q9"],
            "error: --set: weights is 'q9': expected one of f32, f16, q8_0, q4_1, q4_0",
        ),
        (
            ["--to", "gguf", "--set", "weights=q4_0"],
            "error: --to gguf cannot hold this model: q4_0 takes rows in blocks of 32, and the "
            "model has rows of 16: take f16",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_or_two(refused, chat_model, words, said):
    assert refused("export", chat_model, *words, "--out", "out").startswith(said)


def test_a_folder_that_exists_is_refused(refused, chat_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    said = refused("export", chat_model, "--to", "gguf", "--out", "out")
    assert said == "error: 'out' exists already\nhint: name another --out, or delete it"


def test_an_adapter_of_another_base_is_refused(refused, chat_model, cats):
    file = cats / "adapter.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"base": "0" * 64}))
    said = refused("export", chat_model, "--to", "gguf", "--adapter", cats, "--out", "out")
    assert said.startswith("error: adapter 'cats' is for 'chat' (00000000), and ")


def test_two_adapters_are_refused(refused, chat_model, cats):
    words = ["--adapter", cats, "--adapter", cats, "--out", "out"]
    said = refused("export", chat_model, "--to", "huggingface", *words)
    assert said.splitlines()[1] == "hint: export once for each adapter"


def test_what_is_not_the_model_is_shown_and_not_published(afm, chat_model, tmp_path, monkeypatch):
    whole = find_target("huggingface")

    def write(source, folder, settings):
        whole.write(source, folder, settings)
        weights = mx.load(str(folder / "model.safetensors"))
        name = "model.layers.0.mlp.up_proj.weight"
        weights[name] = mx.zeros_like(weights[name])
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})

    spoiled = replace(whole, write=write, differences=lambda *_: ())
    monkeypatch.setitem(MODULES, "spoiled", "spoiled_target")
    monkeypatch.setitem(sys.modules, "spoiled_target", SimpleNamespace(TARGET=spoiled))
    answer = afm("export", chat_model, "--to", "spoiled", "--out", "out")
    assert (answer.code, answer.out) == (2, "")
    shown = answer.err.splitlines()
    assert shown[-2].startswith("all ")
    assert shown[-1].startswith(
        "error: what was written is not the model, nothing is published: the cosine is "
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_weights_are_not_finite_is_not_published(afm, chat_model, tmp_path):
    shutil.copytree(chat_model, tmp_path / "broken")
    weights = mx.load(str(tmp_path / "broken/model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] * mx.nan
    mx.save_safetensors(str(tmp_path / "broken/model.safetensors"), weights)
    answer = afm("export", "broken", "--to", "huggingface", "--out", "out")
    assert (answer.code, answer.out) == (2, "")
    assert "error: model.norm.weight of the model has numbers that are not finite" in answer.err
    assert not (tmp_path / "out").exists()
