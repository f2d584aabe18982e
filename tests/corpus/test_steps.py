"""Steps over record shards: whole or absent, counted, resumable, and safe from a bad record."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial

import pytest

from afm_mlx.corpus.counts import counts_of, drops_of, read_counts
from afm_mlx.corpus.record import Record, drop
from afm_mlx.corpus.record_shards import list_shards, read_drops, read_shard, write_shard
from afm_mlx.corpus.steps import CorpusStep, Filtering, Step, run_steps
from afm_mlx.corpus.workers import run_jobs
from afm_mlx.errors import AfmError, DataError, RunError

# Workers are other processes, which import this by its name.
FILTERS = '''
import json, os, signal, time
from dataclasses import replace

from afm_mlx.corpus.record import drop
from afm_mlx.corpus.record_shards import read_shard
from afm_mlx.errors import DataError


class Upper:
    """Texts in capitals; some words do harm."""

    def __init__(self, pause=0.0):
        self.pause = pause

    def __call__(self, record):
        time.sleep(self.pause)
        if "short" in record.text:
            return drop(record, "upper.short", "a short one")
        if "raise" in record.text:
            raise ValueError("cannot\\nread this")
        if "kill" in record.text:
            os.kill(os.getpid(), 9)
        if "stuck" in record.text:
            time.sleep(3600)
        if "missing" in record.text:
            raise DataError("no package", hint="install it")
        return replace(record, text=record.text.upper(), language="en")


class Repeated:
    """Drops texts that an earlier record has."""

    def prepare(self, shard, out):
        out.write_text(json.dumps([record.text for record in read_shard(shard)]))

    def decide(self, prepared, out):
        seen, dropped = set(), 0
        for path in prepared:
            with (out / f"{path.name.partition('.')[0]}.drops.jsonl").open("w") as file:
                for line, text in enumerate(json.loads(path.read_text())):
                    if text in seen:
                        row = {"line": line, "rule": "repeated", "evidence": text[:20]}
                        file.write(json.dumps(row) + "\\n")
                        dropped += 1
                    seen.add(text)
        return {"dropped": dropped}


class Opens:
    def __init__(self, log):
        self.log = log

    def open(self):
        def work(job, begin, failed):
            for number, what in enumerate(job):
                begin(number)
                if number not in failed:
                    if what == "kill":
                        os.kill(os.getpid(), 9)
                    if what == "sleep":
                        time.sleep(3600)
            return failed
        return work


class DiesAtOnce(Opens):
    def open(self):
        os._exit(3)
'''


@pytest.fixture
def filters(tmp_path, monkeypatch):
    folder = tmp_path / "importable"
    folder.mkdir()
    (folder / "filters_of_test.py").write_text(FILTERS)
    monkeypatch.syspath_prepend(str(folder))
    import filters_of_test

    yield filters_of_test
    sys.modules.pop("filters_of_test")


def make_shards(folder, *texts_of_shards):
    shards = []
    for number, texts in enumerate(texts_of_shards):
        path = folder / f"{number:05}.jsonl.gz"
        source = "even" if number % 2 == 0 else "odd"
        write_shard(path, (Record(f"{number}:{i}", text, source) for i, text in enumerate(texts)))
        shards.append(path)
    return shards


def texts(folder):
    return [[record.text for record in read_shard(path)] for path in list_shards(folder)]


def content(folder):
    """Bytes of every record and drop file, and the counts without the time they took."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(one) for key, one in value.items() if key != "seconds"}
        return value

    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl.gz"))}
    counts = {
        path.name: timeless(json.loads(path.read_text())) for path in folder.glob("*.counts.json")
    }
    return files, counts


# Record shards.


def test_records_come_back_as_they_were_written(tmp_path):
    records = [
        Record(
            "a", "line\nline\u2028\0 \u00fc", "web", "https://x", "MIT", "en", {"score": [1, 2]}
        ),
        Record("b", ""),
    ]
    path = tmp_path / "00000.jsonl.gz"
    assert write_shard(path, records) == 2
    assert list(read_shard(path)) == records
    assert [found.name for found in tmp_path.iterdir()] == ["00000.jsonl.gz"]


