"""Adapters in the engine and in a conversation."""

import json
import shutil

import mlx.core as mx
import pytest

from afm_mlx.decoder.adapters import AdapterFacts, base_hash, write_adapter
from afm_mlx.decoder.checkpoint import open_checkpoint, save_checkpoint
from afm_mlx.decoder.decoder import Decoder
from afm_mlx.decoder.lora import add_lora, lora_arrays
from afm_mlx.errors import ModelError
from afm_mlx.inference.chat import Session, run_command
from afm_mlx.inference.engine import Engine

HELLO = [{"role": "user", "content": "What is on the hill?"}]


def tokens_of(chunks) -> list[int]:
    return [chunk.token for chunk in chunks]


@pytest.fixture
def two_adapters(model_folder, random_adapter, tmp_path):
    """Folders of adapters a and b, of different ranks, for the tiny model."""
    folders = []
    for name, rank in (("a", 2), ("b", 4)):
        folders.append(random_adapter(model_folder, tmp_path / "adapters" / name, rank=rank))
    return folders


def test_each_adapter_answers_in_its_own_way_and_the_model_as_before(engine, two_adapters):
    plain = tokens_of(engine.stream(HELLO, max_tokens=12))
    names = [engine.adapters.add(folder) for folder in two_adapters]
    said = {}
    for name in [*names, *names, None]:
        engine.use_adapter(name)
        said.setdefault(name, []).append(tokens_of(engine.stream(HELLO, max_tokens=12)))
    assert said["a"][0] == said["a"][1] != said["b"][0] == said["b"][1]
    assert said[None] == [plain] != said["a"][:1]


def test_what_one_adapter_has_read_is_read_again_by_another(engine, two_adapters, model_folder):
    for folder in two_adapters:
        engine.adapters.add(folder)
    engine.use_adapter("a")
    list(engine.stream(HELLO, max_tokens=4))
    engine.use_adapter("a")
    list(engine.stream(HELLO, max_tokens=4))
    assert engine.stats.cached_tokens > 0
    engine.use_adapter("b")
    after = tokens_of(engine.stream(HELLO, max_tokens=12))
    assert engine.stats.cached_tokens == 0
    fresh = Engine.open(model_folder, dtype=mx.float32)
    fresh.use_adapter(fresh.adapters.add(two_adapters[1]))
    assert tokens_of(fresh.stream(HELLO, max_tokens=12)) == after


def test_a_folders_own_adapter_is_in_use_when_it_is_opened(model_folder, two_adapters, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "own")
    shutil.move(two_adapters[0], folder / "adapters" / "a")
    config = json.loads((folder / "config.json").read_text())
    config["afm"]["adapter"] = "a"
    (folder / "config.json").write_text(json.dumps(config))
    engine = Engine.open(folder)
    assert engine.adapters.active == engine.default_adapter == "a"
    with_it = tokens_of(engine.stream(HELLO, max_tokens=12))
    engine.use_adapter(None)
    plain = Engine.open(model_folder).stream(HELLO, max_tokens=12)
    assert tokens_of(engine.stream(HELLO, max_tokens=12)) == tokens_of(plain) != with_it


def test_an_adapter_that_has_seen_conversations_makes_a_base_model_chat(
    tmp_path, tokenizer_folder, tiny
):
    base = tmp_path / "base"
    save_checkpoint(base, Decoder(tiny), tokenizer_folder, facts={"stage": "core"})
    engine = Engine.open(base)
    model = open_checkpoint(base)
    add_lora(model, rank=2, scale=1.0, seed=0)
    for name, chat in (("recovery-2", False), ("echo", True)):
        facts = AdapterFacts(name, base_hash(base), "base", 2, 2.0, chat=chat)
        write_adapter(tmp_path / name, lora_arrays(model), facts, dense=True)
        engine.use_adapter(engine.adapters.add(tmp_path / name))
        assert engine.is_chat is chat
    engine.use_adapter(None)
    assert not engine.is_chat


def test_in_a_conversation_adapters_change_from_turn_to_turn(engine, two_adapters):
    for folder in two_adapters:
        engine.adapters.add(folder)
    session = Session(engine, max_tokens=6)
    assert run_command(session, "/adapter").text == "adapter: none (of a, b)"
    assert run_command(session, "/adapter b").text == "adapter: b"
    list(session.ask("What is it?"))
    assert run_command(session, "/adapter").text == "adapter: b (of a, b)"
    assert run_command(session, "/adapter none").text == "adapter: none"
    list(session.ask("And the dog?"))
    assert len(session.messages) == 4
    with pytest.raises(ModelError, match="no adapter is called 'c'") as refused:
        run_command(session, "/adapter c")
    assert refused.value.hint == "there are a, b"


def test_without_adapters_a_conversation_says_how_to_load_one(engine):
    said = run_command(Session(engine, max_tokens=6), "/adapter").text
    assert said == "adapter: none (none is loaded; --adapter loads one)"
