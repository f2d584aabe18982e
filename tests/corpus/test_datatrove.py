"""The same steps as tasks of datatrove: the same bytes as of `run_steps`, also after a kill."""

import os
import random
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip(
    "datatrove", reason="datatrove is not installed: pip install 'afm-mlx[cluster]'"
)

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import list_shards, write_shard
from afm_mlx.corpus.steps import run_steps

# In a process of its own: datatrove's logger writes to the terminal, and tasks are started anew.
SCRIPT = """
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from steps_of_test import DEDUP, RULES
from afm_mlx.corpus.datatrove import DecideCorpus, FilterShards, PrepareShards

def tasks(name, step, tasks, before=None):
    return LocalPipelineExecutor(
        [step], tasks=tasks, workers=min(tasks, 2), depends=before,
        logging_dir=str(folder / "logs" / name), skip_completed=True,
    )

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    rules, unique = folder / "rules", folder / "unique"
    tasks("rules", FilterShards(folder / "in", rules, [RULES]), 3).run()
    prepared = tasks("prepare", PrepareShards(rules, unique, DEDUP), 3)
    decided = tasks("decide", DecideCorpus(rules, unique, DEDUP), 1, prepared)
    tasks("filter", FilterShards(rules, unique, [], DEDUP), 3, decided).run()
"""

STEPS = """
import os, signal
from functools import partial
from pathlib import Path

from afm_mlx.corpus.clean import make_corpus_step, make_filter
from afm_mlx.corpus.steps import CorpusStep, Step
from afm_mlx.settings.filters import Heuristics
from afm_mlx.settings.overlap import Dedup

class Deadly:
    '''The filter of rules; the first run that comes to one text is killed there.'''

    def __init__(self, settings):
        self.filter = make_filter("heuristics", settings)

    def __call__(self, record):
        killed = os.environ.get("AFM_TEST_KILLED")
        if killed and record.id == "4:3" and not Path(killed).exists():
            Path(killed).touch()
            os.killpg(0, signal.SIGKILL)
        return self.filter(record)

RULES = Step("heuristics", partial(Deadly, Heuristics(off=("duplicate-ngrams", "top-ngram"))))
DEDUP = CorpusStep("dedup", partial(make_corpus_step, "dedup", Dedup()))
"""


WORDS = "the boats had gone out before dawn and others lay along a wall with their sails down "


def shards(folder):
    """Seven shards of eight texts: some are copies, and some are too short."""
    for number in range(7):
        seeds = [10 * number + i for i in range(8)]
        seeds[2] *= number % 2
        chosen = [random.Random(seed).choices(WORDS.split(), k=90) for seed in seeds]
        texts = [
            ". ".join(" ".join(one[i : i + 9]) for i in range(0, 90, 9)) + "." for one in chosen
        ]
        texts[5] = "Too short."
        records = (Record(f"{number}:{i}", text, "tales") for i, text in enumerate(texts))
        write_shard(folder / f"{number:05}.jsonl.gz", records)


def content(folder):
    """Every file; without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_text() if path.suffix == ".json" else path.read_bytes()
            if path.suffix == ".json":
                data = re.sub(r'"\w*seconds": [\d.e-]+', "", data)
            found[path.relative_to(folder).as_posix()] = data
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Shards, and in `by_steps` what `run_steps` makes of them."""
    (tmp_path / "steps_of_test.py").write_text(STEPS)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path))
    import steps_of_test as made

    shards(tmp_path / "in")
    rules, unique = tmp_path / "by_steps" / "rules", tmp_path / "by_steps" / "unique"
    run_steps(list_shards(tmp_path / "in"), rules, [made.RULES], workers=1)
    total = run_steps(list_shards(rules), unique, [], after=made.DEDUP, workers=1)
    assert total["dropped"].keys() == {"dedup.exact"}
    sys.modules.pop("steps_of_test")
    return tmp_path


def run(folder, **known):
    """Run the script in a process group of its own."""
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder)],
        env=os.environ | known | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )


@pytest.mark.slow
def test_tasks_of_datatrove_write_the_same_bytes(folder):
    done = run(folder)
    assert done.returncode == 0, done.stderr
    for name in ("rules", "unique"):
        assert content(folder / name) == content(folder / "by_steps" / name)


@pytest.mark.slow
def test_killed_tasks_go_on_where_they_were(folder):
    killed = run(folder, AFM_TEST_KILLED=str(folder / "killed"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = {path: path.stat().st_mtime_ns for path in (folder / "rules").glob("*.counts.json")}
    assert 0 < len(before) < 7
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("rules", "unique"):
        assert content(folder / name) == content(folder / "by_steps" / name)
