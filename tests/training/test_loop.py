import io
import json
import math
import os
import signal

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from afm_mlx import compat
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.errors import FitError, RunError
from afm_mlx.progress import Progress
from afm_mlx.settings.sections import Optimizer, Shape, Watch
from afm_mlx.training import loop as training_loop
from afm_mlx.training.loop import Course, train
from afm_mlx.training.objectives import next_token_loss
from afm_mlx.training.optimizer import UpdateRule

COURSE = Course(
    steps=20, lr=0.05, warmup_steps=2, final_lr_fraction=0.1, weight_decay=0.0, most_skipped_steps=3
)
WATCH = Watch(log_every_steps=5, evaluate_every_steps=10, snapshot_every_seconds=1e-6)


def model():
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


def batches(step):
    key = mx.random.key(step)
    x = mx.random.normal((6, 4), key=key)
    return [(x, mx.argmax(x[:, :3], axis=1), mx.ones((6,)))]


def loss(model, x, targets, counts):
    nll = (nn.losses.cross_entropy(model(x), targets) * counts).sum()
    return nll, {"nll": nll, "tokens": counts.sum()}


def run(work, net=None, *, course=COURSE, watch=WATCH, loss=loss, batches=batches, evaluate=None):
    net = net or model()
    rule = UpdateRule(Optimizer(), hidden_size=4)
    outcome = train(
        net,
        loss,
        batches,
        rule,
        course,
        compute=mx.float32,
        work=work,
        watch=watch,
        progress=Progress(stream=io.StringIO()),
        evaluate=evaluate,
    )
    return net, outcome


def weights(net):
    return dict(tree_flatten(net.parameters()))


def equal(one, other):
    one, other = weights(one), weights(other)
    return all(mx.array_equal(one[name], other[name]) for name in one)


def log(work):
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls(tmp_path):
    _, outcome = run(tmp_path)
    first, last = outcome.losses[0][1], outcome.losses[-1][1]
    assert last < 0.8 * first


def test_run_cut_in_two_equals_a_run_in_one_piece_bit_for_bit(tmp_path):
    whole, _ = run(tmp_path / "whole")

    def interrupting(step):
        if step == 13:  # asked for while step 12 is computed
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    with pytest.raises(
        KeyboardInterrupt, match=r"saved at step 12 in .*; the same command goes on"
    ):
        run(tmp_path / "cut", batches=interrupting)
    resumed, _ = run(tmp_path / "cut")
    assert equal(resumed, whole)
    assert [r["step"] for r in log(tmp_path / "cut")] == [5, 10, 15, 20]


def test_batches_see_the_weights_that_their_step_starts_from_also_after_a_resume(tmp_path):
    def training(work, *, stop_at=None):
        net, seen = model(), {}

        def noting(step):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            seen[step] = {name: mx.array(weight) for name, weight in weights(net).items()}
            return batches(step)

        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                run(work, net, batches=noting)
        else:
            run(work, net, batches=noting)
        return net, seen

    first = weights(model())
    _, whole = training(tmp_path / "whole")
    training(tmp_path / "cut", stop_at=13)
    _, resumed = training(tmp_path / "cut")
    assert list(resumed) == list(range(13, 21))
    for name, weight in first.items():
        assert mx.array_equal(whole[1][name], weight)
        assert not mx.array_equal(whole[2][name], weight)
        for step, found in resumed.items():
            assert mx.array_equal(found[name], whole[step][name]), step


def test_uneven_micro_batches_give_the_gradient_of_the_full_batch(tmp_path):
    def cut(step):
        ((x, y, counts),) = batches(step)
        counts = mx.array([1.0, 1, 1, 0, 1, 1])
        return [(x[:4], y[:4], counts[:4]), (x[4:], y[4:], counts[4:])]

    def full(step):
        ((x, y, _),) = batches(step)
        return [(x, y, mx.array([1.0, 1, 1, 0, 1, 1]))]

    one, _ = run(tmp_path / "one", batches=full)
    other, _ = run(tmp_path / "other", batches=cut)
    for name, weight in weights(one).items():
        assert mx.allclose(weight, weights(other)[name], rtol=0, atol=1e-6)


def test_frozen_weights_stay(tmp_path):
    net = model()
    net.layers[0].freeze()
    before = {name: mx.array(weight) for name, weight in weights(net).items()}
    run(tmp_path, net)
    moved = {
        name for name, weight in weights(net).items() if not mx.array_equal(weight, before[name])
    }
    assert moved == {"layers.1.weight", "layers.1.bias"}


def test_weights_stay_float32_when_computing_in_bfloat16(tmp_path):
    net = model()
    seen = set()

    def noting(model, *batch):
        seen.add(model.layers[0].weight.dtype)
        return loss(model, *batch)

    rule = UpdateRule(Optimizer(), hidden_size=4)
    progress = Progress(stream=io.StringIO())
    train(
        net, noting, batches, rule, COURSE,
        compute=mx.bfloat16, work=tmp_path, watch=WATCH, progress=progress,
    )  # fmt: skip
    assert seen == {mx.bfloat16}
    assert {weight.dtype for weight in weights(net).values()} == {mx.float32}


