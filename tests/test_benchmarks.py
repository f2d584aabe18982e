"""Benchmarks are run by hand, so nothing but this says that a renamed function broke one."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench_page import number
from declared import Goal, read_bench

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_ours_is_there(path):
    found = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("afm_"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found += 1
    # They run others, or show what these have left.
    pages = {"bench_page", "quantize_page"}
    assert found or path.stem in {"bench", "commands", "corpus", "declared"} | pages


DECLARED = [path for path in BENCHMARKS if read_bench(path)]
HELPERS = {
    "bench",
    "bench_page",
    "declared",
    "engines",
    "corpus_made",
    "corpus_steps",
    "quantize_page",
    "quantize_peers",
    "quantize_setup",
}


def test_every_benchmark_declares_what_make_bench_runs():
    assert {path.stem for path in BENCHMARKS} - {path.stem for path in DECLARED} == HELPERS


@pytest.mark.parametrize("path", DECLARED, ids=lambda path: path.stem)
def test_a_declaration_names_goals_and_options_that_there_are(path):
    bench = read_bench(path)
    for goal in bench.figures.values():
        assert Goal(goal).number is not None or len(goal.split()) < 2, goal
    text = path.read_text()
    for word in f"{bench.small} {bench.large}".split():
        if word.startswith("--"):
            assert (
                f'"{word}"' in text
                or f'("{word.removeprefix("--")}", ' in text
                or (path.stem == "prefer" and f'"{word.removeprefix("--")}": ' in text)
            ), word
    if bench.long:
        headings = (BENCHMARKS[0].parent / "RESULTS.md").read_text().splitlines()
        assert f"## {bench.results}" in headings
    else:
        assert '"--json"' in text


def test_make_bench_is_under_thirty_minutes():
    seconds = [bench.seconds for bench in map(read_bench, DECLARED) if not bench.long]
    assert sum(seconds) < 30 * 60


HEAD = """
import argparse, json, sys, time
from pathlib import Path
from declared import Declaration
parser = argparse.ArgumentParser()
parser.add_argument("--json", type=Path)
parser.add_argument("--size", type=int, default=0)
"""
MADE = {
    "a_fast": """
BENCH = Declaration(seconds=1, figures={"speed": "at least 2", "size": ""}, small="--size 7")
args = parser.parse_args()
with open(Path(__file__).with_name("times"), "a") as file:
    file.write("a")
args.json.write_text(json.dumps({"figures": {"speed": [2.5, 3.0, 2.0], "size": [args.size]}}))
""",
    "b_slow": """
BENCH = Declaration(seconds=1, figures={"lag": "at most 50 ms"})
args = parser.parse_args()
args.json.write_text(json.dumps({"figures": {"lag": [80]}, "missing": {"peer": "not here"}}))
""",
    "c_fails": """
BENCH = Declaration(seconds=1, figures={"other": "at least 1"})
sys.exit("error: no such | file")
""",
    "d_absent": """
BENCH = Declaration(seconds=1, figures={"far": "at least 1"}, needs=("no-such-package",))
""",
    "e_data": """
BENCH = Declaration(seconds=1, figures={"texts": "at least 1"}, data=("no/such/folder",))
""",
    "f_long": """
BENCH = Declaration(
    seconds=9, figures={"won back": "at least 70 %"}, long="a day", results="Few bits: `python x`"
)
args = parser.parse_args()
args.json.write_text(json.dumps({"figures": {"won back": [75]}}))
""",
}


@pytest.fixture
def made(tmp_path):
    """A folder of small benchmarks, and a function that runs them."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name, text in MADE.items():
        (folder / f"{name}.py").write_text(HEAD + text)

    def run(*words):
        script = BENCHMARKS[0].parent / "bench.py"
        command = [sys.executable, script, "--folder", folder, "--work", tmp_path / "work"]
        env = dict(os.environ, PYTHONPATH=str(script.parent))
        return subprocess.run([*command, *words], capture_output=True, text=True, env=env)

    run.folder = folder
    return run


