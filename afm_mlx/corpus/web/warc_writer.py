"""Pages into WARC files, one gzip member per record, so that a file can be cut and appended to.

Source: ISO 28500:2017 (WARC 1.1).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

from afm_mlx.artifact import writing
from afm_mlx.corpus.web.response import Headers
from afm_mlx.corpus.web.warc import GROUP_FIELD, TRAINING_FIELD
from afm_mlx.errors import DataError


class WarcWriter:
    """Appends records to a WARC 1.1 file, each in its own gzip member."""

    def __init__(self, path: Path, *, length: int) -> None:
        """Open or make a file.

        Args:
            path: the file, ending in .warc.gz.
            length: bytes to keep of it; what is behind them is cut off. 0 for a new file.

        Raises:
            DataError: the file is shorter than `length`.
        """
        self.path = path
        found = path.stat().st_size if path.exists() else 0
        self.size = length
        if found < self.size:
            raise DataError(
                f"{path} has {found:,} bytes, and {self.size:,} were written",
                hint=f"restore it, or start again in another folder than {path.parent}",
            )
        self._file = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def write_info(self, fields: Mapping[str, str], *, date: str) -> None:
        """Append a warcinfo record: how this file was made.

        Args:
            fields: such as software, operator, robots.
            date: ISO 8601, ending in Z.
        """
        block = "".join(f"{name}: {_line(text)}\r\n" for name, text in fields.items()).encode()
        head = {"WARC-Filename": self.path.name, "Content-Type": "application/warc-fields"}
        self._write("warcinfo", self.path.name, date, head, block)

    def write_response(
        self,
        url: str,
        *,
        date: str,
        status_line: str,
        headers: Headers,
        body: bytes,
        group: str,
        train: bool,
    ) -> tuple[int, int]:
        """Append a page, and return the offset and length of its record in bytes.

        Args:
            url: its address.
            date: when it was fetched, ISO 8601, ending in Z.
            status_line: such as `HTTP/1.1 200 OK`.
            headers: as received; those about encodings and length get the prefix `X-Crawl-`, as in
                Common Crawl's archives.
            body: without encodings.
            group: the group of robots.txt that allowed it.
            train: whether it may be trained on.
        """
        lines = [status_line]
        for name, value in headers:
            old = name.lower() in ("content-encoding", "content-length", "transfer-encoding")
            lines.append(f"{'X-Crawl-' if old else ''}{name}: {_line(value)}")
        lines += [f"Content-Length: {len(body)}", "", ""]
        fields = {
            "WARC-Target-URI": url,
            "WARC-Payload-Digest": _sha1(body),
            "Content-Type": "application/http; msgtype=response",
            GROUP_FIELD: group,
            TRAINING_FIELD: "yes" if train else "no",
        }
        block = "\r\n".join(lines).encode("latin-1", "replace") + body
        return self._write("response", url, date, fields, block)

    def sync(self) -> None:
        """Make what was written survive a power failure."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(
        self, kind: str, name: str, date: str, fields: Mapping[str, str], block: bytes
    ) -> tuple[int, int]:
        head = {
            "WARC-Type": kind,
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{date} {name}')}>",
            "WARC-Date": date,
            **fields,
            "WARC-Block-Digest": _sha1(block),
            "Content-Length": str(len(block)),
        }
        lines = "".join(f"{key}: {_line(value)}\r\n" for key, value in head.items())
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        record = b"WARC/1.1\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"
        packed = pack.compress(record) + pack.flush()
        offset = self.size
        with writing(self.path):
            self._file.write(packed)
            self._file.flush()
        self.size += len(packed)
        return offset, len(packed)


def _line(value: str) -> str:
    return re.sub(r"[\r\n\0]+", " ", value)


def _sha1(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()
