"""Answers to an item of BFCL: the accepted ones, and what becomes of them by one change."""

from collections.abc import Iterator
from typing import Any

Calls = list[tuple[str, dict[str, Any]]]


def answers_of(accepted: list[dict[str, Any]]) -> Iterator[tuple[str, Calls]]:
    """Answers with a word on each, made from the accepted calls of an item."""
    whole = [(name, _chosen(arguments, 0)) for each in accepted for name, arguments in each.items()]
    last = [(name, _chosen(arguments, -1)) for each in accepted for name, arguments in each.items()]
    yield "first values", whole
    yield "last values", last
    yield (
        "least",
        [
            (name, {key: chosen[key] for key, values in arguments.items() if "" not in values})
            for (_, chosen), each in zip(whole, accepted, strict=True)
            for name, arguments in each.items()
        ],
    )
    yield "nothing", []
    yield "reversed", whole[::-1]
    yield "twice", whole * 2
    yield "one missing", whole[1:]
    yield "one more", [*whole, whole[0]]
    yield "first twice", [whole[0], *whole[:-1]]
    yield "last of each, reversed", last[::-1]
    for place, (name, arguments) in enumerate(whole):
        change = lambda new, name=name, place=place: [  # noqa: E731
            *whole[:place], (name, new), *whole[place + 1 :]
        ]  # fmt: skip
        for other in (name.upper(), name + "s", name.replace(".", "_"), name.split(".")[-1]):
            yield "name", [*whole[:place], (other, arguments), *whole[place + 1 :]]
        yield "extra", change({**arguments, "surplus_argument": 1})
        yield "none given", change({})
        for key, value in arguments.items():
            rest = {other: given for other, given in arguments.items() if other != key}
            yield "left out", change(rest)
            yield "renamed", change({**rest, key + "_": value})
            for other in _changed(value):
                yield f"{type(value).__name__} changed", change({**arguments, key: other})


def _chosen(arguments: dict[str, list[Any]], place: int) -> dict[str, Any]:
    """One accepted value of each argument, "" where there is no other."""
    found = {}
    for name, values in arguments.items():
        shown = [value for value in values if value != ""] or [""]
        found[name] = _inside(shown[place], place)
    return found


def _inside(value: Any, place: int) -> Any:
    """A dictionary lists the accepted values of its keys, too."""
    if isinstance(value, dict):
        shown = {
            key: [item for item in items if item != ""] or [""]
            if isinstance(items, list)
            else items
            for key, items in value.items()
        }
        return {
            key: _inside(items[place], place) if isinstance(items, list) else items
            for key, items in shown.items()
        }
    if isinstance(value, list):
        return [_inside(item, place) for item in value]
    return value


def _changed(value: Any) -> Iterator[Any]:
    yield from (None, str(value), [value], {"value": value}, "", [], {}, 0, 1, True, 1.5, "x")
    if isinstance(value, bool):
        yield from (not value, int(value), str(value).lower())
    elif isinstance(value, int | float):
        yield from (value + 1, -value, float(value), int(value), value * 1.0001, f" {value} ")
    elif isinstance(value, str):
        yield from (
            value.upper(), value.lower(), value.title(), f" {value}", value.replace(" ", ""),
            value.replace(" ", "  "), value + ".", f"'{value}'", f'"{value}"', value + "s",
            value.replace(",", ""), value.replace(" ", "_"), value[:-1], value.replace("'", '"'),
            value + "\n", value.replace("-", "/"), f"({value})",
        )  # fmt: skip
    elif isinstance(value, list):
        yield from (value[::-1], value[1:], value * 2, tuple(value), [*value, "x"], [*value, 1])
        yield [str(item) for item in value]
        yield [float(item) if type(item) is int else item for item in value]
        yield [int(item) if type(item) is float else item for item in value]
        yield [item.upper() if isinstance(item, str) else item for item in value]
        for place, item in enumerate(value[:3]):
            for other in list(_changed(item))[12:] if not isinstance(item, list) else []:
                yield [*value[:place], other, *value[place + 1 :]]
    elif isinstance(value, dict):
        yield {**value, "surplus": 1}
        yield {key.upper(): item for key, item in value.items()}
        for key, item in value.items():
            yield {other: given for other, given in value.items() if other != key}
            for other in _changed(item):
                yield {**value, key: other}
