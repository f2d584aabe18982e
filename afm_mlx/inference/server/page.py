"""The page at `/`: one file, which loads nothing, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response


def page() -> Response:
    """The page, with a policy by which a browser runs its own script and style alone."""
    text, policy = _page()
    return Response(text, headers={"content-security-policy": policy}, media_type="text/html")


@cache
def _page() -> tuple[str, str]:
    text = (files("afm_mlx.inference.server") / "page.html").read_text(encoding="utf-8")
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
