"""Apple's own on-device model as an opponent, through Apple's SDK for Python.

Source: apple/python-apple-fm-sdk 67e26ef, src/apple_fm_sdk. The SDK is a package for macOS 26 and
later, `apple-fm-sdk`; what is not here is said by name, so that a script can go on without it.
"""

from __future__ import annotations

import asyncio
import importlib
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from afm_mlx.errors import AfmError
from afm_mlx.evaluation.items import Answer, Question, Refusal
from afm_mlx.evaluation.subject import Drawing

WORD = "apple"
"""In place of a MODEL; a folder of this name is ./apple."""

NAME = "apple-on-device"
"""In answers, unless told."""

MODULE = "apple_fm_sdk"
"""What `pip install apple-fm-sdk` brings."""

OLDEST = 26
"""First macOS that has the model."""

WILL_NOT = ("GuardrailViolationError", "RefusalError")
"""Errors of the SDK that are the model's answer: it, or its guardrail, will not."""


class NotHere(AfmError):
    """Apple's model cannot be asked on this machine."""


class AppleSubject:
    """Apple's on-device model. It answers one prompt at a time, each in a session of its own."""

    def __init__(self, drawing: Drawing, *, name: str = NAME) -> None:
        """Ask Apple's model.

        Raises:
            NotHere: this is no macOS 26 or later, its SDK is not installed, or the system says
                that the model cannot be used.
        """
        self.name, self._drawing = name, drawing
        self._sdk = _open_sdk()
        self._model = self._sdk.SystemLanguageModel()
        available, reason = self._model.is_available()
        if not available:
            word = getattr(reason, "name", str(reason)).lower().replace("_", " ")
            raise NotHere(f"the system says: {word}", hint="System Settings, Apple Intelligence")

    @property
    def facts(self) -> dict[str, Any]:
        """See `Subject`. The model comes with the system, so that its version stands for it."""
        return {"model": f"macOS {platform.mac_ver()[0]}", **self._drawing.facts}

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refusal]]:
        """See `Subject`. Where the model or its guardrail will not, the answer is empty."""
        with asyncio.Runner() as runner:
            for place, question in enumerate(questions):
                yield place, runner.run(self._answer(question))

    async def _answer(self, question: Question) -> Answer | Refusal:
        assert not isinstance(question.prompt, str), "Apple's model continues no text"
        texts = {role: "" for role in ("system", "user")} | {
            message["role"]: message["content"] for message in question.prompt
        }
        session = self._sdk.LanguageModelSession(
            instructions=texts["system"] or None, model=self._model
        )
        options = self._options(question.max_tokens)
        try:
            return Answer(str(await session.respond(texts["user"], options=options)))
        except self._sdk.FoundationModelsError as error:
            name = type(error).__name__
            return Answer("") if name in WILL_NOT else Refusal(f"{name} of Apple's model")

    def _options(self, max_tokens: int) -> Any:
        sdk, drawing = self._sdk, self._drawing
        if not drawing.temperature:
            return sdk.GenerationOptions(
                sampling=sdk.SamplingMode.greedy(), maximum_response_tokens=max_tokens
            )
        return sdk.GenerationOptions(
            sampling=sdk.SamplingMode.random(
                probability_threshold=drawing.top_p, seed=drawing.seed
            ),
            temperature=drawing.temperature,
            maximum_response_tokens=max_tokens,
        )


def _open_sdk() -> Any:
    if platform.system() != "Darwin":
        raise NotHere(f"it needs macOS {OLDEST} or later, and this is {platform.system()}")
    version = platform.mac_ver()[0]
    if int(version.split(".")[0]) < OLDEST:
        raise NotHere(f"it needs macOS {OLDEST} or later, and this is macOS {version}")
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise NotHere(
            f"its SDK cannot be opened: {error}", hint="pip install apple-fm-sdk (needs Xcode 26)"
        ) from None
