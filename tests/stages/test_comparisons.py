"""The reward model, DPO and IPO, on a tiny model that adds numbers and answers in mixed forms.

The required form is `Answer: N`. A program checks form and number, so comparisons need no people.
"""

import hashlib
import json
import random
import re
from contextlib import closing
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from afm_mlx import own_model
from afm_mlx.alignment.logps import Answer, answer_logps, pack_answers
from afm_mlx.alignment.pairs import encode_answer, open_pairs, pack_pairs
from afm_mlx.alignment.preferences import preferences_of_scores, write_preferences
from afm_mlx.alignment.reward import open_reward_model
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts, save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.errors import DataError, ModelError, RecipeError
from afm_mlx.progress import Progress
from afm_mlx.settings.sections import Shape
from afm_mlx.text.chat import render_chat
from afm_mlx.text.conversations import Conversation
from afm_mlx.text.tokenizer import Tokenizer

from .conftest import apart, finished_apart, killed_when

FORMS = ("Answer: {}", "{}", "It is {}", "The sum is {}")
SHAPE = Shape(
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=320,
    rope_base=10_000.0,
    norm_eps=1e-5,
    max_tokens=64,
)


def prompts() -> list[tuple[int, int]]:
    return [(a, b) for a in range(10) for b in range(10)]


