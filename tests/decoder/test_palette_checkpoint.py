import json
import math

import mlx.core as mx
import mlx.nn as nn
import pytest

from afm_mlx.decoder.checkpoint import (
    open_checkpoint,
    read_palette,
    read_shape,
    save_checkpoint,
    stored_bits,
    write_checkpoint,
)
from afm_mlx.decoder.convert import import_model
from afm_mlx.decoder.decoder import named_parameters
from afm_mlx.decoder.lora import add_lora
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    PaletteLinear,
    linears,
)
from afm_mlx.decoder.palette_format import PaletteFormat, tensors
from afm_mlx.errors import ModelError
from afm_mlx.recipe import load_recipe, recipe_files


def test_a_palettized_model_survives_its_checkpoint(any_shape, make, palettize, tokens, tmp_path):
    model = palettize(make(any_shape))
    save_checkpoint(tmp_path, model, None, facts={"stage": "quantize"})
    opened = open_checkpoint(tmp_path)
    assert read_shape(tmp_path) == any_shape
    assert opened.shape == any_shape
    assert isinstance(opened.model.embed_tokens, Int8Embedding)
    kinds = {type(layer) for layer in linears(opened).values()}
    assert kinds == {PaletteLinear, Int8Linear, nn.Linear}
    for name, array in named_parameters(model).items():
        assert mx.array_equal(array, named_parameters(opened)[name]), name
    assert mx.array_equal(opened(tokens), model(tokens))


def test_opened_and_saved_again_it_has_the_same_bytes(make, palettize, tokenizer_folder, tmp_path):
    save_checkpoint(tmp_path / "one", palettize(make()), tokenizer_folder, facts={"a": 1})
    opened = open_checkpoint(tmp_path / "one")
    save_checkpoint(tmp_path / "two", opened, tmp_path / "one", facts={"a": 1})
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "two").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_import_of_it_has_the_same_weights(make, palettize, tmp_path):
    save_checkpoint(tmp_path / "one", palettize(make()), None)
    import_model(tmp_path / "one", tmp_path / "two")
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert read_palette(tmp_path / "two", make().shape) is not None


