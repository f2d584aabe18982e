"""What recovery wins back on the tiny recipe with more tokens than the recipe has.

It goes on from a finished run of `afm-tiny`, which stays as it is, and trains the recovery adapter
anew, on conversations alone.

    python benchmarks/recover.py --runs runs        # minutes, after `make demo`
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from declared import Declaration

BENCH = Declaration(
    seconds=600,
    figures={"of the KL of answers that tables lose, tiny recipe, won back": "at least 90 %"},
    long="minutes, after `make demo`",
    results="Few bits on a real model: `python benchmarks/quantize.py`",
)

RECIPE = "afm-tiny"


def main() -> None:
    """Train, and say what was won back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="with a finished run")
    parser.add_argument("--tokens", type=int, default=286_720)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    from afm_mlx import pipeline
    from afm_mlx.progress import Progress
    from afm_mlx.recipe import load_named_recipe

    recipe = load_named_recipe(
        RECIPE,
        [
            f"recover.tokens={args.tokens}",
            "recover.rows_per_step=1",
            "recover.lr=1e-3",
            "recover.conversation_fraction=1",
        ],
    )
    *before, _ = pipeline.plan_steps(recipe, args.runs, last="recover")
    if undone := [step.stage.name for step in before if step.todo]:
        parser.error(f"{args.runs / RECIPE} is not done: {', '.join(undone)}; type make demo first")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(args.runs / RECIPE, Path(folder) / RECIPE)
        *_, recovered = pipeline.run(recipe, Path(folder), Progress(), last="recover")
    metrics = recovered["metrics"]
    for what in ("answers", "held_out"):
        lost, left = metrics[f"base_{what}_kl"], metrics[f"{what}_kl"]
        print(f"{what}: KL {lost:.5f} to {left:.5f}, {metrics[f'{what}_won_back']:.1%} won back")
    if args.json:
        figures = {name: [100 * metrics["answers_won_back"]] for name in BENCH.figures}
        args.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