def cells(page, first):
    """The row of a table that begins with a cell."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_has_every_goal_with_its_figure_or_the_reason_why_not(made):
    done = made()
    assert done.returncode == 1  # one failed
    page = (made.folder / "BENCH.md").read_text()
    assert cells(page, "speed") == ["speed", "2.5", "2 to 3", "at least 2", "yes", "a_fast"]
    assert cells(page, "lag") == ["lag", "80 ms", "", "at most 50 ms", "**no**", "b_slow"]
    assert cells(page, "other")[1] == "failed: error: no such / file"
    assert cells(page, "far")[1] == "not installed: no-such-package"
    assert cells(page, "texts")[1] == "no data: no/such/folder"
    assert cells(page, "size") == ["size", "7", "", "a_fast"]
    assert cells(page, "peer")[1] == "not here"
    assert cells(page, "f_long")[1:] == [
        "a day",
        "won back: at least 70 %",
        "[Few bits](RESULTS.md#few-bits-python-x)",
    ]
    assert "1 of 2 goals that were measured are met**; 3 could not be measured here" in page
    assert cells(page, "a_fast")[1] == "`python benchmarks/a_fast.py --size 7`"
    assert "left out: not installed" in cells(page, "d_absent")[4]


def test_what_is_done_is_not_done_again_until_all_is_done(made, tmp_path):
    made()
    (tmp_path / "work" / "done").unlink()  # as if interrupted at the very end
    again = made()
    assert "a_fast: done already" in again.stderr
    assert (made.folder / "times").read_text() == "a"
    assert "a_fast: about" in made().stderr
    assert (made.folder / "times").read_text() == "aa"


def test_one_alone_runs_again_and_the_page_keeps_the_others(made):
    made()
    alone = made("--only", "f_long")
    assert alone.returncode == 0, alone.stderr
    page = (made.folder / "BENCH.md").read_text()
    assert cells(page, "won back") == ["won back", "75 %", "", "at least 70 %", "yes", "f_long"]
    assert cells(page, "speed")[1] == "2.5"
    assert "2 of 3 goals that were measured are met**; 3 could not be measured here." in page
    assert (made.folder / "times").read_text() == "a"
    assert "no benchmark is called nothing" in made("--only", "nothing").stderr


def test_figures_of_longer_runs_stay_in_the_table_with_their_date(made):
    made("--only", "f_long")
    made()
    made()  # anew: nothing of that run is left but what is kept
    page = (made.folder / "BENCH.md").read_text()
    date = json.loads((made.folder / "long.json").read_text())["f_long"]["date"]
    row = ["won back", "75 %", "", "at least 70 %", "yes", f"f_long, {date}"]
    assert cells(page, "won back") == row
    assert "2 of 3 goals that were measured are met**; 3 could not" in page
    assert "Of these, 1 are of longer runs" in page


def test_kept_figures_of_longer_runs_are_declared():
    from bench import LONG, read_long

    kept = read_long(BENCHMARKS[0].parent / LONG)
    declared = {path.stem: read_bench(path) for path in DECLARED}
    assert kept.keys() <= {name for name, bench in declared.items() if bench.long}
    for name, found in kept.items():
        assert found["figures"].keys() <= declared[name].figures.keys()


def test_one_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    import bench
    from declared import Declaration, Job

    file = tmp_path / "hangs.py"
    file.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )

    class Short(Job):
        limit = 5.0

    found = bench.run(
        Short("hangs", Declaration(1.0), (), "python hangs.py", ""), tmp_path, tmp_path
    )
    assert found["ended"].startswith("stopped after 5 s; its last line: child ")
    child = int(found["ended"].split()[-1])
    alive = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True)
    assert not alive.stdout.strip() or alive.stdout.strip().startswith("Z")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (18.362, "18.4"),
        (2.5, "2.5"),
        (0.01723, "0.0172"),
        (27948.2, "27,948"),
        (100, "100"),
    ],
)
def test_numbers_have_three_digits_or_are_whole(value, text):
    assert number(value) == text
