"""Models behind an OpenAI-compatible API: a small client, on the standard library alone.

What may pass (a busy or restarting server, a cut connection, a garbled body) is tried again, each
time after a longer wait. What cannot (a wrong key, an unknown model) ends the run, in words that
say what to change; the run goes on from there later.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from afm_mlx.corpus.crawl.fetch import seconds_of
from afm_mlx.errors import RunError
from afm_mlx.evaluation.posting import (
    CONNECT_SECONDS,
    Said,
    chat_url,
    fetch_json,
    opener_for,
    shown,
    sibling,
)
from afm_mlx.evaluation.subject import TOO_LONG

KEY_VARIABLE = "OPENAI_API_KEY"
"""Whose value is sent unless a key is given; OpenAI's own clients read it, too."""

TIMEOUT_SECONDS = 600.0
"""For an answer. Source: OpenAI's own client."""

TRIES = 7
"""Of one request. Ours: with `WAIT_SECONDS`, a server has a minute to come back, which also is the
time in which usual limits count requests."""

WAIT_SECONDS = 1.0
"""Before the second try; doubles with each. Ours."""

LONGEST_WAIT = 120.0
"""Seconds before a next try; where a server asks for more, the run stops. Ours."""

USER_AGENT = "afm-mlx"
"""Who asks, in each request."""

_BUSY = 429
_AGAIN = (408, 409, 425, _BUSY)  # and all from 500 on
_BAD = (400, 413, 422)  # the request is at fault: this one, or all that we write

# In codes and words of OpenAI, vLLM and llama.cpp.
_LONG = re.compile(r"context.(length|size|window)", re.IGNORECASE)

_ELSE: Mapping[str, str | None] = {"max_tokens": "max_completion_tokens", "stop": None}
"""Fields that some models refuse, and what to send in their place. We cut at stop texts anyway."""


