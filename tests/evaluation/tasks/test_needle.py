"""Facts hidden in long texts: where they stand, how long texts are, what is found."""

import re

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Mark, Refusal
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import TOO_LONG, ModelSubject
from afm_mlx.evaluation.tasks.needle import NOISE, Needle

KINDS = ("single", "multi_key", "multi_value", "multi_query", "tracking", "common_words")


PROSE = """\
The boat of harbor {} left in the morning with a crew of four. Nobody on the pier could say where it
went. In the evening it came back. It had lost its mast, and all of them laughed."""


def count_words(text):
    return len(text.split())


def probes(**settings):
    return Needle(
        **{"lengths": (512, 2_048), "text": NOISE, "count_tokens": count_words, **settings}
    )


def text_of(item):
    (message,) = item.prompt
    return message["content"]


def test_scores_of_stand_ins_are_what_they_must_be(
    always_a, always_right, stub, never_replies, quiet, tmp_path
):
    task = probes()
    found = {
        name: run_task(task, who, tmp_path / name, quiet)
        for name, who in {
            "a": always_a,
            "right": always_right(lambda item: ", ".join(item.facts["wanted"])),
            "half": stub(writes=lambda item: " ".join(item.facts["wanted"][::2])),
            "empty": stub(),
            "never": never_replies,
        }.items()
    }
    for name in ("a", "empty", "never"):
        assert {score.value for score in found[name].scores.values()} == {0.0}
    assert {score.value for score in found["right"].scores.values()} == {1.0}
    half = found["half"].scores
    assert (half["single"].value, half["multi_query"].value, half["tracking"].value) == (
        1.0, 0.5, pytest.approx(0.6),
    )  # fmt: skip
    assert list(found["right"].groups) == ["512", "2048"]
    assert set(found["right"].scores) == set(task.figures)
    assert found["right"].groups["512"]["depth_25"].n == 1


def test_items_are_the_same_in_every_run_and_others_with_another_seed():
    assert probes().items() == probes().items()
    assert not {text_of(item) for item in probes().items()} & {
        text_of(item) for item in probes(seed=1).items()
    }


@pytest.mark.parametrize("own_text", [False, True])
def test_prompts_and_answers_fill_their_length(own_text, tmp_path):
    file = tmp_path / "prose.txt"
    file.write_text("\n\n".join(PROSE.format(number) for number in range(40)))
    text = str(file) if own_text else NOISE
    task = probes(text=text, lengths=(512, 2_048, 8_192))
    assert own_text == ("The boat" in text_of(task.items()[0]))
    for item in task.items():
        size = count_words(text_of(item)) + task.max_tokens
        assert item.facts["length"] * 0.75 <= size <= item.facts["length"], item.key


def test_four_characters_are_a_token_where_there_is_no_tokenizer():
    task = Needle(lengths=(4_096,), text=NOISE)
    assert all(3_000 < len(text_of(item)) / 4 < 4_096 for item in task.items())
    assert task.settings["tokens"] == "of four characters"
    assert probes().settings["tokens"] == "of the subject"


def test_a_single_needle_stands_at_its_depth():
    task = probes(kinds=("single",), lengths=(2_048,), depths=(0.0, 0.3, 1.0), items_each=3)
    for item in task.items():
        _, text, question = text_of(item).split("\n\n")
        (value,) = item.facts["wanted"]
        assert text.index(value) / len(text) == pytest.approx(item.facts["depth"], abs=0.03)
        assert value not in question


@pytest.mark.parametrize("kind", KINDS[:4])
def test_what_is_wanted_belongs_to_the_keys_that_are_asked_for(kind):
    for item in probes(kinds=(kind,)).items():
        _, text, question = text_of(item).split("\n\n")
        needles = re.findall(r"magic numbers for (\S+) is: (\d+)\.", text)
        wanted = {value for key, value in needles if key in question}
        assert wanted == set(item.facts["wanted"])
        assert len(wanted) == (4 if kind in ("multi_value", "multi_query") else 1)
        assert len(needles) == (1 if kind == "single" else 4)


def test_variables_get_their_value_from_the_one_before():
    for item in probes(kinds=("tracking",)).items():
        _, text, question = text_of(item).split("\n\n")
        values = {}
        for name, other in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", text):
            values[name] = values.get(other, other)
        (asked,) = set(values.values())
        assert asked in question
        assert sorted(values) == sorted(item.facts["wanted"])


def test_the_common_words_come_most_often():
    for item in probes(kinds=("common_words",)).items():
        _, text, _ = text_of(item).split("\n\n")
        words = re.findall(r"\d+\. (\S+)", text)
        times = sorted(((words.count(word), word) for word in set(words)), reverse=True)
        assert {word for _, word in times[:10]} == set(item.facts["wanted"])
        assert times[9][0] > times[10][0]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("It is 1234567.", 1.0),
        ("1,234,567", 1.0),
        ("**1234567**", 1.0),
        ("12345678", 0.0),
        ("01234567", 0.0),
        ("I do not know.", 0.0),
    ],
)
def test_a_number_is_found_whole_and_with_separators(answer, share):
    task = probes(kinds=("single",))
    item = task.items()[0]
    item.facts["wanted"][:] = ["1234567"]
    assert task.mark(item, Answer(answer))["recall"] == Mark(share)


def test_prompts_longer_than_the_context_are_refused_and_count_as_not_found(engine):
    """The tiny model reads 512 tokens, and its tokenizer makes several of a word."""
    task = probes(kinds=("single",), items_each=1, lengths=(512,))
    (item,) = task.items()
    ((_, reply),) = ModelSubject(engine, "tiny").answer([item])
    assert reply == Refusal(TOO_LONG)
    assert task.mark(item, reply)["recall"] == Mark(0.0)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DataError, match="no probe is called 'sigle'") as caught:
        probes(kinds=("sigle",)).items()
    assert "multi_key" in caught.value.hint
    with pytest.raises(DataError, match="tokens are left for a text"):
        probes(lengths=(256,)).items()
    with pytest.raises(DataError, match="tokens are left for a list"):
        probes(lengths=(256,), kinds=("common_words",)).items()
