"""The corpus pipeline: order, passes, sources, resuming, and the stage of a recipe."""

import gzip
import hashlib
import io
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afm_mlx import pipeline
from afm_mlx.corpus.clean import clean_folder, clean_sources, passes_of, read_clean, steps_of
from afm_mlx.corpus.collect import collect
from afm_mlx.corpus.record_shards import list_shards, read_shard
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe, load_section
from afm_mlx.settings.clean import STEPS, Clean
from afm_mlx.settings.sections import Source, SourceKind
from afm_mlx.settings.web import Warc
from tests.small_recipes import pretraining, shape

WORDS = [
    "the",
    "harbor",
    "was",
    "quiet",
    "that",
    "morning",
    "and",
    "two",
    "boats",
    "had",
    "gone",
    "out",
    "before",
    "dawn",
    "while",
    "others",
    "lay",
    "along",
    "a",
    "wall",
    "with",
    "their",
    "sails",
    "down",
    "waiting",
    "for",
    "tide",
    "an",
    "old",
    "woman",
    "sold",
    "bread",
    "from",
    "her",
    "cart",
]


def story(seed, length=120):
    """Words in a random order: a text like no other."""
    chosen = random.Random(seed).choices(WORDS, k=length)
    return ". ".join(" ".join(chosen[i : i + 8]) for i in range(0, length, 8)) + "."


@pytest.fixture
def sources(tmp_path):
    """Stories with a copy, a short one, an address and a benchmark's item; and code."""
    texts = [story(i) for i in range(30)]
    texts[4] = texts[3]
    texts[5] = "Too short."
    texts[6] += " Write to captain@harbor.example today."
    texts[7] += " How many pearls did the seven clever divers of Zanzibar bring home at noon?"
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "stories.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "code").mkdir()
    for i in range(4):
        (tmp_path / "code" / f"{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n")
    item = "How many pearls did the seven clever divers of Zanzibar bring home at noon?"
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": item, "answer": "9"}) + "\n")
    return {
        "stories": Source(kind="jsonl", path=str(tmp_path / "stories.jsonl"), license="MIT"),
        "code": Source(kind="code", path=str(tmp_path / "code")),
    }


@pytest.fixture
def settings(tmp_path):
    return {
        "shard_bytes": 4_000,
        "workers": 1,
        "pii": {"kinds": ["email"]},
        "heuristics": {"off": ["duplicate-ngrams", "top-ngram"]},
        "dedup": {},
        "decontaminate": {"benchmarks": {"pearls": {"path": str(tmp_path / "bench.jsonl")}}},
    }


