import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("coremltools")

from afm_mlx.decoder.adapters import Adapters
from afm_mlx.decoder.checkpoint import (
    open_checkpoint,
    read_shape,
    save_checkpoint,
    stored_bits,
)
from afm_mlx.decoder.convert import smollm2_file
from afm_mlx.decoder.palette import PaletteLinear, pack, replace_linears
from afm_mlx.errors import ExportError, ModelError
from afm_mlx.export.coreml.contents import planned_bytes
from afm_mlx.export.coreml.package import Package, constants, is_stored
from afm_mlx.export.coreml.parts import HEAD_ROWS
from afm_mlx.export.coreml.runtime import NumpyEngine, PackageRuntime
from afm_mlx.export.coreml.target import FACTS, README, TARGET, packages
from afm_mlx.export.publish import check, export_model
from afm_mlx.export.targets import Source
from afm_mlx.settings.export import CoreMl, CoreMlVerifier
from afm_mlx.zoo import resolve_model

from .conftest import LLAMA3_ROPE, spoiled

pytestmark = pytest.mark.filterwarnings("default")  # coremltools has its own

SHORT = CoreMl(prefill_tokens=12, decode_tokens=4)
NEAR = 0.015  # of the logits' standard deviation: rounding of constants to float16; seen 0.007
IDS = np.random.default_rng(5).integers(0, 320, 96).tolist()


def written(source, folder, settings=SHORT):
    """The package, without its verification."""
    TARGET.write(source, folder, settings)
    return Package(folder / "small.mlpackage")


def spread(model, ids):
    """Logits of all places, and their standard deviation."""
    logits = np.array(model(mx.array([ids]))[0])
    return logits, logits.std()


def running(package, *, adapter="", settings=SHORT, context=96, rounds=False):
    widths = {
        f"decode{adapter}": settings.decode_tokens,
        f"prefill{adapter}": settings.prefill_tokens,
    }
    files = [package.folder] if isinstance(package, Package) else [each.folder for each in package]
    engine = NumpyEngine(files, f"decode{adapter}", rounds=rounds)
    runtime = PackageRuntime(engine, widths, context)
    runtime.reset()
    return runtime


def spoil_table(package, place=0):
    """Zeros in place of one table of weight.bin."""
    starts = [start for name, parameter, start, _ in package.stored() if parameter == "lut"]
    size, begin = package.described(starts[place])
    with package.weight_file.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(min(size, 32)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"palettized": True},
        {"qk_norm": False, "palettized": True},
        {"qk_norm": False, "rope_scaling": LLAMA3_ROPE},
        {"num_kv_heads": 4},
    ],
    ids=["dense", "palettized", "llama", "llama3", "a key head each"],
)
def test_every_kind_of_decoder_is_the_same_model_there(source, changes, tmp_path):
    model = source(**changes)
    package = written(model, tmp_path / "out")
    ours, deviation = spread(open_checkpoint(model.folder, dtype=mx.float32), IDS[:40])
    runtime = running(package)
    assert np.abs(runtime.prefill(IDS[:30]) - ours[29]).max() < NEAR * deviation
    for place in range(30, 40):
        assert np.abs(runtime.step(IDS[place]) - ours[place]).max() < NEAR * deviation


@pytest.mark.parametrize("length", [1, 4, 5, 12, 13, 90, 95, 96])
def test_a_text_of_any_length_up_to_the_context_is_read(source, length, tmp_path):
    # Chunks that are partly filled, and those near the end, which start earlier.
    model = source(palettized=True)
    runtime = running(written(model, tmp_path / "out"))
    ours, deviation = spread(open_checkpoint(model.folder, dtype=mx.float32), IDS)
    logits = runtime.prefill(IDS[:length])
    assert np.abs(logits - ours[length - 1]).max() < NEAR * deviation
    if length < 96:
        rest = [runtime.step(token) for token in IDS[length:]]
        assert np.abs(np.array(rest) - ours[length:]).max() < NEAR * deviation


