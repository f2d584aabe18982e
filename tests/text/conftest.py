import sysconfig
from pathlib import Path

import pytest

from afm_mlx.text.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZE = 1_024
SETTINGS = {
    "reserved_pieces": 64,
    "character_coverage": 0.9995,
    "max_sentence_bytes": 32_768,
    "training_bytes": 400_000,
}


def library_texts(count):
    """Sources of `count` modules of the running Python, and texts about its language."""
    from pydoc_data.topics import topics

    names = ["argparse", "difflib", "inspect", "tarfile", "decimal", "_pydecimal", "turtle"]
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path for name in names if (path := folder / f"{name}.py").is_file()]
    others = sorted(set(folder.glob("*.py")) - set(files))
    sources = [path.read_text(encoding="utf-8") for path in [*files, *others][:count]]
    return [*topics.values(), *sources]


def train(out, texts=None, **changed):
    """A small tokenizer in `out`."""
    settings = {"vocab_size": VOCAB_SIZE, **SETTINGS, **changed}
    return train_tokenizer(iter(library_texts(4) if texts is None else texts), out, **settings)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("text") / "tokenizer"
    train(out)
    return out


@pytest.fixture(scope="session")
def tokenizer(folder):
    return Tokenizer.open(folder)
