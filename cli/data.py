"""afm data: documents to clean records and token shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .options import JsonFlag, LogJsonFlag, RunsFlag, SetFlag

app = typer.Typer(no_args_is_help=True, help="Documents to clean records and token shards.")

GRADE_TOKENS = 160
"""Longest answer of a model that grades, in tokens: a short reason and a line. Ours."""


FromArgument = Annotated[
    Path,
    typer.Argument(
        metavar="IN", help="Record shards, or documents: a file or a folder.", show_default=False
    ),
]
OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder for record shards.", show_default=False)
]
KindFlag = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="text, markdown, jsonl, parquet, html, warc or code.",
        show_default="by file ending",
    ),
]


@app.command()
def crawl(
    seeds: Annotated[list[str], typer.Argument(help="Addresses to start from.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the WARC files.")],
    set_: SetFlag = [],
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Fetch web pages politely into WARC files; needs --set contact=WHO."""
    import json
    from contextlib import closing

    from afm_mlx.corpus.crawl.crawler import crawl as fetch
    from afm_mlx.progress import Progress
    from afm_mlx.recipe import load_section
    from afm_mlx.settings.web import Crawl

    settings = load_section(Crawl, {}, set_)
    with closing(Progress(log_json=log_json)) as progress:
        result = fetch(seeds, out, settings, progress)
    if json_:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{result['saved']:,} of {result['pages']:,} pages saved to {out}")


@app.command()
def extract(
    source: FromArgument,
    out: OutArgument,
    kind: KindFlag = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Take the main content out of web pages: HTML files, WARC files, or records of pages."""
    _run_step(source, out, {"extract": {}}, kind, set_, json_)


@app.command(name="filter")
def filter_(
    source: FromArgument,
    out: OutArgument,
    step: Annotated[
        list[str],
        typer.Option(help="language, words, pii, heuristics, math or quality. Can be repeated."),
    ] = ["language", "pii", "heuristics"],
    kind: KindFlag = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Drop documents that rules or classifiers reject, and mask personal data."""
    steps = ("language", "words", "pii", "heuristics", "math", "quality")
    for name in step:
        if name not in steps:
            raise typer.BadParameter(
                f"{name} is not one of {', '.join(steps)}", param_hint="--step"
            )
    _run_step(source, out, {name: {} for name in step}, kind, set_, json_)


@app.command()
def dedup(
    source: FromArgument,
    out: OutArgument,
    kind: KindFlag = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Drop exact and near-duplicates, over all documents of a folder."""
    _run_step(source, out, {"dedup": {}}, kind, set_, json_)


@app.command()
def decontaminate(
    source: FromArgument,
    out: OutArgument,
    benchmark: Annotated[
        list[Path], typer.Option(help="A file or folder of a benchmark. Can be repeated.")
    ],
    kind: KindFlag = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Drop documents that hold items of benchmarks."""
    benchmarks = {name: {"path": str(path)} for name, path in _named(benchmark).items()}
    _run_step(source, out, {"decontaminate": {"benchmarks": benchmarks}}, kind, set_, json_)


@app.command()
def grade(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of record shards.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File of grades, JSON lines.")],
    model: Annotated[str, typer.Option(help="Recipe name, model folder, GGUF file, or smollm2.")],
    most: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most documents to grade.")
    ] = None,
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    json_: JsonFlag = False,
) -> None:
    """Ask a local model for the quality of documents, to train the quality filter on."""
    import json
    from itertools import islice

    from afm_mlx.corpus.filters.grades import grade_to_file
    from afm_mlx.corpus.record_shards import read_shards
    from afm_mlx.inference.engine import Engine
    from afm_mlx.recipe import load_section
    from afm_mlx.settings.quality import Grading

    from .models_io import find_model

    settings = load_section(Grading, {}, set_)
    found = read_shards(source)
    folder = find_model(model, runs)
    engine = Engine.open(folder)

    def answer(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        chunks = engine.stream(messages, max_tokens=GRADE_TOKENS, temperature=0.0)
        return "".join(chunk.text for chunk in chunks)

    result = grade_to_file(islice(found, most), answer, out, settings, grader=folder.resolve().name)
    if json_:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{result['graded']:,} grades in {out}")
    if result["unparsable"]:
        typer.echo(f"{result['unparsable']:,} answers held no grade", err=True)


@app.command()
def quality(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the classifier.")],
    grades: Annotated[
        list[Path],
        typer.Option(help="JSON lines of text and grade, of people or `afm data grade`."),
    ] = [],
    seeds: Annotated[
        Path | None, typer.Option(help="List of good and bad sites, for documents of --records.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Record shards that --seeds grades.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Record shards of which quality.keep_share is to stay."),
    ] = None,
    set_: SetFlag = [],
    json_: JsonFlag = False,
) -> None:
    """Train the classifier of the quality filter, from graded documents."""
    import json
    from itertools import chain

    from afm_mlx.corpus.filters.grades import Seeds, grade_by_seeds, read_grades
    from afm_mlx.corpus.filters.quality import calibrate, train_classifier
    from afm_mlx.corpus.record_shards import read_shards
    from afm_mlx.recipe import load_section
    from afm_mlx.settings.quality import Quality

    if not grades and seeds is None:
        raise typer.BadParameter("give --grades FILE, or --seeds FILE with --records DIR")
    if (seeds is None) != (records is None):
        raise typer.BadParameter("--seeds and --records belong together")
    settings = load_section(Quality, {}, set_)
    graded = [read_grades(file) for file in grades]
    if seeds is not None and records is not None:
        graded.append(grade_by_seeds(read_shards(records), Seeds(seeds)))
    metrics = train_classifier(chain.from_iterable(graded), out, settings)
    if sample is not None:
        calibrate(out, (record.text for record in read_shards(sample)), out)
    if json_:
        typer.echo(json.dumps(metrics))
        return
    for name, value in metrics.items():
        typer.echo(
            f"{name:18}{value:>12,.0f}" if name[:4] == "num_" else f"{name:18}{value:>12.4f}"
        )
    typer.echo(f"classifier in {out}; use it with --set quality.model={out}")


@app.command()
def clean(
    recipe: Annotated[str, typer.Argument(help="Recipe name, or a TOML file.")],
    timing: Annotated[
        bool, typer.Option("--timing", help="Print the throughput of each step.")
    ] = False,
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Take a recipe's documents through the steps of its section clean."""
    from .run import run

    run(recipe, until="clean", set_=set_, runs=runs, log_json=log_json, json_=json_)
    if timing and not json_:
        from afm_mlx.corpus.card import timing as read_timing
        from afm_mlx.corpus.card import timing_table
        from afm_mlx.recipe import load_named_recipe

        folder = runs / load_named_recipe(recipe, set_).name / "clean"
        typer.echo(timing_table(read_timing(folder)))


@app.command()
def card(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, such as runs/afm-mac, or a step's result.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write data-card.md and data-card.json there."),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Describe a corpus: sources, licenses, tokens, drops, duplicates, contamination, samples."""
    import json

    from afm_mlx.artifact import write_text
    from afm_mlx.corpus.card import make_card, to_markdown

    made = make_card(run)
    as_json, page = json.dumps(made, indent=2), to_markdown(made)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "data-card.json", as_json + "\n")
        write_text(out / "data-card.md", page)
    typer.echo(as_json if json_ else page.rstrip())


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="Recipe name (see `afm models`), or a TOML file.")],
    set_: SetFlag = [],
    runs: RunsFlag = Path("runs"),
    log_json: LogJsonFlag = None,
    json_: JsonFlag = False,
) -> None:
    """Train the recipe's tokenizer and write the token shards of its sources."""
    from .run import run

    run(recipe, until="data", set_=set_, runs=runs, log_json=log_json, json_=json_)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder of shards, such as runs/R/data/NAME.")],
    split: Annotated[
        Literal["train", "held_out"], typer.Option(help="Which part of the documents.")
    ] = "train",
    start: Annotated[int, typer.Option(min=0, help="First token to show.")] = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to show.")] = 400,
    json_: JsonFlag = False,
) -> None:
    """Compare the shards' checksums, count what is in them, and show a piece of the text."""
    import json

    from afm_mlx.corpus.shards import Shards
    from afm_mlx.text.tokenizer import Tokenizer

    shards = Shards.open(folder, split)
    shards.verify()
    counts = {
        "tokens": shards.num_tokens,
        "documents": shards.documents,
        "text_bytes": shards.text_bytes,
    }
    if start >= shards.num_tokens:
        raise typer.BadParameter(f"{start:,} is past the last of {shards.num_tokens:,} tokens")
    ids = shards.read(start, min(start + tokens, shards.num_tokens)).tolist()
    tokenizer = folder.parent.parent / "tokenizer" / "tokenizer"  # where a run keeps it
    text = Tokenizer.open(tokenizer).decode(ids) if tokenizer.is_dir() else str(ids)
    if json_:
        typer.echo(json.dumps(counts | {"ids": ids, "text": text}))
        return
    for name, count in counts.items():
        typer.echo(f"{name:12}{count:>16,}")
    typer.echo(f"\n{text}")


