"""The grading page in a real browser, by keyboard; `tests/inference/server` reads its text."""

import http.client
import subprocess
import sys

import pytest

from afm_mlx.evaluation.dimensions import DIMENSIONS
from afm_mlx.evaluation.human.app import PACKAGE
from afm_mlx.evaluation.human.store import Store
from afm_mlx.evaluation.human.study import Kind
from afm_mlx.inference.server.page import page as page_of

from .conftest import WAIT_SECONDS, running, say


def test_the_page_and_its_policy_come_from_the_server(server):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    line.request("GET", "/")
    answer = line.getresponse()
    assert answer.read() == page_of(PACKAGE).body
    line.close()
    name = "content-security-policy"
    assert answer.getheader(name) == page_of(PACKAGE).headers[name]


@pytest.fixture
def open_page(browser):
    """Function that opens the page for a grader; nothing may go wrong in its script."""
    pages, wrong = [], []

    def run(port: int, grader: str = "", *, width: int = 1_280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        pages.append(page)
        page.set_default_timeout(WAIT_SECONDS * 1_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda said: wrong.append(said.text) if "Content Sec" in said.text else 0
        )
        page.goto(f"http://127.0.0.1:{port}/")
        if grader:
            page.keyboard.type(grader)
            page.keyboard.press("Enter")
            page.wait_for_selector("#work:visible, #done:visible")
        return page

    yield run
    for page in pages:
        page.close()
    assert wrong == []


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_for_count(page, count: int, total: int = 20) -> None:
    page.wait_for_selector(f"#count:text-is('{count} of {total}')", state="attached")


def serve(db, *words) -> tuple[subprocess.Popen, int]:
    """`afm human serve` as a process, and its port."""
    code = "import sys; from afm_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "human", "serve", *words, "--db", db]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline().split()[0].rsplit(":", 1)[1])


@pytest.mark.slow
def test_two_graders_lose_nothing_when_the_server_is_killed_between(
    open_page, answers_file, tmp_path
):
    db = tmp_path / "grades.sqlite"
    process, port = serve(db, answers_file("ours"), answers_file("theirs"), "--port", 0)
    try:
        ann, bob = open_page(port, "Ann"), open_page(port, "Bob")
        for number in range(20):
            press(ann, str(number % 7 + 1), "Enter")
            wait_for_count(ann, number + 1)
            if number == 8:
                process.kill()
                process.communicate(timeout=WAIT_SECONDS)
                press(bob, "ArrowRight", "ArrowRight", "Enter")  # slightly better, better
                bob.wait_for_selector("#problem:visible")
                assert "cannot be reached" in bob.text_content("#problem")
                process, _ = serve(db, "--port", port)
                press(bob, "Enter")  # what was chosen is still chosen
            elif number == 9:
                bob.reload()  # the address has the name
                bob.wait_for_selector("#work:visible")
                press(bob, "1", "ArrowRight", "Enter")
            else:
                press(bob, "ArrowLeft", "Enter")
            wait_for_count(bob, number + 1)
        for page in (ann, bob):
            page.wait_for_selector("#done:visible")
            assert page.text_content("#summary") == "You have graded 20."
    finally:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)
    with Store.open(db) as store:
        grades = store.grades()
    assert len(grades) == 40
    said = {(grade.grader, grade.card): grade.verdict for grade in grades}
    assert [said["Ann", number] for number in range(20)] == [n % 7 - 3 for n in range(20)]
    assert [said["Bob", number] for number in range(20)] == [-1] * 8 + [2, -2] + [-1] * 10
    assert all(grade.seconds > 0 for grade in grades)


@pytest.mark.slow
def test_undo_skip_and_comment_by_keyboard(open_page, server, store):
    page = open_page(server.port, "Ann")
    press(page, "Enter")  # nothing is chosen, nothing is sent
    assert page.is_disabled("#submit")
    press(page, "7", "c")
    page.keyboard.type("u s 1 are words here")
    press(page, "Enter", "Enter")
    wait_for_count(page, 1)
    press(page, "s")
    wait_for_count(page, 2)
    press(page, "u")
    wait_for_count(page, 1)
    press(page, "u")
    wait_for_count(page, 0)
    assert page.text_content("#choice") == "B is much better"
    assert page.input_value("#comment") == "u s 1 are words here"
    press(page, "ArrowLeft", "Enter")
    wait_for_count(page, 1)
    (grade,) = store.grades()
    assert (grade.verdict, grade.comment) == (2, "u s 1 are words here")
    for number in range(1, 20):
        say(store, number, "Ann", None if number < 3 else 0)
    page.reload()
    page.wait_for_selector("#done:visible")
    assert page.text_content("#summary") == "You have graded 18 and skipped 2."
    page.focus("#again")
    press(page, "Enter")
    wait_for_count(page, 18)
    assert page.is_visible("#work")


