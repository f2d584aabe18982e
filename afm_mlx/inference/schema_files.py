"""Forms of answers from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from afm_mlx.errors import DataError


def read_schema(file: Path) -> Any:
    """The JSON Schema in a file; whether it is one is seen when a guide is made of it.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None