def _named(paths: list[Path]) -> dict[str, Path]:
    """Paths by their names without endings, and those of their folders where two are equal."""
    names = [path.absolute().name.partition(".")[0] for path in paths]
    named: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            name = f"{path.absolute().parent.name}-{name}"
        if name in named:
            raise typer.BadParameter(
                f"{named[name]} and {path} are both called {name}", param_hint="--benchmark"
            )
        named[name] = path
    return named


def _run_step(
    source: Path,
    out: Path,
    steps: dict[str, dict[str, Any]],
    kind: str | None,
    set_: list[str],
    json_: bool,
) -> None:
    """Run steps of [clean] on a folder, and print what went in and out, and why."""
    import json

    from afm_mlx.corpus.clean import clean_folder
    from afm_mlx.progress import Progress
    from afm_mlx.recipe import load_section
    from afm_mlx.settings.clean import Clean
    from afm_mlx.settings.sections import SourceKind

    if kind is not None and kind not in list(SourceKind):
        raise typer.BadParameter(
            f"{kind} is not one of {', '.join(SourceKind)}", param_hint="--kind"
        )
    settings = load_section(Clean, steps, set_)
    if set(settings.steps()) - set(steps):
        raise typer.BadParameter(f"this command runs {', '.join(steps)} only", param_hint="--set")
    counts = clean_folder(
        source, out, settings, kind=SourceKind(kind) if kind else None, told=Progress().status
    )
    if json_:
        typer.echo(json.dumps(counts))
        return
    for name in ("in", "out"):
        typer.echo(f"{name:8}{counts[name]:>14,} documents{counts[f'bytes_{name}']:>18,} bytes")
    for rule, count in sorted(counts["dropped"].items(), key=lambda item: -item[1]):
        typer.echo(f"dropped {count:>14,} {rule}")
    for name, found in counts.get("metrics", {}).get("benchmarks", {}).items():
        typer.echo(f"found {found['items_found']:>16,} of {found['items']:,} items of {name}")
        if found["too_short"]:
            typer.echo(f"{found['too_short']:,} items of {name} are too short to find", err=True)
    for reason, count in counts["skipped"].items():
        typer.echo(f"skipped {count:>14,} {reason}", err=True)
