"""Settings of `afm prune`, `afm distill` and `afm sft` on a model of one's own, without a recipe.

Everything here is ours: sizes for an evening on a laptop, learning rates found on SmolLM2-135M (see
benchmarks/RESULTS.md). `--set` changes any of them.
"""

from __future__ import annotations

from typing import Any

TEXTS = "texts"
"""Name of the one data source."""

CHATS = "chats"
"""Name of the one file of conversations."""

COMPARISONS = "comparisons"
"""Name of the one file of comparisons."""

HELD_OUT_FRACTION = 0.02
"""Share of the documents, 0 to 1, that the result is measured on."""

ROW_TOKENS = 512
"""Tokens in a row, or the model's context where that is shorter."""

SHARED: dict[str, Any] = {
    # skip_norm: with the usual 100, every step of a student that pruning had hurt badly was skipped
    # (SmolLM2-135M with random units). Clipping is enough.
    "optimizer": {
        "name": "adamw",
        "update_decay": 0.9,
        "square_decay": 0.95,
        "eps": 1e-8,
        "skip_norm": 1e6,
    },
    "training": {"micro_rows": 4},
    "watch": {"evaluate_every_steps": 50, "log_every_steps": 5, "snapshot_every_seconds": 120.0},
}
"""Sections of every such run."""

PRUNE: dict[str, Any] = {
    "tokens": 200_000,
    "rows_per_step": 4,
    "lr": 3e-4,
    "score_lr_factor": 100.0,  # 98 steps: a score moves by up to 1.6 standard deviations
    "scoring_tokens": 50_000,
}
"""[prune]"""

SFT: dict[str, Any] = {
    "lr": 2e-5,
    "rows_per_step": 4,
    "epochs": 2,
    "held_out_fraction": 0.05,
    "dropout_fraction": 0.0,
}
"""[sft]; the learning rate is the report's for the device model (LS, OB). No dropout: models that
are trained without it rely on a few very large values, and 0.1 takes SmolLM2-135M from 1.0 to 6.6
nats per token before the first step."""

ADAPT: dict[str, Any] = {
    "lr": 1e-3,
    "final_lr_fraction": 0.1,
    "rows_per_step": 4,
    "epochs": 3,
    "held_out_fraction": 0.05,
}
"""[adapters.NAME]; the learning rate is that of Apple's example of 2025 (TK)."""

REWARD: dict[str, Any] = {"lr": 1e-5, "pairs_per_step": 16, "epochs": 1}
"""[reward]"""

PREFER: dict[str, Any] = {"lr": 1e-6, "pairs_per_step": 16, "epochs": 1}
"""[prefer]"""

PAIR_TOKENS = 1_024
"""Longest prompt with an answer, in tokens, or the model's context where that is shorter."""

PROMPTS = "prompts"
"""Name of the one file of prompts."""

RL: dict[str, Any] = {
    "lr": 2e-6,
    "rounds": 10,
    "prompts_per_step": 8,
    "responses_per_prompt": 8,
    "updates_per_batch": 2,
    "reference_pull": 0.02,
    "step_pull": 0.05,
    "max_tokens": 128,
    "held_out_prompts": 32,
}
"""[rl]"""

RL_WATCH: dict[str, Any] = {"evaluate_every_steps": 10, "log_every_steps": 1}
"""[watch] of `afm rl`, beside that of all."""

REJECT: dict[str, Any] = {"max_tokens": 256}
"""[reject]"""

ITEC: dict[str, Any] = {
    "rounds": 3,
    "prompts_per_round": 200,
    "max_tokens": 128,
    "held_out_prompts": 64,
    "device_answers": 2_000,
}
"""[itec]"""

CHAT_ROW_TOKENS = 1_024
"""Tokens in a row of conversations, or the model's context where that is shorter."""

DISTILL: dict[str, Any] = {"target": "logits", "candidates": 64}
"""[distill]"""

CORE: dict[str, Any] = {
    "tokens": 200_000,
    "rows_per_step": 4,
    "lr": 3e-4,
    "warmup_steps": 5,
    "final_lr_fraction": 0.1,
    "weight_decay": 0.0,
    "mixture": {TEXTS: 1.0},
}
"""[core] of a distillation."""

BITS_PER_WEIGHT = 4.0
"""Average bits of a weight of the blocks' matrices, where the command does not say."""

QUANTIZE: dict[str, Any] = {"calibration_rows": 32, "gradient_rows": 8}
"""[quantize]"""

RECOVER_ROW_TOKENS = 256
"""Tokens in a row of recovery, or the model's context where that is shorter."""

CANDIDATES = 64
"""Tokens of the 16-bit model that count, or its vocabulary where that is smaller."""

RECOVER: dict[str, Any] = {
    "tokens": 100_000,
    "rows_per_step": 2,
    "warmup_fraction": 0.1,
    "ranks": [16],
    "product_rank": 16,
}
"""[recover]; small steps, because the teacher's word has little noise: of the divergence of a 4-bit
model of 1.6 million, 41,000 tokens won back 70 % in steps of 1,024, 75 % of 512, 79 % of 256."""

RECOVER_BY_METHOD: dict[str, dict[str, Any]] = {
    "lora": {"start": "residual", "lr": 3e-4},
    "tables": {"lr": 1e-4},
    "qat": {"lr": 1e-4},
}
"""What else [recover] has, by method. Of what 4 bits cost SmolLM2-135M, the tables' own values won
back 4 % in 20,480 tokens at 1e-4, and lost 18 % more at 1e-3."""

LORA_OPTIMIZER: dict[str, Any] = SHARED["optimizer"] | {"name": "muon"}
"""[optimizer] of recovery with lora. Of what 4 bits cost SmolLM2-135M, 20,480 tokens won back
23 % with muon from the residual, where 102,400 with adamw from drawn factors won 10 %."""
