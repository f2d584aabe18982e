r"""MATH: problems of competitions, answered step by step, with a final answer in LaTeX.

Data: `problem`, `solution` whose last `\boxed` holds the answer, `type` (or `subject`) and `level`;
one object per file, as published, or rows of one file. An `answer` beside the solution is taken
instead, as MATH-500 has it. Source: Hendrycks et al., arXiv:2103.03874.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.item_files import ItemRow
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.tasks.math_algebra import check_packages, equal_as_algebra
from afm_mlx.evaluation.tasks.math_answers import (
    final_answer,
    last_boxed,
    normal_form,
    same_answer,
    stated_answer,
)
from afm_mlx.evaluation.tasks.rows import task_rows, text_field
from afm_mlx.evaluation.tasks.shots import prompt_after_examples
from afm_mlx.inference.requests import Message

HUB = "hub:EleutherAI/hendrycks_math"
HUB_FILES = "*/test*"

SHOTS = 4
"""Solved examples before each problem. Source: arXiv:2206.14858."""

MAX_TOKENS = 1_024
"""Longest answer. Ours."""

STOP = "Problem:"
"""Where a text that is continued begins the next problem."""


@dataclass(frozen=True)
class MATH:
    """The task. Its groups are the types of problems, such as algebra."""

    data: str | Path = HUB
    """A file, a folder of files, or `hub:ORG/NAME`."""
    shots: int = SHOTS
    """Solved examples before each problem, 0 to 4."""
    chat: bool = False
    """Put examples and problem as turns of a chat, not as one text that is continued."""
    max_tokens: int = MAX_TOKENS
    """Longest answer."""
    algebra: bool = False
    """Ask sympy, too, whether an answer equals the right one; needs the extra `math`."""

    name: ClassVar[str] = "math"
    figures: ClassVar[Mapping[str, str]] = {
        "accuracy": "right by 'final answer is' or the last box",
        "strict": "right by 'final answer is', the form of the examples",
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "shots": self.shots,
            "chat": self.chat,
            "max_tokens": self.max_tokens,
            "algebra": self.algebra,
        }

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        if self.shots > len(EXAMPLES):
            raise DataError(f"{self.shots} shots, but there are {len(EXAMPLES)} examples")
        if self.algebra:
            check_packages()
        examples = EXAMPLES[: self.shots]
        found: list[Item] = []
        places: Counter[str] = Counter()
        for row in task_rows(self.name, self.data, hub_files=HUB_FILES):
            problem, group = text_field(row, ["problem"]), text_field(row, ["type", "subject"])
            places[group] += 1
            found.append(
                Question(
                    key=f"{group}/{places[group]}",
                    prompt=_prompt(examples, problem, chat=self.chat),
                    max_tokens=self.max_tokens,
                    stop=() if self.chat else (STOP,),
                    group=group,
                    facts={
                        "problem": problem,
                        "level": str(row.row.get("level", "")),
                        "right": _right_answer(row),
                    },
                )
            )
        return found

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Question)
        text = reply.text if isinstance(reply, Answer) else ""
        given = {"accuracy": final_answer(text), "strict": stated_answer(text)}
        right = item.facts["right"]
        return {name: Mark(float(self._same(answer, right))) for name, answer in given.items()}

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        text = reply.text if isinstance(reply, Answer) else ""
        return {**item.facts, "given": final_answer(text)}

    def _same(self, answer: str | None, right: str) -> bool:
        if answer is None or same_answer(answer, right):
            return answer is not None
        return self.algebra and equal_as_algebra(normal_form(answer), normal_form(right))


def _right_answer(row: ItemRow) -> str:
    if "answer" in row.row:
        return text_field(row, ["answer"])
    answer = last_boxed(text_field(row, ["solution"]))
    if answer is None:
        raise row.broken("'solution' has no \\boxed answer")
    return answer


def _prompt(
    examples: Sequence[tuple[str, str]], problem: str, *, chat: bool
) -> str | tuple[Message, ...]:
    asked = [f"{STOP}\n{text}\n\nSolution:" for text in [*(one for one, _ in examples), problem]]
    return prompt_after_examples(asked, [solution for _, solution in examples], chat=chat)


EXAMPLES = (
    (
        r"Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.",
        "The expressions inside each square root must be non-negative. Therefore, $x-2 "
        r"\ge 0$, so $x\ge2$, and $5 - x \ge 0$, so $x \le 5$. Also, the denominator "
        "cannot be equal to zero, so $5-x>0$, which gives $x<5$. Therefore, the domain "
        r"of the expression is $\boxed{[2,5)}$."
        "\n"
        "Final Answer: The final answer is $[2,5)$. I hope it is correct.",
    ),
    (
        r"If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det "
        r"(\mathbf{A} \mathbf{B}).$",
        r"We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det "
        r"\mathbf{B}) = (2)(12) = \boxed{24}.$"
        "\n"
        "Final Answer: The final answer is $24$. I hope it is correct.",
    ),
    (
        "Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound "
        "weights instead, how many times must Terrell lift them in order to lift the "
        "same total weight?",
        r"If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot "
        r"12\cdot20=480$ pounds of weight.  If he lifts two 15-pound weights instead for"
        r" $n$ times, he will lift a total of $2\cdot15\cdot n=30n$ pounds of weight.  "
        "Equating this to 480 pounds, we can solve for $n$:"
        "\n"
        r"\begin{align*}"
        "\n"
        r"30n&=480\\"
        "\n"
        r"\Rightarrow\qquad n&=480/30=\boxed{16}"
        "\n"
        r"\end{align*}"
        "\n"
        "Final Answer: The final answer is $16$. I hope it is correct.",
    ),
    (
        "If the system of equations"
        "\n"
        "\n"
        r"\begin{align*}"
        "\n"
        r"6x-4y&=a,\\"
        "\n"
        "6y-9x &=b."
        "\n"
        r"\end{align*}has a solution $(x, y)$ where $x$ and $y$ are both nonzero,"
        "\n"
        r"find $\frac{a}{b},$ assuming $b$ is nonzero.",
        r"If we multiply the first equation by $-\frac{3}{2}$, we obtain"
        "\n"
        "\n"
        r"$$6y-9x=-\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have"
        "\n"
        "\n"
        r"$$-\frac{3}{2}a=b\Rightarrow\frac{a}{b}=\boxed{-\frac{2}{3}}.$$"
        "\n"
        r"Final Answer: The final answer is $-\frac{2}{3}$. I hope it is correct.",
    ),
)
"""Problems and solutions. Source: Lewkowycz et al., arXiv:2206.14858, appendix D, from MATH's
training set; the texts are those of lm-evaluation-harness."""
