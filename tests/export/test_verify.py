from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.errors import ExportError
from afm_mlx.export.in_mlx import MlxRuntime
from afm_mlx.export.verify import Prompt, Thresholds, table, verify

from .conftest import random_model

EXACT = Thresholds(cosine=1 - 1e-9, error=0.0, agreement=1.0, tie=0.0)
PROMPTS = [Prompt("one", "", (3, 4, 5), True), Prompt("two", "", tuple(range(60)), True)]


@dataclass
class Changed:
    """A model in MLX whose logits are changed on their way."""

    inner: MlxRuntime
    change: object
    ids: object = None
    context_tokens: int | None = None
    name: str = "changed"
    is_stand_in: bool = False

    def prompt_ids(self, text, *, chats):
        return self.ids

    def reset(self):
        self.inner.reset()

    def prefill(self, ids):
        return self.change(self.inner.prefill(ids))

    def step(self, token):
        return self.change(self.inner.step(token))


@pytest.fixture
def model():
    return random_model()


@pytest.fixture
def changed(model):
    def make(change, **more):
        return Changed(MlxRuntime(model, "itself", is_stand_in=False), change, **more)

    return make


def test_a_model_is_itself(model):
    runtime = MlxRuntime(model, "itself", is_stand_in=True)
    found = verify(model, runtime, PROMPTS, steps=5, thresholds=EXACT)
    assert (found.runtime, found.is_stand_in, found.failures) == ("itself", True, ())
    assert [(one.tokens, one.steps, one.same) for one in found.prompts] == [(3, 6, 6), (48, 6, 6)]
    assert (found.all.steps, found.all.max_error, found.all.cosine) == (12, 0.0, pytest.approx(1))


def test_prompt_and_steps_are_cut_to_what_there_is_room_for(model, changed):
    runtime = changed(lambda logits: logits, context_tokens=20)
    found = verify(model, runtime, PROMPTS[1:], steps=64, thresholds=EXACT)
    assert (found.all.tokens, found.all.steps) == (10, 11)


def test_a_constant_is_an_error_of_a_logit_and_none_of_direction(model, changed):
    runtime = changed(lambda logits: logits + np.float32(2))
    found = verify(model, runtime, PROMPTS[:1], steps=2, thresholds=EXACT)
    assert found.all.max_error == pytest.approx(2, abs=1e-5)
    assert found.all.cosine == pytest.approx(1)
    assert found.all.same == 3
    assert len(found.failures) == 1
    assert "a logit is off by" in found.failures[0]


@pytest.mark.parametrize(
    ("change", "cosine"), [(np.negative, -1.0), (lambda x: x * np.nan, 0.0), (np.zeros_like, 0.0)]
)
def test_what_is_wrong_fails_by_its_figures(model, changed, change, cosine):
    found = verify(model, changed(change), PROMPTS[:1], steps=2, thresholds=EXACT)
    assert found.all.cosine == pytest.approx(cosine)
    assert found.all.same == 0
    assert len(found.failures) == 3


def test_a_swap_of_two_tokens_is_a_tie_only_where_their_logits_are_near(model, changed):
    def swap(logits):
        second, first = np.argsort(logits)[-2:]
        logits[[first, second]] = logits[[second, first]]
        return logits

    loose = Thresholds(cosine=0.0, error=9.0, agreement=1.0, tie=9.0)
    strict = Thresholds(cosine=0.0, error=9.0, agreement=1.0, tie=0.0)
    found = verify(model, changed(swap), PROMPTS[:1], steps=2, thresholds=loose)
    assert (found.all.same, found.all.ties, found.failures) == (0, 3, ())
    found = verify(model, changed(swap), PROMPTS[:1], steps=2, thresholds=strict)
    assert (found.all.same, found.all.ties, len(found.failures)) == (0, 0, 1)


def test_one_bad_step_is_enough(model, changed):
    steps = iter(range(99))
    runtime = changed(lambda logits: logits * (1 if next(steps) != 3 else -1))
    found = verify(model, runtime, PROMPTS[:1], steps=5, thresholds=EXACT)
    assert (found.all.same, found.all.steps) == (5, 6)
    assert found.all.cosine == pytest.approx(-1)


def test_another_tokenizer_fails_whatever_the_logits(model, changed):
    runtime = changed(lambda logits: logits, ids=[3, 4, 5])
    found = verify(model, runtime, PROMPTS, steps=1, thresholds=EXACT)
    assert [one.same_ids for one in found.prompts] == [True, False]
    assert found.failures == ("its tokenizer makes other prompts (two)",)
    assert table(found).splitlines()[2].endswith("other")


def test_another_vocabulary_is_no_export_of_the_model(model, changed):
    with pytest.raises(ExportError, match="gives 327 logits, the model 328"):
        verify(model, changed(lambda logits: logits[1:]), PROMPTS[:1], steps=1, thresholds=EXACT)


def test_a_model_that_is_broken_itself_is_said(model, changed):
    model.model.norm.weight = model.model.norm.weight * mx.inf
    with pytest.raises(ExportError, match="the model itself gives logits that are not finite"):
        verify(model, changed(lambda logits: logits), PROMPTS[:1], steps=1, thresholds=EXACT)


def test_the_table_has_a_line_for_each_prompt_and_one_for_all(model):
    runtime = MlxRuntime(model, "itself", is_stand_in=False)
    lines = table(verify(model, runtime, PROMPTS, steps=5, thresholds=EXACT)).splitlines()
    assert lines[0].split()[:3] == ["prompt", "tokens", "steps"]
    assert [line.split()[0] for line in lines[1:]] == ["one", "two", "all"]
    assert lines[-1].split()[1:] == [
        *["51", "12", "0.00e+00", "0.00e+00", "1.000000", "100.0%", "0", "-"]
    ]
