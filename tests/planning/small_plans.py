"""A small recipe with every post-training stage, a made-up machine, and ways to look at a plan."""

from pathlib import Path

from afm_mlx.planning.examples import BYTES_PER_TOKEN
from afm_mlx.planning.hardware import Hardware
from afm_mlx.recipe import load_named_recipe

# 10 GFLOP/s and 1 GB/s, of which a half each is reached.
from tests.small_recipes import shape

CPU = Hardware(
    "cpu",
    "a CPU",
    8 * 10**9,
    2e10,
    "made up",
    0.5,
    2e9,
    "made up",
    0.5,
    compute_bytes=4,
    on_gpu=False,
)

RATE, BANDWIDTH = 1e10, 1e9

SHAPE = 'base = "smollm2"\n' + shape(
    hidden_size=64, head_dim=16, intermediate_size=128, vocab_size=512, max_tokens=512
)

MATRICES = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)

TOTAL = MATRICES + 512 * 64 + 2 * (2 * 64) + 64 + 2 * 2 * 16

OUTPUT = 512 * 64

SEEN = 2 * 4 * 16  # L x H x E, of a token and a token seen

SFT = """
[sft]
lr = 1e-5
row_tokens = 64
rows_per_step = 4
epochs = 3
held_out_fraction = 0.2
[sft.data.chats]
path = "FOLDER/chats.jsonl"
"""

REWARD = """
[reward]
lr = 1e-5
pairs_per_step = 8
max_tokens = 100
held_out_fraction = 0.5
[reward.data.people]
path = "FOLDER/pairs.jsonl"
"""

PREFER = REWARD.replace("[reward", "[prefer").replace("lr = 1e-5", "lr = 1e-6\nepochs = 2")

REJECT = """
[reject]
max_tokens = 32
answers_per_prompt = 3
[reject.data.asked]
path = "FOLDER/prompts.jsonl"
"""

RL = """
[rl]
lr = 1e-6
rounds = 5
max_tokens = 32
prompts_per_step = 4
responses_per_prompt = 6
updates_per_batch = 3
reference_pull = 0.1
step_pull = 0.1
[rl.data.asked]
path = "FOLDER/prompts.jsonl"
"""

ITEC = """
[itec]
rounds = 3
prompts_per_round = 20
max_tokens = 32
device_answers = 70
[itec.data.asked]
path = "FOLDER/prompts.jsonl"
"""


def lines(file: Path, count: int, tokens: int):
    """Write so many lines, each of so many estimated tokens."""
    file.write_text(("x" * (tokens * BYTES_PER_TOKEN - 1) + "\n") * count)


def stage(planned, name):
    return next(each for each in planned.post_training if each.stage == name)


def work(of):
    return {each.name: each for each in of.work}


def memory(of):
    return {part.name: part.bytes for part in of.memory}


def small_shape():
    return load_named_recipe("afm-tiny").shape.model_copy(
        update={
            "num_layers": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 16,
            "intermediate_size": 128,
            "vocab_size": 512,
        }
    )