def tree(folder):
    """SHA-256 of every file, without the times that counts and done.json hold."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(one) for key, one in value.items() if "seconds" not in key}
        return value

    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


# Sources to record shards.


def test_shards_hold_one_source_each_and_end_at_their_bytes(sources, tmp_path):
    found = collect(sources, tmp_path / "out", shard_bytes=3_000, pages=False, warc=Warc())
    assert found["stories"]["documents"] == 30
    assert found["stories"]["stop"] == found["code"]["first"]
    assert found["code"]["stop"] == len(list_shards(tmp_path / "out"))
    for shard in list_shards(tmp_path / "out"):
        records = list(read_shard(shard))
        assert len({record.source for record in records}) == 1
        sizes = [len(record.text.encode()) for record in records]
        assert sum(sizes[:-1]) < 3_000
    (license,) = {record.license for record in read_shard(tmp_path / "out/00000.jsonl.gz")}
    assert license == "MIT"


def test_a_source_that_changed_since_it_was_half_read_is_refused(sources, tmp_path):
    out, options = tmp_path / "out", {"shard_bytes": 3_000, "pages": False, "warc": Warc()}
    collect(sources, out, **options)
    (out / "sources.json").unlink()
    collect(sources, out, **options)  # as if killed: reads again, finds the same
    (out / "sources.json").unlink()
    (tmp_path / "stories.jsonl").write_text('{"text": "another text"}\n')
    with pytest.raises(DataError, match="source 'stories' has changed since"):
        collect(sources, out, **options)


def test_pages_stay_html_and_broken_ones_are_counted(tmp_path):
    pytest.importorskip("fastwarc")
    pytest.importorskip("resiliparse")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.html").write_bytes(
        b"<html><meta charset=iso-8859-1><body>caf\xe9 and more words</html>"
    )
    (folder / "b.html").write_bytes(b"")
    (folder / "c.html").write_bytes(b"<html>" + bytes(range(32)) * 20)
    source = {"web": Source(kind="html", path=str(folder))}
    found = collect(source, tmp_path / "out", shard_bytes=1, pages=True, warc=Warc())
    (record,) = read_shard(tmp_path / "out" / "00000.jsonl.gz")
    assert (record.id, record.source) == ("a.html", "web")
    assert "caf\u00e9" in record.text
    assert "<body>" in record.text
    assert found["web"]["skipped"] == {"binary": 1, "empty": 1}


def test_a_source_without_a_usable_page_is_an_error(tmp_path):
    pytest.importorskip("fastwarc")
    (tmp_path / "a.html").write_bytes(b"")
    source = {"web": Source(kind="html", path=str(tmp_path))}
    with pytest.raises(DataError, match=r"no usable page in .*; skipped 1 empty"):
        collect(source, tmp_path / "out", shard_bytes=1, pages=True, warc=Warc())
    source = {"web": Source(kind="warc", path=str(tmp_path / "none"))}
    with pytest.raises(DataError, match=r"'.*none' does not exist"):
        collect(source, tmp_path / "other", shard_bytes=1, pages=True, warc=Warc())


# Order.


def every_step(**more):
    return Clean.model_validate({name: {} for name in STEPS} | {"words": {"path": "w"}} | more)


def test_steps_run_in_the_order_of_the_report_whatever_the_order_of_the_sections():
    given = {name: {} for name in reversed(STEPS)} | {"words": {"path": "w"}}
    steps = [step.name for step in steps_of(Clean.model_validate(given), {"web": SourceKind.HTML})]
    assert steps == ["math-tags", *STEPS]


def test_each_step_over_the_corpus_begins_a_pass():
    passes = passes_of(steps_of(every_step(), {"web": SourceKind.HTML}))
    assert [(one.name, [step.name for step in one.steps]) for one in passes] == [
        ("filters", ["math-tags", *STEPS[: STEPS.index("dedup")]]),
        ("dedup", ["quality"]),
        ("decontaminate", []),
    ]


def test_text_rules_skip_code_and_extraction_takes_pages_only():
    kinds = {"web": SourceKind.WARC, "git": SourceKind.CODE, "books": SourceKind.TEXT}
    chosen = {step.name: step.sources for step in steps_of(every_step(), kinds)}
    texts = frozenset({"web", "books"})
    assert chosen["extract"] == {"web"}
    assert chosen["language"] == chosen["heuristics"] == chosen["quality"] == texts
    assert chosen["pii"] is chosen["dedup"] is chosen["decontaminate"] is None
    own = every_step(sources={"heuristics": ["git"], "dedup": ["web"]})
    chosen = {step.name: step.sources for step in steps_of(own, kinds)}
    assert chosen["heuristics"] == {"git"}
    assert chosen["dedup"] == {"web"}


# The whole way.


def test_documents_come_out_clean_and_every_drop_is_said(sources, settings, tmp_path):
    summary = clean_sources(sources, Clean.model_validate(settings), tmp_path / "out")
    stories = summary["sources"]["stories"]
    assert (stories["in"], stories["out"]) == (30, 27)
    assert stories["dropped"] == {
        "contaminated": 1,
        "dedup.exact": 1,
        "heuristics.too-short": 1,
    }
    assert summary["sources"]["code"]["out"] == 4  # two lines each: rules for texts skip them
    documents = list(read_clean("stories", tmp_path / "out"))
    assert len(documents) == 27
    assert any("Write to <email> today" in document.text for document in documents)
    assert not any("pearls" in document.text for document in documents)
    assert summary["passes"]["2-dedup"]["metrics"]["exact_duplicates"] == 1


def test_only_the_last_pass_keeps_records_and_all_keep_their_drops(sources, settings, tmp_path):
    clean_sources(sources, Clean.model_validate(settings), tmp_path / "out")
    steps = tmp_path / "out" / "steps"
    for name in ("0-sources", "1-filters", "2-dedup", "3-decontaminate"):
        assert list_shards(steps / name) == []
    assert list((steps / "2-dedup").glob("*.drops.jsonl.gz"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "code",
        "steps",
        "stories",
    ]


def test_without_a_step_the_documents_come_out_as_they_are(sources, tmp_path):
    summary = clean_sources(sources, Clean(), tmp_path / "out")
    assert summary["sources"]["stories"]["out"] == 30
    assert len(list(read_clean("stories", tmp_path / "out"))) == 30


def test_a_source_of_which_nothing_is_left_is_an_error(sources, tmp_path):
    clean = Clean.model_validate({"workers": 1, "heuristics": {"least_words": 5_000}})
    with pytest.raises(DataError, match=r"data.stories: of 30 documents none is left .*too-short"):
        clean_sources(sources, clean, tmp_path / "out")


def test_a_missing_benchmark_is_an_error_and_not_a_drop(sources, settings, tmp_path):
    settings["decontaminate"]["benchmarks"]["pearls"]["path"] = "nowhere.jsonl"
    settings["workers"] = 2
    with pytest.raises(DataError, match=r"nowhere.jsonl"):
        clean_sources(sources, Clean.model_validate(settings), tmp_path / "out")


SCRIPT = """
import json, sys
from pathlib import Path
from afm_mlx.corpus.clean import clean_sources
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Source

