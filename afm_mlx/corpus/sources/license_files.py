"""The license of each file of a source tree.

What stands in the file itself decides; else REUSE.toml or .reuse/dep5; else the nearest folder
upwards with license files or a package's metadata. No folder above the source's is looked at.

Where several texts are found and nothing says how they go together, all of them count ("AND"), and
a text that is not recognized does not fall back on the folder above: when in doubt, a license is
not known, rather than one that is too free.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from afm_mlx.settings.code_languages import BY_ENDING
from afm_mlx.settings.licenses import NOT_KNOWN, both, ids_in, stated

# A notice stands at the top of a file. Longer license files are lists of others'. Ours.
HEAD_CHARACTERS = 4_096
LICENSE_FILE_BYTES = 2**19

_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() \t-]+)")
_NOTICE = re.compile(r"licen[cs]e|permission|public domain|redistribut|warrant", re.I)
_LICENSE_FILE = re.compile(r"([\w.]+-)?(un)?(licen[cs]e|copying)([-._][\w.+-]*)?", re.I)
_NO_TEXT = {*BY_ENDING, ".csv", ".json", ".png", ".svg", ".toml", ".xml", ".yaml", ".yml"}
_METADATA = {
    "pyproject.toml": ("project", "tool.poetry"),
    "Cargo.toml": ("package", "workspace.package"),
    "package.json": ("",),
    "composer.json": ("",),
}
"""Files of packages that state a license, and the tables in them with the key `license`."""


class TreeLicenses:
    """Licenses of the files below a folder. Remembers what each folder says."""

    def __init__(self, root: Path) -> None:
        self.root = root if root.is_dir() else root.parent
        self._folders: dict[Path, str] = {}
        self._reuse: dict[Path, list[tuple[str, str]]] = {}

    def license_of(self, path: Path, text: str) -> str:
        """SPDX expression of a file; NOT_KNOWN when unclear, empty when none is stated.

        Args:
            path: the file, below the root.
            text: its content.
        """
        if found := license_in_head(text[:HEAD_CHARACTERS]):
            return found
        folders = [folder for folder in path.parents if folder.is_relative_to(self.root)]
        for folder in folders:
            if found := self._by_reuse(folder, path) or self._of_folder(folder):
                return found
        return ""

    def _of_folder(self, folder: Path) -> str:
        if folder not in self._folders:
            self._folders[folder] = _license_of_folder(folder)
        return self._folders[folder]

    def _by_reuse(self, folder: Path, path: Path) -> str:
        if folder not in self._reuse:
            self._reuse[folder] = _annotations(folder)
        name = path.relative_to(folder).as_posix()
        found = [each for glob, each in self._reuse[folder] if fnmatchcase(name, glob)]
        return found[-1] if found else ""  # the last one that matches holds, in both formats


def license_in_head(head: str) -> str:
    """What the start of a file says: SPDX tags, else the text or notice of a license."""
    if tags := _TAG.findall(head):
        return both([stated(tag.strip(" \t-")) or NOT_KNOWN for tag in tags])
    if _NOTICE.search(head):
        return _recognize(head, least_percent=0.0)
    return ""


def _recognize(text: str, *, least_percent: float) -> str:
    """Licenses whose texts or notices make up at least this share of a text."""
    from licenseclassifier import identify_license

    found = identify_license(text, coverage_threshold=least_percent)
    return both(sorted({stated(match.id) for match in found})) if found else ""


def _license_of_folder(folder: Path) -> str:
    names = _file_names(folder)
    texts = [
        _license_in_file(folder / name)
        for name in names
        if _LICENSE_FILE.fullmatch(name) and Path(name).suffix.lower() not in _NO_TEXT
    ]
    if not texts:
        reuse = _file_names(folder / "LICENSES")  # each is called as its license
        texts = [stated(name.removesuffix(".txt")) for name in reuse]
    declared = [found for name in names if (found := _declared(folder / name))]
    clear = [one for one in declared if one != NOT_KNOWN]
    if not clear:
        return both(texts or declared) if texts or declared else ""
    # The metadata says how licenses go together; a text that it does not name counts as well.
    named = {_family(id) for one in clear for id in ids_in(one)}
    further = [one for one in texts if not {_family(id) for id in ids_in(one)} <= named]
    return both([*clear, *further])


def _family(id: str) -> str:
    """The same text belongs to GPL-3.0-only and GPL-3.0-or-later."""
    return re.sub(r"(-only|-or-later|\+)$", "", id)


def _file_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_file(entry))
    except OSError:
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()  # no pipes, which would wait for a writer
    except OSError:  # a link to itself
        return False


def _license_in_file(path: Path) -> str:
    data = _read(path)
    if data is None or b"\0" in data:
        return NOT_KNOWN
    text = data.decode("utf-8", "replace")
    if tags := _TAG.findall(text[:HEAD_CHARACTERS]):
        return both([stated(tag.strip(" \t-")) or NOT_KNOWN for tag in tags])
    return _recognize(text, least_percent=75.0) or NOT_KNOWN  # 75: the package's own threshold


def _read(path: Path) -> bytes | None:
    """A small file; None for one that is too long or cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LICENSE_FILE_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= LICENSE_FILE_BYTES else None


def _declared(path: Path) -> str:
    """The license in a package's metadata; empty if the file is none or names none."""
    if path.name not in _METADATA or (data := _read(path)) is None:
        return ""
    try:
        text = data.decode("utf-8-sig")
        read: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for table in _METADATA[path.name]:
        inside = read
        for key in filter(None, table.split(".")):
            inside = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            found = _from_value(inside.get("license") or inside.get("licenses"))  # npm had both
            if found:
                return found
    return ""


def _from_value(value: Any) -> str:
    """An expression from text, from {text = ...} and {type = ...}, or from a list to choose of."""
    if isinstance(value, dict):
        value = value.get("text") or value.get("type")
    if isinstance(value, list):
        each = [_from_value(one) or NOT_KNOWN for one in value]
        return " OR ".join(f"({one})" if " " in one else one for one in each)
    return stated(value) if isinstance(value, str) else ""


def _annotations(folder: Path) -> list[tuple[str, str]]:
    """Patterns of paths and their licenses, from REUSE.toml and .reuse/dep5."""
    return [*_reuse_toml(folder / "REUSE.toml"), *_dep5(folder / ".reuse" / "dep5")]


def _reuse_toml(path: Path) -> Iterator[tuple[str, str]]:
    data = _read(path) if path.is_file() else None
    try:
        tables = tomllib.loads((data or b"").decode()).get("annotations", [])
    except ValueError:
        return
    for table in tables if isinstance(tables, list) else []:
        if not isinstance(table, dict) or not (named := table.get("SPDX-License-Identifier")):
            continue
        globs = table.get("path", [])
        every = [named] if isinstance(named, str) else named
        license = both([stated(str(one)) or NOT_KNOWN for one in every])
        for glob in [globs] if isinstance(globs, str) else globs:
            yield str(glob).replace("**", "*"), license


def _dep5(path: Path) -> Iterator[tuple[str, str]]:
    """Debian's format: paragraphs with `Files: PATTERN ...` and `License: EXPRESSION`."""
    data = _read(path) if path.is_file() else None
    for paragraph in re.split(r"\n\s*\n", (data or b"").decode("utf-8", "replace")):
        globs = re.search(r"^Files:((?:.*\n?)(?:[ \t].*\n?)*)", paragraph, re.M)
        license = re.search(r"^License:[ \t]*(.+)", paragraph, re.M)
        if globs and license:
            for glob in globs[1].split():
                yield glob, stated(license[1])
