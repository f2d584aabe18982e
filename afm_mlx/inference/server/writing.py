"""One answer on its way to a client: what may be told of it now, and what must wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from afm_mlx.inference.calls import TextBeforeCalls
from afm_mlx.inference.requests import Chunk

if TYPE_CHECKING:
    from afm_mlx.inference.calls import Call, ToolFormat
    from afm_mlx.inference.guardrails import OutputCheck
    from afm_mlx.inference.tools import Tool
    from afm_mlx.text.tokenizer import Tokenizer

FINISHES = {"stop": "stop", "length": "length", "context": "length"}
"""OpenAI's words for why an answer ended."""

REFUSED, CALLED = "content_filter", "tool_calls"
"""Two more of them."""


@dataclass(frozen=True)
class TokenText:
    """A token with its log-probability in nats, and what it says."""

    text: str
    """Bytes that are no character of their own show as U+FFFD."""
    bytes: bytes
    logprob: float
    top: tuple[TokenText, ...] = ()
    """The likeliest tokens in its place."""
    offset: int = 0
    """Characters of the answer before the piece of text that it completed."""


@dataclass
class Piece:
    """What may be told of an answer now."""

    text: str = ""
    calls: Sequence[Call] = ()
    """Of tools; they come with the end of the answer."""
    refusal: str = ""
    """What to tell the user in place of the rest."""
    tokens: list[TokenText] = field(default_factory=list)
    """Where log-probabilities are asked for: those of the text, all pieces together."""
    finish: str | None = None
    """Why the answer ended, in OpenAI's words; None before the end."""


class TokenTexts:
    """What tokens say."""

    def __init__(self, tokenizer: Tokenizer, known: Sequence[bytes] = ()) -> None:
        """`known` are the bytes of each token, where the vocabulary tells; empty for no text."""
        self._tokenizer, self._known = tokenizer, known

    def of(self, chunk: Chunk, offset: int) -> TokenText:
        """The token of a chunk that has log-probabilities."""
        top = tuple(self._one(token, logprob) for token, logprob in chunk.top)
        one = self._one(chunk.token, chunk.logprob or 0.0)
        return TokenText(one.text, one.bytes, one.logprob, top, offset)

    def is_end(self, token: int) -> bool:
        """Whether a token ends answers: it is not one of their text."""
        return token in self._tokenizer.eos_ids

    def _one(self, token: int, logprob: float) -> TokenText:
        said = self._known[token] if token < len(self._known) else b""
        if not said and token < self._tokenizer.vocab_size:
            said = self._tokenizer.decode([token]).encode()
        # JSON has no infinity, and OpenAI's clients know this number for it.
        return TokenText(said.decode(errors="replace"), said, max(logprob, -9_999.0))


class Writing:
    """One answer: takes the model's chunks, and gives what may be told."""

    def __init__(
        self,
        texts: TokenTexts,
        *,
        check: OutputCheck | None = None,
        tools: Sequence[Tool] = (),
        form: ToolFormat | None = None,
        parallel: bool = True,
    ) -> None:
        """An answer that has not begun.

        Args:
            texts: of the model's tokens.
            check: lets text pass, or refuses it.
            tools: that the model may call.
            form: how it writes calls; None where it cannot.
            parallel: whether more than one call is told.
        """
        self._texts, self._check = texts, check
        self._tools, self._parallel = tools, parallel
        self._text = TextBeforeCalls(form if tools else None)
        self._written = 0  # characters that the model has written
        self._passed = 0  # of these, characters that may be told
        self._tokens: deque[tuple[int, TokenText]] = deque()  # with the end of their text
        self.finished = False
        """Whether the last piece has been given."""

    def add(self, chunks: Sequence[Chunk]) -> Piece:
        """Take chunks, in their order; the last one of an answer has `finished`."""
        finished = None
        for chunk in chunks:
            offset, self._written = self._written, self._written + len(chunk.text)
            if chunk.logprob is not None and not self._texts.is_end(chunk.token):
                self._tokens.append((self._written, self._texts.of(chunk, offset)))
            finished = chunk.finished or finished
        text = "".join(chunk.text for chunk in chunks)
        if self._check is not None:
            text = self._check.add(text) + (self._check.end() if finished else "")
        self._passed += len(text)
        piece = Piece(self._text.add(text), tokens=self._passed_tokens())
        if self._check is not None and self._check.verdict.refused:
            piece.refusal, piece.finish = self._check.verdict.message, REFUSED
        elif finished is not None:
            piece.finish = FINISHES[finished]
            self._end(piece)
        self.finished = piece.finish is not None
        return piece

    def _end(self, piece: Piece) -> None:
        """Take apart what was held, when the answer is over."""
        reply = self._text.end(self._tools)
        if all(call.name for call in reply.calls):
            piece.text += reply.text
            piece.calls = reply.calls if self._parallel else reply.calls[:1]
            piece.finish = CALLED if piece.calls else piece.finish
        else:  # no program can use it; whoever reads the answer can
            piece.text += self._text.held

    def _passed_tokens(self) -> list[TokenText]:
        """Tokens whose text may be told."""
        found = []
        while self._tokens and self._tokens[0][0] <= self._passed:
            found.append(self._tokens.popleft()[1])
        return found


def refused(message: str) -> Piece:
    """The whole of an answer to a prompt that must have none."""
    return Piece(refusal=message, finish=REFUSED)
