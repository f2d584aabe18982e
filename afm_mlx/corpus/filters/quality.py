"""A fast classifier of quality: logistic regression on hashed words and runs of words.

It learns from graded texts, whoever graded them (`grades.py`), and is small enough to run on every
document: weights are one table, hashing and scoring are NumPy over many texts at once. A model
file is an `.npz` with the table, the settings that decide features, and a checksum; it holds no
code, and gives the same scores everywhere, to six digits.

Source of the method: a prompted model grades a sample, a small classifier learns from the grades
(arXiv:2407.21075). The features are ours.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from afm_mlx.corpus.filters.hashing import Features, hashed_features
from afm_mlx.corpus.record import Drop, Record, drop
from afm_mlx.errors import DataError
from afm_mlx.settings.quality import Quality

GradedText = tuple[str, float] | tuple[str, float, str]
"""A text, its grade from 0 to 1, and a group: texts of one site are held out together."""

RULE = "quality.low"

# Raised when the same text would give other features, or the file has other fields.
FORMAT_VERSION = 1
# Characters hashed at once: the arrays of this many stay in a core's cache, and 2**20 take a third
# more time. Ours.
_BATCH_CHARS = 2**16
# Quantiles of scores that are kept in a model: a share is met to a thousandth. Ours.
_QUANTILES = 1_001


@dataclass(frozen=True)
class QualityModel:
    """A trained classifier."""

    weights: NDArray[np.float32]
    """One for each hash."""
    bias: float
    quantiles: NDArray[np.float64]
    """Scores of a sample at evenly spaced ranks, lowest first: what a share of it scores."""
    facts: dict[str, Any]
    """Settings of the training, metrics, versions; ready for JSON."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a model file.

        Raises:
            DataError: it is missing, damaged, or not a model of this version.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                weights, quantiles = file["weights"], file["quantiles"]
                bias, about = float(file["bias"]), str(file["about"])
            facts = json.loads(about)
            version, checksum = facts.pop("version"), facts.pop("sha256")
            bits = int(facts["settings"]["hash_bits"])
            if version != FORMAT_VERSION:
                raise DataError(
                    f"{path} is a classifier of version {version}, not {FORMAT_VERSION}",
                    hint="train it again",
                )
            model = cls(weights, bias, quantiles, facts)
            if model._checksum() != checksum or weights.shape != (2**bits,):
                raise ValueError("checksum")
        except FileNotFoundError:
            raise DataError(
                f"there is no classifier {path}", hint="train one from graded texts first"
            ) from None
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            raise DataError(
                f"{path} is damaged, or is no classifier", hint="copy it again, or train it again"
            ) from None
        return model

    def save(self, path: Path) -> None:
        """Write the model file; the same model gives the same bytes."""
        facts = self.facts | {"version": FORMAT_VERSION, "sha256": self._checksum()}
        about = np.array(json.dumps(facts, sort_keys=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                weights=self.weights,
                bias=np.array(self.bias),
                quantiles=self.quantiles,
                about=about,
            )
        part.replace(path)

    def scores(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """How good each text is, 0 to 1, rounded to six digits; fastest with many at once."""
        settings = self.facts["settings"]
        names = ("hash_bits", "ngrams", "max_chars")
        shape = {name: int(settings[name]) for name in names}
        parts: list[NDArray[np.float64]] = [np.zeros(0)]
        for batch in _batches(texts, shape["max_chars"]):
            parts.append(_sigmoid(hashed_features(batch, **shape).dot(self.weights) + self.bias))
        return np.concatenate(parts).round(6)

    def threshold(self, keep_share: float) -> float:
        """Score that this share of the sample reaches; 0 for all of it."""
        if keep_share >= 1:
            return 0.0
        ranks = np.linspace(0, 1, len(self.quantiles))
        return round(float(np.interp(1 - keep_share, ranks, self.quantiles)), 6)

    def _checksum(self) -> str:
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for array, kind in ((self.weights, "<f4"), (self.quantiles, "<f8")):
            digest.update(array.astype(kind).tobytes())
        digest.update(np.array(self.bias, "<f8").tobytes())
        return digest.hexdigest()


class QualityFilter:
    """Adds the fact `quality`, and drops what scores below the threshold."""

    def __init__(self, settings: Quality) -> None:
        """Open the classifier.

        Raises:
            DataError: no classifier is named, or it cannot be read.
        """
        if not settings.model:
            raise DataError(
                "quality filtering has no classifier", hint="set quality.model to a trained one"
            )
        self.model = QualityModel.open(Path(settings.model))
        asked = settings.threshold
        self.threshold = self.model.threshold(settings.keep_share) if asked is None else asked

    def __call__(self, record: Record) -> Record | Drop:
        """The record with its score, or why it goes."""
        score = float(self.model.scores([record.text])[0])
        if score < self.threshold:
            return drop(record, RULE, f"score {score:.6f}, threshold {self.threshold:.6f}")
        return replace(record, facts=record.facts | {"quality": score})


def train_classifier(
    graded: Iterable[GradedText], out: Path, settings: Quality
) -> dict[str, float]:
    """Train a classifier, write it to the file `out`, and measure it on held-out texts.

    Memory holds the features, at most 16 bytes for each different word or run of words of a text,
    and not the texts. The same texts and settings give the same file, with one version of NumPy.

    Returns:
        num_trained, num_held_out: texts.
        auc: chance that a good held-out text scores above another one (ties count half).
        brier: mean squared difference of score and grade.
        calibration_error: mean difference of score and grade over ten bins of equally many texts.
        threshold: score that `keep_share` of the held-out texts reach.
        good_share: share of good ones among the held-out texts.
        precision: share of good ones among those at or above the threshold.
        recall: share at or above the threshold among the good ones.

    Raises:
        DataError: a grade is not from 0 to 1, or there are too few texts to train and measure on.
    """
    features, grades, held_out = _read_graded(graded, settings)
    good = grades >= settings.good_from
    for name, part in (("training", ~held_out), ("held-out", held_out)):
        if not (good & part).any() or not (~good & part).any():
            raise DataError(
                f"of {len(grades):,} graded texts, the {part.sum():,} {name} ones are not both "
                f"good (grade {settings.good_from:g} or more) and bad",
                hint="grade more texts, from more sites, or set quality.good_from",
            )
    trained = np.flatnonzero(~held_out)
    weights, bias = _fit(features, grades, trained, settings)
    measured = features.rows(np.flatnonzero(held_out))
    scores = np.round(_sigmoid(measured.dot(weights) + bias), 6)
    settings_used = settings.model_dump(mode="json", exclude={"model", "threshold", "keep_share"})
    model = QualityModel(weights, bias, _quantiles(scores), {"settings": settings_used})
    threshold = model.threshold(settings.keep_share)
    metrics = {"num_trained": float(len(trained)), "num_held_out": float(len(scores))}
    metrics |= measure(scores, grades[held_out], threshold=threshold, good_from=settings.good_from)
    replace(model, facts=model.facts | {"metrics": metrics}).save(out)
    return metrics


def calibrate(model: Path, texts: Iterable[str], out: Path) -> None:
    """Write a copy of a classifier whose shares are those of `texts`, a sample of the corpus.

    Raises:
        DataError: the classifier cannot be read, or there are no texts.
    """
    found = QualityModel.open(model)
    scores = found.scores(texts)
    if not len(scores):
        raise DataError("there are no texts to calibrate the classifier on")
    facts = found.facts | {"calibrated_on": len(scores)}
    replace(found, quantiles=_quantiles(scores), facts=facts).save(out)


def measure(
    scores: NDArray[np.float64],
    grades: NDArray[np.float64],
    *,
    threshold: float,
    good_from: float,
) -> dict[str, float]:
    """How scores agree with grades: the metrics of `train_classifier`, without the counts.

    Args:
        scores: [N], 0 to 1.
        grades: [N], 0 to 1; some good and some not.
        threshold: score from which a text is kept.
        good_from: grade from which it is good.
    """
    good, kept = grades >= good_from, scores >= threshold
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, 10) if len(part)]
    gaps = [abs(float(scores[part].mean() - grades[part].mean())) for part in bins]
    found = {
        "auc": auc(scores, good),
        "brier": float(((scores - grades) ** 2).mean()),
        "calibration_error": float(np.average(gaps, weights=[len(part) for part in bins])),
        "threshold": threshold,
        "good_share": float(good.mean()),
        "precision": float(good[kept].mean()) if kept.any() else 0.0,
        "recall": float(kept[good].mean()),
    }
    return {name: round(value, 6) for name, value in found.items()}


