import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.adapters import (
    AdapterFacts,
    Adapters,
    base_hash,
    default_adapter,
    find_adapters,
    fuse,
    melted_facts,
    read_adapter,
    read_adapter_facts,
    recovery_adapter,
    write_adapter,
)
from afm_mlx.decoder.checkpoint import (
    open_checkpoint,
    read_facts,
    save_checkpoint,
    write_checkpoint,
)
from afm_mlx.decoder.decoder import Decoder, named_parameters
from afm_mlx.decoder.lora import add_lora, load_lora, lora_arrays
from afm_mlx.errors import ModelError, RunError

Make = Callable[..., Decoder]


@pytest.fixture
def base(make: Make, tmp_path: Path) -> Path:
    folder = tmp_path / "bases" / "small"
    save_checkpoint(folder, make(), None)
    return folder


@pytest.fixture
def factors(make: Make) -> Callable[..., dict[str, mx.array]]:
    """Makes the factors of an adapter that changes the model: B is not 0."""

    def factors(seed: int = 0, rank: int = 4) -> dict[str, mx.array]:
        model = make()
        add_lora(model, rank=rank, scale=2.0, seed=seed)
        keys = mx.random.split(mx.random.key(seed + 100), 14)
        found = lora_arrays(model)
        names = [name for name in found if name.endswith("lora_b")]
        for key, name in zip(keys, names, strict=True):
            found[name] = 0.1 * mx.random.normal(found[name].shape, key=key)
        return found

    return factors


@pytest.fixture
def write(base, factors, tmp_path) -> Callable[..., Path]:
    """Writes an adapter for `base`; returns its folder."""

    def write(name: str, *, seed: int = 0, rank: int = 4, dense: bool = True) -> Path:
        folder = tmp_path / "adapters" / name
        facts = AdapterFacts(
            name, base_hash(base), "small", rank, 2.0 * rank, data=("summaries.jsonl",)
        )
        write_adapter(folder, factors(seed, rank), facts, dense=dense)
        return folder

    return write


def test_an_adapter_survives_its_folder_in_16_bits(write, factors, base):
    read = read_adapter(write("a"), base)
    wanted = factors()
    assert set(read.arrays) == set(wanted)
    for name, array in read.arrays.items():
        assert array.dtype == mx.float16
        assert mx.array_equal(array, wanted[name].astype(mx.float16)), name
    assert (read.facts.rank, read.facts.scale, read.facts.data) == (4, 2.0, ("summaries.jsonl",))


def test_an_adapter_of_another_base_is_refused_with_names_and_hashes(write, make, tmp_path):
    folder, other = write("a"), tmp_path / "bases" / "other"
    save_checkpoint(other, make(intermediate_size=48), None)
    with pytest.raises(ModelError) as refused:
        read_adapter(folder, other)
    ours, theirs = read_adapter_facts(folder).base[:8], base_hash(other)[:8]
    assert str(refused.value) == (
        f"adapter 'a' is for 'small' ({ours}), and 'other' is another base ({theirs})"
    )
    assert refused.value.hint.startswith("train one for this base: afm adapt")


def test_a_base_is_known_by_its_weights_alone(base, make, tmp_path):
    before = base_hash(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"afm": {"adapter": "recovery-16"}}))
    (base / "adapters").mkdir()
    assert base_hash(base) == before
    model = make()
    write_checkpoint(
        tmp_path / "cut", model.shape, named_parameters(model), None, shard_bytes=9_000
    )
    changed = named_parameters(model) | {"model.norm.weight": mx.zeros(32)}
    write_checkpoint(base, model.shape, changed, None)
    assert len({before, base_hash(base), base_hash(tmp_path / "cut")}) == 3


