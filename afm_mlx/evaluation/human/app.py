"""The grading page's server: cards go out, grades come in. Which model is whose stays here."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from afm_mlx.evaluation.dimensions import DIMENSIONS, MARKS
from afm_mlx.evaluation.human.store import Grade, Store, Verdict, clean_name
from afm_mlx.evaluation.human.study import Kind
from afm_mlx.inference.server.bodies import body_of
from afm_mlx.inference.server.doors import Doors
from afm_mlx.inference.server.fields import Body, read_body
from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.mistakes import handlers
from afm_mlx.inference.server.page import page
from afm_mlx.inference.server.problems import Problem, bad
from afm_mlx.inference.server.responses import json_response, problem_response
from afm_mlx.inference.server.run import Server
from afm_mlx.inference.server.start import is_loopback

PACKAGE = "afm_mlx.evaluation.human"
"""Has the page."""

LIMITS = Limits(body_bytes=2**16)
"""Bounds of requests: the longest has a comment. Ours."""

COMMENT_CHARACTERS = 4_000
"""Longest comment. Ours."""

Mark = Annotated[int, Field(ge=0, lt=len(MARKS))]


class Who(Body):
    """A grader."""

    grader: str


class Skip(Who):
    """A card that a grader leaves out."""

    card: int


class Said(Skip):
    """What a grader says about a card."""

    comment: Annotated[str, StringConstraints(max_length=COMMENT_CHARACTERS)] = ""
    seconds: Annotated[float, Field(ge=0)] = 0.0


class Comparison(Said):
    """Which of two answers is better: -3 the left one, much; 3 the right one, much."""

    verdict: Literal[-3, -2, -1, 0, 1, 2, 3]


class Marking(Said):
    """How good an answer is, by dimension: see `MARKS`."""

    verdict: dict[str, Mark]


def serve(
    store: Store,
    sock: socket.socket,
    *,
    host: str,
    api_key: str | None = None,
    most: int | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        store: the grades.
        sock: listens, on `host`.
        host: decides which names the server answers to.
        api_key: that graders must type.
        most: cards that each grader is shown; None for all.
        say: takes a line about a mistake of ours; stderr if not given.
    """
    app = make_app(store, loopback=is_loopback(host), api_key=api_key, most=most, say=say)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all is done
        Server(app, LIMITS).run(sockets=[sock])


def make_app(
    store: Store,
    *,
    loopback: bool,
    api_key: str | None = None,
    most: int | None = None,
    say: Callable[[str], None] | None = None,
) -> ASGIApp:
    """The page and its routes; parameters as those of `serve` and `Doors`."""
    routes = _Routes(store, most)
    inner = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/api/card", routes.card),
            Route("/api/grade", routes.grade, methods=["POST"]),
            Route("/api/skip", routes.skip, methods=["POST"]),
            Route("/api/undo", routes.undo, methods=["POST"]),
            Route("/api/again", routes.again, methods=["POST"]),
        ],
        exception_handlers={**handlers(), sqlite3.Error: _not_kept},
    )
    return Doors(inner, loopback=loopback, api_key=api_key, say=say)


class _Routes:
    """Each change is on the disk before it is answered, with the card that comes next."""

    def __init__(self, store: Store, most: int | None) -> None:
        self._store, self._most = store, most
        self._kind = store.study.kind

    async def page(self, request: Request) -> Response:
        return page(PACKAGE)

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def card(self, request: Request) -> Response:
        return self._next(_name(request.query_params.get("grader", "")))

    async def grade(self, request: Request) -> Response:
        raw = await body_of(request, LIMITS)
        if self._kind == Kind.PAIRS:
            compared = read_body(Comparison, raw)
            return self._put(compared, compared.verdict, compared.comment, compared.seconds)
        marked = read_body(Marking, raw)
        if set(marked.verdict) != set(DIMENSIONS):
            raise bad(f"a verdict has {', '.join(DIMENSIONS)}", "verdict")
        return self._put(marked, marked.verdict, marked.comment, marked.seconds)

    async def skip(self, request: Request) -> Response:
        return self._put(read_body(Skip, await body_of(request, LIMITS)), None, "", 0.0)

    async def undo(self, request: Request) -> Response:
        who = _name(read_body(Who, await body_of(request, LIMITS)).grader)
        undone = self._store.undo(who)
        if undone is None:
            raise Problem(409, "there is nothing to undo", code="nothing_to_undo")
        return self._show(who, undone.card, {"verdict": undone.verdict, "comment": undone.comment})

    async def again(self, request: Request) -> Response:
        who = _name(read_body(Who, await body_of(request, LIMITS)).grader)
        self._store.show_skipped_again(who)
        return self._next(who)

    def _put(self, asked: Skip, verdict: Verdict | None, comment: str, seconds: float) -> Response:
        who = _name(asked.grader)
        if not 0 <= asked.card < len(self._store.cards):
            raise bad(f"there is no card {asked.card}", "card")
        self._store.put(Grade(asked.card, who, verdict, comment.strip(), seconds))
        return self._next(who)

    def _next(self, who: str) -> Response:
        return self._show(who, None, None)

    def _show(self, who: str, number: int | None, undone: dict[str, Any] | None) -> Response:
        """A card and where the grader is; the next card, if none is named."""
        place = self._store.place(who, most=self._most)
        number = place.card if number is None else number
        body = {
            "kind": str(self._kind),
            "dimensions": list(DIMENSIONS.items()),
            "grader": who,
            "graded": place.graded,
            "skipped": place.skipped,
            "total": place.total,
        }
        if number is None:
            return json_response({**body, "card": None})
        asked, answers = self._store.shown(number)
        shown = {
            "number": number,
            "category": asked.category,
            "prompt": asked.prompt,
            "reference": asked.reference,
            "answers": list(answers),
        }
        return json_response({**body, "card": shown, "undone": undone})


def _name(text: str) -> str:
    """A grader's name.

    Raises:
        Problem: it is empty.
    """
    if name := clean_name(text):
        return name
    raise bad("a grader needs a name", "grader")


def _not_kept(request: Request, error: Exception) -> Response:
    return problem_response(Problem(503, f"this could not be kept: {error}", code="not_kept"))
