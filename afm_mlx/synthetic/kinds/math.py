"""Word problems whose answers are worked out step by step and end in `#### N`, as GSM8K's do.

From a family of `math_families.py` comes a problem with numbers for which every step comes out
even. Then, as for AFM (facts: MetaMath and Evol-Instruct), it may be evolved: deeper, by steps that
go on from its answer, or broader, by a second person; rephrased; or reversed: the answer is given
and a number of the statement is asked for. All is computed exactly, as fractions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from afm_mlx.settings.synthetic import SynthMath
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.math_families import (
    FAMILIES,
    FOLLOWS,
    MONEY,
    NAMES,
    Family,
    Range,
    Step,
)
from afm_mlx.synthetic.records import Candidate, Kind, assistant, user

_TRIES = 300
_LARGEST = 10**6
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

_FRAMES = (
    "{problem}",
    "Can you solve this? {problem}",
    "{problem} Show your work.",
    "{problem} Explain each step.",
    "Here is a problem from a workbook: {problem}",
    "Help me with my homework, please. {problem}",
    "Work this out step by step: {problem}",
)
_QUESTION_FIRST = (
    "{ask} This is known: {facts}",
    "{ask} Here are the facts. {facts}",
    "I would like to know the following. {ask} {facts}",
)
_GIVEN_ANSWER = (
    "{Phrase} is {answer}. What is x?",
    "In the end, {phrase} is {answer}. Find the value of x.",
    "If {phrase} is {answer}, what number is x?",
    "We know that {phrase} is {answer}. What is the unknown number x?",
)
_BACKWARDS = (
    "Work backwards from {answer}, and undo one step at a time.",
    "Start with the result, {answer}, and go back step by step.",
    "The result {answer} is known, so the steps are undone in reverse order.",
)


@dataclass(frozen=True)
class Problem:
    """A problem with its numbers: templates, and what to put into them."""

    says: Sequence[str]
    steps: Sequence[Step]
    ask: str
    phrase: str
    unit: str
    sort: str
    numbers: Mapping[str, Fraction]
    """Those of the statement."""
    results: Mapping[str, Fraction]
    """Those of the steps, in order; the last is the answer."""
    words: Mapping[str, str]
    phrases: tuple[str, ...] = ()
    """What was asked for before the problem went deeper."""

    @property
    def answer(self) -> Fraction:
        """The result of the last step."""
        return list(self.results.values())[-1]


def math_kind(settings: SynthMath) -> Kind:
    """The generator of word problems."""
    families = {family.name: family for family in FAMILIES}

    def make(draw: Draw, name: str, _: Sequence[str]) -> Candidate | str:
        family = families[name]
        personal = "{who}" in family.phrase and all("{who}" in text for text in family.says[0])
        if personal and draw.chance(settings.broader_fraction):
            return _broader(draw, family)
        problem = _drawn(draw, family)
        if problem is None:
            return "no numbers that come out even"
        for _step in range(draw.between(0, settings.deepest)):
            problem = _deeper(draw, problem)
        if draw.chance(settings.reversed_fraction):
            return _reversed(draw, problem) or "cannot be reversed"
        said = [_filled(text, problem) for text in problem.says]
        ask = _filled(problem.ask, problem)
        if draw.chance(settings.rephrased_fraction):
            text = _rephrased(draw, said, ask)
        else:
            text = draw.pick(_FRAMES).format(problem=" ".join([*said, ask]))
        return _candidate(text, _worked(problem), problem.answer)

    return Kind("math", tuple(families), make)


def evaluate(expression: str, values: Mapping[str, Fraction]) -> Fraction:
    """The exact value of an arithmetic expression with names."""
    return _value(ast.parse(expression, mode="eval").body, values)


def shown(value: Fraction) -> str:
    """A number as people write it: 12, 2.50, 0.125.

    >>> shown(Fraction(5, 2)), shown(Fraction(12)), shown(Fraction(1, 8))
    ('2.5', '12', '0.125')
    """
    if value.denominator == 1:
        return str(value.numerator)
    text = f"{float(value):.6f}".rstrip("0")
    if Fraction(text) != value:
        raise ValueError(f"{value} is no short decimal")
    return text


def _candidate(problem: str, worked: str, answer: Fraction) -> Candidate:
    text = f"{worked}\n#### {shown(answer)}"
    check = {"kind": "number", "answer": shown(answer)}
    return Candidate([user(problem), assistant(text)], check)


def _drawn(draw: Draw, family: Family, words: Mapping[str, str] | None = None) -> Problem | None:
    """A family with numbers for which all steps come out even, or None."""
    chosen = dict(words or _words(draw, family))
    problem = Problem(
        says=[draw.pick(texts) for texts in family.says],
        steps=family.steps,
        ask=draw.pick(family.ask),
        phrase=family.phrase,
        unit=family.unit,
        sort=family.sort,
        numbers={},
        results={},
        words=chosen,
    )
    for _ in range(_TRIES):
        numbers = {name: _number(draw, within) for name, within in family.numbers.items()}
        results = _results(family.steps, numbers)
        whole = all(value.denominator == 1 for value in results.values())
        if results and (whole or not family.whole):
            return replace(problem, numbers=numbers, results=results)
    return None


def _words(draw: Draw, family: Family) -> dict[str, str]:
    (who, she), (other, _) = draw.some(NAMES, 2)
    her = {"she": "her", "he": "his"}[she]
    words = {"who": who, "other": other, "she": she, "her": her}
    words |= {"She": she.capitalize(), "Her": her.capitalize()}
    return words | {name: draw.pick(choices) for name, choices in family.words.items()}


def _number(draw: Draw, within: Range) -> Fraction:
    first, last, step = within if len(within) == 3 else (*within, 1)
    return Fraction(draw.between(first, last, step))


def _results(steps: Sequence[Step], numbers: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """Results of all steps; none where one is not a positive number of at most two decimals."""
    values, results = dict(numbers), {}
    for name, expression, _ in steps:
        value = evaluate(expression, values)
        if not 0 < value < _LARGEST or (100 * value).denominator != 1:
            return {}
        values[name] = results[name] = value
    return results


def _deeper(draw: Draw, problem: Problem) -> Problem:
    """One more step, which goes on from the answer; the problem itself where none fits."""
    follows = [follow for follow in FOLLOWS[problem.sort] if follow[4] not in problem.phrases]
    if not follows:
        return problem
    within, says, (_, expression, text), asks, phrase, unit, sort = draw.pick(follows)
    last = list(problem.results)[-1]
    level = sum(name.startswith("after") for name in problem.results) + 1
    number, result = f"z{level}", f"after{level}"
    expression = re.sub(r"\blast\b", last, re.sub(r"\bz\b", number, expression))
    step = (result, expression, text.replace("{after}", f"{{{result}}}"))
    for _ in range(_TRIES // 10):
        numbers = {**problem.numbers, number: _number(draw, within)}
        results = _results([*problem.steps, step], numbers)
        if results and (sort == MONEY or unit == "$" or results[result].denominator == 1):
            return replace(
                problem,
                says=[*problem.says, _linked(draw.pick(says), problem.phrase, number)],
                steps=[*problem.steps, step],
                ask=draw.pick(asks),
                phrase=phrase,
                phrases=(*problem.phrases, phrase),
                unit=unit,
                sort=sort,
                numbers=numbers,
                results=results,
            )
    return problem


def _linked(text: str, phrase: str, number: str) -> str:
    """A following sentence that says what it goes on from."""
    text = text.replace("{z}", f"{{{number}}}").replace("{it}", phrase)
    return text.replace("{them}", phrase.replace("the number of ", "the "))


def _broader(draw: Draw, family: Family) -> Candidate | str:
    """The same for two people, and then the sum or the difference."""
    words = _words(draw, family)
    name, she = draw.pick([one for one in NAMES if one[0] not in words.values()])
    her = {"she": "her", "he": "his"}[she]
    others = {**words, "who": name, "she": she, "her": her}
    others |= {"She": she.capitalize(), "Her": her.capitalize()}
    first, second = _drawn(draw, family, words), _drawn(draw, family, others)
    if first is None or second is None:
        return "no numbers that come out even"
    if first.answer == second.answer:
        return "two equal answers"
    said = [_filled(text, one) for one in (first, second) for text in one.says]
    more, less = sorted((first, second), key=lambda one: -one.answer)
    phrases = [_filled(one.phrase, one) for one in (more, less)]
    if draw.chance(0.5):
        total, sign = more.answer + less.answer, "+"
        ask = draw.pick(("What is the sum of {} and {}?", "Add {} and {}. What do you get?"))
        end = "The sum is"
    else:
        total, sign = more.answer - less.answer, "-"
        ask = draw.pick(
            (
                "By how much is {} larger than {}?",
                "What is the difference between {} and {}?",
            )
        )
        end = "The difference is"
    problem = draw.pick(_FRAMES).format(problem=" ".join([*said, ask.format(*phrases)]))
    lines = [
        f"First {first.words['who']}: {_joined(first)}",
        f"Then {second.words['who']}: {_joined(second)}",
        f"{end} {shown(more.answer)} {sign} {shown(less.answer)} = {shown(total)}.",
    ]
    return _candidate(problem, "\n".join(lines), total)


def _reversed(draw: Draw, problem: Problem) -> Candidate | None:
    """The answer is given, and a number that stands once in statement and steps is x."""
    last = list(problem.results)[-1]
    tree = _expanded(last, {name: expression for name, expression, _ in problem.steps})
    leaves = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    free = [
        name
        for name in problem.numbers
        if leaves.count(name) == 1 and sum(f"{{{name}}}" in text for text in problem.says) == 1
    ]
    if not free:
        return None
    unknown = draw.pick(free)
    lines: list[str] = []
    value = _undone(tree, unknown, problem.answer, problem.numbers, lines)
    assert value == problem.numbers[unknown]
    said = [_filled(text, problem, hidden=unknown) for text in problem.says]
    phrase = _filled(problem.phrase, problem)
    answer = _with_unit(problem)
    given = draw.pick(_GIVEN_ANSWER).format(
        phrase=phrase, Phrase=phrase[0].upper() + phrase[1:], answer=answer
    )
    worked = [draw.pick(_BACKWARDS).format(answer=shown(problem.answer)), *lines]
    worked.append(f"So x is {shown(value)}.")
    return _candidate(" ".join([*said, given]), "\n".join(worked), value)


def _undone(
    tree: ast.expr,
    unknown: str,
    target: Fraction,
    numbers: Mapping[str, Fraction],
    lines: list[str],
) -> Fraction:
    """The value of `unknown` for which `tree` is `target`; each computation goes to `lines`."""
    while isinstance(tree, ast.BinOp):
        on_left = any(isinstance(n, ast.Name) and n.id == unknown for n in ast.walk(tree.left))
        inner, other = (tree.left, tree.right) if on_left else (tree.right, tree.left)
        known = _computed(other, numbers, lines)
        sign = _SIGNS[type(tree.op)]
        pair = {
            "+": (target, "-", known),
            "-": (target, "+", known) if on_left else (known, "-", target),
            "*": (target, "/", known),
            "/": (target, "*", known) if on_left else (known, "/", target),
        }[sign]
        target = _line(*pair, lines)
        tree = inner
    return target


def _computed(tree: ast.expr, numbers: Mapping[str, Fraction], lines: list[str]) -> Fraction:
    if not isinstance(tree, ast.BinOp):
        return _value(tree, numbers)
    left, right = _computed(tree.left, numbers, lines), _computed(tree.right, numbers, lines)
    return _line(left, _SIGNS[type(tree.op)], right, lines)


def _line(left: Fraction, sign: str, right: Fraction, lines: list[str]) -> Fraction:
    values = {"+": left + right, "-": left - right, "*": left * right}
    value = left / right if sign == "/" else values[sign]
    lines.append(f"{shown(left)} {sign} {shown(right)} = {shown(value)}")
    return value


def _expanded(name: str, steps: Mapping[str, str]) -> ast.expr:
    """The computation of a result in terms of the statement's numbers."""

    class Expand(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return _expanded(node.id, steps) if node.id in steps else node

    expanded: ast.expr = Expand().visit(ast.parse(steps[name], mode="eval").body)
    return expanded


def _value(tree: ast.expr, values: Mapping[str, Fraction]) -> Fraction:
    if isinstance(tree, ast.Name):
        return values[tree.id]
    if isinstance(tree, ast.Constant):
        return Fraction(str(tree.value))
    assert isinstance(tree, ast.BinOp)
    left, right = _value(tree.left, values), _value(tree.right, values)
    sign = _SIGNS[type(tree.op)]
    if sign == "/":
        return left / right
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def _worked(problem: Problem) -> str:
    return "\n".join(_worked_lines(problem))


def _joined(problem: Problem) -> str:
    return " ".join(_worked_lines(problem))


def _worked_lines(problem: Problem) -> list[str]:
    """Each step as a sentence with its computation."""
    values = {**problem.numbers, **problem.results}
    lines = []
    for name, expression, text in problem.steps:
        computed = re.sub(r"[a-z_]+\d*", lambda found: shown(values[found[0]]), expression)
        said = {name: f"{computed} = {shown(values[name])}"}
        lines.append(text.format(**(dict(problem.words) | said)))
    return lines


def _filled(text: str, problem: Problem, hidden: str = "") -> str:
    """A template with words and numbers; `hidden` becomes x."""
    numbers = {name: shown(value) for name, value in problem.numbers.items()}
    if hidden:
        numbers[hidden] = "x"
    return text.format(**numbers, **problem.words)


def _with_unit(problem: Problem) -> str:
    amount = shown(problem.answer)
    if problem.unit == "$":
        return f"${amount}" if problem.answer.denominator == 1 else f"${float(problem.answer):.2f}"
    return f"{amount} years" if problem.unit == "years" else amount


def _rephrased(draw: Draw, said: Sequence[str], ask: str) -> str:
    """The same problem in another form: the question first, as a list, or with words for numbers."""
    form = draw.below(3)
    if form == 0:
        return draw.pick(_QUESTION_FIRST).format(ask=ask, facts=" ".join(said))
    if form == 1:
        lines = [line for text in said for line in re.split(r"(?<=[.!?]) (?=[A-Z])", text)]
        return "\n".join([*(f"- {line}" for line in lines), ask])
    text = " ".join([*said, ask])
    # Not in prices or percentages, and not at the start of a sentence.
    return re.sub(
        r"(?<=[a-z,] )(\d+)(?= [a-z])",
        lambda found: _WORDS[int(found[1])] if int(found[1]) <= 20 else found[1],
        text,
    )
