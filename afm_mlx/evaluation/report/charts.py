"""Pictures as SVG, drawn in the colors of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Bits, Curves, Line, Ranges
from afm_mlx.evaluation.report.markup import Markup, element, join

WIDTH = 360
"""Width of a picture in its own units; about as many pixels on a phone. Ours."""

HEIGHT = 210
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 12, 36
ROW = 24  # of a value with its interval
SIDE = 22  # of a matrix
LETTER = 6.6  # width of a letter of 12 px, about
MOST_MARKS = 30  # of a curve: more would run into each other
SAME = 1e-12  # numbers this near to each other are drawn as one
LARGEST = 1e300  # numbers beyond are drawn at the edge
MOST_DIGITS = 4  # after the point, on an axis
TICKS = 4  # on an axis, about


def curves_svg(curves: Curves) -> Markup:
    """Curves on two axes, with numbers and names at both."""
    points = [point for line in curves.lines for point in line.points]
    across = _Axis([0.0, *(x for x, _ in points)], LEFT, WIDTH - RIGHT, tight=True)
    upward = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, share=curves.share)
    parts: list[Markup] = []
    for value in upward.ticks:
        y = upward.at(value)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LEFT - 6, y + 4, upward.words(value), anchor="end"))
    for value in across.spaced():
        x = across.at(value)
        parts.append(_line(x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 4, "axis"))
        parts.append(_text(x, HEIGHT - BOTTOM + 16, across.words(value), anchor="middle"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, curves.across, anchor="end"))
    for line, kind in zip(curves.lines, line_classes(curves), strict=True):
        parts += _curve(line, kind, across, upward)
    label = f"{curves.title}: {curves.upward} by {curves.across}"
    return _svg(WIDTH, HEIGHT, label, parts)


def line_classes(curves: Curves) -> list[str]:
    """How each line is drawn: in its run's color, training thinner; of one run training is gray."""
    several = len({line.run for line in curves.lines}) > 1
    return [
        f"measured run{line.run}"
        if line.marked
        else f"trained {f'run{line.run}' if several else 'gray'}"
        for line in curves.lines
    ]


def ranges_svg(ranges: Ranges) -> Markup:
    """Values with the intervals around them, a row for each."""
    longest = max(len(row.name) for row in ranges.rows)
    left = min(12 + LETTER * longest, 0.45 * WIDTH)
    bottom = ROW * len(ranges.rows) + 8
    ends = [end for row in ranges.rows for end in (row.low, row.high)]
    axis = _Axis(ends, left + 6, WIDTH - 18, share=ranges.share)
    parts: list[Markup] = []
    for value in axis.spaced():
        x = axis.at(value)
        parts.append(_line(x, 4, x, bottom, "grid"))
        parts.append(_text(x, bottom + 16, axis.words(value), anchor="middle"))
    for place, row in enumerate(ranges.rows):
        y = ROW * place + ROW / 2 + 4
        color = f"run{row.run}"
        parts.append(_text(left - 4, y + 4, _cut(row.name, left), anchor="end"))
        parts.append(_line(axis.at(row.low), y, axis.at(row.high), y, f"interval {color}"))
        for end in (row.low, row.high):
            parts.append(_line(axis.at(end), y - 4, axis.at(end), y + 4, f"interval {color}"))
        parts.append(element("circle", cx=_n(axis.at(row.value)), cy=_n(y), r=4, class_=color))
    return _svg(WIDTH, bottom + 24, ranges.title, parts)


def bits_svg(bits: Bits) -> Markup:
    """A square for each matrix, its bits in it; a row for each kind and a column for each layer."""
    layers = max(len(row) for _, row in bits.grid)
    left, top = 104, 22
    # What is in no layer needs room for a number only.
    width = left + max(layers, 2) * SIDE + 4
    height = top + SIDE * (len(bits.grid) + len(bits.others)) + 4
    every = 1 if layers < 10 else 5
    parts = [
        _text(left + SIDE * layer + SIDE / 2, top - 8, f"{layer}", anchor="middle")
        for layer in range(0, layers, every)
    ]
    for place, (kind, row) in enumerate(bits.grid):
        y = top + SIDE * place
        parts.append(_text(left - 8, y + 15, _cut(kind, left), anchor="end"))
        parts += [
            _square(left + SIDE * layer, y, SIDE, width_bits)
            for layer, width_bits in enumerate(row)
            if width_bits is not None
        ]
    for place, (kind, width_bits) in enumerate(bits.others, start=len(bits.grid)):
        y = top + SIDE * place
        parts.append(_text(left - 8, y + 15, _cut(kind, left), anchor="end"))
        parts.append(_square(left, y, SIDE * layers, width_bits))
    return _svg(width, height, bits.title, parts, fixed=True)


