"""Candidates of each kind."""

import pytest

from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.records import Candidate


@pytest.fixture(scope="session")
def make(prose):
    """Function from a kind's name and settings to candidates with their families."""

    def made(name, count, *, seed=1, family=None, **settings):
        section, maker = KINDS[name]
        if name in ("long-context", "summaries"):
            settings = {"documents": str(prose)} | settings
        kind = maker(section(**settings))
        found = []
        for number in range(count):
            draw = Draw(name, seed, number)
            chosen = family or draw.pick(kind.families)
            candidate = kind.make(draw, chosen, kind.families)
            if isinstance(candidate, Candidate):
                found.append((chosen, candidate))
        assert len(found) > count * 0.8
        return found

    return made
