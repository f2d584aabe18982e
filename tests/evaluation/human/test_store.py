import json
import sqlite3
import subprocess
import sys
import threading

import pytest

from afm_mlx.errors import DataError, RunError
from afm_mlx.evaluation.human.store import Grade, Place, Store, clean_name
from afm_mlx.evaluation.human.study import Kind

from .conftest import WAIT_SECONDS, all_marks, say


def test_a_file_holds_the_whole_study(store, make, tmp_path):
    study = make("ours", "theirs")
    assert store.study == study
    assert store.cards == study.cards
    asked, answers = store.shown(3)
    card = study.cards[3]
    assert asked.id == card.prompt
    assert answers == tuple(f"{model}'s answer to {card.prompt}" for model in card.models)


def test_each_grader_has_a_queue_of_their_own(store):
    assert store.place("Ann") == Place(0, 0, 0, 20)
    say(store, 0, "Ann", 2)
    say(store, 1, "Ann", None)
    say(store, 0, "Bob", 0)
    assert store.place("Ann") == Place(2, 1, 1, 20)
    assert store.place("Bob") == Place(1, 1, 0, 20)
    assert store.place("Cid") == Place(0, 0, 0, 20)


def test_the_first_cards_are_enough_where_only_those_are_wanted(store):
    for number in range(3):
        say(store, number, "Ann", 1)
    assert store.place("Ann", most=3) == Place(None, 3, 0, 3)
    assert store.place("Ann", most=5) == Place(3, 3, 0, 5)
    assert store.place("Ann", most=99) == Place(3, 3, 0, 20)


def test_the_same_grade_twice_counts_once_and_the_last_one_counts(store):
    for verdict in (2, 2, -1):
        say(store, 4, "Ann", verdict, "why")
    assert store.grades() == [Grade(4, "Ann", -1, "why", 2.0)]


def test_a_name_is_one_grader_however_it_is_written(store):
    say(store, 0, "Ann", 1)
    say(store, 0, "ann", 1)
    say(store, 1, "ANN", 1)
    assert {(grade.card, grade.grader) for grade in store.grades()} == {(0, "Ann"), (1, "Ann")}
    assert clean_name("  Ann \n Lee ") == "Ann Lee"
    assert len(clean_name("x" * 1_000)) == 60
    assert clean_name(" \t") == ""


def test_undo_takes_back_what_the_same_grader_said_last(store):
    say(store, 0, "Ann", 1)
    say(store, 1, "Ann", None)
    say(store, 0, "Bob", 3, "by far")
    assert store.undo("Ann") == Grade(1, "Ann", None, "", 2.0)
    assert store.place("Ann") == Place(1, 1, 0, 20)
    assert store.undo("Ann") == Grade(0, "Ann", 1, "", 2.0)
    assert store.undo("Ann") is None
    assert store.undo("Bob") == Grade(0, "Bob", 3, "by far", 2.0)
    assert store.grades() == []


def test_skipped_cards_come_again_where_that_is_wanted(store):
    for number, verdict in enumerate([None, 1, None]):
        say(store, number, "Ann", verdict)
    say(store, 0, "Bob", None)
    assert store.show_skipped_again("Ann") == 2
    assert store.place("Ann") == Place(0, 1, 0, 20)
    say(store, 0, "Ann", 2)
    assert store.place("Ann").card == 2
    assert store.place("Bob").skipped == 1


def test_marks_come_back_as_they_were(graded):
    say(graded, 0, "Ann", all_marks(2, groundedness=0))
    assert graded.grades()[0].verdict == all_marks(2, groundedness=0)


