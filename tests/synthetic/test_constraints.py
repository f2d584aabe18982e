import pytest

from afm_mlx.synthetic.constraints import CHECKERS, holds

CASES = [
    ("at_least_words", {"count": 3}, "one two three", "one two"),
    ("at_most_words", {"count": 2}, "it's well-known", "one two three"),
    ("words_between", {"least": 2, "most": 3}, "one two", "one"),
    ("sentences", {"count": 2}, "One is 3.5 m. Two!", "Only one."),
    ("at_most_sentences", {"count": 1}, "Just this one", "One. Two."),
    ("paragraphs", {"count": 2}, "a\n\nb", "a\nb"),
    ("bullets", {"count": 2}, "- a\n* b", "- a\n-b"),
    ("numbered_list", {"count": 2}, "1. a\n2. b", "1. a\n3. b"),
    ("contains", {"words": ["sea", "old boat"]}, "The old\nboat at Sea.", "The old boat, overseas"),
    ("contains_times", {"word": "sea", "count": 2}, "Sea, sea!", "sea"),
    ("avoids", {"words": ["sea"]}, "overseas", "The SEA."),
    ("avoids_letter", {"letter": "e"}, "Alas", "Else"),
    ("lower_case", {}, "all small: 1", "Not"),
    ("upper_case", {}, "LOUD 1", "Loud"),
    ("mixed_case", {}, "Loud", "LOUD"),
    ("shouted_words", {"count": 2}, "SO very LOUD", "I am A LOUD one"),
    ("no_commas", {}, "fine", "a, b"),
    ("no_digits", {}, "three", "3"),
    ("begins_with", {"phrase": "Dear"}, "Dear you", "my Dear"),
    ("ends_with", {"phrase": "The end."}, "So. The end.\n", "The end. No."),
    ("quoted", {}, '"all of it"', '"a" and "b"'),
    ("title", {}, "# Head\n\ntext", "#Head"),
    ("json_keys", {"keys": ["a", "b"]}, '```json\n{"b": 1, "a": 2}\n```', '{"a": 1}'),
    ("json_list", {"count": 2}, "[1, 2]", '{"a": [1, 2]}'),
    ("one_of", {"choices": ["Yes", "No"]}, "yes.", "perhaps"),
    ("acrostic", {"word": "ab"}, "All\nbears", "All\ncats"),
    ("parts", {"marker": "Part", "count": 2}, "Part 1\nx\nPart 2\ny", "Part 1\nx"),
    ("placeholders", {"count": 2}, "[name], [date]", "[name], [name]"),
    ("postscript", {}, "Hi\nP.S. Bye", "Hi P.S."),
    ("highlighted", {"count": 1}, "a **bold** word", "a * word *"),
    ("question_last", {}, "Is it?", "Is it? Yes."),
    ("no_first_person", {}, "The Roman i", "I say"),
    ("no_list", {}, "a - b", "- a"),
    ("refuses", {}, "I'm sorry, but no.", "Take a spoon and stir."),
    ("answers", {"least": 3}, "Take a spoon.", "I can't help with that at all."),
    ("first_word_repeats", {}, "So it is. So it was.", "So it is. It was."),
]


@pytest.mark.parametrize(("name", "given", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_constraint_tells_good_from_bad(name, given, good, bad):
    assert holds({"name": name, **given}, good)
    assert not holds({"name": name, **given}, bad)


def test_every_constraint_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKERS)


@pytest.mark.parametrize(("name", "given", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_an_empty_answer_keeps_only_what_is_silent_about_content(name, given, good, bad):
    silent = {"avoids", "no_list", "no_first_person", "mixed_case"}
    if name not in silent:
        assert not holds({"name": name, **given}, "")
