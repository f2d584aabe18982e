"""IFEval: our verdicts are the official ones.

`ifeval_verdicts.json` holds what the official checkers said of the responses of
`ifeval_responses.py`, to the instructions of `SAMPLES` and of all 541 prompts: a digit for each
response, 0 for not followed, 1 for followed loosely, 3 for both. They are the classes of
google-research/instruction_following_eval as they stand in if-verifiable 0.1.2, with NLTK 3.10.4
and langdetect 1.0.9, whose seed was 0. Two instructions count `#` and `!`: there the package draws
another letter, and the verdicts are those of the newest official code, which counts them.
"""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from afm_mlx.errors import DataError
from afm_mlx.evaluation.items import Answer, Refusal
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.tasks.ifeval.instructions import (
    KINDS,
    follows,
    follows_loosely,
    loose_variants,
)
from afm_mlx.evaluation.tasks.ifeval.task import IFEval
from tests.evaluation.tasks.ifeval_responses import SAMPLES, responses

VERDICTS = json.loads((Path(__file__).parent / "ifeval_verdicts.json").read_text())

TWO = {
    "key": 1,
    "prompt": "Say yes, in capital letters.",
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
    "kwargs": [{}, {"keywords": ["yes"]}],
}


def ours(kind, parameters):
    return "".join(
        str(2 * follows(kind, text, parameters) + follows_loosely(kind, text, parameters))
        for text in responses(kind, parameters)
    )


@pytest.fixture
def prompts(real_data):
    file = real_data / "ifeval" / "input_data.jsonl"
    if not file.exists():
        pytest.skip("no IFEval in the folder of real data")
    return IFEval(file).items()


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_on_samples_are_the_official_ones(kind):
    found = [ours(one, parameters) for one, parameters in SAMPLES if one == kind]
    assert found == VERDICTS[kind]["samples"]
    assert all("3" in digits and "0" in digits for digits in found)


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_on_the_real_prompts_are_the_official_ones(kind, prompts):
    found = {
        f"{item.key}.{place}": ours(kind, parameters)
        for item in prompts
        for place, (one, parameters) in enumerate(item.facts["instructions"])
        if one == kind
    }
    assert found == VERDICTS[kind]["prompts"]


def test_verdicts_are_of_all_instructions_and_each_has_some_that_follow_and_some_that_do_not():
    digits = [text for kind in VERDICTS.values() for text in kind["prompts"].values()]
    assert len(digits) == 834
    keys = {key.split(".")[0] for kind in VERDICTS.values() for key in kind["prompts"]}
    assert len(keys) == 541
    assert all("3" in text and "0" in text for text in digits)
    assert 2 * sum(map(len, digits)) > 3 * 541 * 2


@pytest.fixture
def official(monkeypatch):
    """Function: the official code's verdicts, where a package with it and NLTK's data are here."""
    for package in ("nltk", "langdetect", "absl"):
        pytest.importorskip(package, reason=f"the official checkers need {package}")
    import langdetect
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        pytest.skip("no punkt_tab of NLTK: nltk.download('punkt_tab')")
    # The package asks for `datasets`, to fetch the prompts.
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    sys.modules["datasets"].load_dataset = None
    registry = pytest.importorskip(
        "if_verifiable.ifeval.instructions_registry", reason="pip install --no-deps if-verifiable"
    )
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 0)

    def verdicts(kind, parameters):
        checker = registry.INSTRUCTION_DICT[kind](kind)
        checker.build_description(**parameters)
        if kind == "keywords:letter_frequency":  # see above
            checker._letter = parameters["letter"].lower()

        def holds(text):
            return bool(text.strip() and checker.check_following(text))

        return "".join(
            str(2 * holds(text) + any(map(holds, loose_variants(text))))
            for text in responses(kind, parameters)
        )

    return verdicts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_official_code_says_so_of_samples(official):
    found = [official(kind, parameters) for kind, parameters in SAMPLES]
    assert found == [ours(kind, parameters) for kind, parameters in SAMPLES]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_official_code_says_so_of_all_prompts(official, prompts):
    for item in prompts:
        for kind, parameters in item.facts["instructions"]:
            assert official(kind, parameters) == ours(kind, parameters), (item.key, kind)


def test_variants_lose_first_line_last_line_both_and_asterisks():
    assert loose_variants("Sure:\n*a*\nBye") == [
        "Sure:\n*a*\nBye",
        "Sure:\na\nBye",
        "*a*\nBye",
        "a\nBye",
        "Sure:\n*a*",
        "Sure:\na",
        "*a*",
        "a",
    ]


def test_an_empty_response_follows_nothing():
    for kind, parameters in SAMPLES:
        for text in ("", " \n"):
            assert not follows(kind, text, parameters)
            assert not follows_loosely(kind, text, parameters)


