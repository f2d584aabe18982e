"""Many answers at once are the answers that each would be alone."""

import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.errors import BusyError, DataError, ModelError, RunError
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.requests import Sampling

from .asking import PROMPTS, ask, hold


def alone(folder, prompt, sampling, **more):
    """Tokens of an engine that has read nothing before."""
    engine = Engine.open(folder, dtype=mx.float32)
    return [chunk.token for chunk in engine.answer(engine.prompt_ids(prompt), sampling, **more)]


@pytest.fixture
def batcher(varied):
    with Batcher(varied, memory_gb=1) as made:
        yield made


def test_greedy_answers_together_are_those_of_each_alone(batcher, varied_folder):
    sampling = Sampling(max_tokens=40)
    asked = [ask(batcher, prompt, sampling)[0] for prompt in PROMPTS]
    for prompt, answered in zip(PROMPTS, asked, strict=True):
        assert answered.tokens == alone(varied_folder, prompt, sampling)


def test_answers_of_different_lengths_come_and_go(varied, varied_folder):
    lengths = [3, 40, 1, 25, 9, 30]
    with Batcher(varied, memory_gb=1, max_together=3) as batcher:
        asked = [
            ask(batcher, prompt, Sampling(max_tokens=length))[0]
            for prompt, length in zip(PROMPTS, lengths, strict=True)
        ]
        for prompt, length, answered in zip(PROMPTS, lengths, asked, strict=True):
            assert answered.tokens == alone(varied_folder, prompt, Sampling(max_tokens=length))
            assert answered.chunks[-1].finished == "length"


def test_a_seed_decides_an_answer_whatever_is_beside_it(batcher, varied_folder):
    drawn = [
        Sampling(max_tokens=30, temperature=1.0, seed=seed, top_p=top_p)
        for seed, top_p in ((1, 1.0), (2, 0.9), (1, 1.0), (3, 0.5))
    ]
    asked = [ask(batcher, PROMPTS[0], sampling)[0] for sampling in drawn]
    said = [answered.tokens for answered in asked]
    assert said == [alone(varied_folder, PROMPTS[0], sampling) for sampling in drawn]
    assert said[0] == said[2] != said[1]


def test_stop_texts_end_their_own_answer_only(batcher, varied_folder):
    sampling = Sampling(max_tokens=40)
    whole = ask(batcher, PROMPTS[0], sampling)[0].text
    stop = next(whole[i : i + 3] for i in range(8, len(whole) - 3) if whole[i : i + 3].isascii())
    stopped, _ = ask(batcher, PROMPTS[0], Sampling(max_tokens=40, stop=(stop,)))
    other, _ = ask(batcher, PROMPTS[3], sampling)
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.chunks[-1].finished == "stop"
    assert other.tokens == alone(varied_folder, PROMPTS[3], sampling)


def test_chunks_tell_the_models_own_log_probabilities(batcher, varied):
    ids = varied.prompt_ids(PROMPTS[0])
    sampling = Sampling(max_tokens=6, temperature=0.5, seed=4, top_logprobs=3)
    asked = [ask(batcher, ids, sampling)[0], ask(batcher, PROMPTS[1], Sampling(max_tokens=6))[0]]
    chunks = asked[0].chunks
    batcher.close()
    for chunk in chunks:
        logits = varied.model(mx.array([ids]))[0, -1]
        logps = np.array(logits - mx.logsumexp(logits))
        assert chunk.logprob == pytest.approx(logps[chunk.token], abs=1e-4)
        best = np.argsort(-logps)[:3]
        assert [token for token, _ in chunk.top] == best.tolist()
        assert [value for _, value in chunk.top] == pytest.approx(logps[best], abs=1e-4)
        ids = [*ids, chunk.token]
    assert all(chunk.logprob is None and chunk.top == () for chunk in asked[1].chunks)


def test_a_later_prompt_reads_only_what_no_earlier_one_began_with(batcher, varied_folder):
    system = {"role": "system", "content": "You know all about cats and hills. " * 10}
    turns = [[system, {"role": "user", "content": prompt}] for prompt in PROMPTS[:3]]
    sampling = Sampling(max_tokens=12)
    shared = len(batcher.engine.prompt_ids([system])) - 1
    for number, messages in enumerate(turns):
        answered, ticket = ask(batcher, messages, sampling)
        assert answered.tokens == alone(varied_folder, messages, sampling)
        assert (ticket.stats.cached_tokens >= shared) == (number > 0)


