import importlib.util
from itertools import islice

import gguf
import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.decoder.adapters import Adapters
from afm_mlx.decoder.checkpoint import open_checkpoint, read_tensors
from afm_mlx.decoder.convert import smollm2_file
from afm_mlx.decoder.gguf import read_gguf
from afm_mlx.decoder.gguf_tokenizer import write_tokenizer
from afm_mlx.errors import ExportError, ModelError
from afm_mlx.export.gguf import TARGET
from afm_mlx.export.publish import export_model
from afm_mlx.export.targets import Source
from afm_mlx.export.verify import Thresholds
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.prompts import chat_ids
from afm_mlx.settings.export import Gguf, GgufWeights
from afm_mlx.zoo import resolve_model

from .conftest import LLAMA3_ROPE, spoiled

EXACT = Gguf(weights=GgufWeights.F32)
HAS_LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
KINDS = pytest.mark.parametrize(
    "changes",
    [{}, {"tied": False}, {"qk_norm": False}, {"qk_norm": False, "rope_scaling": LLAMA3_ROPE}],
    ids=["qwen3", "untied", "llama", "llama3"],
)


def the_file(folder):
    (file,) = folder.glob("*.gguf")
    return file


@KINDS
def test_every_kind_of_decoder_comes_back_bit_for_bit(source, changes, tmp_path):
    model = source(**changes)
    TARGET.write(model, tmp_path / "out", EXACT)
    found = read_gguf(the_file(tmp_path / "out"))
    # The file keeps what Llama 3's rescaling gives; our reader finds what it was made from.
    assert found.shape.model_copy(update={"rope_scaling": None}) == model.shape.model_copy(
        update={"rope_scaling": None}
    )
    assert (found.shape.rope_scaling is None) == (model.shape.rope_scaling is None)
    for name, array in read_tensors(model.folder, model.shape).items():
        assert mx.array_equal(found.weights[name], array), name


@KINDS
def test_every_kind_is_verified_with_what_is_installed(source, changes, tmp_path):
    exported = export_model(source(**changes), TARGET, tmp_path / "out", EXACT, steps=8)
    found = exported.comparisons["none"]
    assert found.is_stand_in is not HAS_LLAMA_CPP
    assert found.all.same == found.all.steps
    assert found.all.relative_error < 0.02
    assert found.all.same_ids is (True if HAS_LLAMA_CPP else None)


def test_an_adapter_is_folded_in(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True))
    exported = export_model(model, TARGET, tmp_path / "out", EXACT, steps=4)
    assert list(exported.comparisons) == ["cats"]
    adapted = open_checkpoint(model.folder)
    adapters = Adapters(adapted, model.folder)
    adapters.use(adapters.add(model.adapters[0]))
    layer = adapted.model.layers[1].mlp.up_proj
    one = mx.eye(model.shape.hidden_size)
    weight = read_gguf(the_file(tmp_path / "out")).weights["model.layers.1.mlp.up_proj.weight"]
    assert mx.abs(layer(one).T - weight).max() < 1e-5


@pytest.mark.parametrize("weights", list(GgufWeights))
def test_sizes_are_as_planned(source, weights, tmp_path):
    settings = Gguf(weights=weights)
    exported = export_model(source(), TARGET, tmp_path / "out", settings, steps=1)
    for size in exported.sizes:
        assert size.planned_bytes in (None, size.bytes), size.component
    file = the_file(tmp_path / "out")
    assert file.name == f"small-{weights.upper()}.gguf"
    assert sum(size.bytes for size in exported.sizes) == file.stat().st_size


@pytest.mark.parametrize("weights", [GgufWeights.Q8_0, GgufWeights.Q4_0, GgufWeights.Q4_1])
def test_what_rounding_costs_is_told_apart(source, weights, tmp_path):
    settings = Gguf(weights=weights)
    exported = export_model(source(), TARGET, tmp_path / "out", settings, steps=8)
    assert exported.comparisons["none"].failures == ()
    assert exported.rounding is not None
    assert exported.rounding.all.cosine < exported.comparisons["none"].all.cosine
    kinds = {
        tensor.tensor_type.name for tensor in gguf.GGUFReader(the_file(tmp_path / "out")).tensors
    }
    assert kinds == {weights.upper(), "Q8_0", "F32"}


def test_a_file_that_keeps_the_model_rounds_nothing(source, tmp_path):
    assert export_model(source(), TARGET, tmp_path / "out", Gguf(), steps=1).rounding is None


def zero(name):
    """Sets a tensor of the file in a folder to zero."""

    def zero(folder):
        reader = gguf.GGUFReader(the_file(folder), "r+")
        (tensor,) = (each for each in reader.tensors if each.name == name)
        tensor.data[:] = 0
        reader.data.flush()

    return zero