def test_instructions_of_a_prompt_weigh_as_many_as_they_are(data):
    one = {**TWO, "key": 2, "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    task = IFEval(data(TWO, one))
    marks = [task.mark(item, Answer("Say it, then: yes.")) for item in task.items()]
    assert {name: (mark.value, mark.weight) for name, mark in marks[0].items()} == {
        "prompt_strict": (0.0, 1.0),
        "instruction_strict": (0.5, 2.0),
        "prompt_loose": (0.0, 1.0),
        "instruction_loose": (0.5, 2.0),
    }
    assert list(marks[0]) == list(task.figures)
    assert marks[1]["instruction_strict"].weight == 1.0


def test_a_frame_counts_in_strict_and_not_in_loose(data):
    task = IFEval(data(TWO))
    (item,) = task.items()
    marks = task.mark(item, Answer("Sure, here it is:\nYES"))
    assert (marks["prompt_strict"].value, marks["prompt_loose"].value) == (0.0, 1.0)
    assert task.kept(item, Answer("Sure, here it is:\nYES")) == {
        "instructions": TWO["instruction_id_list"],
        "strict": [False, True],
        "loose": [True, True],
    }


def test_prompts_are_turns_of_a_chat_or_texts(data):
    assert IFEval(data(TWO)).items()[0].prompt == ({"role": "user", "content": TWO["prompt"]},)
    assert IFEval(data(TWO), chat=False).items()[0].prompt == TWO["prompt"]


def test_scores_of_stand_ins_are_what_they_must_be(
    always_a, always_right, never_replies, quiet, tmp_path, data
):
    quoted = {**TWO, "key": 2, "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    task = IFEval(data(TWO, quoted))
    right = always_right(lambda question: '"yes"')
    found = {
        name: run_task(task, who, tmp_path / name, quiet)
        for name, who in [("a", always_a), ("right", right), ("none", never_replies)]
    }
    values = {
        name: [score.value for score in result.scores.values()] for name, result in found.items()
    }
    assert values["a"] == [0.0, pytest.approx(1 / 3), 0.0, pytest.approx(1 / 3)]  # "A": no comma
    assert values["right"] == [1.0, 1.0, 1.0, 1.0]
    assert values["none"] == [0.0, 0.0, 0.0, 0.0]
    assert found["none"].refused == {"not asked": 2}


def test_a_refusal_is_marked_like_an_empty_answer(data):
    task = IFEval(data(TWO))
    (item,) = task.items()
    assert task.mark(item, Refusal("too long")) == task.mark(item, Answer(""))


def test_empty_cells_and_whole_numbers_as_floats_are_read(data):
    row = {
        "key": 3,
        "prompt": "Say it.",
        "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
        "kwargs": [
            {"first_word": "it", "nth_paragraph": 1.0, "num_paragraphs": 1.0, "relation": None}
        ],
    }
    task = IFEval(data(row))
    (item,) = task.items()
    assert task.mark(item, Answer("It is."))["prompt_strict"].value == 1.0


def kwargs(kind, **parameters):
    return {"instruction_id_list": [kind], "kwargs": [parameters]}


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        ({"prompt": None}, "'prompt' is no text but None", ""),
        ({"prompt": " "}, "'prompt' is empty", ""),
        ({"kwargs": [{}]}, "2 instruction_id_list, 1 kwargs", "each instruction needs its table"),
        ({"kwargs": None}, "2 instruction_id_list, no list of kwargs", ""),
        ({"instruction_id_list": [], "kwargs": []}, "no instruction", ""),
        (kwargs("punctuation:no_coma"), "no instruction is called 'punctuation:no_coma'",
         "punctuation:no_comma"),
        (kwargs("keywords:existence"), "keywords:existence lacks 'keywords'", "it needs keywords"),
        (kwargs("keywords:existence", keywords="yes"), "'keywords' is 'yes', not a list of texts",
         ""),
        (kwargs("keywords:existence", keywords=["(a"]), "not a regular expression: missing", ""),
        (kwargs("punctuation:no_comma", words=2), "punctuation:no_comma has no 'words'",
         "it needs none"),
        (kwargs("detectable_format:number_bullet_lists", num_bullets=2.5),
         "'num_bullets' is 2.5, not a whole number from 0 on", ""),
        (kwargs("length_constraints:number_words", relation="at most", num_words=9),
         "'relation' is 'at most', not 'less than' or 'at least'", ""),
        (kwargs("keywords:letter_frequency", letter="ab", let_relation="at least", let_frequency=1),
         "'letter' is 'ab', not one letter", ""),
        (kwargs("length_constraints:nth_paragraph_first_word", num_paragraphs=1, nth_paragraph=0,
                first_word="a"), "'nth_paragraph' is 0, not a whole number from 1 on", ""),
        ({"key": 0}, "key 0 is there twice", ""),
    ],
)  # fmt: skip
def test_a_mistake_in_the_data_is_named_with_its_line(wrong, message, hint, data):
    task = IFEval(data({**TWO, "key": 0}, {**TWO, **wrong}))
    with pytest.raises(DataError) as caught:
        task.items()
    assert "rows.jsonl, line 2: " in str(caught.value)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["key", "prompt", "instruction_id_list", "kwargs"])
def test_a_missing_column_is_named(name, data):
    row = {field: value for field, value in TWO.items() if field != name}
    with pytest.raises(DataError, match=f"line 1: no '{name}'"):
        IFEval(data(row)).items()


def test_a_missing_package_is_told_before_a_model_is_asked(data, monkeypatch):
    from afm_mlx.evaluation.tasks.ifeval import task

    monkeypatch.setattr(task, "find_spec", lambda name: None)
    row = {**TWO, **kwargs("language:response_language", language="de")}
    with pytest.raises(DataError, match="needs the package langdetect_rs") as caught:
        IFEval(data(row)).items()
    assert caught.value.hint == "pip install 'afm-mlx[ifeval]'"
    assert len(IFEval(data(TWO)).items()) == 1


def test_data_of_a_folder_is_read(data, tmp_path):
    shutil.copy(data(TWO), tmp_path / "again.jsonl")
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.move(tmp_path / "again.jsonl", folder)
    assert len(IFEval(folder).items()) == 1
