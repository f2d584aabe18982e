"""The quality classifier, on synthetic texts and on blocks of real pages."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from afm_mlx.corpus.filters.hashing import hashed_features
from afm_mlx.corpus.filters.quality import (
    QualityFilter,
    QualityModel,
    auc,
    calibrate,
    measure,
    train_classifier,
)
from afm_mlx.corpus.record import Drop, Record
from afm_mlx.errors import DataError
from afm_mlx.settings.quality import Quality

GOOD_WORDS = "the enzyme binds its substrate because the energy of reaction falls"
BAD_WORDS = "buy cheap click here subscribe now free offer login share tweet"
GOOD, BAD = GOOD_WORDS.split(), BAD_WORDS.split()
HASHES = [122970, 550273, 585077, 994265, 1028799]
HOSTILE = [
    "",
    "\0",
    "\ud800 lone",
    "a" * 3_000_000,
    " \n\t",
    "\u0130stanbul \U0001f600",
    "\u4e2d\u6587",
]


def texts(words, count, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice([*words, "and", "a", "of"], 12)) for _ in range(count)]


def graded(count=300):
    good = [(text, 1.0) for text in texts(GOOD, count, 1)]
    return good + [(text, 0.0) for text in texts(BAD, count, 2)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("quality") / "model.npz"
    return path, train_classifier(graded(), path, Quality(hash_bits=14))


def entries(text, **kwargs):
    shape = {"hash_bits": 20, "ngrams": 1, "max_chars": 1000} | kwargs
    features = hashed_features([text], **shape)
    return dict(zip(features.columns.tolist(), features.values.tolist(), strict=True))


def test_features_are_words_and_punctuation_without_case():
    assert entries("Good Text") == entries("good   text\n") != entries("good texts")
    assert len(entries("a b c")) == 3
    assert len(entries("a b c", ngrams=2)) == 5
    assert len(entries("a b c", ngrams=5)) == 6
    assert len(entries("home | about |")) == 3
    assert entries("a b", ngrams=2) != entries("b a", ngrams=2)


def test_a_row_has_length_one_and_repeated_words_count_by_their_logarithm():
    values = entries("yes yes yes no").values()
    assert sum(value**2 for value in values) == pytest.approx(1)
    assert max(values) / min(values) == pytest.approx(1 + np.log(3))


def test_the_hash_never_changes():
    # Weights in existing files stand at these places.
    features = hashed_features(["Hello, w\u00f6rld"], hash_bits=20, ngrams=2, max_chars=99)
    assert features.columns.tolist() == HASHES


def test_han_and_thai_are_hashed_by_character():
    assert len(entries("\u4e2d\u6587")) == 2
    assert len(entries("\u0e01\u0e02\u0e03")) == 3


def test_no_feature_reaches_from_one_text_into_the_next():
    shape = {"hash_bits": 20, "ngrams": 3, "max_chars": 100}
    together = hashed_features(["one two", "", "three", *HOSTILE], **shape)
    for row, text in enumerate(["one two", "", "three", *HOSTILE]):
        alone = hashed_features([text], **shape)
        part = slice(together.starts[row], together.starts[row + 1])
        assert together.columns[part].tolist() == alone.columns.tolist()
        assert together.values[part].tolist() == alone.values.tolist()


def test_a_classifier_tells_two_kinds_of_text_apart(trained):
    path, metrics = trained
    assert metrics["auc"] > 0.99
    assert metrics["precision"] > 0.95
    assert metrics["calibration_error"] < 0.2
    assert metrics["num_trained"] + metrics["num_held_out"] == 600
    scores = QualityModel.open(path).scores([*texts(GOOD, 5, 8), *texts(BAD, 5, 9)])
    assert scores[:5].min() > 0.5 > scores[5:].max()


def test_training_twice_gives_the_same_bytes(trained, tmp_path):
    train_classifier(iter(graded()), tmp_path / "again.npz", Quality(hash_bits=14))
    assert (tmp_path / "again.npz").read_bytes() == trained[0].read_bytes()
    train_classifier(graded(), tmp_path / "other.npz", Quality(hash_bits=14, seed=1))
    assert (tmp_path / "other.npz").read_bytes() != trained[0].read_bytes()


def test_a_score_does_not_depend_on_the_texts_beside_it(trained):
    model = QualityModel.open(trained[0])
    many = [text for text, _ in graded(50)] + HOSTILE
    assert model.scores(many).tolist() == [float(model.scores([text])[0]) for text in many]


def test_texts_of_a_group_are_held_out_together(tmp_path):
    # A site's name on each of its texts gives the grade away, but only of known sites.
    draw = np.random.default_rng(0)
    leaky = [(f"site{site} {draw.integers(9)}", float(site % 2), f"s{site}") for site in range(200)]
    settings = Quality(hash_bits=14, held_out_fraction=0.5)
    apart = train_classifier(leaky * 3, tmp_path / "a.npz", settings)
    assert apart["auc"] < 0.7


def test_the_threshold_keeps_the_wished_share(trained):
    model = QualityModel.open(trained[0])
    settings = Quality(hash_bits=14)
    assert model.threshold(1.0) == 0
    assert model.threshold(0.25) > model.threshold(0.75)
    assert trained[1]["threshold"] == model.threshold(settings.keep_share)


def test_calibration_moves_the_threshold_to_a_share_of_the_corpus(trained, tmp_path):
    corpus = texts(GOOD + BAD, 400, 3)
    calibrate(trained[0], corpus, tmp_path / "calibrated.npz")
    model = QualityModel.open(tmp_path / "calibrated.npz")
    kept = (model.scores(corpus) >= model.threshold(0.4)).mean()
    assert kept == pytest.approx(0.4, abs=0.02)
    with pytest.raises(DataError, match="no texts"):
        calibrate(trained[0], [], tmp_path / "none.npz")


def test_the_filter_scores_or_drops_with_the_score_as_evidence(trained):
    step = pickle.loads(pickle.dumps(QualityFilter(Quality(model=str(trained[0]), threshold=0.5))))
    good = step(Record("1", texts(GOOD, 1, 5)[0], "s", facts={"kept": 1}))
    assert isinstance(good, Record)
    assert good.facts["quality"] >= 0.5
    assert good.facts["kept"] == 1
    bad = step(Record("2", texts(BAD, 1, 5)[0], "s"))
    assert isinstance(bad, Drop)
    assert bad.rule == "quality.low"
    assert re.fullmatch(r"score 0\.\d{6}, threshold 0\.500000", bad.evidence)


def test_the_filter_takes_any_text(trained):
    step = QualityFilter(Quality(model=str(trained[0]), threshold=0.0))
    for text in HOSTILE:
        assert 0 <= step(Record("1", text)).facts["quality"] <= 1


def test_measures_agree_with_arithmetic():
    scores, good = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    assert auc(scores, good) == pytest.approx(3.5 / 4)
    found = measure(scores, good.astype(float), threshold=0.4, good_from=0.5)
    assert found["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["recall"] == 1
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.4 + 0.1) / 4)


def test_soft_grades_are_learned_as_they_are(tmp_path):
    soft = [(text, 0.8) for text in texts(GOOD, 300, 1)] + [(t, 0.3) for t in texts(BAD, 300, 2)]
    train_classifier(soft, tmp_path / "soft.npz", Quality(hash_bits=14, epochs=20))
    scores = QualityModel.open(tmp_path / "soft.npz").scores(texts(GOOD, 50, 8))
    assert scores.mean() == pytest.approx(0.8, abs=0.08)


def test_wrong_grades_are_errors_that_name_them(tmp_path):
    with pytest.raises(DataError, match="grade 4 of text 2 is not from 0 to 1"):
        train_classifier([("a", 1.0), ("b", 4.0)], tmp_path / "m.npz", Quality())
    with pytest.raises(DataError, match="not from 0 to 1"):
        train_classifier([("a", float("nan"))], tmp_path / "m.npz", Quality())
    for few in ([], [("a", 1.0)] * 40):
        with pytest.raises(DataError, match="not both good"):
            train_classifier(few, tmp_path / "m.npz", Quality())
    assert not (tmp_path / "m.npz").exists()


def test_damaged_files_are_errors(trained, tmp_path):
    whole = trained[0].read_bytes()
    path = tmp_path / "damaged.npz"
    for data in (b"", b"text", whole[: len(whole) // 2], pickle.dumps([1])):
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            QualityModel.open(path)
    with np.load(trained[0]) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"bias": arrays["bias"] + 1})
    with pytest.raises(DataError, match="damaged"):
        QualityModel.open(path)
    newer = json.loads(str(arrays["about"])) | {"version": 99}
    np.savez(path, **arrays | {"about": np.array(json.dumps(newer))})
    with pytest.raises(DataError, match="version 99"):
        QualityModel.open(path)
    with pytest.raises(DataError, match="no classifier"):
        QualityModel.open(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="has no classifier"):
        QualityFilter(Quality())


def test_scoring_is_fast_enough_to_run_on_every_document(trained):
    model = QualityModel.open(trained[0])
    many = [f"{text}. " * 20 for text in texts(GOOD + BAD, 300, 4)]
    started = time.process_time()
    model.scores(many)
    # It does 15 to 20 million characters in a second of one core; a loop over words, about one.
    assert sum(map(len, many)) / (time.process_time() - started) > 2e6


class _Blocks(HTMLParser):
    """Texts of a page, cut at block elements."""

    BLOCKS = (
        "p",
        "div",
        "td",
        "li",
        "h1",
        "h2",
        "h3",
        "h4",
        "pre",
        "section",
        "article",
        "ul",
        "tr",
        "body",
    )
    HIDDEN = ("script", "style", "noscript", "head")

    def __init__(self, page):
        super().__init__()
        self.found, self.parts, self.hidden = [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.HIDDEN
        self._end(tag)

    def handle_endtag(self, tag):
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))
        self._end(tag)

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)

    def _end(self, tag):
        if tag in self.BLOCKS:
            text = " ".join("".join(self.parts).split())
            self.parts = []
            if text:
                self.found.append(text)


def test_blocks_of_real_pages_are_told_from_their_menus(real_data, tmp_path):
    gold = json.loads((real_data / "extraction" / "ground-truth.json").read_text())
    blocks = []
    for name in sorted(gold)[:40]:
        page = gzip.decompress((real_data / "extraction" / "html" / f"{name}.html.gz").read_bytes())
        body = " ".join(re.findall(r"\w+", gold[name]["articleBody"].lower()))
        for text in _Blocks(page.decode("utf-8", "replace")).found:
            words = " ".join(re.findall(r"\w+", text.lower()))
            if words:
                blocks.append((text, float(f" {words} " in f" {body} "), name))
    metrics = train_classifier(blocks, tmp_path / "model.npz", Quality(held_out_fraction=0.3))
    assert metrics["num_held_out"] > 300
    assert metrics["auc"] > 0.75
    assert metrics["calibration_error"] < 0.15
    assert metrics["precision"] > 1.3 * metrics["good_share"]
