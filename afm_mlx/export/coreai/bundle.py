"""What Apple's runner wants beside an `.aimodel`: metadata.json, the tokenizer, how to run it.

    out/
        NAME.aimodel/       the graphs and the weights
        metadata.json       schema 0.2: names, sizes, which function does what
        tokenizer/          the model's tokenizer files
        README.md           how to run it

Source. CM: apple/coreai-models 86b363d, python/src/coreai_models/export/bundle.py and
swift/Sources/CoreAILanguageModels/Bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx.decoder.checkpoint import copy_tokenizer
from afm_mlx.errors import ExportError
from afm_mlx.export.tables import plain
from afm_mlx.export.targets import Source
from afm_mlx.text.tokenizer import Tokenizer

METADATA = "metadata.json"
METADATA_VERSION = "0.2"
TOKENIZER = "tokenizer"
ASSET_SUFFIX = ".aimodel"

LOAD = "load_embeddings"
GATHER = "gather_embeddings"
EXTEND = "extend"
PROMPT = "prompt_opt"
"""What a function does, and the beginning of its name. Source: CM, _constants.py."""


@dataclass(frozen=True)
class Sizes:
    """The fixed shapes of the functions."""

    context: int
    """Tokens of the cache."""
    queries: tuple[int, ...]
    """Tokens of a call, smallest first; each divides the next one, and `context`."""


def function_name(role: str, sizes: Sizes, query: int, prefix: str = "") -> str:
    """Name of a function of the layers. Without a prefix, it is the one that the runner calls."""
    return f"{prefix}{role}_{sizes.context}_{query}"


def prefix_of(variant: str) -> str:
    """Beginning of the names of an adapter's functions. The runner looks at none that has it."""
    return f"adapter_{plain(variant)}_"


@dataclass(frozen=True)
class Bundle:
    """What metadata.json says."""

    name: str
    sizes: Sizes
    vocab_size: int
    runner_uses: str
    """The adapter that the runner answers with, or "none"."""
    variants: Mapping[str, str]
    """Prefix of the functions' names, by adapter or "none"."""

    @property
    def asset(self) -> str:
        """Name of the `.aimodel`."""
        return self.name + ASSET_SUFFIX

    def functions(self) -> dict[str, list[str]]:
        """Names of the functions by what they do; those with an adapter behind a slash."""
        queries = self.sizes.queries
        found = {LOAD: [LOAD], GATHER: [f"{GATHER}_{query}" for query in queries]}
        for variant, prefix in self.variants.items():
            for role in (EXTEND, PROMPT):
                key = f"{role}/{variant}" if prefix else role
                found[key] = [function_name(role, self.sizes, query, prefix) for query in queries]
        return found


def write_bundle(folder: Path, bundle: Bundle, source: Source) -> None:
    """Write everything but the `.aimodel` into a folder that is there."""
    _copy_tokenizer(source.folder, folder / TOKENIZER)
    metadata = {
        "metadata_version": METADATA_VERSION,
        "kind": "llm",
        "name": bundle.name,
        "assets": {"main": bundle.asset},
        "language": {
            "tokenizer": bundle.name,
            "vocab_size": bundle.vocab_size,
            "max_context_length": bundle.sizes.context,
            "embedded_tokenizer": True,
            "function_map": bundle.functions(),
        },
        "user_data": {"adapter": bundle.runner_uses},
    }
    text = json.dumps(metadata, indent=2) + "\n"
    (folder / METADATA).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text("\n".join(_readme(bundle)), encoding="utf-8")


def read_bundle(folder: Path) -> Bundle:
    """What was written.

    Raises:
        ExportError: metadata.json is not there, or not one that we write.
    """
    file = folder / METADATA
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        functions = known["language"]["function_map"]
        used = known["user_data"]["adapter"]
        queries = tuple(int(name.rpartition("_")[2]) for name in functions[GATHER])
        sizes = Sizes(int(known["language"]["max_context_length"]), queries)
        others = [key.partition("/")[2] for key in functions if key.startswith(f"{EXTEND}/")]
        variants = {used: "", **{name: prefix_of(name) for name in others}}
        vocab_size = int(known["language"]["vocab_size"])
        return Bundle(known["name"], sizes, vocab_size, used, variants)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{file} is damaged: {error}") from None


def _copy_tokenizer(model: Path, folder: Path) -> None:
    """Copy the tokenizer's files, and note where an answer ends.

    The runner stops at `eos_token`, and at further pieces only if tokenizer_config.json lists them
    as special; it does not read generation_config.json, where models say that a turn's end is one.
    """
    folder.mkdir()
    copy_tokenizer(model, folder)
    tokenizer, file = Tokenizer.open(model), folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    template = model / "chat_template.jinja"
    if "chat_template" not in config and template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    known = list(config.get("additional_special_tokens") or [])
    ends = [tokenizer.piece(token) for token in tokenizer.eos_ids[1:]]
    added = [piece for piece in ends if piece is not None and piece not in known]
    if added:
        config["additional_special_tokens"] = known + added
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _readme(bundle: Bundle) -> Sequence[str]:
    used = "" if bundle.runner_uses == "none" else f", with the adapter {bundle.runner_uses}"
    others = [name for name, prefix in bundle.variants.items() if prefix]
    lines = [
        f"# {bundle.name} for Core AI",
        "",
        "A model for macOS 27 and iOS 27, exported with afm-mlx. Apple's language-model runner",
        f"(the Swift package apple/coreai-models) opens this folder{used}:",
        "",
        "```swift",
        "import CoreAILanguageModels",
        "import FoundationModels",
        "",
        "let model = try await CoreAILanguageModel(resourcesAt: folder)",
        "let session = LanguageModelSession(model: model)",
        'print(try await session.respond(to: "Hello"))',
        "```",
        "",
        f"The cache has room for {bundle.sizes.context:,} tokens. Its functions take "
        f"{' or '.join(map(str, bundle.sizes.queries))} tokens at a time.",
        "",
    ]
    if others:
        lines += [
            "Apple's runner calls functions by fixed names and knows no adapters. A program of",
            "your own reaches the others by theirs; they must not share a cache:",
            "",
            *(
                f"- {name}: `{function_name(EXTEND, bundle.sizes, query, bundle.variants[name])}`"
                for name in others
                for query in bundle.sizes.queries
            ),
            "",
        ]
    return [
        *lines,
        "## Verified",
        "",
        "Before this folder was published, its functions were run by Apple's runtime, and their",
        "logits compared with those of the model they came from: see `export.json`. That was not",
        "on a Neural Engine.",
        "",
    ]