def test_same_records_give_the_same_bytes_under_any_name(tmp_path):
    records = [Record("a", "text" * 100)]
    write_shard(tmp_path / "00000.jsonl.gz", records)
    write_shard(tmp_path / "00017.jsonl.gz", records)
    one, other = (path.read_bytes() for path in list_shards(tmp_path))
    assert one == other


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "00000.jsonl.gz"
    write_shard(path, [Record("a", "x\ud800y")])
    assert [record.text for record in read_shard(path)] == ["x?y"]


def test_writing_that_fails_leaves_nothing(tmp_path):
    def records():
        yield Record("a", "text")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_shard(tmp_path / "00000.jsonl.gz", records())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (lambda data: data[:-20], "ended before"),
        (lambda data: data[: len(data) // 2], "ended before"),
        (lambda data: b"plain text", "not a gzipped file"),
        (lambda data: data[:40] + b"\xff" * 9 + data[49:], "broken"),
        (lambda data: gzip.compress(b'{"id": "a"}\n'), "line 1 is no record: .*missing"),
        (lambda data: gzip.compress(b'{"id": "a", "text": 3}\n'), "line 1 is no record"),
        (lambda data: gzip.compress(b"[]\n"), "line 1 is no record"),
        (lambda data: gzip.compress(b'{"id": "a", "text": "", "x": 1}\n'), "no record: .*'x'"),
        (lambda data: gzip.compress(b"\xff\n"), "not UTF-8"),
        (lambda data: gzip.compress(b"[" * 100_000), "line 1 is no record"),
    ],
)
def test_broken_shard_is_named(tmp_path, broken, what):
    path = tmp_path / "00003.jsonl.gz"
    write_shard(path, [Record(str(i), os.urandom(20).hex()) for i in range(100)])
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(DataError, match=what) as error:
        list(read_shard(path))
    assert str(path) in str(error.value)
    assert "run the step that wrote it again" in error.value.hint


def test_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match=r"00000.jsonl.gz is broken: no such file"):
        list(read_shard(tmp_path / "00000.jsonl.gz"))


def test_shards_are_listed_by_number_and_without_their_neighbors(tmp_path):
    for name in ("100000.jsonl.gz", "00002.jsonl.gz", "00002.drops.jsonl.gz", "x.jsonl.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in list_shards(tmp_path)] == ["00002.jsonl.gz", "100000.jsonl.gz"]
    assert list_shards(tmp_path / "nowhere") == []


# Steps.


def test_a_step_keeps_the_order_and_counts_what_it_drops(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "short", "two"], ["three"])
    out = tmp_path / "out"
    total = run_steps(shards, out, [Step("upper", filters.Upper)], workers=1)
    assert texts(out) == [["ONE", "TWO"], ["THREE"]]
    assert list(read_drops(drops_of(out / "00000.jsonl.gz"))) == [
        drop(Record("0:1", "", "even"), "upper.short", "a short one")
    ]
    assert (total["in"], total["out"], total["dropped"]) == (4, 3, {"upper.short": 1})
    assert (total["bytes_in"], total["bytes_out"]) == (16, 11)
    assert total["sources"]["even"]["languages"] == {"en": 2}
    step = total["steps"]["upper"]
    assert (step["in"], step["out"], step["bytes_in"], step["bytes_out"]) == (4, 3, 16, 11)
    assert step["seconds"] > 0


def test_a_step_looks_at_its_sources_only(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "short"], ["two", "short"])
    step = Step("upper", filters.Upper, frozenset({"odd"}))
    total = run_steps(shards, tmp_path / "out", [step], workers=1)
    assert texts(tmp_path / "out") == [["one", "short"], ["TWO"]]
    assert total["steps"]["upper"]["in"] == 2


