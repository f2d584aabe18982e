"""Questions over long documents in which facts are planted at stated depths.

A document is a run of paragraphs of given texts. Facts are sentences of their own between these;
near ones of the same form but of other people and things make the search hard. Questions need one
fact, two or three that lead to each other, all of a kind (counting, listing), the newest of several,
or a comparison; or the document does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from afm_mlx.settings.synthetic import SynthLongContext
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.texts import read_prose
from afm_mlx.synthetic.records import Candidate, Kind, assistant, user
from afm_mlx.text.tokenizer import Tokenizer

_PEOPLE = (
    "Adaeze Obi", "Bruno Keller", "Chiara Bianchi", "Dmitri Orlov", "Esther Cohen", "Fatima Zahra",
    "Gustav Lind", "Hiroshi Abe", "Imani Moyo", "Jonas Berg", "Katya Ivanova", "Lucia Romero",
    "Malik Haddad", "Nina Vogel", "Oren Levi", "Petra Novak", "Quentin Roy", "Ritu Sharma",
    "Sven Dahl", "Thandi Nkosi", "Uma Rao", "Viktor Balogh", "Wendy Park", "Ximena Torres",
)  # fmt: skip
_CITIES = (
    "Antwerp", "Bergamo", "Cork", "Debrecen", "Esbjerg", "Fukuoka", "Granada", "Haifa", "Izmir",
    "Jaipur", "Kumasi", "Lucerne", "Medellin", "Nantes", "Odense", "Poznan", "Recife", "Salta",
)  # fmt: skip
_THINGS = (
    "amber lantern", "brass compass", "copper kettle", "dusty ledger", "enamel teapot",
    "folding telescope", "glass harp", "hand-drawn atlas", "iron sundial", "jade figurine",
    "linen tapestry", "marble chessboard", "oak barometer", "painted globe", "silver sextant",
    "wooden metronome",
)  # fmt: skip
_TEAMS = ("archive", "harbor", "kitchen", "orchard", "printing", "repair", "survey", "weather",
          "workshop", "festival")  # fmt: skip
_COLORS = ("crimson", "turquoise", "ochre", "violet", "ivory", "emerald", "indigo", "coral")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

_INTROS = (
    "Read the document and answer the question at the end.",
    "Here is a document. A question follows it.",
    "The following text is long. Answer the question below it from the text alone.",
    "Answer a question about this document.",
)
_HEADS = ("Question: {}", "{}", "My question: {}", "Now answer: {}")

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Planted:
    """Facts to plant, the question about them, and its answer."""

    facts: Sequence[str]
    """In the order in which they are to stand."""
    near: Sequence[str]
    """Sentences of the same form that do not matter; stand anywhere."""
    question: str
    answer: str
    check: dict[str, Any]


def long_context_kind(settings: SynthLongContext) -> Kind:
    """The generator of questions over long documents.

    Raises:
        DataError: the documents hold no prose, or there is no such tokenizer.
    """
    prose = read_prose(settings.documents)
    size = _size_in_tokens(Path(settings.tokenizer)) if settings.unit_is_tokens else _size

    def make(draw: Draw, family: str, _: Sequence[str]) -> Candidate | str:
        planted = _FAMILIES[family](draw)
        wanted = draw.pick(settings.lengths)
        room = wanted - sum(map(size, (*planted.facts, *planted.near)))
        document: list[str] = []
        place = draw.below(len(prose.paragraphs))
        while (room := room - size(prose.paragraphs[place])) >= 0:
            document.append(prose.paragraphs[place])
            place = (place + 1) % len(prose.paragraphs)
            if len(document) == len(prose.paragraphs):
                break
        # The first fact stands where it is asked for; the others after it, and near ones anywhere.
        depth = draw.pick(settings.depths)
        first = round(depth * len(document))
        places = sorted(draw.between(first, len(document)) for _ in planted.facts[1:])
        inserted: dict[int, list[str]] = {}
        for place, fact in zip([first, *places], planted.facts, strict=False):
            inserted.setdefault(place, []).append(fact)
        for fact in planted.near:
            inserted.setdefault(draw.between(0, len(document)), []).append(fact)
        parts = [
            part
            for place, paragraph in enumerate([*document, ""])
            for part in (*inserted.get(place, ()), paragraph)
            if part
        ]
        question = draw.pick(_HEADS).format(planted.question)
        text = "\n\n".join([draw.pick(_INTROS), *parts, question])
        return Candidate([user(text), assistant(planted.answer)], planted.check)

    facts = {"documents": prose.checksum}
    return Kind("long-context", tuple(_FAMILIES), make, compare_near=False, facts=facts)


def _size(text: str) -> int:
    return len(text) + 2  # and an empty line


def _size_in_tokens(folder: Path) -> Callable[[str], int]:
    tokenizer = Tokenizer.open(folder)

    @lru_cache(maxsize=2**16)
    def size(text: str) -> int:
        return len(tokenizer.encode(text + "\n\n"))

    return size


def _contains(*texts: str) -> dict[str, Any]:
    return {"kind": "contains", "texts": list(texts)}


Values = Callable[[Draw], str]


def _single(
    fact: str, questions: Sequence[str], answer: str, subjects: Sequence[str], value: Values
) -> Callable[[Draw], Planted]:
    """One fact about one of several subjects."""

    def made(draw: Draw) -> Planted:
        chosen = draw.some(subjects, draw.between(2, 4))
        values: list[str] = []
        while len(values) < len(chosen):
            if (one := value(draw)) not in values:
                values.append(one)
        said = [fact.format(subject=s, value=v) for s, v in zip(chosen, values, strict=True)]
        filled = {"subject": chosen[0], "value": values[0]}
        return Planted(
            said[:1], said[1:], draw.pick(questions).format(**filled), answer.format(**filled),
            _contains(values[0]),
        )  # fmt: skip

    return made


def _hops(
    facts: Sequence[str],
    questions: Sequence[str],
    answer: str,
    pools: Sequence[Sequence[str]],
) -> Callable[[Draw], Planted]:
    """Facts that lead from the first to the last: {0} to {1}, {1} to {2}, ..."""

    def made(draw: Draw) -> Planted:
        pairs = [draw.some(pool, 2) for pool in pools]
        right, wrong = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for number, pool in enumerate(pools):  # two links of one pool must differ
            while right[number] in right[:number] + wrong[:number]:
                right[number] = draw.pick(pool)
            while wrong[number] in right + wrong[:number]:
                wrong[number] = draw.pick(pool)
        said = draw.shuffled([fact.format(*right) for fact in facts])
        near = [fact.format(*wrong) for fact in facts]
        return Planted(
            said, near, draw.pick(questions).format(*right), answer.format(*right),
            _contains(right[-1]),
        )  # fmt: skip

    return made


def _count(
    fact: str, other: str, question: str, answer: str, subjects: Sequence[str]
) -> Callable[[Draw], Planted]:
    """How many facts of a kind there are."""

    def made(draw: Draw) -> Planted:
        chosen = draw.some(subjects, draw.between(4, 9))
        count = draw.between(2, len(chosen) - 1)
        said = [fact.format(subject) for subject in chosen[:count]]
        near = [other.format(subject) for subject in chosen[count:]]
        check = {"kind": "number", "answer": str(count)}
        return Planted(said, near, question, answer.format(count), check)

    return made


def _all_of(fact: str, other: str, question: str, answer: str) -> Callable[[Draw], Planted]:
    """Which people a fact is true of."""

    def made(draw: Draw) -> Planted:
        chosen = draw.some(_PEOPLE, draw.between(4, 6))
        count = draw.between(2, 3)
        said = [fact.format(person) for person in chosen[:count]]
        near = [other.format(person) for person in chosen[count:]]
        names = ", ".join(chosen[: count - 1]) + f" and {chosen[count - 1]}"
        return Planted(said, near, question, answer.format(names), _contains(*chosen[:count]))

    return made


def _newest(
    first: str, later: str, question: str, answer: str, subjects: Sequence[str], value: Values
) -> Callable[[Draw], Planted]:
    """A value that changes on the way."""

    def made(draw: Draw) -> Planted:
        subject, other = draw.some(subjects, 2)
        values = list(dict.fromkeys(value(draw) for _ in range(12)))[:4]
        changes = draw.between(1, 2)
        said = [first.format(subject=subject, value=values[0])]
        said += [later.format(subject=subject, value=values[1 + n]) for n in range(changes)]
        last = values[changes]
        near = [first.format(subject=other, value=values[3])]
        filled = {"subject": subject, "value": last}
        return Planted(
            said, near, question.format(**filled), answer.format(**filled), _contains(last)
        )

    return made


def _compare(
    fact: str, questions: tuple[str, str], answers: tuple[str, str], subjects: Sequence[str]
) -> Callable[[Draw], Planted]:
    """Which of three has the largest or smallest number."""

    def made(draw: Draw) -> Planted:
        chosen = draw.some(subjects, 3)
        values: list[int] = draw.some(range(12, 99), 3)
        said = [fact.format(s, v) for s, v in zip(chosen, values, strict=True)]
        largest = draw.chance(0.5)
        pick = max if largest else min
        winner = chosen[values.index(pick(values))]
        names = ", ".join(chosen[:2]) + f" and {chosen[2]}"
        number = 0 if largest else 1
        answer = answers[number].format(winner)
        return Planted(said, (), questions[number].format(names), answer, _contains(winner))

    return made


def _absent(fact: str, question: str, subjects: Sequence[str], value: Values) -> Any:
    """What the document does not say."""

    def made(draw: Draw) -> Planted:
        chosen = draw.some(subjects, 4)
        said = [fact.format(subject=subject, value=value(draw)) for subject in chosen[1:]]
        ask = question.format(subject=chosen[0])
        ask += f" If the document does not say, answer '{NOT_STATED}'."
        return Planted(said, (), ask, f"This is {NOT_STATED}.", _contains(NOT_STATED))

    return made


def _number(first: int, last: int) -> Values:
    return lambda draw: str(draw.between(first, last))


def _of(items: Sequence[str]) -> Values:
    return lambda draw: draw.pick(items)


def _code(draw: Draw) -> str:
    return f"{draw.pick('ABCDEFGHKLMNPRST')}{draw.between(100, 999)}-{draw.between(10, 99)}"


_ROOMS = tuple(f"room {number}" for number in range(101, 140))
_BOXES = tuple(f"box {number}" for number in range(11, 60))

_FAMILIES: dict[str, Callable[[Draw], Planted]] = {
    "code": _single(
        "Note for the staff: the door code of the {subject} store is {value}.",
        ("What is the door code of the {subject} store?", "Which code opens the {subject} store?"),
        "The door code of the {subject} store is {value}.", _TEAMS, _code),
    "room": _single(
        "By the way, the {subject} team meets in room {value} this year.",
        ("In which room does the {subject} team meet?", "Where does the {subject} team meet this year?"),
        "The {subject} team meets in room {value}.", _TEAMS, _number(100, 499)),
    "color": _single(
        "The {subject} in the hall was painted {value} last spring.",
        ("What color was the {subject} painted?", "In which color was the {subject} painted last spring?"),
        "The {subject} was painted {value}.", _THINGS, _of(_COLORS)),
    "weight": _single(
        "According to the inventory, the {subject} weighs {value} grams.",
        ("How many grams does the {subject} weigh?", "What does the {subject} weigh according to the inventory?"),
        "The {subject} weighs {value} grams.", _THINGS, _number(210, 4_900)),
    "birthplace": _single(
        "It is little known that {subject} was born in {value}.",
        ("Where was {subject} born?", "In which city was {subject} born?"),
        "{subject} was born in {value}.", _PEOPLE, _of(_CITIES)),
    "extension": _single(
        "To reach {subject} by phone, dial extension {value}.",
        ("What is {subject}'s extension?", "Which extension reaches {subject}?"),
        "{subject}'s extension is {value}.", _PEOPLE, _number(2_000, 8_999)),
    "price": _single(
        "At the auction, the {subject} went for {value} crowns.",
        ("For how many crowns did the {subject} go at the auction?", "What did the {subject} fetch at the auction?"),
        "The {subject} went for {value} crowns.", _THINGS, _number(120, 9_800)),
    "day": _single(
        "From now on, the {subject} office is closed on {value}.",
        ("On which day is the {subject} office closed?", "When is the {subject} office closed from now on?"),
        "The {subject} office is closed on {value}.", _TEAMS, _of(_DAYS)),
    "visit": _single(
        "In the summer, {subject} will visit {value} for the first time.",
        ("Which city will {subject} visit in the summer?", "Where will {subject} go in the summer?"),
        "{subject} will visit {value}.", _PEOPLE, _of(_CITIES)),
    "key": _hops(
        ("The key to the {0} cellar is kept by {1}.", "On weekdays, {1} can be found in {2}."),
        ("In which room can the keeper of the key to the {0} cellar be found on weekdays?",
         "Where on weekdays do I find the person who keeps the key to the {0} cellar?"),
        "{1} keeps the key to the {0} cellar and can be found in {2}.", (_TEAMS, _PEOPLE, _ROOMS)),
    "owner": _hops(
        ("The {0} belongs to {1}.", "{1} lives in {2}."),
        ("In which city does the owner of the {0} live?", "Where does the person live to whom the {0} belongs?"),
        "The {0} belongs to {1}, who lives in {2}.", (_THINGS, _PEOPLE, _CITIES)),
    "teacher": _hops(
        ("{0} learned the craft from {1}.", "{1} came from {2}."),
        ("Where did the teacher of {0} come from?", "{0} learned the craft from somebody. From which city was that person?"),
        "{0} learned from {1}, who came from {2}.", (_PEOPLE, _PEOPLE, _CITIES)),
    "box": _hops(
        ("The {0} was packed into {1}.", "Workers carried {1} to {2}."),
        ("To which room was the {0} carried?", "Where is the {0} now, after the workers carried it?"),
        "The {0} is in {1}, which was carried to {2}.", (_THINGS, _BOXES, _ROOMS)),
    "three-gifts": _hops(
        ("{0} gave the {1} away.", "Whoever got the {1} sold it in {2}.", "The buyer in {2} was {3}."),
        ("Who bought the thing that {0} gave away?", "{0} gave something away that was sold later. Who was the buyer?"),
        "{0} gave away the {1}; it was sold in {2}, and the buyer was {3}.", (_PEOPLE, _THINGS, _CITIES, _PEOPLE)),
    "three-rooms": _hops(
        ("{0} works for the {1} team.", "The {1} team uses {2}.", "The plan of {2} is stored in {3}."),
        ("In which box is the plan of the room that the team of {0} uses?", "{0}'s team uses a room. Where is its plan stored?"),
        "{0} works for the {1} team, which uses {2}; its plan is in {3}.", (_PEOPLE, _TEAMS, _ROOMS, _BOXES)),
    "count-arrivals": _count(
        "A crate with goods from {} arrived in the morning.", "A crate with goods for {} left in the morning.",
        "From how many cities did crates arrive in the morning?", "Crates arrived from {} cities.", _CITIES),
    "count-members": _count(
        "{} has joined the rowing club.", "{} has left the rowing club.",
        "How many people does the document say have joined the rowing club?", "The document names {} people who have joined.", _PEOPLE),
    "count-repairs": _count(
        "The {} needs a repair before it is shown.", "The {} was cleaned and may be shown.",
        "How many objects need a repair before they are shown?", "In the document, {} objects need a repair.", _THINGS),
    "all-keys": _all_of(
        "{} has handed in a key.", "{} has never had a key.",
        "Who has handed in a key? Name all of them.", "These people have handed in a key: {}."),
    "all-witnesses": _all_of(
        "{} saw the comet that night.", "{} slept through that night.",
        "Name everybody who saw the comet.", "The comet was seen by {}."),
    "newest-budget": _newest(
        "At first, the budget of the {subject} team was {value} crowns.",
        "Later, the budget of the {subject} team was changed to {value} crowns.",
        "What is the budget of the {subject} team after all changes in the document?",
        "After all changes, the {subject} team has {value} crowns.", _TEAMS, _number(1_000, 9_900)),
    "newest-place": _newest(
        "For a start, the {subject} stood in {value}.", "After that, the {subject} was moved to {value}.",
        "Where is the {subject} at the end of the document?",
        "In the end, the {subject} is in {value}.", _THINGS, _of(_CITIES)),
    "compare-points": _compare(
        "In the contest, {} reached {} points.",
        ("Who of {} reached the most points in the contest?", "Who of {} reached the fewest points in the contest?"),
        ("{} reached the most points.", "{} reached the fewest points."), _PEOPLE),
    "compare-age": _compare(
        "The {} is about {} years old.",
        ("Which of these is the oldest: {}?", "Which of these is the youngest: {}?"),
        ("The oldest is the {}.", "The youngest is the {}."), _THINGS),
    "absent-code": _absent(
        "Note for the staff: the door code of the {subject} store is {value}.",
        "What is the door code of the {subject} store?", _TEAMS, _code),
    "absent-birthplace": _absent(
        "It is little known that {subject} was born in {value}.",
        "Where was {subject} born?", _PEOPLE, _of(_CITIES)),
}  # fmt: skip
