"""Which matrices take 2, 4 or 8 bits: the least damage that an average of bits allows.

Each matrix has, for each width, a damage: what the model is expected to lose, in nats per token,
when only that matrix is stored so. Damages are added up, and the exact optimum of that sum is a
knapsack problem, small enough to be solved whole.

Bits here are those of a weight's id. Tables and scales come on top, a few thousandths of a bit in
matrices of a device model; `decoder.checkpoint.stored_bits` counts them.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from afm_mlx.errors import RecipeError

Damages = Mapping[str, Mapping[int, float]]
"""Nats per token by matrix and bits."""

MOST_STEPS = 2**16
"""Steps that the bits to give away are counted in; finer ones are rounded up to one. Ours."""

_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_GRID_COLUMNS = 60  # layers in a line of the table, beside names: 80 columns in all
_COLORS = {2: "#f2a65a", 3: "#e8d27a", 4: "#8fb8de", 8: "#3d5a80"}
_DARK = (8,)  # whose digits are white


@dataclass(frozen=True)
class Choice:
    """Bits of every matrix, and what they come to."""

    bits: dict[str, int]
    """By matrix."""
    bits_per_weight: float
    """Their average over weights, tables not counted."""
    damage: float
    """Sum of the damages, nats per token."""


def allocate(
    damages: Damages,
    sizes: Mapping[str, int],
    target: float,
    *,
    fixed: Mapping[str, int] | None = None,
) -> Choice:
    """The widths with the least damage in all whose average is at most `target`.

    Args:
        damages: of each matrix, for each width that it may have.
        sizes: weights in each matrix, those of `fixed` too.
        target: bits per weight.
        fixed: bits of matrices that have no choice and count in the average, such as the embedding.

    Raises:
        RecipeError: no widths have this average; the nearest ones are named.
    """
    fixed = fixed or {}
    least = {name: min(widths) for name, widths in damages.items()}
    most = {name: max(widths) for name, widths in damages.items()}
    lowest, highest = (average_bits({**each, **fixed}, sizes) for each in (least, most))
    for reached, wrong in ((lowest, target < lowest - 1e-9), (highest, target > highest + 1e-9)):
        if wrong:
            raise RecipeError(
                f"{target:g} bits per weight cannot be reached: these matrices take "
                f"{lowest:.4g} to {highest:.4g}"
                + (
                    f", with {', '.join(f'{name} at {fixed[name]}' for name in fixed)}"
                    * bool(fixed)
                ),
                hint="the nearest is --set quantize.target_bits_per_weight="
                f"{_outward(reached, up=reached == lowest):g}",
            )
    unit, capacity = _steps(damages, sizes, least, target - lowest, fixed)
    # worth[c]: least damage of the matrices so far that takes at most c steps above the least bits.
    worth = np.zeros(capacity + 1)
    picks: list[np.ndarray] = []
    for name, widths in damages.items():
        options = sorted(widths)
        found = np.full((len(options), capacity + 1), np.inf)
        for number, width in enumerate(options):
            steps = -(-(width - least[name]) * sizes[name] // unit)
            if steps <= capacity:
                found[number, steps:] = worth[: capacity + 1 - steps] + widths[width]
        pick = found.argmin(0)  # of equal damages the fewest bits
        worth = np.take_along_axis(found, pick[None], 0)[0]
        picks.append(pick.astype(np.uint8))
    bits: dict[str, int] = {}
    left = capacity
    for name, pick in zip(reversed(list(damages)), reversed(picks), strict=True):
        bits[name] = sorted(damages[name])[pick[left]]
        left -= -(-(bits[name] - least[name]) * sizes[name] // unit)
    bits = {name: bits[name] for name in damages}
    damage = sum(damages[name][width] for name, width in bits.items())
    everything = {**bits, **fixed}
    return Choice(everything, average_bits(everything, sizes), damage)


def average_bits(bits: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Mean bits of a weight."""
    weights = sum(sizes[name] for name in bits)
    return sum(width * sizes[name] for name, width in bits.items()) / weights


def shares(bits: Mapping[str, int], sizes: Mapping[str, int]) -> dict[int, float]:
    """Share of the weights that each width has, 0 to 1, by width, ascending."""
    counts: Counter[int] = Counter()
    for name, width in bits.items():
        counts[width] += sizes[name]
    total = sum(counts.values())
    return {width: counts[width] / total for width in sorted(counts)}