def test_a_vocabulary_in_several_pieces_is_looked_up_and_scored(source, tmp_path):
    rows = 2 * HEAD_ROWS + 9
    model = source(vocab_size=rows, palettized=True)
    package = written(model, tmp_path / "out")
    ids = [0, HEAD_ROWS - 1, HEAD_ROWS, 2 * HEAD_ROWS, rows - 1, 7, rows // 3, rows // 3 - 1]
    ours, deviation = spread(open_checkpoint(model.folder, dtype=mx.float32), ids)
    assert np.abs(running(package).prefill(ids) - ours[-1]).max() < NEAR * deviation
    names = [name for name, parameter, _, _ in package.stored() if parameter == "data"]
    assert sorted(names) == [f"model_embed_tokens_{number}" for number in range(3)]


def test_each_adapter_has_its_functions_and_they_share_the_base(source, with_adapter, tmp_path):
    model = with_adapter(with_adapter(source(palettized=True)), "dogs-2")
    settings = CoreMl(prefill_tokens=12)
    exported = export_model(model, TARGET, tmp_path / "out", settings, steps=1)
    assert list(exported.comparisons) == ["none", "cats", "dogs-2"]
    assert all(each.is_stand_in for each in exported.comparisons.values())
    both, bare = (
        Package(tmp_path / "out/small.mlpackage"),
        written(replace(model, adapters=()), tmp_path / "bare", settings),
    )
    functions = [each.name for each in both.specification.description.functions]
    assert sorted(functions) == sorted(
        f"{which}{ending}" for which in ("decode", "prefill") for ending in ("", "_cats", "_dogs_2")
    )
    factors = planned_bytes(model, settings)["adapters"]
    growth = both.weight_file.stat().st_size - bare.weight_file.stat().st_size
    headers = 2 * 2 * 14 * 128  # two adapters, two factors of 14 layers, 64 bytes and a gap at most
    assert factors <= growth <= factors + headers
    opened = open_checkpoint(model.folder, dtype=mx.float32)
    adapters = Adapters(opened, model.folder)
    for folder in model.adapters:
        adapters.use(adapters.add(folder))
        ours, deviation = spread(opened, IDS[:20])
        ending = "_cats" if adapters.active == "cats" else "_dogs_2"
        theirs = running(both, adapter=ending, settings=settings).prefill(IDS[:20])
        assert np.abs(theirs - ours[-1]).max() < NEAR * deviation


def test_a_large_model_is_several_packages_that_say_the_same(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True, num_layers=3))
    settings = SHORT.model_copy(update={"package_bytes": 15_000})
    exported = export_model(model, TARGET, tmp_path / "out", settings, steps=1)
    assert list(exported.comparisons) == ["none", "cats"]
    found = packages(tmp_path / "out")
    assert [each.folder.name for each in found] == [f"small-{n}.mlpackage" for n in (1, 2, 3)]
    ours, deviation = spread(open_checkpoint(model.folder, dtype=mx.float32), IDS[:40])
    runtime = running(found)
    assert np.abs(runtime.prefill(IDS[:30]) - ours[29]).max() < NEAR * deviation
    assert np.abs(runtime.step(IDS[30]) - ours[30]).max() < NEAR * deviation
    # The embedding is in the first one only, for both ends.
    for number, package in enumerate(found):
        names = [name for name, _, _, _ in package.stored()]
        assert ("model_embed_tokens_0" in names) == ("model_norm" in names) == (number == 0)
    for size in exported.sizes:
        assert size.planned_bytes in (None, size.bytes), size.component
    text = (tmp_path / "out" / README).read_text()
    assert 'names = ["small-1.mlpackage", "small-2.mlpackage", "small-3.mlpackage"]' in text
    assert 'open("head")' in text


def test_a_part_that_is_missing_is_told(source, tmp_path):
    settings = SHORT.model_copy(update={"package_bytes": 20_000})
    TARGET.write(source(palettized=True), tmp_path / "out", settings)
    shutil.rmtree(tmp_path / "out/small-1.mlpackage")
    with pytest.raises(ExportError, match="has 1 Core ML packages, must have 2"):
        TARGET.open(tmp_path / "out", settings, "none")


