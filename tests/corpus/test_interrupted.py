"""Kill -9 or a full disk at any step, then the same command: the bytes of an unbroken run.

Python tells an audit hook of each file that is about to be opened, renamed or deleted. The hook is
put into the processes of the real command from outside, notes these moments, and kills at one, or
takes the room on the disk: from then on no file grows beyond a byte.
"""

import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.small_recipes import pretraining, shape

pytest.importorskip("fastwarc")
pytest.importorskip("trafilatura")

from afm_mlx.corpus.filters.quality import train_classifier
from afm_mlx.settings.quality import Quality

HOOK = r"""
import os, re, resource, signal, sys

FOLDER, LOG = os.environ["AFM_TEST_FOLDER"], os.environ.get("AFM_TEST_LOG")
MOMENT, WHOM = os.environ.get("AFM_TEST_MOMENT"), os.environ.get("AFM_TEST_WHOM")
WRITES = os.O_WRONLY | os.O_RDWR
inside = False

def hook(event, arguments):
    global inside
    if inside or event not in ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree"):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    path = os.fsdecode(arguments[1 if event == "os.rename" else 0]) if not isinstance(
        arguments[1 if event == "os.rename" else 0], int) else ""
    if not path.startswith(FOLDER + "/") or path.endswith(".lock"):
        return
    inside = True
    name = re.sub(r"\.\d+\.part", ".part", path[len(FOLDER) + 1:])
    moment = f"{event.rpartition('.')[2]} {name}"
    worker = os.getpid() != os.getpgrp()
    if LOG:
        log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{int(worker)} {moment}\n".encode())
        os.close(log)
    if moment == MOMENT and (worker or WHOM in ("run", "group", "disk")):
        try:
            os.close(os.open(FOLDER + ".killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            if WHOM == "group":
                os.killpg(0, signal.SIGKILL)
            if WHOM == "disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
                inside = False
                return
            os.kill(os.getppid() if WHOM == "parent" else os.getpid(), signal.SIGKILL)
    inside = False

sys.addaudithook(hook)
"""

AFM = [sys.executable, "-c", "import sys; from afm_cli import main; sys.exit(main())"]
END_SECONDS = 20.0  # for processes that were left behind; ours


@dataclass
class Command:
    """A command that writes to a folder, in processes that the hook watches."""

    words: list[str]
    folder: Path
    hook: Path

    def run(self, *, moment: str = "", whom: str = "", log: Path | None = None) -> int:
        """Its exit code, once no process of it is left."""
        known = {"PYTHONPATH": str(self.hook), "AFM_TEST_FOLDER": str(self.folder)}
        if moment:
            known |= {"AFM_TEST_MOMENT": moment, "AFM_TEST_WHOM": whom}
        if log:
            known |= {"AFM_TEST_LOG": str(log)}
        process = subprocess.Popen(
            [*AFM, *self.words],
            env=os.environ | known,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, self.said = process.communicate()
        self.wait_for_the_rest(process.pid)
        return process.returncode

    def wait_for_the_rest(self, group: int) -> None:
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except (ProcessLookupError, PermissionError):  # macOS has the latter for none left
                return
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)
        raise AssertionError(f"processes were left behind by {self.words}")


CLOCKS = (".lock", "report.html", "report.md")
"""Files of a run that are told by the clock: a report says how long everything took."""


def content(folder):
    """SHA-256 of every file; without what depends on the clock or the number of workers."""

    def timeless(value):
        if isinstance(value, dict):
            return {
                key: timeless(one)
                for key, one in value.items()
                if "seconds" not in key and key != "workers"
            }
        return value

    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in CLOCKS:
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def finished(folder):
    """When what says that something is finished was written."""
    said = re.compile(r"\d+\.counts\.json|(sources|step|done|metrics|docs|pages|web|tales)\.json")
    return {
        path.relative_to(folder).as_posix().replace(".part/", "/"): path.stat().st_mtime_ns
        for path in folder.rglob("*.json")
        if said.fullmatch(path.name) and "decided.making" not in path.as_posix()
    }


SENTENCES = (
    "the harbor was quiet that morning and two boats had gone out before dawn while others lay "
    "along a wall with their sails down waiting for the tide an old woman sold bread from her "
    "cart to children of whom some had no shoes but all of them laughed at what the gulls did"
)

RECIPE = (
    shape(vocab_size=400)
    + """\
[tokenizer]
reserved_pieces = 16
[data.docs]
kind = "text"
path = "python:docs"
max_bytes = 30_000
[data.pages]
kind = "html"
path = "{corpus}/pages"
[data.web]
kind = "warc"
path = "{corpus}/web.warc.gz"
[data.tales]
kind = "jsonl"
path = "{corpus}/tales.jsonl"
[clean]
workers = {workers}
shard_bytes = 6_000
[clean.extract]
least_words = 20
[clean.language]
least_probability = 0.3
[clean.words]
path = "{corpus}/words.txt"
[clean.pii]
kinds = ["email"]
[clean.heuristics]
off = ["duplicate-ngrams", "top-ngram", "stop-words"]
[clean.math]
[clean.dedup]
[clean.quality]
model = "{corpus}/quality.npz"
keep_share = 0.95
[clean.decontaminate]
benchmarks = {{ pearls = {{ path = "{corpus}/pearls.jsonl" }} }}
"""
    + pretraining("core", {"docs": 1.0}, tokens=512, row_tokens=16)
)