if __name__ == "__main__":
    sources, settings, out = json.loads(sys.argv[1])
    sources = {{name: Source.model_validate(one) for name, one in sources.items()}}
    clean_sources(sources, Clean.model_validate(settings), Path(out))
""".replace("{{", "{").replace("}}", "}")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(sources, settings, tmp_path):
    lines = [json.dumps({"text": story(i, 400)}) for i in range(600)]
    (tmp_path / "stories.jsonl").write_text("\n".join([*lines, lines[7], lines[9]]) + "\n")
    settings |= {"shard_bytes": 100_000}
    clean_sources(sources, Clean.model_validate(settings), tmp_path / "unbroken")

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    plain = {name: source.model_dump(mode="json") for name, source in sources.items()}
    arguments = json.dumps([plain, settings | {"workers": 2}, str(out)])
    chance = random.Random(1)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(script), arguments], stderr=subprocess.PIPE, text=True
        )
        if kills < 8:  # from within its imports to within its last pass
            time.sleep(chance.uniform(0.5, 3.0 + kills))
            process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
    assert kills >= 3
    assert tree(out) == {
        name: digest if not name.endswith("done.json") else tree(out)[name]
        for name, digest in tree(tmp_path / "unbroken").items()
    }


# One step on its own.


def test_a_step_alone_takes_documents_or_records(sources, tmp_path):
    clean = Clean.model_validate({"workers": 1, "heuristics": {"least_words": 100}})
    source = Path(sources["stories"].path)
    counts = clean_folder(source, tmp_path / "one", clean)
    assert (counts["in"], counts["out"]) == (30, 29)
    again = clean_folder(tmp_path / "one", tmp_path / "two", Clean(workers=1, dedup={}))
    assert (again["in"], again["out"]) == (29, 28)
    assert [path.name for path in list_shards(tmp_path / "two")] == ["00000.jsonl.gz"]


def test_a_step_alone_takes_the_folders_of_a_clean_stage(sources, settings, tmp_path):
    clean_sources(sources, Clean.model_validate(settings), tmp_path / "out")
    counts = clean_folder(tmp_path / "out", tmp_path / "more", Clean(workers=1, pii={}))
    assert counts["in"] == 31
    (tmp_path / "both").mkdir()
    for name in ("a", "b"):
        clean_folder(tmp_path / "out/stories", tmp_path / "both" / name, Clean(workers=1, pii={}))
    with pytest.raises(DataError, match="several folders of record shards with the same numbers"):
        clean_folder(tmp_path / "both", tmp_path / "c", Clean(workers=1, pii={}))


def test_settings_of_a_step_alone_are_checked_as_those_of_a_recipe():
    given = ["heuristics.least_words=7", "shard_bytes=10"]
    clean = load_section(Clean, {"heuristics": {}}, given)
    assert clean.heuristics.least_words == 7
    with pytest.raises(RecipeError, match=r"no setting is called 'heuristics.least_wrds'") as error:
        load_section(Clean, {}, ["heuristics.least_wrds=7"])
    assert error.value.hint == "did you mean 'heuristics.least_words'?"


# A recipe with [clean].

RECIPE = (
    shape(vocab_size=330)
    + """\
