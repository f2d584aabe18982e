import json
import random
import tracemalloc

import numpy as np
import pytest

from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.overlap.lsh import link_near
from afm_mlx.corpus.overlap.minhash import (
    Deduplicator,
    band_keys,
    collision_curve,
    signatures,
)
from afm_mlx.corpus.overlap.prepared import Corpus, Layout
from afm_mlx.corpus.overlap.shingles import (
    PIECE_CHARACTERS,
    normalized,
    shingle_hashes,
    shingle_pieces,
)
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard
from afm_mlx.errors import DataError
from afm_mlx.settings.overlap import Dedup

LAYOUT = Layout(bands=16, rows=8, shingle_words=5, longest_word=256)
DRAW = random.Random(0)
VOCABULARY = ["".join(DRAW.choices("abcdefghijklmnop", k=DRAW.randint(2, 9))) for _ in range(5_000)]


def random_text(draw, words=100):
    return " ".join(draw.choices(VOCABULARY, k=words))


def edited(text, share, draw):
    return " ".join(draw.choice(VOCABULARY) if draw.random() < share else w for w in text.split())


def shingles(text, words=5, longest_word=256):
    found, _ = shingle_hashes([normalized(text)], words=words, longest_word=longest_word)
    return set(found.tolist())


def jaccard(one, other):
    one, other = shingles(one), shingles(other)
    return len(one & other) / len(one | other)


def sign(texts):
    return signatures([normalized(t) for t in texts], hashes=128, words=5, longest_word=256)[0]


def prepare(folder, shards, settings=None):
    folder.mkdir(exist_ok=True)
    prepared, count = [], 0
    for number, texts in enumerate(shards):
        shard = folder / shard_name(number)
        write_shard(shard, (Record(f"d{count + i}", text) for i, text in enumerate(texts)))
        count += len(texts)
        prepared.append(folder / f"{number:05}.signatures")
        Deduplicator(settings or Dedup()).prepare(shard, prepared[-1])
    return prepared


def decide(folder, shards, settings=None):
    """Metrics, and {number of a dropped document: (rule, evidence)}."""
    prepared = prepare(folder, shards, settings)
    metrics = Deduplicator(settings or Dedup()).decide(prepared, folder / "out")
    dropped, start = {}, 0
    for number, texts in enumerate(shards):
        for line in (folder / "out" / f"{number:05}.drops.jsonl").read_text().splitlines():
            found = json.loads(line)
            dropped[start + found["line"]] = (found["rule"], found["evidence"])
        start += len(texts)
    return metrics, dropped


def family(draw, count=400):
    """Texts of which many are edited or equal copies of others."""
    texts = []
    for _ in range(count):
        kind = draw.random()
        if texts and kind < 0.3:
            texts.append(edited(draw.choice(texts), 0.01, draw))
        elif texts and kind < 0.4:
            texts.append(draw.choice(texts).upper())
        else:
            texts.append(random_text(draw, draw.randint(0, 120)))
    return texts


# Shingles


def test_shingles_are_words_in_a_row():
    assert shingles("a b c d e f") > shingles("A  b\nc d e")
    assert len(shingles("a b c d e f")) == 2
    assert shingles("a b c d e").isdisjoint(shingles("e d c b a"))
    assert shingles("ab c d e f").isdisjoint(shingles("a bc d e f"))