def test_a_study_goes_on_where_it_was(store, make, tmp_path):
    say(store, 0, "Ann", 1)
    store.close()
    for again in (Store.open(store.path), Store.of_study(store.path, make("theirs", "ours"))):
        with again:
            assert again.place("Ann").card == 1
            assert again.study.models == ("ours", "theirs")


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (("ours", "others"), {}, "is of ours, theirs, and the files are of ours, others"),
        (("ours", "theirs"), {"seed": 3}, "was begun with --seed 0, and not 3"),
        (("ours", "theirs"), {"answer": "Other."}, "is of other prompts or answers of ours"),
        (("ours", "theirs"), {"ids": ["p0"]}, "is of other prompts or answers of ours"),
        (("ours", "theirs"), {"kind": Kind.GRADES}, "has comparisons, and not --grades"),
    ],
)
def test_grades_of_another_study_are_refused(store, make, models, more, said):
    with pytest.raises(DataError, match=said) as caught:
        Store.of_study(store.path, make(*models, **more))
    assert "--" in caught.value.hint


def test_what_is_no_file_of_grades_is_refused(make, tmp_path):
    with pytest.raises(DataError, match="there are no grades at"):
        Store.open(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("nonsense" * 1_000)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    for name in ("text", "other"):
        with pytest.raises(DataError, match="is no file of grades"):
            Store.open(tmp_path / f"{name}.sqlite")
    with pytest.raises(RunError, match=r"folder\.sqlite: there is no folder .*/no$"):
        Store.of_study(tmp_path / "no" / "folder.sqlite", make("a", "b"))


def test_names_with_signs_that_mean_something_in_an_address_are_files(make, tmp_path):
    path = tmp_path / "what? 100%#.sqlite"
    with Store.of_study(path, make("a", "b")) as opened:
        say(opened, 0, "Ann", 1)
    with Store.open(path) as again:
        assert len(again.grades()) == 1


GRADING = """
import sys
from pathlib import Path
from afm_mlx.evaluation.human.store import Grade, Store
store = Store.open(Path(sys.argv[1]))
for number in range(len(store.cards)):
    store.put(Grade(number, sys.argv[2], number % 7 - 3, "", 1.0))
    print(number, flush=True)
"""


def test_what_was_kept_outlives_a_process_that_is_killed(store):
    process = subprocess.Popen(
        [sys.executable, "-c", GRADING, str(store.path), "Ann"], stdout=subprocess.PIPE, text=True
    )
    for _ in range(8):
        last = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    with Store.open(store.path) as again:
        kept = {grade.card: grade.verdict for grade in again.grades()}
        assert set(range(last + 1)) <= set(kept)
        assert all(verdict == number % 7 - 3 for number, verdict in kept.items())
        assert again._line.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_log_of_a_deleted_file_is_not_taken_for_the_new_ones(store, make):
    process = subprocess.Popen(
        [sys.executable, "-c", GRADING, str(store.path), "Ann"], stdout=subprocess.PIPE, text=True
    )
    for _ in range(8):
        process.stdout.readline()
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    log = store.path.with_name("grades.sqlite-wal")
    left = log.read_bytes()
    store.close()
    store.path.unlink()
    log.write_bytes(left)
    with Store.of_study(store.path, make("ours", "theirs", seed=5)) as again:
        assert again.grades() == []
        assert again.study.seed == 5


def test_threads_and_processes_grade_at_the_same_time(store):
    process = subprocess.Popen(
        [sys.executable, "-c", GRADING, str(store.path), "Bob"], stdout=subprocess.DEVNULL
    )

    def work(name: str) -> None:
        for number in range(20):
            say(store, number, name, 1)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("Ann", "Cid")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert process.wait(WAIT_SECONDS) == 0
    assert len(store.grades()) == 3 * 20


def test_grades_are_flushed_to_the_disk_one_by_one(store):
    ask = store._line.execute
    assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ask("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_verdict_is_json_that_other_programs_can_read(store):
    say(store, 0, "Ann", -3, "why")
    line = sqlite3.connect(store.path)
    row = line.execute("SELECT verdict, comment FROM grades").fetchone()
    line.close()
    assert (json.loads(row[0]), row[1]) == (-3, "why")