def test_tables_stay_tables_of_their_bits(source, tmp_path):
    model = source(palettized=True)
    network = open_checkpoint(model.folder)
    name = "model.layers.1.mlp.up_proj"
    ids = mx.random.randint(0, 4, (64, 32), key=mx.random.key(1))
    tables = mx.random.normal((4, 4), key=mx.random.key(2)).astype(mx.float16)
    low = PaletteLinear(pack(ids, 2), tables, bits=2, group_rows=16, in_features=32)
    replace_linears(network, {name: low})
    save_checkpoint(model.folder, network, model.folder)
    package = written(model, tmp_path / "out")
    held = {(name, parameter): size for name, parameter, _, size in package.stored()}
    assert held["model_layers_0_mlp_up_proj", "indices"] == 64 * 32 * 4 // 8
    assert held["model_layers_1_mlp_up_proj", "indices"] == 64 * 32 * 2 // 8
    (found,) = (
        constants(each)
        for each in package.operations("decode")
        if each.outputs and each.outputs[0].name == "model_layers_1_mlp_up_proj"
    )
    assert np.array_equal(package.value(found["indices"])[:, :, 0, 0], np.array(ids))
    assert np.array_equal(package.value(found["lut"]).reshape(4, 4), np.array(tables))
    assert TARGET.differences(tmp_path / "out", model, SHORT) == []


def test_the_weight_file_has_the_planned_size(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True, hidden_size=128, intermediate_size=352))
    exported = export_model(model, TARGET, tmp_path / "out", SHORT, steps=1)
    for size in exported.sizes:
        assert size.planned_bytes in (None, size.bytes), size.component
    counted = stored_bits(model.folder)
    known = {size.component: size.bytes for size in exported.sizes}
    for part in ("linears", "embedding"):
        assert known[part] == counted[part].bits / 8
    weights = Package(tmp_path / "out/small.mlpackage").weight_file.stat().st_size
    held = ("embedding", "linears", "norms", "adapters", "positions", "headers")
    assert weights == sum(known[part] for part in held)
    assert sum(known.values()) == exported_bytes(tmp_path / "out")
    assert weights < 1.05 * (counted["all"].bits / 8 + known["adapters"])


def exported_bytes(folder):
    """All files but those that are about the export."""
    about = {FACTS, README, "export.json"}
    return sum(
        each.stat().st_size
        for each in folder.rglob("*")
        if each.is_file() and each.name not in about
    )


def test_a_table_of_zeros_is_found_by_its_name(source, tmp_path):
    wrong = spoiled(TARGET, lambda folder: spoil_table(Package(folder / "small.mlpackage")))
    with pytest.raises(ExportError, match=r"nothing is published: model_layers_\w+ \(lut\)$"):
        export_model(source(palettized=True), wrong, tmp_path / "out", SHORT, steps=1)
    assert not (tmp_path / "out").exists()


def test_a_table_of_zeros_is_heard_in_the_logits(source, tmp_path):
    wrong = spoiled(
        TARGET,
        lambda folder: spoil_table(Package(folder / "small.mlpackage")),
        differences=lambda *_: (),
    )
    said = []
    with pytest.raises(ExportError, match="what was written is not the model, nothing is publish"):
        export_model(
            source(palettized=True), wrong, tmp_path / "out", SHORT, steps=4, say=said.append
        )
    assert said[-1].startswith("all ")
    assert not (tmp_path / "out").exists()


def test_what_is_beside_the_package_tells_how_to_drive_it(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True))
    package = written(model, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / FACTS).read_text())
    assert facts["functions"]["prefill_cats"] == {"tokens": 12, "adapter": "cats"}
    for file in (package.program_file, package.weight_file):
        name = str(file.relative_to(tmp_path / "out"))
        assert facts["sha256"][name] == hashlib.sha256(file.read_bytes()).hexdigest()
    noted = package.metadata
    assert noted["afm_mlx.model_hash"] == facts["model_hash"]
    assert noted["afm_mlx.stage"] == "sft"
    assert json.loads(noted["afm_mlx.functions"]) == facts["functions"]
    metadata = package.specification.description.metadata
    assert (metadata.license, metadata.author) == ("", "")
    for function in package.specification.description.functions:
        for feature in (*function.input, *function.output, *function.state):
            assert feature.shortDescription
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 328
    assert (tmp_path / "out/tokenizer.json").is_file()
    text = (tmp_path / "out" / README).read_text()
    for word in ('open("prefill_cats")', 'open("decode_cats")', "context = 96", "No license is"):
        assert word in text
    assert "DECODE" not in text


