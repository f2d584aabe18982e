"""Fixtures that several rooms use."""

import os

# A cold machine would spend a minute compiling kernels with g++; results are the same.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import contextlib
import itertools
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

import afm_mlx  # noqa: F401  (loads a tuned BLAS before MLX)
from tests.small_recipes import SHAPE

# A job in the background of a script ignores Ctrl-C, and hands that on to what it starts: then the
# tests that interrupt a program would wait for ever.
with contextlib.suppress(ValueError):  # not the main thread
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


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


@pytest.fixture
def real_data() -> Path:
    """Folder of real data for tests, where this machine has one."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AFM_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real test data here: set AFM_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def small_tokenizer():
    """Function that trains a tokenizer of a few hundred pieces on lines, into a folder."""
    from afm_mlx.text.tokenizer import Tokenizer, train_tokenizer

    def train(lines: Iterable[str], folder: Path, *, vocab_size: int = 320) -> Tokenizer:
        train_tokenizer(
            iter(lines),
            folder,
            vocab_size=vocab_size,
            reserved_pieces=16,
            character_coverage=1.0,
            max_sentence_bytes=4_096,
            training_bytes=200_000,
        )
        return Tokenizer.open(folder)

    return train


@pytest.fixture(scope="session")
def small_chat_model(small_tokenizer):
    """Function that writes a small random model, with a tokenizer of its own, into a folder.

    Changes are to a shape of two layers of width 32; `tokenizer` is a folder that has one already.
    """
    from afm_mlx.decoder.checkpoint import save_checkpoint
    from afm_mlx.decoder.decoder import Decoder, initialize
    from afm_mlx.settings.sections import Shape

    shape = Shape.model_validate(SHAPE | {"max_tokens": 256})

    def write(folder: Path, *, lines=(), tokenizer=None, seed=3, stage="sft", **changes) -> Path:
        if tokenizer is None:
            tokenizer = folder.with_name(f"{folder.name}-tokenizer")
            small_tokenizer(lines, tokenizer)
        model = Decoder(shape.model_copy(update=changes))
        initialize(model, seed=seed)
        save_checkpoint(folder, model, tokenizer, facts={"stage": stage})
        return folder

    return write


def random_gains(model):
    """The model, whose norms get gains from 0.7 to 1.3: gains of one would hide a missing norm."""
    import mlx.core as mx

    from afm_mlx.decoder.decoder import named_parameters

    gains = [
        (name, mx.random.uniform(0.7, 1.3, array.shape, key=mx.random.key(len(name))))
        for name, array in named_parameters(model).items()
        if array.ndim == 1
    ]
    model.load_weights(gains, strict=False)
    return model


@pytest.fixture(scope="session")
def with_random_gains():
    """`random_gains` as a fixture."""
    return random_gains


@pytest.fixture(scope="session")
def byte_level_fields():
    """Function that makes the settings of a byte-level tokenizer in a GGUF file.

    256 bytes, six merges, two control pieces, one of the user's, one unused. It takes the name of
    the pre-tokenizer, and changes.
    """
    # GPT-2's printable stand-ins for the 256 bytes, in the order of bytes.
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    as_bytes = [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]
    merges = ["1 2", "12 3", "123 4", "h e", "\u0120 he", "\u0120 h"]
    pieces = [*as_bytes, *(merge.replace(" ", "") for merge in merges)]

    def make(pre="gpt-2", **changes):
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": [*pieces, "<|start|>", "<|end|>", "<think>", "[PAD265]"],
            "tokenizer.ggml.token_type": [1] * len(pieces) + [3, 3, 4, 5],
            "tokenizer.ggml.merges": list(merges),
            "tokenizer.ggml.bos_token_id": len(pieces),
            "tokenizer.ggml.eos_token_id": len(pieces) + 1,
            "tokenizer.chat_template": "{{ messages[0].content }}",
        } | changes

    return make


@pytest.fixture(scope="session")
def prose(tmp_path_factory):
    """A file of paragraphs, which two kinds of generated data ask about."""
    paragraphs = [
        " ".join(text.format(*pair) for text in SENTENCES)
        for pair in itertools.permutations(NOUNS, 2)
    ]
    path = tmp_path_factory.mktemp("prose") / "village.txt"
    path.write_text("\n\n".join(paragraphs))
    return path


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; of one module, since others could not run an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


def pytest_make_parametrize_id(config, val):
    """Name bytes by their length: those of gzip hold the time, and workers must agree on ids."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
