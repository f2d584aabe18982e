"""A server that is treated badly: a small part of benchmarks/serve_abuse.py, which has more."""

import importlib.util
from pathlib import Path

import pytest

from .conftest import eventually, is_idle, running

NUM_REQUESTS = 200


@pytest.fixture(scope="module")
def abuse_of():
    path = Path(__file__).parents[3] / "benchmarks" / "serve_abuse.py"
    spec = importlib.util.spec_from_file_location("serve_abuse", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Abuse


def test_wrong_requests_are_refused_with_reasons_and_good_ones_answered(adapted, abuse_of):
    with running(adapted, memory_gb=0.5) as server:
        abuse = abuse_of(server.port, seed=1, long_tokens=100)
        abuse.run(range(NUM_REQUESTS))
        assert abuse.failures == []
        assert sum(abuse.counts.values()) == NUM_REQUESTS
        abuse.close()
        assert eventually(lambda: is_idle(server))
        load = server.service.batcher.load
        assert load.memory_bytes < load.budget_bytes
        assert server.said == []
