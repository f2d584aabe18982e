"""Source code of a folder, without what is generated, minified, or copied from others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from afm_mlx.corpus.files import Text, list_files, plain_text
from afm_mlx.settings.code_languages import BY_ENDING, BY_NAME

# Longer files are nearly always generated, or data. Ours.
CODE_FILE_BYTES = 2**20
# Longer lines mean minified or generated code. Source: arXiv:2305.06161 (StarCoder), section 3.
MAX_LINE_CHARACTERS = 1_000
MAX_MEAN_LINE_CHARACTERS = 100

# Characters that are enough to tell languages apart. Ours.
_LOOKED_AT = 20_000

# Folders of others' code and of built files.
_FOLDERS = """
    __pycache__ _vendor bower_components build deps dist external extern node_modules out pods
    site-packages target third-party third_party thirdparty vendor vendored vendors venv
"""
LEFT_OUT = frozenset(_FOLDERS.split())

# Endings that several languages use: what only the second or third one writes. Ours.
_OBJECTIVE_C = re.compile(
    r"^[ \t]*(@(interface|implementation|protocol|class|import)\b|#import\b)", re.M
)
_CPP = re.compile(
    r"^[ \t]*(#\s*include\s*<[a-z_]+>|class\s+\w+[^;(){]{0,200}\{|namespace\b|template\s*<"
    r"|using\s+\w|(public|private|protected)\s*:)|\bstd::",
    re.M,
)
_MATLAB = re.compile(r"^[ \t]*(%|function\b|classdef\b|end\s*$)", re.M)
_C_LIKE = re.compile(r"^[ \t]*(//|/\*|#\s*(include|import|define)\b|@\w+)", re.M)
_PROLOG = re.compile(r"^[ \t]*:-|^[a-z]\w*(\([^)]{0,200}\))?\s*:-", re.M)
_COQ = re.compile(r"^[ \t]*((From \S+ )?Require\b|Theorem\b|Lemma\b|Definition\b|Qed\.)", re.M)


def list_code(path: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files of source code below a folder, or the one file that `path` is."""
    endings = (*BY_ENDING, *BY_NAME)
    return list_files(path, endings, skipped, left_out=LEFT_OUT)


def read_code(
    path: Path,
    id: str,
    skipped: Counter[str],
    *,
    languages: Collection[str] = (),
    license_of: Callable[[Path, str], str] = lambda path, text: "",
) -> Iterator[Text]:
    """The file's text; too long, minified, binary or not UTF-8 is skipped and counted.

    Args:
        path: the file.
        id: its id.
        skipped: gets what was left out, by reason.
        languages: the languages to read; empty means all.
        license_of: tells the license of a file from its path and text.
    """
    with path.open("rb") as stream:
        data = stream.read(CODE_FILE_BYTES + 1)
    if len(data) > CODE_FILE_BYTES:
        skipped["too long"] += 1
        return
    if (text := plain_text(data, skipped)) is None:
        return
    language = code_language(path.name, text)
    if languages and language not in languages:
        skipped[f"language {language or 'not known'}"] += 1
    elif _is_minified(path, text):
        skipped["minified"] += 1
    else:
        yield Text(text, id, license=license_of(path, text), code_language=language)


def code_language(name: str, text: str) -> str:
    """The programming language of a file, one of CODE_LANGUAGES, or empty.

    Args:
        name: the file's name.
        text: what is in it; its start decides where several languages use the ending.
    """
    text = text[:_LOOKED_AT]
    lower = name.lower()
    ending = Path(lower).suffix
    match ending:
        case ".h":
            if _OBJECTIVE_C.search(text):
                return "Objective-C"
            return "C++" if _CPP.search(text) else "C"
        case ".m" if _MATLAB.search(text) and not _C_LIKE.search(text):
            return "MATLAB"
        case ".pl" if _PROLOG.search(text):
            return "Prolog"
        case ".v" if _COQ.search(text):
            return "Coq"
    by_name = next((BY_NAME[known] for known in BY_NAME if lower.endswith(known)), "")
    return BY_ENDING.get(ending) or by_name


def _is_minified(path: Path, text: str) -> bool:
    lines = text.splitlines() or [""]
    return (
        ".min." in path.name.lower()
        or max(map(len, lines)) > MAX_LINE_CHARACTERS
        or len(text) / len(lines) > MAX_MEAN_LINE_CHARACTERS
    )
