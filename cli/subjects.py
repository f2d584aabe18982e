"""Who is asked: a model on this machine or behind an endpoint, for all commands that ask one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .models_io import find_model, open_engine

if TYPE_CHECKING:
    from afm_mlx.evaluation.endpoint import Endpoint
    from afm_mlx.evaluation.subject import Drawing, Subject

EndpointFlag = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Ask a server with OpenAI's API; MODEL is the model's name there, and the key that "
        "of OPENAI_API_KEY.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Found:
    """Somebody who can be asked. Nothing is loaded yet."""

    word: str
    """As it was typed."""
    where: Path | Endpoint
    """A model's folder, or where a server is."""
    runs: Path
    adapter: str | None

    def open(self, drawing: Drawing | None, together: int | None = None) -> Subject:
        """Load it, or make ready to ask the server.

        Args:
            drawing: how answers are drawn; None for the temperature that a server has.
            together: answers at once; None for the usual number.

        Raises:
            RunError: something was asked for that cannot be had there.
        """
        from afm_mlx.errors import RunError
        from afm_mlx.evaluation import endpoint_subject, subject
        from afm_mlx.inference.server.start import service_name

        if not isinstance(self.where, Path):
            for flag, given in (
                ("--adapter", self.adapter is not None),
                ("--top-p", drawing is not None and drawing.top_p != 1),
                ("--seed", drawing is not None and drawing.seed != 0),
            ):
                if given:
                    raise RunError(
                        f"{flag} is for a model on this machine", hint=f"leave {flag} away"
                    )
            return endpoint_subject.EndpointSubject(
                self.where,
                together=together or endpoint_subject.TOGETHER,
                temperature=None if drawing is None else drawing.temperature,
            )
        if drawing is None:
            raise RunError(
                f"'{self.word}' is no server, and has no temperature of its own",
                hint="give a temperature, such as 0",
            )
        engine = open_engine(
            str(self.where), self.runs, [] if self.adapter is None else [self.adapter]
        )
        active = f":{engine.adapters.active}" if engine.adapters.active else ""
        return subject.ModelSubject(
            engine,
            service_name(self.word) + active,
            together=together or subject.TOGETHER,
            drawing=drawing,
        )


def find_subject(
    model: str, runs: Path, *, adapter: str | None = None, endpoint: str | None = None
) -> Found:
    """Who `model` is: its folder here, or a name at an endpoint, which is not asked yet."""
    if endpoint is None:
        return Found(model, find_model(model, runs), runs, adapter)
    from afm_mlx.evaluation.endpoint import Endpoint

    return Found(model, Endpoint(endpoint, model), runs, adapter)


def folder_name(name: str) -> str:
    """A folder for what is about somebody of this name.

    >>> folder_name("afm-tiny/sft:poet")
    'afm-tiny-sft-poet'
    """
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"


def free_memory() -> None:
    """Let go of what models that nobody holds any more have left."""
    import gc

    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