[tokenizer]
reserved_pieces = 16
[data.stories]
kind = "jsonl"
path = "{folder}/stories.jsonl"
held_out_fraction = 0.2
[clean]
workers = 1
shard_bytes = 4_000
[clean.heuristics]
[clean.dedup]
"""
    + pretraining("core", {"stories": 1.0}, tokens=512, row_tokens=16)
)


@pytest.fixture
def recipe(sources, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def run(path, tmp_path, *assignments, last="data"):
    recipe = load_recipe(path, assignments)
    return pipeline.run(recipe, tmp_path / "runs", Progress(stream=io.StringIO()), last=last)


def todo(path, tmp_path, *assignments):
    steps = pipeline.plan_steps(load_recipe(path, assignments), tmp_path / "runs", last="data")
    return [step.stage.name for step in steps if step.todo]


def test_a_recipe_with_clean_trains_on_what_is_left(recipe, tmp_path):
    off = 'clean.heuristics.off=["duplicate-ngrams", "top-ngram"]'
    clean, tokenizer, data = run(recipe, tmp_path, off)
    assert [one["stage"] for one in (clean, tokenizer, data)] == ["clean", "tokenizer", "data"]
    assert clean["metrics"]["sources"]["stories"]["out"] == 28
    stories = data["metrics"]["stories"]
    assert stories["train_documents"] + stories["held_out_documents"] == 28
    assert data["parents"]["clean"] == clean["fingerprint"]
    assert todo(recipe, tmp_path, off) == []
    assert todo(recipe, tmp_path, off, "clean.workers=3") == []  # no result depends on it
    everything = ["clean", "tokenizer", "data"]
    assert todo(recipe, tmp_path, off, "clean.dedup.threshold=0.9") == everything


def test_without_clean_the_stages_and_their_fingerprints_are_as_they_were(tmp_path):
    path = tmp_path / "plain.toml"
    path.write_text(re.sub(r"\[clean\](.|\n)*(?=\[core\])", "", RECIPE).format(folder="folder"))
    steps = pipeline.plan_steps(load_recipe(path), tmp_path, last="data")
    assert [step.stage.name for step in steps] == ["tokenizer", "data"]
    assert steps[0].stage.parents == ()
    assert steps[1].stage.parents == ("tokenizer",)
    # Computed without [clean]; changes with the settings of sources, and then once for everyone.
    assert steps[1].fingerprint == (
        "a6465197f99632fe60b7d90c5af7719793b7cf092e0f9584b2dda7d87ec87c56"
    )


def test_clean_that_does_not_fit_the_data_is_refused(recipe):
    with pytest.raises(RecipeError, match=r"clean.sources.pii names 'web'|no \[clean.pii\]"):
        load_recipe(recipe, ['clean.sources={"pii"=["web"]}'])
    with pytest.raises(RecipeError, match=r"names 'storys', .*did you mean 'stories'"):
        load_recipe(recipe, ['clean.sources={"dedup"=["storys"]}'])
    with pytest.raises(RecipeError, match=r"data.stories is of kind warc, and needs"):
        load_recipe(recipe, ["data.stories.kind=warc"])
    with pytest.raises(RecipeError, match=r"no setting is called 'clean.dedupe'"):
        load_recipe(recipe, ["clean.dedupe.bands=3"])


def test_a_damaged_shard_of_the_clean_stage_is_named(sources, settings, tmp_path):
    clean_sources(sources, Clean.model_validate(settings), tmp_path / "out")
    shard = list_shards(tmp_path / "out" / "stories")[0]
    shard.write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(DataError, match=shard.name):
        list(read_clean("stories", tmp_path / "out"))
