"""Who may use a server."""

import http.client
import json

import openai
import pytest

from .conftest import HELLO, WAIT_SECONDS, running

CHAT = {"messages": HELLO, "max_tokens": 2}


def get(server, path, **headers):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    line.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders()
    answer = line.getresponse()
    body = answer.read()
    line.close()
    return answer, body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8080", "LOCALHOST:1"])
def test_names_of_this_machine_are_let_in(server, host):
    assert get(server, "/v1/models", Host=host)[0].status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "["])
def test_another_host_is_refused_as_a_page_may_have_pointed_its_name_here(server, host):
    for path in ("/", "/health", "/v1/models"):
        answer, body = get(server, path, Host=host)
        assert answer.status == 403
        assert json.loads(body)["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_is_refused(server, origin):
    status, _, body = server.post("/v1/chat/completions", CHAT, Origin=origin)
    assert (status, body["error"]["code"]) == (403, "wrong_origin")


def test_our_own_page_is_let_in_and_no_other_is_told_that_it_may(server):
    origin = f"http://127.0.0.1:{server.port}"
    status, headers, _ = server.post("/v1/chat/completions", CHAT, Origin=origin)
    assert status == 200
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_nothing_may_be_kept(server):
    for path in ("/", "/health", "/v1/models", "/nothing"):
        answer, _ = get(server, path)
        assert answer.getheader("cache-control") == "no-store"
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.getheader("server") is None


@pytest.fixture(scope="module")
def locked(adapted):
    with running(adapted, api_key="s3cret \u2603") as found:
        yield found


def test_a_key_opens(locked):
    client = locked.openai(api_key="x", default_headers={})
    with pytest.raises(openai.AuthenticationError, match="the API key is wrong") as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"
    answer, body = get(locked, "/v1/models")
    assert answer.status == 401
    assert answer.getheader("www-authenticate") == "Bearer"
    assert b"needs an API key" in body
    key = "s3cret \u2603".encode().decode("latin-1")
    assert get(locked, "/v1/models", Authorization=f"Bearer {key}")[0].status == 200
    assert get(locked, "/v1/models", Authorization=f"Basic {key}")[0].status == 401


def test_page_and_health_need_no_key(locked):
    assert get(locked, "/")[0].status == 200
    assert get(locked, "/health")[0].status == 200


def test_a_server_with_a_key_has_any_name(locked):
    assert get(locked, "/health", Host="mac-studio.example:8080")[0].status == 200


def test_what_is_not_there_says_so_as_json(server):
    for path, status in (("/v2/x", 404), ("/v1/chat/completions", 405), ("/../etc/passwd", 404)):
        answer, body = get(server, path)
        assert answer.status == status
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_health_tells_the_load(server):
    _, body = get(server, "/health")
    load = json.loads(body)
    assert load["status"] == "ok"
    assert load["answering"] == load["waiting"] == 0
    assert 0 < load["memory_bytes"] < load["budget_bytes"]


def test_health_tells_that_the_model_answers_no_more(server):
    server.service.batcher.close()
    answer, body = get(server, "/health")
    assert (answer.status, json.loads(body)["status"]) == (503, "stopped")
