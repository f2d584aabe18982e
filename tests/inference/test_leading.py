"""Ranks that hold parts of a model answer as one that holds all of it."""

import re
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from afm_mlx.errors import ModelError, RunError
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.session import Session
from afm_mlx.inference.speculative import Draft
from afm_mlx.ranks import ALONE, Ranks

from ..local_ranks import on_ranks

PROMPTS = ("The cat sat on", "The cat sat on the mat, and")


def answers(engine: Engine, folder: str) -> dict[str, Any]:
    """Token ids of answers of all kinds, one after the other."""
    found: dict[str, Any] = {}

    def ask(name: str, prompt: str, *, most: int = 100, **how: Any) -> None:
        chunks = engine.stream(prompt, raw=True, max_tokens=4, **how)
        found[name] = [chunk.token for chunk in islice(chunks, most)]
        chunks.close()
        found[f"{name}: cached"] = engine.stats.cached_tokens

    for number, prompt in enumerate(PROMPTS):
        ask(f"greedy {number}", prompt)
    ask("drawn", PROMPTS[0], temperature=1.0, top_p=0.9, seed=5)
    ask("stopped", PROMPTS[0], most=3)
    ask("rounded", PROMPTS[1], kv_bits=8)
    ask("chosen", PROMPTS[1], guide=engine.guides.choices(["a house", "a hill"]))
    engine.use_adapter(engine.adapters.add(Path(folder)))
    ask("adapted", PROMPTS[0])
    engine.use_adapter(None)
    ask("again", PROMPTS[0])
    session = Session(engine, max_tokens=4)
    found["session"] = ["".join(piece.text for piece in session.ask(text)) for text in PROMPTS[1:]]
    return found


def answers_of_all(ranks: Ranks, folder: str, adapter: str, other: str) -> dict[str, Any] | str:
    """What rank 0 answers; of the others, what is said where they have another model."""
    try:
        Engine.open(Path(other if ranks.rank else folder), ranks=ranks)
        refused = ""
    except RunError as error:
        refused = str(error)
    engine = Engine.open(Path(folder), dtype=mx.float32, ranks=ranks, memory_gb=1 + ranks.rank)
    if ranks.rank:
        engine.follow()
        return refused
    found = answers(engine, adapter)
    engine.dismiss()
    return found | {"budget": engine.budget_bytes, "refused": refused}


def test_two_ranks_give_the_tokens_of_one(varied_folder, model_folder, tmp_path, random_adapter):
    adapter = random_adapter(varied_folder, tmp_path / "adapter", rank=4)
    alone = answers_of_all(ALONE, str(varied_folder), str(adapter), "")
    assert alone["greedy 0"] != alone["adapted"]
    assert alone["greedy 1: cached"] > 0
    assert len(alone["stopped"]) == 3
    first, refused = on_ranks(2, answers_of_all, varied_folder, adapter, model_folder)
    assert first.pop("refused") == refused
    assert re.fullmatch(
        "the hash of the weights is [0-9a-f]{8} on rank 0, and [0-9a-f]{8} on rank 1", refused
    )
    assert first == {name: alone[name] for name in first}


def test_a_draft_is_refused_across_machines(varied, draft_folder):
    engine = Engine(varied.model, varied.folder)
    engine.ranks = Ranks(0, 2)
    answer = engine.stream(PROMPTS[0], raw=True, max_tokens=4, draft=Draft.open(draft_folder))
    with pytest.raises(ModelError, match="a draft cannot guess for a model on 2 machines"):
        next(answer)
