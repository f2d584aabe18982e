"""Running a task: every item once, whatever interrupts it."""

import json

import pytest

from afm_mlx.errors import DataError, RunError
from afm_mlx.evaluation.items import (
    Answer,
    Choice,
    Mark,
    Option,
    Passage,
    Question,
    Refusal,
)
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import TOO_LONG, ModelSubject


class Mixed:
    """Choices, a passage and questions; an answer is right where it is the key."""

    name = "mixed"

    def __init__(self, count=4, prompt="Say "):
        self.figures = {"accuracy": "share of right replies"}
        self.count, self.prompt = count, prompt
        self.settings = {"shots": 0}

    def items(self):
        choices = [
            Choice(
                f"c{n}", (Option("It is", " a cat"), Option("It is", " a dog")), n % 2, "choices"
            )
            for n in range(self.count)
        ]
        questions = [
            Question(f"q{n}", f"{self.prompt}{n}", 4, group="questions") for n in range(self.count)
        ]
        return [*choices, Passage("p", "The cat sat on the mat."), *questions]

    def mark(self, item, reply):
        if isinstance(reply, Refusal):
            return {"accuracy": Mark(0.0)}
        if isinstance(item, Choice):
            took = max(range(2), key=lambda option: reply[option].nats)
            return {"accuracy": Mark(float(took == item.right))}
        if isinstance(item, Passage):
            return {"nats": Mark(-reply.nats / reply.tokens, float(reply.tokens))}
        return {"accuracy": Mark(float(reply.text == item.key))}

    def kept(self, item, reply):
        return {"says": item.key}


def test_scores_of_stand_ins_are_what_they_must_be(
    always_a, always_right, never_replies, quiet, tmp_path
):
    right = always_right(lambda question: question.key)
    found = {
        name: run_task(Mixed(), who, tmp_path / name, quiet).scores["accuracy"]
        for name, who in [("a", always_a), ("right", right)]
    }
    assert (found["a"].value, found["a"].n) == (2 / 8, 8)
    assert found["right"].value == 1.0


def test_items_that_were_not_asked_are_counted_and_wrong(never_replies, quiet, tmp_path):
    class Without(Mixed):
        def items(self):
            return [item for item in super().items() if not isinstance(item, Passage)]

    result = run_task(Without(), never_replies, tmp_path / "run", quiet)
    assert result.refused == {"not asked": 8}
    assert (result.scores["accuracy"].value, result.scores["accuracy"].n) == (0.0, 8)


def test_groups_have_scores_of_their_own(always_a, quiet, tmp_path):
    result = run_task(Mixed(), always_a, tmp_path / "run", quiet)
    assert result.groups["choices"]["accuracy"].value == 0.5
    assert result.groups["questions"]["accuracy"].value == 0.0
    assert result.scores["nats"].value == 1.0  # the stand-in gives one nat per character


def test_an_interrupted_run_goes_on_and_gives_the_same(stub, quiet, tmp_path):
    class Gone(Exception):
        pass

    def until_the_third(question):
        if question.key == "q2":
            raise Gone
        return question.key

    whole = run_task(Mixed(), stub(writes=lambda question: question.key), tmp_path / "a", quiet)
    folder = tmp_path / "b"
    with pytest.raises(Gone):
        run_task(Mixed(), stub(writes=until_the_third), folder, quiet)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"key": "q2", "mar')  # cut by a power failure
    later = stub(writes=lambda question: question.key)
    again = run_task(Mixed(), later, folder, quiet)
    assert later.asked == ["q2", "q3"]
    assert (again.scores, again.groups) == (whole.scores, whole.groups)
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(
        item.key for item in Mixed().items()
    )


def test_a_finished_run_asks_nothing_again(stub, quiet, tmp_path):
    who = stub(writes=lambda question: "one\u2028two\x85three\n")  # all of them ends of lines
    first = run_task(Mixed(), who, tmp_path / "run", quiet)
    later = stub()
    assert run_task(Mixed(), later, tmp_path / "run", quiet) == first
    assert later.asked == []


def test_a_folder_belongs_to_one_subject_and_one_set_of_prompts(stub, quiet, tmp_path):
    run_task(Mixed(), stub(), tmp_path / "run", quiet)
    with pytest.raises(RunError, match="its subject differ"):
        run_task(Mixed(), stub(name="other"), tmp_path / "run", quiet)
    with pytest.raises(RunError, match="its prompt_hash differ"):
        run_task(Mixed(prompt="Tell "), stub(), tmp_path / "run", quiet)


def test_an_average_counts_groups_alike_whatever_their_items(stub, quiet, tmp_path):
    task = Mixed()
    task.averages = {"average": "accuracy"}
    task.figures = {"average": "mean of the groups", **task.figures}
    who = stub(writes=lambda question: question.key)
    result = run_task(task, who, tmp_path / "run", quiet, limit=6)
    assert next(iter(result.scores)) == "average"
    shares = [each["accuracy"].value for each in result.groups.values()]
    assert result.scores["average"].value == sum(shares) / 2


def test_a_limit_takes_from_all_groups(stub, quiet, tmp_path):
    who = stub()
    run_task(Mixed(), who, tmp_path / "run", quiet, limit=5)
    assert who.asked == ["c0", "c1", "p", "q0", "q1"]


def test_a_task_without_items_is_refused(stub, quiet, tmp_path):
    class Empty(Mixed):
        def items(self):
            return []

    with pytest.raises(DataError, match="task mixed has no item"):
        run_task(Empty(), stub(), tmp_path / "run", quiet)


def test_a_damaged_line_is_named(stub, quiet, tmp_path):
    run_task(Mixed(), stub(), tmp_path / "run", quiet)
    file = tmp_path / "run" / "samples.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "nonsense", *lines[2:]]) + "\n")
    with pytest.raises(RunError, match=r"samples\.jsonl, line 2: no sample"):
        run_task(Mixed(), stub(), tmp_path / "run", quiet)


def test_a_model_writes_the_answers_that_it_writes_alone(engine):
    questions = [
        Question(f"q{n}", "The cat sat on the mat. " * 4 + word, 12)
        for n, word in enumerate(["What", "The dog", "A house", "A hill", "It is"])
    ]
    found = dict(ModelSubject(engine, "tiny", together=3).answer(questions))
    for place, question in enumerate(questions):
        alone = list(engine.stream(question.prompt, raw=True, max_tokens=12))
        assert found[place] == Answer(
            "".join(chunk.text for chunk in alone), alone[-1].finished, len(alone)
        )


def test_prompts_that_do_not_fit_are_refused_and_the_others_answered(engine):
    questions = [Question("long", "cat " * 4_000, 4), Question("short", "The cat", 4)]
    found = dict(ModelSubject(engine, "tiny").answer(questions))
    assert found[0] == Refusal(TOO_LONG)
    assert found[1].tokens > 0
