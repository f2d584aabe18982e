"""Files of rows."""

import json

import pytest


@pytest.fixture
def data(tmp_path):
    """Function that writes rows into a file."""

    def write(*rows, name="rows.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write
