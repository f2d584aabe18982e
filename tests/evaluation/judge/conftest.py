"""Prompts, answers, and where progress goes."""

from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.evaluation.answers import AnswerFile, Written
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.settings.sections import Shape


@pytest.fixture
def quiet(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        yield Progress(stream)


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
def long_engine(small_tokenizer, tmp_path_factory):
    """A tiny random chat model with room for a judge's prompt."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(["The cat sat on the mat. A house on the hill.\n"] * 20, tokenizer)
    shape = Shape(
        num_layers=1,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        vocab_size=320,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=8_192,
    )
    model = Decoder(shape)
    initialize(model, seed=3)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(folder, model, tokenizer, facts={"stage": "sft"})
    return Engine.open(folder, dtype=mx.float32)
