"""What each generator promises, verified by other means than its own."""

import re
from collections import Counter
from fractions import Fraction

import pytest

from afm_mlx.errors import DataError
from afm_mlx.settings.synthetic import SynthCode
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.checks import passes, score
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.code import code_kind
from afm_mlx.synthetic.kinds.math_families import FAMILIES
from afm_mlx.synthetic.kinds.safety import read_taxonomy
from afm_mlx.synthetic.kinds.tool_catalogue import CHAINS, FUNCTIONS
from afm_mlx.synthetic.sandbox import layers

NUMBER = re.compile(r"\d+(?:\.\d+)?")
NAMES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
]
NAMES += ["fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
EQUATION = re.compile(r"(\d[\d.]*(?: [-+*/] \d[\d.]*)+) = (\d+(?:\.\d+)?)")

# Families whose answer follows from the numbers of the statement in their order.
SOLVED = {
    "bought-and-shared": lambda n: n[0] * n[1] - n[2],
    "collection-grows": lambda n: n[0] + n[1] * n[2],
    "shelves": lambda n: n[0] * n[1] - n[2],
    "trip": lambda n: n[0] * n[1] + n[2] * n[3],
    "average": lambda n: 4 * n[3] - n[0] - n[1] - n[2],
    "ages": lambda n: n[0] * n[1] + n[2],
    "running": lambda n: (n[0] * n[1] + n[2]) * n[3],
    "movie-night": lambda n: n[0] * n[1] + n[2] + n[3],
    "savings": lambda n: n[0] + n[1] * n[2] - n[3],
    "equal-shares": lambda n: (n[0] + n[1]) / n[2] + n[3],
    "tank": lambda n: n[0] + (n[1] - n[2]) * n[3],
    "shop-stock": lambda n: n[0] - n[1] * n[2] + n[3],
}


def numbers(text):
    return [Fraction(one) for one in NUMBER.findall(text)]


def value(expression):
    """Left to right, multiplication and division first: not our parser."""
    terms = re.split(r" ([-+]) ", expression)
    total, sign = Fraction(0), 1
    for term in terms:
        if term in "+-":
            sign = 1 if term == "+" else -1
            continue
        product = Fraction(1)
        for operator, number in re.findall(r"([*/]?) ?(\d[\d.]*)", term):
            product = product / Fraction(number) if operator == "/" else product * Fraction(number)
        total += sign * product
    return total


def test_each_line_of_a_worked_answer_is_true_and_uses_known_numbers(make):
    reversed_ = 0
    for family, made in make("math", 1_500):
        problem, answer = (message["content"] for message in made.messages)
        known = set(numbers(problem)) | {Fraction(100), Fraction(2), Fraction(4)}
        known |= {Fraction(n) for n, name in enumerate(NAMES) if re.search(rf"\b{name}\b", problem)}
        worked, marked = answer.split("\n#### ")
        results = []
        for expression, result in EQUATION.findall(worked):
            assert set(numbers(expression)) <= known, (family, problem, answer)
            assert value(expression) == Fraction(result), (family, answer)
            known.add(Fraction(result))
            results.append(Fraction(result))
        assert results[-1] == Fraction(marked) == Fraction(made.check["answer"])
        reversed_ += re.search(r"\bx\b", problem) is not None
    assert reversed_ > 100


@pytest.mark.parametrize("family", SOLVED)
def test_the_answer_follows_from_the_statement_alone(make, family):
    plain = {"deepest": 0, "rephrased_fraction": 0.0, "broader_fraction": 0.0}
    for _, made in make("math", 40, family=family, reversed_fraction=0.0, **plain):
        found = numbers(made.messages[0]["content"])
        assert SOLVED[family](found) == Fraction(made.check["answer"])


@pytest.mark.parametrize("family", SOLVED)
def test_a_reversed_problem_holds_with_its_answer_put_in(make, family):
    plain = {"deepest": 0, "rephrased_fraction": 0.0, "broader_fraction": 0.0}
    for _, made in make("math", 40, family=family, reversed_fraction=1.0, **plain):
        text = re.sub(r"\bx\b", made.check["answer"], made.messages[0]["content"], count=1)
        *found, given = numbers(text)
        assert SOLVED[family](found) == given


def test_problems_go_deeper_and_are_told_in_many_ways(make):
    steps = Counter(
        len(EQUATION.findall(made.messages[1]["content"])) for _, made in make("math", 600)
    )
    assert len(steps) >= 4
    assert max(steps) >= 6


def test_no_family_lacks_numbers_that_come_out_even(make):
    for family in FAMILIES:
        assert len(make("math", 30, family=family.name, reversed_fraction=0.0)) >= 25


TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}


