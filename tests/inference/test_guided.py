"""Guided answers: always of the form, always whole, whatever the model says."""

import json
import random
import re
import threading
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from afm_mlx.errors import DataError, RunError
from afm_mlx.inference.guided import Guides
from afm_mlx.text.tokenizer import Tokenizer

ROWS = 400  # more than the tokenizers here have pieces, as models have
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCHEMAS = json.loads((BENCHMARKS / "guided_schemas.json").read_text(encoding="utf-8"))
FORMATS = Draft202012Validator.FORMAT_CHECKER
FORMATS.checks("date", raises=ValueError)(lambda text: bool(date.fromisoformat(text)))
FORMATS.checks("date-time", raises=ValueError)(
    lambda text: bool(datetime.fromisoformat(text.replace("Z", "+00:00")))
)


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory) -> Path:
    """A tokenizer as Qwen3 and Llama 3 have them."""
    folder = tmp_path_factory.mktemp("byte_level")
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<|end|>", "<|turn|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator([json.dumps(SCHEMAS), 'x "},{" []: [{"'] * 3, trainer)
    engine.add_tokens(["<tool_call>", "</tool_call>", "<think>"])
    engine.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return folder


@pytest.fixture(scope="session", params=["sentencepiece", "byte level"])
def guides(request, tokenizer_folder, byte_level_folder) -> Guides:
    folder = tokenizer_folder if request.param == "sentencepiece" else byte_level_folder
    return Guides(Tokenizer.open(folder), ROWS)


def tokens_in(bits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


def babble(guides, guide, seed, max_tokens=None, choose=None, patience=2_000):
    """Text of an answer by a model that knows nothing; it stops where it may, or at a limit."""
    draw = random.Random(seed)
    choose = choose or draw.choice
    state, said = guide.start(max_tokens), []
    for _ in range(max_tokens or patience):
        allowed = tokens_in(state.allowed())
        token = choose(allowed)
        if token in guides.tokenizer.eos_ids:
            break
        state.accept(token)
        said.append(token)
    else:
        assert max_tokens is None, f"no end: {guides.tokenizer.decode(said)}"
    return b"".join(guides.vocabulary.bytes[token] for token in said).decode()


@pytest.mark.parametrize("name", SCHEMAS)
def test_babble_of_any_length_is_valid(guides, name):
    schema = SCHEMAS[name]
    guide = guides.json_schema(schema)
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    for seed, more in enumerate((0, 0, 1, 5, 20, 60, 200)):
        text = babble(guides, guide, seed, guide.least_tokens + more)
        validator.validate(json.loads(text))


@pytest.mark.parametrize("name", SCHEMAS)
def test_our_places_are_those_of_the_library(guides, name):
    guide = guides.json_schema(SCHEMAS[name])
    endings, draw = guide.endings, random.Random(7)
    state, progress = guide.start(), endings.start()
    for _ in range(120):
        may_end = any(place.leaf is None for place in progress.places) and not progress.pending
        allowed = tokens_in(state.allowed())
        assert may_end == (guides.tokenizer.eos_id in allowed)
        allowed = [token for token in allowed if token not in guides.tokenizer.eos_ids]
        if not allowed:
            assert state.finished
            break
        token = draw.choice(allowed)
        state.accept(token)
        progress = endings.advance(progress, guides.vocabulary.said(token))
        assert progress.places


def test_a_model_that_never_closes_a_string_is_brought_to_an_end(guides):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {}}},
        "required": ["a", "b"],
    }
    letters = [guides.tokenizer.encode(letter)[-1] for letter in "ao"]

    def endless(allowed):
        return next((token for token in letters if token in allowed), allowed[0])

    text = babble(guides, guides.json_schema(schema), 0, 60, endless)
    assert len(json.loads(text)["a"]) > 35


def test_a_model_that_only_nests_is_brought_to_an_end(guides):
    bracket = guides.tokenizer.encode("[")[-1]

    def nesting(allowed):
        return bracket if bracket in allowed else allowed[-1]

    text = babble(guides, guides.json_schema({"type": "array"}), 0, 80, nesting)
    assert text.startswith("[" * 30)
    json.loads(text)


def test_the_limit_may_be_as_low_as_the_shortest_answer_and_no_lower(guides):
    guide = guides.json_schema(SCHEMAS["person"])
    text = babble(guides, guide, 0, guide.least_tokens)
    assert json.loads(text)["name"]
    with pytest.raises(DataError, match=f"have {guide.least_tokens} tokens or more") as caught:
        guide.start(guide.least_tokens - 1)
    assert caught.value.hint.startswith("raise max_tokens")


def test_stop_tokens_are_allowed_just_where_the_text_may_end(guides):
    state = guides.choices(["ab", "abc"]).start()
    said = ""
    ends = []
    while not state.finished:
        allowed = tokens_in(state.allowed())
        stops = [token for token in allowed if token in guides.tokenizer.eos_ids]
        assert stops in ([], sorted(guides.tokenizer.eos_ids))
        if stops:
            ends.append(said)
        token = min(
            (token for token in allowed if token not in stops),
            key=lambda token: len(guides.vocabulary.bytes[token]),
        )
        state.accept(token)
        said += guides.vocabulary.bytes[token].decode()
    assert said == "abc"
    assert ends == ["ab"]
    assert tokens_in(state.allowed()) == sorted(guides.tokenizer.eos_ids)


