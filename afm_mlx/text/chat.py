"""Control pieces, the chat template, and ids of a conversation.

A conversation in AFM's form; each `<...>` is one control piece, and no text can become one:

    </s><turn:system>You help.<tools>[...]</tools><turn:end>
    <turn:user>What is the weather?<turn:end>
    <turn:assistant><tool_call>{"name": "weather", "arguments": {}}</tool_call><turn:end>
    <turn:tool>{"celsius": 21}<turn:end>
    <turn:assistant>It is 21 degrees.<turn:end>

(on one line: there is no newline between turns). `</s>` stands in front because every document
in training follows the end of another. It is the tokenizer's own `eos_token`, the end of a
document; chat also stops at `<turn:end>`, by the list in `generation_config.json`, which mlx-lm
and transformers read. Calls are written as mlx-lm's `json_tools` parser, and others, read them.
All names are ours; Apple has not published its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import DataError, RecipeError
from afm_mlx.text.bpe import EOS, PAD, UNKNOWN

if TYPE_CHECKING:
    from afm_mlx.text.tokenizer import Tokenizer

TURN_SYSTEM = "<turn:system>"
TURN_USER = "<turn:user>"
TURN_ASSISTANT = "<turn:assistant>"
TURN_TOOL = "<turn:tool>"
TURN_END = "<turn:end>"
TOOLS, TOOLS_END = "<tools>", "</tools>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"

NAMED_PIECES = (
    TURN_SYSTEM,
    TURN_USER,
    TURN_ASSISTANT,
    TURN_TOOL,
    TURN_END,
    TOOLS,
    TOOLS_END,
    TOOL_CALL,
    TOOL_CALL_END,
)
"""Control pieces with a meaning, in the order of their ids; `<reserved:NN>` follow."""

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is mapping -%}
        {{- content | tojson -}}
    {%- elif content -%}
        {%- for part in content -%}
            {{- part.text if part.text is defined else part | tojson -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro system(content) -%}
    {{- '<turn:system>' -}}
    {{- text(content) -}}
    {%- if tools -%}
        {{- '<tools>' -}}{{- tools | tojson -}}{{- '</tools>' -}}
    {%- endif -%}
    {{- '<turn:end>' -}}
{%- endmacro -%}
{{- eos_token -}}
{%- if tools and messages[0].role not in ['system', 'developer'] -%}
    {{- system('') -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role in ['system', 'developer'] -%}
        {%- if loop.first -%}
            {{- system(message.content) -}}
        {%- else -%}
            {{- '<turn:system>' -}}{{- text(message.content) -}}{{- '<turn:end>' -}}
        {%- endif -%}
    {%- elif message.role == 'user' -%}
        {{- '<turn:user>' -}}{{- text(message.content) -}}{{- '<turn:end>' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<turn:assistant>' -}}
        {{- text(message.content) -}}
        {%- for tool_call in message.tool_calls or [] -%}
            {%- if tool_call.function is defined -%}
                {%- set tool_call = tool_call.function -%}
            {%- endif -%}
            {{- '<tool_call>{"name": ' -}}
            {{- tool_call.name | tojson -}}
            {{- ', "arguments": ' -}}
            {%- if tool_call.arguments is string -%}
                {{- tool_call.arguments -}}
            {%- else -%}
                {{- tool_call.arguments | tojson -}}
            {%- endif -%}
            {{- '}</tool_call>' -}}
        {%- endfor -%}
        {{- '<turn:end>' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<turn:tool>' -}}{{- text(message.content) -}}{{- '<turn:end>' -}}
    {%- else -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<turn:assistant>' -}}
{%- endif -%}
"""
"""Jinja. `tool_call.name` in it is also what mlx-lm recognizes its `json_tools` parser by."""


def control_pieces(count: int) -> list[str]:
    """Names of the control pieces at the end of a vocabulary: `count` of them.

    Raises:
        RecipeError: there are more names with a meaning than that.
    """
    if count < len(NAMED_PIECES):
        raise RecipeError(
            f"tokenizer.reserved_pieces is {count}, and {len(NAMED_PIECES)} control pieces "
            "have a name",
            hint="--set tokenizer.reserved_pieces=64",
        )
    free = range(len(NAMED_PIECES), count)
    return [*NAMED_PIECES, *(f"<reserved:{number:02d}>" for number in free)]


