"""Answers over HTTP: whole or as a stream of events, and nothing more once the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from afm_mlx.errors import AfmError
from afm_mlx.inference.server.feed import SlowReader
from afm_mlx.inference.server.jobs import Answers
from afm_mlx.inference.server.problems import Problem, problem_of, timed_out
from afm_mlx.inference.server.replies import DONE, Reply, event
from afm_mlx.inference.server.writing import Piece

FAREWELL_SECONDS = 1.0
"""In which a client must take the last words of a stream that failed. Ours."""

STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}


def problem_response(problem: Problem) -> Response:
    """What is wrong, as JSON."""
    return json_response(problem.body, problem.status, problem.headers)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A body of JSON."""
    content = json.dumps(body, ensure_ascii=False).encode()
    return Response(content, status, headers, media_type="application/json")


class AnswerResponse(Response):
    """The answers of a request, cancelled when the client goes away or time is up."""

    def __init__(
        self,
        answers: Answers,
        reply: Reply,
        *,
        stream: bool,
        tells_usage: bool,
        deadline: float,
        seconds: float,
        cut: Callable[[], None],
    ) -> None:
        """Answers that have begun.

        Args:
            answers: of the model.
            reply: their form.
            stream: send them as they are written.
            tells_usage: end the stream with what they took.
            deadline: when they must be there, in the loop's time.
            seconds: how long that was, for the error.
            cut: cuts the connection of a client that does not read.
        """
        super().__init__()
        self._answers, self._reply = answers, reply
        self._stream, self._tells_usage = stream, tells_usage
        self._deadline, self._seconds, self._cut = deadline, seconds, cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        work = asyncio.create_task(self._send(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        slow = asyncio.create_task(self._answers.overflow())
        try:
            await asyncio.wait({work, gone, slow}, return_when=asyncio.FIRST_COMPLETED)
            if slow.done():
                self._cut()
        finally:
            self._answers.cancel()
            for task in (work, gone, slow):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SlowReader):
                await work

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with asyncio.timeout_at(self._deadline):
                if not self._stream:
                    body = await self._whole()
                else:
                    await send(_start(STREAM_HEADERS))
                    begun = True
                    await self._send_events(send)
                    return
            await json_response(body)(scope, receive, send)
            return
        except TimeoutError:
            problem = timed_out(self._seconds)
        except AfmError as error:
            problem = problem_of(error)
        if not begun:
            await problem_response(problem)(scope, receive, send)
            return
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send(_body(event(problem.body), more=False))
        except TimeoutError:
            self._cut()

    async def _whole(self) -> dict[str, Any]:
        found: list[list[Piece]] = [[] for _ in range(self._answers.num)]
        async for number, piece in self._answers.pieces():
            found[number].append(piece)
        choices = [self._reply.whole(number, pieces) for number, pieces in enumerate(found)]
        return self._reply.body(choices, stream=False, usage=self._answers.usage)

    async def _send_events(self, send: Send) -> None:
        for number in range(self._answers.num):
            if opening := self._reply.opening(number):
                await send(_body(event(self._chunk(opening))))
        async for number, piece in self._answers.pieces():
            if piece != Piece():
                await send(_body(event(self._chunk([self._reply.part(number, piece)]))))
        last = DONE
        if self._tells_usage:
            usage = self._reply.body([], stream=True, usage=self._answers.usage)
            last = event(usage) + DONE
        await send(_body(last, more=False))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._reply.body(choices, stream=True)
        return body | ({"usage": None} if self._tells_usage else {})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(headers: dict[str, str]) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": pairs}


def _body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}
