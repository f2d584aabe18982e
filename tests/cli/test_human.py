"""`afm human`: answers, the server as a process, report."""

import json
import signal
import socket
import urllib.request

import pytest

from afm_mlx.alignment.preferences import read_preferences
from afm_mlx.evaluation.answers import read_answers
from afm_mlx.evaluation.human.store import Grade, Store

from .conftest import start, write_lines

WAIT_SECONDS = 60
PROMPTS = [
    {"id": f"p{number}", "category": "math" if number % 2 else "open QA", "prompt": f"{number}?"}
    for number in range(4)
]


@pytest.fixture
def prompts(tmp_path):
    return write_lines(tmp_path / "prompts.jsonl", PROMPTS)


@pytest.fixture
def answered(tmp_path):
    """Two files of answers, a and b."""
    for model in "ab":
        rows = [{**each, "model": model, "answer": f"by {model}"} for each in PROMPTS]
        write_lines(tmp_path / f"{model}.jsonl", rows)
    return tmp_path


@pytest.fixture
def grading(serving, answered):
    """Function that starts the grading page's server, and gives its process and first line."""
    return lambda *files: serving("human", "serve", *files, "--db", answered / "grades.sqlite")


def post(url: str, **body) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        return json.load(answer)


def test_answers_are_written_once_and_gone_on_with(afm, chat_model, prompts):
    command = ("human", "answers", chat_model, "--prompts", prompts, "--max-tokens", 4)
    first = afm(*command, "--out", "a.jsonl", "--limit", 3, "--name", "mine")
    assert (first.code, first.out) == (0, "a.jsonl  mine: 3 answers written\n")
    again = afm(*command, "--out", "a.jsonl", "--name", "mine")
    assert again.out == "a.jsonl  mine: 1 answers written, 3 were there\n"
    lines = [json.loads(line) for line in (prompts.parent / "a.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == ["p0", "p1", "p2", "p3"]
    assert {line["model"] for line in lines} == {"mine"}
    assert lines[0]["settings"]["max_tokens"] == 4


def test_a_prompt_that_is_too_long_is_counted_and_the_others_are_answered(afm, chat_model, prompts):
    long = {"id": "long", "category": "math", "prompt": "cat " * 100}
    write_lines(prompts, [long, *PROMPTS])
    done = afm(
        "human", "answers", chat_model, "--prompts", prompts, "--out", "a.jsonl", "--max-tokens", 4
    )
    assert done.code == 0
    assert "4 answers written" in done.out
    assert "1 not asked: longer than the context" in done.err


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(afm, chat_model, tmp_path):
    lines = [{"id": f"p{n}", "category": "math", "prompt": f"{n}?"} for n in range(2_000)]
    many = write_lines(tmp_path / "many.jsonl", lines)
    words = ("answers", chat_model, "--prompts", many, "--max-tokens", 12)
    out = tmp_path / "many-answers.jsonl"
    process = start("human", *words, "--out", out)
    while " of 2,000 answers" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    there = len(out.read_text().splitlines())
    assert 1 <= there < 2_000
    done = afm("human", *words, "--out", out, "--limit", there + 5)
    assert done.code == 0
    assert len(read_answers(out).answers) >= there


def test_only_the_categories_that_are_named_are_answered(afm, refused, chat_model, prompts):
    command = ("human", "answers", chat_model, "--prompts", prompts, "--max-tokens", 4)
    afm(*command, "--out", "a.jsonl", "--category", "math")
    lines = (prompts.parent / "a.jsonl").read_text().splitlines()
    assert {json.loads(line)["category"] for line in lines} == {"math"}
    said = refused(*command, "--out", "b.jsonl", "--category", "maths")
    assert "no prompt is of category 'maths'" in said
    assert "did you mean 'math'?" in said


def test_a_limit_takes_evenly_of_all_categories(afm, chat_model, tmp_path):
    rows = [
        {"id": f"{kind}{number}", "category": kind, "prompt": f"{number}?"}
        for kind in ("math", "writing")
        for number in range(4)
    ]
    prompts = write_lines(tmp_path / "grouped.jsonl", rows)
    command = ("human", "answers", chat_model, "--prompts", prompts, "--max-tokens", 4)
    for limit, wanted in (
        (2, {"math0", "writing0"}),
        (4, {"math0", "writing0", "math1", "writing1"}),
    ):
        assert "2 answers written" in afm(*command, "--out", "a.jsonl", "--limit", limit).out
        assert set(read_answers(tmp_path / "a.jsonl").answers) == wanted


def test_answers_of_another_model_are_not_mixed(afm, refused, chat_model, prompts):
    command = ("human", "answers", chat_model, "--prompts", prompts, "--max-tokens", 4)
    afm(*command, "--out", "a.jsonl")
    assert "and not of 'other'" in refused(*command, "--out", "a.jsonl", "--name", "other")
    said = refused(*command, "--out", "a.jsonl", "--temperature", 0.5)
    assert "with temperature 0.0, and not 0.5" in said


def test_a_model_behind_an_endpoint_is_asked_too(afm, refused, serving, chat_model, prompts):
    command = ("human", "answers", "tiny", "--prompts", prompts, "--out", "a.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "connection refused" in refused(*command, "--endpoint", f"http://127.0.0.1:{port}")
    flags = ("--endpoint", "http://127.0.0.1:1", "--seed", 3)
    assert "--seed is for a model on this machine" in refused(*command, *flags)
    _, line = serving("serve", chat_model)
    url, _, name = line.partition("  serves ")
    done = afm(
        *("human", "answers", name, "--prompts", prompts, "--out", "b.jsonl"),
        *("--endpoint", url, "--name", "theirs", "--max-tokens", 4),
    )
    assert done.out == "b.jsonl  theirs: 4 answers written\n"
    afm(
        *("human", "answers", chat_model, "--prompts", prompts, "--out", "c.jsonl"),
        *("--max-tokens", 4),
    )
    theirs, ours = (read_answers(prompts.parent / name).answers for name in ("b.jsonl", "c.jsonl"))
    assert {id: each.answer for id, each in theirs.items()} == {
        id: each.answer for id, each in ours.items()
    }


def test_apples_model_is_skipped_with_the_reason_where_it_is_not(afm, prompts, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    done = afm("human", "answers", "apple", "--prompts", prompts, "--out", "apple.jsonl")
    assert done.code == 0
    assert done.out == ""
    assert done.err.splitlines() == [
        "skipped: Apple's on-device model cannot be asked: it needs macOS 26 or later, and this is "
        "Linux"
    ]
    assert not (prompts.parent / "apple.jsonl").exists()


def test_the_server_says_where_it_is_and_ends_with_control_c(grading, answered):
    process, line = grading(answered / "a.jsonl", answered / "b.jsonl", "--pairs", 3)
    url, _, what = line.partition("  ")
    assert what.startswith("3 comparisons of a, b, grades go to ")
    post(f"{url}/api/grade", grader="Ann", card=0, verdict=2, comment="sesame")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert "sesame" not in out + err
    assert err.splitlines()[-1].startswith("stopped; the results: afm human report --db ")
    assert sorted(path.name for path in answered.iterdir()) == [
        "a.jsonl",
        "b.jsonl",
        "grades.sqlite",
    ]


def test_a_server_that_was_killed_goes_on_without_its_files(grading, answered):
    process, line = grading(answered / "a.jsonl", answered / "b.jsonl")
    post(f"{line.split()[0]}/api/grade", grader="Ann", card=0, verdict=2)
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    _, line = grading()
    with urllib.request.urlopen(f"{line.split()[0]}/api/card?grader=Ann") as answer:
        assert json.load(answer)["card"]["number"] == 1


def test_what_cannot_be_served_is_refused_before_anything_is_written(refused, answered):
    a, b = answered / "a.jsonl", answered / "b.jsonl"
    (answered / "c.jsonl").write_text('{"id": "p0"}\n')
    assert "a comparison needs two" in refused("human", "serve", a)
    assert "no answers to compare" in refused("human", "serve")
    assert "c.jsonl, line 1: no 'prompt'" in refused("human", "serve", a, "c.jsonl")
    assert "needs an API key" in refused("human", "serve", a, b, "--host", "0.0.0.0")
    assert "no grades at" in refused("human", "report")


def test_a_port_in_use_is_said(refused, answered):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("human", "serve", answered / "a.jsonl", answered / "b.jsonl", "--port", port)
    assert "cannot listen on 127.0.0.1" in said


def test_grades_of_other_answers_are_refused(grading, refused, answered):
    a, b = answered / "a.jsonl", answered / "b.jsonl"
    process, _ = grading(a, b)
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    b.write_text(b.read_text().replace("by b", "by a better b"))
    said = refused("human", "serve", a, b, "--db", answered / "grades.sqlite", changes=True)
    assert "is of other prompts or answers of a, b" in said


def test_the_report_prints_tables_and_writes_figures_and_comparisons(grading, afm, answered):
    process, _ = grading(answered / "a.jsonl", answered / "b.jsonl")
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    with Store.open(answered / "grades.sqlite") as store:
        for number, card in enumerate(store.cards):
            store.put(Grade(number, "Ann", -2 if card.models[0] == "a" else 2, "why", 1.0))
    done = afm("human", "report", "--json", "r.json", "--preferences", "p.jsonl")
    assert done.code == 0
    assert done.out.startswith("4 of 4 comparisons graded, 4 grades of 1 people")
    assert "a against b" in done.out
    assert "comparisons: p.jsonl, 4 lines" in done.err
    found = json.loads((answered / "r.json").read_text())
    assert found["pairs"][0]["scores"]["win"]["value"] == 1.0
    assert len(found["comments"]) == 4
    read = list(read_preferences(answered / "p.jsonl"))
    assert [each.chosen["content"] for each in read] == ["by a"] * 4
    assert {each.level for each in read} == {"better"}
