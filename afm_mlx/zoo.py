"""What a MODEL word on the command line means: which folder or file it stands for.

A word is, in this order: `smollm2`; a recipe's name (its newest finished stage); a folder; a GGUF
file; a hub id `org/name`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from afm_mlx.decoder.adapters import FOLDER, find_adapters, is_adapter, read_adapter_facts
from afm_mlx.errors import ModelError
from afm_mlx.recipe import nearest, recipe_files
from afm_mlx.settings.recipe import ADAPTER

SMOLLM2 = "smollm2"
"""The word for SmolLM2-135M-Instruct, which comes inside a package."""

MODEL_STAGES = (
    "teacher",
    "prune",
    "core",
    "continued",
    "context",
    "sft",
    "prefer",
    "itec",
    "rl",
    "quantize",
    "recover",
)
"""Stages that leave a language model, in the order of the pipeline."""

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "*.txt")
"""What of a hub repository is downloaded: weights, settings, tokenizer, chat template."""

CACHE_VERSION = 1
"""Raised when imports of the same file would come out differently."""

HEAD_BYTES = 2**20
"""Bytes at the start of a file that, with its size and time, identify it: all GGUF metadata of
most files."""

ABANDONED_SECONDS = 86_400
"""Age at which an unfinished import in the cache is taken for a crashed one."""


@dataclass(frozen=True)
class ResolvedModel:
    """What a MODEL word stands for."""

    path: Path
    """A model folder: `config.json`, weights, tokenizer files."""
    said: str
    """One line for the user on what was chosen; "" where the word itself says it."""


def resolve_model(
    word: str, *, runs: Path, say: Callable[[str], None] = lambda line: None
) -> ResolvedModel:
    """Find the model folder that `word` stands for. GGUF files are imported on first use.

    Args:
        word: recipe name, folder, GGUF file, hub id, or `smollm2`.
        runs: folder of runs, `runs/<recipe>/<stage>`.
        say: called with a line of progress before something that takes long.

    Raises:
        ModelError: nothing is called so, the recipe has no finished stage yet, the hub cannot be
            reached, or the file cannot be imported.
    """
    source = find_source(word, runs=runs, say=say)
    if source.path.is_dir():
        return source
    return ResolvedModel(_imported(source.path, say), source.said)


def find_source(
    word: str, *, runs: Path, say: Callable[[str], None] = lambda line: None
) -> ResolvedModel:
    """As `resolve_model`, and leaves a GGUF file as it is: what `afm import` starts from."""
    if word == SMOLLM2:
        from afm_mlx.decoder.convert import smollm2_file

        return ResolvedModel(smollm2_file(), "smollm2: SmolLM2-135M-Instruct, Apache-2.0")
    path = Path(word).expanduser()
    is_name = path.name == word  # no separator in it, so a recipe may be called so
    if is_name and ((runs / word).is_dir() or word in recipe_files()):
        stage = newest_stage(runs / word)
        if stage is not None:
            return ResolvedModel(stage / "model", f"{word}: stage {stage.name} ({stage / 'model'})")
        if not path.exists():
            raise ModelError(
                f"recipe '{word}' has no finished training stage in {runs / word}",
                hint=f"afm run {word if word in recipe_files() else 'FILE.toml'}",
            )
    for folder in (path, path / "model", runs / path, runs / path / "model"):
        if (folder / "config.json").is_file():
            return ResolvedModel(folder, "" if folder == path else f"{word}: {folder}")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is neither a model folder nor a .gguf file")
        return ResolvedModel(path, "")
    if path.is_dir():
        raise ModelError(
            f"{path} is not a model folder, it has no config.json", hint=_stages_inside(path)
        )
    if _is_hub_id(word):
        return ResolvedModel(_downloaded(word, say), f"{word}: from the hub")
    raise _unknown(word, runs)


def identity(word: str, *, runs: Path) -> str:
    """What changes when another model comes to stand behind `word`; looks at no network.

    64 hexadecimal digits of the files' names, sizes, and first and last bytes; of a hub id, and of
    a model that is not there yet, the word.
    """
    try:
        if _is_hub_id(word) and not Path(word).expanduser().exists():
            return word
        path = find_source(word, runs=runs).path
    except ModelError:
        return word
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if path.is_dir():
        files.append(path / "config.json")
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HEAD_BYTES))
            opened.seek(max(0, size - HEAD_BYTES))
            digest.update(opened.read(HEAD_BYTES))
    return digest.hexdigest()


def newest_stage(folder: Path) -> Path | None:
    """The last stage of the pipeline that is finished in `runs/<recipe>` and left a model."""
    for stage in reversed(MODEL_STAGES):
        finished = (folder / stage / "manifest.json").is_file()
        if finished and (folder / stage / "model" / "config.json").is_file():
            return folder / stage
    return None


def resolve_adapter(word: str, model: Path) -> Path:
    """Folder of the adapter that `word` stands for, for the model in folder `model`.

    A word is an adapter's folder, or the name of one: inside the model's folder, in a folder
    `adapters` here, or made by the model's recipe.

    Raises:
        ModelError: nothing is called so, or a folder of this name is no adapter.
    """
    place = Path(word).expanduser()
    for folder in (place, place / "adapter"):
        if is_adapter(folder):
            return folder
    known = {_adapter_name(folder): folder for folder in reversed(known_adapters(model))}
    if word in known:
        return known[word]
    if place.is_dir():
        read_adapter_facts(place)  # says what is wrong with it
    near = nearest(word, known)
    hint = f"did you mean '{near}'?" if near else f"there are {', '.join(sorted(known))}"
    raise ModelError(
        f"no adapter is called '{word}'",
        hint=hint if known else f"afm adapt MODEL --name {place.name} --data FILE makes one",
    )


def known_adapters(model: Path) -> list[Path]:
    """Adapters that have a name beside a model: its own, those in `adapters` here, its recipe's."""
    return [*find_adapters(model), *find_adapters(Path(FOLDER)), *beside_model(model)]