@pytest.mark.slow
def test_single_answers_are_graded_by_keyboard(open_page, graded):
    with running(graded) as server:
        page = open_page(server.port, "Ann")
        assert page.is_hidden("#second")
        press(page, "1", "2", "3", "ArrowRight", "Enter")
        assert page.text_content("#choice") == "1 of 5 left to grade"
        press(page, "ArrowDown", "ArrowLeft", "Enter")
        wait_for_count(page, 1, 40)
        press(page, "u")
        wait_for_count(page, 0, 40)
        assert page.locator("#marks input:checked").count() == 5
        press(page, "2", "Enter")
        wait_for_count(page, 1, 40)
    verdict = dict(zip(DIMENSIONS, [1, 1, 2, 2, 0], strict=True))
    assert graded.grades()[0].verdict == verdict


@pytest.mark.slow
def test_the_pointer_does_what_keys_do(open_page, server, store):
    page = open_page(server.port, "Ann")
    page.click("#scale label:nth-of-type(2)")
    press(page, "Enter")  # with the focus on what was clicked
    wait_for_count(page, 1)
    page.click("#scale label:nth-of-type(6)")
    page.click("#submit")
    wait_for_count(page, 2)
    page.click("#skip")
    wait_for_count(page, 3)
    press(page, "4", "Enter")  # and not Skip once more
    wait_for_count(page, 4)
    page.click("#undo")
    wait_for_count(page, 3)
    assert [grade.verdict for grade in store.grades()] == [-2, 2, None]


@pytest.mark.slow
def test_equal_answers_are_said_to_be_equal_and_an_empty_one_is_named(open_page, make, tmp_path):
    study = make("ours", "theirs", answer="", reference="See [1].")
    with Store.of_study(tmp_path / "same.sqlite", study) as store, running(store) as server:
        page = open_page(server.port, "Ann")
        assert page.is_visible("#same")
        assert page.text_content("#choice") == "Both are about the same"
        assert page.locator(".answer .note").all_text_contents() == ["The answer is empty."] * 2
        assert page.is_hidden("#reference-text")
        press(page, "r")
        assert page.is_visible("#reference-text")
        press(page, "Enter")
        wait_for_count(page, 1)


@pytest.mark.slow
def test_text_of_models_is_shown_and_never_becomes_markup(open_page, make, tmp_path):
    harm = "<img src=x onerror=\"document.title = 'harm'\"> **bold** [a](javascript:alert(1))"
    study = make("ours", "theirs", answer=harm, prompt=harm, category=harm, reference=harm)
    with Store.of_study(tmp_path / "harm.sqlite", study) as store, running(store) as server:
        page = open_page(server.port, harm[:40])
        assert page.locator("img, main a").count() == 0
        assert page.locator(".answer strong").count() == 2
        assert page.title() == "Compare answers"
        assert page.text_content("#prompt") == harm


TABLE = """Before:

| size | price |
|---|---:|
| small | **1** |
| large | 2 | 3 |

| no table |
"""


@pytest.mark.slow
def test_tables_of_models_are_tables(open_page, make, tmp_path):
    study = make("ours", "theirs", answer=TABLE)
    with Store.of_study(tmp_path / "table.sqlite", study) as store, running(store) as server:
        page = open_page(server.port, "Ann")
        rows = page.locator("#first tr").all()
        assert [row.locator("th, td").all_text_contents() for row in rows] == [
            ["size", "price"],
            ["small", "1"],
            ["large", "2", "3"],
        ]
        assert page.locator("#first td strong").count() == 1
        assert "| no table |" in page.text_content("#first")


@pytest.mark.slow
def test_a_key_is_asked_for_until_it_is_right(open_page, store):
    with running(store, api_key="right") as server:
        page = open_page(server.port)
        press(page, "A", "Enter")
        for key in ("wrong", "right"):
            page.wait_for_selector("#ask[open]")
            page.fill("#key", key)
            press(page, "Enter")
        page.wait_for_selector("#work:visible")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1_280])
@pytest.mark.parametrize("kind", Kind)
def test_nothing_sticks_out_or_is_clipped(open_page, make, tmp_path, kind, width):
    long = "x" * 500 + "\n\n```\n" + "y" * 500 + "\n```\n" + "words " * 300
    study = make("ours", "theirs", kind=kind, answer=long, prompt=long)
    with Store.of_study(tmp_path / "long.sqlite", study) as store, running(store) as server:
        page = open_page(server.port, "A grader with a name that is rather long", width=width)
        press(page, "1", "c")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        clipped = page.evaluate(
            "[...document.querySelectorAll('.pick span, #actions button')]"
            ".filter(each => each.checkVisibility())"
            ".filter(each => each.scrollWidth > each.clientWidth"
            " || each.scrollHeight > each.clientHeight).map(each => each.textContent)"
        )
        assert clipped == []
        box = page.locator("#submit").bounding_box()
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 800