def test_stock_mlx_lm_reads_it_beside_a_dense_base(write, factors, base, make, tokens):
    theirs, _ = import_mlx_lm("mlx_lm.utils").load_model(base)
    utils = import_mlx_lm("mlx_lm.tuner.utils")
    theirs = utils.load_adapters(theirs, str(write("a")))
    ours = make()
    load_lora(ours, read_adapter(write("a"), base).arrays, scale=2.0)
    assert mx.abs(ours(tokens) - make()(tokens)).max() > 0.1
    assert mx.abs(theirs(tokens) - ours(tokens)).max() < 1e-4


def test_peft_finds_its_names_layout_and_settings(write):
    folder = write("a", rank=3)
    theirs = dict(mx.load(str(folder / "adapter_model.safetensors")))
    ours = dict(mx.load(str(folder / "adapters.safetensors")))
    assert len(theirs) == len(ours) == 2 * 7 * 2
    down = "base_model.model.model.layers.1.mlp.down_proj"
    assert theirs[f"{down}.lora_A.weight"].shape == (3, 64)
    assert theirs[f"{down}.lora_B.weight"].shape == (32, 3)
    b = ours["model.layers.1.mlp.down_proj.lora_b"]
    assert mx.array_equal(theirs[f"{down}.lora_B.weight"], b.T)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_an_adapter_that_mlx_lm_has_made_is_read(base, make, tokens, tmp_path):
    theirs, _ = import_mlx_lm("mlx_lm.utils").load_model(base)
    settings = {"rank": 3, "scale": 5.0, "dropout": 0.0}
    import_mlx_lm("mlx_lm.tuner.utils").linear_to_lora_layers(theirs, 1, settings)
    factors = {
        name: 0.1 * mx.random.normal(array.shape, key=mx.random.key(number))
        for number, (name, array) in enumerate(tree_flatten(theirs.parameters()))
        if name.endswith(("lora_a", "lora_b"))
    }
    theirs.load_weights(list(factors.items()), strict=False)
    folder = tmp_path / "of-mlx-lm"
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), factors)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    held = Adapters(make(), base)
    held.use(held.add(folder))
    assert held["of-mlx-lm"].facts.base == ""
    assert mx.abs(held.model(tokens) - make()(tokens)).max() > 0.1
    assert mx.abs(held.model(tokens) - theirs(tokens)).max() < 1e-4


def test_an_adapter_of_peft_is_read_and_one_with_more_is_refused(write, base, make, tokens):
    folder = write("a")
    ours = Adapters(make(), base)
    ours.use(ours.add(folder))
    for name in ("adapter.json", "adapters.safetensors"):
        (folder / name).unlink()
    theirs = Adapters(make(), base)
    theirs.use(theirs.add(folder))
    assert mx.array_equal(theirs.model(tokens), ours.model(tokens))
    file = folder / "adapter_model.safetensors"
    more = dict(mx.load(str(file))) | {"base_model.model.lm_head.weight": mx.zeros((2, 2))}
    mx.save_safetensors(str(file), more)
    with pytest.raises(ModelError, match=r"more than low-rank factors: base_model\.model\.lm_head"):
        read_adapter(folder, base)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ModelError, match="is of kind lora with use_dora, and only plain lora is"):
        read_adapter(folder, base)


def test_beside_a_palettized_base_there_is_nothing_for_peft(write):
    folder = write("a", dense=False)
    assert not (folder / "adapter_model.safetensors").exists()
    assert "peft_type" not in json.loads((folder / "adapter_config.json").read_text())


def test_numbers_that_16_bits_cannot_hold_are_refused_and_leave_nothing(factors, tmp_path):
    arrays = factors()
    arrays["model.layers.0.mlp.up_proj.lora_b"] *= 1e6
    facts = AdapterFacts("a", "0" * 64, "small", 4, 8.0)
    with pytest.raises(RunError, match=r"hold: model\.layers\.0\.mlp\.up_proj\.lora_b"):
        write_adapter(tmp_path / "a", arrays, facts, dense=False)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_replaces_one_and_no_other_folder(write, factors, tmp_path):
    first = write("a")
    write("a", seed=1)
    kept = dict(mx.load(str(first / "adapters.safetensors")))
    name = "model.layers.0.self_attn.q_proj.lora_a"
    assert mx.array_equal(kept[name], factors(1)[name].astype(mx.float16))
    (tmp_path / "letters").mkdir()
    facts = AdapterFacts("a", "0" * 64, "small", 4, 8.0)
    with pytest.raises(ModelError, match="letters' exists already and is no adapter"):
        write_adapter(tmp_path / "letters", factors(), facts, dense=False)


