"""The fast tokenizer and SentencePiece give the same ids."""

import random

import pytest
import sentencepiece

from afm_mlx.text.bpe import SPACE, fast_tokenizer, merges

from .conftest import library_texts


@pytest.fixture(scope="module")
def reference(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_real_text_gets_the_ids_of_sentencepiece(tokenizer, reference):
    texts = [text.replace(SPACE, "?") for text in library_texts(60)]
    assert sum(map(len, texts)) > 2_000_000
    for text in texts:
        assert tokenizer.encode(text) == reference.encode(text)


def test_shuffled_pieces_and_runs_get_the_ids_of_sentencepiece(tokenizer, reference):
    draw = random.Random(0)
    learned = range(260, reference.vocab_size() - 64)
    pieces = [reference.id_to_piece(number).replace(SPACE, " ") for number in learned]
    for _ in range(2_000):
        words = draw.choices(pieces, k=draw.randint(1, 30))
        run = draw.choices(draw.sample(" a=-e_#*.ls", 2), k=draw.randint(1, 60))
        text = "".join([*words, *run])
        assert tokenizer.encode(text) == reference.encode(text)


def test_a_real_lower_block_is_kept_where_sentencepiece_reads_a_space(tokenizer, reference):
    assert reference.decode(reference.encode("a\u2581b")) == "a b"
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a\u2581b"


def test_both_files_name_the_same_pieces(tokenizer, reference):
    for number in range(reference.vocab_size()):
        piece = tokenizer.piece(number)
        written = piece if piece.startswith("<") else piece.replace(" ", SPACE)
        assert reference.id_to_piece(number) == written


def test_merges_are_every_split_best_piece_first_then_long_left_parts():
    assert merges(["ab", "a", "b", "abab", "aba", "c"]) == [
        ["a", "b"],
        ["aba", "b"],
        ["ab", "ab"],
        ["ab", "a"],
    ]


def test_a_character_without_a_piece_gives_no_merge(folder):
    table = fast_tokenizer((folder / "tokenizer.model").read_bytes())
    vocabulary = table["model"]["vocab"]
    for left, right in table["model"]["merges"]:
        assert left in vocabulary
        assert right in vocabulary
        assert left + right in vocabulary
