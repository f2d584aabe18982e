import os
import subprocess
import sys
import textwrap

import pytest

from afm_mlx import artifact
from afm_mlx.errors import RunError


def manifest(mark):
    return {"fingerprint": mark, "stage": "core"}


def test_fingerprint_changes_with_settings_version_and_parents_and_with_nothing_else():
    facts = {"version": 1, "settings": {"lr": 0.1, "steps": 2}, "parents": {"data": "a"}}
    reference = artifact.fingerprint("core", **facts)
    reordered = facts | {"settings": {"steps": 2, "lr": 0.1}}
    assert artifact.fingerprint("core", **reordered) == reference
    for change in ({"version": 2}, {"settings": {"lr": 0.2}}, {"parents": {"data": "b"}}):
        assert artifact.fingerprint("core", **(facts | change)) != reference
    assert artifact.fingerprint("context", **facts) != reference


def test_published_folder_has_its_manifest_and_no_work_folder_is_left(tmp_path):
    folder = tmp_path / "core"
    work = artifact.open_work(folder, "a")
    (work / "weights").write_text("w")
    assert artifact.read_manifest(folder) is None
    artifact.publish(work, folder, manifest("a"))
    assert artifact.read_manifest(folder) == manifest("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core"]


def test_work_goes_on_for_the_same_fingerprint_and_is_set_aside_for_another(tmp_path):
    folder = tmp_path / "core"
    (artifact.open_work(folder, "a") / "snapshot").write_text("s")
    assert artifact.in_the_making(folder, "a")
    assert (artifact.open_work(folder, "a") / "snapshot").exists()
    assert not (artifact.open_work(folder, "b") / "snapshot").exists()
    assert (tmp_path / "set-aside" / "core-1" / "snapshot").exists()


def test_replaced_results_are_kept_under_new_names(tmp_path):
    folder = tmp_path / "core"
    for mark in "abc":
        artifact.publish(artifact.open_work(folder, mark), folder, manifest(mark))
    kept = [artifact.read_manifest(tmp_path / "set-aside" / f"core-{n}") for n in (1, 2)]
    assert [artifact.read_manifest(folder), *kept] == [manifest(m) for m in "cab"]


def test_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"fingerprint": ')
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        artifact.read_manifest(tmp_path)


def test_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    program = textwrap.dedent(
        """
        import sys, os
        from pathlib import Path
        from afm_mlx import artifact
        from afm_mlx.errors import RunError
        try:
            with artifact.locked(Path(sys.argv[1])):
                print("held")
                if sys.argv[2] == "die":
                    sys.stdout.flush()
                    os._exit(9)
        except RunError as error:
            print(error)
        """
    )

    def other(how):
        command = [sys.executable, "-c", program, str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ).stdout

    with artifact.locked(tmp_path):
        assert "another process is running in" in other("ask")
    assert other("die").strip() == "held"
    assert other("ask").strip() == "held"


def test_small_files_are_replaced_whole(tmp_path):
    path = tmp_path / "facts.json"
    artifact.write_text(path, "old")
    artifact.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_was_killed_before_its_claim_is_not_set_aside(tmp_path):
    folder = tmp_path / "core"
    work = artifact.work_folder(folder)
    work.mkdir()
    (work / "fingerprint.part").write_text("a" * 30)
    assert artifact.open_work(folder, "a" * 64) == work
    assert [path.name for path in work.iterdir()] == ["fingerprint"]
    assert not (tmp_path / "set-aside").exists()


def test_contents_are_what_is_in_files_and_not_how_they_were_made(tmp_path):
    def made(name, text, seconds):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.txt").write_text(text)
        (folder / "manifest.json").write_text(seconds)
        (folder / "metrics.jsonl").write_text(seconds)
        (folder / "tasks.card.json").write_text(seconds)
        return artifact.contents(folder)

    first = made("first", "text", "1")
    assert made("second", "text", "2") == first
    assert made("third", "other", "1") != first
    (tmp_path / "linked").symlink_to(tmp_path / "first")
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "sub").symlink_to(tmp_path / "first" / "sub")
    assert artifact.contents(tmp_path / "linked") == first
    assert artifact.contents(tmp_path / "holder") == first
