"""A hub on this machine: answers what huggingface_hub asks of the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Data sets by name, each a folder; and what was asked for."""

    def __init__(self) -> None:
        self.sets: dict[str, Path] = {}
        self.commits = {"main": COMMIT, "v1": COMMIT}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.cut: set[str] = set()
        """Files of which the connection breaks in the middle, once."""
        self.ranges: list[int] = []
        """Where answers began that did not begin at the start."""

    def fetched(self) -> list[str]:
        """Paths of the files whose content was sent, in order."""
        gets = [line.partition(" ")[2] for line in self.asked if line.startswith("GET /datasets/")]
        return [path.split("/resolve/", 1)[1].split("/", 1)[1] for path in gets]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            name, what, rest = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        else:
            name, what, rest = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
        folder = self.hub.sets.get(name)
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if what == "revision":
            if not (commit := self._commit(rest)):
                return self._refuse(404, "RevisionNotFound")
            return self._json({"id": name, "sha": commit, "siblings": []})
        if what == "tree":
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return self._json([self._entry(file, folder) for file in files])
        revision, _, below = rest.partition("/")
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        file = folder / below
        if not self._commit(revision) or not file.is_file():
            return self._refuse(404, "EntryNotFound")
        self._file(file, below, self._commit(revision))

    def _commit(self, revision):
        known = self.hub.commits
        return revision if revision in known.values() else known.get(revision)

    def _entry(self, file, folder):
        data = file.read_bytes()
        path = file.relative_to(folder).as_posix()
        return {"type": "file", "path": path, "size": len(data), "oid": _digest(data)}

    def _file(self, file, below, commit):
        data = file.read_bytes()
        total, start = len(data), 0
        if found := self.headers.get("Range"):
            start = int(found.removeprefix("bytes=").split("-")[0])
        if start and self.command == "GET":
            self.hub.ranges.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_digest(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        if self.command == "GET":
            if below in self.hub.cut:
                self.hub.cut.discard(below)
                self.wfile.write(data[: total // 2])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(data[start:])

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), "application/json")

    def _refuse(self, status, code):
        self._send(status, b"{}", "application/json", {"X-Error-Code": code})

    def _send(self, status, data, kind, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub that huggingface_hub takes for the real one, with an empty cache."""
    from huggingface_hub import close_session, constants

    found = Hub()
    handler = type("Handler", (_Handler,), {"hub": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # one that was open took its proxies from the variables before
    yield found
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()
