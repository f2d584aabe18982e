"""A model that is asked: its probability is that of the answers' tokens."""

import math
import threading

import mlx.core as mx
import pytest

from afm_mlx.errors import DataError
from afm_mlx.inference.classifier import AskedModel
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.guardrails import Guardrails
from afm_mlx.settings.policy import Questions

QUESTIONS = Questions(
    model="tiny",
    prompt="{text} {question}",
    yes="It is a house.",
    no="the cat",
    questions={"illegal": "What is it?", "cyber.malware": "What is the hill?"},
)


def by_hand(folder, settings, text, question) -> float:
    """The same probability from whole sequences, without a cache."""
    engine = Engine.open(folder)
    prompt = engine.prompt_ids(settings.prompt.format(text=text, question=question))
    total = []
    for answer in (settings.yes, settings.no):
        ids = engine.tokenizer.encode(answer)
        logits = engine.model(mx.array([prompt + ids]))[0].astype(mx.float32)
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        places = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
        total.append(sum(logps[at, token].item() for at, token in zip(places, ids, strict=True)))
    return 1 / (1 + math.exp(total[1] - total[0]))


def test_the_score_is_the_likelihood_of_yes_against_no(model_folder):
    asked = AskedModel(QUESTIONS, model_folder)
    for text in ("The cat sat.", "A dog", "The cat sat."):
        scores = asked.score(text)
        for name, question in QUESTIONS.questions.items():
            expected = by_hand(model_folder, QUESTIONS, text, question)
            assert scores[name] == pytest.approx(expected, abs=1e-5)


def test_the_worst_part_of_a_long_text_counts(model_folder):
    settings = QUESTIONS.model_copy(update={"text_tokens": 20})
    asked = AskedModel(settings, model_folder)
    engine = Engine.open(model_folder)
    text = "The cat sat on the mat, and the dog looked at the house on the hill. " * 2
    ids = engine.tokenizer.encode(text)
    parts = [engine.tokenizer.decode(ids[at : at + 20]) for at in range(0, len(ids), 20)]
    assert len(parts) > 2
    worst = max(by_hand(model_folder, settings, part, "What is it?") for part in parts)
    assert asked.score(text)["illegal"] == pytest.approx(worst, abs=1e-5)


def test_a_text_that_does_not_fit_the_context_is_refused(model_folder):
    asked = AskedModel(QUESTIONS, model_folder)
    with pytest.raises(DataError, match="context is 256"):
        asked.score("a house " * 400)


def test_any_thread_may_ask(model_folder):
    asked = AskedModel(QUESTIONS, model_folder)
    scores = []
    for _ in range(2):  # the model is loaded in the first, and used in the second
        thread = threading.Thread(target=lambda: scores.append(asked.score("The cat sat.")))
        thread.start()
        thread.join()
    scores.append(asked.score("The cat sat."))
    assert scores[0] == scores[1] == scores[2]


def test_a_policy_file_names_the_model_by_its_folder(model_folder, tmp_path):
    (tmp_path / "model").symlink_to(model_folder)
    file = tmp_path / "policy.toml"
    text = """
[classifier]
model = "model"
yes = "It is a house."
no = "the cat"
questions.illegal = "What is it?"
thresholds.default = """
    probability = AskedModel(QUESTIONS, model_folder)  # another prompt: only the form counts here
    assert 0 < probability.score("x")["illegal"] < 1
    file.write_text(text + "0.0\n")
    rails = Guardrails.open(file, say=lambda line: None)
    assert rails.check_prompt("The cat sat.").category == "illegal"
    file.write_text(text + "1.0\n")
    assert not rails.check_prompt("The cat sat.").refused
