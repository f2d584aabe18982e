"""A model behind an endpoint, as one who is asked."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import Endpoint, NoAnswer
from afm_mlx.evaluation.items import Answer, Choice, Likelihood, Passage, Question, Refusal
from afm_mlx.inference.calls import JSON_CALLS

TOGETHER = 8
"""Requests at once, unless told. Ours; `afm serve` answers as many at once."""

LATE_SECONDS = 30.0
"""That answers still get to come in when a run has to stop. Ours."""

PROBE = "Say OK."
"""Asked where a question got no answer, to see whether the question or the server is to blame."""

MOST_STOPS = 4
"""Stop texts that are sent. Source: OpenAI's API; we cut at all of them."""


class EndpointSubject:
    """Asks an endpoint; several requests are under way at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str = "",
        together: int = TOGETHER,
        temperature: float | None = 0.0,
    ) -> None:
        """Ask an endpoint.

        Args:
            endpoint: where.
            name: in results; "" for the model's name there.
            together: requests at once.
            temperature: 0 for likeliest tokens; None for the server's own, where a model takes no
                other.
        """
        self.endpoint, self.name = endpoint, name or endpoint.model
        self.together, self.temperature = together, temperature

    @property
    def facts(self) -> dict[str, Any]:
        """Which model where. A server that comes back at another port is the same."""
        temperature = "the server's" if self.temperature is None else self.temperature
        return {
            "model": self.endpoint.model,
            "endpoint": self.endpoint.host,
            "temperature": temperature,
        }

    def choose(self, choices: Sequence[Choice]) -> Iterator[tuple[int, list[Likelihood] | Refusal]]:
        """Refuse at once: a chat API does not say how likely a given text is.

        Raises:
            RunError: always, where there is a choice.
        """
        if choices:
            self._no_likelihoods()
        return iter(())

    def read(self, passages: Sequence[Passage]) -> Iterator[tuple[int, Likelihood | Refusal]]:
        """As `choose`."""
        if passages:
            self._no_likelihoods()
        return iter(())

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """See `Subject`. A text to be continued is sent as a message of the user.

        A question that the server cannot answer is refused where it can answer another: that one
        is "Say OK.", with all else the same.

        Raises:
            NoAnswer: the server cannot be asked; what it has answered comes before.
        """
        asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        came: queue.SimpleQueue[tuple[int, Answer | Refusal | Exception] | None]
        came = queue.SimpleQueue()
        over = threading.Event()
        for place in range(len(questions)):
            asked.put(place)

        def work() -> None:
            while not over.is_set():
                try:
                    place = asked.get_nowait()
                except queue.Empty:
                    break
                try:
                    came.put((place, self._reply(questions[place], over)))
                except Exception as error:  # any: whoever waits for it raises it
                    over.set()
                    came.put((place, error))
            came.put(None)

        working = min(self.together, len(questions))
        for _ in range(working):
            threading.Thread(target=work, name="afm-endpoint", daemon=True).start()
        failed: Exception | None = None
        try:
            while working:
                try:
                    said = came.get(timeout=None if failed is None else LATE_SECONDS)
                except queue.Empty:
                    break
                if said is None:
                    working -= 1
                    continue
                place, reply = said
                if isinstance(reply, Exception):
                    failed = failed or reply
                else:
                    yield place, reply
        finally:
            over.set()
        if failed is not None:
            raise failed

    def _reply(self, question: Question, over: threading.Event) -> Answer | Refusal:
        try:
            return self._ask(question, over)
        except NoAnswer as error:
            if not error.reason or over.is_set():
                raise
            try:
                self._ask(replace(question, prompt=PROBE), over, tries=1)
            except NoAnswer:
                raise error from None
            return Refusal(error.reason)

    def _ask(
        self, question: Question, over: threading.Event, *, tries: int | None = None
    ) -> Answer | Refusal:
        prompt = question.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        schema = question.schema
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        choice = self.endpoint.chat(
            [dict(message) for message in messages],
            over=over,
            tries=tries,
            max_tokens=question.max_tokens,
            temperature=self.temperature,
            stop=list(question.stop[:MOST_STOPS]) or None,
            tools=[dict(tool) for tool in question.tools] or None,
            response_format=form if schema is not None else None,
        )
        if choice.get("finish_reason") == "content_filter":
            return Refusal("filtered by the endpoint")
        text = _text(choice["message"])
        for stop in question.stop:
            text = text.partition(stop)[0]
        tokens = choice["usage"].get("completion_tokens")
        return Answer(
            text,
            "length" if choice.get("finish_reason") == "length" else "stop",
            tokens if isinstance(tokens, int) else 0,
        )

    def _no_likelihoods(self) -> NoReturn:
        raise RunError(
            f"this task compares how likely texts are, and {self.endpoint.host} does not tell",
            hint="name a model on this machine instead of an endpoint",
        )


def _text(message: Mapping[str, Any]) -> str:
    """What a message says; calls of tools as our own models write them."""
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = str(content)
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {} if isinstance(call, dict) else {}
        text += JSON_CALLS.start + _call(function) + JSON_CALLS.end
    return text


def _call(function: Mapping[str, Any]) -> str:
    """A call as JSON; arguments that are no JSON make it none, and so they stay wrong."""
    name, arguments = json.dumps(function.get("name", "")), function.get("arguments") or "{}"
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return f'{{"name": {name}, "arguments": {given}}}'
