"""Likelihoods: fast ways of reading give what one plain pass over each option gives."""

import math

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder.adapters import AdapterFacts, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    int8_rows,
    linears,
    replace_linears,
)
from afm_mlx.evaluation import likelihood
from afm_mlx.evaluation.items import Choice, Option, Passage, Refusal
from afm_mlx.evaluation.likelihood import (
    likelihoods_of_choices,
    likelihoods_of_passages,
    token_pair,
)
from afm_mlx.evaluation.reading import Reader
from afm_mlx.evaluation.subject import TOO_LONG, ModelSubject
from afm_mlx.inference.engine import Engine

SHOTS = "The cat sat on the mat. What is it? Answer: a house. " * 6
WORDS = [" a cat", " the dog looked", " A", " it", " on the hill; a hill in the land"]


def plain(engine, option):
    """One pass over the whole text, all logits, softmax in float64."""
    context, continuation = token_pair(engine.tokenizer, option)
    ids = [*context, *continuation]
    return of_ids(engine, ids, len(context))


def of_ids(engine, ids, start):
    logits = np.array(engine.model(mx.array([ids[:-1]]))[0].astype(mx.float32)).astype(np.float64)
    logits = logits[start - 1 :]
    tokens = np.array(ids[start:])
    top = logits.max(-1)
    logps = logits[np.arange(len(tokens)), tokens] - top
    logps -= np.log(np.exp(logits - top[:, None]).sum(-1))
    return float(logps.sum()), len(tokens), bool((logits.argmax(-1) == tokens).all())


def assert_plain(engine, choices, found):
    assert sorted(found) == list(range(len(choices)))
    for place, choice in enumerate(choices):
        for option, got in zip(choice.options, found[place], strict=True):
            nats, tokens, greedy = plain(engine, option)
            assert got.nats == pytest.approx(nats, abs=2e-4)
            assert (got.tokens, got.greedy) == (tokens, greedy)


def asked(shots, count=12, words=WORDS):
    """Questions of many lengths, whose options are words."""
    return [
        Choice(
            f"q{n}", tuple(Option(f"{shots}{'A house. ' * (n % 7)}Say {n}:", w) for w in words), 0
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("shots", ["", SHOTS])
@pytest.mark.parametrize("words", [WORDS, [" A", " B"]])
def test_together_as_alone(engine, shots, words):
    choices = asked(shots, words=words)
    assert_plain(engine, choices, dict(likelihoods_of_choices(engine, choices)))


def test_different_examples_in_one_window(engine):
    other = "The dog looked at the cat, and the cat looked at the dog. " * 5
    choices = [choice for pair in zip(asked(SHOTS), asked(other), strict=True) for choice in pair]
    choices += asked("", 3)
    assert_plain(engine, choices, dict(likelihoods_of_choices(engine, choices)))


def test_examples_are_read_once(engine, monkeypatch):
    read = []
    plain_read = likelihood.Reader.read

    def counted(self, rows, past, **rest):
        read.append(sum(map(len, rows)))
        return plain_read(self, rows, past, **rest)

    monkeypatch.setattr(likelihood.Reader, "read", counted)
    monkeypatch.setattr(likelihood, "WINDOW", 5)  # shared tokens outlive a window
    choices = asked(SHOTS, words=[" A"])
    found = dict(likelihoods_of_choices(engine, choices))
    alone = sum(len(token_pair(engine.tokenizer, choice.options[0])[0]) for choice in choices)
    shared = len(token_pair(engine.tokenizer, Option(SHOTS, " A"))[0])
    assert sum(read) <= alone - (len(choices) - 1) * (shared - 2)
    assert_plain(engine, choices, found)


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([9, 100, 10, 8], [[8, 9, 10], [100]]),
        ([100, 101, 102], [[100, 101, 102]]),
        ([5, 5, 20, 60, 60], [[5, 5], [20], [60, 60]]),
        ([1_500, 1_500, 9_000], [[1_500], [1_500], [9_000]]),
    ],
)
def test_batches_are_of_about_equal_length(engine, lengths, batches):
    assert list(Reader(engine).batches(lengths, lambda length: length, 0)) == batches


def test_options_may_have_contexts_of_their_own(engine):
    choices = [
        Choice(
            "w", (Option("The cat", " sat on the mat."), Option("A hill", " sat on the mat.")), 0
        ),
        Choice("x", (Option("The dog", " looked"), Option("The dog", " A")), 0),
    ]
    assert_plain(engine, choices, dict(likelihoods_of_choices(engine, choices)))


def test_spaces_at_a_contexts_end_belong_to_the_continuation(engine):
    assert token_pair(engine.tokenizer, Option("The cat ", "sat")) == token_pair(
        engine.tokenizer, Option("The cat", " sat")
    )


def test_an_empty_context_is_the_beginning_of_a_text(engine):
    choice = Choice("e", (Option("", "The cat"), Option("", "A hill")), 0)
    [(_, found)] = likelihoods_of_choices(engine, [choice])
    ids = engine.tokenizer.encode("The cat")
    nats, tokens, _ = of_ids(engine, [engine.tokenizer.eos_id, *ids], 1)
    assert (found[0].nats, found[0].tokens) == (pytest.approx(nats, abs=2e-4), tokens)


