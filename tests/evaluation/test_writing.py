import itertools
import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.answers import Appending, read_answers
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.evaluation.subject import Drawing, ModelSubject
from afm_mlx.evaluation.writing import write_answers

PROMPTS = [
    Prompt(id=f"p{n}", category="math", prompt=f"What is {n}?", reference=str(n)) for n in range(5)
]


def write(author, path, prompts=PROMPTS, **more):
    with Appending(path, "stub", {}) as file:
        return write_answers(author, prompts, file, max_tokens=9, **more)


def test_each_prompt_is_answered_once_however_often_it_is_begun(stub, tmp_path):
    author = stub(writes=lambda question: f"{question.prompt[-1]['content']} {question.max_tokens}")
    path = tmp_path / "a.jsonl"
    first = write(author, path, PROMPTS[:2])
    second = write(author, path)
    assert (first.written, first.there) == (2, 0)
    assert (second.written, second.there) == (3, 2)
    assert author.asked == [prompt.id for prompt in PROMPTS]
    found = read_answers(path)
    assert [each.answer for each in found.answers.values()] == [f"What is {n}? 9" for n in range(5)]
    assert found.answers["p3"].reference == "3"
    assert found.answers["p3"].category == "math"


def test_what_was_written_stays_where_the_model_fails(stub, tmp_path):
    count = itertools.count()

    def fails(question):
        if next(count) == 3:
            raise RuntimeError("no more")
        return "yes"

    with pytest.raises(RuntimeError):
        write(stub(writes=fails), tmp_path / "a.jsonl")
    assert len(read_answers(tmp_path / "a.jsonl").answers) == 3


def test_prompts_that_cannot_be_asked_are_counted_and_asked_again(stub, tmp_path):
    path = tmp_path / "a.jsonl"
    tally = write(stub(writes=lambda question: None if question.key == "p1" else "yes"), path)
    assert tally.written == 4
    assert tally.refused == {"not asked": 1}
    assert write(stub(writes=lambda question: "now"), path).written == 1


def test_a_changed_prompt_is_not_mixed_with_its_old_answer(stub, tmp_path):
    path = tmp_path / "a.jsonl"
    write(stub(), path)
    changed = [Prompt(id="p1", category="math", prompt="What is one?", reference="")]
    with pytest.raises(DataError, match="another text of prompt 'p1'"):
        write(stub(), path, changed)


def test_the_system_prompt_comes_first(stub, tmp_path):
    author = stub(writes=lambda question: json.dumps(question.prompt))
    write(author, tmp_path / "a.jsonl", PROMPTS[:1], system="Be short.")
    assert json.loads(read_answers(tmp_path / "a.jsonl").answers["p0"].answer) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is 0?"},
    ]


def test_a_model_answers_as_it_does_alone(engine, tmp_path):
    path = tmp_path / "a.jsonl"
    seen = []
    tally = write(ModelSubject(engine, "tiny"), path, status=lambda *done: seen.append(done))
    assert tally.written == 5
    assert seen == [(number, 5) for number in range(1, 6)]
    for prompt in PROMPTS:
        alone = "".join(chunk.text for chunk in engine.stream(prompt.prompt, max_tokens=9))
        assert read_answers(path).answers[prompt.id].answer == alone


def test_a_drawn_answer_follows_from_its_seed(engine, tmp_path):
    said = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.jsonl"
        subject = ModelSubject(engine, "tiny", drawing=Drawing(temperature=1.0, seed=seed))
        write(subject, path)
        answers = read_answers(path).answers
        said.append([answers[prompt.id].answer for prompt in PROMPTS])
    assert said[0] == said[1] != said[2]


def test_facts_name_what_decides_a_drawn_answer_and_nothing_else(engine):
    greedy = ModelSubject(engine, "tiny", drawing=Drawing(seed=3)).facts
    drawn = ModelSubject(engine, "tiny", drawing=Drawing(0.5, seed=3)).facts
    assert "seed" not in greedy
    assert (greedy["temperature"], drawn["temperature"], drawn["seed"]) == (0.0, 0.5, 3)
