"""afm quantize: a model of one's own in tables, and what is refused."""

import json
import os
import signal
import time
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint, stored_bits
from afm_mlx.inference.prompts import chats_with

from .conftest import start, weights

QUICK = [
    *["--set", "quantize.calibration_rows=8", "--set", "quantize.gradient_rows=2"],
    *["--set", "quantize.equalize=false"],
]


def test_from_a_model_to_tables_that_answer(afm, chat_model, texts):
    words = ["quantize", chat_model, "--data", texts, "--bits-per-weight", "3.5", *QUICK]
    made = afm(*words, "--out", "small")
    assert made.code == 0, made.err
    lines = dict(line.split(maxsplit=1) for line in made.out.splitlines())
    stored = stored_bits(Path("small"))
    assert lines["bits"].startswith(f"{stored['linears'].per_weight:.3f} per weight")
    assert "nats per token" in lines["held"]
    assert lines["next"].startswith("afm recover small --teacher ")
    assert "q_proj" in made.err
    assert "<svg" in Path("small/bits.svg").read_text()
    assert afm("generate", "small", "--prompt", "The cat", "--max-tokens", "4").code == 0
    again = afm(*words, "--out", "small")
    assert again.code == 2
    assert "'small' exists already" in again.err


def test_a_model_that_continues_text_does_so_in_tables_too(afm, chat_model, texts, tmp_path):
    base = tmp_path / "base"
    save_checkpoint(base, open_checkpoint(chat_model), chat_model, facts={"stage": "core"})
    made = afm("quantize", base, "--data", texts, "--out", "small", *QUICK)
    assert made.code == 0, made.err
    for folder, chats in ((base, False), (Path("small"), False), (chat_model, True)):
        assert chats_with(folder, adapter_chats=False) is chats
        assert chats_with(folder, adapter_chats=True)


def test_without_texts_it_is_calibrated_on_what_the_model_writes(afm, chat_model):
    made = afm("quantize", chat_model, "--out", "small", "--json", *QUICK)
    assert made.code == 0, made.err
    assert "the model writes 9 rows" in made.err
    metrics = json.loads(made.out)["metrics"]
    assert metrics["calibration_tokens"] == 8 * 64
    assert metrics["bits_per_weight"] <= 4.0
    assert metrics["held_out_kl"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bits-per-weight", "1.5"], "error: quantize: target_bits_per_weight (1.5) must be"),
        (["--bits-per-weight", "0"], "error: quantize.target_bits_per_weight is 0.0: expected"),
        (
            ["--set", "quantize.target_bits_per_weight=9"],
            "error: --set: quantize: target_bits_per_weight (9) must be",
        ),
        (
            ["--bits-per-weight", "2.5", "--set", "quantize.target_counts_embedding=true"],
            "2.5 bits per weight cannot be reached: these matrices take ",
        ),
        (["--data", "nothing"], "nothing"),
        (["--set", "quantize.bitz=4"], "did you mean 'quantize.bits'?"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(refused, chat_model, words, said):
    assert said in refused("quantize", chat_model, "--out", "small", *words)


def test_a_model_in_tables_is_refused_by_its_name_before_anything_is_written(
    afm, chat_model, texts
):
    assert afm("quantize", chat_model, "--out", "small", *QUICK).code == 0
    for words in (
        ["quantize", "small"],
        ["prune", "small", "--ffn", "8", "--data", texts],
        ["distill", "small", "--teacher", chat_model, "--data", texts],
        ["sft", "small", "--data", texts],
        ["prefer", "small", "--data", texts],
        ["rl", "small", "--data", texts],
        ["itec", "small", "--data", texts],
        ["recover", "small", "--method", "qat", "--data", texts],
    ):
        again = afm(*words, "--out", "smaller")
        assert again.code == 2
        assert "the weights of 'small' are look-up tables" in again.err, words
        assert not Path("smaller.work").exists()


def deep(model: Path, out: Path) -> Path:
    """A model like another one, with layers enough to be interrupted between."""
    from afm_mlx.decoder.decoder import Decoder, initialize

    decoder = Decoder(open_checkpoint(model).shape.model_copy(update={"num_layers": 12}))
    initialize(decoder, seed=5)
    save_checkpoint(out, decoder, model)
    return out


def test_killed_command_typed_again_goes_on_to_the_same_bits(afm, chat_model, texts, tmp_path):
    words = ["quantize", deep(chat_model, tmp_path / "deep"), "--data", texts, *QUICK, "--out"]
    whole = afm(*words, "whole")
    assert whole.code == 0, whole.err
    blocks = tmp_path / "cut.work" / "own" / "quantize.part" / "snapshots"
    process = start(*words, "cut")
    limit = time.monotonic() + 60
    while not list(blocks.glob("block-0002.safetensors")) and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path("cut").exists()
    assert 3 <= len(list(blocks.glob("block-*.safetensors"))) < 12
    again = afm(*words, "cut")
    assert again.code == 0, again.err
    assert "of 12 blocks are done" in again.err
    assert weights("cut").keys() == weights("whole").keys()
    for name, array in weights("cut").items():
        assert mx.array_equal(array, weights("whole")[name]), name
    assert not Path("cut.work").exists()
