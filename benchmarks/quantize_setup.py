"""What `quantize.py` compares methods on: a real model without its old grid, texts, and measures.

SmolLM2's weights come from a 4-bit affine file (groups of 32). Handed that grid, a quantizer would
find again what is already there; so channels are put in another order first, which leaves the
function alone, and all scales.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROW_TOKENS = 512
CALIBRATION_TOKENS = 300_000
HELD_OUT_ROWS = 32
MEASURED_ROWS = 16
DOCUMENT_CHARACTERS = 2_000  # of each page of documentation, so that there are many
MOST_GAP = 1e-3  # between logits of the same function
GAIN_BITS = 16  # of the norms
NUMBER_BITS = {"I8": 8, "F16": 16, "BF16": 16, "F32": 32, "U32": 32}
EMBEDDING = "model.embed_tokens"


def prepare(work: Path, *, seed: int = 0) -> Path:
    """Make the model and the texts in `work` where they are not there yet; the model's folder."""
    from afm_mlx.decoder.convert import import_model, smollm2_file
    from afm_mlx.text.tokenizer import Tokenizer

    work.mkdir(parents=True, exist_ok=True)
    model = work / "smollm2-permuted"
    if not model.is_dir():
        if not (work / "smollm2").is_dir():
            import_model(smollm2_file(), work / "smollm2")
        permute(work / "smollm2", work / "permuting", seed=seed)
        (work / "permuting").rename(model)
    if not (work / "held.jsonl").is_file():
        write_texts(work, Tokenizer.open(model), seed=seed)
    return model


