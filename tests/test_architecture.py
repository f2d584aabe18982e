"""The house: who may import whom, and what is installed."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room may import from rooms of a lower floor, and from its own. docs/architecture.md says why.
FLOORS = [
    {"errors"},
    {"launch"},
    {"compat", "settings", "profile", "progress", "ranks"},
    {"recipe", "artifact"},
    {"decoder", "text", "corpus"},
    {"synthetic", "zoo"},
    {"training", "compression", "alignment", "inference"},
    {"evaluation", "export"},
    {"stages", "planning"},
    {"outline"},
    {"pipeline"},
    {"own_model"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Names of the `afm_mlx` modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "afm_mlx":
                found |= {f"afm_mlx.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("afm_mlx", "afm_cli")}


def room(path: Path) -> str:
    relative = path.relative_to(ROOT / "afm_mlx")
    return relative.parts[0].removesuffix(".py")


LIBRARY = sorted((ROOT / "afm_mlx").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_files_import_downwards_only(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        assert not name.startswith("afm_cli"), f"{path} imports the command line"
        parts = name.split(".")
        if len(parts) < 2 or parts[1] == here:
            continue
        there = parts[1]
        assert there in FLOOR, f"{there} has no floor: add it to FLOORS"
        assert FLOOR[there] < FLOOR[here], f"{here} may not import {there}"


def test_stages_do_not_import_each_other():
    for path in (ROOT / "afm_mlx" / "stages").glob("*.py"):
        assert not any(name.startswith("afm_mlx.stages") for name in imports(path)), path


def test_every_folder_is_in_the_list_of_packages():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("afm_mlx/**/__init__.py")
    }
    assert listed == folders | {"afm_cli", "afm_models"}


def test_init_files_are_empty():
    for path in (ROOT / "afm_mlx").rglob("__init__.py"):
        if path.parent.name != "afm_mlx":
            assert not path.read_text().strip(), path


def test_command_line_imports_heavy_packages_inside_functions_only():
    heavy = {"mlx", "mlx_lm", "transformers", "numpy", "pydantic", "rich", "tokenizers"}
    for path in (ROOT / "cli").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in heavy, f"{path}: {name}"
                assert name in ("afm_mlx", "afm_mlx.errors") or not name.startswith("afm_mlx"), (
                    f"{path}: {name}"
                )
