"""What can be known of a Core AI export without Apple's package."""

import json
import platform

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder.adapters import read_adapter
from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Rotation
from afm_mlx.decoder.palette import PaletteLinear, linears, pack, replace_linears
from afm_mlx.decoder.palette_format import EMBEDDING
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
from afm_mlx.export.coreai.target import TARGET, _install, bundle_of, planned_bytes, sizes_of
from afm_mlx.export.coreai.weights import Integers, Numbers, Tables, read_weights, rotation_angles
from afm_mlx.export.targets import read_settings
from afm_mlx.settings.export import CoreAi
from afm_mlx.text.tokenizer import Tokenizer

from .conftest import LLAMA3_ROPE, SMALL, palettize, random_model


def test_tables_and_integers_are_the_weights_that_our_layers_compute_with(source):
    weights = read_weights(source(palettized=True))
    model = random_model()
    palettize(model)
    for name, layer in linears(model).items():
        matrix = weights.matrices[name]
        assert isinstance(matrix, Tables)
        spread = np.repeat(matrix.tables, layer.group_rows, axis=0)
        found = np.take_along_axis(spread, matrix.ids.astype(int), axis=1)
        assert np.array_equal(found.astype(np.float32), np.array(layer.dense()))
    embedding = weights.matrices[EMBEDDING]
    assert isinstance(embedding, Integers)
    found = embedding.ids.astype(np.float32) * embedding.scales.astype(np.float32)[:, None]
    assert np.array_equal(found, np.array(model.model.embed_tokens.dense()))


def test_a_dense_model_is_numbers_in_float16(source):
    weights = read_weights(source(tied=False))
    assert all(isinstance(each, Numbers) for each in weights.matrices.values())
    assert "lm_head" in weights.matrices
    assert {array.dtype for array in weights.gains.values()} == {np.dtype(np.float16)}


def test_an_adapters_scale_is_in_its_second_factor(source, with_adapter):
    adapted = with_adapter(source())
    (adapter,) = read_weights(adapted).adapters
    read = read_adapter(adapted.adapters[0], adapted.folder)
    name = "model.layers.1.mlp.down_proj"
    down, up = adapter.factors[name]
    a, b = (read.arrays[f"{name}.lora_{each}"].astype(mx.float32) for each in "ab")
    wanted = np.array((read.facts.scale * (a @ b)).T)
    assert np.allclose(up.astype(np.float32) @ down.astype(np.float32), wanted, atol=0.02)


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": LLAMA3_ROPE}], ids=["plain", "llama3"])
def test_angles_turn_pairs_as_our_rotation_does(changes):
    shape = SMALL.model_copy(update=changes)
    heads = mx.random.normal((1, 1, 50, shape.head_dim), key=mx.random.key(0))
    wanted = np.array(Rotation(shape)(heads))[0, 0]
    angles = rotation_angles(shape, 50)
    first, second = np.split(np.array(heads)[0, 0], 2, axis=-1)
    cosines, sines = np.cos(angles), np.sin(angles)
    found = np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )
    assert np.allclose(found, wanted, atol=1e-4)


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


def test_the_plan_has_the_bits_of_tables(source, with_adapter):
    planned = planned_bytes(with_adapter(source(palettized=True)))
    weights = sum(layer.weight.size for layer in linears(random_model()).values())
    rows = sum(layer.weight.shape[0] for layer in linears(random_model()).values())
    assert planned["linears"] == weights // 2 + rows // 16 * 16 * 2
    assert planned["embedding"] == SMALL.vocab_size * (SMALL.hidden_size + 2)
    assert planned["adapters"] > 0


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


def test_tables_that_do_not_divide_the_rows_are_refused(source):
    model = random_model()
    palettize(model)
    shape = SMALL.model_copy(update={"intermediate_size": 72})
    wide = source(intermediate_size=72)
    odd = random_model(shape)
    ids = mx.zeros((72, 32), mx.uint32)
    tables = mx.zeros((5, 16), mx.float16)
    layer = PaletteLinear(pack(ids, 4), tables, bits=4, group_rows=16, in_features=32)
    replace_linears(odd, {"model.layers.0.mlp.gate_proj": layer})
    save_checkpoint(wide.folder, odd, wide.folder, facts={})
    (found,) = TARGET.refusals(wide, CoreAi())
    assert found == "model.layers.0.mlp.gate_proj.weight has 72 rows, not a multiple of 16"


def test_adapters_whose_functions_would_have_one_name_are_refused(source, with_adapter):
    two = with_adapter(with_adapter(source(), "a-b"), "a_b")
    (found,) = TARGET.refusals(two, CoreAi())
    assert found.startswith("the adapters a-b, a_b differ in signs only")


def test_a_number_that_float16_cannot_hold_is_named(source):
    model, damaged = source(), random_model()
    damaged.model.norm.weight = mx.full((SMALL.hidden_size,), 70_000.0)
    save_checkpoint(model.folder, damaged, model.folder, facts={})
    with pytest.raises(ExportError, match=r"model\.norm\.weight has 70,000 in it"):
        read_weights(model)


def test_calls_of_sizes_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match=r"prefill_tokens \(64\) must be a multiple"):
        read_settings(TARGET, {"decode_tokens": 7})


def test_where_there_is_no_wheel_the_hint_says_what_there_is(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in _install()
    assert "macOS 26" in _install()
