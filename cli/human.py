"""`afm human`: people compare answers of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    HOST,
    MAX_TOKENS,
    RUNS,
    AdapterFlag,
    ApiKeyFlag,
    HostFlag,
    MaxTokensFlag,
    PortFlag,
    RunsFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    TopPFlag,
)
from .serve import check_server, url_of
from .subjects import EndpointFlag, find_subject
from .terminal import tell

if TYPE_CHECKING:
    from afm_mlx.evaluation.human.store import Store
    from afm_mlx.evaluation.prompts import Prompt
    from afm_mlx.evaluation.writing import Author

app = typer.Typer(no_args_is_help=True, help="People compare the answers of models.")

PORT = 8_090
"""Beside `afm serve`, whose is 8080."""

DbFlag = Annotated[Path, typer.Option("--db", metavar="FILE", help="Grades, in SQLite.")]


@app.command()
def answers(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Recipe name, model folder, GGUF file, hub id, or smollm2; apple is the one of "
            "macOS 26. With --endpoint: its name there.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Answers; what is there stays.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSONL of id, category and prompt.",
            show_default="those that come with the toolkit",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Only so many, evenly of all categories.", show_default="all"
        ),
    ] = None,
    category: Annotated[
        list[str],
        typer.Option(
            "--category", metavar="NAME", help="Only this one. Can be repeated.", show_default=False
        ),
    ] = [],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the model is called.", show_default="after MODEL"),
    ] = None,
    endpoint: EndpointFlag = None,
    system: SystemFlag = "",
    adapter: AdapterFlag = None,
    max_tokens: MaxTokensFlag = MAX_TOKENS,
    temperature: TemperatureFlag = 0.0,
    top_p: TopPFlag = 1.0,
    seed: SeedFlag = 0,
    runs: RunsFlag = RUNS,
) -> None:
    """Write a model's answers to the prompts; the same command goes on where it was."""
    from afm_mlx.evaluation.answers import Appending
    from afm_mlx.evaluation.human.apple import WORD, AppleSubject, NotHere
    from afm_mlx.evaluation.subject import Drawing
    from afm_mlx.evaluation.writing import write_answers
    from afm_mlx.inference.answers import check_sampling
    from afm_mlx.inference.requests import Sampling
    from afm_mlx.progress import Progress

    check_sampling(Sampling(max_tokens, temperature, top_p, seed))
    chosen = _chosen(prompts, category, limit)
    drawing = Drawing(temperature, top_p, seed)
    author: Author
    if model == WORD and endpoint is None:
        try:
            author = AppleSubject(drawing)
        except NotHere as error:
            hint = f" ({error.hint})" if error.hint else ""
            tell(f"skipped: Apple's on-device model cannot be asked: {error}{hint}")
            return
    else:
        author = find_subject(model, runs, adapter=adapter, endpoint=endpoint).open(drawing)
    called = name or author.name
    settings = {**author.facts, "max_tokens": max_tokens, "system": system}
    progress = Progress()
    with Appending(out, called, settings) as file:
        if file.was_cut:
            tell(f"{out}: the last line was cut off, and is answered again")
        tally = write_answers(
            author,
            chosen,
            file,
            max_tokens=max_tokens,
            system=system,
            status=lambda done, total: progress.status(
                f"{done:,} of {total:,} answers", last=done == total
            ),
        )
    for reason, count in tally.refused.items():
        tell(f"{count:,} not asked: {reason}")
    there = f", {tally.there:,} were there" if tally.there else ""
    typer.echo(f"{out}  {called}: {tally.written:,} answers written{there}")


@app.command()
def serve(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Answers, one file per model; without, those that the grades began with.",
            show_default=False,
        ),
    ] = None,
    db: DbFlag = Path("grades.sqlite"),
    grades: Annotated[
        bool, typer.Option("--grades", help="Show single answers, to be graded.")
    ] = False,
    pairs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Show each grader at most so many, spread over the categories.",
            show_default="all",
        ),
    ] = None,
    seed: SeedFlag = 0,
    host: HostFlag = HOST,
    port: PortFlag = PORT,
    api_key: ApiKeyFlag = None,
) -> None:
    """Open a page where people compare answers, without knowing whose they are."""
    check_server(host, api_key)
    from afm_mlx.evaluation.human.app import serve
    from afm_mlx.evaluation.human.study import Kind
    from afm_mlx.inference.server.run import listen

    with listen(host, port) as sock, _store(files or [], db, grades, seed) as store:
        count = len(store.cards) if pairs is None else min(pairs, len(store.cards))
        what = "comparisons" if store.study.kind == Kind.PAIRS else "answers"
        typer.echo(
            f"{url_of(host, sock)}  {count:,} {what} of "
            f"{', '.join(store.study.models)}, grades go to {db}"
        )
        tell("Ctrl-C ends it; nothing is lost, and the same command goes on")
        serve(store, sock, host=host, api_key=api_key, most=pairs, say=tell)
    tell(f"stopped; the results: afm human report --db {db}")


@app.command()
def report(
    db: DbFlag = Path("grades.sqlite"),
    json_: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures and comments, too."),
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write comparisons that afm prefer and afm reward learn from."
        ),
    ] = None,
) -> None:
    """Say which model people prefer, how surely, and how far they agree."""
    from afm_mlx.evaluation.human.results import results
    from afm_mlx.evaluation.human.store import Store
    from afm_mlx.evaluation.human.tables import tables

    with Store.open(db) as store:
        found = results(store)
        for line in tables(found):
            typer.echo(line)
        if json_ is not None:
            from afm_mlx.artifact import write_text

            write_text(json_, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
            tell(f"figures: {json_}")
        if preferences is not None:
            _export(store, preferences)


def _chosen(file: Path | None, categories: list[str], limit: int | None) -> list[Prompt]:
    """The prompts that are to be answered."""
    from afm_mlx.evaluation.prompts import of_categories, own_prompts, read_prompts
    from afm_mlx.evaluation.run import take_evenly

    found = own_prompts() if file is None else read_prompts(file)
    wanted = of_categories(found, categories) if categories else found
    return take_evenly(wanted, limit, group=lambda prompt: prompt.category)


def _store(files: list[Path], db: Path, grades: bool, seed: int) -> Store:
    """The file of grades of some answers, or of those that it began with."""
    from afm_mlx.errors import DataError
    from afm_mlx.evaluation.answers import read_answers
    from afm_mlx.evaluation.human.store import Store
    from afm_mlx.evaluation.human.study import Kind, make_study

    if not files:
        if not db.exists():
            raise DataError(
                f"no answers to compare, and there is no {db}",
                hint="afm human serve a.jsonl b.jsonl",
            )
        return Store.open(db)
    kind = Kind.GRADES if grades else Kind.PAIRS
    study, left_out = make_study([read_answers(file) for file in files], kind=kind, seed=seed)
    if left_out:
        tell(f"{len(study.prompts):,} prompts are in all files; {left_out:,} only in some")
    return Store.of_study(db, study)


def _export(store: Store, path: Path) -> None:
    from afm_mlx.alignment.preferences import write_preferences
    from afm_mlx.evaluation.human.preferences import preferences_of

    found = preferences_of(store)
    write_preferences(path, found.found)
    left: list[str] = []
    if found.ties:
        left.append(f"{found.ties:,} tied")
    if found.unusable:
        left.append(f"{found.unusable:,} with an empty answer or two equal ones")
    without = f"; without {' and '.join(left)}" if left else ""
    tell(f"comparisons: {path}, {len(found.found):,} lines{without}")
