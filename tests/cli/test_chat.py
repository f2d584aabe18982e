import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from afm_mlx.inference.engine import Engine

CHAT = "import sys; from afm_cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def typing(afm, chat_model, monkeypatch):
    """Function that pipes lines into a chat."""

    def run(*lines, more=()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return afm("chat", chat_model, "--max-tokens", 4, *more)

    return run


def test_lines_that_are_piped_in_are_answered(typing):
    answer = typing("What is it?", "", "/stats")
    assert answer.code == 0
    assert "> " not in answer.out  # nobody is there to be prompted
    assert "4 tokens at" in answer.out


def test_a_mistake_is_said_and_the_conversation_goes_on(typing):
    answer = typing("/helpp", "cat " * 100, "/help")
    assert answer.code == 0
    errors = [line for line in answer.err.splitlines() if line.startswith("error")]
    assert errors[0] == "error: there is no command /helpp"
    assert "context of 64" in errors[1]
    assert "/quit" in answer.out


def test_nothing_is_answered_after_quit(typing):
    assert typing("/quit", "/help").out == ""


def test_the_system_prompt_can_be_given(typing):
    assert "system prompt: cat" in typing("/system", more=["--system", "cat"]).out


def test_an_answer_that_is_cut_says_so(typing):
    assert "(stopped at 4 tokens; --max-tokens allows more)" in typing("What is it?").err


def test_turns_that_do_not_fit_the_context_are_said_to_be_left_out(typing):
    answer = typing(*["What is on the hill? A cat."] * 4)
    assert "(answered without the oldest " in answer.err


def test_control_c_ends_the_answer_and_not_the_conversation(typing, monkeypatch, tmp_path):
    stream = Engine.stream

    def interrupted(*args, **options):
        for number, chunk in enumerate(stream(*args, **options), start=1):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield chunk

    monkeypatch.setattr(Engine, "stream", interrupted)
    answer = typing("What is it?", "/save talk.json", "/stats")
    assert answer.code == 0
    assert "(stopped)" in answer.err
    assert ", 2 tokens at" in answer.out
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [message["role"] for message in saved] == ["user", "assistant"]


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, words, folder):
        self.end, theirs = pty.openpty()
        environment = {**os.environ, "AFM_CACHE_DIR": str(folder), "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHAT, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def wait_for(self, text, seconds=60):
        began = time.monotonic()
        while text not in self.seen:
            left = began + seconds - time.monotonic()
            assert select.select([self.end], [], [], max(left, 0))[0], self.seen
            try:
                self.seen += os.read(self.end, 4_096).decode(errors="replace")
            except OSError:  # Linux: the other end is closed
                break
        assert text in self.seen
        self.seen = self.seen.split(text, 1)[1]

    def type(self, text):
        os.write(self.end, text.encode())


@pytest.fixture
def opened(chat_model, tmp_path):
    """Function that opens a chat in a terminal."""
    terminals = []

    def open_chat(model=chat_model, *more):
        words = ["chat", str(model), "--max-tokens", "40", "--temperature", "0", *more]
        terminals.append(Terminal(words, tmp_path))
        return terminals[-1]

    yield open_chat
    for each in terminals:
        each.process.kill()
        each.process.wait()
        os.close(each.end)


@pytest.fixture
def terminal(opened):
    return opened()


def test_control_c_at_the_prompt_stays_and_control_d_leaves(terminal, tmp_path):
    terminal.wait_for(">")
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /quit leaves")
    terminal.wait_for(">")
    terminal.type("/help\r")
    terminal.wait_for("/retry")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert "/help" in (tmp_path / "chat_questions").read_text()


@pytest.mark.slow
def test_only_the_first_of_several_processes_has_the_terminal(opened, small_chat_model, tmp_path):
    model = small_chat_model(tmp_path / "model", lines=["The cat sat on the mat.\n"] * 20)
    terminal = opened(model, "--hosts", "local:2", "--max-tokens", "4")
    terminal.wait_for(">")
    terminal.type("The cat\r")
    terminal.wait_for(">")
    terminal.type("\x03")  # which must not reach the others
    terminal.wait_for("Ctrl-D or /quit leaves")
    terminal.wait_for(">")
    terminal.type("/stats\r")
    terminal.wait_for(" tokens at ")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
