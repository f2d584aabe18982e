import json
from pathlib import Path
from typing import Any

import pytest

from afm_mlx.decoder.config import config_of_shape, read_config, shape_of_config
from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Llama3Rope, Shape

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "rope_theta": 10_000,
    "tie_word_embeddings": True,
}
LLAMA = {key: value for key, value in QWEN3.items() if key != "head_dim"} | {"model_type": "llama"}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 32,
}


def test_a_shape_survives_its_config(any_shape: Shape):
    config = config_of_shape(any_shape, dtype="float32", token_ids={}, facts={})
    assert shape_of_config(json.loads(json.dumps(config)), "config.json") == any_shape


def test_config_has_every_field_that_other_programs_need(any_shape: Shape):
    config = config_of_shape(
        any_shape, dtype="bfloat16", token_ids={"eos_token_id": 5}, facts={"stage": "core"}
    )
    kind = {True: "qwen3", False: "llama"}[any_shape.qk_norm]
    assert config["model_type"] == kind
    assert config["architectures"] == [f"{kind.capitalize()}ForCausalLM"]
    assert config["tie_word_embeddings"] is any_shape.tied
    assert config["head_dim"] == any_shape.head_dim
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == any_shape.rope_base
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["eos_token_id"] == 5
    assert config["afm"] == {"stage": "core"}
    assert ("rope_scaling" in config) is (any_shape.rope_scaling is not None)


def test_head_width_of_llama_follows_from_its_heads():
    shape = shape_of_config(LLAMA, "config.json")
    assert shape.head_dim == 8
    assert not shape.qk_norm


@pytest.mark.parametrize(
    ("change", "heads", "base"),
    [({"num_key_value_heads": None}, 4, 10_000), ({"rope_theta": None}, 2, 10_000)],
)
def test_llama_takes_the_defaults_of_transformers(change, heads, base):
    shape = shape_of_config(LLAMA | change, "config.json")
    assert (shape.num_kv_heads, shape.rope_base) == (heads, base)


def test_mistral_without_a_window_is_llama():
    shape = shape_of_config(LLAMA | {"model_type": "mistral", "sliding_window": None}, "c")
    assert shape == shape_of_config(LLAMA, "c")


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_llama3_rescaling_is_read_in_its_old_and_its_new_place(place: str):
    wanted = Llama3Rope(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_tokens=32)
    assert shape_of_config(LLAMA | {place: LLAMA3_ROPE}, "c").rope_scaling == wanted


def test_an_unused_window_of_qwen3_is_no_obstacle():
    unused = {"use_sliding_window": False, "sliding_window": 64, "layer_types": ["full_attention"]}
    assert shape_of_config(QWEN3 | unused, "c") == shape_of_config(QWEN3, "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "model_type is 'gemma3', not one of qwen3, llama, mistral"),
        ({"model_type": None}, "model_type is 'None'"),
        ({"attention_bias": True}, "attention_bias is 'True'"),
        ({"mlp_bias": True}, "mlp_bias is 'True'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"sliding_window": 64, "use_sliding_window": True}, "a sliding window of 64"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers with sliding_attention"),
        ({"num_experts": 8}, "num_experts is '8'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is '0.5'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"rope_parameters": {"rope_theta": 5}}, "rope_theta is 10000 and rope_parameters say 5"),
        ({"rope_parameters": "x"}, "rope_parameters is 'x', not a table"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4}}, "rope_type is 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4}}, "'llama3' lacks low_freq_factor"),
        ({"attention_multiplier": 0.1}, "attention_multiplier is '0.1'"),
        ({"quantization": {"bits": 4}}, "quantization is set"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is set"),
        ({"rope_theta": None}, "lacks rope_theta"),
        ({"head_dim": None, "vocab_size": None}, "lacks head_dim, vocab_size"),
        ({"head_dim": 15}, r"head_dim \(15\) must be even"),
        ({"num_hidden_layers": 0}, "num_layers: input should be greater than 0"),
    ],
)
def test_what_means_something_else_is_refused_by_name(change: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        shape_of_config(QWEN3 | change, "config.json")


def test_a_sliding_window_of_mistral_is_refused():
    with pytest.raises(ModelError, match="a sliding window of 4096"):
        shape_of_config(LLAMA | {"model_type": "mistral", "sliding_window": 4096}, "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no config.json"), ("{", "is not JSON"), ("[]", "holds a list, not a table")],
)
def test_a_folder_without_a_readable_config_is_refused(text, message, tmp_path: Path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)
