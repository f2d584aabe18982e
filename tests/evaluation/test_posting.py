"""Addresses of APIs, as people write them."""

import pytest

from afm_mlx.errors import RunError
from afm_mlx.evaluation.endpoint import KEY_VARIABLE, Endpoint
from afm_mlx.evaluation.posting import chat_url, shown, sibling


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/chat/completions"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/chat/completions"),
        (" http://[::1]:8080/v1/ ", "http://[::1]:8080/v1/chat/completions"),
        ("https://api.example.org/v1", "https://api.example.org/v1/chat/completions"),
        ("https://example.org/v1/chat/completions", "https://example.org/v1/chat/completions"),
        ("https://example.org/ai/v3?a=b#c", "https://example.org/ai/v3/chat/completions?a=b"),
    ],
)
def test_what_is_missing_of_an_address_is_added(written, url):
    assert chat_url(written) == url


def test_a_query_goes_with_every_request_and_is_not_shown():
    url = chat_url("https://example.org/v1?version=2")
    assert sibling(url, "/models") == "https://example.org/v1/models?version=2"
    assert shown(url) == "https://example.org/v1/chat/completions"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "127.0.0.1:8080",
        "localhost",
        "ftp://a",
        "http://",
        "http://a:port",
        "http://a b",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(written):
    with pytest.raises(RunError, match="is no URL") as caught:
        chat_url(written)
    assert "http://127.0.0.1:8080" in caught.value.hint


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(RunError) as caught:
        chat_url("https://me:secret@example.org")
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_a_key_that_cannot_be_one_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret\nX-Other: 1")
    with pytest.raises(RunError, match="the key has characters") as caught:
        Endpoint("http://a", "m")
    assert "secret" not in f"{caught.value} {caught.value.hint}"
    assert Endpoint("http://a", "m", key="").host == "a"
