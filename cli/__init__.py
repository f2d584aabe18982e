"""The command line: `afm`. Commands are thin, and import what is heavy only when they run."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from afm_mlx.errors import AfmError

from . import adapt, data, human, policy, synth, tokenizer, zoo
from .align import sft
from .align_prefer import prefer, reward
from .align_rl import itec, reject, rl
from .chat import chat
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .generate import generate
from .models_io import import_
from .plan import plan
from .quantize import quantize
from .recover import recover
from .report import report
from .run import pretrain, run
from .serve import serve
from .shrink import distill, prune
from .terminal import show_error, tell
from .together import Ended, end_for_another_rank, follow_launcher

START, USE, BUILD = "Start here", "Use a model", "Build a model"
ALIGN, SHRINK = "Teach a model to answer", "Make a model smaller"
MEASURE, SHIP = "Measure a model", "Take a model elsewhere"
"""Headings of `afm --help`, in the order of their first commands below."""

DISK_ERRORS = {
    errno.ENOSPC: ("disk full", "free some space, then type the same command again"),
    errno.EDQUOT: ("disk quota reached", "free some space, then type the same command again"),
    errno.EFBIG: ("file too large for this disk", "name a folder on another disk"),
    errno.EROFS: ("read-only disk", "name another folder"),
    errno.EACCES: ("permission denied", "name another file or folder"),
    errno.ENOENT: ("no such file or folder", "name another one, or make it"),
    errno.ENOTDIR: ("a file is where a folder must be", "name another folder"),
    errno.EEXIST: ("something is there already", "name another file or folder"),
    errno.EISDIR: ("a folder is where a file must be", "name another file"),
}
"""Messages and hints for what is wrong with the user's disk, not with us."""

PYDANTIC_WORDS = [("Value error, ", ""), ("Input should be", "must be")]
"""Words with which Typer 0.29 begins what pydantic says about a value, and ours."""

MLX_CANNOT_WRITE = "[write] Unable to write"
"""How MLX 0.32.4 says that the disk is full."""

app = typer.Typer(
    name="afm",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"afm-mlx {version('afm-mlx')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def afm(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")
    ] = False,
) -> None:
    """Build, shrink, adapt and run Apple-style on-device language models on MLX."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# In the order in which a user meets them.
app.command("doctor", rich_help_panel=START)(doctor)
app.command("chat", rich_help_panel=USE)(chat)
app.command("generate", rich_help_panel=USE)(generate)
app.command("serve", rich_help_panel=USE)(serve)
app.command("import", rich_help_panel=USE)(import_)
app.add_typer(policy.app, name="policy", rich_help_panel=USE)
app.add_typer(zoo.app, name="models", rich_help_panel=BUILD)
app.command("plan", rich_help_panel=BUILD)(plan)
app.command("run", rich_help_panel=BUILD)(run)
app.command("report", rich_help_panel=BUILD)(report)
app.add_typer(data.app, name="data", rich_help_panel=BUILD)
app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel=BUILD)
app.add_typer(synth.app, name="synth", rich_help_panel=BUILD)
app.command("pretrain", rich_help_panel=BUILD)(pretrain)
app.command("sft", rich_help_panel=ALIGN)(sft)
app.command("reward", rich_help_panel=ALIGN)(reward)
app.command("prefer", rich_help_panel=ALIGN)(prefer)
app.command("reject", rich_help_panel=ALIGN)(reject)
app.command("itec", rich_help_panel=ALIGN)(itec)
app.command("rl", rich_help_panel=ALIGN)(rl)
app.command("adapt", rich_help_panel=ALIGN)(adapt.adapt)
app.add_typer(adapt.app, name="adapters", rich_help_panel=ALIGN)
app.command("prune", rich_help_panel=SHRINK)(prune)
app.command("distill", rich_help_panel=SHRINK)(distill)
app.command("quantize", rich_help_panel=SHRINK)(quantize)
app.command("recover", rich_help_panel=SHRINK)(recover)
app.command("eval", rich_help_panel=MEASURE)(evaluate)
app.add_typer(human.app, name="human", rich_help_panel=MEASURE)
app.command("export", rich_help_panel=SHIP)(export)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `afm` and return its exit code.

    0: done. 1: our mistake. 2: the user's, said in a line or two on stderr. 130: interrupted.
    141: the reader of our output went away.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    command = typer.main.get_command(app)
    is_rank = follow_launcher()
    try:
        code = command.main(
            [word for word in words if word != "--debug"],
            prog_name="afm",
            standalone_mode=False,
            obj=words,
        )
        sys.stdout.flush()  # a full disk or a closed pipe shows up here and not after us
    except Ended as ended:
        return ended.code
    except Exception as error:
        if is_rank and (code := end_for_another_rank(error)):
            return code
        if debug:
            traceback.print_exc()
        return _explain(error, debug)
    except KeyboardInterrupt as error:
        typer.echo(str(error) or "interrupted", err=True)  # training says here where it saved
        return 130
    except SystemExit as leaving:  # Typer's way with a closed pipe
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        return 141
    if code == 130:
        tell("interrupted")
    return code if isinstance(code, int) else 0


def _explain(error: Exception, debug: bool) -> int:
    """Say on stderr what went wrong, and return the exit code for it."""
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, AfmError):
        return _user_mistake(str(error), error.hint)
    if isinstance(error, typer.TyperException):
        return _usage_mistake(error)
    if isinstance(error, typer.Abort):
        tell(str(error) or "interrupted")
        return 130
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = f": {error.filename}" if error.filename else ""
        what, hint = DISK_ERRORS[error.errno]
        return _user_mistake(what + where, hint)
    if isinstance(error, RuntimeError) and str(error).startswith(MLX_CANNOT_WRITE):
        return _user_mistake(*DISK_ERRORS[errno.ENOSPC])
    described = f"{type(error).__name__}: {error}".splitlines()[0]
    hint = "" if debug else "run again with --debug for the traceback"
    show_error(described, hint, kind="internal error")
    return 1


def _usage_mistake(error: typer.TyperException) -> int:
    """A command line that Typer could not read, in the form of our other errors."""
    message = error.format_message().strip().rstrip(".")
    for words, ours in PYDANTIC_WORDS:
        message = message.replace(words, ours)
    if not message:  # a group without a command: its help has been printed
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f"try {context.command_path} --help" if context is not None else ""
    return _user_mistake(message[0].lower() + message[1:], hint)


def _user_mistake(message: str, hint: str) -> int:
    show_error(message, hint)
    return 2