def permute(source: Path, out: Path, *, seed: int) -> None:
    """The same function in another order of the stream, of units, and of each head's values.

    Any group of 64 weights then holds values of dozens of old grids, each with its own step and
    start. Rescaling columns would take the grid away, too, but it harms every method that does not
    scale them back: folding norm gains alone nearly doubles the KL of affine 4-bit.
    """
    import mlx.core as mx

    from afm_mlx.decoder.checkpoint import open_checkpoint, write_checkpoint
    from afm_mlx.decoder.decoder import named_parameters

    model = open_checkpoint(source, dtype=mx.float32)
    shape = model.shape
    weights = {name: np.array(array) for name, array in named_parameters(model).items()}
    draws = np.random.default_rng(seed)
    stream = draws.permutation(shape.hidden_size)
    queries = shape.num_heads // shape.num_kv_heads  # heads that read one value head

    def order(name: str, *, rows: Any = None, columns: Any = None) -> None:
        weight = weights[f"{name}.weight"]
        weight = weight if rows is None else weight[rows]
        weights[f"{name}.weight"] = weight if columns is None else weight[:, columns]

    order(EMBEDDING, columns=stream)
    order("model.norm", rows=stream)
    for number in range(shape.num_layers):
        at = f"model.layers.{number}."
        units = draws.permutation(shape.intermediate_size)
        heads = [draws.permutation(shape.head_dim) for _ in range(shape.num_kv_heads)]
        values = [head + shape.head_dim * n for n, head in enumerate(heads)]
        read = [heads[n // queries] + shape.head_dim * n for n in range(shape.num_heads)]
        for name in ("input_layernorm", "post_attention_layernorm"):
            order(at + name, rows=stream)
        for name in ("q_proj", "k_proj"):
            order(f"{at}self_attn.{name}", columns=stream)
        order(f"{at}self_attn.v_proj", rows=np.concatenate(values), columns=stream)
        order(f"{at}self_attn.o_proj", rows=stream, columns=np.concatenate(read))
        for name in ("gate_proj", "up_proj"):
            order(f"{at}mlp.{name}", rows=units, columns=stream)
        order(f"{at}mlp.down_proj", rows=stream, columns=units)
    write_checkpoint(out, shape, {n: mx.array(array) for n, array in weights.items()}, source)
    other = open_checkpoint(out, dtype=mx.float32)
    tokens = mx.array(draws.integers(0, shape.vocab_size, (1, 64)))
    gap = mx.abs(model(tokens) - other(tokens)).max().item()
    print(f"in another order, logits differ by at most {gap:.1e}")
    if gap > MOST_GAP:
        raise SystemExit("the model in another order is another function")


def write_texts(work: Path, tokenizer: Any, *, seed: int) -> None:
    """`calib.jsonl` and `held.jsonl`: grade-school arithmetic and documentation, half by tokens."""
    documents = list(_documentation())
    random.Random(seed).shuffle(documents)
    held = [text for id, text in documents if _held_out(id)]
    kept = [text for id, text in documents if not _held_out(id)]
    for name, tokens, sources in (
        ("calib", CALIBRATION_TOKENS, (_arithmetic("train", seed), kept)),
        ("held", ROW_TOKENS * HELD_OUT_ROWS + ROW_TOKENS, (_arithmetic("test", seed), held)),
    ):
        lines, counts = [], [0] * len(sources)
        ahead = [iter(source) for source in sources]
        while sum(counts) < tokens:
            least = counts.index(min(counts))
            text = next(ahead[least])
            counts[least] += len(tokenizer.encode(text)) + 1
            lines.append(json.dumps({"text": text}) + "\n")
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {counts[0]:,} tokens of GSM8K, {counts[1]:,} of documentation")


def _held_out(id: str) -> bool:
    return hashlib.sha256(id.encode()).digest()[0] < 26  # one in ten


def _arithmetic(part: str, seed: int) -> list[str]:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AFM_TEST_DATA", default)) / "gsm8k"
    if not folder.is_dir():
        raise SystemExit("GSM8K is not here: set AFM_TEST_DATA to a folder with gsm8k/train.jsonl")
    lines = (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(items)
    return [f"{item['question']}\n{item['answer']}\n" for item in items]


def _documentation() -> Iterator[tuple[str, str]]:
    from afm_mlx.corpus.sources import python_texts

    for text in python_texts.read("docs", "python:docs", Counter()):
        if len(text.text) > 400:
            yield text.id, text.text[:DOCUMENT_CHARACTERS]


def read_rows(path: Path, tokenizer: Any) -> Any:
    """Texts of a JSONL file, an end piece after each, cut into rows [N, ROW_TOKENS] int32."""
    ids: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        ids += [*tokenizer.encode(json.loads(line)["text"]), tokenizer.eos_id]
    rows = len(ids) // ROW_TOKENS
    return np.array(ids[: rows * ROW_TOKENS], dtype=np.int32).reshape(rows, ROW_TOKENS)


class Held:
    """Held-out rows, and what the full model says about them."""

    def __init__(self, model: Path, work: Path, *, rows: int = MEASURED_ROWS) -> None:
        import mlx.core as mx

        from afm_mlx.decoder.checkpoint import open_checkpoint
        from afm_mlx.text.tokenizer import Tokenizer

        self.rows = mx.array(read_rows(work / "held.jsonl", Tokenizer.open(model))[:rows])
        full = open_checkpoint(model, dtype=mx.float32)
        self._weight = full.output_weight
        kept = work / f"{model.name}-held-{rows}.npy"
        if kept.is_file():
            self._states = mx.array(np.load(kept))
        else:
            states = []
            for row in self.rows:
                states.append(full.hidden(row[None, :-1])[0])
                mx.eval(states)
            self._states = mx.stack(states)  # [N, L, D]
            np.save(kept, np.array(self._states))

    def measure(self, model: Any) -> dict[str, float]:
        """Nats per token of a model and of the full one, and KL(full || model), as means.

        Over the whole vocabulary, in float32. `error` is the standard error of the KL by rows.
        """
        import mlx.core as mx

        began = time.monotonic()
        weight = model.output_weight
        losses, own, gaps = [], [], []
        for row, states in zip(self.rows, self._states, strict=True):
            told = (states @ self._weight.T).astype(mx.float32)
            said = (model.hidden(row[None, :-1])[0] @ weight.T).astype(mx.float32)
            said -= mx.logsumexp(said, axis=-1, keepdims=True)
            told -= mx.logsumexp(told, axis=-1, keepdims=True)
            gap = (mx.exp(told) * (told - said)).sum(-1).mean()
            targets = row[1:, None]
            loss, best = (-mx.take_along_axis(a, targets, axis=-1).mean() for a in (said, told))
            mx.eval(gap, loss, best)
            gaps.append(gap.item())
            losses.append(loss.item())
            own.append(best.item())
        return {
            "nats": float(np.mean(losses)),
            "full_nats": float(np.mean(own)),
            "kl": float(np.mean(gaps)),
            "error": float(np.std(gaps, ddof=1) / len(gaps) ** 0.5),
            "tokens_measured": int(self._states.shape[0] * self._states.shape[1]),
            "measure_seconds": time.monotonic() - began,
        }


def with_weights(model: Path, weights: Mapping[str, Any]) -> Any:
    """The decoder of a folder with some tensors replaced, in float32."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    from afm_mlx.decoder.checkpoint import open_checkpoint

    decoder = open_checkpoint(model, dtype=mx.float32)
    decoder.update(tree_unflatten([(n, a.astype(mx.float32)) for n, a in weights.items()]))
    mx.eval(decoder.parameters())
    return decoder


def linear_sizes(shape: Any) -> dict[str, tuple[int, int]]:
    """Rows and columns of each linear layer of the blocks, by name."""
    width, hidden, head = shape.hidden_size, shape.intermediate_size, shape.head_dim
    queries, values = shape.num_heads * head, shape.num_kv_heads * head
    one = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (values, width),
        "self_attn.v_proj": (values, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    return {
        f"model.layers.{number}.{name}": size
        for number in range(shape.num_layers)
        for name, size in one.items()
    }


def mean_bits(bits: Mapping[str, float], sizes: Mapping[str, Sequence[int]]) -> float:
    """Bits per weight over the layers of `sizes`, from bits per weight of each."""
    counts = {name: rows * columns for name, (rows, columns) in sizes.items()}
    return sum(bits[name] * count for name, count in counts.items()) / sum(counts.values())


def all_bits(bits: Mapping[str, float], shape: Any) -> float:
    """Bits per weight of a whole model: linear layers, embedding, and gains of 16 bits."""
    sizes = linear_sizes(shape) | {EMBEDDING: (shape.vocab_size, shape.hidden_size)}
    gains = (2 * shape.num_layers + 1) * shape.hidden_size
    weights = sum(rows * columns for rows, columns in sizes.values())
    return (mean_bits(bits, sizes) * weights + GAIN_BITS * gains) / (weights + gains)


def bits_by_kind(bits: Mapping[str, float], shape: Any) -> dict[str, float]:
    """Mean bits per weight of each kind of linear layer, such as `mlp.up_proj`."""
    kinds: dict[str, list[float]] = {}
    for name in linear_sizes(shape):
        kinds.setdefault(name.split(".", 3)[3], []).append(bits[name])
    return {kind: sum(found) / len(found) for kind, found in kinds.items()}


def scaled_bits(by_kind: Mapping[str, float], *, table_rows: int = 0, rank: int = 0) -> float:
    """Bits per weight of the on-device shape's linear layers, 2.7B in all.

    Args:
        by_kind: mean bits per weight of each kind of layer, without tables and adapter.
        table_rows: rows that share a table of 16 or 4 float16 values; 0: there are none.
        rank: of an adapter in float16; 0: there is none.
    """
    from afm_mlx.recipe import load_named_recipe

    sizes = linear_sizes(load_named_recipe("afm-on-device").shape)
    found = {}
    for name, (rows, columns) in sizes.items():
        ids = by_kind[name.split(".", 3)[3]]
        tables = 0.0
        if table_rows:
            # Of layers of one kind some take 4 bits and some 2: their tables' mean is between.
            four = min(max((ids - 2) / 2, 0), 1)
            tables = 16 * (16 * four + 4 * (1 - four)) / (table_rows * columns)
        found[name] = ids + tables + 16 * rank * (rows + columns) / (rows * columns)
    return mean_bits(found, sizes)


def adapter_bits(rank: int, shape: Any) -> float:
    """Bits of a float16 adapter per weight of the linear layers."""
    sizes = linear_sizes(shape)
    return mean_bits(
        {
            name: 16 * rank * (rows + columns) / (rows * columns)
            for name, (rows, columns) in sizes.items()
        },
        sizes,
    )


def table_bits(folder: Path) -> tuple[dict[str, float], dict[str, float], int]:
    """Bits per weight of each layer of a folder with tables, counted from its files' headers.

    Returns:
        Of everything; of ids alone; and how many rows share a table.
    """
    from afm_mlx.decoder.config import read_config, read_shape
    from afm_mlx.decoder.weights import read_headers

    format_ = read_config(folder)["quantization_config"]
    shape = read_shape(folder)
    sizes = linear_sizes(shape) | {EMBEDDING: (shape.vocab_size, shape.hidden_size)}
    stored = dict.fromkeys(sizes, 0.0)
    for name, fact in read_headers(folder).items():
        layer = name.rpartition(".")[0]
        if layer in stored:
            stored[layer] += NUMBER_BITS[fact.dtype] * int(np.prod(fact.shape))
    bits = {name: stored[name] / (rows * columns) for name, (rows, columns) in sizes.items()}
    return (
        bits,
        {name: float(each) for name, each in format_["bits"].items()},
        format_["group_rows"],
    )
