"""Pages: each is one file, which loads nothing, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response

HERE = "afm_mlx.inference.server"
"""Has the chat page, and the parts that pages share."""

INCLUDE = re.compile(r"^(?:/\*|//|<!--) include (\S+)(?: \*/| -->)?$", re.MULTILINE)
"""A line of a page in whose place a part comes."""


def page(package: str = HERE) -> Response:
    """A package's page, with a policy by which a browser runs its own script and style alone."""
    text, policy = _page(package)
    return Response(text, headers={"content-security-policy": policy}, media_type="text/html")


@cache
def page_text(package: str = HERE) -> str:
    """The text of a package's page, the shared parts in their places."""
    text = (files(package) / "page.html").read_text(encoding="utf-8")
    return INCLUDE.sub(lambda found: (files(HERE) / found[1]).read_text(encoding="utf-8"), text)


@cache
def _page(package: str) -> tuple[str, str]:
    text = page_text(package)
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(text: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
