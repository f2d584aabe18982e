"""Texts that come with every Python: its library's source code, and English about the language.

They need no download, so that a pipeline can be tried on real text anywhere. The Python Software
Foundation License, PSF-2.0, covers them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from afm_mlx.corpus.files import Text, list_files, plain_text
from afm_mlx.errors import DataError

# Tests; packages that are not Python's own; pydoc_data, which is prose and belongs to the docs; and
# encodings, nearly all of which is generated tables.
_FOLDERS = "__pycache__ dist-packages encodings idle_test pydoc_data site-packages test tests"
LEFT_OUT = frozenset(_FOLDERS.split())


def read(name: str, path: str, skipped: Counter[str]) -> Iterator[Text]:
    """Texts of `python:library` or `python:docs` of the running Python.

    A module's code and its documentation are one group, so that validation on one is not spoiled by
    training on the other.

    Raises:
        DataError: another path, or a Python that comes without its sources.
    """
    readers = {"python:library": _read_library, "python:docs": _read_docs}
    if path not in readers:
        raise DataError(
            f"data.{name}: there is no '{path}'", hint=f"there are {' and '.join(readers)}"
        )
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").is_file():
        raise DataError(
            f"data.{name}: this Python comes without sources, no os.py in {folder}",
            hint="use another Python, or another source",
        )
    return readers[path](folder, skipped)


def _read_library(folder: Path, skipped: Counter[str]) -> Iterator[Text]:
    """One text per file of the library."""
    for file in list_files(folder, (".py",), skipped, left_out=LEFT_OUT):
        if file.name.startswith("_sysconfigdata"):  # generated, and full of the builder's paths
            continue
        try:
            text = plain_text(file.read_bytes(), skipped)
        except OSError:
            skipped["unreadable"] += 1
            continue
        if text is not None:
            id = file.relative_to(folder).as_posix()
            yield Text(text, id, group=f"python:{id}", code_language="Python")


def _read_docs(folder: Path, skipped: Counter[str]) -> Iterator[Text]:
    """One text per topic of the language reference, then one per module with docstrings."""
    topics: dict[str, str] = {}
    with suppress(ImportError):  # some distributions package it apart
        topics = importlib.import_module("pydoc_data.topics").topics
    for topic in sorted(topics):
        yield Text(topics[topic].strip() + "\n", f"topics/{topic}")
    for module in _read_library(folder, skipped):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of "\d" and the like, in others' code
                tree = ast.parse(module.text)
        except (SyntaxError, ValueError, RecursionError):
            skipped["not Python"] += 1
            continue
        dotted = module.id.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        sections = [f"{head}\n\n{text}\n" for head, text in _docstrings(tree, dotted)]
        yield Text("\n".join(sections), module.id, module.group)


def _docstrings(node: ast.AST, dotted: str) -> Iterator[tuple[str, str]]:
    """Dotted name and docstring of a module, and of the classes and functions in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if text := ast.get_docstring(node, clean=False):
            yield dotted, inspect.cleandoc(text)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, f"{dotted}.{child.name}")
