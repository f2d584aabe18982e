import json

import pytest

from afm_mlx.errors import DataError
from afm_mlx.inference.chat import COMMANDS, help_text, run_command
from afm_mlx.inference.session import Session

from .conftest import roles, say


def test_a_retry_replaces_the_answer_by_another_one(engine):
    session = Session(engine, max_tokens=12, temperature=1.0)
    first = say(session, "What is it?")
    outcome = run_command(session, "/retry")
    second = "".join(piece.text for piece in outcome.answer)
    assert roles(session) == ["user", "assistant"]
    assert session.messages[-1]["content"] == second != first


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
    assert session.instructions == "Be brief."
    run_command(session, "/system -")
    assert session.instructions == ""


def test_tools_come_from_the_functions_of_a_file(session, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\n"
        "from pathlib import Path\n\n"
        'def weather(city: str) -> str:\n    """The weather."""\n    return city\n\n'
        "def _inner(x):\n    return x\n"
    )
    assert run_command(session, f"/tools {file}").text == "tools: weather"
    assert session.tools[0].call({"city": "Rome"}) == "Rome"
    assert run_command(session, "/tools -").text == "tools: (none)"


def test_answers_have_the_schema_until_it_is_taken_away(engine, tmp_path):
    session = Session(engine, max_tokens=40)
    file = tmp_path / "form.json"
    file.write_text(json.dumps({"enum": ["cat", "dog"]}))
    assert run_command(session, f"/schema {file}").text == "answers are of the schema"
    assert say(session, "What is it?") in ('"cat"', '"dog"')
    assert run_command(session, "/schema -").text == "answers are free text"
    assert say(session, "What is it?") not in ('"cat"', '"dog"')


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
        ("/tools no.py", "there is no file no.py", ""),
        ("/schema no.json", "cannot read no.json: no such file", ""),
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