def mixed(number):
    """The finalizer of splitmix64, in Python's own integers."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


def polynomial(values, base):
    return sum(value * base**power for power, value in enumerate(values)) % 2**64


def test_hashes_of_shingles_are_those_of_plain_integer_arithmetic():
    words = ["zu", "sein", "或", "oder", "nicht", "zu", "sein"]
    hashes = [mixed(polynomial([ord(c) + 1 for c in w], 0x9E3779B97F4A7C15)) for w in words]
    expected = [mixed(polynomial(hashes[i : i + 5], 0xD1342543DE82EF95)) for i in range(3)]
    found, counts = shingle_hashes([" ".join(words), "", "x"], words=5, longest_word=256)
    assert found.tolist() == expected
    assert counts.tolist() == [3, 0, 0]


def test_neighbors_in_a_batch_do_not_mix():
    texts = ["a b c d e f", "one", "", "g h i j k", "l m n o p q r"]
    together, counts = shingle_hashes(texts, words=5, longest_word=256)
    assert counts.tolist() == [2, 0, 0, 1, 3]
    assert set(together.tolist()) == set().union(*map(shingles, texts))


def test_scripts_without_spaces_are_shingled_by_character():
    assert len(shingles("机器学习模型")) == 2
    assert len(shingles("ภาษาไทยไม่มี")) == 8
    assert len(shingles("한국어 문장은 낱말 사이를 띄어 쓴다")) == 2
    assert (
        jaccard(
            "今日は天気がとても良いですね。散歩に行きましょう",
            "今日は天気がとても良いですね。散歩に行きません",
        )
        > 0.6
    )


def test_runs_without_spaces_are_shingled_by_character():
    code = "".join(random.Random(3).choices("ACGT", k=400))
    assert len(shingles(code)) > 200
    assert len(shingles(code, longest_word=400)) == 0
    assert jaccard(code, code[:399]) > 0.98


@pytest.mark.parametrize("at_the_cut", ["a\n\n\t", "abc", " a ", "\u2003" * 7, " " * 3 + "a"])
def test_long_texts_are_normalized_like_short_ones(at_the_cut):
    text = "Ab \n" * (PIECE_CHARACTERS // 4 - 1) + at_the_cut + " C" * 9 + " " * PIECE_CHARACTERS
    for cut in range(8):
        assert normalized("x" * cut + text) == " ".join(("x" * cut + text).lower().split())


def test_long_texts_in_pieces_have_the_shingles_of_the_whole():
    draw = random.Random(4)
    text = random_text(draw, 2 * PIECE_CHARACTERS // 6) + " " + "x" * 100 + " 语言" * 30
    assert len(text) > PIECE_CHARACTERS
    whole, _ = shingle_hashes([text], words=5, longest_word=256)
    parts = list(shingle_pieces(text, words=5, longest_word=256))
    assert len(parts) > 1
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("text", ["\ud800 \udfff a b c d", "\0" * 50, "👩‍👩‍👧 " * 9, "İ ß ﬁ ǅ a b"])
def test_no_text_is_too_strange(text):
    found, counts = signatures([normalized(text)], hashes=8, words=2, longest_word=20)
    assert found.shape == (1, 8)
    assert counts[0] > 0


# Signatures


def test_equal_hashes_estimate_jaccard_within_binomial_error():
    draw = random.Random(1)
    originals = [random_text(draw) for _ in range(600)]
    copies = [edited(text, draw.choice((0.01, 0.03, 0.1)), draw) for text in originals]
    exact = np.array([jaccard(*pair) for pair in zip(originals, copies, strict=True)])
    errors = (sign(originals) == sign(copies)).mean(axis=1) - exact
    deviation = np.sqrt((exact * (1 - exact)).mean() / 128)
    assert abs(errors.mean()) < 4 * deviation / np.sqrt(600)
    assert np.sqrt((errors**2).mean()) == pytest.approx(deviation, rel=0.15)


def test_candidates_follow_the_curve_within_binomial_error():
    draw = random.Random(2)
    pairs = []
    for share in (0.0, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4):
        texts = [random_text(draw) for _ in range(250)]
        pairs += [(text, edited(text, share, draw)) for text in texts]
    exact = np.array([jaccard(*pair) for pair in pairs])
    theory = 1 - (1 - exact**8) ** 16
    one, other = (band_keys(sign([pair[side] for pair in pairs]), 16) for side in (0, 1))
    found = (one == other).any(axis=0)
    for low, high in ((0, 0.4), (0.4, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01)):
        chosen = (exact >= low) & (exact < high)
        assert chosen.sum() >= 50, (low, high)
        p = theory[chosen]
        # Four standard deviations, and one pair for bins where theory allows next to none.
        assert abs(found[chosen].sum() - p.sum()) <= 4 * np.sqrt((p * (1 - p)).sum()) + 1


def test_collision_curve_is_the_published_formula():
    curve = dict(collision_curve(20, 5))
    # Mining of Massive Datasets, figure 3.8.
    published = {
        0.2: 0.006,
        0.3: 0.047,
        0.4: 0.186,
        0.5: 0.470,
        0.6: 0.802,
        0.7: 0.975,
        0.8: 0.9996,
    }
    for similarity, probability in published.items():
        assert curve[similarity] == pytest.approx(probability, abs=6e-4)
    assert (curve[0.0], curve[1.0]) == (0, 1)


# The global step


def test_the_longest_of_a_group_is_kept(tmp_path):
    text = random_text(random.Random(5))
    _, dropped = decide(tmp_path, [[text], [text + " and three more"], [text + " too"]])
    assert set(dropped) == {0, 2}
    rule, evidence = dropped[0]
    assert rule == "dedup.near"
    assert evidence.endswith(" to d1")
    assert 0.9 < float(evidence.split()[1]) < 1


def test_the_first_of_equally_long_ones_is_kept(tmp_path):
    text = random_text(random.Random(6))
    copies = [text + f" {digit}" for digit in range(5)]
    _, dropped = decide(tmp_path, [copies[:2], copies[2:]])
    assert set(dropped) == {1, 2, 3, 4}


def test_groups_chain_to_one_kept_document(tmp_path):
    words = random.Random(7).choices(VOCABULARY, k=400)
    texts = [" ".join(words[10 * step : 10 * step + 250]) for step in range(15)]
    texts[-1] += " " + "x" * 250
    assert jaccard(texts[0], texts[1]) > 0.9
    assert jaccard(texts[0], texts[-1]) < 0.3
    _, dropped = decide(tmp_path, [texts])
    assert set(dropped) == set(range(14))
    assert all(evidence.endswith(" to d14") for _, evidence in dropped.values())


def test_pairs_under_the_threshold_stay(tmp_path):
    draw = random.Random(8)
    texts = [random_text(draw) for _ in range(100)]
    texts += [edited(text, 0.05, draw) for text in texts]
    metrics, dropped = decide(tmp_path, [texts])
    assert metrics["candidate_pairs"] > metrics["similar_pairs"]
    for number in dropped:
        assert jaccard(texts[number], texts[(number + 100) % 200]) > 0.8 - 4 * 0.035


def test_empty_and_short_documents_match_only_when_equal(tmp_path):
    texts = ["", "", "a", "b", "a", "one two three four", "one two three five", "one two three"]
    _, dropped = decide(tmp_path, [texts])
    assert dropped == {4: ("dedup.exact", "same normalized text as d2")}


def test_unrelated_documents_stay(tmp_path):
    draw = random.Random(9)
    _, dropped = decide(tmp_path, [[random_text(draw, 30) for _ in range(3_000)]])
    assert dropped == {}


def test_near_duplicates_in_any_script_are_found(tmp_path):
    texts = [
        "深度学习模型需要大量的训练数据才能获得良好的性能表现因此数据清洗非常重要",
        "Ёлка, ёжик, самовар стояли на столе возле окна, пока за окном медленно падал снег " * 2,
    ]
    texts += [texts[0] + "。", texts[1] + "!"]
    _, dropped = decide(tmp_path, [texts])
    assert set(dropped) == {0, 1}


def test_the_split_into_shards_changes_nothing(tmp_path):
    texts = family(random.Random(10))
    whole = decide(tmp_path / "whole", [texts])
    assert whole[0]["near_duplicates"] > 30
    assert whole[0]["exact_duplicates"] > 20
    shards = [texts[:7], texts[7:8], [], texts[8:300], texts[300:]]
    assert decide(tmp_path / "parts", shards) == whole


def test_a_repeat_gives_the_same_bytes(tmp_path):
    texts = family(random.Random(11), 100)
    decide(tmp_path / "one", [texts[:60], texts[60:]])
    decide(tmp_path / "two", [texts[:60], texts[60:]])
    for name in ("00000.signatures", "00001.signatures", "out/00000.drops.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_a_killed_run_left_does_no_harm(tmp_path):
    texts = family(random.Random(12), 100)
    whole = decide(tmp_path / "whole", [texts])
    left = tmp_path / "again" / "out" / "working" / "exact"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half a row")
    assert decide(tmp_path / "again", [texts]) == whole
    assert [path.name for path in (tmp_path / "again" / "out").iterdir()] == ["00000.drops.jsonl"]


def test_little_memory_gives_the_same_groups(tmp_path):
    texts = family(random.Random(13), 600)
    corpus = Corpus.open(prepare(tmp_path, [texts[:350], texts[350:]]), LAYOUT)

    def roots(memory_bytes):
        groups = Groups.create(tmp_path, corpus)
        link_near(corpus, groups, tmp_path, threshold=0.8, neighbors=600, memory_bytes=memory_bytes)
        return groups.roots(np.arange(600)).tolist()

    # At 20,000 bytes, 39 rows make a part, and three pairs are compared at once.
    assert roots(20_000) == roots(10**8)


def test_memory_stays_in_its_budget(tmp_path):
    # 64 bands make signatures of 2 kB, so that few documents already exceed the small budget.
    texts = [" ".join(f"{letter}{i // 2}" for letter in "abcdefghijk") for i in range(5_000)]
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    prepared = prepare(tmp_path, [texts[:2_000], texts[2_000:]], Dedup(bands=64))

    def peak(memory_bytes):
        tracemalloc.start()
        try:
            settings = Dedup(bands=64, memory_bytes=memory_bytes)
            metrics = Deduplicator(settings).decide(prepared, tmp_path / "out")
            return metrics, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (metrics, little), (same, much) = peak(2**24), peak(10**9)
    assert metrics == same
    assert metrics["candidate_pairs"] == 2_500
    assert little < 2**24 < much


def test_no_documents_make_no_drops(tmp_path):
    metrics, dropped = decide(tmp_path, [[], []])
    assert (metrics["documents"], metrics["near_duplicate_rate"], dropped) == (0, 0, {})


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_damaged_file_is_named(tmp_path, cut):
    (path,) = prepare(tmp_path, [["a b c d e f"]])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"00000\.signatures is not a whole file of signatures"):
        Deduplicator(Dedup()).decide([path], tmp_path / "out")


def test_files_of_other_settings_are_refused(tmp_path):
    prepared = prepare(tmp_path, [["a b c d e f"]], Dedup(shingle_words=3))
    with pytest.raises(DataError, match=r"prepared with other settings: .*shingle_words = 3"):
        Deduplicator(Dedup()).decide(prepared, tmp_path / "out")
