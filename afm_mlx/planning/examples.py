"""How much a section's files hold: lines are counted, tokens are estimated from bytes.

Nothing is parsed: a plan is quick also where a file has millions of lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from afm_mlx.errors import DataError
from afm_mlx.recipe import Recipe
from afm_mlx.settings.alignment import Examples
from afm_mlx.settings.synthetic import Generated
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.draws import Draw
from afm_mlx.synthetic.records import Candidate

BYTES_PER_TOKEN = 4  # usual for English; JSON's signs stand for those of the chat template. Ours
ASSUMED_TOKENS = 256  # of a prompt or a line that nobody has written yet; ours
TURN_TOKENS = 4  # of the chat template around a message; ours
SAMPLED_LINES = 50  # generated lines whose length is looked at; ours
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Size:
    """What an epoch goes through."""

    lines: float | None
    """Lines, each file's times its weight; None: a file is not there."""
    distinct: int
    """Lines of the files that are there, each once."""
    line_tokens: float
    """Tokens of a line, estimated or assumed."""
    missing: tuple[str, ...]
    """Files that are not there."""
    how: tuple[str, ...]
    """What was counted, and what is assumed, in sentences."""


def measure(recipe: Recipe, sources: Mapping[str, Examples]) -> Size:
    """Lines and tokens of a section's sources, without what is generated only in a run.

    Those of a `synthetic:NAME` are the recipe's `count`. Where one file is not there, the number of
    lines is unknown, and the tokens are those of the files that are there, if any.

    Raises:
        DataError: a file cannot be read.
    """
    lines, distinct, tokens = 0.0, 0, 0.0
    how: list[str] = []
    missing: list[str] = []
    for source in sources.values():
        weight = getattr(source, "weight", 1.0)
        if source.generated:
            count = recipe.synthetic[source.generated].count
            lines += weight * count
            distinct += count
            each, said = _generated_tokens(recipe.synthetic[source.generated])
            tokens += weight * count * each
            how.append(f"{source.path}: {count:,} lines of {each:,} tokens, {said}")
            continue
        path = Path(source.path).expanduser()
        if not path.is_file():
            missing.append(source.path)
            continue
        count, size = count_lines(path)
        lines += weight * count
        distinct += count
        tokens += weight * size / BYTES_PER_TOKEN
        how.append(
            f"{source.path}: {count:,} lines, {size:,} bytes, {BYTES_PER_TOKEN} a token assumed"
        )
    mean = tokens / lines if lines else float(ASSUMED_TOKENS)
    return Size(None if missing else lines, distinct, mean, tuple(missing), tuple(how))


def _generated_tokens(source: Generated) -> tuple[int, str]:
    """Tokens of a generated line, and how we know."""
    settings = source.section()
    if hasattr(settings, "documents"):  # reading these would take longer than the plan
        return ASSUMED_TOKENS, "assumed"
    kind = KINDS[source.kind][1](settings)
    families = kind.of_split(source.split.value, settings)
    tokens = []
    for number in range(SAMPLED_LINES if families else 0):
        draw = Draw(kind.name, source.seed, number)
        made = kind.make(draw, draw.pick(families), families)
        if isinstance(made, Candidate):
            said = json.dumps([each["content"] for each in made.messages] + list(made.tools))
            tokens.append(len(said) / BYTES_PER_TOKEN + TURN_TOKENS * len(made.messages))
    if not tokens:
        return ASSUMED_TOKENS, "assumed"
    return round(fmean(tokens)), f"of {len(tokens)} that were made to see"


def absent(files: Sequence[str]) -> str:
    """That files are not there, in words."""
    return f"{', '.join(files)} {'is' if len(files) == 1 else 'are'} not there"


def count_lines(path: Path) -> tuple[int, int]:
    """Lines of a file that are not empty, and its bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return _count(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _count(path: Path) -> tuple[int, int]:
    count = size = 0
    inside = False  # a line that has begun, and has more than spaces
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            first, *others = chunk.split(b"\n")
            inside = inside or bool(first.strip())
            if others:
                *whole, last = others
                count += inside + sum(1 for line in whole if line.strip())
                inside = bool(last.strip())
    return count + inside, size
