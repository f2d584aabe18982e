"""Profanity by a rated list, on harmless stand-ins."""

import pickle

import pytest
from pydantic import ValidationError

from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import DataError
from afm_mlx.settings.filters import Words

pytest.importorskip("ahocorasick", reason="pip install 'afm-mlx[corpus]'")

from afm_mlx.corpus.filters.words import WordFilter, read_words

RATED = """text,canonical_form_1,category_1,severity_rating,severity_description
darn,darn,other,1,Mild
Blast it,blast,other,1.6,Strong
blast,blast,other,1.2,Mild
don't ask,ask,other,2,Strong
frak,frak,other,2.6,Severe
\u574f\u86cb,x,other,3,Severe
"""


@pytest.fixture
def rated(tmp_path):
    path = tmp_path / "rated.csv"
    path.write_text(RATED, encoding="utf-8")
    return str(path)


def counts(path, text):
    """Hits of each level, where nothing is dropped."""
    settings = Words(path=path, most_mild=1_000, most_strong=1_000, most_severe=1_000)
    answer = WordFilter(settings)(Record("a", text))
    assert isinstance(answer, Record)
    return answer.facts.get("profanity", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Darn! DARN; (darn) _ \uff44\uff41\uff52\uff4e", {"mild": 4}),
        ("darned redarn darn_it darn2 endarn", {}),
        ("blast", {"mild": 1}),
        ("blast   it, Blast\nit", {"strong": 2}),  # the longest of those that overlap
        ("Don\u2019t ask", {"strong": 1}),
        ("\u4f60\u8fd9\u4e2a\u574f\u86cb\u4eba", {"severe": 1}),  # no spaces, no boundaries
        ("frak", {"severe": 1}),
        ("fr ak", {}),
    ],
)
def test_words_are_found_at_their_boundaries(rated, text, expected):
    assert counts(rated, text) == expected


@pytest.mark.parametrize(
    ("word", "most", "allowed"),
    [("darn", "most_mild", 20), ("blast it", "most_strong", 5), ("frak", "most_severe", 1)],
)
def test_each_severity_has_its_threshold_per_thousand_words(rated, word, most, allowed):
    def text(hits):
        size = len(word.split())
        return " ".join(["word"] * (1_000 - hits * size) + [word] * hits)

    keep = WordFilter(Words(path=rated))
    assert isinstance(keep(Record("a", text(allowed))), Record)
    dropped = keep(Record("a", text(allowed + 1)))
    assert isinstance(dropped, Drop)
    assert dropped.rule == "words.profanity"
    level = most.removeprefix("most_")
    assert dropped.evidence == (
        f"{level} {allowed + 1:.1f} per 1,000 words, most {allowed}: {word}"
    )


def test_a_short_document_counts_as_long_as_the_least(rated):
    keep = WordFilter(Words(path=rated, most_mild=5))
    assert isinstance(keep(Record("a", "darn it")), Record)  # 1 of 200, not of 2
    assert isinstance(keep(Record("a", "darn, darn")), Drop)


def test_a_document_without_hits_is_untouched(rated):
    record = Record("a", "nothing here", facts={"x": 1})
    assert WordFilter(Words(path=rated))(record) is record


def test_a_plain_list_has_one_severity(tmp_path):
    path = tmp_path / "en"
    path.write_text("\ufeffdarn\n\nblast it\n", encoding="utf-8")
    assert read_words(Words(path=str(path))) == {"darn": 1.0, "blast it": 1.0}
    severe = read_words(Words(path=str(path), unrated_severity=3))
    assert severe == {"darn": 3.0, "blast it": 3.0}


def test_a_word_rated_twice_has_the_higher_severity(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("word,severity\ndarn,1\nDARN,3\nfrak,\n", encoding="utf-8")
    assert read_words(Words(path=str(path))) == {"darn": 3.0, "frak": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a word list"),
        (b"\xff\xfe\x00", "cannot be read as a word list"),
        (b"\n \n", "has no words"),
        (b"text,severity\n", "has no words"),
        (b"text,severity\nfine,1\ndarn,high\n", "line 3: severity is 'high'"),
    ],
)
def test_a_bad_list_is_a_users_mistake(tmp_path, content, message):
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        WordFilter(Words(path=str(path)))
    assert caught.value.hint


def test_severe_words_are_rated_above_strong_ones(rated):
    with pytest.raises(ValidationError, match=r"severe_from \(1\) must be at least strong_from"):
        Words(path=rated, severe_from=1)


def test_no_text_raises_and_a_pickled_filter_answers_the_same(rated, strange_texts):
    keep = WordFilter(Words(path=rated))
    again = pickle.loads(pickle.dumps(keep))
    for text in [*strange_texts, "frak\x00darn \ud800frak"]:
        answer = keep(Record("a", text))
        assert answer == again(Record("a", text))
        if isinstance(answer, Drop):
            answer.to_json().encode()