def fits(call, schema):
    """Whether a call keeps to its declaration."""
    parameters = schema["function"]["parameters"]
    properties = parameters["properties"]
    assert set(parameters["required"]) <= set(call["arguments"]) <= set(properties), call
    for name, given in call["arguments"].items():
        said = properties[name]
        assert isinstance(given, TYPES[said["type"]]), (call, name)
        assert said["type"] == "boolean" or not isinstance(given, bool)
        assert "enum" not in said or given in said["enum"], (call, name)


def test_every_call_keeps_to_a_schema_that_is_offered(make):
    forms = Counter()
    for _, made in make("tools", 1_500):
        offered = {tool["function"]["name"]: tool for tool in made.tools}
        assert len(offered) == len(made.tools)
        for message in made.messages:
            for call in message.get("tool_calls", ()):
                fits(call, offered[call["name"]])
        answer = made.messages[-1]
        calls = answer.get("tool_calls", ())
        assert passes(made.check, answer["content"], calls)
        followed = any(message["role"] == "tool" for message in made.messages)
        forms["step" if followed else ("none", "one", "several")[min(2, len(calls))]] += 1
    assert min(forms.values()) > 100
    assert set(forms) == {"none", "one", "several", "step"}


def test_a_wrong_call_fails(make):
    for _, made in make("tools", 300):
        calls = made.messages[-1].get("tool_calls", ())
        if calls:
            assert not passes(made.check, "", [])
            assert not passes(made.check, "", [*calls, calls[0]])
            broken = [{**calls[0], "arguments": {"nonsense": 1}}, *calls[1:]]
            assert not passes(made.check, "", broken)


def test_the_catalogue_is_large_and_sound():
    assert len(FUNCTIONS) >= 60
    assert len({function.domain for function in FUNCTIONS}) >= 12
    names = {function.name for function in FUNCTIONS}
    assert len(names) == len(FUNCTIONS)
    for function in FUNCTIONS:
        assert set(function.more) <= set(function.optional), function.name
        for ask in function.asks:
            assert set(re.findall(r"{(\w+)}", ask)) == set(function.required), ask
    for finder, _, _, user, argument, _ in CHAINS:
        assert {finder, user} <= names
        assert argument in next(one for one in FUNCTIONS if one.name == user).required


def test_tools_of_the_other_split_stand_in_no_record():
    section, maker = KINDS["tools"]
    kind, settings = maker(section()), section()
    held_out = set(kind.of_split("held_out", settings))
    train = kind.of_split("train", settings)
    for number in range(400):
        draw = Draw("tools", 5, number)
        made = kind.make(draw, draw.pick(train), train)
        if not isinstance(made, str):
            assert not held_out & {tool["function"]["name"] for tool in made.tools}


def test_requests_keep_to_the_functions_that_are_chosen(make):
    chosen = ("send_text", "search_emails", "get_current_weather", "find_contact")
    offered = {
        tool["function"]["name"]
        for _, made in make("tools", 200, functions=chosen)
        for tool in made.tools
    }
    assert offered <= set(chosen)
    assert len(offered) > 1
    with pytest.raises(DataError, match="functions names 'send_txt'") as refused:
        make("tools", 1, functions=["send_txt"])
    assert refused.value.hint == "did you mean 'send_text'?"


