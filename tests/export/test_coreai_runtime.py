"""Exports for Core AI, run by Apple's own runtime."""

import hashlib
import tempfile

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.adapters import Adapters
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.palette import (
    Int8Linear,
    PaletteLinear,
    int8_rows,
    linears,
    pack,
    replace_linears,
)
from afm_mlx.errors import ExportError
from afm_mlx.export.coreai.runtime import CoreAiRuntime
from afm_mlx.export.coreai.target import TARGET
from afm_mlx.export.prompts import prompts
from afm_mlx.export.publish import export_model
from afm_mlx.settings.export import CoreAi

from .conftest import LLAMA3_ROPE, random_model, spoiled

pytest.importorskip("coreai", reason='coreai-core is not installed: pip install "afm-mlx[coreai]"')

# 32 tokens of a prompt at a time: prompts of 48 take a part that only fills the cache.
SMALL_CALLS = CoreAi(prefill_tokens=32, decode_tokens=8)
PROGRAM = "small.aimodel/main.mlirb"


def export(source, out, **options):
    options.setdefault("steps", 4)
    return export_model(source, options.pop("target", TARGET), out, SMALL_CALLS, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"palettized": True},
        {"tied": False},
        {"qk_norm": False, "rope_scaling": LLAMA3_ROPE},
        {"num_kv_heads": 1, "palettized": True},
    ],
    ids=["tables", "untied", "llama3", "one key head"],
)
def test_every_kind_of_decoder_is_the_same_model_in_apples_runtime(source, changes, tmp_path):
    exported = export(source(**changes), tmp_path / "out")
    found = exported.comparisons["none"]
    assert not found.is_stand_in
    assert found.runtime.startswith("Core AI (coreai-core ")
    assert found.all.cosine > 0.9999
    assert found.all.same + found.all.ties == found.all.steps == 8 * 5


