"""The routes of the server: OpenAI's API, health, and the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from afm_mlx.errors import AfmError
from afm_mlx.inference.server.api import Answering, Chat, Completion
from afm_mlx.inference.server.bodies import body_of
from afm_mlx.inference.server.doors import Doors
from afm_mlx.inference.server.fields import read_body
from afm_mlx.inference.server.jobs import Answers
from afm_mlx.inference.server.mistakes import handlers
from afm_mlx.inference.server.page import page
from afm_mlx.inference.server.problems import problem_of
from afm_mlx.inference.server.replies import ChatReply, CompletionReply, Reply
from afm_mlx.inference.server.responses import AnswerResponse, json_response, problem_response
from afm_mlx.inference.server.service import Service

OWNER = "afm-mlx"


def make_app(
    service: Service,
    *,
    loopback: bool,
    api_key: str | None = None,
    say: Callable[[str], None] | None = None,
) -> ASGIApp:
    """The server's application; parameters as those of `Doors`."""
    routes = _Routes(service)
    inner = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.complete, methods=["POST"]),
        ],
        exception_handlers={**handlers("the API begins with /v1"), AfmError: _failed},
    )
    return Doors(inner, loopback=loopback, api_key=api_key, say=say)


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = int(time.time())

    async def page(self, request: Request) -> Response:
        return page()

    async def health(self, request: Request) -> Response:
        load = self._service.batcher.load
        alive = self._service.batcher.is_alive
        body = {
            "status": "ok" if alive else "stopped",
            "waiting": load.waiting,
            "answering": load.answering,
            "memory_bytes": load.memory_bytes,
            "budget_bytes": load.budget_bytes,
        }
        return json_response(body, status=200 if alive else 503)

    async def models(self, request: Request) -> Response:
        data = [self._model(name) for name in self._service.names.all]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._service.names.adapter(name)
        return json_response(self._model(name))

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, Chat, self._service.chat, ChatReply)

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, Completion, self._service.complete, CompletionReply)

    async def _answer(
        self,
        request: Request,
        kind: type[Any],
        begin: Callable[[Any], Awaitable[Answers]],
        form: Callable[[str], Reply],
    ) -> Response:
        limits = self._service.limits
        deadline = asyncio.get_running_loop().time() + limits.seconds
        asked: Answering = read_body(kind, await body_of(request, limits))
        return AnswerResponse(
            await begin(asked),
            form(asked.model or self._service.names.base),
            stream=bool(asked.stream),
            tells_usage=asked.tells_usage,
            deadline=deadline,
            seconds=limits.seconds,
            cut=request.state.cut,
        )

    def _model(self, name: str) -> dict[str, Any]:
        adapter = self._service.names.adapter(name)
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": OWNER,
            "context_tokens": self._service.engine.context_tokens,
            "max_tokens": self._service.limits.max_tokens,
            "chats": self._service.engine.chats_with(adapter),
        }


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AfmError)
    return problem_response(problem_of(error))