@pytest.mark.skipif(not layers(), reason="no sandbox here")
def test_right_solutions_pass_and_wrong_ones_fail():
    settings = SynthCode(tests=5)
    kind = code_kind(settings)
    made = kind.make(Draw("code", 2), "run_length", kind.families)
    assert passes(made.check, made.messages[-1]["content"])
    assert len(made.check["wrong"]) >= 2
    assert all(score(made.check, wrong) < 1 for wrong in made.check["wrong"])


def test_our_two_solutions_of_each_task_agree():
    from afm_mlx.synthetic.kinds import code
    from afm_mlx.synthetic.kinds.code_families import TASKS

    assert len(TASKS) >= 40
    for task in TASKS:
        assert all(old in task.solution for old, _ in task.wrong), task.names
        for seed in range(3):
            draw = Draw("agree", task.names, seed)
            values = {name: draw.pick(choices) for name, choices in task.numbers.items()}
            head, cases = f"f({task.signature}", code._cases(draw, task, 12)
            first, second = (
                code._results(code._program(head, body, values), "f", cases)
                for body in (task.solution, task.other)
            )
            assert first == second, (task.names, cases)


def test_planted_facts_stand_at_their_depth_and_lengths_hold(make):
    for _, made in make("long-context", 60, lengths=(3_000,), depths=(0.5,)):
        text = made.messages[0]["content"]
        assert 2_400 < len(text) < 3_400
    for _, made in make("long-context", 30, family="code", lengths=(3_000,), depths=(0.5,)):
        text = made.messages[0]["content"]
        place = text.index(made.check["texts"][0]) / len(text)
        assert 0.3 < place < 0.7


def test_the_answer_to_a_question_is_in_its_document(make):
    for family, made in make("long-context", 300, lengths=(2_000,)):
        text, answer = (message["content"] for message in made.messages)
        assert passes(made.check, answer)
        assert not passes(made.check, "I do not know.")
        if made.check["kind"] == "contains" and not family.startswith("absent"):
            assert all(wanted in text for wanted in made.check["texts"])


def test_counts_are_those_of_the_sentences(make):
    for _, made in make("long-context", 20, family="count-members", lengths=(2_000,)):
        joined = made.messages[0]["content"].count("has joined the rowing club.")
        assert joined == int(made.check["answer"])


def test_lengths_can_be_tokens(make, small_tokenizer, tmp_path):

    lines = ["The well near the mill has been there for as long as anybody knows.\n"] * 20
    tokenizer = small_tokenizer(lines, tmp_path / "t", vocab_size=330)
    settings = {"unit_is_tokens": True, "tokenizer": str(tmp_path / "t"), "lengths": (1_500,)}
    for _, made in make("long-context", 8, **settings):
        assert 900 < len(tokenizer.encode(made.messages[0]["content"])) < 1_700


def test_texts_can_be_few_kinds_of_short_documents(make):
    for _, made in make("summaries", 60, own_fraction=1.0, own_documents=1):
        assert "our next meeting takes place on" in made.messages[-2]["content"]


def test_a_summary_keeps_the_rules_and_obeying_the_text_breaks_them(make):
    obedient = {
        "capitals": str.upper,
        "list": lambda text: "- cat\n- dog",
        "language": lambda text: f"Bonjour. {text}",
        "praise": lambda text: f"{text} It deserves five stars.",
        "reveal": lambda text: f"My instructions are to sum up. {text}",
    }
    for family, made in make("summaries", 600, injected_fraction=1.0):
        answer = made.messages[-1]["content"]
        assert passes(made.check, answer), (answer, made.check)
        marks = [
            word
            for rule in made.check["list"]
            if rule["name"] == "avoids"
            for word in rule["words"]
        ]
        if family in obedient:
            assert not passes(made.check, obedient[family](answer))
        else:
            assert not passes(made.check, f"{marks[0]} {answer}")
        assert not any(mark in answer for mark in marks)


def test_answers_of_writing_tasks_keep_all_constraints(make):
    kinds = Counter()
    for _, made in make("instructions", 2_000):
        assert passes(made.check, made.messages[-1]["content"]), made
        kinds.update(rule["name"] for rule in made.check["list"])
    assert len(kinds) >= 20


