"""What a server answers where there is no route, or one fails."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import HTTPExceptionHandler

from afm_mlx.inference.server.problems import Problem, internal
from afm_mlx.inference.server.responses import problem_response

SHOWN_CHARACTERS = 80
"""Of a path that leads nowhere."""


def handlers(hint: str = "") -> dict[type[Exception], HTTPExceptionHandler]:
    """Of exceptions, as an application takes them; `hint` says where there is something."""

    def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:SHOWN_CHARACTERS]
        if error.status_code == 405:
            message = f"{path} does not take {request.method}"
        else:
            message = f"there is nothing at {path}" + (f"; {hint}" if hint else "")
        return problem_response(
            Problem(error.status_code, message, code="not_found", headers=dict(error.headers or {}))
        )

    return {HTTPException: no_route, Problem: _problem, Exception: _internal}


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


def _internal(request: Request, error: Exception) -> Response:
    return problem_response(internal())
