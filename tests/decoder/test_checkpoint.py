import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.checkpoint import (
    check_tokenizer,
    open_checkpoint,
    read_facts,
    read_shape,
    save_checkpoint,
    tokenizer_pieces,
    write_checkpoint,
)
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape

Make = Callable[..., Decoder]


def test_a_model_survives_its_checkpoint(any_shape: Shape, make: Make, tmp_path: Path):
    model = make(any_shape)
    save_checkpoint(tmp_path / "new" / "model", model, None, facts={"stage": "core", "steps": 3})
    opened = open_checkpoint(tmp_path / "new" / "model")
    assert opened.shape == any_shape
    for name, array in named_parameters(model).items():
        assert mx.array_equal(array, named_parameters(opened)[name]), name
    assert read_facts(tmp_path / "new" / "model") == {"stage": "core", "steps": 3}


def test_stock_mlx_lm_opens_it(any_shape: Shape, make: Make, tokens: mx.array, tmp_path: Path):
    model = make(any_shape)
    save_checkpoint(tmp_path, model, None)
    theirs, config = import_mlx_lm("mlx_lm.utils").load_model(tmp_path)
    assert mx.abs(theirs(tokens) - model(tokens)).max() < 1e-5
    assert config["model_type"] == ("qwen3" if any_shape.qk_norm else "llama")


def test_shards_open_like_one_file(make: Make, tmp_path: Path):
    model = make()
    weights = named_parameters(model)
    write_checkpoint(tmp_path, model.shape, weights, None, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    opened = named_parameters(open_checkpoint(tmp_path))
    assert all(mx.array_equal(opened[name], weights[name]) for name in weights)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_number_formats_are_kept_unless_another_is_asked_for(dtype, make, tmp_path):
    model = make()
    model.set_dtype(dtype)
    save_checkpoint(tmp_path, model, None)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("mlx.core.")
    kept = named_parameters(open_checkpoint(tmp_path))
    assert {array.dtype for array in kept.values()} == {dtype}
    asked = named_parameters(open_checkpoint(tmp_path, dtype=mx.float32))
    assert {array.dtype for array in asked.values()} == {mx.float32}


def test_tokenizer_files_come_along_and_give_the_ids(make, tokenizer_folder, tmp_path):
    save_checkpoint(tmp_path / "model", make(), tokenizer_folder)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    ids = {name: config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    assert ids == {"bos": None, "eos": 58, "pad": 59}
    for file in tokenizer_folder.iterdir():
        assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes()


def test_a_checkpoint_passes_its_tokenizer_and_ids_on(make, tokenizer_folder, tmp_path):
    settings = {"eos_token_id": [57, 58]}
    (tokenizer_folder / "config.json").write_text(json.dumps(settings))
    save_checkpoint(tmp_path / "one", make(), tokenizer_folder)
    save_checkpoint(tmp_path / "two", make(), tmp_path / "one")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == ([57, 58], 59)
    assert (tmp_path / "two" / "tokenizer.json").is_file()


def test_saving_over_the_folder_of_the_tokenizer_keeps_it(make, tokenizer_folder):
    save_checkpoint(tokenizer_folder, make(), tokenizer_folder)
    assert tokenizer_pieces(tokenizer_folder) == 60
    assert read_shape(tokenizer_folder) == make().shape


def test_a_tokenizer_with_more_pieces_than_rows_is_refused(make, tokenizer_folder, tmp_path):
    message = "has 60 pieces and the model 59 rows"
    with pytest.raises(ModelError, match=message):
        save_checkpoint(tmp_path / "model", make(vocab_size=59), tokenizer_folder)
    assert not (tmp_path / "model").exists()
    with pytest.raises(ModelError, match=message):
        check_tokenizer(make(vocab_size=59).shape, 60, tokenizer_folder)
    check_tokenizer(make(vocab_size=60).shape, 60, tokenizer_folder)


def test_pieces_are_counted_up_to_the_highest_id(tmp_path: Path):
    assert tokenizer_pieces(tmp_path) is None
    table = {"model": {"vocab": {"a": 0, "b": 6}}, "added_tokens": [{"id": 3}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    assert tokenizer_pieces(tmp_path) == 7
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer"):
        tokenizer_pieces(tmp_path)


def test_rotation_tables_and_an_unused_output_layer_are_left_out(make, tmp_path):
    model = make()
    spare = {
        "lm_head.weight": mx.zeros((64, 32)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.zeros((8,)),
    }
    write_checkpoint(tmp_path, model.shape, named_parameters(model) | spare, None)
    assert set(named_parameters(open_checkpoint(tmp_path))) == set(named_parameters(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"lacks model\.norm\.weight$"),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": mx.zeros((64,))}),
            "tensors that this decoder has not: model.layers.0.self_attn.q_proj.bias",
        ),
        (
            lambda w: w.update({"model.embed_tokens.weight": mx.zeros((60, 32))}),
            r"model\.embed_tokens\.weight is \[60, 32\], must be \[64, 32\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, make, tmp_path):
    model = make()
    weights = named_parameters(model)
    change(weights)
    write_checkpoint(tmp_path, model.shape, weights, None)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_a_cut_checkpoint_is_refused(make, tmp_path):
    save_checkpoint(tmp_path, make(), None)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its header says"):
        open_checkpoint(tmp_path)