def test_shards_open_like_one_file(make, palettize, tmp_path):
    model = palettize(make())
    weights = named_parameters(model)
    save_checkpoint(tmp_path, model, None)
    palette = read_palette(tmp_path, model.shape)
    write_checkpoint(tmp_path, model.shape, weights, None, palette=palette, shard_bytes=5_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    opened = named_parameters(open_checkpoint(tmp_path))
    assert all(mx.array_equal(opened[name], weights[name]) for name in weights)


def test_a_number_format_converts_gains_and_the_stream_but_no_table(make, palettize, tmp_path):
    save_checkpoint(tmp_path, palettize(make()), None)
    model = open_checkpoint(tmp_path, dtype=mx.bfloat16)
    formats = {name.rpartition(".")[2]: a.dtype for name, a in named_parameters(model).items()}
    assert formats == {
        "weight": mx.bfloat16,
        "ids": formats["ids"],
        "tables": mx.float16,
        "scales": mx.float16,
    }
    assert model.model.embed_tokens(mx.array([1])).dtype == mx.bfloat16
    assert model(mx.array([[1, 2]])).dtype == mx.bfloat16


def test_who_changes_weights_is_told_that_they_are_tables(make, palettize, tmp_path):
    save_checkpoint(tmp_path / "small", palettize(make()), None)
    with pytest.raises(ModelError, match=r"weights of '.*small' are look-up tables") as caught:
        open_checkpoint(tmp_path / "small", dtype=mx.float32, dense=True)
    assert "afm adapt" in caught.value.hint
    save_checkpoint(tmp_path / "dense", make(), None)
    assert open_checkpoint(tmp_path / "dense", dense=True).shape == make().shape


def test_factors_are_not_saved_as_a_model(make, palettize, tmp_path):
    model = palettize(make())
    add_lora(model, rank=2, scale=1.0, seed=0)
    with pytest.raises(ModelError, match=r"cannot hold model\.layers\.0\.self_attn\.q_proj"):
        save_checkpoint(tmp_path / "model", model, None)
    assert not (tmp_path / "model").exists()


Q = "model.layers.0.self_attn.q_proj"  # [64, 32], 4 bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{Q}.tables"), rf"lacks {Q}\.tables$"),
        (lambda w: w.update({f"{Q}.weight": mx.zeros((64, 32))}), rf"has not: {Q}\.weight$"),
        (
            lambda w: w.update({f"{Q}.ids": mx.zeros((64, 3), mx.uint32)}),
            rf"{Q}\.ids is \[64, 3\], must be \[64, 4\]",
        ),
        (
            lambda w: w.update({f"{Q}.ids": w[f"{Q}.ids"].astype(mx.int32)}),
            rf"{Q}\.ids is I32, must be U32",
        ),
        (
            lambda w: w.update({f"{Q}.tables": w[f"{Q}.tables"].astype(mx.float32)}),
            rf"{Q}\.tables is F32, must be F16",
        ),
        (
            lambda w: w.update({"model.norm.weight": mx.zeros((32,), mx.uint32)}),
            r"model\.norm\.weight is U32, not float32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, make, palettize, tmp_path):
    model = palettize(make())
    weights = dict(named_parameters(model))
    save_checkpoint(tmp_path, model, None)
    change(weights)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "quantization_config is set, which cannot be represented"),
        ({"group_rows": 0}, "group_rows is '0', not a number of rows"),
        ({"bits": {}}, r"bits is '\{\}', not a table of layers"),
        ({"bits": {"model.layers.9.mlp.up_proj": 4}}, "no layer 'model.layers.9.mlp.up_proj'"),
        ({"bits": {Q: 3}}, f"{Q} has '3' bits, not 2 or 4 or 8"),
        ({"bits": {"model.embed_tokens": 4}}, "model.embed_tokens has '4' bits, not 8"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(change, message, make, palettize, tmp_path):
    save_checkpoint(tmp_path, palettize(make()), None)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_four_bits_are_at_most_4_01_in_the_published_shape():
    shape = load_recipe(recipe_files()["afm-on-device"]).shape
    dense = tensors(shape, None)
    names = [name.removesuffix(".weight") for name in dense if "_proj." in name]
    palette = PaletteFormat(16, dict.fromkeys(names, 4) | {"model.embed_tokens": 8})
    sizes = {"U32": 32, "F16": 16, "I8": 8}
    bits: dict[str, int] = {}
    for name, each in tensors(shape, palette).items():
        layer = name.rpartition(".")[0]
        if each.format is not None:
            bits[layer] = bits.get(layer, 0) + math.prod(each.shape) * sizes[each.format]
    weights = {name: math.prod(dense[f"{name}.weight"].shape) for name in bits}
    assert sum(bits[name] for name in names) / sum(weights[name] for name in names) <= 4.01
    assert bits["model.embed_tokens"] / weights["model.embed_tokens"] <= 8.01


def test_bits_are_counted_from_the_files(make, palettize, tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_heads": 8, "num_kv_heads": 4}
    model = palettize(make(**wide, head_dim=32), bits=4)
    save_checkpoint(tmp_path, model, None)
    counted = stored_bits(tmp_path)
    linear, embedding = counted["linears"], counted["embedding"]
    rows = 2 * (256 + 128 + 128 + 256 + 512 + 512 + 256)
    assert linear.weights == 2 * (256 * (256 + 128 + 128 + 256 + 512 + 512 + 512))
    assert linear.bits == 4 * linear.weights + rows // 16 * 16 * 16
    assert (embedding.weights, embedding.bits) == (64 * 256, 64 * (256 * 8 + 16))
    assert counted["norms"].per_weight == 32
    file = tmp_path / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert counted["all"].bits == 8 * (file.stat().st_size - 8 - header)
    save_checkpoint(tmp_path / "dense", make(), None)
    assert {part.per_weight for part in stored_bits(tmp_path / "dense").values()} == {32}
