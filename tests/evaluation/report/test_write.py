"""`afm report`, and the function that `afm run` may call."""

import subprocess
import sys

import pytest

from afm_mlx.evaluation.report.write import write_report


@pytest.fixture
def afm(tmp_path, monkeypatch, capsys):
    """Function that runs `afm` in a folder of its own: exit code, stdout and stderr."""
    from afm_cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_both_forms_are_written_beside_the_stages(afm, whole):
    code, out, err = afm("report", "small")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["runs/small/report.html", "runs/small/report.md"]
    page = (whole.folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert (whole.folder / "report.md").read_text().startswith("# small\n")
    assert write_report(whole.folder) == whole.folder / "report.html"
    assert (whole.folder / "report.html").read_text() == page


def test_a_folder_can_be_named_in_place_of_a_recipe(afm, whole):
    assert afm("report", whole.folder)[0] == 0
    assert afm("report", "runs/small", "--markdown")[1] == "runs/small/report.md\n"


def test_the_folder_one_is_in_can_be_named(afm, whole, monkeypatch):
    monkeypatch.chdir(whole.folder)
    assert afm("report", ".", "--markdown")[1] == "report.md\n"
    assert (whole.folder / "report.md").read_text().startswith("# small\n")
    monkeypatch.chdir(whole.folder / "core")
    assert afm("report", "..", "--markdown")[1] == "../report.md\n"


def test_a_recipes_file_stands_for_its_run(afm, whole, tmp_path):
    code, _, err = afm("report", "small.toml")
    assert code == 2
    assert "small.toml" in err


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["--out", "deep/page.html"], "<!doctype html>"),
        (["--out", "deep/page.md"], "# small"),
        (["--out", "deep/page.txt", "--markdown"], "# small"),
    ],
)
def test_a_file_can_be_named(afm, whole, tmp_path, words, start):
    code, out, _ = afm("report", "small", *words)
    assert (code, out) == (0, f"{words[1]}\n")
    assert (tmp_path / words[1]).read_text().startswith(start)
    assert not (whole.folder / "report.html").exists()


def test_two_runs_are_compared_in_a_file_of_the_first(afm, whole, another):
    code, out, _ = afm("report", "small", "better")
    assert code == 0
    assert out.splitlines() == [
        "runs/small/compared-with-better.html",
        "runs/small/compared-with-better.md",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["smal"],
            "error: no run is called 'smal': there is no folder runs/smal\n"
            "hint: did you mean 'small'?\n",
        ),
        (
            ["small", "nowhere"],
            "error: no run is called 'nowhere': there is no folder runs/nowhere\n"
            "hint: there are small\n",
        ),
        (
            ["x", "--runs", "none"],
            "error: no run is called 'x': there is no folder none/x\n"
            "hint: afm run RECIPE makes one\n",
        ),
        (
            ["small/core"],
            "error: runs/small/core holds no stages of a run\n"
            "hint: it is one stage: did you mean runs/small?\n",
        ),
    ],
)
def test_an_unknown_run_is_two_lines(afm, whole, words, said):
    assert afm("report", *words) == (2, "", said)


def test_a_report_needs_neither_mlx_nor_weights(whole):
    code = (
        "import sys; from pathlib import Path; sys.modules['mlx.core'] = None; "
        "from afm_mlx.evaluation.report.write import write_report; "
        f"write_report(Path({str(whole.folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
