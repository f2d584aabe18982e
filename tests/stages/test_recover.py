"""A quantized model wins back what it lost, and its weights stay."""

import io
import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx import own_model
from afm_mlx.compression.divergence import Reference
from afm_mlx.compression.tables import fit_tables
from afm_mlx.decoder.adapters import (
    Adapters,
    base_name,
    default_adapter,
    find_adapters,
    read_adapter_facts,
)
from afm_mlx.decoder.checkpoint import (
    open_checkpoint,
    read_shape,
    save_checkpoint,
    stored_bits,
)
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.palette import (
    Int8Embedding,
    Int8Linear,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)
from afm_mlx.errors import DataError, ModelError, RecipeError
from afm_mlx.inference.prompts import chats_with
from afm_mlx.progress import Progress
from afm_mlx.settings.palette import RecoverMethod

from .conftest import apart, finished_apart, killed_when

SETTINGS = (
    "recover.tokens=3072",
    "recover.row_tokens=32",
    "recover.rows_per_step=4",
    "recover.candidates=32",
    "recover.lr=0.01",
    "recover.calibration_rows=8",
    "recover.start=random",
    "optimizer.name=adamw",
    "training.micro_rows=2",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(80):
        words = " ".join(["The cat", "sat on", "the mat.", "Where is", "the dog?"][number % 4 :])
        (folder / f"{number:02}.txt").write_text(f"{number} {words} In the house.\n" * 3)
    return folder


def coarse(weight: mx.array) -> PaletteLinear:
    """Tables of 2 bits, by k-means."""
    found = fit_tables(weight, bits=2, group_rows=16)
    ids = pack(mx.array(found.ids), 2)
    tables = mx.array(found.tables)
    return PaletteLinear(ids, tables, bits=2, group_rows=16, in_features=weight.shape[1])


@pytest.fixture(scope="module")
def quantized(base, tmp_path_factory) -> Path:
    """The model in `base` in tables of 2 bits."""
    model = open_checkpoint(base)
    layers = {name: coarse(layer.weight) for name, layer in linears(model).items()}
    embedding = Int8Embedding(*int8_rows(model.model.embed_tokens.weight))
    replace_linears(model, {**layers, "model.embed_tokens": embedding})
    folder = tmp_path_factory.mktemp("quantized") / "model"
    save_checkpoint(folder, model, base, facts={"stage": "quantize"})
    return folder


def recover(recipe, out):
    stream = io.StringIO()
    metrics = own_model.run(recipe, "recover", out, Progress(stream=stream))["metrics"]
    return metrics, stream.getvalue()


RANKS = ("recover.ranks=[2, 8]", "recover.product_rank=8")


@pytest.fixture(scope="module")
def recovered(base, quantized, texts, tmp_path_factory):
    """Folder, metrics and what was said of a recovery with two ranks."""
    out = tmp_path_factory.mktemp("recovered") / "model"
    assignments = [*SETTINGS, *RANKS]
    recipe = own_model.recover_recipe(quantized, texts, teacher=base, assignments=assignments)
    return (out, *recover(recipe, out))


def test_every_rank_wins_back_and_more_of_it_with_more(recovered):
    _, metrics, said = recovered
    shares = {rank: found["held_out_won_back"] for rank, found in metrics["ranks"].items()}
    assert 0.3 < shares["2"] < shares["8"] < 1
    assert metrics["held_out_kl"] == metrics["ranks"]["8"]["held_out_kl"]
    assert metrics["held_out_kl"] < metrics["base_held_out_kl"]
    assert f"rank 8: texts: KL {metrics['held_out_kl']:.4f}, {shares['8']:.1%} won back" in said


def test_the_base_stays_and_names_the_adapter_to_use(recovered, quantized):
    out, *_ = recovered
    for name in ("model.safetensors", "tokenizer.json"):
        assert (out / name).read_bytes() == (quantized / name).read_bytes()
    assert [folder.name for folder in find_adapters(out)] == ["recovery-2", "recovery-8"]
    assert default_adapter(out).name == "recovery-8"
    assert not (out.parent / "model.work").exists()


def test_the_kept_adapter_gives_the_predictions_that_were_measured(recovered, base, quantized):
    out, *_ = recovered
    model, teacher = open_checkpoint(out), open_checkpoint(base)
    held = Adapters(model, out)
    held.use(held.add(out / "adapters" / "recovery-8"))
    tokens = mx.array([[5, 17, 60, 3, 8, 200, 9]])
    reference = Reference(teacher, [tokens], chunk_bytes=2**20)
    assert reference.kl(model) < reference.kl(open_checkpoint(quantized))
    facts = held["recovery-8"].facts
    assert (facts.rank, facts.scale, facts.data) == (8, 1.0, ("texts",))
    assert facts.base_name == base_name(quantized)


def test_the_teacher_may_read_at_any_time(recovered, base, quantized, texts, tmp_path):
    _, metrics, _ = recovered
    recipe = own_model.recover_recipe(
        quantized, texts, teacher=base, rank=8, assignments=[*SETTINGS, "recover.labels=live"]
    )
    again, _ = recover(recipe, tmp_path / "model")
    assert again["held_out_kl"] == metrics["held_out_kl"]


def test_an_adapter_may_begin_with_what_it_can_take_of_the_errors(
    recovered, base, quantized, texts, tmp_path
):
    settings = [*SETTINGS, "recover.start=residual", "recover.tokens=256", "recover.lr=1e-3"]
    recipe = own_model.recover_recipe(
        quantized, texts, teacher=base, assignments=[*settings, *RANKS]
    )
    metrics, said = recover(recipe, tmp_path / "model")
    begun = re.findall(r"rank (\d+), not trained: texts: KL [\d.]+, ([\d.]+)% won back", said)
    assert [int(rank) for rank, _ in begun] == [2, 8]
    two, eight = (float(share) / 100 for _, share in begun)
    assert 0.1 < two < eight < metrics["held_out_won_back"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        quantized / "model.safetensors"
    ).read_bytes()


def test_residuals_are_taken_of_the_model_that_was_quantized(base, quantized, texts, tmp_path):
    other = Decoder(read_shape(base))
    initialize(other, seed=5)
    save_checkpoint(tmp_path / "other", other, base)
    recipe = own_model.recover_recipe(
        quantized,
        texts,
        teacher=tmp_path / "other",
        rank=2,
        assignments=[*SETTINGS, "recover.start=residual"],
    )
    with pytest.raises(ModelError, match="q_proj are not made of this model's weights"):
        recover(recipe, tmp_path / "model")


@pytest.fixture(scope="module")
def better_tables(base, quantized, texts, tmp_path_factory):
    """Folder and metrics of trained tables."""
    out = tmp_path_factory.mktemp("tables") / "model"
    recipe = own_model.recover_recipe(
        quantized, texts, teacher=base, method=RecoverMethod.TABLES, assignments=SETTINGS
    )
    return out, recover(recipe, out)[0]


def test_tables_and_gains_win_back_without_more_bits(better_tables, quantized):
    out, metrics = better_tables
    assert metrics["held_out_won_back"] > 0.1
    assert stored_bits(out) == stored_bits(quantized)
    found, before = (dict(mx.load(str(each / "model.safetensors"))) for each in (out, quantized))
    assert all(mx.array_equal(found[name], before[name]) for name in before if "ids" in name)
    assert any(not mx.array_equal(found[name], before[name]) for name in before if "table" in name)


@pytest.mark.parametrize("method", RecoverMethod)
def test_a_model_that_continues_text_does_so_after_recovery(
    base, quantized, texts, tmp_path, method
):
    core = Path(shutil.copytree(base, tmp_path / "core"))
    config = json.loads((core / "config.json").read_text())
    (core / "config.json").write_text(json.dumps(config | {"afm": {"stage": "core"}}))
    model, teacher = (core, None) if method is RecoverMethod.QAT else (quantized, core)
    settings = [*SETTINGS, "recover.tokens=128"]
    recipe = own_model.recover_recipe(
        model, texts, teacher=teacher, method=method, rank=2, assignments=settings
    )
    recover(recipe, tmp_path / "model")
    assert not chats_with(tmp_path / "model", adapter_chats=False)


def test_training_in_two_bits_is_better_than_k_means_and_as_small(
    base, better_tables, quantized, texts, tmp_path
):
    out = tmp_path / "model"
    recipe = own_model.recover_recipe(
        base, texts, method=RecoverMethod.QAT, assignments=[*SETTINGS, "recover.lr=0.003"]
    )
    metrics, said = recover(recipe, out)
    _, tables = better_tables
    assert metrics["held_out_kl"] < 0.5 * tables["base_held_out_kl"]  # k-means, not trained
    assert metrics["held_out_kl"] < tables["held_out_kl"]  # the same, and as many tokens
    assert stored_bits(out) == stored_bits(quantized)
    assert {layer.bits for layer in linears(open_checkpoint(out)).values()} == {2}
    assert "rounded: texts" in said


def test_an_output_layer_of_its_own_has_eight_bits_in_two(base, texts, tmp_path):
    model = Decoder(read_shape(base).model_copy(update={"tied": False}))
    initialize(model, 1)
    save_checkpoint(tmp_path / "untied", model, base)
    settings = [*SETTINGS, "recover.tokens=128"]
    recipe = own_model.recover_recipe(
        tmp_path / "untied", texts, method=RecoverMethod.QAT, assignments=settings
    )
    recover(recipe, tmp_path / "model")
    stored = linears(open_checkpoint(tmp_path / "model"))
    assert isinstance(stored.pop("lm_head"), Int8Linear)
    assert {layer.bits for layer in stored.values()} == {2}


def test_conversations_come_after_texts(base, quantized, texts, chats, tmp_path):
    data = f"recover.data.chats.path={json.dumps(str(chats))}"
    assignments = [
        *SETTINGS,
        data,
        "recover.row_tokens=64",
        "recover.tokens=1024",
        "recover.start=residual",
        "recover.lr=1e-3",
    ]
    recipe = own_model.recover_recipe(
        quantized, texts, teacher=base, rank=4, assignments=assignments
    )
    metrics, said = recover(recipe, tmp_path / "model")
    assert metrics["text_steps"] == 2
    assert metrics["answers_kl"] < metrics["base_answers_kl"]
    assert "answers: KL" in said
    facts = read_adapter_facts(tmp_path / "model" / "adapters" / "recovery-4")
    assert facts.data == ("texts", "chats")


def test_text_alone_is_learned_without_a_reference(base, quantized, texts, tmp_path):
    assignments = [*SETTINGS, "recover.reference_weight=0"]
    recipe = own_model.recover_recipe(
        quantized, texts, teacher=base, rank=4, assignments=assignments
    )
    metrics, _ = recover(recipe, tmp_path / "model")
    assert metrics["held_out_nats"] < metrics["base_held_out_nats"]


def test_adapters_begin_with_the_residual_unless_told_otherwise(base, quantized, texts):
    lora = own_model.recover_recipe(quantized, texts, teacher=base)
    assert lora.recover.starts_with_residual
    assert lora.optimizer.name == "muon"
    method = RecoverMethod.TABLES  # rows of a table are no directions: nothing for muon
    assert (
        own_model.recover_recipe(quantized, texts, teacher=base, method=method).optimizer.name
        == "adamw"
    )


def test_what_cannot_be_recovered_is_refused(base, quantized, texts, tmp_path):
    make = own_model.recover_recipe
    with pytest.raises(ModelError, match="are numbers, not tables: nothing was lost"):
        make(base, texts, teacher=base)
    with pytest.raises(ModelError, match="16-bit model, and none is named"):
        make(quantized, texts)
    with pytest.raises(ModelError, match="are look-up tables"):
        recover(make(quantized, texts, method=RecoverMethod.QAT), tmp_path / "a")
    with pytest.raises(ModelError, match="the model is its own teacher"):
        make(base, texts, teacher=base, method=RecoverMethod.QAT)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no "):
        make(quantized, empty, teacher=base)
    with pytest.raises(RecipeError, match=r"recover.row_tokens \(128\) is above"):
        make(quantized, texts, teacher=base, assignments=["recover.row_tokens=128"])


def test_a_teacher_in_tables_is_refused(quantized, texts):
    with pytest.raises(ModelError, match=r"the weights of the teacher .* are look-up tables"):
        own_model.recover_recipe(quantized, texts, teacher=quantized)


def test_a_teacher_that_is_another_model_is_refused(base, quantized, texts, tmp_path):
    wide = Decoder(read_shape(base).model_copy(update={"intermediate_size": 96}))
    save_checkpoint(tmp_path / "wide", wide, base)
    with pytest.raises(ModelError, match="the teacher's intermediate_size is 96, and that of"):
        own_model.recover_recipe(quantized, texts, teacher=tmp_path / "wide")


def test_texts_shorter_than_a_row_are_refused(base, quantized, tmp_path):
    folder = tmp_path / "short"
    folder.mkdir()
    (folder / "a.txt").write_text("The cat.\n")
    recipe = own_model.recover_recipe(
        quantized,
        folder,
        teacher=base,
        assignments=["recover.row_tokens=64", "data.texts.held_out_fraction=0"],
    )
    with pytest.raises(DataError, match="one row needs 64"):
        recover(recipe, tmp_path / "model")


SHORT = [*SETTINGS, *RANKS, "watch.snapshot_every_seconds=0.001"]


def run_apart(base, quantized, texts, out, *more):
    words = ["recover", quantized, "--teacher", base, "--data", texts, "--out", out]
    return apart(*words, settings=[*SHORT, *more])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["random", "residual"])
def test_a_run_killed_in_its_second_rank_ends_with_the_same_bits(
    base, quantized, texts, tmp_path, start
):
    whole, out, setting = tmp_path / "whole", tmp_path / "cut", f"recover.start={start}"
    finished_apart(run_apart(base, quantized, texts, whole, setting))
    cut = run_apart(base, quantized, texts, out, setting)
    snapshots = tmp_path / "cut.work" / "own" / "recover.part" / "rank-8" / "snapshots"
    killed_when(cut, lambda: any(snapshots.glob("step-*1[0-9]")))
    assert not out.exists()
    said, errors = finished_apart(run_apart(base, quantized, texts, out, setting))
    assert "going on from step" in errors
    assert "rank 2" in said
    for name in ("recovery-2", "recovery-8"):
        place = f"adapters/{name}/adapters.safetensors"
        assert (out / place).read_bytes() == (whole / place).read_bytes()
