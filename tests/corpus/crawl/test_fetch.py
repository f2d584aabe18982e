from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from afm_mlx.corpus.crawl.fetch import Answer


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