def test_what_does_not_fit_is_refused_and_the_rest_read(engine):
    limit = engine.context_tokens
    fits = "cat " * limit
    while sum(map(len, token_pair(engine.tokenizer, Option(fits, "A")))) > limit + 1:
        fits = fits[4:]
    choices = [
        Choice("long", (Option(f"cat {fits}", "A"),), 0),
        Choice("most", (Option(fits, "A"),), 0),
        Choice("none", (Option("The cat", ""),), 0),
        Choice("short", (Option("The cat", " A"),), 0),
    ]
    found = dict(likelihoods_of_choices(engine, choices))
    assert found[0] == Refusal(TOO_LONG)
    assert found[2] == Refusal(likelihood.EMPTY)
    assert_plain(engine, [choices[1]], {0: found[1]})
    assert_plain(engine, [choices[3]], {0: found[3]})


def test_little_memory_reads_piece_by_piece_and_the_same(engine, monkeypatch):
    monkeypatch.setattr(
        likelihood.Reader, "fits", lambda self, rows, tokens, past: rows * tokens <= 8
    )
    choices = asked(SHOTS, 4) + asked("", 2, ["The cat sat on the mat, and the dog looked. " * 2])
    assert_plain(engine, choices, dict(likelihoods_of_choices(engine, choices)))


def test_an_adapter_in_use_counts(engine, tmp_path):
    model = open_checkpoint(engine.folder)
    add_lora(model, rank=2, scale=2.0, seed=1)
    arrays = {name: mx.full(array.shape, 0.1) for name, array in lora_arrays(model).items()}
    facts = AdapterFacts("mine", base_hash(engine.folder), "tiny", 2, 4.0, chat=True)
    write_adapter(tmp_path / "mine", arrays, facts, dense=True)
    choices = asked(SHOTS, 3)
    without = dict(likelihoods_of_choices(engine, choices))
    engine.use_adapter(engine.adapters.add(tmp_path / "mine"))
    found = dict(likelihoods_of_choices(engine, choices))
    assert_plain(engine, choices, found)
    assert abs(found[0][0].nats - without[0][0].nats) > 1e-3


def test_a_rounded_model_is_read_as_it_is(engine):
    embedding = engine.model.model.embed_tokens
    layers = {
        name: Int8Linear(*int8_rows(layer.weight)) for name, layer in linears(engine.model).items()
    }
    layers["model.embed_tokens"] = Int8Embedding(*int8_rows(embedding.weight))
    replace_linears(engine.model, layers)
    choices = asked(SHOTS, 3)
    assert_plain(engine, choices, dict(likelihoods_of_choices(engine, choices)))


def test_in_bfloat16_it_is_about_the_same(engine, model_folder):
    choices = asked(SHOTS, 3)
    exact = dict(likelihoods_of_choices(engine, choices))
    short = Engine.open(model_folder, dtype=mx.bfloat16)
    for place, found in likelihoods_of_choices(short, choices):
        for got, wanted in zip(found, exact[place], strict=True):
            assert got.nats == pytest.approx(wanted.nats, rel=0.02)
            assert got.nats != wanted.nats


def test_replies_come_as_they_are_known(engine):
    choices = asked(SHOTS, 40)
    replies = ModelSubject(engine, "tiny").choose(choices)
    first = [next(replies)[0] for _ in range(3)]
    assert len({*first, *(place for place, _ in replies)}) == 40


def test_passages_together_as_alone(engine):
    texts = ["The cat sat on the mat.", "A", "It is a house. " * 9, "", "Answer: 42."]
    passages = [Passage(f"p{n}", text) for n, text in enumerate(texts)]
    found = dict(likelihoods_of_passages(engine, passages))
    eos = engine.tokenizer.eos_id
    for place, text in enumerate(texts):
        ids = [eos, *engine.tokenizer.encode(text)]
        if len(ids) == 1:
            assert (found[place].nats, found[place].tokens) == (0.0, 0)
            continue
        nats, tokens, greedy = of_ids(engine, ids, 1)
        assert found[place].nats == pytest.approx(nats, abs=2e-3)
        assert (found[place].tokens, found[place].greedy) == (tokens, greedy)


@pytest.mark.parametrize("together", [2_048, 100])
def test_long_passages_are_read_in_windows(engine, monkeypatch, together):
    fits = lambda self, rows, tokens, past: rows * tokens <= together  # noqa: E731
    monkeypatch.setattr(likelihood.Reader, "fits", fits)
    limit = engine.context_tokens
    text = "The cat sat on the mat, and the dog looked at the cat. " * 40
    ids = [engine.tokenizer.eos_id, *engine.tokenizer.encode(text)]
    assert 2 * limit < len(ids) - 1 < 3 * limit
    [(_, found)] = likelihoods_of_passages(engine, [Passage("p", text)])
    # Whole windows, then one that ends with the text and is as long; it predicts only what is left.
    parts = [of_ids(engine, ids[: limit + 1], 1), of_ids(engine, ids[limit : 2 * limit + 1], 1)]
    last = ids[-limit - 1 :]
    parts.append(of_ids(engine, last, len(last) - (len(ids) - 1 - 2 * limit)))
    assert found.tokens == len(ids) - 1 == sum(tokens for _, tokens, _ in parts)
    assert found.nats == pytest.approx(sum(nats for nats, _, _ in parts), rel=1e-5)
    assert math.isfinite(found.nats)
