"""`afm eval --task judge`: a model answers, another one judges."""

import json
import signal
import socket
import threading
import weakref
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from afm_mlx.evaluation.answers import read_answers
from afm_mlx.inference.engine import Engine

from .conftest import start, write_lines

WAIT_SECONDS = 60
PROMPTS = [
    {"id": f"{kind[0]}{number}", "category": kind, "prompt": f"Write of {number}."}
    for kind in ("summarization", "writing", "math")
    for number in range(3)
]
SHORT = ("--set", "max_tokens=4", "--set", "judge_tokens=300")


@pytest.fixture(scope="session")
def long_models(small_chat_model, tmp_path_factory) -> Path:
    """A folder with two tiny chat models, `one` and `two`, with room for a judge's prompt."""
    folder = tmp_path_factory.mktemp("long")
    lines = ["The cat sat on the mat. A house on the hill.\n"] * 20
    for seed, name in enumerate(("one", "two"), start=3):
        small_chat_model(folder / name, lines=lines, seed=seed, num_layers=1, max_tokens=8_192)
    return folder


@pytest.fixture
def prompts(tmp_path):
    return write_lines(tmp_path / "prompts.jsonl", PROMPTS)


@pytest.fixture
def theirs(tmp_path):
    """A file of answers that has the four fields it must have, and no more."""
    rows = [
        {"id": each["id"], "prompt": each["prompt"], "model": "them", "answer": "A house."}
        for each in PROMPTS
    ]
    return write_lines(tmp_path / "theirs.jsonl", rows)