def test_the_default_context_is_cut_to_the_models_own(source, tmp_path):
    package = written(source(), tmp_path / "out", CoreMl())
    assert package.metadata["afm_mlx.context_tokens"] == "96"
    runtime = TARGET.open(tmp_path / "out", CoreMl(), "none")
    assert runtime.context_tokens == 96


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"tied": False}, {}, "its output layer is not its embedding"),
        ({}, {"context_tokens": 2_048}, "context_tokens is 2,048, and the model was made for 96"),
        ({}, {"prefill_tokens": 128}, "prefill_tokens is 128, and the context has 96 tokens"),
        ({}, {"decode_tokens": 97}, "decode_tokens is 97, and the context has 96 tokens"),
        ({}, {"verify_with": CoreMlVerifier.COREML}, "Core ML is on macOS only"),
    ],
)
def test_what_a_package_cannot_hold_is_refused_before_anything_is_written(
    source, changes, settings, reason, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ExportError, match=reason):
        check(source(**changes), TARGET, tmp_path / "out", CoreMl(**settings))


def test_a_missing_coremltools_is_named_with_what_to_type(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match="needs the package coremltools, which is not inst") as it:
        check(source(), TARGET, tmp_path / "out", SHORT)
    assert it.value.hint == "pip install 'afm-mlx[coreml]'"


def test_nothing_is_said_of_programs_that_are_not_installed():
    code = "from afm_mlx.export.coreml.package import import_coremltools as go; go()"
    quiet = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # not inherited: mlx-lm has set it here
    environment = {name: value for name, value in os.environ.items() if name != quiet}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, b"")


def test_arrays_are_stored_once_for_all_functions(source, with_adapter, tmp_path):
    package = written(with_adapter(source(palettized=True)), tmp_path / "out")
    places: dict[tuple[str, str], set[int]] = {}
    for function in package.specification.mlProgram.functions:
        for operation in package.operations(function):
            for parameter, value in constants(operation).items():
                if is_stored(value):
                    key = operation.outputs[0].name, parameter
                    places.setdefault(key, set()).add(value.blobFileValue.offset)
    assert places
    assert {len(each) for each in places.values()} == {1}


def test_coremltools_reads_the_package_back_and_infers_the_same_types(
    source, with_adapter, tmp_path
):
    # Its reader builds the program anew, and checks every operation's types and sizes.
    from coremltools.converters.mil.frontend.milproto.load import load

    package = written(with_adapter(source(palettized=True)), tmp_path / "out")
    read = load(
        package.specification,
        specification_version=package.specification.specificationVersion,
        file_weights_dir=str(package.weight_file.parent),
    )
    assert sorted(read.functions) == ["decode", "decode_cats", "prefill", "prefill_cats"]
    for function in read.functions.values():
        (logits,) = function.outputs
        assert logits.shape == (1, 1, 328)


@pytest.mark.slow
def test_a_real_model_says_the_same_there(tmp_path):
    # Its activations are those of a trained model: none may leave float16.
    try:
        smollm2_file()
    except ModelError as error:
        pytest.skip(f"{error}: {error.hint}")
    folder = resolve_model("smollm2", runs=tmp_path).path
    model = Source(folder, "smollm2", read_shape(folder))
    settings = CoreMl(context_tokens=256)
    exported = export_model(model, TARGET, tmp_path / "out", settings, steps=8)
    found = exported.comparisons["none"].all
    assert (found.cosine > 0.9999, found.same + found.ties) == (True, found.steps)
