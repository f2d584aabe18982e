import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from afm_mlx.decoder.checkpoint import save_checkpoint
from afm_mlx.decoder.decoder import Decoder, initialize
from afm_mlx.errors import DataError, ModelError
from afm_mlx.inference.engine import Engine
from afm_mlx.text.chat import TOOLS_ASK

HELLO = [{"role": "user", "content": "What is on the hill?"}]
CHARACTERS = (
    "caf\u00e9 \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f469\u200d\U0001f467  two spaces\n\n1 234"
)


def tokens_of(chunks) -> list[int]:
    return [chunk.token for chunk in chunks]


def text_of(chunks) -> str:
    return "".join(chunk.text for chunk in chunks)


def fresh(folder, prompt, **options) -> list[int]:
    return tokens_of(Engine.open(folder, dtype=mx.float32).stream(prompt, **options))


def test_greedy_answer_is_the_likeliest_token_of_the_whole_sequence_each_time(engine):
    ids = engine.prompt_ids(HELLO)
    answer = tokens_of(engine.stream(HELLO, max_tokens=12))
    for token in answer:
        assert mx.argmax(engine.model(mx.array([ids]))[0, -1]).item() == token
        ids = [*ids, token]


def test_streamed_text_is_the_decoded_text(reciting):
    engine = reciting(CHARACTERS)
    number = len(engine.tokenizer.encode(CHARACTERS))
    chunks = list(engine.stream("hello", raw=True, max_tokens=number))
    assert text_of(chunks) == CHARACTERS
    assert number > len(CHARACTERS) - 10  # most characters are several tokens


def test_a_piece_of_text_never_ends_inside_a_character(reciting):
    chunks = list(reciting(CHARACTERS).stream("hello", raw=True, max_tokens=40))
    assert not any("\ufffd" in chunk.text for chunk in chunks[:-1])


def test_a_continuation_keeps_its_first_space(reciting):
    chunks = list(reciting(" there").stream("hello", raw=True, max_tokens=3))
    assert text_of(chunks).startswith(" t")


def test_an_answer_ends_at_any_stop_token(reciting):
    engine = reciting("")
    stops = engine.tokenizer.eos_ids
    assert len(stops) == 2  # end of document, end of turn
    for stop in stops:
        chunks = list(reciting("It is", [stop]).stream("hello", raw=True, max_tokens=20))
        assert (text_of(chunks), chunks[-1].finished) == ("It is", "stop")
        assert chunks[-1].token == stop


def test_an_answer_ends_before_a_stop_text_that_spans_tokens(reciting):
    engine = reciting("It is 12x345 and more")
    chunks = list(engine.stream("hello", raw=True, max_tokens=20, stop=["x34", "never"]))
    assert (text_of(chunks), chunks[-1].finished) == ("It is 12", "stop")


def test_half_a_stop_text_is_shown_when_it_turns_out_to_be_none(reciting):
    text = "It is 12x35 and"
    engine = reciting(text)
    number = len(engine.tokenizer.encode(text))
    chunks = list(engine.stream("hello", raw=True, max_tokens=number, stop=["x34", "d!"]))
    assert (text_of(chunks), chunks[-1].finished) == (text, "length")


def test_rows_without_a_piece_have_no_text(reciting, tiny):
    engine = reciting("It", [tiny.vocab_size - 1, tiny.vocab_size - 2])
    number = len(engine.tokenizer.encode("It")) + 2
    assert text_of(engine.stream("hello", raw=True, max_tokens=number)) == "It"


def test_a_second_turn_reads_only_what_is_new_and_answers_as_a_fresh_engine(engine, model_folder):
    first = list(engine.stream(HELLO, max_tokens=8))
    assert engine.stats.cached_tokens == 0
    turns = [*HELLO, {"role": "assistant", "content": text_of(first)}]
    turns.append({"role": "user", "content": "And the dog?"})
    second = tokens_of(engine.stream(turns, max_tokens=8))
    assert engine.stats.cached_tokens >= len(engine.prompt_ids(HELLO))
    assert second == fresh(model_folder, turns, max_tokens=8)


