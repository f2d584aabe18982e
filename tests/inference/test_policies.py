"""Policy files: what can be wrong with them, and on which line."""

import re
from pathlib import Path

import pytest

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.inference.policies import read_policy
from afm_mlx.settings.policy import Action, Policy, Questions, Rules

GOOD = """\
[messages]
default = "No."
[features.default]
default = "refuse"
[rules.illegal.theft]
both = [
  "steal a car",
  "shoplift",
]
samples = ["how to shoplift"]
passes = ["lift the shop's mood"]
"""


@pytest.fixture
def read(tmp_path):
    def run(text: str):
        (tmp_path / "p.toml").write_text(text)
        return read_policy(tmp_path / "p.toml")

    return run


def test_a_good_file_is_read(read):
    policy = read(GOOD).policy
    assert policy.action("chat", "illegal.theft") is Action.REFUSE
    assert policy.message("illegal.theft") == "No."


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ('"shoplift",', '"shop*",', "line 8: pattern 'shop*': '*' has no bound", "write {0,20}"),
        (
            "theft]",
            "thefts]",
            "line 5: no subcategory is called 'illegal.thefts'",
            "'illegal.theft'",
        ),
        (
            "rules.illegal",
            "rules.ilegal",
            "line 5: no subcategory",
            "did you mean 'illegal.theft'?",
        ),
        ("samples", "sampels", "line 10: no setting is called", "did you mean 'samples'?"),
        ('["how to shoplift"]', '"x"', "line 10: rules.illegal.theft.samples is 'x'", ""),
        ('"refuse"', '"refuze"', "line 4: features.default.default is 'refuze'", "'refuse'?"),
        (
            'default = "refuse"',
            'cibyer = "flag"',
            "line 4: no category is called 'cibyer'",
            "'cyber'",
        ),
        ('default = "No."', "default = 3", "line 2: messages.default is int", ""),
        ("[messages]", "[mesages]", "line 1: no setting is called 'mesages'", "'messages'"),
        ("[messages]", "[messages", "line 1, column", ""),
        (
            'default = "refuse"',
            'illegal = "flag"\nillegal.drugs = "refuse"',
            "line 5: 'illegal.drugs' is given twice",
            'it needs quotes: "illegal.drugs"',
        ),
        ('"steal a car",', "3,", "line 6: rules.illegal.theft.both.0 is int", ""),
    ],
)
def test_a_mistake_is_said_with_its_line(read, old, new, said, hint):
    with pytest.raises(RecipeError) as caught:
        read(GOOD.replace(old, new, 1))
    assert said in str(caught.value)
    assert hint in caught.value.hint


CLASSIFIER = """\
[classifier]
model = "m"
questions = { illegal = "Illegal?" }
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model = "m"\n', "", "line 1: 'classifier.model' is missing"),
        ("questions", "question", "line 3: no setting is called 'classifier.question'"),
        ("{ illegal", "{ default", "line 3: no category is called 'default'"),
        ('"m"\n', '"m"\nthresholds = { illegal = 2.0 }\n', "line 3: classifier.thresholds.illegal"),
        ('"m"\n', '"m"\nprompt = "{text}?"\n', "must have {question} in it"),
        ('"m"\n', '"m"\nyes = ""\n', "line 3: classifier.yes is ''"),
        ('"m"\n', '"m"\nchecks = ["inputs"]\n', "expected one of input, output"),
    ],
)
def test_a_mistake_about_the_classifier_is_said_with_its_line(read, old, new, said):
    assert read(CLASSIFIER).policy.classifier.threshold("illegal") == 0.9
    with pytest.raises(RecipeError) as caught:
        read(CLASSIFIER.replace(old, new, 1))
    assert said in str(caught.value)


def test_two_problems_are_spelled_out_and_the_rest_counted(read):
    bad = (
        GOOD.replace("shoplift", "a*", 1).replace("steal a car", "(b").replace("messages", "x" * 3)
    )
    with pytest.raises(RecipeError) as caught:
        read(bad.replace("xxx", "messages") + 'output = ["c+"]\n')
    first, second = str(caught.value).splitlines()
    assert ", line 7: pattern '(b'" in first
    assert second.endswith("(and 1 more)")


def test_categories_of_ones_own_come_from_a_taxonomy_of_ones_own(read, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[house.gossip]\npolicy = "refuse"\nrequests = ["Gossip."]\noffer = "talk"\nbenign = []\n'
    )
    text = GOOD.replace("illegal.theft", "house.gossip")
    with pytest.raises(RecipeError, match=r"no subcategory is called 'house\.gossip'"):
        read(text)
    assert read('taxonomy = "mine.toml"\n' + text).policy.subcategories.keys() == {"house.gossip"}
    with pytest.raises(DataError, match="there is no file"):
        read('taxonomy = "yours.toml"\n' + text)


def test_trials_say_what_is_not_as_stated(read):
    text = GOOD.replace("how to shoplift", "how to knit").replace(
        "lift the shop's mood", "Shoplift?"
    )
    sample, passing = read(text).trials()
    assert (sample.as_stated, sample.caught_by) == (False, ())
    assert (passing.as_stated, passing.caught_by) == (False, ("illegal.theft",))


def test_the_more_special_word_counts_and_the_features_own_before_the_default(read):
    policy = read(
        GOOD + "[features.notes]\ndefault = 'allow'\nillegal = 'flag'\n'illegal.theft' = 'refuse'\n"
    ).policy
    assert policy.action("notes", "illegal.theft") is Action.REFUSE
    assert policy.action("notes", "illegal.drugs") is Action.FLAG
    assert policy.action("notes", "cyber.malware") is Action.ALLOW
    assert policy.action("chat", "cyber.malware") is Action.REFUSE


def test_the_policies_of_the_documentation_are_as_they_say(read):
    page = (Path(__file__).parents[2] / "docs" / "guardrails.md").read_text()
    rules, classifier = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    trials = list(read(rules).trials())
    assert len(trials) == 2
    assert all(trial.as_stated for trial in trials)
    assert read(classifier).policy.classifier.threshold("self_harm.injury") == 0.7
    for section in (Policy, Questions, Rules):
        for key in section.model_fields:
            assert f"`{key}`" in page or f"[{key}" in page, key
