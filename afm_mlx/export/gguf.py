"""A GGUF file for llama.cpp: dense or quantized weights, tokenizer and chat template inside.

With QK-norm its architecture is qwen3, without it llama. Rows of Llama's queries and keys are put
in the order of adjacent rotary pairs, as GGUF has them; those of Qwen3 stay.

Sources. ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, convert_hf_to_gguf.py, src/models.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx.decoder.checkpoint import tensor_shapes
from afm_mlx.decoder.gguf import NAMES, ROTATION, read_gguf, rotation_factors
from afm_mlx.decoder.palette_format import component_of
from afm_mlx.errors import ExportError
from afm_mlx.export.dense import dense_weights, rounded
from afm_mlx.export.gguf_pieces import tokenizer_fields
from afm_mlx.export.in_mlx import MlxRuntime, dense_model
from afm_mlx.export.targets import Size, Source, Target
from afm_mlx.export.verify import Logits, Runtime, Thresholds
from afm_mlx.settings.export import Gguf, GgufWeights
from afm_mlx.settings.sections import Shape

BLOCK = 32
"""Columns that GGUF quantizes together."""

CONTEXT_TOKENS = 2_048
"""Most tokens that the verification reads at once, for its memory. Ours."""

ONE_THREAD_BYTES = 2**26
"""Files below this are run on one thread: llama.cpp's threads wait for each other in a loop, which
on a busy machine takes far longer than a small model's work. Ours."""

_GGUF_NAMES = {ours: theirs for theirs, ours in NAMES.items()}

# Bytes of a block of 32 weights. Source: ggml-org/ggml, src/ggml-common.h.
_BLOCK_BYTES = {
    GgufWeights.F32: 128,
    GgufWeights.F16: 64,
    GgufWeights.Q8_0: 34,
    GgufWeights.Q4_1: 20,
    GgufWeights.Q4_0: 18,
}
# llama.cpp rounds what it multiplies with a matrix to 16 bits, or to 8 in blocks of 32 where the
# matrix has 8 or fewer: a wide activation then spoils its block. SmolLM2, seen on Linux: at f16 a
# cosine of 0.999995 and 0.02 standard deviations, at q8_0 0.9965 and 0.6.
_CLOSE = Thresholds(cosine=0.999, error=0.25, agreement=1.0, tie=0.1)
_NEAR = Thresholds(cosine=0.98, error=2.0, agreement=0.97, tie=0.15)


class LlamaCppRuntime:
    """The file in llama.cpp, by its Python binding."""

    is_stand_in = False

    def __init__(self, file: Path) -> None:
        import gguf
        import llama_cpp

        fields = gguf.GGUFReader(file).fields
        architecture = fields["general.architecture"].contents()
        trained = int(fields[f"{architecture}.context_length"].contents())
        self.context_tokens = min(trained, CONTEXT_TOKENS)
        threads = 1 if file.stat().st_size < ONE_THREAD_BYTES else None
        self._model = llama_cpp.Llama(
            str(file),
            n_ctx=self.context_tokens,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self.name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        self._formatter = self._chat_formatter(llama_cpp.llama_chat_format)

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int]:
        """Ids by the file's tokenizer and template, as the binding's chat makes them."""
        if not chats:
            return self._model.tokenize(text.encode(), add_bos=True, special=True)
        assert self._formatter is not None, "it chats without a template"
        written = self._formatter(messages=[{"role": "user", "content": text}])
        return self._model.tokenize(
            written.prompt.encode(), add_bos=not written.added_special, special=True
        )

    def _chat_formatter(self, library: Any) -> Any:
        """What the binding's chat renders messages with; None where the file has no template."""
        known = self._model.metadata
        if "tokenizer.chat_template" not in known:
            return None
        pieces = {}
        for name in ("bos_token", "eos_token"):
            id_ = known.get(f"tokenizer.ggml.{name}_id")
            pieces[name] = "" if id_ is None else self._model._model.token_get_text(int(id_))
        return library.Jinja2ChatFormatter(template=known["tokenizer.chat_template"], **pieces)

    def reset(self) -> None:
        """Forget what was read."""
        self._model.reset()

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        self._model.eval(list(ids))
        last = self._model._ctx.get_logits_ith(-1)
        return np.array(np.ctypeslib.as_array(last, shape=(self._model.n_vocab(),)))

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])


def architecture_of(shape: Shape) -> str:
    """llama.cpp's name for our decoder."""
    return "qwen3" if shape.qk_norm else "llama"


