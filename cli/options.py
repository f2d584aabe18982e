"""Options that several commands share: one spelling and one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .together import hand_over, hand_over_keyboard

SetFlag = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a setting; a wrong NAME is answered with the right ones. Can be repeated.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
RunsFlag = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Folder of runs, one folder per recipe in it.")
]
LogJsonFlag = Annotated[
    Path | None,
    typer.Option("--log-json", metavar="FILE", help="Write the log as JSON lines, too."),
]
ANSWER_HOSTS = "Cut the model, and answer with parts of it on several machines, or in N processes."

HostsFlag = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        metavar="FILE|local:N",
        callback=hand_over,
        help="Share the work with other machines, or between N processes on this one.",
        show_default=False,
    ),
]
ServeHostsFlag = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        metavar="FILE|local:N",
        callback=hand_over,
        help=ANSWER_HOSTS,
        show_default=False,
    ),
]
AnswerHostsFlag = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        metavar="FILE|local:N",
        callback=hand_over_keyboard,
        help=ANSWER_HOSTS,
        show_default=False,
    ),
]


def _trace(context: typer.Context, file: Path | None) -> Path | None:
    """Where `--profile` is given, trace what trains until the command ends."""
    if file is not None and context.find_root().obj is not None:  # None: only looked at
        from afm_mlx.profile import close_profile, open_profile
        from afm_mlx.ranks import joined

        open_profile(file, joined().rank)
        context.call_on_close(close_profile)
    return file


ProfileFlag = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        callback=_trace,
        help="Trace where the time of some training steps goes, for chrome://tracing or Perfetto.",
        show_default=False,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Recipe name (its newest finished stage), model folder, GGUF file, hub id, "
        "or smollm2.",
        show_default=False,
    ),
]
MaxTokensFlag = Annotated[
    int, typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer, in tokens.")
]
TemperatureFlag = Annotated[
    float,
    typer.Option("--temperature", min=0.0, metavar="T", help="0: always the likeliest token."),
]
TopPFlag = Annotated[
    float,
    typer.Option(
        "--top-p",
        min=0.0,
        max=1.0,
        metavar="P",
        help="Choose among the likeliest tokens that together have this probability.",
    ),
]
SeedFlag = Annotated[
    int, typer.Option("--seed", min=0, metavar="N", help="Decides the random choices.")
]
SystemFlag = Annotated[
    str, typer.Option("--system", metavar="TEXT", help="System prompt.", show_default=False)
]

AdapterFlag = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="ADAPTER",
        help="Folder or name of an adapter to answer with; none for the model itself.",
        show_default=False,
    ),
]
SchemaFlag = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="JSON Schema that answers must have.", show_default=False
    ),
]
BUILT_IN = "default"
"""In place of a policy's file: the policy that comes with the toolkit."""

PolicyFlag = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Check questions and answers by a policy; default is the built-in one.",
        show_default="nothing is checked",
    ),
]
HostFlag = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="Where to listen; other machines need a key."),
]
PortFlag = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65_535, help="0 takes a free one.")
]
KEY_VARIABLE = "AFM_API_KEY"
"""A key on the command line is seen by everybody who lists processes."""

ApiKeyFlag = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar=KEY_VARIABLE,
        help="What whoever uses it must give.",
        show_default=False,
    ),
]
OutFlag = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create.")]
SkipBadFlag = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count lines that are wrong.")
]

RUNS = Path("runs")
"""Where `--runs` points unless given."""

HOST = "127.0.0.1"
"""Where servers listen unless `--host` says otherwise: this machine alone."""

MAX_TOKENS = 512
"""Longest answer, in tokens, unless `--max-tokens` says more or less. Ours."""
