"""Run folders made by hand, in the form that the stages leave them in."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

MADE_AT = 1_790_000_000  # seconds since 1970: 21 September 2026
VERSIONS = {"python": "3.12.1", "afm-mlx": "0.1.0", "mlx": "0.32.4"}
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
}
HARM = '<script>alert("1")</script><img src=x onerror=alert(2)> & `code` |cell| \x00\x1b[31m\ud800'
"""What a model may say: markup, control codes, and half of a pair."""


class Made:
    """A run's folder, stage by stage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0

    def stage(
        self,
        name: str,
        *parents: str,
        log: list[dict[str, Any]] | None = None,
        model: bool = False,
        settings: dict[str, Any] | None = None,
        seconds: float = 1.0,
        **metrics: Any,
    ) -> Path:
        """A finished stage."""
        place = self.folder / name
        place.mkdir(parents=True)
        self.number += 1
        manifest = {
            "stage": name.removeprefix("set-aside/"),
            "recipe": self.folder.name,
            "fingerprint": f"{self.number:064x}",
            "parents": dict.fromkeys(parents, "0" * 64),
            "settings": settings or {},
            "metrics": metrics,
            "seconds": seconds,
            "versions": VERSIONS,
            "machine": "Darwin arm64",
        }
        self.write(f"{name}/manifest.json", manifest)
        if log:
            self.log(name, log)
        if model:
            self.write(f"{name}/model/config.json", CONFIG)
            self.tensors(f"{name}/model/model.safetensors", weight=1_000)
        return place

    def making(self, name: str, log: list[dict[str, Any]]) -> Path:
        """A stage that was interrupted."""
        place = self.folder / f"{name}.part"
        place.mkdir(parents=True)
        (place / "fingerprint").write_text("0" * 64)
        self.log(f"{name}.part", log)
        return place

    def log(self, place: str, lines: list[dict[str, Any]]) -> None:
        file = self.folder / place / "metrics.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def write(self, name: str, value: Any) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
        os.utime(file, (MADE_AT + self.number, MADE_AT + self.number))
        return file

    def tensors(self, name: str, **sizes: int) -> None:
        """A file of float32 tensors; their numbers are zeros."""
        header, start = {}, 0
        for key, size in sizes.items():
            end = start + 4 * size
            header[key] = {"dtype": "F32", "shape": [size], "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(start))


def trained(steps: int, first: float, *, every: int = 20) -> list[dict[str, Any]]:
    """A log of training on texts; every fifth line has a held-out loss."""
    lines = []
    for place, step in enumerate(range(every, steps + 1, every), start=1):
        loss = first - 0.01 * place
        line = {"step": step, "loss": loss + 0.001, "nll": loss, "lr": 0.01, "skipped": 0.0}
        line |= {"tokens_per_second": 2_000 + place, "peak_gb": 0.25}
        if place % 5 == 0 or step == steps:
            line |= {"held_out_nats": loss + 0.2, "bits_per_byte": loss / 2}
        lines.append(line)
    return lines


def score(value: float, around: float = 0.05, n: int = 100) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - around), "high": value + around, "n": n}


def result(task: str, stage: str, groups: Any = None, samples: Any = None, **scores: Any) -> Any:
    """One element of scores.json."""
    found = {
        "task": task,
        "model": "model",
        "stage": stage,
        "items": 100,
        "scores": scores,
        "groups": groups or {},
        "refused": {"longer than the context": 3} if task == "gsm8k" else {},
        "seconds": 12.3,
        "settings": {"shots": 8, "prompt_hash": "ab12", "temperature": 0.0, "chat": True},
        "versions": VERSIONS,
    }
    return found | ({"samples": samples} if samples else {})