def _steps(
    damages: Damages,
    sizes: Mapping[str, int],
    least: Mapping[str, int],
    spare: float,
    fixed: Mapping[str, int],
) -> tuple[int, int]:
    """Bits of one step, and how many steps there are to give away."""
    weights = sum(sizes[name] for name in [*damages, *fixed])
    extras = [
        (width - least[name]) * sizes[name] for name, widths in damages.items() for width in widths
    ]
    most = [(max(widths) - least[name]) * sizes[name] for name, widths in damages.items()]
    spare_bits = min(math.floor(spare * weights + 1e-3), sum(most))
    unit = max(math.gcd(*extras), 1)
    # Rounding up keeps the average below the target.
    unit = max(unit, -(-spare_bits // MOST_STEPS))
    if spare_bits == sum(most):  # enough for all: rounding must take nothing from them
        return unit, sum(-(-each // unit) for each in most)
    return unit, spare_bits // unit


def _outward(value: float, *, up: bool) -> float:
    """Rounded to four digits, so that the value is still reached."""
    rounding = math.ceil if up else math.floor
    return rounding(value * 1e4 - 1e-6 if up else value * 1e4 + 1e-6) / 1e4


def _grid(bits: Mapping[str, int]) -> tuple[dict[tuple[str, int], int], dict[str, int], int]:
    """Bits by matrix kind and layer, of what is in no layer, and the number of layers."""
    cells: dict[tuple[str, int], int] = {}
    others: dict[str, int] = {}
    for name, width in bits.items():
        parts = name.split(".")
        if "layers" in parts:
            cells[parts[-1], int(parts[parts.index("layers") + 1])] = width
        else:
            others[parts[-1]] = width
    return cells, others, 1 + max((layer for _, layer in cells), default=-1)


def bits_table(bits: Mapping[str, int]) -> str:
    """Bits as a grid of digits, a line for each kind of matrix and a column for each layer.

    >>> print(bits_table({"model.layers.0.mlp.up_proj": 4, "model.layers.1.mlp.up_proj": 2}))
      layer        0
      up_proj      42
    """
    cells, others, layers = _grid(bits)
    lines = []
    for start in range(0, layers, _GRID_COLUMNS):
        columns = range(start, min(start + _GRID_COLUMNS, layers))
        tens = "".join(f"{layer:<10}" for layer in columns if layer % 10 == 0)
        lines.append(f"  {'layer':<13}{tens}".rstrip())
        for kind in _ORDER:
            digits = "".join(str(cells.get((kind, layer), " ")) for layer in columns)
            if digits.strip():
                lines.append(f"  {kind:<13}{digits}")
    lines += [f"  {kind:<13}{width}" for kind, width in others.items()]
    return "\n".join(lines)


def bits_svg(bits: Mapping[str, int], sizes: Mapping[str, int], title: str) -> str:
    """The same as a picture, with the share of weights that each width has."""
    cells, others, layers = _grid(bits)
    title = html.escape(title)
    kinds = [kind for kind in _ORDER if any(kind == each for each, _ in cells)]
    side, left, top, legend = 18, 110, 56, 190
    width = left + max(layers * side, 3 * legend) + 20
    height = top + (len(kinds) + len(others)) * side + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" '
        'font-size="12">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="14" y="22" font-size="14" fill="#222">{title}</text>',
    ]
    for layer in range(0, layers, 5):
        x = left + layer * side + side / 2
        parts.append(f'<text x="{x}" y="{top - 6}" text-anchor="middle" fill="#666">{layer}</text>')
    for row, kind in enumerate([*kinds, *others]):
        y = top + row * side
        label = f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" fill="#222">{kind}</text>'
        parts.append(label)
        if kind in others:
            parts.append(_cell(left, y, layers * side or side, side, others[kind]))
            continue
        parts += [
            _cell(left + layer * side, y, side, side, cells[kind, layer])
            for layer in range(layers)
            if (kind, layer) in cells
        ]
    x, y = left, height - 40
    for each, share in shares(bits, sizes).items():
        parts.append(_cell(x, y, side, side, each))
        words = f"{each} bits: {share:.1%} of weights"
        parts.append(f'<text x="{x + side + 6}" y="{y + 13}" fill="#222">{words}</text>')
        x += legend
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: int, y: int, width: int, height: int, bits: int) -> str:
    ink = "#ffffff" if bits in _DARK else "#222222"
    return (
        f'<rect x="{x}" y="{y}" width="{width - 1}" height="{height - 1}" '
        f'fill="{_COLORS.get(bits, "#cccccc")}"/>'
        f'<text x="{x + width / 2 - 0.5}" y="{y + 13}" font-size="11" text-anchor="middle" '
        f'fill="{ink}">{bits}</text>'
    )