def test_a_prompt_that_is_being_answered_serves_others_already(batcher):
    held, _, _ = hold(batcher, max_tokens=3)
    asked = [ask(batcher, PROMPTS[1], Sampling(max_tokens=30)) for _ in range(2)]
    later = []

    def submit_another(answered):
        if len(answered.said) == 2:
            later.append(ask(batcher, PROMPTS[1], Sampling(max_tokens=3)))

    asked[0][0].then = submit_another
    held.go.set()
    assert len(asked[0][0].tokens) == 30
    answered, ticket = later[0]
    assert answered.tokens == asked[0][0].tokens[:3]
    assert ticket.stats.cached_tokens == ticket.stats.prompt_tokens - 1


def test_a_cancelled_answer_says_nothing_more_and_frees_its_place(varied):
    with Batcher(varied, memory_gb=1, max_together=1) as batcher:
        tickets = []

        def cancel(answered):
            if len(answered.said) == 3:
                tickets[0].cancel()

        held, _, _ = hold(batcher)
        answered, ticket = ask(batcher, PROMPTS[0], Sampling(max_tokens=1_000), then=cancel)
        tickets.append(ticket)
        held.go.set()
        after, _ = ask(batcher, PROMPTS[2], Sampling(max_tokens=2))
        assert len(after.tokens) == 2
        assert len(answered.said) == 3
        assert ticket.stats.answer_tokens == 3


def test_a_request_can_be_cancelled_before_it_begins(batcher):
    held, _, _ = hold(batcher)
    answered, ticket = ask(batcher, PROMPTS[0], Sampling(max_tokens=5))
    ticket.cancel()
    held.go.set()
    assert len(ask(batcher, PROMPTS[2], Sampling(max_tokens=2))[0].tokens) == 2
    assert answered.said == []


def test_a_full_house_says_so(varied):
    with Batcher(varied, memory_gb=1, max_together=1, max_waiting=1) as batcher:
        held, _, _ = hold(batcher)
        waiting, _ = ask(batcher, PROMPTS[0], Sampling(max_tokens=2))
        with pytest.raises(BusyError, match="2 requests are being answered or wait already"):
            ask(batcher, PROMPTS[0], Sampling(max_tokens=2))
        held.go.set()
        assert len(waiting.tokens) == 2
        assert len(ask(batcher, PROMPTS[0], Sampling(max_tokens=2))[0].tokens) == 2


class Letters:
    """A guide that allows some tokens, or fails at one place."""

    def __init__(self, tokens, fails_at=None) -> None:
        self.tokens, self.fails_at = tokens, fails_at

    def start(self, max_tokens=None):
        return LettersState(self)


