"""JSON Schemas as forms: every text of the form is JSON that the schema accepts.

A form may be narrower than its schema where JSON Schema allows what nobody asked for: properties
that are not named, white space without end, numbers that no double holds. What cannot be promised
is refused, with the place in the schema: nothing is ignored.

Source: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.inference.forms.endings import Endings
from afm_mlx.inference.forms.keywords import (
    CHOICES,
    KNOWN,
    UNSUPPORTED,
    integer_form,
    is_note,
    number_form,
    refused,
    string_form,
    types_of,
)
from afm_mlx.inference.forms.nodes import (
    COLON,
    COMMA,
    Either,
    Fields,
    Form,
    Many,
    Match,
    Named,
    Node,
    String,
    Text,
)
from afm_mlx.inference.forms.nodes import Sequence as Parts
from afm_mlx.inference.forms.numbers import ANY_NUMBER
from afm_mlx.inference.forms.patterns import read_pattern

MAX_NODES = 20_000
"""Parts above which a schema is refused. Ours."""

MAX_DEPTH = 32
"""Nesting above which a schema is refused. Ours."""

Schema = Mapping[str, Any] | bool


def form_of_schema(schema: Schema, *, prefix: str = "") -> Form:
    """The form of all JSON texts on one line that we let a model write for a schema.

    Args:
        schema: of any draft whose words mean the same in 2020-12.
        prefix: begins the names of the form's nodes, so that forms can be put together.

    Raises:
        DataError: the schema is not valid, cannot be met, or uses something that is not
            supported; the message begins with the place as a JSON pointer.
    """
    return _Reader(schema, prefix).form()


class _Reader:
    """Reads one schema."""

    def __init__(self, schema: Schema, prefix: str) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError, best_match

        try:
            json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the schema is not JSON: {error}") from None
        if _depth(schema) > 3 * MAX_DEPTH:
            raise DataError(f"schema at #: more than {MAX_DEPTH} deep")
        checker = Draft202012Validator(Draft202012Validator.META_SCHEMA)
        try:
            wrong = best_match(checker.iter_errors(schema))
        except (SchemaError, RecursionError) as error:  # pragma: no cover
            raise DataError(f"the schema cannot be checked: {error}") from None
        if wrong is not None:
            place = _pointer(wrong.absolute_path)
            raise DataError(f"schema at {place}: {wrong.message[:200]}")
        self._root = schema
        self._prefix = prefix
        self._validator = Draft202012Validator(schema)
        self._names: dict[str, Node | None] = {}
        self._count = 0

    def form(self) -> Form:
        """The whole form."""
        root = self._node(self._root, "#", 0)
        names = {name: node for name, node in self._names.items() if node is not None}
        for name in names:
            if self._leads_to_itself(Named(name), names, set()):
                raise DataError(f"schema at {name}: refers to itself and to nothing else")
        form = Form(root, names)
        if Endings(form).shortest is None:
            raise DataError("schema: its required parts contain themselves, so no text can end")
        return form

    def _node(self, schema: Schema, place: str, depth: int) -> Node:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise refused(place, f"more than {MAX_NODES:,} parts, or more than {MAX_DEPTH} deep")
        if schema is True or schema == {}:
            return self._any()
        if not isinstance(schema, Mapping):
            raise refused(place, "false: no value is valid")
        self._check_words(schema, place)
        if "enum" in schema or "const" in schema:
            return self._values(schema, place)
        asserted = {key: value for key, value in schema.items() if not is_note(key)}
        if "$ref" in asserted:
            if len(asserted) == 1:
                return self._reference(schema["$ref"], place)
            merged = self._merged(self._target(schema["$ref"], place), asserted, place, "$ref")
            return self._node(merged, place, depth + 1)
        for word in CHOICES:
            if word in asserted:
                return self._choice(asserted, word, place, depth)
        options = [self._typed(kind, asserted, place, depth) for kind in types_of(asserted)]
        found = [option for option in options if option is not None]
        return found[0] if len(found) == 1 else Either(tuple(found))

    def _check_words(self, schema: Mapping[str, Any], place: str) -> None:
        for word in schema:
            if word in KNOWN or word.startswith("x-"):
                continue
            here = f"{place}/{_escaped(word)}"
            if word == "nullable":
                raise refused(here, "not a word of JSON Schema", 'write "type": ["string", "null"]')
            if word in UNSUPPORTED:
                raise refused(here, f"'{word}' is not supported")
            near = difflib.get_close_matches(word, KNOWN, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "notes of your own begin with x-"
            raise refused(here, f"no keyword is called '{word}'", hint)

    def _any(self) -> Node:
        """Any JSON value."""
        name = f"{self._prefix}any"
        this = Named(name)
        if name not in self._names:
            self._names[name] = None
            simple: list[Node] = [Text("null"), Text("true"), Text("false"), String()]
            items = Parts((Text("["), Many(this, COMMA), Text("]")))
            entry = Parts((String(), COLON, this))
            table = Parts((Text("{"), Fields((), entry), Text("}")))
            options: tuple[Node, ...] = (*simple, Match(read_pattern(ANY_NUMBER)), items, table)
            self._names[name] = Either(options)
        return this

    def _values(self, schema: Mapping[str, Any], place: str) -> Node:
        """What `enum` or `const` lists, as far as the rest of the schema accepts it."""
        word = "const" if "const" in schema else "enum"
        listed = [schema["const"]] if word == "const" else schema["enum"]
        check = self._validator.evolve(schema=dict(schema))
        texts = {
            json.dumps(value, ensure_ascii=False): None for value in listed if check.is_valid(value)
        }
        if not texts:
            raise refused(f"{place}/{word}", "none of its values is valid here")
        for text in texts:
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise refused(f"{place}/{word}", "half a surrogate pair is no text")
        options = tuple(Text(text) for text in texts)
        return options[0] if len(options) == 1 else Either(options)

    def _reference(self, reference: str, place: str) -> Node:
        target = self._target(reference, place)
        name = self._prefix + reference
        if name not in self._names:
            self._names[name] = None
            self._names[name] = self._node(target, reference, 0)
        return Named(name)

    def _target(self, reference: str, place: str) -> Schema:
        here = f"{place}/$ref"
        if reference != "#" and not reference.startswith("#/"):
            raise refused(here, f"'{reference}' is not in this schema", "use #/$defs/NAME")
        target: Any = self._root
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(key) if isinstance(target, Sequence) else key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise refused(here, f"there is no {reference}") from None
        if not isinstance(target, Mapping | bool):
            raise refused(here, f"{reference} is no schema")
        return target

    def _choice(self, schema: dict[str, Any], word: str, place: str, depth: int) -> Node:
        """What `anyOf`, `oneOf` or `allOf` says, together with the words beside it."""
        listed, here = schema[word], f"{place}/{word}"
        beside = {key: value for key, value in schema.items() if key != word}
        if word == "allOf":
            merged: Schema = beside
            for number, option in enumerate(listed):
                merged = self._merged(merged, option, f"{here}/{number}", "allOf")
            return self._node(merged, place, depth + 1)
        options = [
            self._merged(beside, option, f"{here}/{number}", word) if beside else option
            for number, option in enumerate(listed)
        ]
        if word == "oneOf":
            for second, other in enumerate(options):
                for first in range(second):
                    if not self._apart(options[first], other, 0):
                        raise refused(
                            here,
                            f"{first} and {second} may both be valid",
                            "use anyOf, or give each a required property with another const",
                        )
        nodes = [
            self._node(option, f"{here}/{number}", depth + 1)
            for number, option in enumerate(options)
            if option is not False
        ]
        if not nodes:
            raise refused(here, "none of its options is valid")
        return nodes[0] if len(nodes) == 1 else Either(tuple(nodes))

    def _merged(self, first: Schema, second: Schema, place: str, word: str) -> Schema:
        """A schema that both accept, or a refusal."""
        for one, other in ((first, second), (second, first)):
            if one is True or one == {}:
                return other
            if one is False:
                return False
        assert isinstance(first, Mapping)
        assert isinstance(second, Mapping)
        tables = [
            {key: value for key, value in each.items() if not is_note(key)}
            for each in (first, second)
        ]
        for number, table in enumerate(tables):
            if "$ref" in table and len(table) == 1:
                target = self._target(table["$ref"], place)
                if not isinstance(target, Mapping):
                    return self._merged(target, tables[1 - number], place, word)
                if "$ref" in target:
                    raise refused(place, f"a reference to a reference cannot join this {word}")
                tables[number] = {k: v for k, v in target.items() if not is_note(k)}
        one, other = tables
        merged = dict(one)
        for number, (table, rest) in enumerate(((one, other), (other, one))):
            closed = table.get("additionalProperties", True) is not True
            more = set(rest.get("properties", {})) - set(table.get("properties", {}))
            if closed and more:
                raise refused(
                    place,
                    f"additionalProperties of {'this' if number else 'the other'} part of {word} "
                    f"forbids '{sorted(more)[0]}'",
                )
        for key, value in other.items():
            if key not in one or one[key] == value:
                merged[key] = value
            elif key == "properties":
                both = {name: each for name, each in one[key].items()}
                for name, each in value.items():
                    both[name] = {"allOf": [both[name], each]} if name in both else each
                merged[key] = both
            elif key == "required":
                merged[key] = [*one[key], *(name for name in value if name not in one[key])]
            elif key in ("minimum", "exclusiveMinimum") or key.startswith("min"):
                merged[key] = max(one[key], value)
            elif key in ("maximum", "exclusiveMaximum") or key.startswith("max"):
                merged[key] = min(one[key], value)
            elif key == "type":
                kinds = [kind for kind in types_of(one) if kind in types_of(other)]
                if not kinds:
                    raise refused(place, "no type is left")
                merged[key] = kinds
            elif key == "additionalProperties" and (value is True or one[key] is True):
                merged[key] = value if one[key] is True else one[key]
            else:
                raise refused(place, f"two '{key}' in one {word} are not supported")
        return merged

    def _apart(self, first: Schema, second: Schema, depth: int) -> bool:
        """Whether it is certain that no value is valid for both."""
        if first is False or second is False:
            return True
        if not isinstance(first, Mapping) or not isinstance(second, Mapping) or depth > 8:
            return False
        for one, other in ((first, second), (second, first)):
            if "$ref" in one:
                return self._apart(self._target(one["$ref"], "#"), other, depth + 1)
            for word in ("anyOf", "oneOf"):
                if word in one:
                    return all(self._apart(each, other, depth + 1) for each in one[word])
        listed = [
            None if values is None else [each for each in values]
            for values in (
                [each["const"]] if "const" in each else each.get("enum") for each in (first, second)
            )
        ]
        for values, other in ((listed[0], second), (listed[1], first)):
            if values is not None:
                check = self._validator.evolve(schema=dict(other))
                return not any(check.is_valid(value) for value in values)
        kinds = [set(types_of(each)) for each in (first, second)]
        for each in kinds:
            if "number" in each:
                each.add("integer")
        if not kinds[0] & kinds[1]:
            return True
        if kinds[0] & kinds[1] != {"object"}:
            return False
        for one, other in ((first, second), (second, first)):
            for name in one.get("required", ()):
                known = other.get("properties", {})
                if name not in known and other.get("additionalProperties") is False:
                    return True
                mine = one.get("properties", {}).get(name, True)
                if name in known and self._apart(mine, known[name], depth + 1):
                    return True
        return False

    def _typed(self, kind: str, schema: dict[str, Any], place: str, depth: int) -> Node | None:
        """Values of one type."""
        match kind:
            case "null":
                return Text("null")
            case "boolean":
                return Either((Text("true"), Text("false")))
            case "integer":
                return integer_form(schema, place)
            case "number":
                return number_form(schema, place)
            case "string":
                return string_form(schema, place)
            case "array":
                return self._array(schema, place, depth)
        return self._object(schema, place, depth)

    def _array(self, schema: dict[str, Any], place: str, depth: int) -> Node:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        first = schema.get("prefixItems", [])
        first = first[: len(first) if most is None else int(most)]
        items = schema.get("items", not first)
        if most is not None and least > most:
            raise refused(f"{place}/minItems", f"{least}, and maxItems is {most}")
        nodes = [
            self._node(each, f"{place}/prefixItems/{number}", depth + 1)
            for number, each in enumerate(first)
        ]
        at_least = max(0, int(least) - len(nodes))
        at_most = None if most is None else int(most) - len(nodes)
        if items is False:
            if at_least:
                raise refused(f"{place}/minItems", f"{least}, and no more items are allowed")
            at_most = 0
        if schema.get("uniqueItems") and (at_most is None or at_most + len(nodes) > 1):
            raise refused(f"{place}/uniqueItems", "'uniqueItems' is not supported")
        parts: list[Node] = [Text("[")]
        for number, node in enumerate(nodes):
            parts += [COMMA, node] if number else [node]
        if at_most != 0:
            item = self._node(items, f"{place}/items", depth + 1)
            if nodes:
                item = Parts((COMMA, item))
            parts.append(Many(item, Text("") if nodes else COMMA, at_least, at_most))
        return Parts((*parts, Text("]")))

    def _object(self, schema: dict[str, Any], place: str, depth: int) -> Node:
        named = schema.get("properties", {})
        required = schema.get("required", [])
        # Without a word on them, other properties are valid, but not wanted; without any
        # property, they are all there can be.
        others = schema.get("additionalProperties", not named and not required)
        entries = []
        for name in [*named, *(each for each in required if each not in named)]:
            here = f"{place}/properties/{_escaped(name)}"
            if name not in named:
                here = f"{place}/required"
                if schema.get("additionalProperties") is False:
                    raise refused(here, f"'{name}' is no property, and others are not allowed")
            value = named.get(name, schema.get("additionalProperties", True))
            if value is False and name not in required:
                continue
            entries.append((self._entry(name, value, here, depth), name in required))
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        count = sum(needed for _, needed in entries)
        other = None
        if others is not False and (most is None or most > count):
            value_node = self._node(others, f"{place}/additionalProperties", depth + 1)
            other = Parts((String(taken=tuple(named)), COLON, value_node))
        more = max(0, int(least) - count)
        if more > (0 if other is None else 1):
            # Names could be said twice, and then count as one.
            raise refused(f"{place}/minProperties", f"{least} where {count} are required")
        if most is not None and most < len(entries):
            raise refused(f"{place}/maxProperties", f"{most} where {len(entries)} are named")
        room = None if most is None else int(most) - len(entries)
        fields = Fields(tuple(entries), other, more, room)
        return Parts((Text("{"), fields, Text("}")))

    def _entry(self, name: str, value: Schema, place: str, depth: int) -> Node:
        written = json.dumps(name, ensure_ascii=False)
        if any("\ud800" <= letter <= "\udfff" for letter in written):
            raise refused(place, "half a surrogate pair is no text")
        return Parts((Text(written), COLON, self._node(value, place, depth + 1)))

    def _leads_to_itself(self, node: Node, names: Mapping[str, Node], seen: set[str]) -> bool:
        """Whether a name comes back before any character."""
        if isinstance(node, Named):
            if node.name in seen:
                return True
            return self._leads_to_itself(names[node.name], names, seen | {node.name})
        if isinstance(node, Either):
            return any(self._leads_to_itself(option, names, seen) for option in node.options)
        return False


def _pointer(path: Sequence[Any]) -> str:
    return "/".join(["#", *(_escaped(str(part)) for part in path)])


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _depth(value: Any) -> int:
    """How deep lists and tables are nested."""
    depth, here = 0, [value]
    while here:
        depth += 1
        tables = [
            each.values() if isinstance(each, Mapping) else each
            for each in here
            if isinstance(each, Mapping | list | tuple)
        ]
        here = [inner for table in tables for inner in table]
    return depth