def settings_of(source: Source, settings: Gguf) -> dict[str, Any]:
    """All settings of the file by name, but for its architecture."""
    import gguf

    shape, prefix = source.shape, architecture_of(source.shape)
    every = settings.weights == GgufWeights.F32
    file_type = f"{'ALL' if every else 'MOSTLY'}_{settings.weights.value.upper()}"
    own = {
        "context_length": shape.max_tokens,
        "embedding_length": shape.hidden_size,
        "block_count": shape.num_layers,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(shape.norm_eps),
        "rope.freq_base": float(shape.rope_base),
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocab_size,
    }
    if shape.rope_scaling is not None:  # the file keeps what it gives, and this of what it is from
        own["rope.scaling.original_context_length"] = shape.rope_scaling.original_max_tokens
    return {
        "general.name": source.name,
        "general.file_type": int(gguf.LlamaFileType[file_type]),
        "general.quantization_version": int(gguf.GGML_QUANT_VERSION),
        **{f"{prefix}.{name}": value for name, value in own.items()},
        **tokenizer_fields(source.folder, shape.vocab_size),
    }


def tensors_of(source: Source, settings: Gguf) -> Iterator[tuple[str, Any, str]]:
    """Name, array and format of each tensor as the file has it, one after the other."""
    import gguf

    shape = source.shape
    heads = {"q_proj": shape.num_heads, "k_proj": shape.num_kv_heads}
    if shape.rope_scaling is not None:
        factors = rotation_factors(shape.head_dim, shape.rope_base, shape.rope_scaling)
        yield ROTATION, factors, "F32"
    for name, weight in dense_weights(source):
        kind = _format(name, settings.weights)
        projection = name.split(".")[-2]
        if not shape.qk_norm and projection in heads:
            weight = _adjacent(weight, heads[projection])
        if kind in ("F32", "F16"):
            array = np.array(rounded(name, weight, mx.float16 if kind == "F16" else mx.float32))
        else:
            whole = np.array(rounded(name, weight, mx.float32))
            array = gguf.quants.quantize(whole, gguf.GGMLQuantizationType[kind])
        yield gguf_name(name), array, kind


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor of ours."""
    layer = name.removesuffix(".weight")
    if layer in _GGUF_NAMES:
        return f"{_GGUF_NAMES[layer]}.weight"
    _, _, number, inner = layer.split(".", 3)
    return f"blk.{number}.{_GGUF_NAMES[inner]}.weight"


def _format(name: str, weights: GgufWeights) -> str:
    """Format of a tensor. Gains stay float32; below 8 bits, embedding and output have 8."""
    if component_of(name) == "norms":
        return "F32"
    outer = name.startswith(("model.embed_tokens", "lm_head"))
    small = weights in (GgufWeights.Q4_0, GgufWeights.Q4_1)
    return "Q8_0" if outer and small else weights.value.upper()


def _adjacent(rows: mx.array, num_heads: int) -> mx.array:
    """Rows [H x E, D] of rotary pairs (i, i + E/2) in the order of adjacent pairs (2i, 2i + 1)."""
    split = rows.reshape(num_heads, 2, -1, rows.shape[-1])  # [H, 2, E / 2, D]
    return split.swapaxes(1, 2).reshape(rows.shape)


def _refusals(source: Source, settings: Gguf) -> list[str]:
    shape, reasons = source.shape, []
    if shape.qk_norm and shape.rope_scaling is not None:
        reasons.append("llama.cpp does not rescale rotations in a model with QK-norm")
    widths = (shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size)
    odd = sorted({width for width in widths if width % BLOCK})
    if odd and settings.weights not in (GgufWeights.F32, GgufWeights.F16):
        reasons.append(
            f"{settings.weights.value} takes rows in blocks of {BLOCK}, and the model has rows of "
            f"{' and '.join(f'{width:,}' for width in odd)}: take f16"
        )
    return reasons


def _write(source: Source, folder: Path, settings: Gguf) -> None:
    import gguf

    fields = settings_of(source, settings)
    folder.mkdir(parents=True)
    file = folder / f"{source.name}-{settings.weights.value.upper()}.gguf"
    writer = gguf.GGUFWriter(file, architecture_of(source.shape))
    for name, value in fields.items():
        add_setting(writer, name, value)
    # Sizes go first, so that the weights can be made one after the other.
    if source.shape.rope_scaling is not None:
        half = source.shape.head_dim // 2
        writer.add_tensor_info(ROTATION, (half,), np.dtype(np.float32), 4 * half)
    for name, sizes in tensor_shapes(source.shape).items():
        kind = _format(name, settings.weights)
        writer.add_tensor_info(
            gguf_name(name),
            sizes,
            np.dtype(np.float16 if kind == "F16" else np.float32),  # said again by raw_dtype
            math.prod(sizes) * _bytes_of(kind) // BLOCK,
            raw_dtype=gguf.GGMLQuantizationType[kind],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, array, _ in tensors_of(source, settings):
        writer.write_tensor_data(array)
    writer.close()


def add_setting(writer: Any, name: str, value: Any) -> None:
    """Give gguf's writer one setting, in the type that GGUF has for it."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _bytes_of(kind: str) -> int:
    return _BLOCK_BYTES[GgufWeights(kind.lower())]