def tale(seed, length=120):
    """Words in a random order: a text like no other."""
    chosen = random.Random(seed).choices(SENTENCES.split(), k=length)
    return ". ".join(" ".join(chosen[i : i + 8]) for i in range(0, length, 8)) + "."


def page(seed):
    return f"<html><head><title>{seed}</title></head><body><article><p>{tale(seed)}</p></article>"


def warc_record(seed):
    body = page(seed).encode()
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:test:{seed}>\r\n"
        f"WARC-Target-URI: https://example.org/{seed}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Pages, an archive and tales: with copies, mail addresses and an item of a benchmark."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "pages").mkdir()
    for seed in range(24):
        (folder / "pages" / f"{seed:02}.html").write_text(page(seed))
    (folder / "web.warc.gz").write_bytes(b"".join(map(warc_record, range(20, 44))))
    item = "How many pearls did the seven clever divers of Zanzibar bring home at noon?"
    tales = [tale(seed) for seed in range(100, 136)]
    tales[3] += " Write to captain@harbor.example today."
    tales[5] = tales[4]
    tales[20] += f" {item}"
    tales[30] = "Too short."
    (folder / "tales.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tales))
    (folder / "pearls.jsonl").write_text(json.dumps({"question": item}) + "\n")
    (folder / "words.txt").write_text("scoundrel\n")
    graded = [(tale(seed), 1.0) for seed in range(200, 260)]
    graded += [(" ".join("xyzw"[i % 4] for i in range(seed)), 0.0) for seed in range(40, 100)]
    train_classifier(graded, folder / "quality.npz", Quality(hash_bits=12))
    return folder


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hook")
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


class Unbroken:
    """A run that nothing interrupts: its files, and the moments of its processes, in order."""

    def __init__(self, command, log):
        assert command.run(log=log) == 0, command.said
        self.content = content(command.folder)
        self.moments = list(dict.fromkeys(log.read_text().splitlines()))

    def by_workers(self):
        """Moments of the processes beside the first, one of each kind: numbers do not matter."""
        return self.of_each_kind("1 ")

    def by_first(self):
        """The same of the first process."""
        return self.of_each_kind("0 ")

    def of_each_kind(self, process):
        kinds = {}
        for moment in self.moments:
            if moment.startswith(process):
                kinds.setdefault(re.sub(r"\d+(?![-.\w]*-)", "N", moment), []).append(moment[2:])
        return [same[len(same) // 2] for same in kinds.values()]


def a_run(corpus, hook, folder, workers):
    """The command that makes token shards of everything."""
    path = folder / "small.toml"
    path.write_text(RECIPE.format(corpus=corpus, workers=workers))
    words = ["run", str(path), "--until", "data", "--runs", str(folder / "runs")]
    return Command(words, folder / "runs" / "small", hook)


@pytest.fixture(scope="module")
def unbroken(corpus, hook, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return Unbroken(a_run(corpus, hook, folder, 1), folder / "log")


def interrupted(command, moment, whom):
    """Stop at a moment and go on: what is there in the end. What was finished is not made again."""
    code = command.run(moment=moment, whom=whom)
    killed = command.folder.with_name(f"{command.folder.name}.killed")
    assert killed.exists(), f"never came to: {moment}"
    if whom == "worker":
        assert code == 0, command.said
    else:
        assert code == (2 if whom == "disk" else -signal.SIGKILL), command.said
        assert whom != "disk" or "file too large" in command.said
        before = finished(command.folder)
        assert command.run() == 0, command.said
        after = finished(command.folder)
        assert {name: after.get(name, stamp) for name, stamp in before.items()} == before
    return content(command.folder)


STEPS = "clean.part/steps"


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(f"rename {STEPS}/0-sources/00004.counts.json", id="collect"),
        pytest.param(f"open {STEPS}/1-filters/00005.drops.jsonl.gz.part", id="filters"),
        pytest.param(f"remove {STEPS}/0-sources/00003.jsonl.gz", id="delete-what-was-filtered"),
        pytest.param(f"rename {STEPS}/2-dedup/prepared/00004", id="prepare-dedup"),
        pytest.param(f"open {STEPS}/2-dedup/decided.making/00003.drops.jsonl", id="decide-dedup"),
        pytest.param(
            f"open {STEPS}/3-decontaminate/prepared/00002.part", id="prepare-decontaminate"
        ),
        pytest.param(f"rename {STEPS}/3-decontaminate/decided", id="decide-decontaminate"),
        pytest.param("rename clean.part/pages/00004.jsonl.gz", id="hand-out"),
        pytest.param("open tokenizer.part/tokenizer/tokenizer_config.json", id="tokenizer"),
        pytest.param("open data.part/web/train/00000.bin", id="token-shards"),
    ],
)
def test_killed_in_any_step_it_goes_on_to_the_same_bytes(corpus, hook, tmp_path, unbroken, moment):
    assert interrupted(a_run(corpus, hook, tmp_path, 1), moment, "run") == unbroken.content


@pytest.mark.parametrize("whom", ["parent", "worker"])
def test_of_two_workers_one_or_their_parent_may_be_killed(corpus, hook, tmp_path, whom):
    def dedup(out):
        words = ["data", "dedup", str(corpus / "tales.jsonl"), str(out)]
        return Command([*words, "--set", "shard_bytes=6000", "--set", "workers=2"], out, hook)

    whole = Unbroken(dedup(tmp_path / "whole"), tmp_path / "log")
    found = interrupted(dedup(tmp_path / "out"), "rename prepared/00001", whom)
    assert found == whole.content


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        (["filter", "--step", "heuristics"], "open 00000.jsonl.gz.part"),
        (["dedup"], "open prepared/00000.part"),
    ],
)
def test_workers_write_nothing_after_their_parent_was_killed(hook, tmp_path, words, moment):
    lines = (json.dumps({"text": tale(seed, 2_000)}) for seed in range(300))
    (tmp_path / "tales.jsonl").write_text("\n".join(lines))  # a second of work in one shard
    out = tmp_path / "out"
    command, *options = words
    words = ["data", command, str(tmp_path / "tales.jsonl"), str(out), *options]
    killed = Command([*words, "--set", "workers=2"], out, hook)
    assert killed.run(moment=moment, whom="parent") == -signal.SIGKILL
    assert not [path for path in out.rglob("*.counts.json") if path.parent.name != "sources"]
    assert not (out / "00000.jsonl.gz").exists()
    assert not (out / "prepared" / "00000").exists()


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        (["dedup"], "mkdir decided.making/working"),
        (["decontaminate", "--benchmark", "pearls.jsonl"], "open prepared/00001.part"),
    ],
)
def test_a_full_disk_is_said_and_no_harm(corpus, hook, tmp_path, monkeypatch, words, moment):
    monkeypatch.chdir(corpus)

    def make(out):
        settings = ["--set", "shard_bytes=6000", "--set", "workers=1"]
        return Command(
            ["data", words[0], "tales.jsonl", str(out), *words[1:], *settings], out, hook
        )

    whole = Unbroken(make(tmp_path / "whole"), tmp_path / "log")
    assert interrupted(make(tmp_path / "out"), moment, "disk") == whole.content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "whom"), [(1, "run"), (1, "disk"), (2, "group"), (2, "parent"), (2, "worker")]
)
def test_killed_at_every_kind_of_moment(
    corpus, hook, tmp_path, record_property, unbroken, workers, whom
):
    (tmp_path / "whole").mkdir()
    whole = Unbroken(a_run(corpus, hook, tmp_path / "whole", workers), tmp_path / "log")
    assert whole.content == unbroken.content
    moments = whole.by_first() if workers == 1 else whole.by_workers()
    if whom == "group":
        moments += whole.by_first()
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = interrupted(a_run(corpus, hook, folder, workers), moment, whom)
        assert found == unbroken.content, moment
    record_property("moments", moments)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pages", ["extract", "--set", "extract.least_words=20"]),
        ("web.warc.gz", ["extract", "--set", "extract.least_words=20"]),
        ("tales.jsonl", ["filter", "--step", "language"]),
        ("tales.jsonl", ["filter", "--step", "words", "--set", "words.path=words.txt"]),
        ("tales.jsonl", ["filter", "--step", "pii"]),
        ("tales.jsonl", ["filter", "--step", "heuristics"]),
        ("tales.jsonl", ["filter", "--step", "math"]),
        ("tales.jsonl", ["filter", "--step", "quality", "--set", "quality.model=quality.npz"]),
        ("tales.jsonl", ["dedup"]),
        ("tales.jsonl", ["decontaminate", "--benchmark", "pearls.jsonl"]),
    ],
)
def test_each_command_killed_at_every_kind_of_moment(
    corpus, hook, tmp_path, monkeypatch, record_property, source, words, workers
):
    monkeypatch.chdir(corpus)
    command, *options = words

    def make(out):
        arguments = ["data", command, source, str(out), *options]
        settings = ["--set", "shard_bytes=6000", "--set", f"workers={workers}"]
        return Command([*arguments, *settings], out, hook)

    whole = Unbroken(make(tmp_path / "whole"), tmp_path / "log")
    whoms = {"run": whole.by_first()}
    if workers == 2:
        whoms = {"parent": whole.by_workers(), "worker": whole.by_workers()}
    for whom, moments in whoms.items():
        for number, moment in enumerate(moments):
            found = interrupted(make(tmp_path / f"{whom}-{number}"), moment, whom)
            assert found == whole.content, moment
        record_property(whom, moments)
