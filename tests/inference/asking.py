"""Asking a batcher: who waits for answers, and who keeps the model busy."""

import threading

from afm_mlx.errors import AfmError
from afm_mlx.inference.requests import Chunk, Sampling

WAIT_SECONDS = 60
PROMPTS = [
    "The cat sat on the mat, and the dog looked at the cat.",
    "A house on the hill; " * 9,
    "What is it?",
    "The dog looked at the house. " * 3,
    "It is a house.",
    "a hill in the land",
]


class Answered:
    """Waits for an answer, and keeps what was told of it."""

    def __init__(self, then=None) -> None:
        self.said: list[Chunk | AfmError] = []
        self.over = threading.Event()
        self.then = then

    def __call__(self, said: Chunk | AfmError) -> None:
        self.said.append(said)
        if self.then:
            self.then(self)
        if isinstance(said, AfmError) or said.finished:
            self.over.set()

    @property
    def chunks(self) -> list[Chunk]:
        assert self.over.wait(WAIT_SECONDS)
        wrong = [said for said in self.said if isinstance(said, AfmError)]
        assert not wrong, wrong
        return self.said

    @property
    def tokens(self) -> list[int]:
        return [chunk.token for chunk in self.chunks]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def error(self) -> AfmError:
        assert self.over.wait(WAIT_SECONDS)
        return self.said[-1]


def ask(batcher, prompt, sampling, **more):
    """Submit a text, messages or ids; its `Answered` and its ticket."""
    answered = Answered(more.pop("then", None))
    is_ids = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], dict))
    ids = prompt if is_ids else batcher.engine.prompt_ids(prompt)
    return answered, batcher.submit(ids, sampling, tell=answered, **more)


class Held:
    """Keeps the model's thread where it is until let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, answered) -> None:
        self.begun.set()
        assert self.go.wait(WAIT_SECONDS)


def hold(batcher, max_tokens=2):
    """A request that keeps the model's thread inside `tell`: what is submitted now waits."""
    held = Held()
    answered, ticket = ask(batcher, "hold", Sampling(max_tokens), then=held)
    assert held.begun.wait(WAIT_SECONDS)
    return held, answered, ticket
