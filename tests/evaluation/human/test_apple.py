"""Apple's model through a stand-in for Apple's SDK, which is for macOS 26 alone."""

import platform

import pytest

from afm_mlx.evaluation.human.apple import AppleSubject, NotHere
from afm_mlx.evaluation.items import Answer, Question, Refusal
from afm_mlx.evaluation.subject import Drawing

# Names and signatures as in apple/python-apple-fm-sdk 67e26ef.
SDK = """
import enum
from dataclasses import dataclass
from typing import Any

class FoundationModelsError(Exception): pass
class GuardrailViolationError(FoundationModelsError): pass
class ExceededContextWindowSizeError(FoundationModelsError): pass

class Reason(enum.IntEnum):
    APPLE_INTELLIGENCE_NOT_ENABLED = 0

class SystemLanguageModel:
    available = True
    def is_available(self):
        return (True, None) if self.available else (False, Reason(0))

@dataclass
class SamplingMode:
    kind: str
    probability_threshold: Any = None
    seed: Any = None
    @classmethod
    def greedy(cls):
        return cls("greedy")
    @classmethod
    def random(cls, top=None, probability_threshold=None, seed=None):
        return cls("random", probability_threshold, seed)

@dataclass
class GenerationOptions:
    sampling: Any = None
    temperature: Any = None
    maximum_response_tokens: Any = None

class LanguageModelSession:
    def __init__(self, instructions=None, model=None, tools=None):
        assert isinstance(model, SystemLanguageModel)
        self.instructions, self.asked = instructions, 0
    async def respond(self, prompt, generating=None, *, schema=None, options=None):
        self.asked += 1
        assert self.asked == 1, "a session remembers what was said"
        if prompt == "bad":
            raise GuardrailViolationError
        if prompt == "long":
            raise ExceededContextWindowSizeError
        return f"{self.instructions} {prompt} {options}"
"""


def question(text: str, system: str = "") -> Question:
    first = [{"role": "system", "content": system}] if system else []
    return Question(text, (*first, {"role": "user", "content": text}), 50)


def mac(monkeypatch, version: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), "arm64"))


@pytest.fixture
def sdk(monkeypatch, tmp_path):
    """The stand-in as it is imported on a Mac."""
    mac(monkeypatch, "26.1")
    (tmp_path / "apple_fm_sdk.py").write_text(SDK)
    monkeypatch.syspath_prepend(tmp_path)
    import apple_fm_sdk

    yield apple_fm_sdk
    monkeypatch.delitem(__import__("sys").modules, "apple_fm_sdk")


def test_elsewhere_it_is_said_why_it_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(NotHere, match="needs macOS 26 or later, and this is Linux"):
        AppleSubject(Drawing())
    mac(monkeypatch, "15.4")
    with pytest.raises(NotHere, match=r"and this is macOS 15\.4"):
        AppleSubject(Drawing())
    mac(monkeypatch, "26.0")
    with pytest.raises(NotHere, match="its SDK cannot be opened: No module") as caught:
        AppleSubject(Drawing())
    assert "pip install apple-fm-sdk" in caught.value.hint


def test_a_system_that_has_it_turned_off_is_quoted(monkeypatch, sdk):
    monkeypatch.setattr(sdk.SystemLanguageModel, "available", False)
    with pytest.raises(NotHere, match="the system says: apple intelligence not enabled"):
        AppleSubject(Drawing())


def test_each_prompt_has_a_session_of_its_own(sdk):
    questions = [question("one"), question("two", "Be short.")]
    (_, one), (_, two) = AppleSubject(Drawing()).answer(questions)
    assert one.text.startswith("None one ")
    assert two.text.startswith("Be short. two ")
    assert "kind='greedy'" in one.text
    assert "maximum_response_tokens=50" in one.text


def test_drawn_answers_have_temperature_top_p_and_seed(sdk):
    ((_, said),) = AppleSubject(Drawing(0.7, 0.9, 3)).answer([question("one")])
    assert "kind='random', probability_threshold=0.9, seed=3" in said.text
    assert "temperature=0.7" in said.text


def test_what_it_will_not_answer_is_empty_and_what_it_cannot_is_refused(sdk):
    asked = [question("bad"), question("long"), question("one")]
    said = [answer for _, answer in AppleSubject(Drawing()).answer(asked)]
    assert said[0] == Answer("")
    assert said[1] == Refusal("ExceededContextWindowSizeError of Apple's model")
    assert said[2].text.startswith("None one")


def test_facts_name_the_system(sdk):
    assert AppleSubject(Drawing()).facts == {"model": "macOS 26.1", "temperature": 0.0}
