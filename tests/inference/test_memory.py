import pytest

from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import FitError
from afm_mlx.inference.memory import Budget, default_budget, shown, token_bytes, weight_bytes

MB = 10**6


def test_a_token_takes_a_key_and_a_value_of_every_head_in_every_layer(engine, tiny):
    per_token, number_bytes = token_bytes(engine.model)
    assert number_bytes == 4
    assert per_token == 2 * tiny.num_layers * tiny.num_kv_heads * tiny.head_dim * 4


def test_weights_are_counted_once(engine, tiny):
    assert weight_bytes(engine.model) == weight_bytes(Decoder(tiny)) > 4 * 384 * 32


def test_answers_together_take_as_much_as_the_longest_each_and_one_more():
    budget = Budget(total=100 * MB, fixed=0, per_token=1_000, per_past=10)
    assert budget.together([]) == 0
    assert budget.together([100]) == (100 + 256) * (2 * 1_000 + 10)
    assert budget.together([100, 4]) == budget.together([100, 100])


def test_the_most_tokens_that_fit_do_fit_and_one_more_does_not():
    budget = Budget(total=100 * MB, fixed=40 * MB, per_token=1_234, per_past=56)
    budget.check(budget.most_tokens - 5, 5)
    with pytest.raises(FitError):
        budget.check(budget.most_tokens - 5, 6)


def test_a_refusal_says_what_is_needed_what_is_there_and_what_would_do():
    budget = Budget(total=3 * 10**9, fixed=2_999 * MB, per_token=1_000, per_past=0)
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
