"""MMLU: questions of 57 subjects with four answers; a model takes the likeliest of four letters.

Prompts are those of lm-evaluation-harness 0.4.13 (task mmlu). Data: the original archive's folders
`test` and `dev` of CSV files, or the hub's Parquet files. Source: Hendrycks et al.,
arXiv:2009.03300.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from afm_mlx.corpus.sources.hub import PREFIX
from afm_mlx.corpus.sources.item_files import ItemRow, read_rows
from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Choice, Item, Mark, Marks, Option, Reply
from afm_mlx.evaluation.tasks.choices import likeliest, sizes
from afm_mlx.evaluation.tasks.rows import task_rows, text_field

HUB = "hub:cais/mmlu"

SHOTS = 5
"""Examples before each question. Source: arXiv:2009.03300."""

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Asked:
    """A question."""

    subject: str
    question: str
    answers: tuple[str, ...]
    right: int
    """Place of the right answer."""


@dataclass(frozen=True)
class MMLU:
    """The task. Scores are of all questions, of each subject, and of four parts of the subjects."""

    data: str | Path = HUB
    """A folder with `test` and `dev`, as in the original archive, or `hub:ORG/NAME`."""
    shots: int = SHOTS
    """Examples before each question: the first ones of its subject in `dev`."""
    shots_from: str | Path | None = None
    """A folder or file of examples, in place of the data's `dev`."""
    cloze: bool = False
    """Compare the likelihoods of the answers' texts, which are not shown, and not of letters.
    Letters mean nothing to models of some hundred million parameters, which are measured so."""

    name: ClassVar[str] = "mmlu"

    @property
    def figures(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            "accuracy": "share of questions whose right answer is the likeliest",
            **({"accuracy_per_byte": "the same by likelihood per byte"} if self.cloze else {}),
            "stem": "accuracy in the sciences and mathematics",
            "humanities": "accuracy in the humanities",
            "social_sciences": "accuracy in the social sciences",
            "other": "accuracy in all other subjects",
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"shots": self.shots, "cloze": self.cloze}

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        asked: dict[str, list[Asked]] = {}
        for each in self._read("test", self.data):
            asked.setdefault(each.subject, []).append(each)
        examples = self._examples(asked)
        return [
            Choice(
                key=f"{subject}/{number}",
                options=self._options(subject, examples.get(subject, ()), each),
                right=each.right,
                group=subject,
            )
            for subject, some in sorted(asked.items())
            for number, each in enumerate(some, start=1)
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, Choice)
        mark = Mark(float(likeliest(reply) == item.right))
        marks = {"accuracy": mark}
        if self.cloze:
            right = likeliest(reply, sizes(item)) == item.right
            marks["accuracy_per_byte"] = Mark(float(right))
        if part := PARTS.get(item.group):
            marks[part] = mark
        return marks

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`."""
        assert isinstance(item, Choice)
        took = likeliest(reply)
        return {"right": LETTERS[item.right], "took": "" if took is None else LETTERS[took]}

    def _options(self, subject: str, examples: Sequence[Asked], asked: Asked) -> tuple[Option, ...]:
        write = cloze_prompt if self.cloze else prompt
        context = write(subject, examples, asked)
        return tuple(Option(context, f" {o}") for o in (asked.answers if self.cloze else LETTERS))

    def _examples(self, subjects: Iterable[str]) -> dict[str, list[Asked]]:
        """The examples of each subject.

        Raises:
            DataError: there are none, or too few.
        """
        if self.shots == 0:
            return {}
        found: dict[str, list[Asked]] = {}
        for each in self._read("dev", self.shots_from or self.data, is_part=not self.shots_from):
            found.setdefault(each.subject, []).append(each)
        for subject in subjects:
            if (count := len(found.get(subject, ()))) < self.shots:
                raise DataError(
                    f"mmlu: {self.shots} shots, and {count} examples of {subject}",
                    hint=f"--set shots={count}, or give more examples",
                )
        return {subject: some[: self.shots] for subject, some in found.items()}

    def _read(self, part: str, data: str | Path, *, is_part: bool = True) -> Iterator[Asked]:
        """Questions of a part of the data: test or dev."""
        if str(data).startswith(PREFIX):
            yield from map(_asked, task_rows(self.name, data, hub_files=f"all/{part}*"))
            return
        folder = Path(data).expanduser()
        files = [folder]
        if is_part and folder.is_dir():
            # The archive has test/SUBJECT_test.csv, a copy of the hub's set all/test-*.parquet.
            files = [folder / part] if (folder / part).is_dir() else sorted(folder.glob(f"{part}*"))
            files = files or sorted(folder.glob(f"all/{part}*"))
        if part == "dev" and (not files or (is_part and not folder.is_dir())):
            raise DataError(
                f"mmlu: no examples for {self.shots} shots: {folder} has no folder dev",
                hint="take the folder dev of the original archive, or --set shots=0",
            )
        for file in files or [folder / part]:
            yield from map(_asked, read_rows(file))


def prompt(subject: str, examples: Sequence[Asked], asked: Asked) -> str:
    """What a model reads before the letter."""
    about = subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    solved = (f"{_shown(each)} {LETTERS[each.right]}\n\n" for each in examples)
    return head + "".join(solved) + _shown(asked)


def cloze_prompt(subject: str, examples: Sequence[Asked], asked: Asked) -> str:
    """What a model reads before the answer's text. Source: the harness's mmlu_continuation."""
    about = subject.replace("_", " ")
    head = f"The following are questions (with answers) about {about}.\n\n"
    ask = "Question: {}\nAnswer:".format
    solved = (f"{ask(each.question.strip())} {each.answers[each.right]}\n\n" for each in examples)
    return head + "".join(solved) + ask(asked.question.strip())


def _shown(asked: Asked) -> str:
    answers = (f"{letter}. {text}" for letter, text in zip(LETTERS, asked.answers, strict=True))
    return "\n".join([asked.question.strip(), *answers, "Answer:"])


def _asked(row: ItemRow) -> Asked:
    """Raises DataError: the row is no question with four answers."""
    subject = row.row.get("subject") or _subject(row)
    if "choices" in row.row:
        answers = row.field("choices")
        if not isinstance(answers, list) or len(answers) != len(LETTERS):
            raise row.broken("'choices' is no list of four")
        answers = tuple(map(str, answers))
    else:
        answers = tuple(str(row.field(letter)) for letter in LETTERS)
    right = str(row.field("answer")).strip()
    places = {**{letter: n for n, letter in enumerate(LETTERS)}, **{str(n): n for n in range(4)}}
    if right not in places:
        raise row.broken(f"'answer' is {right[:20]!r}, and must be A to D or 0 to 3")
    return Asked(str(subject), text_field(row, ["question"]), answers, places[right])


def _subject(row: ItemRow) -> str:
    """From the name of the file: SUBJECT_test.csv, or SUBJECT.csv."""
    return re.sub(r"_(test|dev|val)$", "", row.file.name.split(".")[0])


PARTS = {
    subject: part
    for part, subjects in {
        "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry"
        " college_computer_science college_mathematics college_physics computer_security"
        " conceptual_physics electrical_engineering elementary_mathematics high_school_biology"
        " high_school_chemistry high_school_computer_science high_school_mathematics"
        " high_school_physics high_school_statistics machine_learning",
        "humanities": "formal_logic high_school_european_history high_school_us_history"
        " high_school_world_history international_law jurisprudence logical_fallacies"
        " moral_disputes moral_scenarios philosophy prehistory professional_law world_religions",
        "social_sciences": "econometrics high_school_geography"
        " high_school_government_and_politics high_school_macroeconomics"
        " high_school_microeconomics high_school_psychology human_sexuality"
        " professional_psychology public_relations security_studies sociology us_foreign_policy",
        "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging"
        " management marketing medical_genetics miscellaneous nutrition professional_accounting"
        " professional_medicine virology",
    }.items()
    for subject in subjects.split()
}
"""Part of each subject. Source: lm-evaluation-harness 0.4.13, tasks/mmlu/_generate_configs.py."""