@pytest.mark.parametrize("name", ["blk.1.ffn_gate.weight", "blk.0.attn_q_norm.weight"])
def test_a_zeroed_tensor_is_named(source, name, tmp_path):
    with pytest.raises(ExportError, match=f"not the model, nothing is published: {name}"):
        export_model(source(), spoiled(TARGET, zero(name)), tmp_path / "out", Gguf(), steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", [GgufWeights.F16, GgufWeights.Q8_0, GgufWeights.Q4_0])
def test_a_zeroed_tensor_is_caught_by_the_logits_alone(source, weights, tmp_path):
    blind = spoiled(TARGET, zero("blk.1.ffn_gate.weight"), differences=lambda *_: ())
    with pytest.raises(ExportError, match="nothing is published: the cosine is"):
        export_model(source(), blind, tmp_path / "out", Gguf(weights=weights), steps=4)
    assert not (tmp_path / "out").exists()


def test_another_setting_is_named(source, tmp_path):
    def change(folder):
        reader = gguf.GGUFReader(the_file(folder), "r+")
        field = reader.fields["qwen3.rope.freq_base"]
        field.parts[field.data[0]][0] = 20_000.0
        reader.data.flush()

    with pytest.raises(ExportError, match=r"qwen3\.rope\.freq_base"):
        export_model(source(), spoiled(TARGET, change), tmp_path / "out", Gguf(), steps=1)


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        (
            {"rope_scaling": LLAMA3_ROPE},
            Gguf(),
            "llama.cpp does not rescale rotations in a model with QK-norm",
        ),
        (
            {"hidden_size": 48},
            Gguf(weights=GgufWeights.Q8_0),
            "q8_0 takes rows in blocks of 32, and the model has rows of 48: take f16",
        ),
    ],
)
def test_what_it_cannot_hold_is_refused(source, changes, settings, reason, tmp_path):
    with pytest.raises(ExportError) as caught:
        export_model(source(**changes), TARGET, tmp_path / "out", settings)
    assert str(caught.value) == f"--to gguf cannot hold this model: {reason}"
    assert not (tmp_path / "out").exists()


def test_rows_of_any_width_go_into_16_bits(source, tmp_path):
    model = source(hidden_size=48)
    export_model(model, TARGET, tmp_path / "out", Gguf(), steps=1)
    found = read_gguf(the_file(tmp_path / "out"))
    assert found.shape == model.shape
    for name, array in read_tensors(model.folder, model.shape).items():
        wanted = array if array.ndim == 1 else array.astype(mx.float16)
        assert mx.array_equal(found.weights[name], wanted), name


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed")
@KINDS
def test_llama_cpp_gives_the_logits_of_every_kind(source, changes, tmp_path):
    import llama_cpp

    model = source(**changes)
    TARGET.write(model, tmp_path / "out", EXACT)
    theirs = llama_cpp.Llama(
        str(the_file(tmp_path / "out")), n_ctx=96, n_threads=1, logits_all=True, verbose=False
    )
    ids = np.random.default_rng(5).integers(0, 320, 60).tolist()
    theirs.eval(ids)
    ours = np.array(open_checkpoint(model.folder)(mx.array([ids]))[0])
    gap = np.abs(theirs.scores[: len(ids)] - ours).max() / ours.std()
    assert gap < 0.02  # its keys and values are float16


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_llama_cpp_makes_the_same_prompts_of_byte_level_pieces(
    source, pre, byte_level_fields, tmp_path
):
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(byte_level_fields(pre), tmp_path / "tokenizer", tmp_path / "x.gguf")
    model = source(tokenizer=tmp_path / "tokenizer")
    exported = export_model(model, TARGET, tmp_path / "out", EXACT, steps=1)
    assert exported.comparisons["none"].all.same_ids


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed")
def test_llama_cpp_answers_from_smollm2_as_we_do(tmp_path):
    import llama_cpp

    try:
        smollm2_file()
    except ModelError as error:
        pytest.skip(f"{error}: {error.hint}")
    folder = resolve_model("smollm2", runs=tmp_path).path
    engine = Engine.open(folder, dtype=mx.float32)
    TARGET.write(Source(folder, "smollm2", engine.model.shape), tmp_path / "out", Gguf())
    theirs = llama_cpp.Llama(str(the_file(tmp_path / "out")), n_ctx=512, verbose=False)
    messages = [{"role": "user", "content": "Why is the sky blue? Answer at length."}]
    ours = list(engine.stream(messages, max_tokens=64))
    said = theirs.create_chat_completion(messages, max_tokens=64, temperature=0.0)
    assert said["usage"]["prompt_tokens"] == engine.stats.prompt_tokens
    assert said["usage"]["completion_tokens"] == engine.stats.answer_tokens == 64
    assert said["choices"][0]["message"]["content"] == "".join(chunk.text for chunk in ours)
    prompt = chat_ids(engine.tokenizer, messages, None)
    tokens = theirs.generate(prompt, temp=0.0)
    assert list(islice(tokens, 64)) == [chunk.token for chunk in ours]


def test_the_thresholds_are_closer_where_nothing_is_rounded():
    close, near = (TARGET.thresholds(Gguf(weights=each)) for each in ("f16", "q8_0"))
    assert isinstance(close, Thresholds)
    assert close.cosine > near.cosine
    assert close.agreement == 1.0
