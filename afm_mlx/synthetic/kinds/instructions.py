"""Writing tasks with constraints that a program can verify.

The answer is drawn first, from the sentences of `topics.py`, and shaped; the constraints are then
taken from what it is. So every constraint can be kept, and the answer keeps all of them. Families
are kinds of constraints: a held-out kind stands in no task of training.
"""

from __future__ import annotations

from collections.abc import Sequence

from afm_mlx.settings.synthetic import SynthInstructions
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.kinds.instruction_families import SHAPES, Draft, goes_with
from afm_mlx.synthetic.kinds.topics import TOPICS
from afm_mlx.synthetic.records import Candidate, Kind, assistant, user

_TASKS = (
    "Write about {topic}.", "Tell me something about {topic}.",
    "Write a short text about {topic} for a school magazine.",
    "Explain to a curious visitor what is worth knowing about {topic}.",
    "I need a few lines about {topic} for a leaflet.", "Write a post for a blog about {topic}.",
    "Compose a text on the topic of {topic}.", "What should people know about {topic}?",
    "Draft a paragraph on {topic} for a newsletter.", "Say something interesting about {topic}.",
    "Prepare a short talk about {topic}.", "Give me some facts about {topic}.",
)  # fmt: skip
_HEADS = (
    "Please keep to these rules:", "Requirements:", "Mind the following:", "The text has to obey this:",
    "Conditions:",
)  # fmt: skip


def instructions_kind(settings: SynthInstructions) -> Kind:
    """The generator of writing tasks."""

    def make(draw: Draw, family: str, families: Sequence[str]) -> Candidate | str:
        topic = draw.pick(list(TOPICS))
        lines = draw.some(TOPICS[topic], draw.between(2, 6))
        draft = Draft(topic, lines, " ".join(lines))
        wanted = draw.between(1, settings.most_constraints)
        names = [family, *draw.shuffled([name for name in families if name != family])]
        # The form of the text comes first, then what is put into it, then what is read off it.
        chosen: list[str] = []
        for name in names:
            if len(chosen) < wanted and all(goes_with(name, other) for other in chosen):
                chosen.append(name)
        for name in sorted(chosen, key=lambda name: SHAPES[name][0]):
            shaped = SHAPES[name][1](draw, draft)
            if shaped is None:
                return "a constraint does not fit"
            draft = shaped
        text = _asked(draw, draw.pick(_TASKS).format(topic=topic), draw.shuffled(draft.asks))
        check = {"kind": "constraints", "list": list(draft.constraints)}
        return Candidate([user(text), assistant(draft.text)], check)

    return Kind("instructions", tuple(SHAPES), make)


def _asked(draw: Draw, task: str, asks: Sequence[str]) -> str:
    """The task with its constraints: in sentences after or before it, or as a list."""
    form = draw.below(4)
    if form == 0:
        return "\n".join([f"{task} {draw.pick(_HEADS)}", *(f"- {ask}" for ask in asks)])
    if form == 1:
        return " ".join([*asks, task])
    return " ".join([task, *asks])
