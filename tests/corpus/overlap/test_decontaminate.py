"""What is found of benchmarks in documents: the rule, and plain sets of n-grams beside it."""

import json
import random
from collections import Counter

import numpy as np
import pytest

from afm_mlx.corpus.overlap.decontaminate import NgramIndex
from afm_mlx.corpus.overlap.ngrams import ngram_hashes, split_words
from afm_mlx.settings.decontamination import Decontaminate

from .decontaminating import HANZI, PEARLS, decide, hosted, lines, settings_of, words

# Two words with one hash, found by a generalized birthday search.
TWINS = "mxpquqrnpmrsmrowmsomqmmmqmmmmmpm", "ymmmmmmmmnmmsmmmwmmompqnmnsuxtms"


def test_a_document_with_an_item_goes_however_it_is_cased_and_punctuated(tmp_path):
    copies = [
        PEARLS,
        PEARLS.upper(),
        PEARLS.replace(";", " --").replace("?", "..."),
        ", ".join(PEARLS.split()),
        PEARLS.replace(" ", "\n"),
    ]
    texts = [hosted(copy, i) for i, copy in enumerate(copies)] + [hosted("no pearls here")]
    assert lines(tmp_path, texts, settings_of(tmp_path, {"math": [PEARLS]})) == [0, 1, 2, 3, 4]


def test_marks_within_words_may_be_deleted_or_spaced_in_a_copy(tmp_path):
    item = "It's 3.5 miles to the farmer's well-known field, isn't it?"
    deleted, spaced = "Its 35 miles to the farmers wellknown field isnt it", item.replace("'", " ")
    texts = [hosted(item), hosted(deleted), hosted(spaced)]
    assert lines(tmp_path, texts, settings_of(tmp_path, {"math": [item]})) == [0, 1, 2]


def test_n_words_in_a_row_are_enough_and_one_fewer_is_not(tmp_path):
    settings = settings_of(tmp_path, {"math": [words(40)]})
    texts = [hosted(words(13, start=5)), hosted(words(12, start=5)), words(7) + " x " + words(9)]
    assert lines(tmp_path, texts, settings) == [0]


def test_words_of_two_documents_do_not_make_an_ngram(tmp_path):
    settings = settings_of(tmp_path, {"math": [words(13)]})
    assert lines(tmp_path, [words(6), words(7, start=6)], settings) == []
    assert lines(tmp_path, [words(13)], settings) == [0]


def test_words_of_two_items_do_not_make_an_ngram(tmp_path):
    settings = settings_of(tmp_path, {"math": [words(13), words(13, start=13)]})
    assert lines(tmp_path, [words(12, start=1) + " w13"], settings) == []


def test_n_is_the_percentile_of_item_words_within_its_bounds(tmp_path):
    def length(sizes, **more):
        items = [words(size, letter=chr(97 + i % 26)) for i, size in enumerate(sizes)]
        return NgramIndex(settings_of(tmp_path, {"math": items}, **more)).lengths

    assert length([30] * 50) == [[13]]
    assert length([10] * 50) == [[10]]
    assert length([5] * 50) == [[8]]
    assert length([5] * 50, n_min=4) == [[5]]
    assert length([9] + [30] * 9, length_percentile=0) == [[9]]
    assert length([9] + [30] * 9, length_percentile=50) == [[13]]
    sizes = list(range(1, 102))  # the 5th percentile of 1 to 101 is 6
    assert length(sizes, n_min=4) == [[6]]


def test_all_lengths_from_4_to_13_is_the_rule_of_the_report(tmp_path):
    settings = settings_of(tmp_path, {"math": [words(20)]}, lengths="all", n_min=4)
    assert NgramIndex(settings).lengths == [list(range(4, 14))]
    texts = [hosted(words(4, start=9)), hosted(words(3, start=9)), words(3) + " x " + words(4)]
    assert lines(tmp_path, texts, settings) == [0, 2]
    assert len(NgramIndex(settings)) == sum(20 - n + 1 for n in range(4, 14))


def test_a_short_item_is_found_whole_only_and_a_shorter_one_is_counted(tmp_path):
    items = [
        "alpha beta gamma delta epsilon",
        "one two three",
        *(words(20, chr(97 + i)) for i in range(18)),
    ]
    settings = settings_of(tmp_path, {"math": items}, n_min=13)
    texts = [
        hosted("alpha beta gamma delta epsilon"),
        hosted("alpha beta gamma delta"),
        hosted("one two three"),
    ]
    metrics, dropped = decide(tmp_path, [texts], settings)
    assert [line for _, line in dropped] == [0]
    assert metrics["benchmarks"]["math"]["too_short"] == 1
    assert metrics["benchmarks"]["math"]["items_found"] == 1


