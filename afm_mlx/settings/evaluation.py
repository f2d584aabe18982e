"""Settings of evaluation: which tasks a recipe's models are asked after training."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from afm_mlx.settings.alignment import Examples
from afm_mlx.settings.sections import Count, Section
from afm_mlx.settings.synthetic import Generated

HELD_OUT = "held-out"
"""In place of a path: the recipe's documents that no stage trains on."""


class EvalTask(Examples):
    """One task, `[eval.tasks.NAME]`."""

    task: str
    """Name of the task, as of `afm eval --task`."""
    path: str = ""
    """Its data: a file or folder, `hub:ORG/NAME`, or `held-out`: documents that no stage trains on.
    Empty: where the task's data usually are."""
    make: Generated | None = None
    """Conversations to make, in place of a path. Those whose prompts stand in a [synthetic.NAME]
    are left out."""
    limit: Count | None = None
    """Items to ask, taken evenly from the task's groups; without it all."""
    stages: tuple[str, ...] = ()
    """Stages whose models are asked; none: all that leave a model."""
    settings: dict[str, Any] = Field(default={})
    """Settings of the task, as of `afm eval --set`."""

    @property
    def is_file(self) -> bool:
        """Whether the data are a file or folder of the user's."""
        return bool(self.path) and self.path != HELD_OUT and not self.path.startswith("hub:")

    def asks(self, stage: str) -> bool:
        """Whether a stage's model is asked."""
        return not self.stages or stage in self.stages

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.path and self.make:
            raise ValueError(f"it has a path ({self.path}) and a make: leave one away")
        if self.generated:
            raise ValueError(
                f"path is {self.path}, which is trained on: make = {{ kind = ... }} makes others"
            )
        return self


class Eval(Section):
    """Evaluation of the models that the stages leave."""

    tasks: Annotated[dict[str, EvalTask], Field(min_length=1)]
    """The tasks, by names of your choice."""
    together: Count = 16
    """Answers that are written at once. Ours."""

    @property
    def data(self) -> dict[str, EvalTask]:
        """Tasks whose data are files."""
        return {name: task for name, task in self.tasks.items() if task.is_file}