class LettersState:
    finished = False

    def __init__(self, guide) -> None:
        self.guide, self.accepted = guide, []

    def allowed(self):
        if len(self.accepted) == self.guide.fails_at:
            raise ZeroDivisionError("no such place")
        bits = np.zeros(384 // 32, dtype=np.uint32)
        for token in self.guide.tokens:
            bits[token // 32] |= np.uint32(1 << token % 32)
        return bits

    def accept(self, token) -> None:
        assert token in self.guide.tokens
        self.accepted.append(token)


def test_guided_and_free_answers_share_a_batch(batcher, varied_folder):
    sampling = Sampling(max_tokens=20, top_logprobs=0)
    letters = [*range(100, 140), 263, 339]
    guided, _ = ask(batcher, PROMPTS[0], sampling, guide=Letters(letters))
    free, _ = ask(batcher, PROMPTS[1], Sampling(max_tokens=20))
    assert set(guided.tokens) <= set(letters)
    assert guided.tokens == alone(varied_folder, PROMPTS[0], sampling, guide=Letters(letters))
    assert free.tokens == alone(varied_folder, PROMPTS[1], Sampling(max_tokens=20))


def test_log_probabilities_of_a_guided_answer_are_those_before_the_guide(batcher, varied):
    ids = varied.prompt_ids(PROMPTS[0])
    sampling = Sampling(max_tokens=1, top_logprobs=1)
    free = ask(batcher, ids, sampling)[0].chunks[0]
    other = (free.token + 1) % 300
    guided = ask(batcher, ids, sampling, guide=Letters([other]))[0].chunks[0]
    assert guided.token == other
    assert guided.top[0][0] == free.token
    assert guided.top[0][1] == pytest.approx(free.logprob, abs=1e-4)
    assert guided.logprob < free.logprob


def test_a_guided_answer_may_end_where_the_guide_allows_it(batcher, varied):
    end = varied.tokenizer.eos_ids[1]
    answered, _ = ask(batcher, PROMPTS[0], Sampling(max_tokens=9), guide=Letters([end]))
    assert [(chunk.token, chunk.finished) for chunk in answered.chunks] == [(end, "stop")]


@pytest.mark.parametrize("place", [0, 3])
def test_a_guide_that_fails_ends_its_own_answer_only(batcher, varied_folder, place):
    sampling = Sampling(max_tokens=10)
    bad, _ = ask(batcher, PROMPTS[0], sampling, guide=Letters([100, 101], fails_at=place))
    good, _ = ask(batcher, PROMPTS[1], sampling)
    assert str(bad.error) == "the guide failed: ZeroDivisionError: no such place"
    assert len(bad.said) == max(place, 1)
    assert good.tokens == alone(varied_folder, PROMPTS[1], sampling)


def test_a_guide_that_allows_nothing_says_so(batcher):
    bad, _ = ask(batcher, PROMPTS[0], Sampling(max_tokens=10), guide=Letters([]))
    assert str(bad.error) == "the guide allows no token at all here"


def test_an_error_in_a_listener_ends_its_own_answer_only(batcher, varied_folder, capsys):
    def fail(answered):
        raise ZeroDivisionError("the listener's own")

    sampling = Sampling(max_tokens=10)
    bad, _ = ask(batcher, PROMPTS[0], sampling, then=fail)
    good, _ = ask(batcher, PROMPTS[1], sampling)
    assert good.tokens == alone(varied_folder, PROMPTS[1], sampling)
    assert len(bad.said) == 1
    assert "the listener's own" in capsys.readouterr().err


def test_an_error_inside_the_model_ends_what_is_begun_and_nothing_else(
    batcher, varied_folder, monkeypatch, capsys
):
    def fail(*_):
        raise ZeroDivisionError("inside a layer")

    sampling = Sampling(max_tokens=10)
    held, first, _ = hold(batcher, max_tokens=10)
    with monkeypatch.context() as patch:
        patch.setattr(type(batcher.engine.model.layers[1].mlp), "__call__", fail)
        second, _ = ask(batcher, PROMPTS[0], sampling)
        held.go.set()
        for answered in (first, second):
            assert str(answered.error) == "the answer failed: ZeroDivisionError: inside a layer"
    assert ask(batcher, PROMPTS[0], sampling)[0].tokens == alone(
        varied_folder, PROMPTS[0], sampling
    )
    assert "inside a layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, and must be above 0"),
        ({"temperature": -1.0}, "temperature is -1.0, and must be 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0, and must be above 0, to 1"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(batcher, changed, said):
    with pytest.raises(DataError, match=said):
        ask(batcher, PROMPTS[0], Sampling(**{"max_tokens": 3, **changed}))


def test_tokens_that_are_none_are_refused(batcher):
    for ids in ([340], [-1], [5, 10**12, 5]):
        with pytest.raises(DataError, match="and the tokenizer 340 pieces"):
            ask(batcher, ids, Sampling(max_tokens=3))
    with pytest.raises(DataError, match="the prompt is empty"):
        ask(batcher, [], Sampling(max_tokens=3))


def test_after_the_end_nothing_is_taken_and_what_waits_is_told(varied):
    batcher = Batcher(varied, memory_gb=1)
    held, first, _ = hold(batcher, max_tokens=10)
    waiting, _ = ask(batcher, PROMPTS[0], Sampling(max_tokens=5))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    held.go.set()
    closing.join()
    assert str(first.error) == str(waiting.error) == "the model is shut down"
    with pytest.raises(RunError, match="the model is shut down"):
        ask(batcher, PROMPTS[0], Sampling(max_tokens=5))


def test_requests_from_many_threads_are_all_answered(batcher, varied_folder):
    sampling = Sampling(max_tokens=8)
    expected = [alone(varied_folder, prompt, sampling) for prompt in PROMPTS]
    found = {}

    def work(number):
        for round_ in range(4):
            place = (number + round_) % len(PROMPTS)
            found[number, round_] = (
                ask(batcher, PROMPTS[place], sampling)[0].tokens == expected[place]
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 32
    assert all(found.values())


def test_an_unknown_adapter_is_refused_at_once(batcher):
    with pytest.raises(ModelError, match="no adapter is called 'poet'"):
        ask(batcher, PROMPTS[0], Sampling(max_tokens=3), adapter="poet")


@pytest.fixture
def with_adapters(varied, varied_folder, random_adapter, tmp_path):
    """An engine with adapters a and b, and a function for one that answers alone."""
    folders = [random_adapter(varied_folder, tmp_path / name, rank=2) for name in "ab"]
    for folder in folders:
        varied.adapters.add(folder)

    def single(prompt, sampling, adapter):
        engine = Engine.open(varied_folder, dtype=mx.float32)
        for folder in folders:
            engine.adapters.add(folder)
        engine.use_adapter(adapter)
        return [chunk.token for chunk in engine.answer(engine.prompt_ids(prompt), sampling)]

    return varied, single


def test_each_request_is_answered_by_its_own_adapter(with_adapters):
    engine, single = with_adapters
    sampling = Sampling(max_tokens=12)
    wanted = [(prompt, adapter) for prompt in PROMPTS[:2] for adapter in ("a", "b", None, "a")]
    with Batcher(engine, memory_gb=1) as batcher:
        asked = [ask(batcher, prompt, sampling, adapter=adapter)[0] for prompt, adapter in wanted]
        said = [answered.tokens for answered in asked]
    assert said == [single(prompt, sampling, adapter) for prompt, adapter in wanted]
    assert len({tuple(each) for each in said[:3]}) == 3


def test_answers_of_several_adapters_are_written_side_by_side(with_adapters):
    engine, single = with_adapters
    together = []

    def note(answered):
        together.append(batcher.load.answering)

    with Batcher(engine, memory_gb=1) as batcher:
        held, _, _ = hold(batcher)
        long, _ = ask(batcher, PROMPTS[0], Sampling(60), then=note)
        short = [ask(batcher, PROMPTS[2], Sampling(4), adapter=name)[0] for name in "abab"]
        ends = []
        for answered in short:
            answered.then = lambda answered: ends.append(len(long.said))
        held.go.set()
        assert long.tokens == single(PROMPTS[0], Sampling(60), None)
        for answered, name in zip(short, "abab", strict=True):
            assert answered.tokens == single(PROMPTS[2], Sampling(4), name)
    assert max(ends) < 30
    assert max(together) >= 5


@pytest.mark.slow
def test_smollm2_answers_together_as_mlx_lm_does_alone(smollm2):
    engine = Engine.open(smollm2, dtype=mx.float32)
    prompts = [f"Tell me about the {thing}." for thing in ("sea", "moon", "bridge", "dog")]
    model, _ = import_mlx_lm("mlx_lm.utils").load_model(smollm2)
    with Batcher(engine) as batcher:
        asked = [ask(batcher, prompt, Sampling(max_tokens=40))[0] for prompt in prompts]
        said = [answered.tokens for answered in asked]
    for prompt, tokens in zip(prompts, said, strict=True):
        ids = mx.array(engine.prompt_ids(prompt))
        steps = import_mlx_lm("mlx_lm.generate").generate_step(ids, model, max_tokens=len(tokens))
        assert tokens == [int(token) for token, _ in steps]


ENDS = """
import os, sys, threading
os.environ.pop("MLX_DISABLE_COMPILE", None)
from pathlib import Path
import afm_mlx
import mlx.core as mx
from afm_mlx.inference.batches import Batcher
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.requests import Sampling
engine, over = Engine.open(Path(sys.argv[1]), dtype=mx.float32), threading.Event()
with Batcher(engine) as batcher:
    ids = engine.prompt_ids("The cat", raw=True)
    tell = lambda said: over.set() if said.finished else None
    for _ in range(4):
        batcher.submit(ids, Sampling(4), tell=tell)
    over.wait()
"""


@pytest.mark.slow  # MLX compiles kernels with g++ on the CPU
def test_a_program_that_ends_right_after_its_batcher_ends_well(model_folder):
    words = [sys.executable, "-c", ENDS, str(model_folder)]
    codes = [subprocess.run(words, capture_output=True).returncode for _ in range(5)]
    assert codes == [0] * 5
