"""`afm serve` as a process."""

import json
import signal
import socket
import urllib.request

import pytest

WAIT_SECONDS = 60


def test_it_says_where_it_is_answers_and_ends_with_control_c(serving, chat_model, tmp_path):
    before = sorted(chat_model.rglob("*"))
    process, line = serving("serve", chat_model, "--max-tokens", 5)
    url, _, names = line.partition("  serves ")
    assert names == f"{chat_model.parents[1].name}/{chat_model.parent.name}"
    curl = process.stdout.readline()
    assert curl.startswith(f"curl {url}/v1/chat/completions ")
    asked = json.loads(curl.split(" -d ")[1].strip().strip("'"))
    body = json.dumps(asked | {"temperature": 0}).encode()  # a drawn answer may end at once
    request = urllib.request.Request(f"{url}/v1/chat/completions", body)
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 5
    secret = b'{"messages": [{"role": "user", "content": "sesame"}], "max_tokens": "sesame"}'
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/chat/completions", secret), timeout=WAIT_SECONDS
        )
    caught.value.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert err.splitlines()[-2:] == ["Ctrl-C ends it", "stopped"]
    assert "sesame" not in out + err
    assert "Hello" not in out + err
    assert sorted(chat_model.rglob("*")) == before  # nothing is written


def test_processes_with_parts_of_the_model_serve_as_one(serving, small_chat_model, tmp_path, afm):
    model = small_chat_model(tmp_path / "model", lines=["The cat sat on the mat.\n"] * 20)
    alone = afm("generate", model, "--prompt", "The cat", "--max-tokens", 6).out
    process, line = serving("serve", model, "--hosts", "local:2")
    url = line.split()[0]
    asked = {"messages": [{"role": "user", "content": "The cat"}], "max_tokens": 6}
    body = json.dumps(asked | {"temperature": 0}).encode()
    with urllib.request.urlopen(f"{url}/v1/chat/completions", body, WAIT_SECONDS) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] + "\n" == alone
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert err.splitlines()[-2:] == ["Ctrl-C ends it", "stopped"]


def test_a_model_that_does_not_divide_is_not_served(afm, chat_model):
    answer = afm("serve", chat_model, "--hosts", "local:2", "--port", 0)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "error: 1 key/value heads do not divide among 2 machines",
        "hint: this model cannot be cut: each machine must hold all of it",
    ]


def test_control_c_ends_answers_in_work(serving, chat_model):
    process, line = serving("serve", chat_model)
    port = int(line.split()[0].rsplit(":", 1)[1])
    body = b'{"prompt": [5], "max_tokens": 60, "n": 32, "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as line:
        line.sendall(head % len(body) + body)
        assert line.recv(15) == b"HTTP/1.1 200 OK"
        process.send_signal(signal.SIGINT)
        got = b""
        while part := line.recv(65_536):
            got += part
    assert b"shutting down" in got or b"[DONE]" in got
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0


def test_other_machines_need_a_key(refused, chat_model):
    said = refused("serve", chat_model, "--host", "0.0.0.0")
    assert "other machines can reach 0.0.0.0, so it needs an API key" in said
    assert "AFM_API_KEY=KEY" in said
    assert "the API key is empty" in refused("serve", chat_model, "--api-key", " ")


def test_a_port_in_use_is_said_before_the_model_is_loaded(refused, chat_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused("serve", "no-such-model", "--port", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1" in said
    assert "--port 0" in said


def test_what_is_no_policy_or_no_address_is_refused(refused, chat_model, tmp_path):
    (tmp_path / "p.toml").write_text("nonsense")
    refused("serve", chat_model, "--policy", "p.toml")
    assert "is no address" in refused(
        "serve", chat_model, "--host", "no.such.host.invalid", "--api-key", "x"
    )


def test_a_budget_that_is_too_small_is_refused(refused, chat_model):
    assert "memory budget" in refused("serve", chat_model, "--port", 0, "--memory-gb", 0.000_01)


def test_missing_packages_are_named(refused, chat_model, monkeypatch):
    from afm_mlx.inference.server import start as module

    monkeypatch.setattr(module, "PACKAGES", ("starlette", "no_such_package"))
    said = refused("serve", chat_model)
    assert "the server needs no_such_package" in said
    assert "pip install 'afm-mlx[serve]'" in said