def test_workers_write_the_same_bytes_as_one_process(tmp_path, filters):
    shards = make_shards(tmp_path / "in", *([f"text {i}", "short", "more"] for i in range(5)))
    run_steps(shards, tmp_path / "one", [Step("upper", filters.Upper)], workers=1)
    run_steps(shards, tmp_path / "two", [Step("upper", filters.Upper)], workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_record_that_raises_is_a_drop_with_evidence(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "raise", "two"])
    run_steps(shards, tmp_path / "out", [Step("upper", filters.Upper)], workers=1)
    assert texts(tmp_path / "out") == [["ONE", "TWO"]]
    (found,) = read_drops(drops_of(tmp_path / "out" / "00000.jsonl.gz"))
    assert (found.id, found.rule) == ("0:1", "step.failed")
    assert found.evidence == "upper: ValueError: cannot"


def test_a_record_that_kills_its_worker_is_a_drop_and_the_run_goes_on(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "kill", "two", "kill"], ["three"], ["four"])
    total = run_steps(shards, tmp_path / "out", [Step("upper", filters.Upper)], workers=2)
    assert texts(tmp_path / "out") == [["ONE", "TWO"], ["THREE"], ["FOUR"]]
    assert total["dropped"] == {"step.failed": 2}
    found = list(read_drops(drops_of(tmp_path / "out" / "00000.jsonl.gz")))
    assert [one.id for one in found] == ["0:1", "0:3"]
    assert found[0].evidence == f"the worker process died: signal {signal.SIGKILL}"
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_package_stops_the_run(tmp_path, filters, workers):
    shards = make_shards(tmp_path / "in", ["one", "missing"], ["two"])
    with pytest.raises(DataError, match="no package") as error:
        run_steps(shards, tmp_path / "out", [Step("upper", filters.Upper)], workers=workers)
    assert error.value.hint == "install it"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_truncated_shard_stops_the_run_and_is_named(tmp_path, filters, workers):
    shards = make_shards(tmp_path / "in", ["one"] * 9, ["two"], ["three"])
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    with pytest.raises(DataError, match=r"00001.jsonl.gz is broken"):
        run_steps(shards, tmp_path / "out", [Step("upper", filters.Upper)], workers=workers)
    assert not counts_of(tmp_path / "out" / "00001.jsonl.gz").exists()