class _Axis:
    """A scale from numbers to places, with a few round numbers on it."""

    def __init__(
        self,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        share: bool = False,
        tight: bool = False,
    ) -> None:
        """From `start` to `end`; a `tight` scale ends at the values, others at round numbers."""
        low, high = max(min(values), -LARGEST), min(max(values), LARGEST)
        if high - low <= SAME * max(abs(low), abs(high), SAME):
            room = max(abs(low) / 10, SAME) if low else 1.0
            low, high = low - room, high + room
        if share:
            low, high = max(low, min(0.0, *values)), min(high, max(1.0, *values))
        step = self.step = _round_step((high - low) / TICKS)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if tight:
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            self.low, self.high = low, high
        else:
            self.low, self.high = first * step, last * step
        self.ticks = [number * step for number in range(first, last + 1)]
        self.digits = max(0, -math.floor(math.log10(step) + 1e-9))
        self.start, self.end, self.share = start, end, share

    def at(self, value: float) -> float:
        """Where a number is."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def words(self, value: float) -> str:
        """The number in as few digits as tell it from its neighbors."""
        if self.share:
            return f"{100 * value:.{max(0, self.digits - 2)}f}%"
        if value and (self.digits > MOST_DIGITS or abs(value) >= figures.LARGEST):
            return f"{value:.2g}"
        for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(self.ticks[-1]) >= 10 * factor and self.step >= factor / 10:
                short = f"{value / factor:.{int(self.step < factor)}f}"
                return f"{short}{unit}" if value else "0"
        return f"{value:,.{min(self.digits, MOST_DIGITS)}f}"

    def spaced(self) -> list[float]:
        """Numbers whose words have room beside each other."""
        widest = LETTER * max(len(self.words(value)) for value in self.ticks) + 8
        room = abs(self.end - self.start) / max(len(self.ticks) - 1, 1)
        return self.ticks[:: max(1, math.ceil(widest / room))]


def _round_step(step: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _curve(line: Line, kind: str, across: _Axis, upward: _Axis) -> list[Markup]:
    places = [(across.at(x), upward.at(y)) for x, y in line.points]
    path = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    parts = [element("polyline", points=path, class_=f"curve {kind}")]
    if len(places) <= (MOST_MARKS if line.marked else 1):
        parts += [element("circle", cx=_n(x), cy=_n(y), r=3, class_=kind) for x, y in places]
    return parts


def _square(x: float, y: float, width: float, bits: int) -> Markup:
    return join(
        element(
            "rect",
            x=_n(x + 0.5),
            y=_n(y + 0.5),
            width=_n(width - 1),
            height=_n(SIDE - 1),
            rx=2,
            class_=f"bits{min(max(bits, 1), 16)}",
        ),
        _text(x + width / 2, y + 15, f"{bits}", anchor="middle", class_=f"on{min(bits, 16)}"),
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=class_)


def _text(x: float, y: float, words: str, *, anchor: str, class_: str | None = None) -> Markup:
    return element("text", words, x=_n(x), y=_n(y), text_anchor=anchor, class_=class_)


def _cut(name: str, room: float) -> str:
    """A name that fits; the whole one stands in the table."""
    most = round((room - 12) / LETTER)
    return name if len(name) <= most else f"{name[: most - 2]}.."


def _n(value: float) -> str:
    return figures.decimal(value, 1).removesuffix(".0").replace(",", "")


def _svg(
    width: float, height: float, label: str, parts: Sequence[Markup], *, fixed: bool = False
) -> Markup:
    return element(
        "svg",
        element("title", label),
        *parts,
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        width=_n(width) if fixed else None,
        height=_n(height) if fixed else None,
        role="img",
    )
