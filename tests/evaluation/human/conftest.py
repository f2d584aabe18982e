"""Answers of two models, a study of them, and a server of its page."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from afm_mlx.evaluation.answers import read_answers
from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.human.app import LIMITS, make_app
from afm_mlx.evaluation.human.store import Grade, Store
from afm_mlx.evaluation.human.study import Kind, Study, make_study
from afm_mlx.inference.server.run import Server, listen

WAIT_SECONDS = 60


def write_answers_file(path: Path, model: str, ids, **more) -> Path:
    """A file of a model's answers to prompts, odd ones about math."""
    with path.open("w") as file:
        for number, id in enumerate(ids):
            line = {
                "id": id,
                "category": "math" if number % 2 else "writing",
                "prompt": f"What is {id}?",
                "model": model,
                "answer": f"{model}'s answer to {id}",
            }
            file.write(json.dumps(line | more) + "\n")
    return path


@pytest.fixture
def answers_file(tmp_path):
    """Function that writes a file of answers, by a model's name and ids of prompts."""

    def write(model: str, ids=tuple(f"p{number}" for number in range(20)), **more) -> Path:
        return write_answers_file(tmp_path / f"{model}.jsonl", model, ids, **more)

    return write


@pytest.fixture
def make(answers_file):
    """Function that makes a study of models."""

    def run(*models: str, kind: Kind = Kind.PAIRS, seed: int = 0, **more) -> Study:
        files = [read_answers(answers_file(model, **more)) for model in models]
        study, _ = make_study(files, kind=kind, seed=seed)
        return study

    return run


@pytest.fixture
def store(make, tmp_path) -> Iterator[Store]:
    """Grades of a comparison of two models, `ours` and `theirs`."""
    with Store.of_study(tmp_path / "grades.sqlite", make("ours", "theirs")) as opened:
        yield opened


@pytest.fixture
def graded(make, tmp_path) -> Iterator[Store]:
    """Grades of single answers of two models."""
    study = make("ours", "theirs", kind=Kind.GRADES)
    with Store.of_study(tmp_path / "single.sqlite", study) as opened:
        yield opened


def for_model(store: Store, number: int, model: str, strength: int) -> int:
    """The verdict that says how much better a model's answer on a card is than the other."""
    return -strength if store.cards[number].models[0] == model else strength


def say(store: Store, number: int, grader: str, verdict, comment: str = "", seconds=2.0) -> None:
    """Keep a grade."""
    store.put(Grade(number, grader, verdict, comment, seconds))


def all_marks(value: int, **others: int) -> dict[str, int]:
    """Marks in all dimensions; some may have others."""
    return dict.fromkeys(DIMENSIONS, value) | others


@dataclass
class Running:
    """A server that runs."""

    port: int
    said: list[str]

    def ask(self, method: str, path: str, body=None, **headers: str) -> tuple[int, dict]:
        """Status and JSON of an answer."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        ) as line:
            line.request(method, path, raw, headers)
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())

    def card(self, grader: str) -> dict:
        status, body = self.ask("GET", f"/api/card?grader={grader}")
        assert status == 200, body
        return body

    def post(self, path: str, **body) -> dict:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer


@contextlib.contextmanager
def running(store: Store, *, api_key=None, most=None) -> Iterator[Running]:
    """A server in a thread."""
    said: list[str] = []
    app = make_app(store, loopback=True, api_key=api_key, most=most, say=said.append)
    with listen("127.0.0.1", 0) as sock:
        server = Server(app, LIMITS)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield Running(sock.getsockname()[1], said)
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()
    assert said == []


@pytest.fixture
def server(store) -> Iterator[Running]:
    with running(store) as found:
        yield found