def test_finished_shards_are_kept(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one"], ["two"], ["three"])
    out, step = tmp_path / "out", Step("upper", filters.Upper)
    run_steps(shards, out, [step], workers=1)
    before, whole = out.joinpath("00000.jsonl.gz").stat().st_ino, content(out)
    for name in ("00001.counts.json", "00002.jsonl.gz", "00002.counts.json"):
        (out / name).unlink()
    (out / "00002.jsonl.gz.77.part").write_text("half")
    run_steps(shards, out, [step], workers=1)
    assert content(out) == whole
    assert out.joinpath("00000.jsonl.gz").stat().st_ino == before
    assert not list(out.glob("*.part"))


def test_a_folder_of_other_settings_or_input_is_refused(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one"])
    out = tmp_path / "out"
    run_steps(shards, out, [Step("upper", filters.Upper)], workers=1)
    with pytest.raises(DataError, match="result of other settings or other input"):
        run_steps(shards, out, [Step("upper", filters.Upper, settings={"x": 1})], workers=1)
    write_shard(shards[0], [Record("0", "another text")])
    with pytest.raises(DataError, match="other input"):
        run_steps(shards, out, [Step("upper", filters.Upper)], workers=1)
    with pytest.raises(DataError, match="does not say of which step"):
        run_steps(shards, tmp_path / "in", [Step("upper", filters.Upper)], workers=1)


def test_memory_holds_one_record_and_not_the_shard(tmp_path, filters):
    text = "some words of a long document " * 7_000  # 210 kB
    shards = make_shards(tmp_path / "in", [f"{i} {text}" for i in range(60)])
    work = Filtering((Step("upper", filters.Upper),), tmp_path / "out").open()
    tracemalloc.start()
    counts = work(shards[0], lambda number: None, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts["bytes_out"] > 12_000_000
    assert peak < 3_000_000


# Steps over the whole corpus.


def test_a_corpus_step_drops_what_it_decided_before_the_steps_after_it(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "two"], ["two", "short", "three"])
    repeated = CorpusStep("repeated", filters.Repeated)
    out = tmp_path / "out"
    total = run_steps(shards, out, [Step("upper", filters.Upper)], after=repeated, workers=2)
    assert texts(out) == [["ONE", "TWO"], ["THREE"]]
    assert total["dropped"] == {"repeated": 1, "upper.short": 1}
    assert total["metrics"]["dropped"] == 1
    assert total["steps"]["repeated"]["out"] == total["steps"]["upper"]["in"] == 4
    assert not (out / "prepared").exists()


def test_a_corpus_step_drops_from_its_sources_only(tmp_path, filters):
    shards = make_shards(tmp_path / "in", ["one", "one"], ["one", "one"])
    repeated = CorpusStep("repeated", filters.Repeated, frozenset({"odd"}))
    run_steps(shards, tmp_path / "out", [], after=repeated, workers=1)
    assert texts(tmp_path / "out") == [["one", "one"], []]


# Workers.


def test_a_worker_that_stands_still_at_a_record_is_ended(filters):
    found = []
    run_jobs(
        filters.Opens(None),
        [["ok", "sleep", "ok"], ["ok"]],
        workers=2,
        done=lambda job, result: found.append((job, result)),
        stuck_seconds=1.0,
    )
    assert (["ok", "sleep", "ok"], {1: "the worker process died: no end after 1 s"}) in found
    assert (["ok"], {}) in found


def test_workers_that_die_without_a_record_end_the_run(filters):
    with pytest.raises(RunError, match=r"a worker process died \(exit code 3\)"):
        run_jobs(filters.DiesAtOnce(None), [["a"], ["b"]], workers=2)


SCRIPT = """
import sys
sys.path.insert(0, {importable!r})
from functools import partial
from pathlib import Path
import filters_of_test as filters
from afm_mlx.corpus.record_shards import list_shards
from afm_mlx.corpus.steps import CorpusStep, Step, run_steps

if __name__ == "__main__":
    run_steps(
        list_shards(Path({shards!r})),
        Path({out!r}),
        [Step("upper", partial(filters.Upper, 0.002))],
        after=CorpusStep("repeated", filters.Repeated),
        workers=2,
    )
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, filters):
    many = [[f"text {i} {j % 40}" for j in range(60)] + ["short"] for i in range(8)]
    shards = make_shards(tmp_path / "in", *many)
    repeated = CorpusStep("repeated", filters.Repeated)
    step = Step("upper", partial(filters.Upper, 0.0))
    run_steps(shards, tmp_path / "unbroken", [step], after=repeated, workers=1)

    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            importable=str(tmp_path / "importable"), shards=str(tmp_path / "in"), out=str(out)
        )
    )
    kept: dict[str, int] = {}
    kills = finished_before = 0
    while True:
        process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
        # Two more shards, then the blow; the first one falls while it prepares or decides.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            finished = len(list(out.glob("*.counts.json")))
            if kills < 4 and (
                finished >= finished_before + 2 or (not kills and (out / "prepared").exists())
            ):
                process.kill()
                kills += 1
                break
            time.sleep(0.003)
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        time.sleep(0.3)  # what was left running has seen by now that its parent is gone
        finished_before = len(list(out.glob("*.counts.json")))
        for path in out.glob("*.counts.json"):
            stamp = path.stat().st_mtime_ns
            assert kept.setdefault(path.name, stamp) == stamp  # never done again
    assert kills >= 3
    assert content(out) == content(tmp_path / "unbroken")
    for name, stamp in kept.items():
        assert (out / name).stat().st_mtime_ns == stamp


def test_errors_of_ours_keep_their_hint_between_processes(filters, tmp_path):
    shards = make_shards(tmp_path / "in", ["missing"], ["missing"])
    with pytest.raises(AfmError) as error:
        run_steps(shards, tmp_path / "out", [Step("upper", filters.Upper)], workers=2)
    assert error.value.hint == "install it"


def test_counts_that_are_damaged_are_named(tmp_path):
    (tmp_path / "00000.counts.json").write_text("{")
    with pytest.raises(DataError, match=r"00000.counts.json is damaged"):
        read_counts(tmp_path)