def messages(a: int, b: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{a} + {b}?"}]


def some_answer(a: int, b: int, chance: random.Random) -> str:
    """A right sum, or one that is far off, in any form."""
    total = a + b + (chance.randrange(20, 70) if chance.random() < 0.3 else 0)
    return chance.choice(FORMS).format(total)


def score(a: int, b: int, answer: str) -> float:
    """Half for the form, half for the number."""
    found = re.search(r"\d+$", answer)
    right = found is not None and int(found[0]) == a + b
    return 0.5 * right + 0.5 * (re.fullmatch(r"Answer: \d+", answer) is not None)


def random_model(small_tokenizer, folder: Path) -> Path:
    """A model that has learned nothing, with a tokenizer for sums."""
    texts = [f"{a} + {b}? " + form.format(a + b) for a, b in prompts() for form in FORMS]
    small_tokenizer(["\n".join(texts)] * 2, folder / "tokenizer")
    model = Decoder(SHAPE)
    initialize(model, 0)
    save_checkpoint(folder / "model", model, folder / "tokenizer", facts={"stage": "sft"})
    return folder / "model"


def make_model(start: Path, folder: Path, *, steps: int = 200) -> Path:
    """A model that answers in all forms alike, and often rightly, made of a random one."""
    tokenizer, model = Tokenizer.open(start), open_checkpoint(start)
    chance = random.Random(0)
    optimizer = optim.Adam(3e-3)

    def loss(model: Decoder, *packed: mx.array) -> mx.array:
        found = answer_logps(model, type(example)(*packed), chunk_bytes=2**26)
        return -mx.sum(found.tokens) / mx.sum(found.answers != 0)

    example = pack_answers([Answer([1, 2], 1)])
    step = nn.value_and_grad(model, loss)
    examples = []
    for a, b in prompts() * 12:
        answer = {"role": "assistant", "content": some_answer(a, b, chance)}
        examples.append(encode_answer(Conversation((*messages(a, b), answer)), tokenizer))
    for _ in range(steps):
        _, gradient = step(model, *pack_answers(chance.sample(examples, 32)))
        optimizer.update(model, gradient)
        mx.eval(model.parameters(), optimizer.state)
    save_checkpoint(folder / "model", model, start, facts={"stage": "sft"})
    return folder / "model"


def make_comparisons(file: Path, *, answers: int, seed: int = 1) -> Path:
    """For each prompt some answers in all forms, compared by their scores."""
    chance = random.Random(seed)
    found = []
    for a, b in prompts():
        said = [some_answer(a, b, chance) for _ in range(answers)]
        found += preferences_of_scores(
            messages(a, b),
            [{"role": "assistant", "content": answer} for answer in said],
            [score(a, b, answer) for answer in said],
            most_pairs=answers // 2,
        )
    write_preferences(file, found)
    return file


def sampled_answers(folder: Path, *, seed: int = 0, most_tokens: int = 12) -> list[str]:
    """An answer of the model to each prompt, drawn at temperature 1."""
    model, tokenizer = open_checkpoint(folder, dtype=mx.float32), Tokenizer.open(folder)
    stops = set(tokenizer.eos_ids)
    by_length: dict[int, list[list[int]]] = {}
    for a, b in prompts():
        ids = render_chat(tokenizer, messages(a, b))
        by_length.setdefault(len(ids), []).append(ids)
    key, found = mx.random.key(seed), []
    for rows in by_length.values():
        tokens = mx.array(rows)
        start = tokens.shape[1]
        for _ in range(most_tokens):
            key, now = mx.random.split(key)
            drawn = mx.random.categorical(model(tokens)[:, -1], key=now)
            tokens = mx.concatenate([tokens, drawn[:, None]], axis=1)
            mx.eval(tokens)
        for row in tokens[:, start:].tolist():
            end = next((at for at, number in enumerate(row) if number in stops), len(row))
            found.append(tokenizer.decode(row[:end]))
    return found


def form_rate(answers: list[str]) -> float:
    """Share of answers in the required form, 0 to 1."""
    return sum(re.fullmatch(r"Answer: \d+", answer) is not None for answer in answers) / len(
        answers
    )


QUICK = ["watch.log_every_steps=1", "training.micro_rows=8"]


@pytest.fixture(scope="session")
def untrained(small_tokenizer, tmp_path_factory):
    """A random model with the tokenizer of the arithmetic."""
    return random_model(small_tokenizer, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="session")
def comparisons(tmp_path_factory):
    return make_comparisons(tmp_path_factory.mktemp("comparisons") / "pairs.jsonl", answers=3)


def run(stage, model, data, out, *assignments, method="dpo", skip_bad=False):
    """Metrics of a stage, run as its command does."""
    chosen = {"method": method} if stage == "prefer" else {}
    recipe_of = own_model.prefer_recipe if stage == "prefer" else own_model.reward_recipe
    recipe = recipe_of(model, data, **chosen, skip_bad=skip_bad, assignments=[*QUICK, *assignments])
    with closing(Progress()) as progress:
        return own_model.run(recipe, stage, out, progress)["metrics"]


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_preference_training_leaves_a_model_and_measures_it(
    untrained, comparisons, tmp_path, method
):
    out = tmp_path / "out"
    metrics = run(
        "prefer", untrained, comparisons, out, "prefer.lr=1e-3", "prefer.epochs=2", method=method
    )
    assert read_facts(out)["stage"] == "prefer"
    lines = comparisons.read_text().splitlines()
    assert metrics["pairs"]["comparisons"] + metrics["held_out_pairs"] == len(lines)
    assert metrics["held_out_margin"] > 0
    assert metrics["held_out_chosen_drift"] > metrics["held_out_rejected_drift"]
    # The numbers are those of the model that was saved.
    tokenizer = Tokenizer.open(out)
    pairs = open_pairs(
        {"comparisons": comparisons}, tokenizer, max_tokens=64, held_out_fraction=0.05
    ).held_out
    margins = []
    for folder in (out, untrained):
        logps = answer_logps(open_checkpoint(folder), pack_pairs(pairs), chunk_bytes=2**26)
        chosen, rejected = mx.split(logps.answers, 2)
        margins.append(chosen - rejected)
    gained = margins[0] - margins[1]
    assert metrics["held_out_pairs"] == len(pairs)
    assert metrics["held_out_accuracy"] == pytest.approx(mx.mean(gained > 0).item())
    assert metrics["held_out_margin"] == pytest.approx(mx.mean(gained).item(), abs=1e-4)


def test_reward_training_leaves_a_reward_model_that_prefers_what_people_did(
    untrained, comparisons, tmp_path
):
    out = tmp_path / "out"
    metrics = run("reward", untrained, comparisons, out, "reward.lr=1e-3", "reward.epochs=2")
    assert metrics["held_out_margin"] > 0
    scorer = open_reward_model(out)
    good, bad = ("Answer: 7", "It is 63")
    rewards = scorer.score(
        [
            Conversation((*messages(3, 4), {"role": "assistant", "content": answer}))
            for answer in (good, bad)
        ]
    )
    assert rewards[0] > rewards[1]


def test_grades_are_learned_where_people_gave_them(untrained, tmp_path):
    data = tmp_path / "graded.jsonl"
    with data.open("w") as file:
        for a, b in prompts():
            line = {
                "prompt": f"{a} + {b}?",
                "chosen": f"Answer: {a + b}",
                "rejected": f"It is {a + b + 40}",
                "chosen_grades": {"truthfulness": 2, "verbosity": None},
                "rejected_grades": {"truthfulness": 0},
            }
            file.write(json.dumps(line) + "\n")
    metrics = run(
        "reward", untrained, data, tmp_path / "out", "reward.lr=1e-3", "reward.epochs=3",
        "reward.grade_weight=1.0",
    )  # fmt: skip
    assert metrics["held_out_grade_accuracy"] == {"truthfulness": 1.0}


def test_micro_batches_change_only_rounding(untrained, comparisons, tmp_path):
    weights = []
    for number, rows in enumerate((4, 32)):
        out = tmp_path / str(number)
        run("prefer", untrained, comparisons, out, f"training.micro_rows={rows}", "prefer.lr=1e-4")
        weights.append(open_checkpoint(out).model.embed_tokens.weight)
    assert mx.allclose(*weights, atol=1e-4).item()
    assert not mx.allclose(
        weights[0], open_checkpoint(untrained).model.embed_tokens.weight, atol=1e-4
    ).item()


def test_a_bad_line_stops_or_is_counted(untrained, comparisons, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "1 + 1?", "chosen": "2"}\n' + comparisons.read_text())
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 1: no 'rejected'"):
        run("prefer", untrained, data, tmp_path / "out")
    metrics = run("prefer", untrained, data, tmp_path / "out", skip_bad=True)
    assert metrics["skipped"] == 1


def test_the_context_bounds_the_pairs(untrained, comparisons, tmp_path):
    with pytest.raises(RecipeError, match=r"prefer.max_tokens \(65\) is above shape.max_tokens"):
        run("prefer", untrained, comparisons, tmp_path / "out", "prefer.max_tokens=65")
    with pytest.raises(DataError, match="no comparison to train on"):
        run("prefer", untrained, comparisons, tmp_path / "out", "prefer.max_tokens=3")


def test_an_existing_folder_is_not_overwritten(untrained, comparisons, tmp_path):
    with pytest.raises(ModelError, match="exists already"):
        run("reward", untrained, comparisons, tmp_path)


def start(stage, model, data, out):
    settings = (
        f"{stage}.lr=1e-3", f"{stage}.epochs=4", f"{stage}.pairs_per_step=4",
        "training.micro_rows=4", "watch.snapshot_every_seconds=0.01",
        "watch.evaluate_every_steps=10",
    )  # fmt: skip
    return apart(stage, model, "--data", data, "--out", out, settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prefer", "reward"])
def test_a_run_killed_anywhere_ends_with_the_same_bits(untrained, comparisons, tmp_path, stage):
    def finish(out):
        return finished_apart(start(stage, untrained, comparisons, out))[1]

    finish(tmp_path / "whole")
    cut = tmp_path / "cut"
    work = tmp_path / "cut.work" / "own" / f"{stage}.part"
    if stage == "prefer":
        reference = work / "reference.f32"
        process = start(stage, untrained, comparisons, cut)
        killed_when(process, lambda: reference.exists() and reference.stat().st_size > 100)
    for step in (3, 12):
        process = start(stage, untrained, comparisons, cut)
        killed_when(
            process,
            lambda step=step: any(
                int(path.name.removeprefix("step-")) >= step
                for path in work.glob("snapshots/step-*[0-9]")
            ),
        )
    assert "going on from step" in finish(cut)
    for file in sorted((tmp_path / "whole").glob("*.safetensors")):
        digests = [
            hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
            for folder in (tmp_path / "whole", cut)
        ]
        assert digests[0] == digests[1], file.name


@pytest.mark.slow
def test_checkable_answers_teach_a_form(untrained, tmp_path):
    """A model that answers rightly in many forms learns the required one from comparisons."""
    model = make_model(untrained, tmp_path / "start")
    data = make_comparisons(tmp_path / "pairs.jsonl", answers=24)
    shared = ("held_out_fraction=0.15", "epochs=2")
    reward = run(
        "reward", model, data, tmp_path / "reward", "reward.lr=1e-3",
        *(f"reward.{each}" for each in shared),
    )  # fmt: skip
    assert reward["held_out_accuracy"] > 0.85
    before = form_rate(sampled_answers(model))
    for method in ("dpo", "ipo"):
        out = tmp_path / method
        found = run(
            "prefer", model, data, out, "prefer.lr=3e-4",
            *(f"prefer.{each}" for each in shared), method=method,
        )  # fmt: skip
        assert found["held_out_accuracy"] > 0.8
        assert form_rate(sampled_answers(out)) > before + 0.25
