"""Our reading and writing beside that of transformers, where torch is installed."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.convert import import_model, smollm2_file
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.errors import ModelError

# These packages warn of their own deprecations when they are imported and when they load models.
pytestmark = pytest.mark.filterwarnings("default")

Make = Callable[..., Decoder]

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", exc_type=ImportError)
    return pytest.importorskip("transformers")


def logits_of(model: Any, tokens: mx.array) -> np.ndarray:
    """Float32 logits of a torch model, [B, L, V]."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.array(tokens, dtype=np.int64))).logits.float().numpy()


def gap(ours: mx.array, theirs: np.ndarray) -> float:
    assert np.abs(theirs).max() > 0.1  # not an empty comparison
    return float(np.abs(np.array(ours) - theirs).max())


@pytest.mark.parametrize(
    ("kind", "changes", "shard"),
    [
        ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}, "1GB"),
        ("Qwen3", {"head_dim": 16, "tie_word_embeddings": False}, "50KB"),
        ("Llama", {"tie_word_embeddings": True}, "1GB"),
        ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}, "50KB"),
        ("Mistral", {"sliding_window": None}, "1GB"),
    ],
)
def test_a_random_folder_of_theirs_gives_the_same_logits(
    kind, changes, shard, transformers, tmp_path
):
    import torch

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **changes)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.7, 1.3)  # gains of one would hide a missing norm
            else:
                parameter.mul_(5)  # the initial spread of 0.02 would leave logits near zero
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    num_files = len(list((tmp_path / "theirs").glob("*.safetensors")))
    assert (num_files > 1) == (shard == "50KB")

    shape = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert shape.qk_norm == (kind == "Qwen3")
    assert (shape.rope_scaling is not None) == ("rope_parameters" in changes)
    tokens = mx.random.randint(0, 128, (2, 150), key=mx.random.key(0))
    ours = open_checkpoint(tmp_path / "ours")(tokens)
    assert gap(ours, logits_of(theirs, tokens)) < 1e-4


def test_they_open_our_checkpoint_and_say_the_same(any_shape, make, transformers, tokens, tmp_path):
    import torch

    model = make(any_shape)
    save_checkpoint(tmp_path, model, None, facts={"stage": "core"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == ("Qwen3" if any_shape.qk_norm else "Llama") + "ForCausalLM"
    assert theirs.config.afm == {"stage": "core"}
    assert gap(model(tokens), logits_of(theirs, tokens)) < 1e-4

    stock = import_mlx_lm("mlx_lm.utils").load_model(tmp_path)[0]
    assert mx.abs(stock(tokens) - model(tokens)).max() < 1e-4

    prompt = tokens[:1, :5]
    generate_step = import_mlx_lm("mlx_lm.generate").generate_step
    ours = [int(token) for token, _ in generate_step(prompt[0], model, max_tokens=20)]
    stocks = [int(token) for token, _ in generate_step(prompt[0], stock, max_tokens=20)]
    answer = theirs.generate(
        torch.tensor(np.array(prompt, dtype=np.int64)),
        attention_mask=torch.ones(1, 5),  # or it takes id 0 in the prompt for padding
        max_new_tokens=20,
        min_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )
    assert ours == stocks == answer[0, 5:].tolist()


@pytest.mark.slow
def test_smollm2_gives_the_logits_that_transformers_reads(transformers, tmp_path):
    import torch

    pytest.importorskip("accelerate")  # transformers wants it for GGUF files
    try:
        file = smollm2_file()
    except ModelError as error:
        pytest.skip(f"{error}: {error.hint}")
    import_model(file, tmp_path / "ours")
    model = open_checkpoint(tmp_path / "ours")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    tokens = mx.array([ids])
    assert gap(model(tokens), logits_of(theirs, tokens)) < 1e-3

    generate_step = import_mlx_lm("mlx_lm.generate").generate_step
    answer = [int(token) for token, _ in generate_step(tokens[0], model, max_tokens=8)]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_smollm2_has_the_ids_of_its_own_tokenizer(transformers, tmp_path):
    try:
        file = smollm2_file()
    except ModelError as error:
        pytest.skip(f"{error}: {error.hint}")
    import_model(file, tmp_path / "ours")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Without digits and line ends: transformers 5.23 forgets the pre-tokenizer of such files.
    for text in ["What is the capital of France?", " Caf\u00e9 na\u00efve", "def f(x): return x"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.decode(ours(text)["input_ids"]) == text
    assert len(ours("2024")["input_ids"]) == 4
