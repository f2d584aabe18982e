import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compat import on_gpu
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import add_lora
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    int8_rows,
    linears,
    replace_linears,
)
from afm_mlx.errors import FitError
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.memory import CACHE_STEP, Budget, default_budget, shown, sizes_of
from afm_mlx.inference.steps import new_caches

MB = 10**6


def test_a_token_takes_a_key_and_a_value_of_every_head_in_every_layer(engine, tiny):
    sizes = sizes_of(engine.model)
    assert sizes.per_number == 4
    assert sizes.per_token == 2 * tiny.num_layers * tiny.num_kv_heads * tiny.head_dim * 4


def test_weights_are_all_arrays(tiny):
    sizes = sizes_of(Decoder(tiny))
    matrices = 384 * 32 + 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 64)
    norms = 2 * (2 * 32 + 2 * 8) + 32
    assert sizes.weights == 4 * (matrices + norms)


def test_an_adapter_in_use_is_not_counted_as_weights(tiny):
    model = Decoder(tiny)
    plain = sizes_of(model)
    add_lora(model, rank=4, scale=1.0, seed=0)
    assert sizes_of(model) == plain


@pytest.mark.parametrize("tied", [True, False])
def test_dense_copies_of_tables_are_counted_where_they_are_kept(tiny, tied):
    model = Decoder(tiny.model_copy(update={"tied": tied}))
    dense = sizes_of(model).weights
    embedding = Int8Embedding(*int8_rows(model.model.embed_tokens.weight))
    layers = {name: Int8Linear(*int8_rows(each.weight)) for name, each in linears(model).items()}
    replace_linears(model, {**layers, "model.embed_tokens": embedding})
    stored = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    norms = 4 * (2 * (2 * 32 + 2 * 8) + 32)
    # An embedding that is no output layer gives rows, and keeps no copy.
    copied = 0 if on_gpu() else dense - norms - (0 if tied else 4 * 384 * 32)
    assert sizes_of(model).weights == stored + copied


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_keys_take_what_they_are_said_to(varied, bits):
    caches = new_caches(varied.model)
    varied.model(mx.array([[1, 2, 3]]), cache=caches)
    rounded = [cache.to_quantized(group_size=32, bits=bits) for cache in caches]
    said = sizes_of(varied.model).rounded(bits, 32).per_token
    assert sum(cache.nbytes for cache in rounded) == said * CACHE_STEP


def test_a_model_and_its_draft_are_counted_together(varied, engine):
    both = [sizes_of(varied.model), sizes_of(engine.model)]
    budget = Budget.of(both, total=10**9, held=5, read_tokens=10, together=1)
    single = Budget.of(both[:1], total=10**9, held=5, read_tokens=10, together=1)
    assert budget.per_token == both[0].per_token + both[1].per_token
    assert budget.fixed == single.fixed + both[1].weights


def test_an_engine_refuses_what_does_not_fit_and_rounding_helps(varied, varied_folder):
    exact = Budget.of([varied.sizes], total=0, held=0, read_tokens=8, together=1)
    total = exact.fixed + exact.together([(8, 490)])
    engine = Engine.open(varied_folder, dtype=mx.float32, memory_gb=total / 1e9)
    with pytest.raises(FitError, match="are free beside the model"):
        list(engine.stream("What", max_tokens=1_000))
    assert len(list(engine.stream("What", max_tokens=5))) == 5
    assert next(engine.stream("What", max_tokens=1_000, kv_bits=4))
    with pytest.raises(FitError, match="the model alone needs"):
        list(Engine.open(varied_folder, memory_gb=1e-4).stream("What", max_tokens=1))


def test_answers_together_take_as_much_as_the_longest_each_and_one_more():
    budget = Budget(100 * MB, fixed=0, per_token=1_000, per_score=10, read_tokens=64)
    assert budget.together([]) == 0
    assert budget.together([(80, 20)]) == (100 + 256) * 2 * 1_000 + 10 * 64 * 80
    assert budget.together([(1, 99)]) == (100 + 256) * (2 * 1_000 + 10)
    assert budget.together([(1, 99), (1, 3)]) == budget.together([(1, 99), (1, 99)])


@pytest.mark.parametrize("prompt", [5, 500, 2_000])
def test_the_longest_answer_that_fits_does_fit_and_one_more_does_not(prompt):
    budget = Budget(100 * MB, fixed=40 * MB, per_token=1_234, per_score=56, read_tokens=512)
    most = budget.most_answer(prompt)
    budget.check(prompt, most)
    with pytest.raises(FitError):
        budget.check(prompt, most + 1)


def test_a_refusal_says_what_is_needed_what_is_there_and_what_would_do():
    budget = Budget(3 * 10**9, fixed=2_999 * MB, per_token=1_000, per_score=0, read_tokens=64)
    with pytest.raises(FitError) as refused:
        budget.check(100, 400)
    assert str(refused.value) == (
        "a prompt of 100 tokens and an answer of up to 400 need 1.5 MB, and 1.0 MB of the memory "
        "budget of 3.00 GB are free beside the model"
    )
    assert refused.value.hint == "max_tokens 144 or less"
    with pytest.raises(FitError) as refused:
        budget.check(300, 1)
    assert refused.value.hint == "a shorter prompt"


def test_sizes_are_shown_in_the_unit_that_fits():
    assert [shown(1.3e6), shown(12_345_678_901)] == ["1.3 MB", "12.35 GB"]


def test_without_a_budget_most_of_the_machine_is_left_alone():
    assert 10**8 < default_budget() < 10**13
