"""The server's routes over HTTP, from a socket of its own."""

import json
import sqlite3
import threading

import pytest

from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.human.store import Grade, Store

from .conftest import all_marks, running, say


def grade(server, grader: str, verdict, **more) -> dict:
    """Grade the card that comes next."""
    number = server.card(grader)["card"]["number"]
    return server.post("/api/grade", grader=grader, card=number, verdict=verdict, **more)


def test_a_grader_goes_through_all_cards(server, store):
    for number in range(20):
        body = server.card("Ann")
        assert (body["graded"], body["total"], body["card"]["number"]) == (number, 20, number)
        asked, answers = store.shown(number)
        assert body["card"]["prompt"] == asked.prompt
        assert body["card"]["category"] == asked.category
        assert body["card"]["answers"] == list(answers)
        following = grade(server, "Ann", number % 7 - 3)
    assert following["card"] is None
    assert [each.verdict for each in store.grades()] == [n % 7 - 3 for n in range(20)]


def test_which_model_is_which_never_leaves_the_server(make, tmp_path):
    study = make("secret-a", "secret-b", answer="An answer.")
    with Store.of_study(tmp_path / "g.sqlite", study) as store, running(store) as server:
        said = [server.card("Ann"), grade(server, "Ann", 1)]
        said.append(server.post("/api/undo", grader="Ann"))
        said.append(server.post("/api/skip", grader="Ann", card=0))
        assert all(body["card"] for body in said)
        assert "secret" not in json.dumps(said)


def test_a_grade_is_on_the_disk_when_it_is_answered(server, store):
    grade(server, "Ann", 2, comment=" too long \n", seconds=3.5)
    line = sqlite3.connect(store.path)
    row = line.execute("SELECT card, grader, verdict, comment, seconds FROM grades").fetchone()
    line.close()
    assert row == (0, "Ann", "2", "too long", 3.5)


def test_the_same_post_twice_is_one_grade(server, store):
    body = {"grader": "Ann", "card": 0, "verdict": -3}
    first, second = (server.post("/api/grade", **body) for _ in range(2))
    assert first == second
    assert store.grades() == [Grade(0, "Ann", -3, "", 0.0)]


def test_undo_shows_the_card_again_with_what_was_said(server, store):
    grade(server, "Ann", 1)
    grade(server, "Ann", -2, comment="why")
    back = server.post("/api/undo", grader="Ann")
    assert back["card"]["number"] == 1
    assert back["undone"] == {"verdict": -2, "comment": "why"}
    assert back["graded"] == 1
    server.post("/api/undo", grader="Ann")
    status, body = server.ask("POST", "/api/undo", {"grader": "Ann"})
    assert (status, body["error"]["code"]) == (409, "nothing_to_undo")
    assert store.grades() == []


def test_skipped_cards_are_left_out_until_they_are_wanted_again(server):
    assert server.post("/api/skip", grader="Ann", card=0)["card"]["number"] == 1
    assert server.card("Ann")["skipped"] == 1
    assert server.post("/api/again", grader="Ann")["card"]["number"] == 0
    assert server.card("Ann")["skipped"] == 0


def test_graders_at_the_same_time_do_not_disturb_each_other(server, store):
    def work(name: str, verdict: int) -> None:
        for _ in range(20):
            grade(server, name, verdict)

    threads = [
        threading.Thread(target=work, args=each) for each in (("Ann", 1), ("Bob", -1), ("Cid", 0))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(each.grader, each.card): each.verdict for each in store.grades()}
    wanted = {"Ann": 1, "Bob": -1, "Cid": 0}
    assert found == {(name, n): verdict for name, verdict in wanted.items() for n in range(20)}


def test_only_so_many_cards_are_shown_where_that_is_wanted(store):
    with running(store, most=2) as server:
        assert server.card("Ann")["total"] == 2
        grade(server, "Ann", 1)
        assert grade(server, "Ann", 1)["card"] is None


def test_single_answers_are_graded_in_each_dimension(graded):
    with running(graded) as server:
        body = server.card("Ann")
        assert body["kind"] == "grades"
        assert [name for name, _ in body["dimensions"]] == list(DIMENSIONS)
        assert len(body["card"]["answers"]) == 1
        grade(server, "Ann", all_marks(1, composition=2))
        assert graded.grades()[0].verdict == all_marks(1, composition=2)
        for wrong in (all_marks(3), all_marks(-1), {"composition": 1}, 2):
            status, _ = server.ask(
                "POST", "/api/grade", {"grader": "Ann", "card": 1, "verdict": wrong}
            )
            assert status == 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": 4}, "verdict"),
        ({"verdict": 1.5}, "verdict"),
        ({"verdict": None}, "verdict"),
        ({"verdict": {"composition": 1}}, "verdict"),
        ({"card": 20}, "there is no card 20"),
        ({"card": -1}, "there is no card -1"),
        ({"card": "0"}, "card"),
        ({"grader": "  "}, "a grader needs a name"),
        ({"comment": "x" * 4_001}, "comment"),
        ({"seconds": -1}, "seconds"),
        ({"model": "ours"}, "there is no field 'model'"),
    ],
)
def test_what_is_no_grade_is_refused_by_name(server, store, change, said):
    body = {"grader": "Ann", "card": 0, "verdict": 1, "comment": "", "seconds": 1} | change
    status, answer = server.ask("POST", "/api/grade", body)
    assert status == 400
    assert said in answer["error"]["message"]
    assert store.grades() == []


def test_nonsense_and_too_much_are_refused(server, store):
    assert server.ask("POST", "/api/grade", b"{")[0] == 400
    assert server.ask("POST", "/api/grade", b" " * 70_000)[0] == 413
    assert server.ask("GET", "/api/grade")[0] == 405
    assert server.ask("GET", "/api/card")[0] == 400
    assert server.ask("GET", "/v1/models")[0] == 404
    assert store.grades() == []


def test_pages_of_other_sites_may_not_grade(server, store):
    body = {"grader": "Ann", "card": 0, "verdict": 1}
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert server.ask("POST", "/api/grade", body, **headers)[0] == 403
    assert store.grades() == []


def test_a_key_is_wanted_where_there_is_one(store):
    with running(store, api_key="right") as server:
        path = "/api/card?grader=Ann"
        assert server.ask("GET", path)[0] == 401
        assert server.ask("GET", path, Authorization="Bearer wrong")[0] == 401
        assert server.ask("GET", path, Authorization="Bearer right")[0] == 200
        assert server.ask("GET", "/health")[0] == 200


def test_a_grade_that_cannot_be_kept_is_no_grade(server, store):
    blocker = sqlite3.connect(store.path, isolation_level=None)
    store._line.execute("PRAGMA busy_timeout = 10")
    blocker.execute("BEGIN IMMEDIATE")
    body = {"grader": "Ann", "card": 0, "verdict": 1}
    status, answer = server.ask("POST", "/api/grade", body)
    assert status == 503
    assert "could not be kept: database is locked" in answer["error"]["message"]
    blocker.rollback()
    blocker.close()
    server.post("/api/grade", **body)
    assert len(store.grades()) == 1


def test_names_of_all_scripts_are_names(server, store):
    from urllib.parse import quote

    name = "\u738b\u5c0f\u660e \U0001f600"
    say(store, 0, name, 1)
    assert server.card(quote(name))["card"]["number"] == 1
