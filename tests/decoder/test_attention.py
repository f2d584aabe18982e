import mlx.core as mx
import pytest

from afm_mlx.decoder.attention import blocked_attention, causal_attention

SCALE = 0.25


def inputs(length: int) -> list[mx.array]:
    sizes = [(2, 6, length, 16), (2, 2, length, 16), (2, 2, length, 16), (2, 6, length, 16)]
    return [mx.random.normal(size, key=mx.random.key(i)) for i, size in enumerate(sizes)]


def document_mask(length: int, *, per_row: bool) -> mx.array:
    first = mx.arange(length) >= length // 3
    second = mx.arange(length) >= length // 2
    documents = mx.stack([first, second if per_row else first])[:, None]  # [B, 1, L]
    same = documents[..., None] == documents[:, :, None]
    return same & (mx.arange(length)[:, None] >= mx.arange(length))


# 128 is the block: shorter, exactly one, a whole number, and a rest.
@pytest.mark.parametrize("length", [1, 40, 128, 256, 300])
@pytest.mark.parametrize("mask", ["causal", "none", "documents", "documents per row", "flat"])
def test_blocks_equal_the_attention_of_mlx(length, mask):
    q, k, v, weights = inputs(length)
    given = {
        "causal": "causal",
        "none": None,
        "documents": document_mask(length, per_row=False),
        "documents per row": document_mask(length, per_row=True),
        "flat": document_mask(length, per_row=False)[0, 0],
    }[mask]
    wanted = "causal" if given is None else given

    def theirs(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask=wanted)
        return (y * weights).sum()

    def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return (blocked_attention(q, k, v, scale=SCALE, mask=given) * weights).sum()

    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask=wanted)
    assert mx.abs(blocked_attention(q, k, v, scale=SCALE, mask=given) - y).max() < 1e-5
    expected = mx.grad(theirs, argnums=(0, 1, 2))(q, k, v)
    for grad, right in zip(mx.grad(ours, argnums=(0, 1, 2))(q, k, v), expected, strict=True):
        assert mx.abs(grad - right).max() < 1e-5


def test_large_scores_do_not_overflow():
    q, k, v, _ = inputs(40)
    y = blocked_attention(1_000 * q, 1_000 * k, v, scale=SCALE)
    assert mx.isfinite(y).all()
    assert mx.abs(y).max() <= mx.abs(v).max()


def test_bfloat16_stays_bfloat16():
    q, k, v, _ = (array.astype(mx.bfloat16) for array in inputs(40))
    assert blocked_attention(q, k, v, scale=SCALE).dtype == mx.bfloat16


def test_a_gpu_uses_the_kernel_of_mlx(monkeypatch):
    q, k, v, _ = inputs(40)
    monkeypatch.setattr("afm_mlx.decoder.attention.on_gpu", lambda: True)
    wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal")
    assert mx.array_equal(causal_attention(q, k, v, scale=SCALE), wanted)


@pytest.mark.parametrize("length", [40, 300])
def test_gradients_pass_through_compilation_and_recomputation(length):
    q, k, v, weights = inputs(length)

    def loss(q: mx.array) -> mx.array:
        return (blocked_attention(q, k, v, scale=SCALE) * weights).sum()

    plain = mx.grad(loss)(q)
    assert mx.abs(mx.grad(mx.checkpoint(loss))(q) - plain).max() < 1e-6
    assert mx.abs(mx.compile(mx.grad(loss))(q) - plain).max() < 1e-5
