"""Apple's own on-device model as an opponent, through Apple's SDK for Python.

Source: apple/python-apple-fm-sdk 67e26ef, src/apple_fm_sdk. The SDK is a package for macOS 26 and
later, `apple-fm-sdk`; what is not here is said by name, so that a script can go on without it.
"""

from __future__ import annotations

import asyncio
import importlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afm_mlx.errors import AfmError
from afm_mlx.evaluation.human.writing import Refused, Said
from afm_mlx.inference.requests import Sampling

WORD = "apple"
"""In place of a MODEL; a folder of this name is ./apple."""

NAME = "apple-on-device"
"""In answers, unless told."""

MODULE = "apple_fm_sdk"
"""What `pip install apple-fm-sdk` brings."""

OLDEST = 26
"""First macOS that has the model."""

ASKED_OTHERWISE = ("GuardrailViolationError", "RefusalError")
"""Errors of the SDK that are the model's answer: it, or its guardrail, will not."""


class NotHere(AfmError):
    """Apple's model cannot be asked on this machine."""


class AppleAuthor:
    """Apple's on-device model. It answers one prompt at a time, each in a session of its own."""

    def __init__(self, sampling: Sampling, *, system: str = "") -> None:
        """Ask Apple's model.

        Raises:
            NotHere: this is no macOS 26 or later, its SDK is not installed, or the system says
                that the model cannot be used.
        """
        self._sampling, self._system = sampling, system
        self._sdk = _open_sdk()
        self._model = self._sdk.SystemLanguageModel()
        available, reason = self._model.is_available()
        if not available:
            word = getattr(reason, "name", str(reason)).lower().replace("_", " ")
            raise NotHere(f"the system says: {word}", hint="System Settings, Apple Intelligence")

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Author`."""
        sampling = self._sampling
        return {
            "macos": platform.mac_ver()[0],
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed if sampling.temperature else 0,
            "system": self._system,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }

    def answers(self, prompts: Sequence[str]) -> Iterator[tuple[int, Said | Refused]]:
        """See `Author`. Where the model or its guardrail will not, the answer is empty."""
        with asyncio.Runner() as runner:
            for place, prompt in enumerate(prompts):
                yield place, runner.run(self._answer(prompt))

    async def _answer(self, prompt: str) -> Said | Refused:
        session = self._sdk.LanguageModelSession(
            instructions=self._system or None, model=self._model
        )
        try:
            text = await session.respond(prompt, options=self._options())
        except self._sdk.FoundationModelsError as error:
            name = type(error).__name__
            if name in ASKED_OTHERWISE:
                return Said("", name)
            return Refused(f"{name} of Apple's model")
        return Said(str(text), "stop")

    def _options(self) -> Any:
        sdk, sampling = self._sdk, self._sampling
        if not sampling.temperature:
            return sdk.GenerationOptions(
                sampling=sdk.SamplingMode.greedy(), maximum_response_tokens=sampling.max_tokens
            )
        return sdk.GenerationOptions(
            sampling=sdk.SamplingMode.random(
                probability_threshold=sampling.top_p, seed=sampling.seed
            ),
            temperature=sampling.temperature,
            maximum_response_tokens=sampling.max_tokens,
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
