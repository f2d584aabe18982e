"""What can be known of a Core AI export without Apple's package."""

import json
import platform

import pytest

from afm_mlx.errors import ExportError, RecipeError
from afm_mlx.export.coreai.bundle import (
    METADATA,
    TOKENIZER,
    Bundle,
    Sizes,
    function_name,
    read_bundle,
    write_bundle,
)
from afm_mlx.export.coreai.target import TARGET, _install, bundle_of, sizes_of
from afm_mlx.export.targets import read_settings
from afm_mlx.settings.export import CoreAi
from afm_mlx.text.tokenizer import Tokenizer

from .conftest import SMALL


def test_the_runner_finds_functions_and_sizes_by_the_names_it_knows():
    bundle = Bundle("small", Sizes(512, (8, 64)), 100, "none", {"none": "", "a-b": "adapter_a_b_"})
    functions = bundle.functions()
    assert functions["extend"] == ["extend_512_8", "extend_512_64"]
    assert functions["prompt_opt"] == ["prompt_opt_512_8", "prompt_opt_512_64"]
    assert functions["gather_embeddings"] == ["gather_embeddings_8", "gather_embeddings_64"]
    assert functions["load_embeddings"] == ["load_embeddings"]
    # The runner takes all that begin with "extend" or "prompt" for its own.
    apart = functions["extend/a-b"] + functions["prompt_opt/a-b"]
    assert apart[0] == "adapter_a_b_extend_512_8"
    assert not any(name.startswith(("extend", "prompt", "gather")) for name in apart)


def test_what_is_beside_the_file_is_what_the_runner_reads(source, tmp_path):
    model = source()
    bundle = bundle_of(model, CoreAi(prefill_tokens=32))
    write_bundle(tmp_path, bundle, model)
    known = json.loads((tmp_path / METADATA).read_text())
    assert (known["metadata_version"], known["kind"]) == ("0.2", "llm")
    assert known["assets"] == {"main": "small.aimodel"}
    assert known["language"]["vocab_size"] == SMALL.vocab_size
    assert known["language"]["max_context_length"] == 96
    assert known["language"]["embedded_tokenizer"]
    assert read_bundle(tmp_path) == bundle
    assert "CoreAILanguageModel(resourcesAt:" in (tmp_path / "README.md").read_text()


def test_the_runner_is_told_of_every_piece_that_ends_an_answer(source, tmp_path):
    model = source()
    tokenizer = Tokenizer.open(model.folder)
    assert len(tokenizer.eos_ids) == 2
    write_bundle(tmp_path, bundle_of(model, CoreAi()), model)
    config = json.loads((tmp_path / TOKENIZER / "tokenizer_config.json").read_text())
    named = [config["eos_token"], *config["additional_special_tokens"]]
    assert [tokenizer.piece_id(piece) for piece in named] == list(tokenizer.eos_ids)
    assert config["chat_template"]
    assert Tokenizer.open(tmp_path / TOKENIZER).eos_ids == tokenizer.eos_ids


@pytest.mark.parametrize("text", ["", "{}", '{"language": {}}', "[]"])
def test_damaged_metadata_is_named(tmp_path, text):
    (tmp_path / METADATA).write_text(text)
    with pytest.raises(ExportError, match=r"metadata\.json is damaged"):
        read_bundle(tmp_path)


def test_the_runner_answers_with_the_first_adapter_unless_told_otherwise(source, with_adapter):
    two = with_adapter(with_adapter(source()), "dogs")
    bundle = bundle_of(two, CoreAi())
    assert bundle.runner_uses == "cats"
    assert function_name("extend", bundle.sizes, 8, bundle.variants["cats"]) == "extend_64_8"
    assert bundle.variants["none"] == "adapter_none_"
    assert bundle_of(two, CoreAi(runner_uses="none")).variants["none"] == ""
    assert bundle_of(source(), CoreAi()).runner_uses == "none"


def test_the_context_is_the_models_at_most_and_made_of_whole_calls(source):
    model = source()
    assert sizes_of(model, CoreAi()).context == 64  # of the model's 96
    assert sizes_of(model, CoreAi(prefill_tokens=32)).context == 96
    assert sizes_of(model, CoreAi(prefill_tokens=32, context_tokens=64)).context == 64
    assert sizes_of(model, CoreAi(decode_tokens=64)).queries == (64,)


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"max_tokens": 40}, {}, "it reads 40 tokens, and a prompt is read 64 at a time"),
        (
            {"num_kv_heads": 4, "head_dim": 32},
            {},
            "a context of 64 tokens is below the 128 numbers of a key",
        ),
        ({}, {"runner_uses": "dogs"}, "runner_uses is 'dogs', and there are none"),
    ],
    ids=["short", "wide", "unknown"],
)
def test_what_the_runner_cannot_take_is_refused_in_a_line(source, changes, settings, reason):
    (found,) = TARGET.refusals(source(**changes), CoreAi(**settings))
    assert found.startswith(reason)


def test_calls_of_sizes_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match=r"prefill_tokens \(64\) must be a multiple"):
        read_settings(TARGET, {"decode_tokens": 7})


def test_where_there_is_no_wheel_the_hint_says_what_there_is(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in _install()
    assert "macOS 26" in _install()
