"""Fields of a request: those that are known, those that change nothing, and words for mistakes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from afm_mlx.inference.server.problems import Problem, bad
from afm_mlx.settings.mistakes import nearest

WITHOUT_EFFECT = (
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
"""Fields of OpenAI's API that change no answer here: they are taken, and not looked at."""

NOT_HERE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "answers are text"),
    "best_of": ((1,), "answers are not compared; n gives several"),
    "echo": ((False,), "the prompt is not repeated"),
    "frequency_penalty": ((0,), "there are no penalties here"),
    "function_call": ((), "use tool_choice"),
    "functions": ((), "use tools"),
    "logit_bias": (({},), "tokens cannot be weighted; response_format gives an answer its form"),
    "modalities": ((["text"],), "answers are text"),
    "presence_penalty": ((0,), "there are no penalties here"),
    "reasoning_effort": (("none",), "these models do not reason apart from their answer"),
    "suffix": (("",), "text is continued at its end only"),
    "verbosity": (("medium",), "say in the prompt how long the answer should be"),
    "web_search_options": ((), "this server does not use the network"),
}
"""Fields of OpenAI's API that would change answers and cannot here: values that change nothing,
which are taken, and why others are not."""

SHOWN_CHARACTERS = 60
"""Of an unknown field, in an error."""


class Body(BaseModel):
    """Base of all that comes in a request: strict types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Body)


def read_body(kind: type[Kind], raw: bytes) -> Kind:
    """A request's body as `kind`.

    Raises:
        Problem: 400; it says which field is wrong, and why.
    """
    try:
        table = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise bad(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(table, dict):
        raise bad("the body must be a JSON object", code="invalid_json")
    known = {name for name in table if _is_known(name, table[name], kind.model_fields)}
    try:
        return kind.model_validate({name: table[name] for name in known})
    except ValidationError as error:
        raise _problem(error) from None


def _is_known(name: str, value: Any, fields: Collection[str]) -> bool:
    """Whether a field is to be read; those without effect are not.

    Raises:
        Problem: it is unknown, or asks for what cannot be done.
    """
    if name in fields:
        return True
    if name in WITHOUT_EFFECT:
        return False
    if name in NOT_HERE:
        harmless, reason = NOT_HERE[name]
        if value is None or any(value == one for one in harmless):
            return False
        raise bad(f"{name} is not supported: {reason}", name, "unsupported")
    near = nearest(name[:SHOWN_CHARACTERS], fields)
    hint = f"; did you mean '{near}'?" if near else ""
    shown = name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "..."
    raise bad(f"there is no field '{shown}'{hint}", shown, "unknown_field")


def _problem(error: ValidationError) -> Problem:
    """The first mistake that pydantic found."""
    found = error.errors(include_url=False, include_input=False)[0]
    place = _place(found["loc"])
    if found["type"] == "extra_forbidden":
        return bad(f"there is no field '{place[:200]}'", place[:200], "unknown_field")
    if found["type"] == "missing":
        return bad(f"'{place}' is missing", place)
    said = found["msg"].removeprefix("Value error, ")
    return bad(f"'{place}': {said[0].lower() + said[1:]}" if place else said, place or None)


def _place(parts: tuple[int | str, ...]) -> str:
    """`messages[0].content` of its parts."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
