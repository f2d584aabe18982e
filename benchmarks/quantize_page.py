"""Tables and a plot of what `quantize.py` has measured: KL over true bits, and over tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = ("ours", "weighted", "plain")  # kinds of tables; a row's name begins with its kind
FAMILIES = {
    "affine": "mlx-lm affine",
    "mixed": "mlx-lm mixed",
    "gptq": "mlx-lm GPTQ",
    "awq": "mlx-lm AWQ",
    "dwq": "mlx-lm DWQ",
    "ours": "tables",
    "weighted": "tables by weighted k-means",
    "weighted-rank-16": "the same, and adapter of rank 16",
    "plain": "tables by k-means",
    "plain-rank-16": "the same, and adapter of rank 16",
    "trained": "tables, trained",
    "rank-8": "tables and adapter of rank 8",
    "rank-16": "tables and adapter of rank 16",
    "trained-rank-8": "trained tables and adapter of rank 8",
    "trained-rank-16": "trained tables and adapter of rank 16",
}


def last_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The result of each method that read the most tokens."""
    return list({row["name"]: row for row in sorted(rows, key=lambda r: r["tokens"])}.values())


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Results in Markdown, and what was to be shown."""
    lines = [
        "| method | bits, linears | with adapter | with embedding | at 2.7B, with adapter "
        "| nats per token | KL | tokens read | seconds of CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["scaled_bits"], row["name"], row["tokens"])):
        seconds = f"{row['cpu_seconds']:,.0f}" if "cpu_seconds" in row else "-"
        lines.append(
            f"| {row['name']} | {row['linear_bits']:.3f} | {row['adapted_bits']:.3f} "
            f"| {row['all_bits']:.3f} | {row['scaled_bits']:.3f} | {row['nats']:.4f} "
            f"| {row['kl']:.4f} +- {row['error']:.4f} | {row['tokens']:,} "
            f"| {seconds} |"
        )
    full = {f"{row['full_nats']:.4f}" for row in rows}
    tokens = {f"{row['tokens_measured']:,}" for row in rows}
    said = f"The full model has {' '.join(full)} nats per token, of {' '.join(tokens)} measured."
    return "\n".join([*lines, "", said, "", *_claims(last_rows(rows))])


def _claims(rows: Sequence[dict[str, Any]]) -> list[str]:
    found = {row["name"]: row for row in rows}
    ours = [row for row in rows if row["name"].startswith("ours")]
    others = [row for row in rows if row["name"].startswith(("weighted", "plain"))]
    lines = []
    for row in rows:
        if row in ours or row in others:
            continue
        for bits, where in (("adapted_bits", "true"), ("scaled_bits", "2.7B's")):
            fewer = [each for each in ours if each[bits] <= row[bits] + 1e-9]
            if not fewer:
                lines.append(f"{row['name']}: none of ours has as few of {where} bits")
                continue
            best = min(fewer, key=lambda each: each["kl"])
            lines.append(
                f"{row['name']}: {best['name']} has {best[bits]:.3f} of {where} bits to "
                f"{row[bits]:.3f}, and KL {best['kl']:.4f} to {row['kl']:.4f}: "
                + ("lower" if best["kl"] < row["kl"] else "NOT lower")
            )
    for row in (*ours, *others):
        bits = row["name"].split("-")[1]
        for before in (f"{kind}-{bits}" for kind in OURS):
            if before in found and found[before]["kl"] > row["kl"] and row["rank"]:
                lost = found[before]["kl"]
                share = 1 - row["kl"] / lost
                lines.append(f"{row['name']}: {share:.1%} less than the {lost:.4f} of {before}")
    return lines


def figures(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[float]]:
    """What `make bench` shows, by the names that it knows them by; only what there is."""
    found = {row["name"]: row for row in last_rows(rows)}
    peers = [f"{method}-4-64" for method in ("affine", "gptq", "awq", "dwq")]
    parts = [("ours-4", peer, lambda ours, peer: ours["kl"] / peer["kl"]) for peer in peers]
    parts += [
        (
            f"weighted-{bits}",
            f"weighted-{bits}-r16",
            lambda lost, left: 100 * (1 - left["kl"] / lost["kl"]),
        )
        for bits in (4, 3.5)
    ]
    parts += [("ours-4", "ours-4", lambda ours, _: ours["scaled_bits"])]
    return {
        name: [figure(found[one], found[other])]
        for name, (one, other, figure) in zip(names, parts, strict=True)
        if {one, other} <= found.keys()
    }


def family(row: Mapping[str, Any]) -> str:
    """Which line of the plot a result is on."""
    trained = "trained" in row["name"]
    if row["rank"]:
        part = row["name"].split("-")[0]
        of = "" if part == "ours" else f"{part}-"
        return f"{of}{'trained-' * trained}rank-{row['rank']}"
    return "trained" if trained else row["name"].split("-")[0].split("_")[0]


STYLES = {
    "ours": ("s--", "black"),
    "weighted": ("x--", "tab:brown"),
    "weighted-rank-16": ("+--", "tab:brown"),
    "plain": ("x-.", "tab:pink"),
    "plain-rank-16": ("+-.", "tab:pink"),
    "trained": ("D-", "tab:blue"),
    "rank-8": ("o--", "tab:orange"),
    "rank-16": ("o--", "tab:red"),
    "trained-rank-8": ("*-", "tab:orange"),
    "trained-rank-16": ("*-", "tab:red"),
    "affine": ("^:", "tab:gray"),
    "mixed": ("v:", "tab:olive"),
    "gptq": ("<:", "tab:green"),
    "awq": (">:", "tab:cyan"),
    "dwq": ("d:", "tab:purple"),
}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """KL over true bits, of this model and of the 2.7B shape, and over the tokens trained on."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("the plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(17, 5.5), sharey=True)
    for axis, bits, title in (
        (axes[0], "adapted_bits", "bits per weight, 135M; all counted"),
        (axes[1], "scaled_bits", "bits per weight, of the 2.7B shape; all counted"),
    ):
        for key, label in FAMILIES.items():
            points = sorted((row[bits], row["kl"]) for row in last_rows(rows) if family(row) == key)
            if points:
                style, color = STYLES[key]
                axis.plot(*zip(*points, strict=True), style, label=label, color=color)
        axis.set_xlabel(title)
    axes[2].set_prop_cycle(color=matplotlib.color_sequences["tab20"])
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["name"].startswith(("dwq", *OURS)):
            curves.setdefault(row["name"], []).append((row["tokens"], row["kl"]))
    starts = {row["name"]: row["kl"] for row in rows if not row["tokens"]}
    for name, points in sorted(curves.items()):
        if max(points)[0] == 0:
            continue
        words = name.split("-")
        start = f"affine-{'-'.join(words[1:])}" if words[0] == "dwq" else "-".join(words[:2])
        begun = [(0, starts[start])] if start in starts else []
        x, y = zip(*sorted({*begun, *points}), strict=True)
        axes[2].plot([each / 1000 for each in x], y, ".-", label=name)
    axes[2].set_xlabel("thousand tokens trained on")
    axes[0].set_ylabel("KL(full || quantized), nats per token")
    for axis in axes:
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axes[2].legend(fontsize=7)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=6, fontsize=8)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=110)
