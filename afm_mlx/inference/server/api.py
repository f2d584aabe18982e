"""Requests of OpenAI's API, as far as they can be answered here."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from afm_mlx.inference.requests import Message, Sampling
from afm_mlx.inference.server.fields import Body

MOST_STOPS = 16
"""Texts that can end an answer; OpenAI takes 4."""

LONGEST_STOP = 500
"""In characters. Ours."""

MOST_TOP_LOGPROBS = 20
"""Source: OpenAI's API."""

COMPLETION_TOKENS = 16
"""Longest completion unless told. Source: OpenAI's API."""

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
IMAGES = ("image_url", "input_audio", "file", "image")


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Answering(Body):
    """What chats and completions have in common."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: tuple[str, ...] = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_is_text(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("a text or a list of texts is what it can be")
        if len(texts) > MOST_STOPS or not all(0 < len(text) <= LONGEST_STOP for text in texts):
            raise ValueError(
                f"{MOST_STOPS} texts at most, of 1 to {LONGEST_STOP} characters, are what it can be"
            )
        return tuple(texts)

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> Answering:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are only for a stream: set stream to true")
        return self

    @property
    def tells_usage(self) -> bool:
        """Whether the stream is to end with what the answer took."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def samplings(self, max_tokens: int, top_logprobs: int | None) -> list[Sampling]:
        """How each of the `n` answers is drawn: with seeds in a row."""
        first = secrets.randbits(48) if self.seed is None else self.seed
        return [
            Sampling(
                max_tokens=max_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                # OpenAI's clients send 0 for "the likeliest alone".
                top_p=1.0 if self.top_p is None else max(self.top_p, 1e-6),
                seed=first + number,
                stop=self.stop,
                top_logprobs=top_logprobs,
            )
            for number in range(self.n or 1)
        ]


class Part(Body):
    """A piece of a message."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") in IMAGES:
            raise ValueError(f"'{value['type']}' is not supported: these models read text")
        return value


class CalledFunction(Body):
    """A function that the assistant has called."""

    name: ToolName
    arguments: str


class ToolCall(Body):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Turn(Body):
    """A message. Fields that an answer of ours or OpenAI's has, and that say nothing, are taken."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    @field_validator("content", mode="before")
    @classmethod
    def _content_is_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [Part(type="text", text=value)]
        if value is None or isinstance(value, list):
            return value
        raise ValueError("a text, or a list of parts, is what it can be")

    @model_validator(mode="after")
    def _says_something(self) -> Turn:
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role 'tool' needs tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant has tool_calls")
        if self.content is None and not (self.tool_calls or self.refusal):
            raise ValueError(f"a message of role '{self.role}' needs content")
        return self

    @property
    def text(self) -> str:
        """What it says."""
        if self.content is None:
            return self.refusal or ""
        return "".join(part.text or part.refusal or "" for part in self.content)

    @property
    def message(self) -> Message:
        """For a chat template: parts joined, arguments of calls as they came."""
        found: dict[str, Any] = {"role": self.role, "content": self.text}
        for key in ("name", "tool_call_id"):
            if (value := getattr(self, key)) is not None:
                found[key] = value
        if self.tool_calls:
            found["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return found


class DeclaredFunction(Body):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class DeclaredTool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: DeclaredFunction


class NamedFunction(Body):
    """The name of a function."""

    name: ToolName


class NamedTool(Body):
    """A choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Body):
    """A JSON Schema for the answer."""

    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema stands beside type 'json_schema', and only there")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | bool | None:
        """None for any text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class Chat(Answering):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[DeclaredTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _choice_is_known(cls, value: Any) -> Any:
        if value in (None, "none", "auto", "required") or isinstance(value, dict | NamedTool):
            return NamedTool.model_validate(value) if isinstance(value, dict) else value
        raise ValueError(
            "'none', 'auto', 'required', or "
            '{"type": "function", "function": {"name": ...}} is what it can be'
        )

    @model_validator(mode="after")
    def _belongs_together(self) -> Chat:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names of one thing")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice needs tools")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.choice not in names:
            raise ValueError(f"tool_choice names '{self.choice}', and tools are {', '.join(names)}")
        if self.choice != "none" and self.schema_of_answer is not None:
            raise ValueError("response_format and tools exclude each other, save tool_choice: none")
        return self

    @property
    def choice(self) -> str:
        """Which tools may be called: "none", "auto", "required", or a tool's name."""
        if not self.tools:
            return "none"
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.tool_choice or "auto"

    @property
    def schema_of_answer(self) -> dict[str, Any] | bool | None:
        """JSON Schema that the answer must have; None for any text."""
        return self.response_format.schema_of_answer if self.response_format else None

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer; None where the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """As `Sampling.top_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Completion(Answering):
    """POST /v1/completions."""

    prompt: list[Any]
    """Each prompt: a text, or token ids."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _is_text_or_tokens(cls, value: Any) -> Any:
        prompts = [value] if isinstance(value, str) or _all(value, int) else value
        if _all(prompts, str) or (_all(prompts, list) and all(_all(one, int) for one in prompts)):
            return prompts
        raise ValueError("a text, texts, token ids, or lists of token ids is what it can be")

    @property
    def wanted_tokens(self) -> int:
        """Longest answer."""
        return self.max_tokens or COMPLETION_TOKENS


def _all(values: Any, kind: type) -> bool:
    """Whether this is a list of one or more of a kind."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    )