def test_another_conversation_cuts_the_cache_back_to_what_they_share(engine, model_folder):
    list(engine.stream("What is on the hill?", max_tokens=8))
    answer = tokens_of(engine.stream("What is on the mat?", max_tokens=8))
    assert 0 < engine.stats.cached_tokens < engine.stats.prompt_tokens
    assert answer == fresh(model_folder, "What is on the mat?", max_tokens=8)


def test_the_same_prompt_again_gives_the_same_answer(engine):
    first = tokens_of(engine.stream(HELLO, max_tokens=8))
    assert tokens_of(engine.stream(HELLO, max_tokens=8)) == first
    assert engine.stats.cached_tokens == engine.stats.prompt_tokens - 1


def test_an_answer_that_is_closed_leaves_a_cache_that_can_be_used(engine, model_folder):
    answer = engine.stream(HELLO, max_tokens=50)
    said = [next(answer), next(answer)]
    answer.close()
    turns = [*HELLO, {"role": "assistant", "content": text_of(said)}, *HELLO]
    assert tokens_of(engine.stream(turns, max_tokens=8)) == fresh(model_folder, turns, max_tokens=8)
    assert engine.stats.cached_tokens > 0


def test_an_interrupt_between_layers_does_not_spoil_the_next_answer(
    engine, model_folder, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    answer = engine.stream(HELLO, max_tokens=50)
    next(answer)
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.model.layers[1].mlp), "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(answer)
    assert tokens_of(engine.stream(HELLO, max_tokens=8)) == fresh(model_folder, HELLO, max_tokens=8)


def test_answers_follow_weights_that_change(model_folder, tokenizer_folder, tiny):
    model = Decoder(tiny)
    initialize(model, seed=1)
    engine = Engine(model, tokenizer_folder)
    list(engine.stream(HELLO, max_tokens=8))
    initialize(model, seed=3)  # as in model_folder
    assert tokens_of(engine.stream(HELLO, max_tokens=8)) == fresh(model_folder, HELLO, max_tokens=8)


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(engine, tiny):
    prompt = "a" * tiny.max_tokens
    number = len(engine.prompt_ids(prompt))
    with pytest.raises(
        DataError, match=f"{number} tokens, and the model's context of 256"
    ) as caught:
        next(engine.stream(prompt, max_tokens=8))
    assert caught.value.hint == f"shorten the prompt by {number - 255} tokens or more"


def test_an_answer_ends_where_the_context_does(engine, tiny):
    prompt = "a" * 230
    room = tiny.max_tokens - len(engine.prompt_ids(prompt, raw=True))
    chunks = list(engine.stream(prompt, raw=True, max_tokens=1_000))
    assert (len(chunks), chunks[-1].finished) == (room, "context")


def test_the_same_seed_gives_the_same_answer_and_another_one_does_not(engine):
    def answer(seed):
        return tokens_of(engine.stream(HELLO, max_tokens=16, temperature=1.0, top_p=0.9, seed=seed))

    mx.random.seed(1)
    first = answer(5)
    mx.random.seed(2)  # the process's own random state plays no part
    assert answer(5) == first
    assert answer(6) != first


def test_a_small_top_p_leaves_only_the_likeliest_token(engine):
    greedy = tokens_of(engine.stream(HELLO, max_tokens=16))
    assert tokens_of(engine.stream(HELLO, max_tokens=16, temperature=5.0, top_p=1e-6)) == greedy


def test_statistics_count_prompt_and_answer(engine):
    list(engine.stream(HELLO, max_tokens=5))
    stats = engine.stats
    assert stats.prompt_tokens == len(engine.prompt_ids(HELLO))
    assert stats.answer_tokens == 5
    assert stats.tokens_per_second == pytest.approx(4 / stats.answer_seconds)
    assert str(stats).startswith(f"{stats.prompt_tokens} prompt tokens, 5 tokens at ")


def test_a_tokenizer_with_more_pieces_than_the_model_has_rows_is_refused(tokenizer_folder, tiny):
    model = Decoder(tiny.model_copy(update={"vocab_size": 300}))
    with pytest.raises(ModelError, match="has 340 pieces and the model 300 rows"):
        Engine(model, tokenizer_folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, tiny):
    model = Decoder(tiny)
    save_checkpoint(tmp_path / "bare", model, None)
    with pytest.raises(DataError, match=r"tokenizer\.json is missing"):
        Engine.open(tmp_path / "bare")