def _file(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ExportError(f"'{folder}' has {len(files)} GGUF files, not one")
    return files[0]


def _open(folder: Path, settings: Gguf, adapter: str) -> Runtime:
    if importlib.util.find_spec("llama_cpp") is None:
        found = read_gguf(_file(folder))
        model = dense_model(found.shape, found.weights.items())
        return MlxRuntime(model, "our own reader of GGUF, in MLX", is_stand_in=True)
    return LlamaCppRuntime(_file(folder))


def _thresholds(settings: Gguf) -> Thresholds:
    return _CLOSE if settings.weights in (GgufWeights.F32, GgufWeights.F16) else _NEAR


def _stored(source: Source, settings: Gguf) -> Iterator[tuple[str, mx.array]] | None:
    """The weights as rounded to fewer bits than 16; None where they are not."""
    if settings.weights in (GgufWeights.F32, GgufWeights.F16):
        return None
    return _rounded(source, settings)


def _rounded(source: Source, settings: Gguf) -> Iterator[tuple[str, mx.array]]:
    import gguf

    for name, weight in dense_weights(source):
        kind = _format(name, settings.weights)
        if kind == "F32":
            yield name, weight
            continue
        wanted = gguf.GGMLQuantizationType[kind]
        packed = gguf.quants.quantize(np.array(weight), wanted)
        yield name, mx.array(gguf.quants.dequantize(packed, wanted))


def _differences(folder: Path, source: Source, settings: Gguf) -> list[str]:
    """Settings and tensors that the file has otherwise than was meant."""
    import gguf

    reader = gguf.GGUFReader(_file(folder))
    wrong = []
    for name, value in settings_of(source, settings).items():
        field = reader.fields.get(name)
        if field is None or not _same(field.contents(), value):
            wrong.append(name)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, array, kind in tensors_of(source, settings):
        tensor = found.pop(name, None)
        if (
            tensor is None
            or tensor.tensor_type.name != kind
            or not np.array_equal(np.asarray(tensor.data).ravel(), array.ravel())
        ):
            wrong.append(name)
    return [*wrong, *found]


def _same(found: Any, meant: Any) -> bool:
    """Whether a setting is as meant; decimals are float32 there."""
    if isinstance(meant, list) and meant and isinstance(meant[0], float):
        return bool(np.array_equal(np.array(found, np.float32), np.array(meant, np.float32)))
    if isinstance(meant, float):
        return bool(np.float32(found) == np.float32(meant))
    return bool(found == meant)


def _sizes(folder: Path, source: Source, settings: Gguf) -> list[Size]:
    import gguf

    file = _file(folder)
    sizes = {gguf_name(name): (name, size) for name, size in tensor_shapes(source.shape).items()}
    planned = dict.fromkeys(("embedding", "linears", "norms"), 0)
    found = dict(planned)
    for name, size in sizes.values():
        kind = _format(name, settings.weights)
        planned[component_of(name)] += math.prod(size) * _bytes_of(kind) // BLOCK
    for tensor in gguf.GGUFReader(file).tensors:
        part = "norms" if tensor.name == ROTATION else component_of(sizes[tensor.name][0])
        found[part] += int(tensor.n_bytes)
    if source.shape.rope_scaling is not None:
        planned["norms"] += 4 * source.shape.head_dim // 2
    rest = file.stat().st_size - sum(found.values())
    return [
        *(Size(part, found[part], planned[part]) for part in planned),
        Size("tokenizer", rest, None),
    ]


TARGET = Target(
    name="gguf",
    about="a GGUF file for llama.cpp, with tokenizer and chat template",
    section=Gguf,
    folds=True,
    refusals=_refusals,
    write=_write,
    open=_open,
    sizes=_sizes,
    thresholds=_thresholds,
    differences=_differences,
    stored=_stored,
)
