"""Prompts, answers, and a model that can judge them."""

from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.evaluation.answers import AnswerFile, Written
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.inference.engine import Engine


@pytest.fixture
def prompts():
    """Eight prompts, of both kinds."""
    kinds = ("summarization", "writing")
    return [Prompt(f"p{n}", kinds[n % 2], f"Write about {n}.", f"Of {n}.") for n in range(8)]


@pytest.fixture
def answers(prompts):
    """Function: what a model wrote to all prompts, by their number."""

    def write_all(model, write, count=8):
        written = {
            prompt.id: Written(prompt.id, prompt.prompt, model, write(n))
            for n, prompt in enumerate(prompts[:count])
        }
        return AnswerFile(Path(f"{model}.jsonl"), model, {}, written)

    return write_all


@pytest.fixture(scope="session")
def long_engine(small_chat_model, tmp_path_factory):
    """A tiny random chat model with room for a judge's prompt."""
    lines = ["The cat sat on the mat. A house on the hill.\n"] * 20
    folder = tmp_path_factory.mktemp("models") / "tiny"
    small_chat_model(folder, lines=lines, num_layers=1, max_tokens=8_192)
    return Engine.open(folder, dtype=mx.float32)
