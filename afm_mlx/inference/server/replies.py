"""Answers in the form of OpenAI's API: whole, and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from afm_mlx.inference.server.jobs import Usage
from afm_mlx.inference.server.writing import Piece, TokenText

DONE = b"data: [DONE]\n\n"
"""What ends a stream."""


class Reply(Protocol):
    """The form of the answers to one request."""

    def opening(self, number: int) -> list[dict[str, Any]]:
        """Choices of a stream that begin an answer."""

    def part(self, number: int, piece: Piece) -> dict[str, Any]:
        """A choice of a stream."""

    def whole(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A choice with a complete answer."""

    def body(
        self, choices: list[dict[str, Any]], *, stream: bool, usage: Usage | None = None
    ) -> dict[str, Any]:
        """The object around choices."""


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


class _Base:
    prefix = kind = chunk_kind = ""

    def __init__(self, model: str) -> None:
        """`model` is the name that was asked for."""
        self._model = model
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def body(
        self, choices: list[dict[str, Any]], *, stream: bool, usage: Usage | None = None
    ) -> dict[str, Any]:
        """The object around choices."""
        body: dict[str, Any] = {
            "id": self._id,
            "object": self.chunk_kind if stream else self.kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if usage is not None:
            body["usage"] = _usage(usage)
        return body


class ChatReply(_Base):
    """Of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, number: int) -> list[dict[str, Any]]:
        """The role comes first, alone."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}]

    def part(self, number: int, piece: Piece) -> dict[str, Any]:
        """Text, calls, refusal and end, as far as a piece has them."""
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.refusal:
            delta["refusal"] = piece.refusal
        if piece.calls:
            delta["tool_calls"] = [
                {"index": place, **call.message_part} for place, call in enumerate(piece.calls)
            ]
        return {
            "index": number,
            "delta": delta,
            "logprobs": _logprobs(piece.tokens),
            "finish_reason": piece.finish,
        }

    def whole(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A message. Its content is null where there is only a refusal, or calls."""
        text = "".join(piece.text for piece in pieces)
        calls = [call.message_part for piece in pieces for call in piece.calls]
        refusal = "".join(piece.refusal for piece in pieces)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if not text and (refusal or calls) else text,
            "refusal": refusal or None,
        }
        if calls:
            message["tool_calls"] = calls
        return {
            "index": number,
            "message": message,
            "logprobs": _logprobs([token for piece in pieces for token in piece.tokens]),
            "finish_reason": pieces[-1].finish,
        }


class CompletionReply(_Base):
    """Of /v1/completions. A refusal is a field of ours there: OpenAI's form has no place for it."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def opening(self, number: int) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def part(self, number: int, piece: Piece) -> dict[str, Any]:
        """Text and end."""
        return self.whole(number, [piece])

    def whole(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """All text."""
        refusal = "".join(piece.refusal for piece in pieces)
        choice = {
            "index": number,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": _old_logprobs([token for piece in pieces for token in piece.tokens]),
            "finish_reason": pieces[-1].finish,
        }
        return choice | ({"refusal": refusal} if refusal else {})


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.answer_tokens,
        "total_tokens": usage.prompt_tokens + usage.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(tokens: Sequence[TokenText]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [
        {**_token(token), "top_logprobs": [_token(other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenText) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}


def _old_logprobs(tokens: Sequence[TokenText]) -> dict[str, Any] | None:
    """In the form of completions."""
    if not tokens:
        return None
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {other.text: other.logprob for other in token.top} if token.top else None
            for token in tokens
        ],
        "text_offset": [token.offset for token in tokens],
    }
