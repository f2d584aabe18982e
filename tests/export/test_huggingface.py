import json

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.adapters import Adapters
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts
from afm_mlx.decoder.convert import smollm2_file
from afm_mlx.errors import ExportError, ModelError
from afm_mlx.export.huggingface import CARD, GENERATION_CONFIG, TARGET, MlxLmRuntime
from afm_mlx.export.publish import export_model
from afm_mlx.export.targets import Source
from afm_mlx.settings.export import HuggingFace, NumberFormat
from afm_mlx.zoo import resolve_model

from .conftest import LLAMA3_ROPE, spoiled

pytestmark = pytest.mark.filterwarnings("default")  # torch and transformers have their own

EXACT = HuggingFace(dtype=NumberFormat.FLOAT32)
IDS = mx.random.randint(0, 320, (1, 40), key=mx.random.key(3))


def stock(folder):
    """The folder in mlx-lm's own architecture."""
    return import_mlx_lm("mlx_lm.utils").load_model(folder)[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied": False}, {"qk_norm": False}, {"qk_norm": False, "rope_scaling": LLAMA3_ROPE}],
    ids=["qwen3", "untied", "llama", "llama3"],
)
def test_every_kind_of_decoder_is_the_same_model_elsewhere(source, changes, tmp_path):
    model = source(**changes)
    exported = export_model(model, TARGET, tmp_path / "out", EXACT, steps=8)
    assert exported.comparisons["none"].all.max_error < 1e-4
    ours = open_checkpoint(model.folder)(IDS)
    assert mx.abs(stock(tmp_path / "out")(IDS) - ours).max() < 1e-4


def test_an_adapter_is_folded_in(source, with_adapter, tmp_path):
    model = with_adapter(source(stage="core"))
    exported = export_model(model, TARGET, tmp_path / "out", EXACT, steps=4)
    assert list(exported.comparisons) == ["cats"]
    adapted = open_checkpoint(model.folder)
    plain = adapted(IDS)
    adapters = Adapters(adapted, model.folder)
    adapters.use(adapters.add(model.adapters[0]))
    with_it, ours = adapted(IDS), stock(tmp_path / "out")(IDS)
    assert mx.abs(ours - with_it).max() < 1e-3
    assert mx.abs(ours - plain).max() > 0.1
    # It chats now, as the adapter has seen conversations.
    assert read_facts(tmp_path / "out") == {"stage": "sft", "fused": "cats"}


def test_tables_are_looked_up_exactly(source, tmp_path):
    model = source(palettized=True)
    export_model(model, TARGET, tmp_path / "out", EXACT, steps=4)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    weights = mx.load(str(tmp_path / "out/model.safetensors"))
    layer = open_checkpoint(model.folder).model.layers[1].mlp.up_proj
    assert mx.array_equal(weights["model.layers.1.mlp.up_proj.weight"], layer.dense())


def test_an_adapter_is_folded_into_what_tables_hold(source, with_adapter, tmp_path):
    model = with_adapter(source(palettized=True))
    exported = export_model(model, TARGET, tmp_path / "out", EXACT, steps=4)
    assert exported.comparisons["cats"].all.max_error < 1e-3


@pytest.mark.parametrize("dtype", list(NumberFormat))
def test_weights_have_the_number_format_and_size_that_were_asked_for(source, dtype, tmp_path):
    model = source()
    settings = HuggingFace(dtype=dtype)
    exported = export_model(model, TARGET, tmp_path / "out", settings, steps=2)
    weights = mx.load(str(tmp_path / "out/model.safetensors"))
    assert {str(each.dtype) for each in weights.values()} == {f"mlx.core.{dtype}"}
    for size in exported.sizes:
        assert size.planned_bytes in (None, size.bytes), size.component
    files = (tmp_path / "out").glob("*.safetensors")
    shown = {size.component: size.bytes for size in exported.sizes}
    assert sum(file.stat().st_size for file in files) == sum(
        shown[part] for part in ("embedding", "linears", "norms", "headers")
    )