def test_control_pieces_and_rows_to_spare_are_never_allowed(guides):
    controls = set(guides.tokenizer.control_pieces.values()) - set(guides.tokenizer.eos_ids)
    controls |= {guides.tokenizer.piece_id("<tool_call>")}
    state = guides.json_schema({"type": "string"}).start()
    for _ in range(30):
        allowed = tokens_in(state.allowed())
        assert not controls & set(allowed)
        assert max(allowed) < guides.tokenizer.vocab_size < ROWS
        state.accept(random.Random(len(allowed)).choice(
            [token for token in allowed if token not in guides.tokenizer.eos_ids]
        ))  # fmt: skip
        if state.finished:
            break


def test_a_token_that_was_not_allowed_is_an_error(guides):
    state = guides.choices(["yes"]).start()
    with pytest.raises(ValueError, match="was not allowed"):
        state.accept(guides.tokenizer.encode("no")[0])


@pytest.mark.parametrize("pattern", ["[a-z]{3,8}", r"\d{4}-\d{2}", "(yes|no)(, .{5,20})?", "a*"])
def test_babble_matches_a_regular_expression(guides, pattern):
    guide = guides.regex(pattern)
    for seed in range(5):
        assert re.fullmatch(pattern, babble(guides, guide, seed, guide.least_tokens + 9))


def test_babble_is_one_of_the_choices(guides):
    choices = ["red", "red wine", "gr\u00fcn", "\U0001f600"]
    seen = {babble(guides, guides.choices(choices), seed) for seed in range(40)}
    assert seen == set(choices)


@pytest.mark.parametrize("choices", [[], [""], ["a", 3]])
def test_choices_must_be_texts(guides, choices):
    with pytest.raises(DataError, match="choices must be texts"):
        guides.choices(choices)


def test_a_pattern_that_cannot_be_read_is_an_error(guides):
    with pytest.raises(DataError, match="pattern '\\('"):
        guides.regex("(")


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str = Field(max_length=8)
    color: Color
    made: date
    weight: float | None = Field(default=None, gt=0, le=10)


class Machine(BaseModel):
    id: int = Field(ge=1)
    parts: list[Part] = Field(min_length=1, max_length=3)
    labels: dict[str, bool] = {}
    place: tuple[float, float]


def test_babble_makes_a_pydantic_model(guides):
    guide = guides.model(Machine)
    for seed in range(5):
        made = Machine.model_validate_json(babble(guides, guide, seed, guide.least_tokens + 80))
        assert made.parts


def test_a_schema_that_is_not_json_is_an_error(guides):
    with pytest.raises(DataError, match="the schema is not JSON"):
        guides.json_schema({"const": object()})


def test_equal_forms_are_compiled_once(guides):
    first = guides.json_schema({"type": "integer", "minimum": 3})
    assert guides.json_schema({"type": "integer", "minimum": 3}) is first
    assert guides.json_schema({"type": "integer", "minimum": 4}) is not first
    assert guides.regex("a") is not guides.choices(["a"])


def test_threads_share_a_guide(guides):
    guide = guides.json_schema(SCHEMAS["nested"])
    texts: list[str] = []

    def work(seed):
        texts.append(babble(guides, guide, seed, guide.least_tokens + 50))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in texts:
        Draft202012Validator(SCHEMAS["nested"]).validate(json.loads(text))
    assert len(texts) == 8
    alone = [babble(guides, guide, seed, guide.least_tokens + 50) for seed in range(8)]
    assert sorted(texts) == sorted(alone)


def test_the_engine_says_what_a_guide_allows(engine):
    guides = Guides(engine.tokenizer, engine.model.shape.vocab_size)
    guide = guides.json_schema(SCHEMAS["enums"])
    for seed in range(3):
        chunks = list(
            engine.stream("hello", max_tokens=120, temperature=1.0, seed=seed, guide=guide)
        )
        Draft202012Validator(SCHEMAS["enums"]).validate(
            json.loads("".join(chunk.text for chunk in chunks))
        )
        assert chunks[-1].finished == "stop"


def test_the_engine_refuses_a_limit_below_the_shortest_answer_at_once(engine):
    guides = Guides(engine.tokenizer, engine.model.shape.vocab_size)
    guide = guides.json_schema(SCHEMAS["enums"])
    with pytest.raises(DataError, match="tokens or more"):
        list(engine.stream("hello", max_tokens=5, guide=guide))


def test_a_tokenizer_that_is_no_bpe_is_refused(tmp_path):
    engine = tokenizers.Tokenizer(tokenizers.models.Unigram([("<u>", 0.0), ("a", -1.0)], 0))
    engine.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<u>"}')
    with pytest.raises(DataError, match="'Unigram'"):
        Guides(Tokenizer.open(tmp_path), 10)


def test_one_of_very_many_values_is_written(guides):
    values = [f"value {number}" for number in range(2_500)]
    guide = guides.json_schema({"enum": values})
    for seed in range(3):
        assert json.loads(babble(guides, guide, seed)) in values


def test_a_form_that_the_library_cannot_follow_is_an_error(guides):
    options = [
        {"type": "object", "properties": {f"k{n}": True}, "required": [f"k{n}"]}
        for n in range(2_100)
    ]
    with pytest.raises((DataError, RunError), match=r"too complex|cannot be compiled|no tokens"):
        babble(guides, guides.json_schema({"anyOf": options}), 0)
