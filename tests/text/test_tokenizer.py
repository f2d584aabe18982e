"""Round trips, the shape of the vocabulary, opening, training."""

import json
import random

import pytest
import tokenizers

from afm_mlx.errors import DataError, RecipeError
from afm_mlx.text.chat import NAMED_PIECES
from afm_mlx.text.tokenizer import Tokenizer

from .conftest import VOCAB_SIZE, library_texts, train

NASTY = [
    "",
    " ",
    "   leading",
    "trailing   ",
    "a  b   c",
    "\n",
    "\n\n \n",
    "a\r\nb\rc",
    "\ttab\t\t",
    "nul \x00 in it",
    "\ufeffbyte order mark",
    "\u2581 lower block \u2581\u2581",
    "\u2585 \u2047 \ufffd \uffff \ufdd0",
    "<pad></s><unk><turn:user><reserved:63><0x41>",
    "e\u0301 \u0301 lone mark; \ufb01 ligature; \uff11\uff12 wide; \u212b",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd",
    "\U0001d504\U00020000\U0010ffff",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u202e reversed",
    "=" * 1_000 + " " * 1_000,
]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_nasty_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_unicode_survives(tokenizer):
    draw = random.Random(0)
    limits = [0x80, 0x800, 0x3000, 0x10000, 0x110000]
    texts = []
    for _ in range(2_000):
        numbers = (draw.randrange(draw.choice(limits)) for _ in range(draw.randint(1, 40)))
        texts.append("".join(chr(n) for n in numbers if not 0xD800 <= n < 0xE000))
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_a_batch_gets_the_ids_of_its_texts(tokenizer):
    assert tokenizer.encode_batch(NASTY) == [tokenizer.encode(text) for text in NASTY]


def test_half_a_surrogate_pair_is_an_error_with_its_place(tokenizer):
    with pytest.raises(DataError, match="half a surrogate pair at character 2"):
        tokenizer.encode_batch(["fine", "ab\ud800"])


@pytest.mark.parametrize("wrong", [-1, VOCAB_SIZE])
def test_an_id_outside_the_vocabulary_is_an_error(tokenizer, wrong):
    with pytest.raises(DataError, match=f"id {wrong:,} is not one of the tokenizer's 1,024"):
        tokenizer.decode([5, wrong])


def test_every_digit_is_a_token(tokenizer):
    assert len(tokenizer.encode("1234567890")) == 10
    pieces = [tokenizer.piece(number) for number in range(260, VOCAB_SIZE - 64)]
    assert [piece for piece in pieces if len(piece) > 1 and any(map(str.isdigit, piece))] == []


def test_a_newline_is_a_piece_that_never_merges(tokenizer):
    newline = tokenizer.piece_id("\n")
    assert tokenizer.encode("\n\n\n") == [newline] * 3
    pieces = [tokenizer.piece(number) for number in range(VOCAB_SIZE)]
    assert [piece for piece in pieces if "\n" in piece] == ["\n"]


def test_pieces_cross_spaces(tokenizer):
    pieces = [tokenizer.piece(number) for number in range(260, VOCAB_SIZE - 64)]
    assert any(" " in piece.strip() for piece in pieces)
    assert any(piece.isspace() and len(piece) > 1 for piece in pieces)


def test_rare_characters_fall_to_bytes(tokenizer):
    ids = tokenizer.encode("\U0001f680")
    assert [tokenizer.piece(number) for number in ids] == ["<0xF0>", "<0x9F>", "<0x9A>", "<0x80>"]


def test_the_vocabulary_begins_with_basics_and_bytes_and_ends_with_controls(tokenizer):
    pieces = [tokenizer.piece(number) for number in range(VOCAB_SIZE)]
    assert pieces[:4] == ["<pad>", "</s>", "<unk>", "\n"]
    assert pieces[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert pieces[-64 : -64 + len(NAMED_PIECES)] == list(NAMED_PIECES)
    assert pieces[-1] == "<reserved:63>"
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id) == (VOCAB_SIZE, 0, 1)
    assert tokenizer.bos_id == 1  # the end of the document before


def test_text_never_becomes_a_control_piece(tokenizer):
    controls = tokenizer.control_pieces
    assert len(controls) == 3 + 64
    for piece in controls:
        ids = tokenizer.encode(f"before{piece}after")
        assert set(ids).isdisjoint(controls.values())
        assert tokenizer.decode(ids) == f"before{piece}after"


