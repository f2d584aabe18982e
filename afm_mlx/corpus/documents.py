"""Documents: texts, one by one, from files and folders of several kinds.

What cannot be used is skipped and counted, by reason, and the rest goes on: one broken file among
a million is no reason to stop. Only a path that is not there, or a source without one usable
document, is an error. Memory holds one document, or one batch of rows of a Parquet file.
"""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from afm_mlx.corpus.files import MAX_DOCUMENT_BYTES, Text, read_parts
from afm_mlx.corpus.sources import python_texts
from afm_mlx.corpus.sources.license_files import TreeLicenses
from afm_mlx.corpus.sources.locate import local_root, locate
from afm_mlx.corpus.sources.rows import read_jsonl, read_parquet
from afm_mlx.corpus.sources.source_code import read_code
from afm_mlx.errors import DataError
from afm_mlx.settings.licenses import NOT_KNOWN, allow_list, allows, ids_in, stated
from afm_mlx.settings.sections import Source, SourceKind


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it is from."""

    text: str
    """Never empty; encodes to UTF-8."""
    source: str
    """Name of its data source."""
    id: str
    """Path below the source's path, or `path:line`, or `path#part`, or as its row says."""
    group: str = ""
    """Documents of one group go to training or validation together, also across sources; without
    a group, equal texts do."""
    url: str = ""
    """Address, where its row says one."""
    license: str = ""
    """SPDX expression, where known."""
    code_language: str = ""
    """Programming language of a file of source code."""


def read_documents(name: str, source: Source, skipped: Counter[str]) -> Iterator[Document]:
    """Read the documents of a source, files in order of their paths.

    Hidden files and folders, and files with other endings than the kind's, are not part of the
    source. A path that names one file is read whatever its ending. Without `licenses` in the
    settings, licenses are noted as rows state them, and those of source code are not looked for.

    Args:
        name: the source's name in the recipe.
        source: its settings. `max_bytes` ends the last document in the middle.
        skipped: gets the number of files, lines or parts left out, by reason: "not UTF-8",
            "binary", "empty", "too long", "unreadable", "broken JSON", "no license", ...

    Raises:
        DataError: the path does not exist or holds no such files, a package is missing (all at
            once); or there is no usable document (at the end).
    """
    return _documents(name, source, _texts(name, source, skipped), skipped)


def _documents(
    name: str, source: Source, texts: Iterator[Text], skipped: Counter[str]
) -> Iterator[Document]:
    before = skipped.copy()
    left = source.max_bytes
    usable = 0
    for found in texts:
        if (encoded := _checked(found.text, skipped)) is None:
            continue
        license, reason = license_of(source, found.license)
        if reason:
            skipped[reason] += 1
            continue
        text = found.text
        if left is not None and len(encoded) >= left:
            text = encoded[:left].decode("utf-8", "ignore")
        if text.strip():
            usable += 1
            yield Document(
                text, name, found.id, found.group, found.url, license, found.code_language
            )
        if left is not None:
            left -= len(encoded)
            if left <= 0:
                break
    if not usable:
        reasons = [f"{count:,} {reason}" for reason, count in sorted((skipped - before).items())]
        raise DataError(
            f"data.{name}: no usable document in {source.path} (kind {source.kind})"
            + (f"; skipped {', '.join(reasons)}" if reasons else ""),
            hint=f"check data.{name}.path, kind and text_field"
            + (", and licenses" if source.licenses else ""),
        )


def _checked(text: str, skipped: Counter[str]) -> bytes | None:
    """The text in UTF-8, or None if it is no document, which is counted."""
    if not text.strip():
        reason = "empty"
    elif "\0" in text:
        reason = "binary"
    else:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, written as \ud800 in JSON
            reason = "not UTF-8"
        else:
            if len(encoded) <= MAX_DOCUMENT_BYTES:
                return encoded
            reason = "too long"
    skipped[reason] += 1
    return None


def license_of(source: Source, found: str) -> tuple[str, str]:
    """License of a document that states `found`, and why its source leaves it out, or nothing."""
    license = found or source.license
    if not source.licenses:
        return license, ""
    license = stated(license)
    if not license:
        return "", "" if source.keep_unlicensed else "no license"
    if allows(allow_list(source.licenses), license):
        return license, ""
    if NOT_KNOWN in ids_in(license):
        return license, "" if source.keep_unlicensed else "license not known"
    return license, f"license {license}"


def _texts(name: str, source: Source, skipped: Counter[str]) -> Iterator[Text]:
    """Check what can be checked before reading, then hand over to the kind's reader."""
    if source.path.startswith("python:"):
        return python_texts.read(name, source.path, skipped)
    files = locate(name, source, skipped)
    return _read_files(files, _reader(name, source, skipped), skipped)


def _read_files(
    files: Iterator[tuple[str, Path]],
    read: Callable[[Path, str], Iterator[Text]],
    skipped: Counter[str],
) -> Iterator[Text]:
    for id, file in files:
        try:
            yield from read(file, id)
        except OSError:
            skipped["unreadable"] += 1


def _reader(
    name: str, source: Source, skipped: Counter[str]
) -> Callable[[Path, str], Iterator[Text]]:
    """Function that reads one file, given its path and id."""
    match source.kind:
        case SourceKind.JSONL:
            return lambda path, id: read_jsonl(path, id, source, skipped)
        case SourceKind.PARQUET:
            _import(name, "pyarrow.parquet", "parquet")
            return lambda path, id: read_parquet(path, id, source, skipped)
        case SourceKind.HTML:
            trafilatura = _import(name, "trafilatura", "html")
            return lambda path, id: _read_html(path, id, trafilatura, skipped)
        case SourceKind.WARC:
            raise DataError(
                f"data.{name}: kind warc holds pages, and no step makes texts of them",
                hint="add a section [clean.extract]",
            )
        case SourceKind.CODE:
            return _code_reader(name, source, skipped)
        case _:
            return lambda path, id: read_parts(path, id, skipped)


def _code_reader(
    name: str, source: Source, skipped: Counter[str]
) -> Callable[[Path, str], Iterator[Text]]:
    languages = frozenset(source.code_languages)
    if not source.licenses:
        return lambda path, id: read_code(path, id, skipped, languages=languages)
    _import(name, "licenseclassifier", "code")
    find = TreeLicenses(local_root(source)).license_of
    return lambda path, id: read_code(path, id, skipped, languages=languages, license_of=find)


def _read_html(
    path: Path, id: str, trafilatura: ModuleType, skipped: Counter[str]
) -> Iterator[Text]:
    with path.open("rb") as stream:
        data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        skipped["too long"] += 1
        return
    # It finds the encoding itself: a page need not be UTF-8.
    text = trafilatura.extract(data, fast=True, include_comments=False)
    if text is None:
        skipped["without main text"] += 1
    else:
        yield Text(text, id)


def _import(name: str, module: str, extra: str) -> ModuleType:
    """Import an optional package."""
    package = module.partition(".")[0]
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"data.{name}: kind {extra} needs the package {package}: "
            + str(error).splitlines()[0].lower(),
            hint=f"pip install 'afm-mlx[{extra}]'",
        ) from None
    # Without a handler of its own, its warnings about single pages would go to the terminal.
    logging.getLogger(package).addHandler(logging.NullHandler())
    return imported