def beside_model(model: Path) -> list[Path]:
    """Adapters that a recipe has made, when `model` is the model of one of its stages."""
    stages = sorted(model.resolve().parent.parent.glob(f"{ADAPTER}*/adapter"))
    return [folder for folder in stages if is_adapter(folder)]


def _adapter_name(folder: Path) -> str:
    """What an adapter calls itself; a damaged one goes by its folder."""
    try:
        return read_adapter_facts(folder).name
    except ModelError:
        return folder.name


def cache_folder() -> Path:
    """Folder for what can be made again: AFM_CACHE_DIR, else the system's place for caches."""
    if chosen := os.environ.get("AFM_CACHE_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "afm_mlx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "afm_mlx"


def _imported(file: Path, say: Callable[[str], None]) -> Path:
    """The model folder made of a GGUF file: from the cache, or imported into it now."""
    cache = cache_folder() / "models"
    folder = cache / f"{file.stem}-{_fingerprint(file)}"
    if (folder / "config.json").is_file():
        return folder
    from afm_mlx.decoder.convert import import_model

    started = time.monotonic()
    say(f"importing {file.name} ({file.stat().st_size / 1e6:,.0f} MB), once")
    cache.mkdir(parents=True, exist_ok=True)
    for part in cache.glob("*.part"):
        if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{file.stem}-", suffix=".part", dir=cache))
    try:
        import_model(file, part / "model")
        try:
            (part / "model").rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"imported in {time.monotonic() - started:.1f} s into {folder}")
    return folder


def _fingerprint(file: Path) -> str:
    """16 hex digits that change with the file: size, time of change, and its first bytes."""
    status = file.stat()
    digest = hashlib.sha256(f"{CACHE_VERSION} {status.st_size} {status.st_mtime_ns}".encode())
    with file.open("rb") as opened:
        digest.update(opened.read(HEAD_BYTES))
    return digest.hexdigest()[:16]


def _is_hub_id(word: str) -> bool:
    organization, slash, name = word.partition("/")
    return bool(organization and slash and name) and "/" not in name and organization[0] not in ".~"


def _downloaded(word: str, say: Callable[[str], None]) -> Path:
    """Folder of a hub repository, from huggingface_hub's cache or downloaded now."""
    from huggingface_hub import snapshot_download

    say(f"looking for {word} on the hub")
    try:
        folder = Path(snapshot_download(word, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # all of huggingface_hub's errors are one of these
        described = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"'{word}' is no folder here, and cannot be had from the hub: {described[0]}",
            hint="check the name and the network, or give a folder or a .gguf file",
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"'{word}' on the hub has no config.json, it is not a model we can read")
    return folder


def _stages_inside(folder: Path) -> str:
    """A hint for a folder of runs given in place of one stage's."""
    stage = newest_stage(folder)
    return f"did you mean {stage / 'model'}?" if stage else ""


def _unknown(word: str, runs: Path) -> ModelError:
    known = {SMOLLM2, *recipe_files(), *_folders(runs)}
    near = nearest(word, sorted(known))
    return ModelError(
        f"no model is called '{word}': no recipe, folder or .gguf file",
        hint=f"did you mean '{near}'?" if near else f"try {SMOLLM2}, or see afm models",
    )


def _folders(parent: Path) -> Iterator[str]:
    if parent.is_dir():
        yield from (folder.name for folder in parent.iterdir() if folder.is_dir())
