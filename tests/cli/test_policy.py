"""`afm policy`."""

import json

POLICY = """\
[rules.illegal.theft]
both = ["shoplift"]
samples = ["how to shoplift"]
passes = ["lift the mood of the shop"]
[features.chat]
illegal = "flag"
"""


def test_the_built_in_policy_is_as_stated(afm):
    answer = afm("policy", "check")
    assert (answer.code, answer.err) == (0, "")
    head, *rows, last = answer.out.splitlines()
    assert head.split() == ["subcategory", "action", "patterns", "caught", "passed"]
    assert len(rows) == 51
    assert last == "204 of 204 samples are as stated"


def test_what_is_shown_can_be_checked_again(afm, tmp_path):
    (tmp_path / "mine.toml").write_text(afm("policy", "show").out)
    assert afm("policy", "check", "mine.toml").code == 0


def test_a_table_has_the_actions_of_a_feature(afm, tmp_path):
    (tmp_path / "p.toml").write_text(POLICY)
    row = ["illegal.theft", "flag", "1", "1/1", "1/1"]
    assert afm("policy", "check", "p.toml").out.splitlines()[1].split() == row
    other = afm("policy", "check", "p.toml", "--feature", "tools").out.splitlines()[1]
    assert other.split()[1] == "refuse"


def test_what_is_not_as_stated_is_said_and_ends_with_2(afm, tmp_path):
    text = POLICY.replace("how to shoplift", "how to knit")
    (tmp_path / "p.toml").write_text(text.replace("lift the mood", "shoplift"))
    answer = afm("policy", "check", "p.toml")
    assert answer.code == 2
    assert answer.out.splitlines()[-1] == "0 of 2 samples are as stated"
    assert answer.err.splitlines() == [
        "error: illegal.theft does not catch its sample 'how to knit'",
        "error: illegal.theft would catch what must pass: 'shoplift of the shop'",
    ]


def test_results_as_json(afm, tmp_path):
    (tmp_path / "p.toml").write_text(POLICY.replace("how to shoplift", "how to knit"))
    answer = afm("policy", "check", "p.toml", "--json")
    found = json.loads(answer.out)
    assert answer.code == 2
    assert found["subcategories"][0]["caught"] == 0
    assert found["wrong"] == [
        {"subcategory": "illegal.theft", "text": "how to knit", "caught_by": []}
    ]


def test_a_bad_pattern_is_two_lines_with_its_place(refused, tmp_path):
    (tmp_path / "p.toml").write_text(POLICY.replace('"shoplift"', '"shop.*"'))
    assert refused("policy", "check", "p.toml") == (
        "error: p.toml, line 2: pattern 'shop.*': '*' has no bound\nhint: write {0,20}"
    )


def test_a_file_that_is_not_there_is_said(refused):
    assert "cannot read policy no.toml: no such file" in refused("policy", "check", "no.toml")
