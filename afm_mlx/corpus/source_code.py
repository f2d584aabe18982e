"""Source code of a folder, without what is generated, minified, or copied from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from afm_mlx.corpus.files import Text, list_files, plain_text

# Longer files are nearly always generated, or data. Ours.
CODE_FILE_BYTES = 2**20
# Longer lines mean minified or generated code. Source: arXiv:2305.06161 (StarCoder), section 3.
MAX_LINE_CHARACTERS = 1_000
MAX_MEAN_LINE_CHARACTERS = 100

_SUFFIXES = """
    asm bash bat c cc cl clj cljs cmake cpp cs css cu cuh cxx d dart el elm erl ex exs f f90 fs glsl
    go gradle groovy h hh hpp hrl hs hxx ino java jl js jsx kt kts less lisp lua m mak metal mjs mk
    ml mli mm nim nix pas php pl pm proto ps1 py pyi pyx r rb rkt rs s scala scm scss sh sol sql
    sv swift tcl tex tf thrift ts tsx v vb vhd vhdl vim vue wgsl zig zsh
"""
CODE_SUFFIXES = tuple(f".{suffix}" for suffix in _SUFFIXES.split())
CODE_NAMES = ("makefile", "dockerfile", "cmakelists.txt")

# Folders of others' code and of built files.
_FOLDERS = """
    __pycache__ _vendor bower_components build deps dist external extern node_modules out pods
    site-packages target third-party third_party thirdparty vendor vendored vendors venv
"""
LEFT_OUT = frozenset(_FOLDERS.split())


def list_code(path: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files of source code below a folder, or the one file that `path` is."""
    return list_files(path, CODE_SUFFIXES + CODE_NAMES, skipped, left_out=LEFT_OUT)


def read_code(path: Path, id: str, skipped: Counter[str]) -> Iterator[Text]:
    """The file's text; too long, minified, binary or not UTF-8 is skipped and counted."""
    with path.open("rb") as stream:
        data = stream.read(CODE_FILE_BYTES + 1)
    if len(data) > CODE_FILE_BYTES:
        skipped["too long"] += 1
    elif (text := plain_text(data, skipped)) is None:
        pass
    elif _is_minified(path, text):
        skipped["minified"] += 1
    else:
        yield Text(text, id)


def _is_minified(path: Path, text: str) -> bool:
    lines = text.splitlines() or [""]
    return (
        ".min." in path.name.lower()
        or max(map(len, lines)) > MAX_LINE_CHARACTERS
        or len(text) / len(lines) > MAX_MEAN_LINE_CHARACTERS
    )
