"""Verdicts are those of the leaderboard's own checker."""

import itertools

import pytest

from afm_mlx.evaluation.tasks.bfcl.foreign import value_of_java, value_of_javascript
from afm_mlx.evaluation.tasks.bfcl.matching import PYTHON, Called, problem_of_calls
from afm_mlx.evaluation.tasks.bfcl.task import LANGUAGES, Bfcl
from tests.evaluation.tasks.bfcl.changes import answers_of

FUNCTIONS = [
    {
        "name": "shop.order",
        "parameters": {
            "type": "dict",
            "properties": {
                "item": {"type": "string"},
                "count": {"type": "integer"},
                "price": {"type": "float"},
                "gift": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "sizes": {"type": "array", "items": {"type": "float"}},
                "place": {"type": "dict", "properties": {}},
                "lines": {"type": "array", "items": {"type": "dict"}},
                "box": {"type": "tuple", "items": {"type": "integer"}},
                "note": {"type": "any"},
                "start": {"type": "integer"},
            },
            "required": ["item", "count"],
        },
    },
    {
        "name": "shop.cancel",
        "parameters": {
            "type": "dict",
            "properties": {"id": {"type": "integer"}},
            "required": ["id"],
        },
    },
]
ORDER = {
    "item": ["San Francisco, CA", "SF"],
    "count": [2],
    "price": ["", 9.5, 10],
    "gift": ["", True],
    "tags": ["", ["red", "blue"]],
    "sizes": ["", [1.0, 2.5]],
    "place": ["", {"city": ["Paris"], "zip": ["", 75_001]}],
    "lines": ["", [{"sku": ["a-1"]}, {"sku": ["b"], "n": [2]}]],
    "box": ["", [3, 4]],
    "note": ["", "soft"],
    "start": ["", "beginning"],
}
# What the official checker said of each, added to an order of two "SF".
SEEN = [
    ({}, True),
    ({"item": "san francisco ca"}, True),
    ({"item": "San-Francisco. CA"}, True),
    ({"item": "San Fran"}, False),
    ({"count": 2.0}, False),
    ({"count": "2"}, False),
    ({"count": True}, False),
    ({"count": 3}, False),
    ({"price": 9.5}, True),
    ({"price": 10}, True),
    ({"price": "9.5"}, False),
    ({"price": 9.50001}, False),
    ({"price": ""}, False),
    ({"gift": True}, True),
    ({"gift": 1}, False),
    ({"gift": "true"}, False),
    ({"gift": False}, False),
    ({"tags": ["Red", "blue"]}, True),
    ({"tags": ["blue", "red"]}, False),
    ({"tags": ["red"]}, False),
    ({"tags": []}, True),  # "" is taken for an empty list
    ({"tags": "red, blue"}, False),
    ({"tags": [1, 2]}, False),
    ({"tags": ("red", "blue")}, False),
    ({"sizes": [1.0, 2.5]}, True),
    ({"sizes": [1, 2.5]}, True),  # only because the argument may be left out
    ({"place": {"city": "paris"}}, True),
    ({"place": {"city": "Paris", "zip": 75_001}}, True),
    ({"place": {"city": "Paris", "zip": "75001"}}, False),
    ({"place": {"zip": 75_001}}, False),
    ({"place": {"city": "Paris", "street": "x"}}, False),
    ({"place": {}}, False),
    ({"place": "Paris"}, False),
    ({"lines": [{"sku": "A1"}, {"sku": "b", "n": 2}]}, True),
    ({"lines": [{"sku": "b", "n": 2}, {"sku": "a-1"}]}, False),
    ({"lines": [{"sku": "a-1"}]}, False),
    ({"lines": []}, True),
    ({"box": [3, 4]}, True),
    ({"box": (3, 4)}, True),
    ({"box": [3, 5]}, False),
    ({"note": "Soft"}, True),
    ({"note": 5}, False),
    ({"note": ""}, True),
    ({"start": "beginning"}, True),  # taken for a variable
    ({"start": "Beginning"}, False),
    ({"start": 0}, False),
    ({"color": "red"}, False),
]


def is_right(calls, accepted):
    return problem_of_calls([Called(*call) for call in calls], FUNCTIONS, accepted) == ""


@pytest.mark.parametrize(("arguments", "right"), SEEN, ids=str)
def test_an_argument_is_accepted_where_the_official_checker_accepted_it(arguments, right):
    call = ("shop.order", {"item": "SF", "count": 2, **arguments})
    assert is_right([call], [{"shop.order": ORDER}]) == right


def test_calls_may_come_in_any_order_but_none_twice_and_none_missing():
    order, cancel = ("shop.order", {"item": "SF", "count": 2}), ("shop.cancel", {"id": 7})
    wanted = [{"shop.order": ORDER}, {"shop.cancel": {"id": [7]}}]
    right = [
        calls
        for count in range(4)
        for calls in itertools.product([order, cancel], repeat=count)
        if is_right(calls, wanted)
    ]
    assert right == [(order, cancel), (cancel, order)]


