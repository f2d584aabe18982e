import ssl
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from afm_mlx.corpus.crawl.fetch import Answer, tls_context


def wait(said):
    return Answer(429, "HTTP/1.1 429 Slow down", [("Retry-After", said)], b"").retry_after


def test_a_host_says_when_to_come_back_in_seconds_or_as_a_date():
    assert wait("120") == 120
    assert wait(format_datetime(datetime.now(UTC) + timedelta(hours=1))) == pytest.approx(3600, 0.1)


@pytest.mark.parametrize(
    "said", ["", "soon", "-5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015", "\xff"]
)
def test_what_is_no_time_to_come_is_now(said):
    assert wait(said) == 0


@pytest.mark.parametrize("has_certifi", [True, False])
def test_a_python_that_knows_no_certificates_is_helped(monkeypatch, has_certifi):
    knows_none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: knows_none)
    pytest.importorskip("certifi" if has_certifi else "truststore")
    if not has_certifi:
        monkeypatch.setitem(sys.modules, "certifi", None)
    context = tls_context.__wrapped__()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    if has_certifi:
        assert context.cert_store_stats()["x509_ca"] > 50
    else:
        assert type(context).__module__.startswith("truststore")
