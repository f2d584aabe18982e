"""Completions through the real `openai` client."""

import openai
import pytest

TEXT = "The cat sat on"


def complete(client, prompt, **options):
    return client.completions.create(
        **{"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 6} | options
    )


def test_every_form_of_prompt_is_continued(client, adapted):
    ids = adapted.prompt_ids(TEXT, raw=True)
    other = adapted.prompt_ids("A house", raw=True)
    (one,) = complete(client, TEXT).choices
    (two,) = complete(client, "A house").choices
    assert one.text != two.text
    for prompt in ([TEXT, "A house"], [ids, other]):
        choices = complete(client, prompt).choices
        assert [choice.text for choice in choices] == [one.text, two.text]
        assert [choice.index for choice in choices] == [0, 1]
    assert [choice.text for choice in complete(client, ids).choices] == [one.text]
    assert one.finish_reason == "length"


def test_the_text_is_read_without_a_chat_template(client, adapted):
    said = "".join(chunk.text for chunk in adapted_alone(adapted, TEXT))
    assert complete(client, TEXT).choices[0].text == said


def adapted_alone(served, text):
    """The answer of the same model, opened anew."""
    from afm_mlx.inference.engine import Engine

    fresh = Engine.open(served.folder, dtype=served.model.model.norm.weight.dtype)
    return fresh.stream(text, raw=True, max_tokens=6)


def test_an_answer_has_sixteen_tokens_unless_told(client):
    assert complete(client, TEXT, max_tokens=None).usage.completion_tokens == 16


def test_several_prompts_stream_with_their_numbers(client):
    whole = complete(client, [TEXT, "A house"]).choices
    said = {0: "", 1: ""}
    for chunk in complete(client, [TEXT, "A house"], stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert list(said.values()) == [choice.text for choice in whole]


def test_usage_counts_a_prompt_once_for_several_answers(client, adapted):
    usage = complete(client, [TEXT, "A house"], n=2, temperature=1).usage
    read = [adapted.prompt_ids(text, raw=True) for text in (TEXT, "A house")]
    assert usage.prompt_tokens == sum(map(len, read))
    assert usage.completion_tokens == 24


def test_logprobs_have_the_old_form(client):
    logprobs = complete(client, TEXT, logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 6
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    assert all(len(top) <= 2 for top in logprobs.top_logprobs)
    assert logprobs.token_logprobs[0] == max(logprobs.top_logprobs[0].values())  # greedy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": []}, "'prompt': a text"),
        ({"prompt": [TEXT] * 33}, "a request has 32 at most"),
        ({"prompt": [[1, 10**6]]}, "id 1,000,000 is not one of"),
        ({"prompt": [[1, -1]]}, "id -1 is not one of"),
        ({"echo": True}, "the prompt is not repeated"),
        ({"suffix": "x"}, "end only"),
        ({"best_of": 3}, "n gives several"),
        ({"logprobs": 21}, "less than or equal to 20"),
    ],
)
def test_what_cannot_be_done_is_refused(client, options, said):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **{"prompt": TEXT} | options)
    assert said in caught.value.message
