"""Ranks that hold parts of a model answer many at once as one that holds all answers each."""

import shutil
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from afm_mlx.errors import ModelError
from afm_mlx.inference import batches
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.passes import follow, gather
from afm_mlx.inference.requests import Sampling
from afm_mlx.ranks import ALONE, Ranks

from ..local_ranks import on_ranks
from .asking import PROMPTS, ask, hold

SCHEMA = {"type": "object", "properties": {"hill": {"enum": [1, 2]}}, "required": ["hill"]}
LEFT = 3
"""Tokens after which a client leaves."""


def opened(folder: str, ranks: Ranks) -> Engine:
    return Engine.open(Path(folder), dtype=mx.float32, ranks=ranks, memory_gb=1)


def wanted(engine: Engine, adapter: str) -> dict[str, tuple[str, Sampling, dict[str, Any]]]:
    """Requests of all kinds by name: prompt, sampling, and what else `Batcher.submit` is told."""
    adapted = {"adapter": engine.adapters.add(Path(adapter))}
    guided = {"guide": engine.guides.json_schema(SCHEMA)}
    return {
        "long": (PROMPTS[1], Sampling(40), {}),
        "short": (PROMPTS[2], Sampling(3), {}),
        "one": (PROMPTS[4], Sampling(1), {}),
        "drawn": (PROMPTS[0], Sampling(20, temperature=1.0, top_p=0.9, seed=5), {}),
        "drawn otherwise": (PROMPTS[0], Sampling(20, temperature=1.0, seed=6), {}),
        "adapted": (PROMPTS[3], Sampling(12), adapted),
        "adapted and drawn": (PROMPTS[5], Sampling(9, temperature=0.7, seed=1), adapted),
        "guided": (PROMPTS[0], Sampling(30, top_logprobs=2), guided),
        "stopped": (PROMPTS[3], Sampling(40, stop=("a", "e", "o")), {}),
        "left": (PROMPTS[0], Sampling(1_000), {}),
    }


def together(ranks: Ranks, folder: str, adapter: str) -> dict[str, Any] | None:
    """What rank 0 answers when all is asked at once, and then again."""
    engine = opened(folder, ranks)
    if ranks.rank:
        follow(engine)
        return None
    batches.AWAKE_SECONDS = 0.0  # the other ranks rest whenever nothing is asked
    requests = wanted(engine, adapter)
    found: dict[str, Any] = {}
    with Batcher(engine, max_together=4) as batcher:
        for name in ("first", "again"):
            held, _, _ = hold(batcher)
            asked = {
                key: ask(batcher, prompt, sampling, **more)
                for key, (prompt, sampling, more) in requests.items()
            }
            answered, ticket = asked.pop("left")

            def leave(answered, ticket=ticket):
                if len(answered.said) == LEFT:
                    ticket.cancel()
                    answered.over.set()

            answered.then = leave
            held.go.set()
            found[name] = {key: each.tokens for key, (each, _) in asked.items()}
            assert answered.over.wait(60)
            found[name]["left"] = [chunk.token for chunk in answered.said]
            found[f"{name}: cached"] = asked["long"][1].stats.cached_tokens
            found["logprobs"] = [chunk.logprob for chunk in asked["guided"][0].chunks]
    return found


def test_two_ranks_answer_many_at_once_with_the_tokens_of_one(
    varied_folder, tmp_path, random_adapter
):
    adapter = random_adapter(varied_folder, tmp_path / "poet", rank=4)
    alone, logprobs = {}, []
    for name, (prompt, sampling, more) in wanted(opened(varied_folder, ALONE), adapter).items():
        engine = opened(varied_folder, ALONE)
        engine.adapters.add(adapter)
        engine.use_adapter(more.get("adapter"))
        how = {"guide": more["guide"]} if "guide" in more else {}
        with closing(engine.answer(engine.prompt_ids(prompt), sampling, **how)) as answer:
            chunks = list(islice(answer, LEFT if name == "left" else None))
        alone[name] = [chunk.token for chunk in chunks]
        logprobs = logprobs or [chunk.logprob for chunk in chunks if name == "guided"]
    assert 1 < len(alone["stopped"]) < 40
    found, _ = on_ranks(2, together, varied_folder, adapter)
    assert found["first"] == found["again"] == alone
    assert found["again: cached"] > found["first: cached"]
    assert found["logprobs"] == pytest.approx(logprobs, abs=1e-4)


def broken(ranks: Ranks, folder: str) -> list[str]:
    """What is said where rank 0 fails inside the model, and what the others meet then."""
    engine = opened(folder, ranks)
    if ranks.rank:
        try:
            follow(engine)
        except RuntimeError as error:
            return [str(error)]
        return []

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("inside a layer")

    batcher = Batcher(engine)
    held, _, _ = hold(batcher, max_tokens=10)
    type(engine.model.layers[1].mlp).__call__ = fail
    answered, _ = ask(batcher, PROMPTS[0], Sampling(10))
    held.go.set()
    told = str(answered.error)
    batcher.close()
    return [told, str(batcher.failure), str(batcher.is_alive)]


def test_an_error_inside_the_model_ends_all_ranks(varied_folder):
    first, second = on_ranks(2, broken, varied_folder)
    assert first == [
        "the answer failed: ZeroDivisionError: inside a layer",
        "inside a layer",
        "False",
    ]
    assert len(second) == 1


def strangers(ranks: Ranks, folder: str, adapter: str) -> str:
    """What a rank says that lacks an adapter of rank 0's."""
    engine = opened(folder, ranks)
    if ranks.rank:
        ranks.wait()
        with pytest.raises(ModelError) as refused:
            follow(engine)
        ranks.wait()
        return str(refused.value)
    engine.adapters.add(Path(adapter))
    shutil.rmtree(adapter)
    ranks.wait()
    gather(engine, max_together=1)
    return ""


def test_a_rank_that_lacks_an_adapter_says_so(varied_folder, tmp_path, random_adapter):
    adapter = random_adapter(varied_folder, tmp_path / "poet", rank=4)
    assert "poet' is no adapter" in on_ranks(2, strangers, varied_folder, adapter)[1]