def test_generation_stops_at_both_ends(tokenizer):
    assert tokenizer.eos_ids == (1, tokenizer.piece_id("<turn:end>"))


def rewrite(folder, out, change):
    """Copy a tokenizer with its table changed."""
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(table)
    out.mkdir()
    (out / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    return Tokenizer.open(out)


def test_the_fingerprint_ignores_formatting_and_sees_every_merge(tokenizer, folder, tmp_path):
    def spell_as_older_files_do(table):
        table["added_tokens"].reverse()
        del table["model"]["dropout"]

    def swap_two_merges(table):
        table["model"]["merges"][:2] = table["model"]["merges"][1::-1]

    def normalize(table):
        table["normalizer"] = {"type": "NFC"}

    same = rewrite(folder, tmp_path / "same", spell_as_older_files_do)
    assert same.fingerprint == tokenizer.fingerprint
    for name, change in (("merges", swap_two_merges), ("normalizer", normalize)):
        assert rewrite(folder, tmp_path / name, change).fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "tokenizer.json is missing"),
        ("{", "is not a tokenizer"),
        ("{}", "is not a tokenizer"),
    ],
)
def test_a_missing_or_broken_file_is_an_error(tmp_path, content, says):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=says):
        Tokenizer.open(tmp_path)


def byte_level(folder):
    """A small tokenizer of GPT-2's kind, as Qwen3 and SmolLM2 have."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|turn|>", "<|start|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(library_texts(0)[:3], trainer)
    engine.save(str(folder / "tokenizer.json"))


def test_a_byte_level_tokenizer_opens_with_its_ends_and_start(tmp_path):
    byte_level(tmp_path)
    config = {"eos_token": {"content": "<|turn|>"}, "bos_token": "<|start|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.eos_id, tokenizer.eos_ids) == (1, (1, 0))
    assert (tokenizer.bos_id, tokenizer.pad_id) == (2, None)
    for text in NASTY:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert set(ids).isdisjoint({0, 1, 2})


def test_a_tokenizer_without_an_end_says_so_when_asked(tmp_path):
    byte_level(tmp_path)
    with pytest.raises(DataError, match="names no piece that ends a document"):
        _ = Tokenizer.open(tmp_path).eos_id


def test_the_same_texts_give_the_same_files(folder, tmp_path):
    train(tmp_path)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_training_reads_no_more_than_it_may(tmp_path):
    def documents():
        yield from ["one two three four\n" * 500] * 3
        raise AssertionError("read on")

    metrics = train(tmp_path, documents(), vocab_size=360, training_bytes=20_000)
    assert (metrics["documents"], metrics["bytes"], metrics["pieces"]) == (3, 20_000, 360)


def test_too_little_text_names_both_numbers_and_a_size_that_works(tmp_path):
    texts = ["Every sentence of this small document says something else.\n"] * 3
    with pytest.raises(
        DataError, match=r"177 bytes of text give at most (\d+) pieces.* 5,000"
    ) as e:
        train(tmp_path, texts, vocab_size=5_000)
    works = int(e.value.hint.partition("shape.vocab_size=")[2])
    assert train(tmp_path, texts, vocab_size=works)["pieces"] == works


def test_too_many_characters_name_the_size_they_need(tmp_path):
    texts = ["".join(map(chr, range(0x4E00, 0x5600)))]
    with pytest.raises(DataError, match="need at least 2,372 pieces, 64 reserved ones included"):
        train(tmp_path, texts, vocab_size=1_000, character_coverage=1.0)


def test_no_text_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no text to learn 1,024 pieces from"):
        train(tmp_path / "out", ["", "\x00"])
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_without_room_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="vocab_size is 300, and 324 pieces are fixed"):
        train(tmp_path, vocab_size=300)


def test_an_error_of_the_documents_comes_through(tmp_path):
    def documents():
        yield "text"
        raise DataError("texts.jsonl, line 7: no 'text'")

    with pytest.raises(DataError, match="line 7"):
        train(tmp_path, documents())


def test_training_is_silent(tmp_path, capfd):
    train(tmp_path, vocab_size=600, training_bytes=100_000)
    with pytest.raises(DataError):
        train(tmp_path, ["short"])
    assert capfd.readouterr() == ("", "")
