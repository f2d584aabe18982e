"""A folder for Apple's Core AI: an `.aimodel` with its tables as tables, and what its runner wants.

What writes and runs it is coreai-core, which is imported only when that is asked for.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from afm_mlx.decoder.adapters import NONE
from afm_mlx.export.coreai.bundle import (
    EXTEND,
    PROMPT,
    TOKENIZER,
    Bundle,
    Sizes,
    prefix_of,
    read_bundle,
    write_bundle,
)
from afm_mlx.export.tables import (
    Weights,
    adapter_names,
    planned_sizes,
    read_adapters,
    refusals,
)
from afm_mlx.export.targets import Need, Size, Source, Target
from afm_mlx.export.verify import Runtime, Thresholds
from afm_mlx.settings.export import CoreAi

VERSION = "1.0.0b3"
"""Of coreai-core: its lower half, which programs are written with, changes between versions."""

INSTALL = 'pip install "afm-mlx[coreai]"'
WHEELS = "Python 3.11 to 3.14 on macOS 26 or later (arm64), or Linux with glibc 2.34 (x86-64)"
"""Source: the files of coreai-core 1.0.0b3."""

# All of it is computed in float16. On afm-tiny, which is trained, 3 % of a standard deviation.
_THRESHOLDS = Thresholds(cosine=0.999, error=0.15, agreement=1.0, tie=0.05)


def sizes_of(source: Source, settings: CoreAi) -> Sizes:
    """Fixed shapes of the functions; a context of 0 where the model has too few tokens."""
    room = min(settings.context_tokens, source.shape.max_tokens)
    whole = room // settings.prefill_tokens * settings.prefill_tokens
    return Sizes(whole, tuple(sorted({settings.decode_tokens, settings.prefill_tokens})))


def bundle_of(source: Source, settings: CoreAi) -> Bundle:
    """What metadata.json is to say."""
    names = [NONE, *adapter_names(source)]
    used = settings.runner_uses or (names[1] if len(names) > 1 else NONE)
    variants = {name: "" if name == used else prefix_of(name) for name in names}
    sizes = sizes_of(source, settings)
    return Bundle(source.name, sizes, source.shape.vocab_size, used, variants)


def _refusals(source: Source, settings: CoreAi) -> list[str]:
    shape, reasons = source.shape, []
    bundle = bundle_of(source, settings)
    sizes = bundle.sizes
    if not sizes.context:
        reasons.append(
            f"it reads {shape.max_tokens} tokens, and a prompt is read {settings.prefill_tokens} "
            "at a time (--set prefill_tokens=N)"
        )
    # The runner takes the largest number of the cache's shape for its tokens.
    width = max(shape.num_kv_heads * shape.head_dim, shape.num_layers)
    if 0 < sizes.context < width:
        reasons.append(
            f"a context of {sizes.context:,} tokens is below the {width:,} numbers of a key, which "
            "Apple's runner would take for it (--set context_tokens=N)"
        )
    if bundle.runner_uses not in bundle.variants:
        known = ", ".join(bundle.variants)
        reasons.append(f"runner_uses is '{bundle.runner_uses}', and there are {known}")
    return [*reasons, *refusals(source)]


def _write(source: Source, folder: Path, settings: CoreAi) -> None:
    from afm_mlx.export.coreai.program import write_program

    bundle, weights = bundle_of(source, settings), Weights(source.folder, source.shape)
    adapters = {each.name: each for each in read_adapters(source)}
    variants = [(prefix, adapters.get(name)) for name, prefix in bundle.variants.items()]
    folder.mkdir()
    description = f"{source.name}, exported with afm-mlx"
    write_program(folder / bundle.asset, weights, bundle.sizes, variants, description=description)
    write_bundle(folder, bundle, source)


def _open(folder: Path, settings: CoreAi, adapter: str) -> Runtime:
    from afm_mlx.export.coreai.runtime import CoreAiRuntime

    return CoreAiRuntime(folder, adapter)


def _sizes(folder: Path, source: Source, settings: CoreAi) -> list[Size]:
    from afm_mlx.export.coreai.contents import constant_bytes

    bundle = read_bundle(folder)
    asset = folder / bundle.asset
    names, plain = bundle.functions(), "" if bundle.runner_uses == NONE else f"/{NONE}"
    found = constant_bytes(asset, [*names[EXTEND + plain], *names[PROMPT + plain]])
    planned = dict.fromkeys(("embedding", "linears", "norms"), 0)
    for _, component, size in planned_sizes(source):
        planned[component] = planned.get(component, 0) + size
    rest = _bytes_in(asset) - sum(found.values())
    return [
        *(Size(part, found.get(part, 0), planned[part]) for part in planned),
        Size("functions", rest, None),
        Size("tokenizer", _bytes_in(folder / TOKENIZER), None),
    ]


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _install() -> str:
    """What to type; where there are no wheels, what they are for."""
    if (sys.platform, platform.machine()) in (("darwin", "arm64"), ("linux", "x86_64")):
        return f"{INSTALL}, with {WHEELS}"
    return f"there are wheels for {WHEELS}, and this is {platform.system()} on {platform.machine()}"


TARGET = Target(
    name="coreai",
    about="an .aimodel for macOS 27 and iOS 27, tables kept, run by Apple's runtime here",
    section=CoreAi,
    folds=False,
    refusals=_refusals,
    write=_write,
    open=_open,
    sizes=_sizes,
    thresholds=lambda settings: _THRESHOLDS,
    needs=(Need("coreai", _install(), "coreai-core", VERSION),),
)
