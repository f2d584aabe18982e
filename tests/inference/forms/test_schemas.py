"""JSON Schemas: what is refused, where, and why. What is accepted is in test_guided.py."""

import pytest

from afm_mlx.errors import DataError
from afm_mlx.inference.forms.endings import Endings
from afm_mlx.inference.forms.schemas import form_of_schema


def shortest(schema):
    return Endings(form_of_schema(schema)).shortest


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object"}, "{}"),
        (True, "0"),
        ({"type": "string", "minLength": 2}, '"00"'),
        ({"type": "integer", "minimum": 17}, "17"),
        ({"type": "integer", "multipleOf": 7, "minimum": 50}, "56"),
        ({"type": "integer", "multipleOf": 7, "minimum": -60, "maximum": -40}, "-42"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.1, "exclusiveMaximum": 1}, "0.1"),
        ({"enum": ["red", 1, None]}, "1"),
        ({"const": {"a": [1, True]}}, '{"a": [1, true]}'),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, "[null,null]"),
        ({"type": "string", "format": "uuid"}, '"00000000-0000-1000-8000-000000000000"'),
        ({"type": "string", "pattern": "^a{3}$"}, '"aaa"'),
        ({"type": "string", "pattern": '^"\\\\\\n$'}, '"\\"\\\\\\n"'),
        ({"minimum": 3, "maximum": 3}, "3"),  # about numbers, so a number
        ({"type": ["string", "null"]}, '""'),
        ({"properties": {"a": True}, "required": ["b"]}, '{"b":0}'),
        ({"type": "object", "minProperties": 1}, '{"":0}'),
        ({"anyOf": [{"type": "string"}, False]}, '""'),
    ],
)
def test_the_shortest_text_of_a_schema(schema, text):
    assert shortest(schema) == text


@pytest.mark.parametrize(
    ("schema", "place", "why"),
    [
        ({"type": "strin"}, "#/type", "is not valid"),
        ({"properties": {"a/b": {"not": {}}}}, "#/properties/a~1b/not", "not supported"),
        ({"properties": {"a": {"requierd": []}}}, "#/properties/a/requierd", "no keyword"),
        ({"type": "string", "nullable": True}, "#/nullable", "not a word"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems", "not supported"),
        ({"items": {"type": "string", "format": "idn"}}, "#/items/format", "'idn'"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern", "looking ahead"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "#", "no string"),
        ({"type": "string", "pattern": "^a$", "format": "date"}, "#/pattern", "together"),
        ({"type": "number", "multipleOf": 0.01}, "#/multipleOf", "fractions"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "#", "no integer"),
        ({"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5}, "#", "no multiple"),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 1}, "#", "no number"),
        ({"$ref": "#/$defs/x"}, "#/$ref", "there is no"),
        ({"$ref": "http://example.com/x"}, "#/$ref", "not in this schema"),
        ({"$ref": "#"}, "#", "refers to itself"),
        ({"enum": [1], "type": "string"}, "#/enum", "none of its values"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf", "both be valid"),
        (False, "#", "no value"),
        ({"required": ["a"], "additionalProperties": False}, "#/required", "others are not"),
        ({"type": "array", "items": False, "minItems": 1}, "#/minItems", "no more items"),
        ({"additionalProperties": True, "minProperties": 2}, "#/minProperties", "2 where 0"),
        (
            {"allOf": [{"properties": {"a": True}, "additionalProperties": False},
                       {"properties": {"b": True}}]},
            "#/allOf/1", "forbids 'b'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused_with_its_place(schema, place, why):
    with pytest.raises(DataError) as caught:
        form_of_schema(schema)
    assert str(caught.value).startswith(f"schema at {place}: "), caught.value
    assert why in str(caught.value)


def test_a_mistyped_keyword_is_named_with_the_nearest():
    with pytest.raises(DataError) as caught:
        form_of_schema({"type": "object", "propertys": {}})
    assert caught.value.hint == "did you mean 'properties'?"


def test_parts_that_need_themselves_can_never_end():
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    with pytest.raises(DataError, match="contain themselves"):
        form_of_schema(node)
    node["properties"]["next"] = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    assert shortest(node) == '{"next":null}'


def test_a_schema_that_is_too_deep_is_refused():
    schema = {}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(DataError, match="32 deep"):
        form_of_schema(schema)


def test_notes_say_nothing():
    notes = {"title": "A", "description": "b", "default": 3, "examples": [1], "x-mine": {}}
    assert shortest({"type": "boolean", **notes}) == "true"
