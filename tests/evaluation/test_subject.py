"""Who is asked: a model that is held to a form."""

import json

from afm_mlx.evaluation.items import Question, Refusal
from afm_mlx.evaluation.subject import ModelSubject

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["A", "B", "tie"]}, "score": {"enum": [1, 2, 3]}},
    "required": ["verdict", "score"],
    "additionalProperties": False,
}


def test_answers_that_are_held_to_a_schema_have_its_form_and_others_are_free(engine):
    questions = [
        Question("held", "The cat sat. What is it?", 60, schema=SCHEMA),
        Question("free", "The cat sat. What is it?", 60),
    ]
    found = dict(ModelSubject(engine, "tiny").answer(questions))
    verdict = json.loads(found[0].text)
    assert verdict["verdict"] in ("A", "B", "tie")
    assert verdict["score"] in (1, 2, 3)
    assert not found[1].text.startswith("{")


def test_a_form_that_cannot_be_kept_is_refused_with_the_reason(engine):
    questions = [
        Question("short", "The cat", 2, schema=SCHEMA),
        Question("unknown", "The cat", 60, schema={"type": "cat"}),
        Question("kept", "The cat", 60, schema=SCHEMA),
    ]
    found = dict(ModelSubject(engine, "tiny").answer(questions))
    assert "tokens or more, and may have 2 here" in found[0].reason
    assert isinstance(found[1], Refusal)
    assert json.loads(found[2].text)["score"] in (1, 2, 3)
