"""Names of models."""

import pytest

from afm_mlx.inference.server.names import Names
from afm_mlx.inference.server.problems import Problem


def test_the_base_stands_for_the_adapter_that_its_folder_wants():
    names = Names("m", ["recovery", "mail"], default="recovery")
    assert names.all == ["m", "m:recovery", "m:mail", "m:none"]
    assert [names.adapter(name) for name in (None, *names.all)] == [
        "recovery",
        "recovery",
        "recovery",
        "mail",
        None,
    ]


def test_without_such_an_adapter_the_base_is_the_model_as_it_is():
    names = Names("Qwen/Qwen3-0.6B", ["mail"])
    assert names.adapter("Qwen/Qwen3-0.6B") is None
    with pytest.raises(Problem, match=r"did you mean 'Qwen/Qwen3-0\.6B:mail'") as caught:
        names.adapter("Qwen/Qwen3-0.6B:mial")
    assert caught.value.status == 404