def auc(scores: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """Chance that one of the good scores above one of the others; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # mean rank among equals, from 1
    num_good, num_other = int(good.sum()), int((~good).sum())
    above = float(ranks[good].sum()) - num_good * (num_good + 1) / 2
    return above / (num_good * num_other)


def _read_graded(
    graded: Iterable[GradedText], settings: Quality
) -> tuple[Features, NDArray[np.float64], NDArray[np.bool_]]:
    """Features, grades, and which texts are held out."""
    grades: list[float] = []
    held_out: list[bool] = []

    def texts() -> Iterator[str]:
        for text, grade, *group in graded:
            if not 0 <= grade <= 1:
                raise DataError(
                    f"grade {grade:g} of text {len(grades) + 1} is not from 0 to 1",
                    hint="divide grades by the highest one",
                )
            name = (group and group[0]) or text
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
            held_out.append(int.from_bytes(digest[:8]) < settings.held_out_fraction * 2**64)
            grades.append(float(grade))
            yield text

    parts = [
        hashed_features(
            batch,
            hash_bits=settings.hash_bits,
            ngrams=settings.ngrams,
            max_chars=settings.max_chars,
        )
        for batch in _batches(texts(), settings.max_chars)
    ]
    sizes = [np.zeros(1, np.int64)] + [np.diff(part.starts) for part in parts]
    features = Features(
        np.cumsum(np.concatenate(sizes)),
        np.concatenate([part.columns for part in parts] or [np.zeros(0, np.int32)]),
        np.concatenate([part.values for part in parts] or [np.zeros(0, np.float32)]),
    )
    return features, np.array(grades), np.array(held_out, bool)


def _fit(
    features: Features, grades: NDArray[np.float64], trained: NDArray[np.int64], settings: Quality
) -> tuple[NDArray[np.float32], float]:
    """Weights and bias of a logistic regression on the `trained` rows, by AdaGrad in steps."""
    weights = np.zeros(2**settings.hash_bits, np.float32)
    squares = np.full(2**settings.hash_bits, 1e-8, np.float32)
    bias, bias_square = 0.0, 1e-8
    for epoch in range(settings.epochs):
        draw = np.random.Generator(np.random.PCG64([settings.seed, epoch]))
        order = draw.permutation(trained)
        for start in range(0, len(order), settings.rows_per_step):
            chosen = order[start : start + settings.rows_per_step]
            rows = features.rows(chosen)
            errors = (_sigmoid(rows.dot(weights) + bias) - grades[chosen]) / len(chosen)
            columns, place = np.unique(rows.columns, return_inverse=True)
            entries = np.repeat(errors, np.diff(rows.starts)) * rows.values
            sums = np.bincount(place, entries, minlength=len(columns))
            slopes = sums + settings.weight_decay * weights[columns]
            squares[columns] += slopes**2
            weights[columns] -= settings.lr * slopes / np.sqrt(squares[columns])
            slope = float(errors.sum())
            bias_square += slope**2
            bias -= settings.lr * slope / bias_square**0.5
    return weights, bias


def _batches(texts: Iterable[str], max_chars: int) -> Iterator[list[str]]:
    """Texts in lists of about `_BATCH_CHARS` characters that count."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text[:max_chars])
        size += len(batch[-1]) + 1
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _quantiles(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(scores, np.linspace(0, 1, _QUANTILES))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # as 1 / (1 + exp(-x)), but never overflows
