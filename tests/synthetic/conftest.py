"""Texts to hide facts in, and candidates of each kind."""

import pytest

from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.records import Candidate

SENTENCES = (
    "The {0} near the {1} has been there for as long as anybody in the village can remember.",
    "People who pass the {1} in the evening often stop for a moment to look at the {0}.",
    "Every year the {0} is cleaned, painted and shown to the children of the school by the {1}.",
)
NOUNS = [
    "bridge",
    "tower",
    "well",
    "mill",
    "barn",
    "chapel",
    "orchard",
    "market",
    "ferry",
    "station",
    "forge",
    "garden",
]


@pytest.fixture(scope="session")
def prose(tmp_path_factory):
    """A file of paragraphs."""
    pairs = [(one, other) for one in NOUNS for other in NOUNS if one != other]
    paragraphs = [" ".join(text.format(*pair) for text in SENTENCES) for pair in pairs]
    path = tmp_path_factory.mktemp("prose") / "village.txt"
    path.write_text("\n\n".join(paragraphs))
    return path


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
