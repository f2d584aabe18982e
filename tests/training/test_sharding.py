import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.ranks import Ranks
from afm_mlx.settings.sections import Optimizer, Training
from afm_mlx.training.optimizer import UpdateRule
from afm_mlx.training.sharding import Layout, fully_sharded, layout_of
from tests.training.on_ranks import SHAPE


@pytest.fixture
def model():
    # MLX lets small slices share the memory of the array they are of.
    model = Decoder(SHAPE.model_copy(update={"hidden_size": 256, "intermediate_size": 512}))
    initialize(model, 0)
    return model


def test_an_array_is_cut_along_its_first_axis_that_divides():
    shapes = {"both": (4, 6), "second": (3, 6), "none": (3, 5), "scalar": (), "gain": (8,)}
    arrays = [(name, mx.zeros(shape)) for name, shape in shapes.items()]
    assert fully_sharded(arrays, 2) == {"both": 0, "second": 1, "gain": 0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_of_all_ranks_make_the_whole_array(axis):
    whole = mx.arange(4 * 6 * 8).reshape(4, 6, 8)
    parts = [Layout(Ranks(rank, 2), {"a": axis}).part_of("a", whole) for rank in (0, 1)]
    assert mx.array_equal(mx.concatenate(parts, axis=axis), whole)


def test_an_array_of_the_rule_is_cut_as_its_weight():
    layout = Layout(Ranks(0, 2), {"layers.0.weight": 1})
    assert layout.axis("layers.0.weight") == 1
    assert layout.axis("rule.momentum.layers.0.weight") == 1
    assert layout.axis("rule.step") is None
    assert layout.axis("weight") is None


def test_a_part_does_not_keep_the_whole_array_in_memory():
    layout = Layout(Ranks(1, 4), {"a": 0})
    whole = mx.random.normal((1024, 256))
    mx.eval(whole)
    before = mx.get_active_memory()
    part = layout.part_of("a", whole)
    mx.eval(part)
    del whole
    assert mx.get_active_memory() - before == pytest.approx(-3 / 4 * 2**20, abs=2**14)


def test_a_model_gives_up_its_whole_weights(model):
    mx.eval(model.parameters())
    whole = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    axes = fully_sharded(tree_flatten(model.trainable_parameters()), 2)
    before = mx.get_active_memory()
    parts = Layout(Ranks(1, 2), axes).take(model)
    assert sum(array.nbytes for _, array in tree_flatten(parts)) == whole / 2
    assert mx.get_active_memory() - before == pytest.approx(-whole / 2, rel=0.1)


def test_state_of_the_rule_is_as_small_as_the_parts(model):
    layout = Layout(Ranks(0, 2), fully_sharded(tree_flatten(model.trainable_parameters()), 2))
    state = UpdateRule(Optimizer(), hidden_size=256).init(layout.take(model))
    sizes = {path: array.size for path, array in tree_flatten(state["momentum"])}
    assert sizes["model.layers.0.mlp.up_proj.weight"] == 512 * 256 / 2


def test_one_process_has_everything(model):
    layout = layout_of(model, Training(shard="full"))
    assert (layout.ranks.size, layout.axes) == (1, {})
    weights = model.trainable_parameters()
    assert layout.take(model) == layout.whole(weights) == weights


def test_block_whose_weights_were_changed_is_not_made_of_its_parts(model):
    """As masks of pruning change them: what was told of the weights must not be used then."""
    from afm_mlx.decoder.decoder import Source

    block = model.layers[0]
    flat = dict(tree_flatten(block.trainable_parameters()))
    block._source = Source(flat, [], lambda parts: {})
    assert Source.of(block) is block._source
    block.mlp.down_proj.weight = 2 * block.mlp.down_proj.weight
    assert Source.of(block) is not block._source
    assert len(Source.of(block).parts) == len(flat)
