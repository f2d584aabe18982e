"""The README.md of an exported model: what its files say of it, and nothing that they do not."""

from __future__ import annotations

from typing import Any

from afm_mlx.artifact import read_manifest
from afm_mlx.decoder.adapters import read_adapter_facts
from afm_mlx.decoder.checkpoint import read_facts
from afm_mlx.decoder.decoder import count_parameters
from afm_mlx.export.targets import Source


def model_card(source: Source, *, dtype: str) -> str:
    """Text of the card, in Markdown with the hub's head.

    Args:
        source: the model.
        dtype: of the weights: bfloat16, float16 or float32.
    """
    shape = source.shape
    parameters = sum(count_parameters(shape).values())
    rows = {
        "parameters": f"{parameters:,}",
        "architecture": f"{'Qwen3' if shape.qk_norm else 'Llama'}, {shape.num_layers} layers, "
        f"width {shape.hidden_size:,}",
        "attention": f"{shape.num_heads} heads of {shape.head_dim} on {shape.num_kv_heads} "
        "key/value heads",
        "feed-forward": f"{shape.intermediate_size:,}",
        "vocabulary": f"{shape.vocab_size:,} rows, {'tied' if shape.tied else 'untied'}",
        "context": f"{shape.max_tokens:,} tokens",
        "weights": f"{dtype}, {parameters * (4 if dtype == 'float32' else 2) / 1e6:,.1f} MB",
    }
    made = _made(source)
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            "- afm-mlx",
            "- mlx",
            "---",
            "",
            f"# {source.name}",
            "",
            "A decoder-only language model, exported with afm-mlx. It opens in transformers and in",
            "mlx-lm without further code.",
            "",
            *_as_table(rows),
            "",
            "## How it was made",
            "",
            *(_as_table(made) if made else ["Nothing is recorded about it."]),
            "",
            "## Languages, uses and limits",
            "",
            "Not recorded. The owner of the model fills this in.",
            "",
            "## License",
            "",
            "**No license is stated yet.** The owner of the model fills this in, and adds",
            "`license:` to the head of this file.",
            "",
            "## Use",
            "",
            "```python",
            "from transformers import pipeline",
            "",
            'write = pipeline("text-generation", "FOLDER")',
            'print(write("Hello", max_new_tokens=40)[0]["generated_text"])',
            "```",
            "",
            "```python",
            "from mlx_lm import generate, load",
            "",
            'model, tokenizer = load("FOLDER")',
            'print(generate(model, tokenizer, "Hello", max_tokens=40))',
            "```",
            "",
            "## Verified",
            "",
            "Before this folder was published, its logits were compared with those of the model it",
            "came from, token by token: see `export.json`.",
            "",
        ]
    )


def _made(source: Source) -> dict[str, str]:
    """What is recorded of a model's making: our facts, its stage's manifest, its adapter."""
    facts: dict[str, Any] = read_facts(source.folder)
    rows = {
        key.replace("_", " "): str(value)
        for key, value in facts.items()
        if isinstance(value, str | int | float) and key != "adapter"
    }
    stage = source.folder.resolve().parent
    manifest = read_manifest(stage) if source.folder.name == "model" else None
    if manifest is not None:
        rows["recipe"] = stage.parent.name
        rows["stage"] = stage.name
    for folder in source.adapters:
        adapter = read_adapter_facts(folder)
        rows["adapter"] = f"{adapter.name}, rank {adapter.rank}, folded in"
    return rows


def _as_table(rows: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
