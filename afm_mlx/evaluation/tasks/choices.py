"""Tasks whose answers are texts to choose from: ARC, HellaSwag, WinoGrande, PIQA, SciQ, OpenBookQA.

Each row of the original files becomes a context and its options, worded as in
lm-evaluation-harness 0.4.13. A model takes the likeliest option, as it stands or per byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.item_files import ItemRow
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Choice, Item, Likelihood, Mark, Marks, Option, Reply
from afm_mlx.evaluation.tasks.rows import task_rows, text_field


@dataclass(frozen=True)
class Asked:
    """A row: texts that may follow a context, or contexts that one text may follow."""

    options: tuple[Option, ...]
    right: int
    group: str = ""


@dataclass(frozen=True)
class Form:
    """How rows of one benchmark are read."""

    of_row: Callable[[ItemRow], Asked]
    """Raises DataError where a row lacks something."""
    hub: str
    """Set of the hub."""
    test_files: str
    """Pattern of the set's files with labeled items that models are not trained on."""
    train_files: str
    """Pattern of those with examples."""


@dataclass(frozen=True)
class Choices:
    """A task of such a form."""

    name: str
    """One of `FORMS`."""
    data: str | Path = ""
    """A file, a folder, or `hub:ORG/NAME`; "" for the benchmark's set on the hub."""
    shots: int = 0
    """Examples before each item: the first ones of `shots_from`."""
    shots_from: str | Path | None = None
    """Data with examples, such as a training file; None for the hub's."""

    figures: ClassVar[Mapping[str, str]] = {
        "accuracy": "share of items whose right option is the likeliest",
        "accuracy_per_byte": "the same by likelihood per byte of the option",
    }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"shots": self.shots}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        form = FORMS[self.name]
        data = self.data or form.hub
        shots = self._examples(form, data)
        return [
            Choice(
                key=str(number),
                options=tuple(Option(shots + o.context, o.continuation) for o in asked.options),
                right=asked.right,
                group=asked.group,
            )
            for number, asked in enumerate(self._read(form, data, form.test_files), start=1)
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Choice)
        return {
            "accuracy": Mark(float(likeliest(reply) == item.right)),
            "accuracy_per_byte": Mark(float(likeliest(reply, sizes(item)) == item.right)),
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Choice)
        return {
            "right": item.right,
            "took": likeliest(reply),
            "took_per_byte": likeliest(reply, sizes(item)),
        }

    def _read(self, form: Form, data: str | Path, hub_files: str) -> Iterator[Asked]:
        return map(form.of_row, task_rows(self.name, data, hub_files=hub_files))

    def _examples(self, form: Form, data: str | Path) -> str:
        """Examples before each item. Raises DataError: there are too few."""
        if self.shots == 0:
            return ""
        if self.shots_from is None and data != form.hub:
            raise DataError(
                f"{self.name}: {self.shots} shots, and nothing to take examples from",
                hint="give a training file as shots_from, or --set shots=0",
            )
        rows = self._read(form, self.shots_from or form.hub, form.train_files)
        examples = [asked.options[asked.right] for asked in islice(rows, self.shots)]
        if len(examples) < self.shots:
            raise DataError(f"{self.name}: {self.shots} shots, and {len(examples)} examples")
        return "".join(f"{each.context}{each.continuation}\n\n" for each in examples)


def likeliest(reply: Reply, sizes: Sequence[int] | None = None) -> int | None:
    """Place of the likeliest option, or of the likeliest per size; None where it is no choice.

    Of equal ones the first.
    """
    if isinstance(reply, Likelihood) or not isinstance(reply, Sequence):
        return None
    values = [each.nats for each in reply]
    if sizes is not None:
        values = [value / max(size, 1) for value, size in zip(values, sizes, strict=True)]
    return max(range(len(values)), key=lambda place: values[place])


def sizes(choice: Choice) -> list[int]:
    """Bytes of the options' texts, the space before a word not counted.

    Where contexts differ, those count: there the one text that follows is the same.
    """
    differ = len({option.continuation for option in choice.options}) == 1
    texts = (o.context if differ else o.continuation for o in choice.options)
    return [len(text.removeprefix(" ").encode()) for text in texts]


