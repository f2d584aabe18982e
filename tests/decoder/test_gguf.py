from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.convert import import_model
from afm_mlx.decoder.decoder import Decoder, llama3_wavelengths, named_parameters
from afm_mlx.errors import ModelError
from afm_mlx.export.gguf import add_setting
from afm_mlx.settings.sections import Llama3Rope

ROWS = 272  # the tokenizer has 266 pieces
# The rescaling that Llama 3.1 has.
LLAMA31_ROPE = Llama3Rope(
    factor=8, low_freq_factor=1, high_freq_factor=4, original_max_tokens=8_192
)


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture
def write(byte_level_fields: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Writes a model as a GGUF file, the way llama.cpp's converter does.

    `changes` are settings; a name that ends in "weight" is a tensor, None removes either.
    """

    def write(file: Path, model: Decoder, kind: str = "F32", **changes: Any) -> None:
        fields: dict[str, Any] = shape_fields(model) | byte_level_fields()
        arrays: dict[str, Any] = tensors(model)
        for name, value in changes.items():
            table = arrays if name.endswith("weight") else fields
            table.pop(name, None)
            if value is not None:
                table[name] = value
        default = "qwen3" if model.shape.qk_norm else "llama"
        architecture = fields.pop("architecture", default)
        write_gguf(file, fields, arrays, architecture=architecture, kind=kind)

    return write


def shape_fields(model: Decoder) -> dict[str, Any]:
    """Settings of a model under the names of its architecture."""
    shape = model.shape
    own = {
        "block_count": shape.num_layers,
        "context_length": shape.max_tokens,
        "embedding_length": shape.hidden_size,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.norm_eps,
        "rope.freq_base": float(shape.rope_base),
    }
    architecture = "qwen3" if shape.qk_norm else "llama"
    return {f"{architecture}.{name}": value for name, value in own.items()}


def tensors(model: Decoder) -> dict[str, np.ndarray]:
    """Float32 weights by GGUF's names; Llama's query and key rows in adjacent pairs."""
    shape = model.shape
    found = {}
    for name, array in named_parameters(model).items():
        rows = np.array(array.astype(mx.float32))
        parts = name.removesuffix(".weight").split(".")
        if not shape.qk_norm and parts[-1] in ("q_proj", "k_proj"):
            heads = {"q_proj": shape.num_heads, "k_proj": shape.num_kv_heads}[parts[-1]]
            # LlamaModel.permute of convert_hf_to_gguf.py
            split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
            rows = split.swapaxes(1, 2).reshape(rows.shape)
        if parts[0] == "model" and parts[1] == "layers":
            theirs = f"blk.{parts[2]}.{NAMES['.'.join(parts[3:])]}"
        else:
            theirs = NAMES[".".join(parts)]
        found[f"{theirs}.weight"] = rows
    return found


def write_gguf(
    file: Path,
    fields: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    architecture: str,
    kind: str = "F32",
) -> None:
    """Write a GGUF file. Matrices are stored as `kind`, vectors in float32."""
    writer = gguf.GGUFWriter(file, architecture)
    for name, value in fields.items():
        add_setting(writer, name, value)
    for name, array in arrays.items():
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(array), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_every_weight_is_exactly_what_the_file_holds(kind, any_shape, make, tmp_path, write):
    model = make(any_shape.model_copy(update={"vocab_size": ROWS, "rope_scaling": None}))
    write(tmp_path / "m.gguf", model, kind)
    assert import_model(tmp_path / "m.gguf", tmp_path / "out") == model.shape
    stored = gguf.GGMLQuantizationType[kind]
    dtype = {"F16": mx.float16, "BF16": mx.bfloat16}.get(kind, mx.float32)
    opened = named_parameters(open_checkpoint(tmp_path / "out"))
    for name, array in named_parameters(model).items():
        held = np.array(array)
        if held.ndim == 2:
            # Rows are quantized one by one, so their order does not matter here.
            held = gguf.dequantize(gguf.quants.quantize(held, stored), stored)
            assert opened[name].dtype == dtype, name
        np.testing.assert_array_equal(np.array(opened[name].astype(mx.float32)), held, name)


def test_gains_take_the_format_of_the_matrices_where_no_bit_is_lost(make, tmp_path, write):
    model = make(vocab_size=ROWS)
    model.model.norm.weight = model.model.norm.weight.astype(mx.float16).astype(mx.float32)
    model.layers[0].input_layernorm.weight = mx.full((32,), 1 + 2**-20)
    write(tmp_path / "m.gguf", model, "F16")
    import_model(tmp_path / "m.gguf", tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    assert opened.model.norm.weight.dtype == mx.float16
    assert opened.layers[0].input_layernorm.weight.dtype == mx.float32


def test_logits_survive(any_shape, make, tokens, tmp_path, write):
    model = make(any_shape.model_copy(update={"vocab_size": ROWS, "rope_scaling": None}))
    write(tmp_path / "m.gguf", model)
    import_model(tmp_path / "m.gguf", tmp_path / "out")
    assert mx.array_equal(open_checkpoint(tmp_path / "out")(tokens), model(tokens))


@pytest.mark.parametrize("kind", ["llama 3.1", "none", "other"])
def test_rotation_factors_are_recognized_or_refused(kind, make, tmp_path, write):
    model = make(qk_norm=False, vocab_size=ROWS, rope_base=500_000, rope_scaling=LLAMA31_ROPE)
    plain = 500_000 ** (mx.arange(0, 16, 2) / 16)
    factors = np.array(llama3_wavelengths(16, 500_000, LLAMA31_ROPE) / plain)
    assert len(set(factors.tolist())) > 1
    factors = {"llama 3.1": factors, "none": np.ones(8, np.float32), "other": factors**2}[kind]
    write(tmp_path / "m.gguf", model, **{"rope_freqs.weight": factors})
    if kind == "other":
        with pytest.raises(ModelError, match=r"rope_freqs\.weight is not the rescaling of Llama 3"):
            import_model(tmp_path / "m.gguf", tmp_path / "out")
        return
    wanted = LLAMA31_ROPE if kind == "llama 3.1" else None
    assert import_model(tmp_path / "m.gguf", tmp_path / "out").rope_scaling == wanted


def test_absent_settings_take_the_defaults_of_llama_cpp(make, tmp_path, write):
    model = make(qk_norm=False, vocab_size=ROWS, num_kv_heads=4, head_dim=8)
    absent = ["attention.key_length", "attention.value_length", "attention.head_count_kv"]
    write(tmp_path / "m.gguf", model, **{f"llama.{name}": None for name in absent})
    assert import_model(tmp_path / "m.gguf", tmp_path / "out") == model.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gemma"}, "architecture is 'gemma', not qwen3 or llama"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"llama.rope.scaling.type": "linear"}, "rope.scaling.type is 'linear'"),
        ({"llama.expert_count": 8}, "expert_count is '8'"),
        ({"llama.attention.sliding_window": 64}, "attention.sliding_window is '64'"),
        ({"llama.attention.scale": 0.5}, r"attention.scale is '0\.5'"),
        ({"llama.logit_scale": 0.5}, r"llama.logit_scale is '0\.5'"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, the width of a head is 16"),
        ({"llama.attention.head_count": [4, 4]}, r"head_count is '\[4, 4\]'"),
        ({"llama.attention.head_count_kv": 3}, r"num_heads \(4\) must be a multiple of"),
        ({"llama.block_count": None}, r"lacks llama\.block_count"),
        ({"token_embd.weight": None}, r"lacks token_embd\.weight"),
        ({"output_norm.weight": None}, r"lacks model\.norm\.weight"),
        ({"blk.0.attn_q.bias_weight": np.ones(64, np.float32)}, "that this decoder has not"),
        ({"blk.0.ffn_gate.weight": np.ones((64, 64), np.float32)}, r"is \[64, 64\], must be"),
    ],
)
def test_what_means_something_else_is_refused_by_name(change, message, make, tmp_path, write):
    write(tmp_path / "m.gguf", make(qk_norm=False, vocab_size=ROWS), **change)
    with pytest.raises(ModelError, match=message):
        import_model(tmp_path / "m.gguf", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


def test_other_quantizations_are_refused_by_name(make, tmp_path, write):
    write(tmp_path / "m.gguf", make(vocab_size=ROWS), "Q5_0")
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is Q5_0, not one of F32, F16"):
        import_model(tmp_path / "m.gguf", tmp_path / "out")


def test_a_tokenizer_with_more_pieces_than_rows_is_refused(make, tmp_path, write):
    write(tmp_path / "m.gguf", make(vocab_size=256))
    with pytest.raises(ModelError, match="265 pieces and the model 256 rows"):
        import_model(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(share, make, tmp_path, write):
    write(tmp_path / "m.gguf", make(vocab_size=ROWS))
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"m\.gguf"):
        import_model(tmp_path / "m.gguf", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_text("hello")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        import_model(tmp_path / "m.gguf", tmp_path / "out")
