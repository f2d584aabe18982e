import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.decoder import (
    Decoder,
    count_parameters,
    initialize,
    llama3_wavelengths,
    named_parameters,
)
from afm_mlx.settings.sections import Llama3Rope, Shape

Make = Callable[..., Decoder]

DEVICE = Shape(
    num_layers=26,
    hidden_size=3_072,
    num_heads=24,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=8_064,
    vocab_size=49_152,
    rope_base=500_000,
    norm_eps=1e-5,
    max_tokens=4_096,
)


def gap(one: mx.array, other: mx.array) -> float:
    assert one.shape == other.shape
    return mx.abs(one.astype(mx.float32) - other.astype(mx.float32)).max().item()


def stock(model: Decoder) -> nn.Module:
    """mlx-lm's own class with the weights of `model`."""
    shape = model.shape
    kind = "qwen3" if shape.qk_norm else "llama"
    module = import_mlx_lm(f"mlx_lm.models.{kind}")
    scaling = shape.rope_scaling and {
        "rope_type": "llama3",
        "factor": shape.rope_scaling.factor,
        "low_freq_factor": shape.rope_scaling.low_freq_factor,
        "high_freq_factor": shape.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": shape.rope_scaling.original_max_tokens,
    }
    args = module.ModelArgs(
        model_type=kind,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_tokens,
        rope_theta=shape.rope_base,
        rope_scaling=scaling,
        tie_word_embeddings=shape.tied,
    )
    theirs: nn.Module = module.Model(args)
    theirs.load_weights(list(named_parameters(model).items()))
    return theirs


def test_logits_equal_those_of_stock_mlx_lm(any_shape: Shape, make: Make, tokens: mx.array):
    model = make(any_shape)
    assert gap(model(tokens), stock(model)(tokens)) < 1e-5


def test_llama3_rescaling_equals_that_of_mlx_lm():
    scaling = Llama3Rope(
        factor=32, low_freq_factor=1, high_freq_factor=4, original_max_tokens=8_192
    )
    table = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8_192,
    }
    rope_utils = import_mlx_lm("mlx_lm.models.rope_utils")
    theirs = rope_utils.Llama3RoPE(64, base=500_000, scaling_config=table)._freqs
    np.testing.assert_allclose(llama3_wavelengths(64, 500_000, scaling), theirs, rtol=1e-6)


def test_logits_are_the_hidden_states_times_the_output_weight(any_shape, make, tokens):
    model = make(any_shape)
    assert gap(model.hidden(tokens) @ model.output_weight.T, model(tokens)) < 1e-5


def test_no_token_sees_a_later_one(make: Make, tokens: mx.array):
    model = make()
    changed = mx.concatenate([tokens[:, :20], tokens[:, 20:] + 1], axis=1) % 64
    assert mx.array_equal(model(tokens)[:, :20], model(changed)[:, :20])
    assert gap(model(tokens)[:, 20:], model(changed)[:, 20:]) > 0.1


def test_cached_decoding_equals_one_pass(any_shape: Shape, make: Make, tokens: mx.array):
    model = make(any_shape)
    cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(model)
    parts = [model(tokens[:, :17], cache=cache), model(tokens[:, 17:30], cache=cache)]
    parts += [model(tokens[:, i : i + 1], cache=cache) for i in range(30, 40)]
    assert gap(mx.concatenate(parts, axis=1), model(tokens)) < 2e-5


def test_input_embeddings_take_the_place_of_tokens(make: Make, tokens: mx.array):
    model = make()
    embeddings = model.model.embed_tokens(tokens)
    assert gap(model(tokens, input_embeddings=embeddings), model(tokens)) == 0


@pytest.mark.parametrize("kind", ["rotating", "quantized"])
def test_other_caches_of_mlx_lm_give_what_its_own_model_gives(kind, make, tokens):
    caches = import_mlx_lm("mlx_lm.models.cache")
    model = make(head_dim=32)
    logits = []
    for each in (model, stock(model)):
        if kind == "rotating":
            cache = caches.make_prompt_cache(each, max_kv_size=16)
        else:
            cache = [caches.QuantizedKVCache(group_size=32, bits=8) for _ in each.layers]
        parts = [each(tokens[:, :24], cache=cache)]
        parts += [each(tokens[:, i : i + 1], cache=cache) for i in range(24, 30)]
        logits.append(mx.concatenate(parts, axis=1))
    assert gap(*logits) < 1e-5


