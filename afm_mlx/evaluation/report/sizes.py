"""Sizes, bits and adapters, as parts of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import Bits, Block, Cell, table
from afm_mlx.evaluation.report.facts import (
    at,
    number_at,
    numbers,
    table_at,
    words_at,
)
from afm_mlx.evaluation.report.folders import (
    RunFolder,
    StageFolder,
    count_parameters,
    tensor_bytes,
)
from afm_mlx.evaluation.report.scores import before

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of a block, in the order of its computation."""

FACTORS = "adapters.safetensors"
MOST_BITS = 32  # of a weight
WIDEST_GRID = 512  # layers of a picture; a larger number is a damaged name


@dataclass(frozen=True)
class ModelSize:
    """What a stage's model takes."""

    stage: str
    parameters: int | None
    num_bytes: int

    @property
    def bits(self) -> float | None:
        """Bits on disk for each weight."""
        return 8 * self.num_bytes / self.parameters if self.parameters else None


def model_sizes(run: RunFolder) -> list[ModelSize]:
    """Models of the finished stages that left one."""
    found = []
    for stage in run.finished:
        num_bytes = tensor_bytes(stage.folder / "model")
        if num_bytes is None:
            continue
        config = stage.config
        has_heads = bool(at(config, "afm", "reward"))  # which our count does not know
        parameters = None if has_heads else count_parameters(config)
        found.append(ModelSize(stage.name, parameters, num_bytes))
    return found


def size_blocks(run: RunFolder) -> list[Block | None]:
    """Size of each stage's model; of a quantized one what was asked for, chosen and stored."""
    blocks: list[Block | None] = [
        table(
            ["stage", "parameters", "on disk", "bits per weight"],
            (
                [
                    each.stage,
                    figures.count(each.parameters),
                    figures.size(each.num_bytes),
                    figures.decimal(each.bits, 2),
                ]
                for each in model_sizes(run)
            ),
        )
    ]
    for stage in run.finished:
        if table_at(stage.metrics, "bits"):
            blocks += _bits(stage)
    return blocks


def _bits(stage: StageFolder) -> list[Block | None]:
    metrics = stage.metrics
    stored = numbers(table_at(metrics, "stored_bits"))
    asked = number_at(stage.manifest, "settings", "quantize", "target_bits_per_weight")
    rows = [
        ("asked for, at most", asked),
        ("planned, without tables", number_at(metrics, "bits_per_weight")),
        *((f"on disk, {part}", stored.get(part)) for part in ("linears", "embedding", "norms")),
        ("on disk, all", stored.get("all")),
    ]
    shares = numbers(table_at(metrics, "share_by_bits"))
    return [
        table(
            [f"{stage.name}", "bits per weight"],
            ([name, figures.decimal(value, 3)] for name, value in rows if value is not None),
            title="Planned and stored",
        ),
        table(
            ["bits", "share of the weights"],
            ([bits, figures.share(share)] for bits, share in shares.items()),
        ),
        bits_picture(numbers(table_at(metrics, "bits")), f"Bits of each matrix after {stage.name}"),
    ]


def bits_picture(bits: Mapping[str, float], title: str) -> Bits | None:
    """Bits by kind of matrix and layer; None where no name is of a layer."""
    cells: dict[tuple[str, int], int] = {}
    others: list[tuple[str, int]] = []
    for name, width in bits.items():
        if not 0 < width <= MOST_BITS:
            continue
        words = name.split(".")
        after = words[words.index("layers") + 1 :] if "layers" in words else []
        if after and after[0].isdecimal() and int(after[0]) < WIDEST_GRID:
            cells[words[-1], int(after[0])] = round(width)
        else:
            others.append((words[-1], round(width)))
    if not cells:
        return None
    layers = 1 + max(layer for _, layer in cells)
    kinds = dict.fromkeys([*KINDS, *(kind for kind, _ in cells)])
    grid = [
        (kind, tuple(cells.get((kind, layer)) for layer in range(layers)))
        for kind in kinds
        if any(kind == each for each, _ in cells)
    ]
    return Bits(title, tuple(grid), tuple(others))


def adapter_blocks(run: RunFolder) -> list[Block | None]:
    """Product adapters, and those that win back what quantization lost."""
    return [
        table(
            [
                "adapter",
                "starts from",
                "rank",
                "on disk",
                "conversations",
                "held out before",
                "after, nats per token",
            ],
            (_product(stage) for stage in run.finished if stage.is_adapter),
            words=2,
            title="For features",
        ),
        table(
            [
                "adapter",
                "rank",
                "parameters",
                "on disk",
                "texts: KL before",
                "KL after",
                "won back",
                "answers: KL before",
                "KL after",
                "won back",
            ],
            (row for stage in run.finished for row in _recovery(stage)),
            title="For what quantization lost",
        ),
    ]


def _product(stage: StageFolder) -> list[str | Cell]:
    folder, metrics = stage.folder / "adapter", stage.metrics
    return [
        words_at(stage.adapter, "name") or stage.name,
        words_at(metrics, "parent") or "the model itself",
        figures.count(number_at(metrics, "rank")),
        figures.size(tensor_bytes(folder, FACTORS)),
        figures.count(number_at(metrics, "conversations")),
        figures.decimal(before(stage, "held_out_nats")),
        figures.decimal(number_at(metrics, "held_out_nats")),
    ]


def _recovery(stage: StageFolder) -> list[list[str | Cell]]:
    rows: list[list[str | Cell]] = []
    for rank in table_at(stage.metrics, "ranks"):
        found = table_at(stage.metrics, "ranks", rank)
        row: list[str | Cell] = [f"recovery-{rank}", str(rank)]
        folder = stage.folder / "model" / "adapters" / f"recovery-{rank}"
        row.append(figures.count(number_at(found, "parameters")))
        row.append(figures.size(tensor_bytes(folder, FACTORS)))
        for kind in ("held_out", "answers"):
            row += [
                figures.decimal(before(stage, f"{kind}_kl")),
                figures.decimal(number_at(found, f"{kind}_kl")),
                figures.share(number_at(found, f"{kind}_won_back")),
            ]
        rows.append(row)
    return rows