class NoAnswer(RunError):
    """A request failed for good."""

    def __init__(
        self, message: str, *, hint: str = "", reason: str = "", code: str = "", param: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        """What to count it under, if it is this request's fault alone; "" where it is not."""
        self.code, self.param = code, param
        """What the server calls it, and which field it blames."""


class Endpoint:
    """A model behind `/v1/chat/completions`. Threads may share it."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: such as `http://127.0.0.1:8080` or `https://api.openai.com/v1`; what is missing of
                `/v1/chat/completions` is added.
            model: its name there.
            key: sent with each request; None for the value of `OPENAI_API_KEY`, "" for none.
            timeout_seconds: for one answer; a late one is not asked for again.
            tries: of one request, where trying again can help.
            wait_seconds: before the second try; doubles with each.

        Raises:
            RunError: the URL or the key cannot be one.
        """
        self.url, self.model = chat_url(url), model
        self.timeout_seconds, self.tries, self.wait_seconds = timeout_seconds, tries, wait_seconds
        self._key = os.environ.get(KEY_VARIABLE, "").strip() if key is None else key
        if not all("!" <= letter <= "~" for letter in self._key):
            raise RunError(
                "the key has characters that no key has, such as spaces",
                hint=f"check {KEY_VARIABLE}",
            )
        self._opener = opener_for(self.host)
        self._reached = False
        self._not_before = 0.0  # by time.monotonic: a server wants us to wait
        self._instead: dict[str, str | None] = {}  # of `_ELSE`, what this model refused

    @property
    def host(self) -> str:
        """Where it is."""
        return urlsplit(self.url).hostname or ""

    @property
    def place(self) -> str:
        """Where it is, with its port."""
        return urlsplit(self.url).netloc

    def chat(
        self,
        messages: list[dict[str, Any]],
        *,
        over: threading.Event | None = None,
        tries: int | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """The answer to a conversation, as the server gives it: an element of `choices`.

        Its `usage` is the server's count of tokens, or empty.

        Args:
            messages: as in OpenAI's API.
            over: set when nobody waits any more; then nothing is tried again.
            tries: other than the endpoint's.
            fields: of the request; those that are None are left away.

        Raises:
            NoAnswer: there is none.
        """
        over = over or threading.Event()
        given = {name: value for name, value in fields.items() if value is not None}
        body = {"model": self.model, "messages": messages, **given}
        left = tries or self.tries
        wait = self.wait_seconds
        while True:
            over.wait(max(0.0, self._not_before - time.monotonic()))
            sent = self._adapted(body)
            try:
                return _choice(self._post(sent))
            except NoAnswer as error:
                if self._learns(error, sent):
                    continue
                raise
            except _Passing as passing:
                left -= 1
                if passing.asked_for > LONGEST_WAIT:
                    raise NoAnswer(
                        f"{self.place} asks to wait {passing.asked_for:,.0f} seconds",
                        hint="run again then: what is done is kept",
                    ) from None
                if not left or over.is_set() or passing.hopeless:
                    raise self._given_up(passing) from None
                if passing.asked_for:
                    self._not_before = time.monotonic() + passing.asked_for
                # Those that failed together should not come back together.
                over.wait(wait * random.uniform(0.75, 1.25))
                wait = min(2 * wait, LONGEST_WAIT)

    def models(self) -> list[str]:
        """Names of the models there; empty where the server does not tell."""
        request = urllib.request.Request(sibling(self.url, "/models"), headers=self._headers())
        try:
            rows = fetch_json(self._opener, request, seconds=CONNECT_SECONDS)["data"]
            return [str(row["id"]) for row in rows]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return []

    def _headers(self) -> dict[str, str]:
        # Some services turn urllib's own name away.
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers

    def _adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request without the fields that this model has refused."""
        names = {name: self._instead.get(name, name) for name in body}
        return {to: body[name] for name, to in names.items() if to is not None}

    def _learns(self, error: NoAnswer, sent: Mapping[str, Any]) -> bool:
        """Whether the request can be made so that it pleases."""
        unsupported = error.code in ("unsupported_parameter", "unsupported_value")
        if unsupported and error.param in _ELSE and error.param in sent:
            self._instead[error.param] = _ELSE[error.param]
            return True
        return False

    def _post(self, body: dict[str, Any]) -> Any:
        """One try: the answer's JSON.

        Raises:
            NoAnswer: it failed, and would again.
            _Passing: it failed, and might not again.
        """
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), headers=self._headers(), method="POST"
        )
        try:
            found = fetch_json(self._opener, request, seconds=self.timeout_seconds)
        except urllib.error.HTTPError as error:
            self._reached = True
            with error:
                raise self._problem(error) from None
        except ValueError:
            raise _Passing("what came back is no JSON", "no JSON came back") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None
        self._reached = True
        return found

    def _broken(self, error: Exception) -> Exception:
        """What to make of a connection that failed."""
        unmade = isinstance(error, urllib.error.URLError)
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        words = str(getattr(cause, "strerror", None) or cause or type(cause).__name__).lower()
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NoAnswer(
                f"the certificate of {self.place} cannot be verified: {cause.verify_message}",
                hint="pip install certifi; or, for a server of your own, put its certificate's "
                "file into SSL_CERT_FILE",
            )
        if isinstance(cause, ssl.SSLError) and not self._reached:
            return NoAnswer(
                f"{self.place} does not talk TLS: {words}", hint="for a plain server, write http://"
            )
        if isinstance(cause, TimeoutError) and not unmade:
            seconds = f"{self.timeout_seconds:g} seconds"
            return _Passing(f"no answer within {seconds}", "no answer in time", hopeless=True)
        # A server that was never there is rather misspelled than restarting.
        return _Passing(words, "the connection broke", hopeless=unmade and not self._reached)

    def _problem(self, error: urllib.error.HTTPError) -> Exception:
        """What to make of a status that is no success."""
        status, said = error.code, Said(error, hide=self._key)
        where = f"{self.place} says {status}{said.text}"
        if status in (401, 403):
            hint = f"put a key of that server into {KEY_VARIABLE}"
            return NoAnswer(f"{where}: the key is not taken" if self._key else where, hint=hint)
        if status == 404:
            names = self.models()
            known = (
                f"models there: {', '.join(names[:10])}"
                if names
                else f"asked was {shown(self.url)}"
            )
            return NoAnswer(f"{where}; the model asked for is '{self.model}'", hint=known)
        if 300 <= status < 400:
            to = error.headers.get("Location", "nowhere")
            return NoAnswer(f"{where}: it has moved to {to}", hint="give that URL")
        if status in _BAD:
            reason = TOO_LONG if _LONG.search(f"{said.code} {said.text}") else f"status {status}"
            return NoAnswer(where, reason=reason, code=said.code, param=said.param)
        if said.code == "insufficient_quota":
            return NoAnswer(where, hint="run again when there is credit: what is done is kept")
        if status in _AGAIN or status >= 500:
            return _Passing(
                f"status {status}{said.text}",
                "" if status == _BUSY else f"status {status}",
                asked_for=seconds_of(error.headers.get("Retry-After") or ""),
                hopeless=error.headers.get("x-should-retry") == "false",
            )
        return NoAnswer(where, hint=f"asked was {shown(self.url)}")

    def _given_up(self, passing: _Passing) -> NoAnswer:
        return NoAnswer(
            f"{self.place} gives no answer: {passing}",
            hint=f"is a server at {shown(self.url)}? run again then: what is done is kept",
            reason=passing.reason,
        )


class _Passing(Exception):
    """A try failed in a way that may pass."""

    def __init__(
        self, message: str, reason: str, *, asked_for: float = 0.0, hopeless: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.asked_for = asked_for
        """Seconds that the server wants us to wait."""
        self.hopeless = hopeless
        """Whether trying again soon would not help."""


def _choice(found: Any) -> dict[str, Any]:
    """The one answer of a completion. Raises _Passing where there is none."""
    try:
        choice = found["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError
    except (KeyError, IndexError, TypeError):
        raise _Passing("what came back is no chat completion", "no chat completion") from None
    usage = found.get("usage")
    return {**choice, "usage": usage if isinstance(usage, dict) else {}}