def test_what_float16_cannot_hold_is_refused(source, tmp_path):
    model = source()
    weights = mx.load(str(model.folder / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1e5
    mx.save_safetensors(str(model.folder / "model.safetensors"), weights)
    settings = HuggingFace(dtype=NumberFormat.FLOAT16)
    with pytest.raises(ExportError, match=r"model.norm.weight has .* float16 cannot hold"):
        export_model(model, TARGET, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


NAME = "model.layers.0.self_attn.k_proj.weight"


def zero(folder):
    weights = mx.load(str(folder / "model.safetensors"))
    weights[NAME] = mx.zeros_like(weights[NAME])
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


def other_template(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace("<turn:user>", "<turn:tool>"))


@pytest.mark.parametrize(
    ("spoil", "name"), [(zero, NAME), (other_template, "tokenizer_config.json")]
)
def test_what_is_not_as_meant_is_named(source, spoil, name, tmp_path):
    with pytest.raises(ExportError, match=f"is not the model, nothing is published: {name}"):
        export_model(source(), spoiled(TARGET, spoil), tmp_path / "out", EXACT, steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [(zero, "the cosine is"), (other_template, "its tokenizer makes other prompts")],
)
@pytest.mark.parametrize("dtype", list(NumberFormat))
def test_it_is_caught_by_running_it_alone(source, spoil, what, dtype, tmp_path):
    blind = spoiled(TARGET, spoil, differences=lambda *_: ())
    with pytest.raises(ExportError, match=what):
        export_model(source(), blind, tmp_path / "out", HuggingFace(dtype=dtype), steps=2)
    assert not (tmp_path / "out").exists()


def test_without_torch_mlx_lm_stands_in_and_says_so(source, tmp_path):
    model = source()
    TARGET.write(model, tmp_path / "out", EXACT)
    runtime = MlxLmRuntime(tmp_path / "out")
    assert runtime.is_stand_in
    assert runtime.name.endswith("float32 (torch is not installed)")
    runtime.reset()
    ids = np.array(IDS[0]).tolist()
    runtime.prefill(ids[:-1])
    ours = open_checkpoint(model.folder)(IDS)[0, -1]
    assert np.abs(runtime.step(ids[-1]) - np.array(ours)).max() < 1e-4


def test_the_card_says_what_is_known_and_leaves_the_license_open(source, with_adapter, tmp_path):
    model = with_adapter(source())
    TARGET.write(model, tmp_path / "out", HuggingFace())
    card = (tmp_path / "out" / CARD).read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# small\n" in card
    assert "| weights | bfloat16, 0.1 MB |" in card
    assert "| stage | sft |" in card
    assert "| adapter | cats, rank 2, folded in |" in card
    assert "**No license is stated yet.**" in card
    assert "\nlicense" not in card.split("---")[1]
    assert "language:" not in card


def test_both_ends_of_an_answer_are_in_the_generation_config(source, tmp_path):
    model = source()
    TARGET.write(model, tmp_path / "out", HuggingFace())
    copied = json.loads((tmp_path / "out" / GENERATION_CONFIG).read_text())
    (model.folder / GENERATION_CONFIG).unlink()
    TARGET.write(model, tmp_path / "out2", HuggingFace())
    made = json.loads((tmp_path / "out2" / GENERATION_CONFIG).read_text())
    assert isinstance(copied["eos_token_id"], list)
    assert made["eos_token_id"] == copied["eos_token_id"][0]  # all that the other files say


@pytest.mark.slow
def test_transformers_and_mlx_lm_answer_from_smollm2_as_we_do(tmp_path):
    torch = pytest.importorskip("torch", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")
    try:
        smollm2_file()
    except ModelError as error:
        pytest.skip(f"{error}: {error.hint}")
    folder = resolve_model("smollm2", runs=tmp_path).path
    model = open_checkpoint(folder)
    TARGET.write(Source(folder, "smollm2", model.shape), tmp_path / "out", EXACT)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Why is the sky blue? Answer at length."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    generate_step = import_mlx_lm("mlx_lm.generate").generate_step
    prompt = mx.array(ids)
    ours = [int(token) for token, _ in generate_step(prompt, model, max_tokens=64)]
    stocks = stock(tmp_path / "out")
    assert [int(token) for token, _ in generate_step(prompt, stocks, max_tokens=64)] == ours
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    answer = theirs.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
    )
    assert answer[0, len(ids) :].tolist() == ours
