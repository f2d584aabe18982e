"""afm data quality: from grades, or from a list of good and bad sites, to a filter that works."""

import json

from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard

GOOD = "The theorem follows because each term of the series is bounded by the one before it, {}."
BAD = "Click here to win a free prize now, buy cheap tickets and casino chips today, offer {}!"


def graded(tmp_path, count=60):
    path = tmp_path / "grades.jsonl"
    lines = [
        json.dumps({"text": (GOOD if n % 2 else BAD).format(n), "grade": float(n % 2)})
        for n in range(count)
    ]
    path.write_text("\n".join(lines))
    return path


def records(tmp_path, count=60):
    folder = tmp_path / "records"
    write_shard(
        folder / shard_name(0),
        [
            Record(
                f"{n}",
                (GOOD if n % 2 else BAD).format(n),
                url=f"https://{'plato' if n % 2 else 'casino'}.example/{n}",
            )
            for n in range(count)
        ],
    )
    return folder


def test_a_classifier_from_grades_drops_the_bad_half(afm, tmp_path):
    trained = afm("data", "quality", "model.npz", "--grades", graded(tmp_path), "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["auc"] > 0.99
    cleaned = afm(
        *("data", "filter", records(tmp_path), "kept", "--step", "quality", "--json"),
        *("--set", "quality.model=model.npz", "--set", "quality.threshold=0.5"),
    )
    assert cleaned.code == 0, cleaned.err
    counts = json.loads(cleaned.out)
    assert (counts["in"], counts["out"]) == (60, 30)
    assert counts["dropped"] == {"quality.low": 30}


def test_a_classifier_from_a_seed_list_and_calibrated_keeps_the_share(afm, tmp_path):
    folder = records(tmp_path)
    (tmp_path / "seeds.txt").write_text("good plato.example\nbad casino.example\n")
    settings = ["--set", "held_out_fraction=0.3"]
    alone = afm("data", "quality", "m.npz", "--seeds", "seeds.txt", "--records", folder, *settings)
    assert alone.code == 2  # each site is one group: held out as a whole
    assert "good" in alone.err
    (tmp_path / "seeds.txt").write_text("good *[13579]\nbad *[02468]\n")
    write_shard(
        folder / shard_name(0),
        [Record(f"{n}", (GOOD if n % 2 else BAD).format(n)) for n in range(60)],
    )
    trained = afm(
        "data", "quality", "m.npz", "--seeds", "seeds.txt", "--records", folder, "--sample", folder
    )
    assert trained.code == 0, trained.err
    kept = afm(
        *("data", "filter", folder, "kept", "--step", "quality", "--json"),
        *("--set", "quality.model=m.npz", "--set", "quality.keep_share=0.5"),
    )
    assert json.loads(kept.out)["out"] == 30


def test_missing_grades_and_half_of_a_pair_are_refused(afm, tmp_path):
    assert afm("data", "quality", "m.npz").code == 2
    half = afm("data", "quality", "m.npz", "--seeds", "seeds.txt")
    assert half.code == 2
    assert "belong together" in half.err
    absent = afm("data", "quality", "m.npz", "--grades", "nothing.jsonl")
    assert absent.code == 2
    assert "nothing.jsonl" in absent.err
