"""What is wrong with a request, in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from afm_mlx.errors import AfmError, BusyError, FitError, RunError

RETRY_SECONDS = 1
"""After which a client may try again when too many requests wait. Ours."""


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`param` names the field that is wrong; `code` is for programs."""
        super().__init__(message)
        self.status = status
        self.param, self.code = param, code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`, as OpenAI's clients expect it."""
        error = {
            "message": str(self),
            "type": _kind(self.status),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def bad(message: str, param: str | None = None, code: str | None = None) -> Problem:
    """A request that cannot be answered as it is."""
    return Problem(400, message, param=param, code=code)


def problem_of(error: AfmError, param: str | None = None) -> Problem:
    """What the client is told when an answer is refused, or fails."""
    message = f"{error} ({error.hint})" if error.hint else str(error)
    if isinstance(error, BusyError):
        return Problem(429, message, code="busy", headers={"Retry-After": str(RETRY_SECONDS)})
    if isinstance(error, FitError):
        return bad(message, param, "memory_budget")
    if isinstance(error, RunError):  # ours; its text may hold what nobody else should see
        return Problem(503, "the answer failed, or the server is shutting down", code="failed")
    return bad(message, param)


def timed_out(seconds: float) -> Problem:
    """An answer that took too long. Clients do not try by themselves again: it would again."""
    message = f"no complete answer after {seconds:g} seconds, which is this server's limit"
    return Problem(408, message, code="timeout", headers={"x-should-retry": "false"})


def internal() -> Problem:
    """Our mistake."""
    return Problem(
        500,
        "the server made a mistake; its own output says where",
        code="internal",
        headers={"x-should-retry": "false"},
    )


def _kind(status: int) -> str:
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
