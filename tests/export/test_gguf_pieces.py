import json
import shutil

import pytest

from afm_mlx.decoder.gguf_tokenizer import PRE_TOKENIZERS, write_tokenizer
from afm_mlx.errors import ExportError
from afm_mlx.export.gguf_pieces import chat_template, pre_tokenizer, tokenizer_fields
from afm_mlx.text.bpe import parse_model
from afm_mlx.text.tokenizer import Tokenizer


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_what_was_imported_is_exported_alike(pre, byte_level_fields, tmp_path):
    fields = byte_level_fields(pre)
    write_tokenizer(fields, tmp_path, tmp_path / "x.gguf")
    found = tokenizer_fields(tmp_path, rows=len(fields["tokenizer.ggml.tokens"]))
    assert found == fields | {
        "tokenizer.ggml.add_bos_token": pre == "llama-bpe",  # as llama.cpp does it, unasked
        "tokenizer.ggml.add_eos_token": False,
    }


def test_rows_without_a_piece_become_unused_pieces(byte_level_fields, tmp_path):
    write_tokenizer(byte_level_fields("gpt-2"), tmp_path, tmp_path / "x.gguf")
    found = tokenizer_fields(tmp_path, rows=270)
    assert found["tokenizer.ggml.tokens"][-2:] == ["[PAD268]", "[PAD269]"]
    assert found["tokenizer.ggml.token_type"][-6:] == [4, 5, 5, 5, 5, 5]


def test_every_name_is_known_again_by_its_steps():
    for name, steps in PRE_TOKENIZERS.items():
        llama = name.startswith("llama")
        table = {
            "normalizer": {"type": "NFC"} if name == "qwen2" else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "model": {"type": "BPE", "ignore_merges": llama},
        }
        assert pre_tokenizer(table) == ("llama-bpe" if llama else name)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"model": {"type": "BPE", "ignore_merges": True}},
        {"model": {"type": "WordPiece"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
    ],
)
def test_what_splits_words_otherwise_has_no_name(change, byte_level_fields, tmp_path):
    write_tokenizer(byte_level_fields("gpt-2"), tmp_path, tmp_path / "x.gguf")
    file = tmp_path / "tokenizer.json"
    table = json.loads(file.read_text())
    assert pre_tokenizer(table) == "gpt-2"
    file.write_text(json.dumps(table | change))
    with pytest.raises(ExportError, match="in a way that GGUF has no name for"):
        tokenizer_fields(tmp_path, rows=266)


def test_sentencepiece_keeps_pieces_scores_and_kinds(tokenizer_folder):
    tokenizer = Tokenizer.open(tokenizer_folder)
    found = tokenizer_fields(tokenizer_folder, rows=tokenizer.vocab_size + 2)
    pieces, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    scores = found["tokenizer.ggml.scores"]
    assert len(pieces) == len(kinds) == len(scores) == tokenizer.vocab_size + 2
    assert [pieces[number] for number in (0, 1, 2, 3)] == ["<pad>", "</s>", "<unk>", "\n"]
    assert kinds[:4] == [3, 3, 2, 4]
    assert pieces[4 : 4 + 256] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert set(kinds[4 : 4 + 256]) == {6}
    for name, number in tokenizer.control_pieces.items():
        assert (pieces[number], kinds[number]) == (name, 2 if name == "<unk>" else 3)
    learned = [scores[number] for number, kind in enumerate(kinds) if kind == 1]
    assert learned == sorted(learned, reverse=True)
    assert kinds[-2:] == [5, 5]
    # A text starts after the end of the one before; a turn's end ends an answer, too.
    assert found["tokenizer.ggml.bos_token_id"] == found["tokenizer.ggml.eos_token_id"] == 1
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert pieces[found["tokenizer.ggml.eot_token_id"]] == "<turn:end>"
    assert found["tokenizer.ggml.add_space_prefix"] is False


def test_sentencepiece_that_changes_texts_first_is_refused(tokenizer_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tokenizer_folder, folder)
    proto = parse_model((folder / "tokenizer.model").read_bytes())
    proto.normalizer_spec.name = "nmt_nfkc"
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match="normalization 'nmt_nfkc'"):
        tokenizer_fields(folder, rows=400)


def test_the_template_is_found_where_it_stands(tmp_path):
    assert chat_template(tmp_path) is None
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "one"}))
    assert chat_template(tmp_path) == "one"
    named = [{"name": "tools", "template": "two"}, {"name": "default", "template": "three"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert chat_template(tmp_path) == "three"
    (tmp_path / "chat_template.jinja").write_text("four")
    assert chat_template(tmp_path) == "four"
