"""A model that is cut among ranks computes what it computes whole."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.lora import add_lora, load_lora, lora_arrays, remove_lora
from afm_mlx.decoder.palette_format import format_of_model
from afm_mlx.decoder.tensor_parallel import checked_part, cut, cut_axis, cut_decoder
from afm_mlx.errors import ModelError
from afm_mlx.ranks import Ranks

from ..local_ranks import on_ranks

WIDE = {"num_heads": 8, "num_kv_heads": 4, "intermediate_size": 128}
"""Changes to the tiny shape, so that it divides among four."""

KINDS = {
    "dense": {},
    "untied": {"tied": False},
    "without QK-norm": {"qk_norm": False},
    "palettized": {},
    "low-rank": {},
    "low-rank on palettized": {"tied": False},
}


def ids() -> mx.array:
    return mx.random.randint(0, 64, (2, 40), key=mx.random.key(3))


def factors(model: Decoder) -> dict[str, mx.array]:
    """Low-rank factors for a model, none of which is zero."""
    add_lora(model, rank=4, scale=2.0, seed=1)
    arrays = {
        name: 0.2 * mx.random.normal(array.shape, key=mx.random.key(number))
        for number, (name, array) in enumerate(lora_arrays(model).items())
    }
    remove_lora(model)
    return arrays


def logits_and_gradients(model: Decoder) -> dict[str, mx.array]:
    """Logits of some tokens, and the gradients of all that is trained, by name."""

    def loss(weights: dict) -> tuple[mx.array, mx.array]:
        model.update(weights)
        logits = model(ids())
        return (logits * mx.cos(mx.arange(logits.size).reshape(logits.shape))).sum(), logits

    (_, logits), gradients = mx.value_and_grad(loss)(model.trainable_parameters())
    return {"model.logits": logits, **tree_flatten(gradients, destination={})}


def differences(ranks: Ranks, folder: str) -> dict[str, dict[str, float]]:
    """Largest difference from what was saved, by kind and tensor; each rank looks at its part."""
    found = {}
    for kind in KINDS:
        part = open_checkpoint(Path(folder) / kind, ranks=ranks)
        if "low-rank" in kind:
            whole = factors(open_checkpoint(Path(folder) / kind))
            part.freeze()
            load_lora(part, {name: cut(name, whole[name], ranks) for name in whole}, scale=2.0)
        expected = mx.load(str(Path(folder) / f"{kind}.safetensors"))
        partial = (".lora_a", ".lora_b")  # of layers where only the other factor is cut
        found[kind] = {}
        for name, array in logits_and_gradients(part).items():
            wanted = cut(name, expected[name], ranks)
            if cut_axis(name) is None and name.endswith(partial):
                array = mx.distributed.all_sum(array, group=ranks.group)
            found[kind][name] = (mx.abs(array - wanted).max() / mx.abs(wanted).max()).item()
    return found


@pytest.fixture
def kinds(make, palettize, tmp_path) -> Path:
    """A folder with models of all kinds, and what they compute whole."""
    for kind, changes in KINDS.items():
        model = make(**WIDE, **changes)
        if "palettized" in kind:
            palettize(model)
        save_checkpoint(tmp_path / kind, model, None)
        if "low-rank" in kind:
            whole = factors(model)
            model.freeze()
            load_lora(model, whole, scale=2.0)
        mx.save_safetensors(str(tmp_path / f"{kind}.safetensors"), logits_and_gradients(model))
    return tmp_path


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_cut_model_gives_the_logits_and_gradients_of_the_whole_one(kinds, size):
    for found in on_ranks(size, differences, kinds):
        assert list(found) == list(KINDS)
        for kind, each in found.items():
            assert each.pop("model.logits") < 1e-5, kind
            assert each, kind
            assert max(each.values()) < 1e-4, kind


def test_each_rank_holds_its_part_of_the_layers_and_all_of_the_rest(make):
    model = make(**WIDE)
    parts = [cut_decoder(model, Ranks(rank, 4)) for rank in range(4)]
    assert parts[0].shape.num_heads == 2
    assert parts[0].shape.intermediate_size == 32
    for name, whole in named_parameters(model).items():
        own = [named_parameters(part)[name] for part in parts]
        axis = cut_axis(name)
        if axis is None:
            assert all(mx.array_equal(each, whole) for each in own)
        else:
            assert mx.array_equal(mx.concatenate(own, axis=axis), whole)


def test_a_cut_of_a_folder_is_the_cut_of_its_model(make, palettize, tmp_path):
    model = palettize(make(**WIDE))
    save_checkpoint(tmp_path / "model", model, None)
    ranks = Ranks(1, 2)
    opened, made = open_checkpoint(tmp_path / "model", ranks=ranks), cut_decoder(model, ranks)
    assert opened.shape == made.shape
    assert format_of_model(opened) == format_of_model(model)
    assert named_parameters(opened).keys() == named_parameters(made).keys()
    for name, array in named_parameters(opened).items():
        assert mx.array_equal(array, named_parameters(made)[name]), name


@pytest.mark.parametrize(
    ("changes", "size", "message", "hint"),
    [
        (
            {"num_heads": 9, "num_kv_heads": 3, "intermediate_size": 96},
            2,
            "9 heads do not divide among 2 machines",
            "this model can be cut in 3",
        ),
        (WIDE, 8, "4 key/value heads do not divide among 8 machines", "can be cut in 2, 4"),
        (
            {**WIDE, "intermediate_size": 122},
            4,
            "122 feed-forward units do not divide among 4 machines",
            "this model can be cut in 2",
        ),
        ({"num_heads": 1, "num_kv_heads": 1}, 2, "1 heads", "each machine must hold all of it"),
    ],
)
def test_a_model_that_does_not_divide_is_refused_with_the_numbers(
    make, changes, size, message, hint
):
    with pytest.raises(ModelError, match=message) as caught:
        cut_decoder(make(**changes), Ranks(0, size))
    assert hint in caught.value.hint


def test_tables_that_two_ranks_would_share_are_refused(make, palettize):
    model = palettize(make(**WIDE | {"intermediate_size": 96}), bits=4)
    with pytest.raises(ModelError, match="24 rows for each machine are not whole tables of 16"):
        checked_part(model.shape, 4, format_of_model(model))


def test_words_of_ids_that_two_ranks_would_share_are_refused(make, palettize):
    model = palettize(make(**WIDE | {"intermediate_size": 72}), bits=4, group_rows=4)
    with pytest.raises(ModelError, match="36 columns for each machine are not whole words of 8"):
        checked_part(model.shape, 2, format_of_model(model))
