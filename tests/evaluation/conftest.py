"""Stand-ins for a model, whose replies are known, and a tiny random chat model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.evaluation.items import Answer, Likelihood, Refusal
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress

TEXTS = [
    "The cat sat on the mat, and the dog looked at the cat.\n",
    "A house on the hill; a hill in the land. What is it? It is a house. Answer: 42.\n",
]


def one_per_character(text: str) -> Likelihood:
    return Likelihood(-1.0 * len(text), len(text))


@dataclass
class Stub:
    """Replies as told: takes an option by its place, writes a text; None is a refusal."""

    chooses: Callable = lambda choice: 0
    writes: Callable = lambda question: ""
    reads: Callable = lambda passage: one_per_character(passage.text)
    name: str = "stub"
    facts: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    """Keys of all items that were asked, in order."""

    def choose(self, choices):
        for place, choice in enumerate(choices):
            self.asked.append(choice.key)
            took = self.chooses(choice)
            if took is None:
                yield place, Refusal("not asked")
            else:
                options = range(len(choice.options))
                yield place, [Likelihood(-1.0 if each == took else -9.0, 1) for each in options]

    def read(self, passages):
        for place, passage in enumerate(passages):
            self.asked.append(passage.key)
            yield place, self.reads(passage) or Refusal("not asked")

    def answer(self, questions):
        for place, question in enumerate(questions):
            self.asked.append(question.key)
            text = self.writes(question)
            yield place, Refusal("not asked") if text is None else Answer(text, "stop", len(text))


@pytest.fixture
def quiet(tmp_path):
    """Progress that nobody reads."""
    with (tmp_path / "log").open("w") as stream:
        yield Progress(stream)


@pytest.fixture
def stub():
    """Class of stand-ins."""
    return Stub


@pytest.fixture
def always_a():
    """Takes the first option, and answers A."""
    return Stub(writes=lambda question: "A")


@pytest.fixture
def always_right():
    """Function: who takes the right option, and writes what `writes` makes of a question."""
    return lambda writes=lambda question: "": Stub(
        chooses=lambda choice: choice.right, writes=writes
    )


@pytest.fixture
def never_replies():
    """Refuses all items."""
    nothing = lambda item: None  # noqa: E731
    return Stub(chooses=nothing, writes=nothing, reads=nothing)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, small_chat_model) -> Path:
    """A tiny random chat model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return small_chat_model(folder, lines=TEXTS * 20, max_tokens=512)


@pytest.fixture
def engine(model_folder) -> Engine:
    return Engine.open(model_folder, dtype=mx.float32)
