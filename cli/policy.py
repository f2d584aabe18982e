"""`afm policy`: the files that say what guardrails do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonFlag

if TYPE_CHECKING:
    from afm_mlx.inference.policies import ReadPolicy, Trial

app = typer.Typer(no_args_is_help=True, help="Policies: what guardrails let pass.")

NOT_AS_STATED = 2
"""Exit code where a sample is not caught, or is not let pass, as the file says."""


@app.command()
def show() -> None:
    """Print the policy that comes with the toolkit, to start one's own from."""
    from afm_mlx.inference.policies import default_policy

    typer.echo(default_policy().read_text(encoding="utf-8"), nl=False)


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A policy in TOML.", show_default="the built-in one"),
    ] = None,
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="Whose actions the table shows.")
    ] = "chat",
    json_: JsonFlag = False,
) -> None:
    """Read a policy, and try its patterns on the samples that it holds."""
    import json

    from afm_mlx.inference.policies import default_policy, read_policy

    policy = read_policy(file or default_policy())
    trials = list(policy.trials())
    wrong = [trial for trial in trials if not trial.as_stated]
    rows = _rows(policy, trials, feature)
    if json_:
        found = [
            {"subcategory": one.subcategory, "text": one.text, "caught_by": list(one.caught_by)}
            for one in wrong
        ]
        typer.echo(json.dumps({"feature": feature, "subcategories": rows, "wrong": found}))
    else:
        _print_table(rows)
        typer.echo(f"{len(trials) - len(wrong)} of {len(trials)} samples are as stated")
    if wrong:
        from .terminal import show_error

        for one in wrong:
            show_error(_explained(one))
        raise typer.Exit(NOT_AS_STATED)


def _rows(policy: ReadPolicy, trials: list[Trial], feature: str) -> list[dict[str, Any]]:
    """One row per subcategory: what is done, and how its samples came out."""
    rows = []
    for name, rules in policy.policy.subcategories.items():
        mine = [trial for trial in trials if trial.subcategory == name]
        rows.append(
            {
                "name": name,
                "action": str(policy.policy.action(feature, name)),
                "patterns": len(rules.both + rules.input + rules.output),
                "samples": len(rules.samples),
                "caught": sum(one.as_stated for one in mine if one.is_sample),
                "passes": len(rules.passes),
                "passed": sum(one.as_stated for one in mine if not one.is_sample),
            }
        )
    return rows


def _print_table(rows: list[dict[str, Any]]) -> None:
    wide = max([len(row["name"]) for row in rows] + [len("subcategory")])
    typer.echo(
        f"{'subcategory':{wide}}  {'action':6}  {'patterns':>8}  {'caught':>7}  {'passed':>7}"
    )
    for row in rows:
        caught, passed = f"{row['caught']}/{row['samples']}", f"{row['passed']}/{row['passes']}"
        typer.echo(
            f"{row['name']:{wide}}  {row['action']:6}  {row['patterns']:>8}  "
            f"{caught:>7}  {passed:>7}"
        )


def _explained(trial: Trial) -> str:
    if trial.is_sample:
        by = f"; only {', '.join(trial.caught_by)} would" if trial.caught_by else ""
        return f"{trial.subcategory} does not catch its sample '{trial.text}'{by}"
    return f"{', '.join(trial.caught_by)} would catch what must pass: '{trial.text}'"