def test_exact_weights_stay_float32_when_computing_in_bfloat16(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.scores = model(), [mx.ones((3,))]

    seen = set()

    def noting(net, x, targets, counts):
        seen.update((name, weight.dtype) for name, weight in weights(net).items())
        nll = nn.losses.cross_entropy(net.decoder(x) * net.scores[0], targets).sum()
        return nll, {"nll": nll, "tokens": counts.sum()}

    def evaluate(net):
        seen.update((name, weight.dtype) for name, weight in weights(net).items())
        return {}

    net = Pair()
    train(
        net, noting, batches, UpdateRule(Optimizer(), hidden_size=4), COURSE, evaluate=evaluate,
        compute=mx.bfloat16, exact=("scores",), work=tmp_path, watch=WATCH,
        progress=Progress(stream=io.StringIO()),
    )  # fmt: skip
    assert {dtype for name, dtype in seen if name.startswith("decoder.")} == {mx.bfloat16}
    assert {dtype for name, dtype in seen if name.startswith("scores.")} == {mx.float32}
    assert not mx.array_equal(net.scores[0], mx.ones((3,)))


def test_validation_runs_when_due_and_at_the_end_and_is_logged(tmp_path):
    course = Course(**(vars(COURSE) | {"steps": 13}))
    run(tmp_path, course=course, evaluate=lambda model: {"held_out_nats": 2.5})
    assert [r["step"] for r in log(tmp_path) if "held_out_nats" in r] == [10, 13]


def test_run_stops_when_every_step_is_skipped(tmp_path):
    def broken(model, *batch):
        total, sums = loss(model, *batch)
        return total * math.nan, sums

    with pytest.raises(RunError, match=r"the last 3 steps were skipped.*saved at step 3"):
        run(tmp_path, loss=broken)


def test_run_saves_and_stops_near_the_memory_limit(tmp_path):
    watch = WATCH.model_copy(update={"memory_fraction": 1e-9})
    with pytest.raises(FitError, match="memory reached") as caught:
        run(tmp_path, watch=watch)
    assert "training.micro_rows" in caught.value.hint
    assert (tmp_path / "snapshots" / "step-00000001").exists()


def test_finished_run_does_nothing_more(tmp_path):
    first, _ = run(tmp_path)
    (tmp_path / "snapshots" / "step-00000020").exists()
    again, outcome = run(tmp_path, batches=lambda step: pytest.fail("asked for a batch"))
    assert outcome.losses == []
    assert equal(first, again)


def test_resumed_run_keeps_the_order_of_the_weights_in_which_norms_are_summed(
    tmp_path, monkeypatch
):
    def reversed_snapshot(folder, layout):
        flat = tree_flatten(model().trainable_parameters())
        state = training_loop.State(19, tree_unflatten(list(reversed(flat))), None)
        state.rule = UpdateRule(Optimizer(), hidden_size=4).init(state.params)
        return state

    seen = []
    update = UpdateRule.update

    def noting(self, params, grads, state, **settings):
        seen.append([name for name, _ in tree_flatten(grads)])
        return update(self, params, grads, state, **settings)

    monkeypatch.setattr(training_loop, "load_snapshot", reversed_snapshot)
    monkeypatch.setattr(UpdateRule, "update", noting)
    run(tmp_path)
    assert seen == [[name for name, _ in tree_flatten(model().trainable_parameters())]]


def test_speed_below_one_a_second_is_logged_as_such(tmp_path):
    def few(*args):
        total, sums = loss(*args)
        return total, sums | {"tokens": sums["tokens"] * 1e-9}

    run(tmp_path, loss=few)
    assert all(0 < record["tokens_per_second"] < 1 for record in log(tmp_path))


def test_run_that_ends_with_a_loss_that_is_no_number_is_refused(tmp_path):
    def broken(model, *batch):
        total, sums = loss(model, *batch)
        return total * math.nan, sums

    course = Course(**(vars(COURSE) | {"steps": 2}))
    for _ in range(2):  # nor does it pass when it is tried again
        with pytest.raises(RunError, match="the loss of the last step, 2, is nan"):
            run(tmp_path, course=course, loss=broken)


@pytest.mark.slow
def test_compiled_step_of_a_decoder_trains_like_the_plain_one(tmp_path, monkeypatch):
    shape = Shape(
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=32,
        vocab_size=64,
        rope_base=10_000,
        norm_eps=1e-5,
        max_tokens=16,
    )

    def rows(step):
        tokens = mx.random.randint(0, 64, (4, 16), key=mx.random.key(step))
        return [(tokens[:2],), (tokens[2:],)]

    def decoder_loss(model, tokens):
        return next_token_loss(
            model,
            tokens,
            mx.roll(tokens, -1, axis=1),
            mx.ones(tokens.shape),
            mask="causal",
            z_loss=1e-6,
            chunk_bytes=2**20,
            checkpoint=True,
        )

    trained = {}
    for way in ("plain", "compiled"):
        if way == "compiled":
            monkeypatch.setattr(compat, "compiled", mx.compile)
            mx.enable_compile()
        net = Decoder(shape)
        initialize(net, 0)
        course = Course(**(vars(COURSE) | {"steps": 4}))
        run(tmp_path / way, net, course=course, loss=decoder_loss, batches=rows)
        trained[way] = weights(net)
    if os.environ.get("MLX_DISABLE_COMPILE"):
        mx.disable_compile()
    for name, weight in trained["plain"].items():
        assert mx.allclose(weight, trained["compiled"][name], rtol=0, atol=1e-5), name
