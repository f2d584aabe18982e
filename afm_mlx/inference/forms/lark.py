"""Forms in llguidance's language, an extension of Lark's grammars.

Source: guidance-ai/llguidance 1.9, docs/syntax.md.
"""

from __future__ import annotations

import json
import re

from afm_mlx.inference.forms.nodes import (
    COMMA,
    Anything,
    Either,
    Fields,
    Form,
    Many,
    Match,
    Multiple,
    Named,
    Node,
    Piece,
    Sequence,
    String,
    Text,
)

ANY_CHARACTER = r'([^"\\\x00-\x1F\x7F]|\\(["\\bfnrt]|u00[01][0-9A-Fa-f]|u007[Ff]))'
"""One character of a JSON string, escapes only where JSON has no other way."""


def grammar_of(form: Form) -> str:
    """The grammar of a form."""
    return _Writer(form).text()


class _Writer:
    """Writes each node once, as a rule of its own where it is more than a word."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._rules: list[str] = []
        self._written: dict[object, str] = {}
        self._names = {name: f"n{number}" for number, name in enumerate(form.names)}

    def text(self) -> str:
        """The whole grammar."""
        root = self._word(self._form.root)
        for name, rule in self._names.items():
            self._rules.append(f"{rule}: {self._word(self._form.names[name])}")
        # Without forcing, every way to cut a fixed text into tokens is allowed, so the model
        # chooses the one that it knows.
        head = '%llguidance {"no_forcing": true}'
        return "\n".join([head, f"start: {root}", *self._rules, ""])

    def _word(self, node: Node) -> str:
        """What stands for a node inside a rule."""
        if node not in self._written:
            self._written[node] = self._new(node)
        return self._written[node]

    def _new(self, node: Node) -> str:
        match node:
            case Named(name):
                return self._names[name]
            case Text(text):
                return json.dumps(text, ensure_ascii=False) if text else '""'
            case Piece(token):
                return f"<[{token}]>"
            case Anything():
                return self._terminal("/(?s:.*)/")
            case Match(pattern):
                return self._terminal(f"/{_escaped(pattern.regex)}/")
            case Multiple(low, high, step):
                bounds = {"type": "integer", "minimum": low, "maximum": high, "multipleOf": step}
                return self._rule(f"%json {json.dumps(bounds)}")
            case String():
                return self._string(node)
            case Sequence(parts):
                return self._rule(" ".join(self._word(part) for part in parts) or '""')
            case Either(options) if all(isinstance(each, Text) and each.text for each in options):
                # As one terminal: the library's parser takes 2,000 rules at a place, at most.
                return self._terminal(" | ".join(self._word(option) for option in options))
            case Either(options):
                return self._rule(" | ".join(self._word(option) for option in options))
            case Many():
                return self._rule(self._many(node.item, node.between, node.at_least, node.at_most))
            case Fields():
                return self._fields(node)
        raise AssertionError(node)

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        if body not in self._written:
            name = f"T{len(self._rules)}"
            self._rules.append(f"{name}: {body}")
            self._written[body] = name
        return self._written[body]

    def _string(self, node: String) -> str:
        if node.pattern is None:
            lengths = _bounds(node.min_length, node.max_length)
            text = f'/"{ANY_CHARACTER}{lengths}"/'
            if node.taken:
                names = " | ".join(json.dumps(_quoted(name)) for name in node.taken)
                text = f"{text} & ~({names})"
            return self._terminal(text)
        schema = {"type": "string", "pattern": f"^(?:{node.pattern.regex})$"}
        if node.min_length:
            schema["minLength"] = node.min_length  # type: ignore[assignment]
        if node.max_length is not None:
            schema["maxLength"] = node.max_length  # type: ignore[assignment]
        return self._rule(f"%json {json.dumps(schema)}")

    def _many(self, item: Node, between: Node, at_least: int, at_most: int | None) -> str:
        if at_most == 0:
            return '""'
        one, comma = self._word(item), self._word(between)
        more = self._rule(f"{comma} {one}")
        lengths = _bounds(max(0, at_least - 1), None if at_most is None else at_most - 1)
        body = f"{one} {more}{lengths}" if lengths != "{0,0}" else one
        return body if at_least else f'{body} | ""'

    def _fields(self, node: Fields) -> str:
        """Rules from the last entry to the first, each with and without an entry before it."""
        comma = self._word(COMMA)
        first = after = '""'
        if node.others is not None and node.most_others != 0:
            bounds = node.least_others, node.most_others
            first = self._rule(self._many(node.others, COMMA, *bounds))
            one = self._rule(f"{comma} {self._word(node.others)}")
            after = self._rule(f"{one}{_bounds(*bounds)}")
        for entry, required in reversed(node.entries):
            word = self._word(entry)
            rest = after
            after = self._rule(f"{comma} {word} {rest}" + ("" if required else f" | {rest}"))
            first = self._rule(f"{word} {rest}" + ("" if required else f" | {first}"))
        return first


def _bounds(low: int, high: int | None) -> str:
    if high is None:
        return {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return f"{{{low},{high}}}"


def _escaped(regex: str) -> str:
    return re.sub(r"(?<!\\)/", r"\\/", regex)


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