def test_a_pretrained_model_continues_the_text_of_all_messages(tmp_path, tokenizer_folder, tiny):
    save_checkpoint(tmp_path / "base", Decoder(tiny), tokenizer_folder, facts={"stage": "core"})
    engine = Engine.open(tmp_path / "base")
    assert not engine.is_chat
    tokenizer = engine.tokenizer
    assert engine.prompt_ids("The cat") == [tokenizer.eos_id, *tokenizer.encode("The cat")]
    assert engine.prompt_ids("") == [tokenizer.eos_id]
    two = [{"role": "user", "content": "The cat"}, {"role": "user", "content": "sat"}]
    assert tokenizer.decode(engine.prompt_ids(two)[1:]) == "The cat\nsat"


def test_what_a_user_says_cannot_end_the_turn(engine):
    ids = engine.prompt_ids("no <turn:end> here")
    ends = ids.count(engine.tokenizer.piece_id("<turn:end>"))
    assert ends == engine.prompt_ids("no end here").count(engine.tokenizer.piece_id("<turn:end>"))


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def test_tools_are_written_into_the_prompt(engine):
    ids = engine.prompt_ids(HELLO, tools=[TOOL])
    text = engine.tokenizer.decode(ids)
    assert '<tools>[{"type": "function", "function": {"name": "weather"' in text
    assert engine.prompt_ids(HELLO, tools=[]) == engine.prompt_ids(HELLO)


def test_calls_and_results_are_part_of_a_conversation(engine):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
    ]
    text = engine.tokenizer.decode(engine.prompt_ids(turns, tools=[TOOL]))
    assert '<tool_call>{"name": "weather", "arguments": {}}</tool_call>' in text
    assert "<turn:tool>sun<turn:end>" in text


def test_a_template_that_has_no_place_for_tools_gets_them_in_words(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
    file.write_text(json.dumps(config))
    engine = Engine.open(folder)
    text = engine.tokenizer.decode(engine.prompt_ids(HELLO, tools=[TOOL]))
    assert TOOLS_ASK.strip() in text
    assert '"name": "weather"' in text


def test_a_model_that_continues_text_takes_no_tools(engine):
    with pytest.raises(DataError, match="tools need a chat model, and this one continues text"):
        engine.prompt_ids("The cat", raw=True, tools=[TOOL])


def test_texts_in_parts_are_joined(engine):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "on the hill?"}]
    assert engine.prompt_ids([{"role": "user", "content": parts}]) == engine.prompt_ids(HELLO)
    whole = engine.prompt_ids(HELLO, raw=True)
    assert engine.prompt_ids([{"role": "user", "content": parts}], raw=True) == whole
    with pytest.raises(DataError, match="a message of role 'user' has no text"):
        engine.prompt_ids([{"role": "user", "content": 5}], raw=True)


def test_log_probabilities_are_the_models_own_before_temperature(engine):
    ids = engine.prompt_ids(HELLO)
    for chunk in engine.stream(HELLO, max_tokens=5, temperature=2.0, seed=1, top_logprobs=2):
        logits = engine.model(mx.array([ids]))[0, -1]
        logps = logits - mx.logsumexp(logits)
        assert chunk.logprob == pytest.approx(logps[chunk.token].item(), abs=1e-5)
        assert chunk.top[0][1] == pytest.approx(logps.max().item(), abs=1e-5)
        assert chunk.top[0][1] >= chunk.top[1][1]
        ids = [*ids, chunk.token]


def test_conversations_that_take_turns_are_all_remembered(engine, model_folder):
    said = {}
    for prompt in ("What is on the hill?", "A dog and a cat.", "The house."):
        said[prompt] = text_of(engine.stream(prompt, max_tokens=8))
    for prompt, answer in said.items():
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "And then?"},
        ]
        known = len(engine.prompt_ids(prompt))
        after = tokens_of(engine.stream(turns, max_tokens=8))
        assert engine.stats.cached_tokens >= known
        assert after == fresh(model_folder, turns, max_tokens=8)


def test_prompts_can_be_rendered_in_many_threads(engine):
    expected = engine.prompt_ids(HELLO, tools=[TOOL])
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: engine.prompt_ids(HELLO, tools=[TOOL]), range(200))
        assert all(ids == expected for ids in found)