def _labeled(row: ItemRow) -> tuple[list[str], int]:
    """Texts of ARC's and OpenBookQA's `choices`, and the place of the right one.

    In the hub's files `choices` has lists of texts and labels; in the original ones it is a list of
    tables, within `question`.
    """
    question = row.row.get("question")
    inner = question if isinstance(question, dict) else row.row
    choices: Any = inner.get("choices") or row.field("choices")
    try:
        if isinstance(choices, dict):
            texts, labels = list(choices["text"]), list(choices["label"])
        else:
            texts = [each["text"] for each in choices]
            labels = [each["label"] for each in choices]
    except (TypeError, KeyError):
        raise row.broken("'choices' has no texts with labels") from None
    right = str(row.field("answerKey")).strip()
    if right not in labels:
        raise row.broken(f"'answerKey' is {right[:20]!r}, and the labels are {', '.join(labels)}")
    return texts, labels.index(right)


def _after(context: str, texts: Sequence[str], right: int, group: str = "") -> Asked:
    return Asked(tuple(Option(context, f" {text}") for text in texts), right, group)


def _number(row: ItemRow, name: str, count: int) -> int:
    """A place among so many. Raises DataError: it is none."""
    value = str(row.field(name)).strip()
    if value not in map(str, range(count)):
        raise row.broken(f"'{name}' is {value[:20]!r}, and must be 0 to {count - 1}")
    return int(value)


def arc(row: ItemRow) -> Asked:
    """A science question."""
    question = row.row.get("question")
    stem = question.get("stem") if isinstance(question, dict) else text_field(row, ["question"])
    return _after(f"Question: {stem}\nAnswer:", *_labeled(row))


def openbookqa(row: ItemRow) -> Asked:
    """A question about elementary science."""
    question = row.row.get("question")
    stem = question.get("stem") if isinstance(question, dict) else None
    return _after(str(stem or text_field(row, ["question_stem"])), *_labeled(row))


def hellaswag(row: ItemRow) -> Asked:
    """How a scene goes on."""
    endings = row.field("endings")
    if not isinstance(endings, list) or len(endings) < 2:
        raise row.broken("'endings' is no list of texts")
    if "ctx_a" in row.row:
        scene = f"{row.field('ctx_a')} {str(row.field('ctx_b')).capitalize()}"
    else:
        scene = text_field(row, ["ctx"])
    activity = text_field(row, ["activity_label"])
    right = _number(row, "label", len(endings))
    return _after(_cleaned(f"{activity}: {scene}"), [_cleaned(text) for text in endings], right)


def _cleaned(text: str) -> str:
    """Without the marks of WikiHow. Source: lm-evaluation-harness, tasks/hellaswag/utils.py."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def winogrande(row: ItemRow) -> Asked:
    """Whom a sentence means: the rest of the sentence, after each of two names.

    Partial evaluation, arXiv:1806.02847: names differ in frequency, what follows them does not.
    """
    sentence = text_field(row, ["sentence"])
    before, blank, after = sentence.partition("_")
    if not blank:
        raise row.broken("'sentence' has no _")
    right = str(row.field("answer")).strip()
    if right not in ("1", "2"):
        raise row.broken(f"'answer' is {right[:20]!r}, and must be 1 or 2")
    names = (text_field(row, ["option1"]), text_field(row, ["option2"]))
    options = tuple(Option(before + name, f" {after.strip()}") for name in names)
    return Asked(options, int(right) - 1)


def piqa(row: ItemRow) -> Asked:
    """How to reach an aim in the physical world."""
    texts = [text_field(row, [name]) for name in ("sol1", "sol2")]
    return _after(
        f"Question: {text_field(row, ['goal'])}\nAnswer:", texts, _number(row, "label", 2)
    )


def sciq(row: ItemRow) -> Asked:
    """A question about a passage of a science book."""
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    support, question = str(row.field("support")).lstrip(), text_field(row, ["question"])
    texts = [text_field(row, [name]) for name in names]
    return _after(f"{support}\nQuestion: {question}\nAnswer:", texts, names.index("correct_answer"))


FORMS = {
    "arc_easy": Form(arc, "hub:allenai/ai2_arc", "ARC-Easy/test*", "ARC-Easy/train*"),
    "arc_challenge": Form(
        arc, "hub:allenai/ai2_arc", "ARC-Challenge/test*", "ARC-Challenge/train*"
    ),
    "hellaswag": Form(hellaswag, "hub:Rowan/hellaswag", "data/validation*", "data/train*"),
    "winogrande": Form(
        winogrande,
        "hub:allenai/winogrande",
        "winogrande_xl/validation*",
        "winogrande_xl/train*",
    ),
    "piqa": Form(piqa, "hub:baber/piqa", "*validation*", "*train*"),
    "sciq": Form(sciq, "hub:allenai/sciq", "data/test*", "data/train*"),
    "openbookqa": Form(openbookqa, "hub:allenai/openbookqa", "main/test*", "main/train*"),
}
"""By the name of the task, as in lm-evaluation-harness."""
