"""afm synth: training conversations that a program makes and verifies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .models_io import find_model
from .options import RUNS, JsonFlag, RunsFlag, SeedFlag, SetFlag

app = typer.Typer(no_args_is_help=True, help="Make training conversations with checked answers.")

COMMANDS = {
    "basics": "One-step tasks with short answers, for very small models.",
    "math": "Word problems with worked answers.",
    "tools": "Requests that need one function, several, or none.",
    "code": "Small Python functions with tests, run in a sandbox.",
    "long-context": "Questions over long documents with planted facts.",
    "summaries": "Texts to summarize, with instructions in them that must not be obeyed.",
    "instructions": "Writing tasks with constraints that can be verified.",
    "safety": "Requests to refuse, and harmless look-alikes to answer.",
}
"""Each kind, and its help."""

CountFlag = Annotated[int, typer.Option("--count", min=1, metavar="N", help="Records to write.")]
OutFlag = Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL file to create.")]
SplitFlag = Annotated[
    Literal["train", "held_out"], typer.Option(help="Which families of templates.")
]
AgainstFlag = Annotated[
    list[Path],
    typer.Option(metavar="FILE", help="A benchmark to stay clear of. Can be repeated."),
]
ModelFlag = Annotated[
    str,
    typer.Option(metavar="MODEL", help="Answer with this model, and keep what is right."),
]
SamplesFlag = Annotated[
    int, typer.Option(min=1, metavar="N", help="With --model: answers to each prompt.")
]


def _add(kind: str, about: str) -> None:
    def run(
        count: CountFlag,
        out: OutFlag,
        seed: SeedFlag = 0,
        split: SplitFlag = "train",
        against: AgainstFlag = [],
        model: ModelFlag = "",
        samples: SamplesFlag = 4,
        set_: SetFlag = [],
        runs: RunsFlag = RUNS,
        json_: JsonFlag = False,
    ) -> None:
        from afm_mlx.progress import Progress
        from afm_mlx.recipe import load_section
        from afm_mlx.synthetic.catalogue import KINDS
        from afm_mlx.synthetic.write import write_records

        section, make = KINDS[kind]
        settings = load_section(section, {}, set_)
        counts = write_records(
            make(settings),
            settings,
            out,
            count=count,
            seed=seed,
            split=split,
            against=against,
            sampling=_sampling(model, samples, settings, runs) if model else None,
            progress=Progress(),
        )
        _show(counts, out, json_)

    run.__doc__ = about
    app.command(kind)(run)


for _kind, _about in COMMANDS.items():
    _add(_kind, _about)


def _sampling(word: str, samples: int, settings: Any, runs: Path) -> Any:
    """A model that answers one prompt at a time."""
    from afm_mlx.errors import DataError
    from afm_mlx.inference.engine import Engine
    from afm_mlx.synthetic.write import Sampling
    from afm_mlx.text.chat import plain_messages

    engine = Engine.open(find_model(word, runs))

    def answer(messages: Sequence[dict[str, Any]], tools: Sequence[Any], seed: int) -> str | None:
        chunks = engine.stream(
            plain_messages(messages, tools),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
        )
        try:
            return "".join(chunk.text for chunk in chunks)
        except DataError:  # no room for it in the model's context
            return None

    return Sampling(answer, samples, word)


def _show(counts: dict[str, Any], out: Path, json_: bool) -> None:
    import json

    if json_:
        typer.echo(json.dumps(counts))
        return
    typer.echo(f"{counts['kept']:>10,} records in {out}, of {len(counts['families'])} families")
    for reason, count in counts["dropped"].items():
        typer.echo(f"{count:>10,} dropped: {reason}")
    if "answers" in counts:
        for what in ("prompts", "answers"):
            passed = counts.get(f"{what}_passed", 0)
            share = passed / counts[what]
            typer.echo(f"{passed:>10,} of {counts[what]:,} {what} passed, {share:.1%}")