def test_an_accepted_call_takes_the_first_that_fits_as_the_official_checker_does():
    wanted = [{"shop.cancel": {"id": [7, 8]}}, {"shop.cancel": {"id": [7]}}]
    seven, eight = ("shop.cancel", {"id": 7}), ("shop.cancel", {"id": 8})
    assert is_right([eight, seven], wanted)
    assert not is_right([seven, eight], wanted)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (("order", {}), "order called in place of shop.cancel"),
        (("shop.cancel", {}), "no id"),
        (("shop.cancel", {"id": "7"}), "id is '7'"),
        (("shop.cancel", {"id": 7, "why": "late"}), "why is not asked for"),
    ],
)
def test_a_problem_is_named(call, problem):
    assert problem_of_calls([Called(*call)], FUNCTIONS, [{"shop.cancel": {"id": [7]}}]) == problem


# Each category, and of how many changed answers one is looked at: the whole takes two minutes.
EVERY = {
    "simple_python": 5,
    "multiple": 3,
    "parallel": 12,
    "parallel_multiple": 12,
    "live_simple": 5,
    "live_multiple": 40,
    "live_parallel": 1,
    "live_parallel_multiple": 1,
    "simple_java": 2,
    "simple_javascript": 2,
}


@pytest.mark.parametrize("category", EVERY)
def test_verdicts_equal_the_official_ones_on_its_answers_and_on_changed_ones(official, category):
    seen = {True: 0, False: 0}
    items = Bfcl(categories=(category,)).items()
    for number, item in enumerate(items):
        functions, accepted = item.facts["functions"], item.facts["accepted"]
        for place, (word, calls) in enumerate(answers_of(accepted)):
            # All first answers, and others in turn, so that each kind of change is met.
            if place and (place + number) % EVERY[category]:
                continue
            ours = problem_of_calls(
                [Called(*call) for call in calls],
                functions,
                accepted,
                LANGUAGES.get(category, PYTHON),
            )
            theirs = official(functions, calls, accepted, category)
            assert (ours == "") == theirs, (item.key, word, calls, ours)
            seen[theirs] += 1
    assert sum(seen.values()) > 1_000
    assert min(seen.values()) > 300


TEXTS = """5|-3|5L|7n|1.5|-2.0f|3e4|3e-3F|true|false|True|abc|"a b"|'a'|""|'|"|1,000|null|{}|[]
new int[]{1, 2,3}|new int[] { }|new String[]{"a", "b"}|new ArrayList<>()|new HashMap<>()
new ArrayList<>(Arrays.asList("a", "b"))|new ArrayList<Integer>(Arrays.asList(1, 2))
new ArrayList<Character>() {{ add('a'); add('b'); }}|new HashMap<>() {{}}|new HashMap<>() {}
new HashMap<String, Object>() {{ put("a", 1); put("b", "c d"); put("e", true); put("f", 2L); }}
[1, 2]|["a", 'b']|[[1, 2], [3]]|[ [ "a" ] ]|new Array(1, 2)|new Array([1], [2])|[1, "two", true]
{'a': 1, "b": [1, 2], c: {d: 'e'}}|{a: "b"|[1, 2|function(x) { return x; }|arr.length"""


def test_texts_of_java_and_javascript_are_the_values_that_the_official_converters_make(official):
    from bfcl_eval.constants.type_mappings import JAVA_TYPE_CONVERSION, JS_TYPE_CONVERSION
    from bfcl_eval.eval_checker.ast_eval.type_convertor.java_type_converter import (
        java_type_converter,
    )
    from bfcl_eval.eval_checker.ast_eval.type_convertor.js_type_converter import js_type_converter

    unknown = {"Set", "Hashtable", "Queue", "Stack"}  # which the official one cannot convert
    texts = [text for line in TEXTS.splitlines() for text in line.split("|")]
    texts += [f"{text}{end}" for text in texts for end in ("\n", " ", "L", "f", ")")]
    compared = 0
    for theirs, ours, kinds in (
        (java_type_converter, value_of_java, set(JAVA_TYPE_CONVERSION) - unknown),
        (js_type_converter, value_of_javascript, set(JS_TYPE_CONVERSION)),
    ):
        for kind, text in itertools.product(sorted(kinds), texts):
            lists = kind in ("Array", "ArrayList", "array")
            for item_kind in sorted(kinds) if lists else [None]:
                try:
                    wanted = theirs(text, kind, item_kind)
                except (ValueError, RecursionError):  # such as of "7n" and a new line
                    continue
                assert repr(ours(text, kind, item_kind)) == repr(wanted), (text, kind, item_kind)
                compared += 1
    assert compared > 5_000
