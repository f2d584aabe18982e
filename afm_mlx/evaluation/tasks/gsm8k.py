"""GSM8K: word problems of grade school, answered step by step, with a whole number at the end.

Data: `question`, and `answer`, a solution that ends with `#### N`. Source: Cobbe et al.,
arXiv:2110.14168.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.item_files import ItemRow
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Item, Mark, Marks, Question, Reply
from afm_mlx.evaluation.tasks.rows import task_rows, text_field
from afm_mlx.evaluation.tasks.shots import prompt_after_examples
from afm_mlx.inference.requests import Message
from afm_mlx.synthetic.checks import as_number, final_number

HUB = "hub:openai/gsm8k"
HUB_FILES = "main/test*"

SHOTS = 8
"""Solved examples before each question. Source: arXiv:2201.11903."""

MAX_TOKENS = 512
"""Longest answer. Ours: of the 1,319 solutions of the test set the longest has 415 tokens of
SmolLM2's tokenizer."""

_END = re.compile(r"####\s*(?P<number>\S+)\s*\Z")
_STATED = re.compile(r"(?:The answer is|####) (-?[0-9.,]+)")


@dataclass(frozen=True)
class Solved:
    """A question with its solution."""

    question: str
    solution: str


@dataclass(frozen=True)
class Style:
    """How a prompt names its parts."""

    question: str
    answer: str


CHAIN_OF_THOUGHT = Style("Q:", "A:")
SOLUTIONS = Style("Question:", "Answer:")
"""Of the data's own solutions. Both as in lm-evaluation-harness (tasks gsm8k_cot and gsm8k)."""


@dataclass(frozen=True)
class GSM8K:
    """The task."""

    data: str | Path = HUB
    """A file or folder, or `hub:ORG/NAME`."""
    shots: int = SHOTS
    """Solved examples before each question, 0 or more; no more than there are."""
    shots_from: str | Path | None = None
    """Data whose first items are the examples, such as train.jsonl; None takes the eight of
    arXiv:2201.11903."""
    chat: bool = False
    """Put examples and question as turns of a chat, not as one text that is continued."""
    max_tokens: int = MAX_TOKENS
    """Longest answer."""

    name: ClassVar[str] = "gsm8k"
    figures: ClassVar[Mapping[str, str]] = {
        "accuracy": "right by the last number of the answer",
        "strict": "right by 'The answer is N' or '#### N'",
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "shots": self.shots,
            "examples": "arXiv:2201.11903" if self.shots_from is None else "data",
            "chat": self.chat,
            "max_tokens": self.max_tokens,
        }

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        style, examples = self._examples()
        found = []
        for number, row in enumerate(task_rows(self.name, self.data, hub_files=HUB_FILES), start=1):
            solved = _solved(row)
            facts = {"question": solved.question, "right": str(_number_of(row, solved.solution))}
            found.append(
                Question(
                    key=str(number),
                    prompt=_prompt(style, examples, solved.question, chat=self.chat),
                    max_tokens=self.max_tokens,
                    stop=() if self.chat else (style.question,),
                    facts=facts,
                )
            )
        return found

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Question)
        text = reply.text if isinstance(reply, Answer) else ""
        right = Fraction(item.facts["right"])
        return {
            "accuracy": Mark(float(final_number(text) == right)),
            "strict": Mark(float(stated_number(text) == right)),
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Question)
        return dict(item.facts)

    def _examples(self) -> tuple[Style, list[Solved]]:
        if self.shots_from is None:
            if self.shots > len(EXAMPLES):
                raise DataError(
                    f"{self.shots} shots, but there are {len(EXAMPLES)} examples",
                    hint="for more, give a file of solved questions, such as train.jsonl",
                )
            return CHAIN_OF_THOUGHT, list(EXAMPLES[: self.shots])
        rows = task_rows(self.name, self.shots_from, hub_files="main/train*")
        examples = [_solved(row) for row, _ in zip(rows, range(self.shots), strict=False)]
        if len(examples) < self.shots:
            raise DataError(f"{self.shots} shots, but {self.shots_from} has {len(examples)} items")
        return SOLUTIONS, examples


def stated_number(text: str) -> Fraction | None:
    """The number that an answer states in the form of the examples; None where it states none.

    Source: lm-evaluation-harness, `strict-match` of its tasks gsm8k_cot and gsm8k; it compares
    what is written, here 18.00 is 18.

    >>> stated_number("9 x 2 = 18. The answer is 18."), stated_number("It is 18.")
    (Fraction(18, 1), None)
    """
    found = _STATED.search(text)
    return as_number(found[1].rstrip(".,")) if found else None


def _prompt(
    style: Style, examples: Sequence[Solved], question: str, *, chat: bool
) -> str | tuple[Message, ...]:
    questions = [*(example.question for example in examples), question]
    asked = [f"{style.question} {text}\n{style.answer}" for text in questions]
    return prompt_after_examples(asked, [example.solution for example in examples], chat=chat)


def _solved(row: ItemRow) -> Solved:
    solved = Solved(text_field(row, ["question"]), text_field(row, ["answer"]))
    _number_of(row, solved.solution)
    return solved


def _number_of(row: ItemRow, solution: str) -> Fraction:
    found = _END.search(solution)
    number = as_number(found["number"]) if found else None
    if number is None:
        raise row.broken("'answer' does not end with '#### ' and a number")
    return number


EXAMPLES = (
    Solved(
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After"
        " they are done, there will be 21 trees. How many trees did the grove workers plant today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So"
        " there must have been 21 - 15 = 6. The answer is 6.",
    ),
    Solved(
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the"
        " parking lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5.",
    ),
    Solved(
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have"
        " left in total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74."
        " After eating 35, they had 74 - 35 = 39. The answer is 39.",
    ),
    Solved(
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many"
        " lollipops did Jason give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave"
        " Denny 20 - 12 = 8. The answer is 8.",
    ),
    Solved(
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many"
        " toys does he have now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more"
        " toys. 5 + 4 = 9. The answer is 9.",
    ),
    Solved(
        "There were nine computers in the server room. Five more computers were installed each day,"
        " from monday to thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So"
        " 5 * 4 = 20 computers were added. 9 + 20 is 29. The answer is 29.",
    ),
    Solved(
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2"
        " more. How many golf balls did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After"
        " losing 2 more, he had 35 - 2 = 33 golf balls. The answer is 33.",
    ),
    Solved(
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has"
        " 23 - 15 dollars left. 23 - 15 is 8. The answer is 8.",
    ),
)
"""Source: Wei et al., arXiv:2201.11903, appendix; the texts are those of lm-evaluation-harness."""
