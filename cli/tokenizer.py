"""`afm tokenizer`: learn a vocabulary, and look into one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import RUNS, JsonFlag, ModelArgument, RunsFlag

if TYPE_CHECKING:
    from afm_mlx.text.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True, help="Learn a vocabulary, and look into one.")

KINDS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
}
"""What a file is, by its ending; everything else is text."""


@app.command()
def train(
    texts: Annotated[
        list[Path],
        typer.Argument(help="Files or folders of texts, python:library, python:docs."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    vocab_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pieces, bytes and reserved ones included.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="text, markdown, jsonl, parquet, html or code.", show_default="by file ending"
        ),
    ] = None,
    training_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most text to learn from, in bytes.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Learn a SentencePiece vocabulary, and write a tokenizer folder."""
    from collections import Counter
    from itertools import chain, zip_longest

    from afm_mlx.artifact import made_whole
    from afm_mlx.corpus.documents import read_documents
    from afm_mlx.errors import AfmError, DataError
    from afm_mlx.settings.sections import Source, SourceKind, Tokenizer
    from afm_mlx.text.tokenizer import train_tokenizer

    if kind is not None and kind not in list(SourceKind):
        raise typer.BadParameter(
            f"{kind} is not one of {', '.join(SourceKind)}", param_hint="--kind"
        )
    given = {} if training_bytes is None else {"training_bytes": training_bytes}
    section = Tokenizer.model_validate(given)
    skipped: Counter[str] = Counter()
    sources = [Source(kind=SourceKind(kind or _kind(path)), path=str(path)) for path in texts]
    documents = [read_documents(source.path, source, skipped) for source in sources]
    turns = chain.from_iterable(zip_longest(*documents))  # one of each source in turn
    if out.exists():
        raise DataError(f"'{out}' exists already", hint="name another --out, or delete it")
    try:
        with made_whole(out) as folder:
            result = train_tokenizer(
                (document.text for document in turns if document is not None),
                folder,
                vocab_size=vocab_size,
                **section.model_dump(),
            )
    except AfmError as error:
        error.hint = _in_options(error.hint)
        raise
    result |= {"folder": str(out), "skipped": dict(skipped)}
    if json_:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"tokenizer  {out}")
    typer.echo(f"pieces     {result['pieces']:,}")
    typer.echo(f"learned    from {result['bytes']:,} bytes in {result['documents']:,} documents")
    for reason, count in skipped.items():
        typer.echo(f"skipped    {count:,}: {reason}", err=True)


@app.command()
def show(
    model: ModelArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Texts to count tokens of; else built-in samples.", show_default=False),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Show the pieces of this text.", show_default=False)
    ] = None,
    json_: JsonFlag = False,
    runs: RunsFlag = RUNS,
) -> None:
    """Print size, special pieces, and bytes per token by kind of text."""
    from afm_mlx.errors import DataError
    from afm_mlx.settings.mistakes import reason
    from afm_mlx.text.samples import SAMPLES, densities
    from afm_mlx.text.tokenizer import Tokenizer

    folder = Path(model)
    if not (folder / "tokenizer.json").is_file():
        from .models_io import find_model

        folder = find_model(model, runs)
    tokenizer = Tokenizer.open(folder)
    texts = {}
    for file in files or ():
        try:
            texts[str(file)] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {file}: {reason(error)}") from None
    found = densities(tokenizer, texts or SAMPLES)
    ids = [] if text is None else tokenizer.encode(text)
    pieces = [tokenizer.piece(number) for number in ids]
    if json_:
        table = {
            name: {**asdict(one), "bytes_per_token": one.bytes_per_token}
            for name, one in found.items()
        }
        facts = {
            "folder": str(folder),
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            "eos_ids": tokenizer.eos_ids,
            "bos_id": tokenizer.bos_id,
            "pad_id": tokenizer.pad_id,
            "control_pieces": tokenizer.control_pieces,
            "texts": table,
        }
        if text is not None:
            facts |= {"ids": ids, "pieces": pieces}
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    typer.echo(f"tokenizer    {folder}")
    typer.echo(f"pieces       {tokenizer.vocab_size:,}")
    typer.echo(f"fingerprint  {tokenizer.fingerprint}")
    typer.echo(f"ends         {_ids(tokenizer, tokenizer.eos_ids)}")
    starts, padding = tokenizer.bos_id, tokenizer.pad_id
    typer.echo(f"starts       {_ids(tokenizer, () if starts is None else (starts,))}")
    typer.echo(f"padding      {_ids(tokenizer, () if padding is None else (padding,))}")
    typer.echo(f"controls     {_shortened(tokenizer.control_pieces)}")
    width = max(12, *map(len, found))
    typer.echo(f"\n{'text':{width}} {'bytes':>12} {'tokens':>12} {'bytes/token':>12}")
    for name, one in found.items():
        typer.echo(
            f"{name:{width}} {one.bytes:>12,} {one.tokens:>12,} {one.bytes_per_token:>12.2f}"
        )
    if text is not None:
        typer.echo(f"\n{'id':>8}  piece")
        for number, piece in zip(ids, pieces, strict=True):
            typer.echo(f"{number:>8}  {piece!r}")


def _in_options(hint: str) -> str:
    """A hint about a recipe's settings, in this command's options."""
    if hint.startswith("check data."):
        return "check the path, or name its kind: --kind code"
    return hint.replace("--set shape.vocab_size=", "--vocab-size ")


def _kind(path: Path) -> str:
    if str(path) == "python:library":
        return "code"
    return KINDS.get(path.suffix.lower(), "text")


def _ids(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Pieces with their ids: `</s> (1), <turn:end> (4036)`."""
    return ", ".join(f"{tokenizer.piece(number)} ({number})" for number in ids) or "none"


def _shortened(pieces: Mapping[str, int]) -> str:
    """Control pieces, without those that are only reserved, which are counted."""
    named = [piece for piece in pieces if not piece.startswith(("<reserved:", "<|reserved"))]
    reserved = len(pieces) - len(named)
    return " ".join(named) + (f" and {reserved} reserved" if reserved else "")