def test_a_question_is_found_without_its_choices_unless_it_is_a_phrase(tmp_path):
    long = {"question": words(9, "q"), "choices": [words(8, "c"), words(8, "d")], "answer": 0}
    short = {"question": words(7, "p"), "choices": [words(8, "e"), words(8, "f")], "answer": 0}
    texts = [
        hosted(words(9, "q")),
        hosted(words(7, "p")),
        hosted(f"{words(7, 'p')}\n{words(8, 'e')}"),
    ]
    benchmarks = {"quiz": [long, short]}
    assert lines(tmp_path, texts, settings_of(tmp_path, benchmarks)) == [0, 2]
    settings = settings_of(tmp_path, benchmarks, shortest_question=7)
    assert lines(tmp_path, texts, settings) == [0, 1, 2]


def test_lettered_choices_and_gsm8k_answers_without_calculator_notes_are_found(tmp_path):
    quiz = {"question": "Which is it?", "choices": [words(3, f"c{i}x") for i in range(4)]}
    answer = "Anna has 4 + 7 = <<4+7=11>>11 pearls now and 2 * 11 = <<2*11=22>>22 eyes in all"
    settings = settings_of(
        tmp_path, {"quiz": [quiz], "math": [{"question": "How many?", "answer": answer}]}
    )
    letters = "\n".join(f"{a}) {c}" for a, c in zip("ABCD", quiz["choices"], strict=True))
    noted = "Anna has 4 + 7 = 11 pearls now and 2 * 11 = 22 eyes in all"
    assert lines(tmp_path, [hosted(letters), hosted(noted)], settings) == [0, 1]


def test_scripts_without_spaces_need_twice_as_many_characters(tmp_path):
    settings = settings_of(tmp_path, {"zh": [HANZI]})
    texts = [
        "\u3042" + HANZI[10:36] + "\u3042",
        "\u3042" + HANZI[10:35] + "\u3042",
        "\u3002".join(HANZI[i : i + 5] for i in range(0, 60, 5)),  # full stops between them
    ]
    assert lines(tmp_path, texts, settings) == [0, 2]
    settings = settings_of(tmp_path, {"zh": [HANZI]}, spaceless_factor=1)
    assert lines(tmp_path, texts[1:], settings) == [0, 1]


# Common usage.


def test_an_ngram_in_common_documents_is_ignored_and_one_fewer_is_not(tmp_path):
    settings = settings_of(
        tmp_path, {"math": [PEARLS]}, common_documents=5, common_least=1, common_fraction=1
    )
    four = [hosted(PEARLS, i) for i in range(4)]
    assert len(lines(tmp_path, four, settings)) == 4
    metrics, dropped = decide(tmp_path, [[*four, hosted(PEARLS, 4)]], settings)
    assert dropped == {}
    assert metrics["common_from"] == 5
    assert metrics["common_ngrams"] == 3  # 15 words hold three 13-grams


def test_a_document_counts_once_however_often_it_holds_an_ngram(tmp_path):
    settings = settings_of(tmp_path, {"math": [PEARLS]}, common_documents=2)
    assert lines(tmp_path, [hosted(f"{PEARLS} {PEARLS} {PEARLS}"), "other words"], settings) == [0]


def test_a_document_with_a_common_and_an_uncommon_ngram_goes_for_the_uncommon_one(tmp_path):
    settings = settings_of(tmp_path, {"math": [words(14)]}, common_documents=3)
    texts = [hosted(words(13), i) for i in range(3)] + [hosted(words(14))]
    metrics, dropped = decide(tmp_path, [texts], settings)
    assert list(dropped) == [(0, 3)]
    assert words(13, start=1) in dropped[0, 3]
    assert metrics["benchmarks"]["math"]["documents"] == 1


def test_1000_documents_make_common_usage_whatever_the_corpus():
    assert {Decontaminate().common_from(count) for count in (0, 10, 5_000, 10**9)} == {1_000}


