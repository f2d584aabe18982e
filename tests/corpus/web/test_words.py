from afm_mlx.corpus.web.words import Words, words_of


def test_a_text_holds_the_runs_of_words_that_are_in_it():
    held = Words("one two three four five six")
    assert held.holds(words_of("two three four five")) == 1
    assert held.holds(words_of("two three four five seven")) == 0.5
    assert held.holds(words_of("five six")) == 1
    assert held.holds(words_of("six five")) == 0
    assert held.holds([]) == 0
    assert Words("").holds(["one"]) == 0


def test_covering_is_of_another_texts_runs_of_four():
    held = Words("one two three four five six")
    assert held.covers(Words("one two three four nine").grams) == 0.5
    assert held.covers(Words("too short").grams) == 1


def test_characters_count_as_words_where_words_have_no_spaces():
    assert words_of("\u6e2f\u53e3 port-2 \u0e17") == ["\u6e2f", "\u53e3", "port", "2", "\u0e17"]
