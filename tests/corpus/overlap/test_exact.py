import json

import pytest

from afm_mlx.corpus.overlap.exact import mark_exact, text_hash
from afm_mlx.corpus.overlap.groups import Groups
from afm_mlx.corpus.overlap.minhash import Deduplicator
from afm_mlx.corpus.overlap.prepared import Corpus, Layout
from afm_mlx.corpus.overlap.shingles import normalized
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import shard_name, write_shard
from afm_mlx.settings.overlap import Dedup

LAYOUT = Layout(bands=16, rows=8, shingle_words=5, longest_word=256)


def prepare(folder, shards):
    """Prepared files of shards, each a list of texts."""
    prepared = []
    for number, texts in enumerate(shards):
        shard = folder / shard_name(number)
        write_shard(shard, (Record(f"{number}:{i}", text) for i, text in enumerate(texts)))
        prepared.append(folder / f"{number:05}.signatures")
        Deduplicator(Dedup()).prepare(shard, prepared[-1])
    return prepared


def drops(folder, shards):
    """(shard, line, rule, evidence) of all that is dropped."""
    out = folder / "out"
    Deduplicator(Dedup()).decide(prepare(folder, shards), out)
    return [
        (number, found["line"], found["rule"], found["evidence"])
        for number in range(len(shards))
        for found in map(json.loads, (out / f"{number:05}.drops.jsonl").read_text().splitlines())
    ]


def test_case_and_white_space_do_not_count():
    assert text_hash(normalized(" The\tcat\n\nSAT ")) == text_hash(normalized("the cat sat"))
    assert text_hash(normalized("the cat sat")) != text_hash(normalized("thecat sat"))


def test_hash_is_the_same_on_every_machine():
    # The published BLAKE2b-128 of "abc", as two little-endian numbers.
    digest = bytes.fromhex("cf4ab791c62b8d2b2109c90275287816")
    expected = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    assert text_hash("abc") == expected


def test_any_text_has_a_hash():
    assert text_hash("\ud800") != text_hash("\udfff")
    assert text_hash("\0") != text_hash("\0\0")


def test_the_first_of_equal_texts_is_kept_across_shards(tmp_path):
    found = drops(tmp_path, [["one thing", "another"], ["ANOTHER", "One  thing"], ["one thing"]])
    assert found == [
        (1, 0, "dedup.exact", "same normalized text as 0:1"),
        (1, 1, "dedup.exact", "same normalized text as 0:0"),
        (2, 0, "dedup.exact", "same normalized text as 0:0"),
    ]


def test_empty_documents_equal_nothing(tmp_path):
    assert drops(tmp_path, [["", " \n"], ["", "\u2003"]]) == []


def test_an_empty_shard_has_an_empty_file_of_drops(tmp_path):
    assert drops(tmp_path, [[], ["a b"], [], ["a b"]]) == [
        (3, 0, "dedup.exact", "same normalized text as 1:0")
    ]


@pytest.mark.parametrize("memory_bytes", [2_000, 20_000, 2**24])
def test_parts_and_slices_change_nothing(tmp_path, memory_bytes):
    # At 2,000 bytes, seven rows make a part; the 300 equal texts need dozens of slices.
    texts = ["equal" if number % 2 else f"text {number % 90}" for number in range(600)]
    corpus = Corpus.open(prepare(tmp_path, [texts[:250], texts[250:]]), LAYOUT)
    groups = Groups.create(tmp_path, corpus)
    count = mark_exact(corpus, groups, tmp_path, memory_bytes=memory_bytes)
    first = {text: number for number, text in reversed(list(enumerate(texts)))}
    assert groups.parents.tolist() == [first[text] for text in texts]
    assert groups.is_exact.tolist() == [first[text] != i for i, text in enumerate(texts)]
    assert count == len(texts) - len(first)
