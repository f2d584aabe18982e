"""Runs that ask an endpoint, and lose nothing when it fails."""

import itertools
import json
import threading
from collections import Counter

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import Endpoint
from afm_mlx.evaluation.endpoint_subject import EndpointSubject
from afm_mlx.evaluation.items import Answer, Mark, Passage
from afm_mlx.evaluation.run import run_task
from tests.evaluation.failing_server import (
    WAIT_SECONDS,
    Server,
    asked_of,
    endpoint,
    questions,
    said,
    serving,
    wrong,
)


class Letters:
    """A task: say a letter back."""

    name = "letters"
    settings: dict = {}  # noqa: RUF012
    figures = {"right": "share"}  # noqa: RUF012

    def items(self):
        return questions(*"abcdefgh")

    def mark(self, item, reply):
        return {"right": Mark(float(isinstance(reply, Answer) and reply.text == item.key))}

    def kept(self, item, reply):
        return {}


def test_a_task_that_needs_likelihoods_leaves_nothing_behind(quiet, tmp_path):
    class Texts(Letters):
        def items(self):
            return [*super().items(), Passage("p", "It is.")]

    who = EndpointSubject(Endpoint("http://127.0.0.1:1", "one", key=""))
    with pytest.raises(RunError, match="compares how likely texts are"):
        run_task(Texts(), who, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_after_the_server_came_back(quiet, tmp_path):
    good = Server(lambda body: (200, said(asked_of(body)), {}))
    dying = Server()
    answered = itertools.count()
    dying.reply = lambda body: good.reply(body) if next(answered) < 3 else (500, {}, {})
    with serving(dying) as url:
        who = EndpointSubject(endpoint(url, tries=2), together=1)
        with pytest.raises(RunError, match="gives no answer: status 500"):
            run_task(Letters(), who, tmp_path / "run", quiet)
    with pytest.raises(RunError, match="gives no answer: connection refused"):
        run_task(Letters(), EndpointSubject(endpoint(url)), tmp_path / "run", quiet)
    with serving(good) as url:  # at another port
        result = run_task(Letters(), EndpointSubject(endpoint(url)), tmp_path / "run", quiet)
    assert sorted(good.texts) == list("defgh")
    assert (result.scores["right"].value, result.refused) == (1, {})


def test_what_came_before_a_failure_is_kept_though_others_were_under_way(quiet, tmp_path):
    under_way, failed = threading.Barrier(3, timeout=WAIT_SECONDS), threading.Event()

    def reply(body):
        if asked_of(body) in ("a", "b", "c"):
            under_way.wait()
        if asked_of(body) == "a":
            failed.set()
            return 401, wrong("no"), {}
        failed.wait(WAIT_SECONDS)
        return 200, said(asked_of(body)), {}

    with serving(Server(reply)) as url, pytest.raises(RunError, match="says 401"):
        run_task(Letters(), EndpointSubject(endpoint(url), together=3), tmp_path / "run", quiet)
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} >= {"b", "c"}


def test_a_bad_hour_of_a_server_costs_no_answer(quiet, tmp_path):
    bad = [(500, {}, {}), (0, b"", {}), (200, b"<html>", {}), (429, {}, {})]
    times = Counter()

    def reply(body):
        text = asked_of(body)
        times[text] += 1
        return bad[times[text] - 1] if times[text] <= 4 else (200, said(text), {})

    with serving(Server(reply)) as url:
        who = EndpointSubject(endpoint(url), together=4)
        result = run_task(Letters(), who, tmp_path / "run", quiet)
    assert result.scores["right"].value == 1
    assert set(times.values()) == {5}
