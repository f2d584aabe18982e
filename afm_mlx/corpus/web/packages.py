"""Packages that only some installations have."""

from __future__ import annotations

import importlib
from typing import Any

from afm_mlx.errors import DataError


def load(module: str, purpose: str) -> Any:
    """A module of an optional package.

    Args:
        module: its full name.
        purpose: what needs it, to start the error with.

    Raises:
        DataError: the package is missing, or lacks something itself.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{purpose} needs the package {package}: {str(error).splitlines()[0].lower()}",
            hint="pip install 'afm-mlx[corpus]'",
        ) from None