def test_an_adapter_stays_where_the_disk_has_no_room_for_the_next(write, base):
    first = write("a")
    before = {name: array.tolist() for name, array in read_adapter(first, base).arrays.items()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(RunError, match="could not be written whole"):
            write("a", seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = {name: array.tolist() for name, array in read_adapter(first, base).arrays.items()}
    assert kept == before
    assert [each.name for each in first.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter.json").write_text("{"), "adapter.json is damaged"),
        (lambda folder: (folder / "adapter.json").write_text('{"name": "a"}'), "is damaged"),
        (lambda folder: _empty(folder, "adapter.json"), "is no adapter: it has no adapter.json"),
        (lambda folder: _empty(folder, "adapters.safetensors"), "adapters.safetensors is absent"),
        (lambda folder: _cut(folder / "adapters.safetensors"), "bytes, its header says"),
        (lambda folder: _say(folder, rank=5), "has factors of rank 4 and 4, and the adapter rank"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(write, base, spoil, message):
    folder = write("a")
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        read_adapter(folder, base)


def test_adapters_are_found_in_a_folder_and_in_a_model(write, base):
    folder = write("a")
    (base / "adapters").mkdir()
    inside = shutil.copytree(folder, base / "adapters" / "recovery-4")
    (base / "adapters" / "half").mkdir()
    assert find_adapters(base) == [inside]
    assert find_adapters(folder.parent) == [folder]
    assert find_adapters(folder) == []


def test_a_product_adapter_starts_from_the_recovery_adapter_of_its_rank(
    write, base, make, tmp_path
):
    assert recovery_adapter(base, rank=4) is None
    save_checkpoint(base, make(), None, facts={"adapter": "recovery-4"})
    (base / "adapters").mkdir()
    for rank in (2, 4):
        shutil.move(write(f"recovery-{rank}", rank=rank), base / "adapters" / f"recovery-{rank}")
    for rank in (2, 4):
        found = recovery_adapter(base, rank=rank)
        assert found.facts.name == f"recovery-{rank}"
        assert {array.dtype for array in found.arrays.values()} == {mx.float32}
    with pytest.raises(
        ModelError, match="has recovery adapters of rank 2, 4, and an ad"
    ) as refused:
        recovery_adapter(base, rank=16)
    assert refused.value.hint == "--rank 4"


def test_a_model_folder_says_which_adapter_it_wants(base, make):
    assert default_adapter(base) is None
    save_checkpoint(base, make(), None, facts={"adapter": "recovery-16"})
    assert default_adapter(base) == base / "adapters" / "recovery-16"


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_fused_it_computes_as_beside_its_base_and_keeps_the_format(
    write, base, make, tokens, tmp_path, dtype
):
    model = make()
    model.set_dtype(dtype)
    save_checkpoint(base, model, None, facts={"stage": "core", "adapter": "a"})
    folder = write("a")
    held = Adapters(open_checkpoint(base), base, dtype=dtype)
    held.use(held.add(folder))
    fuse(base, folder, tmp_path / "fused")
    fused = open_checkpoint(tmp_path / "fused")
    exact = 1e-4 if dtype == mx.float32 else 0.3  # bfloat16 has 8 digits, logits are near 4
    assert mx.abs(fused(tokens) - held.model(tokens)).max() < exact
    assert {array.dtype for array in named_parameters(fused).values()} == {dtype}
    assert read_facts(tmp_path / "fused") == {"stage": "core", "fused": "a"}


def test_fused_with_what_has_seen_conversations_it_chats_whatever_it_was(base):
    facts = AdapterFacts("mail", base_hash(base), "small", 4, 8.0, chat=True)
    for before in ({"stage": "core"}, {"stage": "recover", "stage_before": "core"}):
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"afm": before}))
        assert melted_facts(base, facts) == {"stage": "sft", "fused": "mail"}


def test_switching_there_and_back_gives_the_same_bits(write, base, make, tokens):
    model = make()
    held = Adapters(model, base)
    assert held.add(write("a", rank=4)) == "a"
    assert held.add(write("b", seed=1, rank=2)) == "b"
    plain = model(tokens)
    held.use("a")
    first = model(tokens)
    held.use("b")
    other = model(tokens)
    held.use("a")
    assert mx.array_equal(model(tokens), first)
    held.use(None)
    assert mx.array_equal(model(tokens), plain)
    assert not mx.array_equal(first, other)
    assert not mx.array_equal(first, plain)
    assert (held.names, held.active) == (["a", "b"], None)


def test_factors_of_an_output_layer_count_for_whoever_computes_it_itself(make, tokens):
    # PEFT may adapt it; scores and guided answers read its weight.
    model = make(tied=False)
    plain = model(tokens)
    a, b = (mx.random.normal(size, key=mx.random.key(size[0])) for size in ((32, 3), (3, 64)))
    load_lora(model, {"lm_head.lora_a": a, "lm_head.lora_b": b}, scale=0.5)
    logits = model.hidden(tokens) @ model.output_weight.T
    assert mx.allclose(logits, model(tokens), atol=1e-3)
    assert mx.abs(logits - plain).max() > 0.1


def test_switching_leaves_the_base_as_it_was(write, base, make):
    model = make()
    before = {name: mx.array(array) for name, array in named_parameters(model).items()}
    held = Adapters(model, base)
    for name in ("a", "b"):
        held.add(write(name))
        held.use(name)
    held.use(None)
    assert all(
        mx.array_equal(array, before[name]) for name, array in named_parameters(model).items()
    )
    assert held.bytes == 2 * 4 * sum(array.size for array in held["a"].arrays.values())


def test_switching_copies_no_weight(write, base, make):
    model = make()
    held = Adapters(model, base)
    bare = model.layers[1].mlp.down_proj
    held.add(write("a"))
    held.use("a")
    assert model.layers[1].mlp.down_proj.linear is bare
    held.use(None)
    assert model.layers[1].mlp.down_proj is bare


def test_a_name_is_held_once_and_must_be_known(write, base, make, tmp_path):
    held = Adapters(make(), base)
    first = write("a")
    assert held.add(first) == held.add(first) == "a"
    with pytest.raises(ModelError, match="another adapter is called 'a' already"):
        held.add(shutil.copytree(first, tmp_path / "copy"))
    with pytest.raises(ModelError, match="no adapter is called 'b'") as refused:
        held.use("b")
    assert refused.value.hint == "there are a"


def test_factors_of_other_sizes_are_refused_by_layer(write, base, make):
    held = Adapters(make(intermediate_size=48), base)
    with pytest.raises(
        ModelError, match=r"layers\.0\.mlp\.gate_proj takes 32 to 64, and this model's 32 to 48"
    ):
        held.add(write("a"))
    held = Adapters(make(num_layers=1), base)
    with pytest.raises(ModelError, match=r"layers that this model has not: model\.layers\.1"):
        held.add(write("a"))


def _empty(folder: Path, name: str) -> None:
    """Delete a file, and what could be read in its place."""
    for each in (name, "adapter_config.json", "adapter_model.safetensors"):
        (folder / each).unlink(missing_ok=True)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _say(folder: Path, **changes: object) -> None:
    """Change what adapter.json says."""
    file = folder / "adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
