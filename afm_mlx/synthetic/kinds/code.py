"""Small programming tasks with tests and solutions; what passes is kept.

As for AFM (OB): a task is asked in words, unit tests are made, several programs run against them,
and the task is kept if the tests tell right from wrong. Here the expected results come from our
own two solutions, which must agree; wrong variants run in the sandbox and must fail, and the answer
itself runs there, too, when the record is written.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from afm_mlx.settings.synthetic import SynthCode
from afm_mlx.synthetic.checks import passes
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.code_families import TASKS, Task
from afm_mlx.synthetic.records import Candidate, Kind, assistant, user

_FRAMES = (
    "Write a Python function `{head}`. {says}",
    "Implement `{head}` in Python. {says}",
    "{says} The function is to be called as `{head}`. Use Python.",
    "I need a Python function. {says} Its signature is `{head}`.",
    "Complete this task in Python: {says} Define `{head}`.",
    "Please write `{head}` for me, in Python. {says}",
)
_EXAMPLES = ("Examples:", "For example:", "It should behave like this:", "Some results:")
_ANSWERS = (
    "```python\n{code}\n```",
    "Here is the function:\n\n```python\n{code}\n```",
    "```python\n{code}\n```\n\nIt gives the results of the examples.",
)


def code_kind(settings: SynthCode) -> Kind:
    """The generator of programming tasks."""
    tasks = {task.names[0]: task for task in TASKS}

    def make(draw: Draw, family: str, _: Sequence[str]) -> Candidate | str:
        task = tasks[family]
        values = {name: draw.pick(choices) for name, choices in task.numbers.items()}
        name = draw.pick(task.names)
        head = f"{name}({task.signature}"
        bodies = draw.shuffled([task.solution, task.other])
        programs = [_program(head, body, values) for body in bodies]
        cases = _cases(draw, task, settings.tests)
        results = [_results(program, name, cases) for program in programs]
        if results[0] != results[1]:
            return "solutions disagree"
        tests = "\n".join(
            f"assert {_called(name, case)} == {result!r}"
            for case, result in zip(cases, results[0], strict=True)
        )
        wrong = [
            program
            for old, new in task.wrong
            if old in task.solution
            and (program := _program(head, task.solution.replace(old, new), values)) not in programs
        ]
        check: dict[str, Any] = {"kind": "tests", "code": tests}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            right = pool.map(partial(passes, check, limits=settings.sandbox), wrong)
            caught = [text for text, passed in zip(wrong, right, strict=True) if not passed]
        if len(caught) < settings.least_wrong_caught * len(wrong):
            return "tests miss a wrong variant"
        says = draw.pick(task.says).format(**values)
        prompt = draw.pick(_FRAMES).format(head=head, says=says)
        shown = draw.between(0, settings.shown_tests)
        if shown:
            lines = [
                f"{_called(name, case)} -> {result!r}"
                for case, result in list(zip(cases, results[0], strict=True))[-shown:]
            ]
            prompt += "\n\n" + draw.pick(_EXAMPLES) + "\n" + "\n".join(lines)
        frame = draw.pick(_ANSWERS[: 3 if shown else 2])
        check["wrong"] = caught
        return Candidate([user(prompt), assistant(frame.format(code=programs[0]))], check)

    return Kind("code", tuple(tasks), make)


def _program(head: str, body: str, values: dict[str, Any]) -> str:
    lines = body.format(**values).splitlines()
    return "\n".join([f"def {head}:", *(f"    {line}" for line in lines)])


def _cases(draw: Draw, task: Task, count: int) -> list[tuple[Any, ...]]:
    """Arguments of the tests: the edges, then drawn ones, all different."""
    cases = list(task.edges)
    for _ in range(10 * count):
        if len(cases) >= max(count, len(task.edges) + 2):
            break
        case = task.inputs(draw)
        if case not in cases:
            cases.append(case)
    return cases


def _results(program: str, name: str, cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What our own solution gives; it is not generated, and needs no sandbox."""
    space: dict[str, Any] = {}
    exec(compile(program, "solution", "exec"), space)
    return [space[name](*ast.literal_eval(repr(case))) for case in cases]


def _called(name: str, case: tuple[Any, ...]) -> str:
    return f"{name}({', '.join(map(repr, case))})"
