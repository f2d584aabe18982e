"""What is known of documents reaches the card; the commit of a hub set reaches the manifest."""

import io
import json

import pytest

from afm_mlx import pipeline
from afm_mlx.corpus.card import make_card, to_markdown
from afm_mlx.corpus.clean import clean_sources
from afm_mlx.progress import Progress
from afm_mlx.recipe import load_recipe
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Source
from tests.small_recipes import pretraining, shape

from .conftest import COMMIT

RECIPE = (
    shape(vocab_size=330)
    + """\
[tokenizer]
reserved_pieces = 16
[data.texts]
kind = "jsonl"
path = "hub:org/texts"
held_out_fraction = 0.2
license_field = "license"
licenses = ["permissive"]
[data.code]
kind = "code"
path = "{folder}/code"
licenses = ["permissive"]
code_languages = ["Python", "C"]
"""
    + pretraining("core", {"texts": 1.0}, tokens=512, row_tokens=16)
)
LICENSES = ["MIT", "MIT", "CC0-1.0", "GPL-3.0-only", ""]


@pytest.fixture
def recipe(hub, tmp_path):
    """A recipe with a set of the hub and a tree of code; 30 rows, three in five are allowed."""
    pytest.importorskip("licenseclassifier")
    words = ["the", "river", "ran", "past", "an", "old", "mill", "while", "children", "watched"]
    rows = [
        {"text": f"{i} " + " ".join(words[i % 7 :] + words), "license": LICENSES[i % 5]}
        for i in range(30)
    ]
    files = {
        "set/.gitattributes": "",
        "set/data.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "code/pyproject.toml": '[project]\nlicense = "MIT"\n',
        "code/a.py": "import os\n" * 30,
        "code/b.py": "import sys\n" * 30,
        "code/b.c": "// SPDX-License-Identifier: ISC\nint main(void) { return 0; }\n",
        "code/c.c": "// SPDX-License-Identifier: GPL-2.0\nint main(void) { return 0; }\n",
        "code/d.js": "let x\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    hub.sets["org/texts"] = tmp_path / "set"
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def test_the_stages_record_the_commit_licenses_and_languages(recipe, hub, tmp_path):
    progress = Progress(stream=io.StringIO())
    pipeline.run(load_recipe(recipe), tmp_path / "runs", progress, last="tokenizer")
    hub.commits["main"] = "fedcba9876543210fedcba9876543210fedcba98"  # moves between two stages
    tokenizer, data = pipeline.run(load_recipe(recipe), tmp_path / "runs", progress, last="data")
    texts, code = data["metrics"]["texts"], data["metrics"]["code"]
    assert tokenizer["metrics"]["hub"] == {"texts": f"hub:org/texts@{COMMIT}"}
    assert texts["hub"] == f"hub:org/texts@{COMMIT}"
    assert texts["licenses"] == {"CC0-1.0": 6, "MIT": 12}
    assert texts["skipped"] == {"license GPL-3.0-only": 6, "no license": 6}
    assert "hub" not in code
    assert code["code_languages"] == {"C": 1, "Python": 2}
    assert code["skipped"] == {"language JavaScript": 1, "license GPL-2.0-only": 1}
    check_card(make_card(tmp_path / "runs" / "small"))


def test_the_card_of_clean_records_counts_the_same(recipe, tmp_path):
    sources = load_recipe(recipe).data
    given = {"workers": 1, "pii": {}}
    clean_sources(sources, Clean.model_validate(given), tmp_path / "run" / "clean")
    check_card(make_card(tmp_path / "run"))


def check_card(card):
    assert card["total"]["license_counts"] == {"MIT": 14, "CC0-1.0": 6, "ISC": 1}
    assert card["total"]["code_languages"] == {"Python": 2, "C": 1}
    assert [one["hub"] for one in card["sources"]] == [f"hub:org/texts@{COMMIT}", ""]
    assert [one["licenses"] for one in card["sources"]] == [["CC0-1.0", "MIT"], ["ISC", "MIT"]]
    page = to_markdown(card)
    assert (
        "## Licenses\n\n| license | documents | share |\n| --- | --- | --- |\n| MIT | 14 |" in page
    )
    assert "## Source code\n\n| language | documents | share |" in page
    assert f"| texts | hub:org/texts@{COMMIT} |" in page
    assert "| texts | license GPL-3.0-only | 6 |" in page


def test_pages_of_a_hub_set_are_read_as_those_of_a_folder(hub, tmp_path):
    pytest.importorskip("resiliparse")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".gitattributes").write_text("")
    page = "<html><body><article><h1>Mill</h1><p>{}</p></article></body></html>"
    for number in range(3):
        text = f"The river {number} ran past the old mill, and children watched it. " * 20
        (tmp_path / "set" / f"{number}.html").write_text(page.format(text))
    hub.sets["org/pages"] = tmp_path / "set"
    counts = []
    for name, path in {"hub": "hub:org/pages", "folder": str(tmp_path / "set")}.items():
        source = Source(kind="html", path=path, licenses=["MIT"], license="MIT")
        given = Clean.model_validate({"workers": 1, "extract": {}})
        counts.append(clean_sources({"pages": source}, given, tmp_path / name)["sources"])
    assert counts[0] == counts[1]
    assert counts[0]["pages"]["out"] == 3
