"""Which steps read texts and which conversations; each step is a function of its number."""

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.shards import write_shards
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.lora import add_lora
from afm_mlx.settings.palette import LessonOrder
from afm_mlx.settings.sections import Shape
from afm_mlx.text.conversations import Rendered
from afm_mlx.training.examples import Examples
from afm_mlx.training.lessons import Lessons
from afm_mlx.training.objectives import next_token_loss
from afm_mlx.training.texts import TrainingTexts


@pytest.fixture(scope="module")
def texts(small_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lessons")
    lines = [f"The cat sat on mat {i}. What is on the hill? A house.\n" for i in range(40)]
    tokenizer = small_tokenizer(lines, folder / "tokenizer")
    documents = [Document(text, "poems", str(i)) for i, text in enumerate(lines)]
    write_shards(documents, tokenizer, folder / "poems", held_out_fraction=0.0)
    return TrainingTexts(folder, {"poems": 1.0}, tokenizer, row_tokens=16, rows_per_step=2, seed=0)


CHATS = {"chats": Examples.of(Rendered([7, 8, 9, i], [False, False, True, True]) for i in range(9))}


def lessons(texts, conversations, **changes):
    settings = {"steps": 10, "conversation_fraction": 0.3, "row_tokens": 16, "rows_per_step": 2}
    settings |= {"eos_id": 1, "document_mask": False, "seed": 0, "order": LessonOrder.TEXTS_FIRST}
    settings |= changes
    return Lessons(texts, conversations, {"chats": 1.0}, **settings)


def test_the_last_share_of_the_steps_reads_conversations(texts):
    found = lessons(texts, CHATS)
    assert found.text_steps == 7
    seventh, eighth = found.step(7), found.step(8)
    assert np.array_equal(seventh.targets, texts.targets(7))
    assert seventh.weights.all()
    assert not eighth.weights.all()
    assert eighth.documents is not None


def test_mixed_steps_read_both_by_turns_and_the_same_rows_as_otherwise(texts):
    mixed, apart = lessons(texts, CHATS, order=LessonOrder.MIXED), lessons(texts, CHATS)
    steps = [mixed.step(number) for number in range(1, 11)]
    told = [number for number, step in enumerate(steps, start=1) if not step.weights.all()]
    assert told == [4, 7, 10]
    for name, first in (("texts", 1), ("conversations", 8)):
        chosen = [step for step in steps if step.weights.all() == (name == "texts")]
        for place, step in enumerate(chosen):
            assert np.array_equal(step.targets, apart.step(first + place).targets)


def test_a_step_predicts_each_token_from_those_before_it(texts):
    found = lessons(texts, {}).step(1)
    assert np.array_equal(found.inputs[:, 1:], found.targets[:, :-1])
    assert (found.inputs[:, 0] == 1).all()
    assert found.documents is None
    assert lessons(texts, {}, document_mask=True).step(1).documents is not None


def test_one_kind_alone_fills_all_steps(texts):
    assert lessons(texts, {}).text_steps == 10
    alone = lessons(None, CHATS)
    assert alone.text_steps == 0
    # Nine examples of 4 tokens are 3 rows, so ten steps of 2 rows read them again and again.
    assert alone.step(10).weights.sum() > 0
    assert np.array_equal(alone.step(10).inputs, lessons(None, CHATS).step(10).inputs)


def test_behind_the_last_step_conversations_begin_anew():
    # Inputs may be measured on more rows than a short training has.
    found = lessons(None, CHATS, steps=2)
    for number in (1, 2, 3, 4):
        assert found.step(number).weights.any(), number
    assert np.array_equal(found.step(3).inputs, found.step(1).inputs)


def products(model):
    """Matrix products in the gradient of what `model` trains."""
    tokens = mx.array([[3, 1, 4, 1, 5, 9]])

    def loss(params):
        model.update(params)
        total, _ = next_token_loss(
            model,
            tokens,
            tokens,
            mx.ones(tokens.shape),
            mask="causal",
            z_loss=0.0,
            chunk_bytes=2**24,
            train_weight=False,
        )
        return total

    gradients = mx.grad(loss)(model.trainable_parameters())
    return len(mx_graph(gradients).split("Matmul")) - 1


def mx_graph(tree):
    import io

    from mlx.utils import tree_flatten

    stream = io.StringIO()
    mx.export_to_dot(stream, *(array for _, array in tree_flatten(tree)))
    return stream.getvalue()


def test_frozen_weights_have_no_gradients():
    shape = Shape(
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=24,
        vocab_size=40,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=64,
    )
    model = Decoder(shape)
    initialize(model, 0)
    add_lora(model, rank=4, scale=1.0, seed=0)
    frozen = products(model)
    for layer in model.layers:
        for part in (layer.self_attn.q_proj, layer.mlp.down_proj):
            part.linear.unfreeze()
    # Four weights more that are trained: a product more for each.
    assert products(model) == frozen + 4