@contextmanager
def judging_server(says):
    """An endpoint that answers `says(body)`, or with a status of that number; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = says(body)
            status, content = (said, {}) if isinstance(said, int) else (200, said)
            message = {"role": "assistant", "content": content}
            raw = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(WAIT_SECONDS)
        server.server_close()


def result_of(done):
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    return result


def test_a_model_here_judges_another_and_both_are_kept(afm, long_models, prompts):
    words = ("eval", long_models / "one", "--task", "judge", "--judge", long_models / "two")
    made = afm(*words, "--data", prompts, "--limit", 2, *SHORT)
    assert made.code == 0, made.err
    assert made.out.splitlines()[0].split()[:2] == ["judge", "good"]
    assert made.out.splitlines()[-1].startswith("judge         2 items in")
    folder = Path(made.err.splitlines()[-1].removeprefix("samples: "))
    result = json.loads((folder / "result.json").read_text())
    assert (result["task"], result["model"], result["items"]) == ("judge", "one", 2)
    assert result["scores"]["unreadable"]["value"] == 0
    assert (result["settings"]["form"], result["settings"]["judge"]) == ("grades", "two")
    assert result["settings"]["answers"]["max_tokens"] == 4
    # Taken from the two categories that are judged, in turn; math is none.
    (answers,) = folder.parent.glob("answers-*.jsonl")
    assert sorted(read_answers(answers).answers) == ["s0", "w0"]
    # Whoever asks for more of the prompts finds the answers that are there.
    before = answers.read_bytes()
    more = result_of(afm(*words, "--data", prompts, "--limit", 3, *SHORT, "--json"))
    assert more["items"] == 3
    assert list(folder.parent.glob("answers-*.jsonl")) == [answers]
    assert answers.read_bytes().startswith(before)


def test_answers_of_a_file_and_of_a_second_model_are_compared(afm, long_models, prompts, theirs):
    words = ("eval", long_models / "one", "--task", "judge", "--judge", long_models / "two")
    more = ("--data", prompts, "--limit", 1, *SHORT, "--json")
    by_file = result_of(afm(*words, "--against", theirs, "--out", "a", *more))
    assert (by_file["settings"]["form"], by_file["settings"]["opponent"]) == ("pairs", "them")
    assert by_file["scores"]["unreadable"]["value"] == 0
    assert by_file["scores"]["characters_opponent"]["value"] == len("A house.")
    assert sorted(each.name for each in Path("a").iterdir()) == [
        "answers.jsonl",
        "asked.json",
        "result.json",
        "samples.jsonl",
    ]
    by_model = result_of(afm(*words, "--against", long_models / "two", "--out", "b", *more))
    assert by_model["settings"]["opponent"] == "two"
    assert read_answers(Path("b/opponent.jsonl")).model == "two"
    # Both as files: only the judge is asked.
    both = result_of(
        afm(
            *("eval", "a/answers.jsonl", "--task", "judge", "--judge", long_models / "two"),
            *("--against", "b/opponent.jsonl", *more),
        )
    )
    assert both["scores"] == by_model["scores"]


def test_only_what_a_file_answers_is_asked_of_a_model(afm, long_models, prompts, theirs):
    lines = theirs.read_text().splitlines(keepends=True)
    theirs.write_text("".join(line for line in lines if '"w2"' in line or '"m0"' in line))
    done = afm(
        *("eval", long_models / "one", "--task", "judge", "--judge", long_models / "two"),
        *("--against", theirs, "--data", prompts, "--out", "run", "--json", *SHORT),
    )
    assert result_of(done)["items"] == 1
    assert list(read_answers(Path("run/answers.jsonl")).answers) == ["w2"]
    assert "5 prompts are left out: a file lacks them" in done.err


def test_a_model_is_released_before_the_next_is_loaded(afm, long_models, prompts, monkeypatch):
    alive, opened = [], []
    open_engine = Engine.open

    def watched(*words, **more):
        alive.append([engine() is not None for engine in opened])
        engine = open_engine(*words, **more)
        opened.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(Engine, "open", watched)
    done = afm(
        *("eval", long_models / "one", "--task", "judge", "--judge", long_models / "one"),
        *("--against", long_models / "two", "--data", prompts, "--limit", 1, *SHORT),
    )
    assert done.code == 0, done.err
    assert alive == [[], [False], [False, False]]


def test_a_judge_behind_an_endpoint_that_fails_is_gone_on_with(
    afm, refused, long_models, prompts, theirs
):
    asked, fixed = [], []

    def says(body):
        asked.append(body)
        if len(asked) > 3 and not fixed:
            return 401
        return json.dumps({"reason": "It is.", "verdict": "A"})

    with judging_server(says) as url:
        words = (
            *("eval", long_models / "one", "--task", "judge", "--judge", "big"),
            *("--judge-endpoint", url, "--against", theirs, "--data", prompts),
            *("--together", 1, *SHORT, "--set", "judge_temperature=server", "--out", "run"),
        )
        assert "says 401" in refused(*words, changes=True)
        assert len(Path("run/samples.jsonl").read_text().splitlines()) == 1
        answers = Path("run/answers.jsonl").read_bytes()
        fixed.append(True)
        before = len(asked)
        result = result_of(afm(*words, "--json"))
    assert len(asked) - before == 2 * 5
    assert Path("run/answers.jsonl").read_bytes() == answers
    values = {name: score["value"] for name, score in result["scores"].items()}
    assert (values["win_rate"], values["position_bias"], values["unreadable"]) == (0.5, 1, 0)
    assert result["settings"]["judge_temperature"] == "the server's"
    assert "temperature" not in asked[0]
    assert asked[0]["model"] == "big"
    assert asked[0]["max_tokens"] == 300


def test_an_interruption_among_the_answers_keeps_them(afm, long_models, tmp_path):
    lines = [
        {"id": f"p{n}", "category": "writing", "prompt": f"Write of {n}."} for n in range(1_000)
    ]
    many = write_lines(tmp_path / "many.jsonl", lines)
    words = (
        *("eval", long_models / "one", "--task", "judge", "--judge", long_models / "two"),
        *("--out", tmp_path / "run", "--set", "max_tokens=12", "--set", "judge_tokens=300"),
    )
    process = start(*words, "--data", many)
    while " of 1,000 answers" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    there = read_answers(tmp_path / "run" / "answers.jsonl").answers
    assert 1 <= len(there) < 1_000
    result = result_of(afm(*words, "--data", many, "--limit", 1, "--json"))
    assert result["items"] == 1
    after = read_answers(tmp_path / "run" / "answers.jsonl").answers
    assert list(after)[: len(there)] == list(there)


def test_our_own_server_answers_and_judges(afm, serving, long_models, prompts):
    _, line = serving("serve", long_models / "two")
    url, _, name = line.partition("  serves ")
    words = ("--task", "judge", "--judge", name, "--judge-endpoint", url, "--data", prompts)
    result = result_of(afm("eval", name, "--endpoint", url, *words, "--limit", 1, *SHORT, "--json"))
    assert (result["model"], result["scores"]["unreadable"]["value"]) == (name, 0)
    assert result["settings"]["answers"]["endpoint"] == "127.0.0.1"


def test_a_prompt_that_is_too_long_is_an_empty_answer(afm, long_models, prompts):
    long = {"id": "long", "category": "writing", "prompt": "cat " * 9_000}
    write_lines(prompts, [long])
    done = afm(
        *("eval", long_models / "one", "--task", "judge", "--judge", long_models / "two"),
        *("--data", prompts, "--json", *SHORT),
    )
    result = result_of(done)
    assert "one: 1 not asked, and so empty: longer than the context" in done.err
    assert result["scores"]["score_of_10"]["value"] == 1
    assert result["scores"]["poor"]["value"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "judge"], "task judge needs a judge"),
        (["--task", "judge", "--judge", "nobody"], "nobody"),
        (["--task", "judge", "--judge", "JUDGE", "--against", "none.jsonl"], "cannot read"),
        (["--task", "judge", "--judge", "JUDGE", "--against", "no-model"], "no-model"),
        (["--task", "judge", "--judge", "JUDGE", "--against", "apple"], "afm human answers apple"),
        (["--task", "judge", "--judge", "JUDGE", "--data", "none.jsonl"], "cannot read"),
        (["--task", "judge", "--judge", "JUDGE", "--data", "math.jsonl"], "it has math"),
        (["--task", "judge", "--judge", "JUDGE", "--set", "token=3"], "has no setting 'token'"),
        (["--task", "judge", "--judge", "JUDGE", "--set", "max_tokens=0"], "must be above 0"),
        (["--task", "judge", "--judge", "JUDGE", "--set", "guided=maybe"], "guided is 'maybe'"),
        (["--task", "judge", "--judge", "JUDGE", "--set", "temperature=server"], "is no server"),
        (["--task", "judge", "--judge", "big", "--judge-endpoint", "here"], "is no URL"),
        (["--task", "judge", "--task", "gsm8k", "--judge", "JUDGE"], "task judge stands alone"),
        (["--task", "gsm8k", "--judge", "JUDGE"], "--judge is of task judge"),
        (["--task", "gsm8k", "--against", "a.jsonl"], "--against is of task judge"),
    ],
)
def test_what_is_wrong_is_said_before_anybody_is_asked(refused, long_models, tmp_path, words, said):
    write_lines(tmp_path / "math.jsonl", PROMPTS[-1:])
    judge = str(long_models / "two")
    line = [judge if word == "JUDGE" else word for word in words]
    assert said in refused("eval", long_models / "one", *line)


def test_answers_that_cannot_be_judged_are_refused(refused, long_models, prompts, theirs):
    judge = ("--task", "judge", "--judge", long_models / "two", "--data", prompts)
    assert "both models are called 'them'" in refused("eval", theirs, "--against", theirs, *judge)
    assert "leave --adapter away" in refused("eval", theirs, "--adapter", "poet", *judge)
    (theirs.parent / "empty.jsonl").write_text("")
    assert "empty.jsonl has no answer" in refused("eval", "empty.jsonl", *judge)
    theirs.write_text(theirs.read_text().replace("Write of 0.", "Write of nothing."))
    assert "answer to another text of prompt 's0'" in refused("eval", theirs, *judge)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    line = ("--task", "judge", "--judge", "big", "--judge-endpoint", url, *SHORT)
    said = refused("eval", long_models / "one", *line, "--data", prompts, changes=True)
    assert "connection refused" in said
