"""A folder for transformers and mlx-lm: dense weights, tokenizer, chat template, model card."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.adapters import melted_facts, read_adapter_facts
from afm_mlx.decoder.checkpoint import (
    TOKENIZER_FILES,
    read_tensors,
    stored_bits,
    tensor_shapes,
    write_checkpoint,
)
from afm_mlx.decoder.palette_format import component_of
from afm_mlx.decoder.weights import weight_files
from afm_mlx.export.dense import dense_weights, rounded
from afm_mlx.export.in_mlx import MlxRuntime
from afm_mlx.export.model_card import model_card
from afm_mlx.export.targets import Size, Source, Target
from afm_mlx.export.verify import Logits, Runtime, Thresholds
from afm_mlx.settings.export import HuggingFace, NumberFormat
from afm_mlx.text.tokenizer import Tokenizer

GENERATION_CONFIG = "generation_config.json"
CARD = "README.md"

_DTYPES = {
    NumberFormat.BFLOAT16: mx.bfloat16,
    NumberFormat.FLOAT16: mx.float16,
    NumberFormat.FLOAT32: mx.float32,
}

# Both programs compute in float32, so what differs is the weights' rounding: none for float32.
_THRESHOLDS = {
    NumberFormat.FLOAT32: Thresholds(cosine=0.999_99, error=0.005, agreement=1.0, tie=0.001),
    NumberFormat.FLOAT16: Thresholds(cosine=0.999, error=0.1, agreement=1.0, tie=0.05),
    NumberFormat.BFLOAT16: Thresholds(cosine=0.99, error=0.5, agreement=1.0, tie=0.3),
}


class TransformersRuntime:
    """The folder in transformers, computed by torch on the CPU in float32."""

    is_stand_in = False
    context_tokens = None

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        # transformers 5.24 calls `cache` what older ones call `past_key_values`.
        known = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"
        self._new_cache = transformers.DynamicCache
        self._cache: Any = None

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int]:
        """Ids by the folder's tokenizer and template, as transformers reads them."""
        return _prompt_ids(self._tokenizer, text, chats)

    def reset(self) -> None:
        """Forget what was read."""
        self._cache = self._new_cache()

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt; what comes next."""
        import torch

        with torch.no_grad():
            said = self._model(
                torch.tensor([list(ids)]), use_cache=True, **{self._cache_name: self._cache}
            )
        return np.array(said.logits[0, -1].float().numpy())

    def step(self, token: int) -> Logits:
        """Read one more token; what comes next."""
        return self.prefill([token])


class MlxLmRuntime(MlxRuntime):
    """The folder in mlx-lm's own Qwen3 or Llama, in float32: where torch is not installed."""

    def __init__(self, folder: Path) -> None:
        import transformers

        model = import_mlx_lm("mlx_lm.utils").load_model(folder)[0]
        model.set_dtype(mx.float32)
        name = f"mlx-lm {version('mlx-lm')}, float32 (torch is not installed)"
        super().__init__(model, name, is_stand_in=True)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def prompt_ids(self, text: str, *, chats: bool) -> Sequence[int]:
        """Ids by the folder's tokenizer and template, as mlx-lm reads them."""
        return _prompt_ids(self._tokenizer, text, chats)


def _prompt_ids(tokenizer: Any, text: str, chats: bool) -> list[int]:
    if not chats:
        return [int(token) for token in tokenizer(text)["input_ids"]]
    messages = [{"role": "user", "content": text}]
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return [int(token) for token in found]


def _refusals(source: Source, settings: HuggingFace) -> list[str]:
    return []  # config.py writes nothing but what Qwen3 and Llama hold


def _write(source: Source, folder: Path, settings: HuggingFace) -> None:
    weights = dict(_weights(source, settings))
    adapters = [read_adapter_facts(each) for each in source.adapters]  # one at most
    facts = melted_facts(source.folder, adapters[0] if adapters else None)
    write_checkpoint(folder, source.shape, weights, source.folder, facts=facts)
    if not (folder / GENERATION_CONFIG).exists():
        text = json.dumps(_generation_config(source.folder), indent=2) + "\n"
        (folder / GENERATION_CONFIG).write_text(text, encoding="utf-8")
    card = model_card(source, dtype=settings.dtype.value)
    (folder / CARD).write_text(card, encoding="utf-8")


def _weights(source: Source, settings: HuggingFace) -> Iterator[tuple[str, mx.array]]:
    for name, weight in dense_weights(source):
        yield name, rounded(name, weight, _DTYPES[settings.dtype])


def _differences(folder: Path, source: Source, settings: HuggingFace) -> list[str]:
    """Tensors and tokenizer files that the folder has otherwise than was meant."""
    found = read_tensors(folder, source.shape)
    wrong = [
        name
        for name, weight in _weights(source, settings)
        if weight.dtype != found[name].dtype or not mx.array_equal(weight, found[name]).item()
    ]
    for name in TOKENIZER_FILES:
        file = source.folder / name
        if file.is_file() and file.read_bytes() != (folder / name).read_bytes():
            wrong.append(name)
    return wrong


def _generation_config(folder: Path) -> dict[str, Any]:
    """Where an answer starts and ends, for a tokenizer that came without it."""
    tokenizer = Tokenizer.open(folder)
    ends = list(tokenizer.eos_ids)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": tokenizer.pad_id,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _open(folder: Path, settings: HuggingFace, adapter: str) -> Runtime:
    if importlib.util.find_spec("torch") is None:
        return MlxLmRuntime(folder)
    return TransformersRuntime(folder)


def _sizes(folder: Path, source: Source, settings: HuggingFace) -> list[Size]:
    planned = dict.fromkeys(("embedding", "linears", "norms"), 0)
    width = _DTYPES[settings.dtype].size
    for name, shape in tensor_shapes(source.shape).items():
        planned[component_of(name)] += width * math.prod(shape)
    held = stored_bits(folder)
    found = {part: held[part].bits // 8 for part in planned}
    weights = sum(file.stat().st_size for file in weight_files(folder))
    named = {*TOKENIZER_FILES} - {GENERATION_CONFIG}
    tokenizer = sum((folder / name).stat().st_size for name in named if (folder / name).is_file())
    return [
        *(Size(part, found[part], planned[part]) for part in planned),
        Size("headers", weights - sum(found.values()), None),
        Size("tokenizer", tokenizer, None),
    ]


TARGET = Target(
    name="huggingface",
    about="dense weights for transformers and mlx-lm, with tokenizer and model card",
    section=HuggingFace,
    folds=True,
    refusals=_refusals,
    write=_write,
    open=_open,
    sizes=_sizes,
    thresholds=lambda settings: _THRESHOLDS[settings.dtype],
    differences=_differences,
)
