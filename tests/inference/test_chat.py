import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.inference.chat import COMMANDS, Session, help_text, run_command


@pytest.fixture
def session(engine) -> Session:
    return Session(engine, max_tokens=6)


def say(session: Session, text: str) -> str:
    return "".join(chunk.text for chunk in session.ask(text))


def roles(session: Session) -> list[str]:
    return [message["role"] for message in session.messages]


def test_turns_alternate_and_the_system_prompt_stands_first(session):
    session.system = "Be brief."
    answer = say(session, "What is it?")
    say(session, "And the dog?")
    assert roles(session) == ["user", "assistant", "user", "assistant"]
    assert session.messages[1]["content"] == answer
    assert session.transcript()[0] == {"role": "system", "content": "Be brief."}


def test_an_answer_that_is_stopped_stays_in_the_conversation(session):
    answer = session.ask("What is it?")
    said = next(answer).text + next(answer).text
    answer.close()
    assert session.messages[-1] == {"role": "assistant", "content": said}


def test_a_question_that_is_too_long_leaves_no_trace(session):
    say(session, "What is it?")
    with pytest.raises(DataError, match="256"):
        say(session, "a" * 300)
    assert roles(session) == ["user", "assistant"]
    say(session, "And the dog?")
    assert roles(session) == ["user", "assistant"] * 2


def test_the_oldest_turns_are_dropped_when_the_context_is_full(session):
    for number in range(8):
        say(session, f"What is it, number {number}? It is a house on the hill.")
    assert len(session.messages) == 16  # all is remembered, and can be saved
    assert session.num_dropped > 0
    assert session.num_dropped % 2 == 0  # a question goes with its answer
    room = session.engine.context_tokens - session.engine.stats.prompt_tokens
    assert room >= session.max_tokens


def test_nothing_is_dropped_while_the_context_holds_all(session):
    say(session, "What is it?")
    say(session, "And the dog?")
    assert session.num_dropped == 0


def test_a_retry_replaces_the_answer_by_another_one(engine):
    session = Session(engine, max_tokens=12, temperature=1.0)
    first = say(session, "What is it?")
    outcome = run_command(session, "/retry")
    second = "".join(chunk.text for chunk in outcome.answer)
    assert roles(session) == ["user", "assistant"]
    assert session.messages[-1]["content"] == second != first


def test_a_conversation_is_reproduced_by_its_seed(engine):
    def talk(seed: int) -> list[dict[str, str]]:
        session = Session(engine, max_tokens=8, temperature=1.0, seed=seed)
        say(session, "What is it?")
        say(session, "And the dog?")
        return session.messages

    assert talk(1) == talk(1)
    assert talk(1) != talk(2)


def test_help_has_a_line_for_each_command(session):
    assert run_command(session, "/help").text == help_text()
    assert [line.split()[0] for line in help_text().splitlines()] == list(COMMANDS)


def test_clear_forgets_the_messages_and_keeps_the_system_prompt(session):
    run_command(session, "/system Be brief.")
    say(session, "What is it?")
    run_command(session, "/clear")
    assert session.transcript() == [{"role": "system", "content": "Be brief."}]


def test_system_shows_sets_and_removes(session):
    assert run_command(session, "/system").text == "system prompt: (none)"
    run_command(session, "/system  Be brief. ")
    assert session.system == "Be brief."
    run_command(session, "/system -")
    assert session.system == ""


def test_save_writes_one_line_of_training_data(session, tmp_path):
    say(session, "What is it?")
    run_command(session, f"/save {tmp_path / 'talk.json'}")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved == {"messages": session.messages}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/sytem x", "there is no command /sytem", "did you mean /system?"),
        ("/12345", "there is no command /12345", "try /help"),
        ("/save", "/save needs a file name", "/save talk.json"),
        ("/save /no/such/folder/x", "cannot write /no/such/folder/x: no such file", ""),
        ("/retry", "there is no question to answer again", ""),
    ],
)
def test_a_command_that_cannot_be_done_says_why(session, line, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        run_command(session, line)
    assert caught.value.hint == hint


def test_stats_tell_the_last_answer_and_the_context(session):
    assert run_command(session, "/stats").text == "nothing has been asked yet"
    say(session, "What is it?")
    assert "of 256 tokens of context used" in run_command(session, "/stats").text


def test_quit_ends_the_conversation(session):
    assert run_command(session, "/quit").quits
    assert not run_command(session, "/help").quits