@pytest.mark.parametrize(
    ("documents", "common"),
    [(0, 10), (1, 10), (10_000, 10), (10_001, 11), (500_000, 500), (10**6, 1_000), (10**9, 1_000)],
)
def test_a_share_of_a_small_corpus_may_be_common_usage(documents, common):
    assert Decontaminate(common_fraction=0.001).common_from(documents) == common


def test_a_benchmark_in_many_templates_is_found_in_a_small_corpus(tmp_path):
    # A share of the corpus as common usage kept all of these.
    settings = settings_of(tmp_path, {"math": [PEARLS]})
    texts = [hosted(PEARLS, i) for i in range(30)] + [words(20, f"d{i}x") for i in range(70)]
    assert lines(tmp_path, texts, settings) == list(range(30))


def test_documents_of_all_shards_count_together(tmp_path):
    settings = settings_of(
        tmp_path, {"math": [PEARLS]}, common_documents=3, common_least=1, common_fraction=1
    )
    shards = [[hosted(PEARLS, 0)], ["other"], [hosted(PEARLS, 1)]]
    _, dropped = decide(tmp_path, shards, settings)
    assert list(dropped) == [(0, 0), (2, 0)]
    _, dropped = decide(tmp_path, [*shards, [hosted(PEARLS, 2)]], settings)
    assert dropped == {}


# Evidence and metrics.


def test_evidence_is_the_rarest_ngram_its_item_and_its_count(tmp_path):
    settings = settings_of(tmp_path, {"a": [words(13, "a")], "b": ["x y z " * 5, words(13, "b")]})
    texts = [hosted(f"{words(13, 'a')} {words(13, 'b')}"), hosted(words(13, "a"))]
    _, dropped = decide(tmp_path, [texts], settings)
    assert dropped == {
        (0, 0): f"b, item 2: '{words(13, 'b')}' (documents with it: 1; common from 1,000)",
        (0, 1): f"a, item 1: '{words(13, 'a')}' (documents with it: 2; common from 1,000)",
    }


def test_long_evidence_keeps_its_count(tmp_path):
    item = " ".join(f"{'x' * 30}{i}" for i in range(13))
    _, dropped = decide(tmp_path, [[item]], settings_of(tmp_path, {"math": [item]}))
    (evidence,) = dropped.values()
    assert len(evidence) == 200
    assert evidence.endswith("' (documents with it: 1; common from 1,000)")


def test_metrics_tell_what_was_found_of_each_benchmark(tmp_path):
    benchmarks = {"a": [words(13, "a"), words(14, "b")], "b": [words(13, "a"), "too short"]}
    settings = settings_of(tmp_path, benchmarks, n_min=13)
    metrics, _ = decide(tmp_path, [[words(13, "a"), "clean"], ["clean too"]], settings)
    assert metrics == {
        "documents": 3,
        "dropped": 1,
        "dropped_fraction": 1 / 3,
        "common_from": 1_000,
        "common_ngrams": 0,
        "hash_collisions": 0,
        "benchmarks": {
            "a": {"items": 2, "too_short": 0, "ngram_words": [13], "ngrams": 3, "documents": 1,
                  "items_found": 1, "found_fraction": 0.5},
            "b": {"items": 2, "too_short": 1, "ngram_words": [13], "ngrams": 1, "documents": 1,
                  "items_found": 1, "found_fraction": 0.5},
        },
    }  # fmt: skip


def test_words_with_equal_hashes_are_told_apart(tmp_path):
    one, other = (f"{words(6)} {twin} {words(6, 'v')}" for twin in TWINS)
    hashes = [ngram_hashes(split_words([text]).hashes, 13) for text in (one, other)]
    assert np.array_equal(*hashes)
    metrics, dropped = decide(tmp_path, [[other, one]], settings_of(tmp_path, {"math": [one]}))
    assert list(dropped) == [(0, 1)]
    assert metrics["hash_collisions"] == 1


# Against plain sets.


def plain_words(text):
    """Words of a text of spaced words and of Chinese characters."""
    found = []
    for token in text.split():
        found += list(token) if token[0] >= "\u4e00" else [token]
    return found