def test_two_bits_four_and_eight_are_as_small_as_they_say(source, tmp_path):
    model, mixed = source(tied=False), random_model(tied=False)
    layers = {}
    for number, (name, layer) in enumerate(linears(mixed).items()):
        bits, (rows, columns) = (2, 4, 8)[number % 3], layer.weight.shape
        if bits == 8:  # the output layer, among others
            layers[name] = Int8Linear(*int8_rows(layer.weight))
            continue
        key = mx.random.key(number)
        ids = mx.random.randint(0, 2**bits, (rows, columns), mx.uint32, key=key)
        tables = (mx.random.normal((rows // 16, 2**bits), key=key) * 0.2).astype(mx.float16)
        layers[name] = PaletteLinear(
            pack(ids, bits), tables, bits=bits, group_rows=16, in_features=columns
        )
    assert isinstance(layers["lm_head"], Int8Linear)
    replace_linears(mixed, layers)
    save_checkpoint(model.folder, mixed, model.folder, facts={"stage": "sft"})
    exported = export(model, tmp_path / "out", steps=2)
    sizes = {size.component: size for size in exported.sizes}
    assert sizes["linears"].bytes == sizes["linears"].planned_bytes
    assert sizes["embedding"].bytes == sizes["embedding"].planned_bytes
    file = (tmp_path / "out" / PROGRAM).stat().st_size
    assert file < sum(each.bytes for each in exported.sizes) - sizes["tokenizer"].bytes + 1_000


def test_the_model_and_its_adapter_are_verified_apart(source, with_adapter, tmp_path):
    exported = export(with_adapter(source(palettized=True)), tmp_path / "out", steps=2)
    assert list(exported.comparisons) == ["none", "cats"]
    each = [found.all for found in exported.comparisons.values()]
    assert all(found.same + found.ties == found.steps for found in each)
    sizes = {size.component: size for size in exported.sizes}
    assert sizes["adapters"].bytes == sizes["adapters"].planned_bytes
    assert sizes["linears"].bytes == sizes["linears"].planned_bytes  # shared by all functions


@pytest.mark.slow
def test_answers_are_the_same_tokens_with_and_without_an_adapter(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True))
    export(model, tmp_path / "out", steps=1)
    ours = open_checkpoint(model.folder)
    adapters = Adapters(ours, model.folder)
    adapters.add(model.adapters[0])
    answers = {}
    for name in ("none", "cats"):
        adapters.use(None if name == "none" else name)
        runtime = CoreAiRuntime(tmp_path / "out", name)
        for prompt in prompts(model.folder, chats=True):
            ids = prompt.ids[:48]
            cache = import_mlx_lm("mlx_lm.models.cache").make_prompt_cache(ours)
            logits, wanted = ours(mx.array([ids]), cache=cache), []
            runtime.reset()
            theirs, found = runtime.prefill(ids), []
            for _ in range(32):
                *_, second, best = sorted(logits[0, -1].tolist())
                if best - second < 0.03 * mx.std(logits[0, -1]).item():
                    break  # random weights: rounding decides
                wanted.append(int(logits[0, -1].argmax()))
                found.append(int(theirs.argmax()))
                logits = ours(mx.array([wanted[-1:]]), cache=cache)
                theirs = runtime.step(found[-1])
            assert found == wanted, (name, prompt.name)
            answers[name, prompt.name] = found
    assert answers["none", "question"] != answers["cats", "question"]
    assert sum(map(len, answers.values())) > 50


def test_values_that_are_too_large_to_be_squared_are_normalized(source, tmp_path):
    model = source(tied=False)
    large = random_model(tied=False)
    large.model.embed_tokens.weight = large.model.embed_tokens.weight * 2_000
    assert mx.abs(large.model.embed_tokens.weight).max() > 256  # its square is above 65,504
    save_checkpoint(model.folder, large, model.folder, facts={"stage": "sft"})
    assert export(model, tmp_path / "out", steps=2).comparisons["none"].all.cosine > 0.999


def spoil(change, *, with_hash):
    """Changes the bytes of the program, and the hash that is kept of them if asked."""

    def do(folder):
        held = change((folder / PROGRAM).read_bytes())
        (folder / PROGRAM).write_bytes(held)
        if with_hash:
            digest = hashlib.sha256(held).digest()
            (folder / PROGRAM).with_name("main.hash").write_bytes(digest)

    return spoiled(TARGET, do)


@pytest.fixture
def zeroed_table(source):
    """A model, and what zeroes one of its tables in the bytes of a program."""
    model = source(palettized=True)
    layer = linears(open_checkpoint(model.folder))["model.layers.1.mlp.down_proj"]
    table = np.array(layer.tables).tobytes()

    def zero(held):
        assert held.count(table) == 1
        return held.replace(table, bytes(len(table)))

    return model, zero


def test_a_zeroed_table_is_found_by_the_logits(zeroed_table, tmp_path):
    model, zero = zeroed_table
    target = spoil(zero, with_hash=True)
    with pytest.raises(ExportError, match="is not the model, nothing is published: the cosine is"):
        export(model, tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_a_zeroed_table_is_found_by_the_hash(zeroed_table, tmp_path):
    model, zero = zeroed_table
    with pytest.raises(ExportError, match=r"small\.aimodel is damaged: its program is not the one"):
        export(model, tmp_path / "out", target=spoil(zero, with_hash=False))


def test_a_runtime_that_crashes_is_a_line_and_leaves_nothing(source, tmp_path, monkeypatch):
    def cut(held):
        return held[: len(held) // 2]

    model = source()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"small\.aimodel") as caught:
        export(model, tmp_path / "out", target=spoil(cut, with_hash=True))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert not list((tmp_path / "scratch").iterdir())


def test_a_function_that_is_another_as_it_stands_is_named():
    from afm_mlx.export.coreai.worker import check_same

    right, wrong = np.ones((1, 4, 8), np.float16), np.ones((1, 4, 8), np.float16)
    wrong[0, 0] = 2
    check_same("extend_96_8", {"out_logits": right}, {"out_logits": right * 1.01})
    with pytest.raises(ExportError, match="function 'extend_96_8' gives another 'out_logits'"):
        check_same("extend_96_8", {"out_logits": right}, {"out_logits": wrong})
    with pytest.raises(ExportError):
        check_same("extend_96_8", {"out_logits": right}, {"out_logits": right * np.nan})