def tokenizer_config() -> dict[str, Any]:
    """Contents of `tokenizer_config.json`, as transformers and mlx-lm read it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNKNOWN,
        "bos_token": EOS,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**9,
        "chat_template": CHAT_TEMPLATE,
    }


def render_chat(
    tokenizer: Tokenizer | Path,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    generation_prompt: bool = True,
) -> list[int]:
    """Ids of a conversation in the form of the folder's own chat template.

    What the messages and tools say cannot become a control piece: text in them that looks like one
    is encoded as text.

    Args:
        tokenizer: opened, or its folder.
        messages: `role` and `content` each; `tool_calls` of an assistant, as in OpenAI's API.
        tools: declarations of functions, as in OpenAI's API.
        generation_prompt: end with the head of the assistant's next turn.

    Raises:
        DataError: there is no chat template, or it refuses these messages.
    """
    from jinja2 import TemplateError

    from afm_mlx.text.tokenizer import Tokenizer

    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.open(tokenizer)
    renderer = _renderer(tokenizer)
    if not renderer.has_chat_template:
        raise DataError(
            f"the tokenizer of {tokenizer.folder} has no chat template",
            hint="a base model continues text: afm generate MODEL --prompt ...",
        )
    names = sorted(tokenizer.control_pieces, key=len, reverse=True)
    control = re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"((?!))")
    mark = _unused_character([messages, tools])

    def hide(text: str) -> str:
        return control.sub(lambda found: "".join(letter + mark for letter in found[0]), text)

    try:
        text = renderer.apply_chat_template(
            _map_texts(messages, hide),
            tools=_map_texts(tools, hide),
            add_generation_prompt=generation_prompt,
            tokenize=False,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(f"the chat template refuses these messages: {error}") from None
    if mark not in text:  # the usual way, exact for every tokenizer
        return [int(number) for number in renderer.encode(text, add_special_tokens=False)]
    ids: list[int] = []
    for index, part in enumerate(control.split(text)):
        known = index % 2 == 1
        ids += (
            [tokenizer.control_pieces[part]] if known else tokenizer.encode(part.replace(mark, ""))
        )
    return ids


TOOLS_ASK = (
    'You have these functions. To call one, write <tool_call>{"name": NAME, "arguments": '
    "{...}}</tool_call>; write several such lines for several calls. If no function fits, "
    "answer in words.\n"
)
"""How a model whose chat template knows no tools is told of them."""


def plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """A prompt for a chat template that knows no tools: these stand in the system message."""
    plain = []
    for message in messages:
        calls = [
            f"{TOOL_CALL}{json.dumps(_plain_call(call), ensure_ascii=False)}{TOOL_CALL_END}"
            for call in message.get("tool_calls") or ()
        ]
        content = "\n".join([message.get("content") or "", *calls]).strip()
        plain.append({"role": message["role"], "content": content})
    if tools:
        listed = "\n".join(json.dumps(tool["function"]) for tool in tools)
        head = plain.pop(0)["content"] if plain[0]["role"] == "system" else ""
        plain.insert(0, {"role": "system", "content": f"{head}\n{TOOLS_ASK}{listed}".strip()})
    return plain


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of a call, which OpenAI's API has as JSON text in a `function`."""
    inner = call.get("function", call)
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return {"name": inner["name"], "arguments": arguments}


@lru_cache(maxsize=4)
def _renderer(tokenizer: Tokenizer) -> Any:
    """mlx-lm's wrapper of transformers' tokenizer, which knows every form of chat template."""
    return import_mlx_lm("mlx_lm.tokenizer_utils").load(tokenizer.folder)


def _unused_character(value: Any) -> str:
    """A character that stands nowhere in `value`; Unicode keeps these 32 for such use."""
    seen: set[str] = set()

    def note(text: str) -> str:
        seen.update(text)
        return text

    _map_texts(value, note)
    return next(mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in seen)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested lists and tables with each text changed, names of entries included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_texts(key, change): _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value