def plain_rule(items, documents, settings):
    """Numbers of the documents that go, by sets of tuples; and too short items."""

    def factor(found):
        spaceless = sum(word[0] >= "\u4e00" for word in found)
        return settings.spaceless_factor if 2 * spaceless > len(found) else 1

    forms = []
    for item in items:
        whole = plain_words("\n".join(item.values()))
        question = [(plain_words(item["question"]), True)] if "answer" in item else []
        forms.append([*question, (whole, False)])
    lengths = list(range(settings.n_min, settings.n_max + 1))
    if settings.lengths == "percentile":
        sizes = [len(form[-1][0]) // factor(form[-1][0]) for form in forms]
        n = int(np.percentile(sizes, settings.length_percentile))
        lengths = [min(max(n, settings.n_min), settings.n_max)]
    ngrams, too_short = set(), 0
    for form in forms:
        mine = set()
        for found, partial in form:
            by = factor(found)
            least = settings.shortest_question if partial else settings.shortest_item
            if least * by <= len(found) < lengths[0] * by:
                mine.add(tuple(found))
            for n in lengths:
                mine |= {tuple(found[i : i + n * by]) for i in range(len(found) - n * by + 1)}
        too_short += not mine
        ngrams |= mine
    sizes = {len(ngram) for ngram in ngrams}
    held = []
    for document in documents:
        found = plain_words(document)
        runs = {tuple(found[i : i + n]) for n in sizes for i in range(len(found) - n + 1)}
        held.append(runs & ngrams)
    counts = Counter(ngram for some in held for ngram in some)
    common = settings.common_from(len(documents))
    gone = [i for i, some in enumerate(held) if any(counts[ngram] < common for ngram in some)]
    return gone, len(ngrams), too_short, sum(count >= common for count in counts.values())


@pytest.mark.parametrize("seed", range(40))
def test_the_index_finds_what_plain_sets_of_word_ngrams_find(tmp_path, seed):
    draw = random.Random(seed)
    latin, hanzi = [f"w{i}" for i in range(6)], [HANZI[:4], HANZI[2:3], HANZI[5:7]]

    def text(most):
        tokens = draw.choice((latin, latin, hanzi, latin + hanzi))
        return " ".join(draw.choices(tokens, k=draw.randint(1, most)))

    items = [
        {"question": text(12)} | ({"answer": text(8)} if draw.random() < 0.5 else {})
        for _ in range(draw.randint(1, 30))
    ]
    n_min = draw.randint(2, 6)
    settings = settings_of(
        tmp_path,
        {"math": items},
        lengths=draw.choice(("percentile", "all")),
        length_percentile=draw.choice((0, 5, 50, 100)),
        n_min=n_min,
        n_max=n_min + draw.randint(0, 5),
        shortest_item=draw.randint(1, 4),
        shortest_question=draw.randint(2, 8),
        spaceless_factor=draw.randint(1, 3),
        common_documents=draw.randint(2, 20),
        common_least=2,
        common_fraction=draw.choice((0.05, 1)),
    )
    documents = [text(25) for _ in range(60)]
    shards = [documents[:25], documents[25:26], documents[26:]]
    metrics, dropped = decide(tmp_path, shards, settings)
    starts = [0, 25, 26]
    gone, ngrams, too_short, common = plain_rule(items, documents, settings)
    assert sorted(starts[shard] + line for shard, line in dropped) == gone
    assert metrics["benchmarks"]["math"]["ngrams"] == ngrams
    assert metrics["benchmarks"]["math"]["too_short"] == too_short
    assert metrics["common_ngrams"] == common


def test_a_benchmark_longer_than_one_reading_is_indexed_whole(tmp_path):
    items = [f"{words(12, f'i{number}x')} end" for number in range(1_203)]
    settings = settings_of(tmp_path, {"math": [*items, items[0]]})
    index = NgramIndex(settings)
    assert len(index) == 1_203
    assert [index[entry].text for entry in range(len(index))] == items
    assert [index[entry].item for entry in (0, 499, 500, 1_202)] == [1, 500, 501, 1_203]


# Real benchmarks.


def test_items_of_real_benchmarks_are_found_and_python_s_own_texts_are_not(tmp_path, real_data):
    paths = {
        "gsm8k": {"path": str(real_data / "gsm8k" / "test.jsonl")},
        "ifeval": {"path": str(real_data / "ifeval")},
    }
    settings = Decontaminate.model_validate({"benchmarks": paths})
    rows = (real_data / "gsm8k" / "test.jsonl").read_text().splitlines()[::100]
    planted = [hosted(json.loads(row)["question"].upper(), i) for i, row in enumerate(rows)]
    clean = [json.__doc__, random.__doc__, "A text of our own about nothing in particular."]
    assert lines(tmp_path, planted + clean, settings) == list(range(len(planted)))