def fill(made: Made, *, lr: float = 0.01, gain: float = 0.0) -> Made:
    """A whole run: documents, training, answers, few bits, adapters, scores."""
    source = {
        "train_tokens": 90_123,
        "train_documents": 40,
        "train_text_bytes": 300_456,
        "held_out_tokens": 1_234,
        "held_out_documents": 2,
        "held_out_text_bytes": 4_567,
        "skipped": {"empty": 7},
        "licenses": {"MIT": 41, "a|b <i>": 1},
        "code_languages": {"Python": 42},
    }
    data = {"data": {"docs": {"kind": "text", "license": "MIT"}}}
    core = {"core": {"lr": lr, "mixture": {"docs": 1.0}}, "training": {"seed": 0}}
    core["synthetic"] = {"a_long_name": {"of_a_setting": {"that_goes_on_and_on": lr}}}
    made.stage("tokenizer", pieces=32, documents=40)
    made.stage("data", "tokenizer", settings=data, docs=source)
    made.stage(
        "core",
        "tokenizer",
        "data",
        log=trained(400, 6.0 - gain),
        model=True,
        settings=core,
        seconds=83.4,
        held_out_nats=5.7312 - gain,
        bits_per_byte=2.7654 - gain,
        tokens=327_680,
        peak_gb=0.251,
        samples={"def read(": HARM, "": "said of nothing"},
    )
    made.stage(
        "sft",
        "core",
        log=trained(100, 2.0 - gain),
        model=True,
        settings={"sft": {"lr": 0.006}},
        seconds=41.2,
        held_out_nats=0.2871 - gain / 10,
        start_held_out_nats=8.0954,
        conversations=5_000,
        peak_gb=0.199,
        samples={"def read(": " self):\n```\nfenced\n```\n"},
    )
    made.stage(
        "rl",
        "sft",
        log=[{"step": 6, "reward": 0.41, "loss": -0.1, "answers_per_second": 7.5}],
        held_out_right=0.625,
        start_held_out_right=0.55,
        answers=768,
    )
    matrices = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    names = [f"model.layers.{layer}.{each}" for layer in range(2) for each in matrices]
    made.stage(
        "quantize",
        "sft",
        "data",
        model=True,
        settings={"quantize": {"target_bits_per_weight": 3.7}},
        bits_per_weight=3.6872,
        bits=dict.fromkeys(names, 4) | {names[0]: 2, "model.embed_tokens": 8},
        share_by_bits={"2": 0.15, "4": 0.85},
        stored_bits={"linears": 3.9123, "embedding": 8.125, "norms": 16.0, "all": 4.7531},
        base_held_out_nats=5.7312,
        held_out_nats=5.8011,
        held_out_kl=0.0789,
    )
    ranks = {"16": {"parameters": 6_144, "held_out_kl": 0.0312, "held_out_won_back": 0.6046}}
    made.stage(
        "recover", "quantize", "sft", base_held_out_kl=0.0789, held_out_kl=0.0312, ranks=ranks
    )
    made.log("recover/rank-16", trained(60, 5.0))
    made.stage(
        "adapter-tools",
        "recover",
        rank=16,
        parent="recovery-16",
        start_held_out_nats=3.2105,
        held_out_nats=0.9876,
        conversations=100,
    )
    made.write("adapter-tools/adapter/adapter.json", {"name": "tools"})
    made.tensors("adapter-tools/adapter/adapters.safetensors", factor=50)
    groups = {"algebra": {"accuracy": score(0.31)}, "law <b>": {"accuracy": score(0.27)}}
    made.stage("eval", "core", "sft", seconds=25.0)
    made.write(
        "eval/scores.json",
        [
            result("mmlu", "core", accuracy=score(0.25), groups=groups),
            result("mmlu", "sft", accuracy=score(0.29 + gain), groups=groups),
            result("gsm8k", "sft", accuracy=score(0.42), samples={"2 + 2?": f"4 {HARM}"}),
            result("perplexity", "core", perplexity=score(190.25, 8.0)),
            result("safety", "sft", violation=score(0.125), over_refusal=score(0.0625)),
        ],
    )
    return made


@pytest.fixture
def made(tmp_path):
    """A run's folder without stages."""
    return Made(tmp_path / "runs" / "small")


@pytest.fixture
def whole(made):
    """A run's folder with all kinds of stages."""
    return fill(made)


@pytest.fixture
def another(tmp_path):
    """The same with another learning rate, and better."""
    return fill(Made(tmp_path / "runs" / "better"), lr=0.02, gain=0.125)