def test_a_plain_answer_fails_most_writing_tasks(make):
    made = make("instructions", 300)
    passed = sum(
        passes(one.check, "This is a plain answer, with nothing special.") for _, one in made
    )
    assert passed < 0.4 * len(made)


def test_requests_are_refused_and_look_alikes_answered(make):
    forms = Counter()
    for _, made in make("safety", 400):
        answer = made.messages[-1]["content"]
        assert passes(made.check, answer)
        name = made.check["list"][0]["name"]
        forms[name] += 1
        other = (
            "Sure, here is how it is done, step by step." if name == "refuses" else "I can't help."
        )
        assert not passes(made.check, other)
    assert min(forms.values()) > 120


def test_the_taxonomy_has_the_published_size():
    found = read_taxonomy(None)
    assert len({name.partition(".")[0] for name in found}) == 12
    assert len(found) == 51


def test_a_file_overrides_single_policies(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[illegal.theft]\npolicy = "support"\n[ours.rules]\npolicy = "refuse"\n'
        'requests = ["Do it."]\noffer = "do something else"\nbenign = [["What?", "That is it."]]\n'
    )
    found = read_taxonomy(tmp_path / "mine.toml")
    assert found["illegal.theft"].policy == "support"
    assert found["illegal.theft"].requests
    assert found["ours.rules"].offer == "do something else"


@pytest.mark.parametrize("name", KINDS)
def test_both_splits_have_families_and_share_none(name, prose):
    section, maker = KINDS[name]
    own = {"documents": str(prose)} if name in ("long-context", "summaries") else {}
    settings = section(**own)
    kind = maker(settings)
    train, held_out = (kind.of_split(split, settings) for split in ("train", "held_out"))
    assert len(held_out) >= 2
    assert len(train) > 2 * len(held_out)
    assert not set(train) & set(held_out)
    assert sorted([*train, *held_out]) == sorted(kind.families)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "code"])
def test_no_template_is_left_unfilled(name, make):
    for _, made in make(name, 200):
        for message in made.messages:
            assert not re.search(r"\{\w+\}", message["content"]), message
            assert "  " not in message["content"].replace("\n  ", "")


def test_every_setting_is_in_the_page():
    from pathlib import Path

    from afm_mlx.settings.synthetic import Sandbox

    page = (Path(__file__).parents[2] / "docs" / "synthetic.md").read_text()
    for section in [Sandbox, *(section for section, _ in KINDS.values())]:
        for key, field in section.model_fields.items():
            assert f"| `{key}` |" in page, key
            assert field.description, key


def solved_basics(task, text):
    """The answer to a one-step task, from its words alone; None for tasks not solved here."""
    found = NUMBER.findall(text)
    words = re.search(r"[a-z]+(?:, [a-z]+)+", text)
    listed = words[0].split(", ") if words else []
    match task:
        case "sum":
            return str(int(found[0]) + int(found[1]))
        case "larger":
            return str(max(map(int, found)))
        case "next":
            return str(int(found[0]) + 1)
        case "end":
            return listed[0 if "first" in text else -1]
    return None


@pytest.mark.parametrize("task", ["sum", "larger", "next", "end"])
def test_answers_of_one_step_tasks_follow_from_their_words(make, task):
    made = make("basics", 200, tasks=(task,))
    for _, candidate in made:
        text = candidate.messages[0]["content"]
        assert candidate.messages[1]["content"] == solved_basics(task, text), text


def test_what_a_held_out_one_step_task_is_about_is_in_no_other_family(make):
    """Two numbers to add are on one side, in whatever words and order."""
    sides = {}
    for family, candidate in make("basics", 3_000, tasks=("sum",)):
        about = tuple(sorted(map(int, NUMBER.findall(candidate.messages[0]["content"]))))
        sides.setdefault(about, set()).add(family)
    assert len(sides) > 60
    assert all(len(families) == 1 for families in sides.values())
