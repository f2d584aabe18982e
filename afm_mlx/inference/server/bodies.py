"""The bytes of a request's body, within limits."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.problems import Problem


async def body_of(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        Problem: it is too long, or does not come.
    """
    declared = request.headers.get("content-length", "")
    raw = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            if not declared.isdecimal() or int(declared) <= limits.body_bytes:
                async for part in request.stream():
                    raw += part
                    if len(raw) > limits.body_bytes:
                        break
                else:
                    return bytes(raw)
    except TimeoutError:
        message = f"the body did not arrive within {limits.body_seconds:g} seconds"
        raise Problem(408, message, code="timeout", headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the client went away") from None
    raise Problem(
        413, f"the body is longer than {limits.body_bytes:,} bytes", code="body_too_large"
    )
