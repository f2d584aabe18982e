"""Tools from a Python file: its functions."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

from afm_mlx.errors import DataError
from afm_mlx.inference.tools import Tool, tool_of


def tools_of_file(file: Path) -> list[Tool]:
    """A tool for each function that a Python file defines; names with _ in front stay out.

    The file is run.

    Raises:
        DataError: it cannot be read or run, has no functions, or one of them cannot be a tool.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"tools_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise DataError(f"{file} is no Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any: it is the user's program
        raise DataError(f"{file} cannot be run: {type(error).__name__}: {error}") from None
    found = [
        tool_of(each)
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and name[0] != "_"
    ]
    if not found:
        raise DataError(f"{file} defines no function", hint="def weather(city: str) -> str: ...")
    return found