def test_prompt_cache_survives_a_file(make: Make, tokens: mx.array, tmp_path: Path):
    caches = import_mlx_lm("mlx_lm.models.cache")
    model = make()
    cache = caches.make_prompt_cache(model)
    model(tokens[:, :30], cache=cache)
    caches.save_prompt_cache(str(tmp_path / "cache.safetensors"), cache)
    loaded = caches.load_prompt_cache(str(tmp_path / "cache.safetensors"))
    assert gap(model(tokens[:, 30:], cache=loaded), model(tokens)[:, 30:]) < 2e-5


def greedy(model: Decoder, prompt: list[int], num_tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(model(mx.array([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


def test_batch_generator_gives_each_prompt_its_own_greedy_answer(make: Make):
    generate = import_mlx_lm("mlx_lm.generate")
    model = make()
    prompts = [[5, 9, 11, 2, 8], [7], [1, 2, 3]]  # of different lengths: padded on the left
    generator = generate.BatchGenerator(model, max_tokens=6)
    answers: dict[int, list[int]] = {uid: [] for uid in generator.insert(prompts)}
    while responses := generator.next_generated():
        for response in responses:
            answers[response.uid].append(response.token)
    generator.close()
    assert list(answers.values()) == [greedy(model, prompt, 6) for prompt in prompts]


def test_generate_step_gives_the_greedy_answer(make: Make):
    generate_step = import_mlx_lm("mlx_lm.generate").generate_step
    model = make()
    steps = generate_step(mx.array([4, 8, 15, 16]), model, max_tokens=8)
    assert [int(token) for token, _ in steps] == greedy(model, [4, 8, 15, 16], 8)


def test_two_packed_documents_equal_two_separate_passes(make: Make, tokens: mx.array):
    model = make()
    document = mx.array([0] * 15 + [1] * 25)
    mask = (document[:, None] == document) & (mx.arange(40)[:, None] >= mx.arange(40))
    packed = model.hidden(tokens, mask=mask[None, None])
    separate = [model.hidden(tokens[:, :15]), model.hidden(tokens[:, 15:])]
    # Positions run on over the second document: rotations depend on distances only.
    assert gap(packed, mx.concatenate(separate, axis=1)) < 1e-5


def gradient(model: Decoder, tokens: mx.array, **options: object) -> dict[str, mx.array]:
    def loss() -> mx.array:
        logits = model.hidden(tokens, **options) @ model.output_weight.T
        return nn.losses.cross_entropy(logits[:, :-1], tokens[:, 1:]).mean()

    grads = nn.value_and_grad(model, loss)()[1]
    holder = Decoder(model.shape)
    holder.update(grads)
    return named_parameters(holder)


@pytest.mark.parametrize("masked", [False, True])
def test_recomputed_blocks_give_the_same_gradient(masked, any_shape, make, tokens):
    model = make(any_shape)
    near = mx.abs(mx.arange(40)[:, None] - mx.arange(40)) < 9
    mask = near & (mx.arange(40)[:, None] >= mx.arange(40)) if masked else None
    plain = gradient(model, tokens, mask=mask)
    recomputed = gradient(model, tokens, mask=mask, checkpoint=True)
    assert max(gap(plain[name], recomputed[name]) for name in plain) < 1e-6
    mx.eval(model.parameters())  # no argument of the recomputation is left inside


def test_gradient_equals_that_of_stock_mlx_lm(make: Make, tokens: mx.array):
    model = make()
    theirs = stock(model)

    def loss() -> mx.array:
        return nn.losses.cross_entropy(theirs(tokens)[:, :-1], tokens[:, 1:]).mean()

    holder = Decoder(model.shape)
    holder.update(nn.value_and_grad(theirs, loss)()[1])
    wanted, ours = named_parameters(holder), gradient(model, tokens)
    assert max(gap(ours[name], wanted[name]) for name in wanted) < 1e-5


def test_frozen_blocks_are_recomputed_too(make: Make, tokens: mx.array):
    model = make()
    model.freeze()
    model.layers[0].mlp.unfreeze()
    grads = nn.value_and_grad(
        model, lambda: model.hidden(tokens, checkpoint=True).square().mean()
    )()[1]
    names = dict(nn.utils.tree_flatten(grads))
    assert set(names) == {
        f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }


def test_device_model_has_the_published_size():
    sizes = count_parameters(DEVICE)
    block = {
        name.removeprefix("model.layers.25."): size
        for name, size in sizes.items()
        if name.startswith("model.layers.25.")
    }
    assert sum(sizes.values()) == 2_737_739_264
    assert sizes["model.embed_tokens.weight"] == 150_994_944
    assert sizes["model.norm.weight"] == 3_072
    assert block == {
        "self_attn.q_proj.weight": 3_072 * 3_072,
        "self_attn.k_proj.weight": 1_024 * 3_072,
        "self_attn.v_proj.weight": 1_024 * 3_072,
        "self_attn.o_proj.weight": 3_072 * 3_072,
        "self_attn.q_norm.weight": 128,
        "self_attn.k_norm.weight": 128,
        "mlp.gate_proj.weight": 8_064 * 3_072,
        "mlp.up_proj.weight": 8_064 * 3_072,
        "mlp.down_proj.weight": 3_072 * 8_064,
        "input_layernorm.weight": 3_072,
        "post_attention_layernorm.weight": 3_072,
    }
    assert len(sizes) == 26 * len(block) + 2
    gains = sum(size for name, size in sizes.items() if "norm" in name)
    assert gains == 169_472
    assert sum(sizes.values()) - gains - 150_994_944 == 2_586_574_848


def test_counting_the_device_model_allocates_nothing():
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    count_parameters(DEVICE)
    assert mx.get_peak_memory() - before < 10**6


def test_initial_weights_have_the_spread_of_their_fan_in():
    model = Decoder(DEVICE.model_copy(update={"num_layers": 1, "hidden_size": 128}))
    initialize(model, seed=1)
    for name, array in named_parameters(model).items():
        assert array.dtype == mx.float32
        if array.ndim == 1:
            assert mx.all(array == 1).item(), name
            continue
        values = np.array(array, dtype=np.float64)  # a float32 sum of millions is off by percents
        fan_in = array.shape[1]
        # The spread of n numbers is known to about 1 / sqrt(2 n); five times that is a miss.
        slack = 5 / math.sqrt(2 * array.size)
        assert values.std() * math.sqrt(fan_in) == pytest.approx(1, abs=slack), name
        assert abs(values.mean()) * math.sqrt(fan_in) < 5 / math.sqrt(array.size), name


def test_initial_weights_depend_on_the_seed_and_on_the_name_only():
    small = Decoder(DEVICE.model_copy(update={"num_layers": 1, "hidden_size": 64}))
    large = Decoder(small.shape.model_copy(update={"num_layers": 3, "tied": False}))
    initialize(small, seed=1)
    initialize(large, seed=1)
    for name, array in named_parameters(small).items():
        assert mx.array_equal(array, named_parameters(large)[name]), name
    first = mx.array(small.layers[0].mlp.up_proj.weight)
    assert not mx.array_equal(first, small.layers[0].mlp.gate_proj.weight)
    initialize(small, seed=2)
    assert not mx.array_equal(first, small.layers[0].mlp.up_proj.weight)


def test_rotation_tables_are_no_parameters(make: Make):
    scaling = Llama3Rope(factor=2, low_freq_factor=1, high_freq_factor=4, original_max_tokens=16)
    assert set(named_parameters(make(rope_scaling=scaling))) == set(named_parameters(make()))


def test_bfloat16_weights_give_bfloat16_states(make: Make, tokens: mx.array):
    model = make()
    exact = model.hidden(tokens)
    model.set_dtype(mx.bfloat16)
    states = model.hidden(tokens)
    assert states.dtype == mx.bfloat16
    assert gap(states, exact) < 0.2  # 8 bits of mantissa, states of size 1 to 4
