"""Names of models that a server answers to: the base, and `base:adapter` for each adapter."""

from __future__ import annotations

from collections.abc import Sequence

from afm_mlx.decoder.adapters import NONE
from afm_mlx.inference.server.problems import Problem
from afm_mlx.settings.mistakes import nearest

SHOWN_CHARACTERS = 80
"""Of an unknown name, in an error."""


class Names:
    """Which adapter each name stands for."""

    def __init__(self, base: str, adapters: Sequence[str], *, default: str | None = None) -> None:
        """`default` is the adapter that the base's name alone stands for.

        Then `base:none` is the model without it.
        """
        self.base = base
        self._adapters: dict[str, str | None] = {base: default}
        self._adapters |= {f"{base}:{name}": name for name in adapters}
        if default is not None:
            self._adapters[f"{base}:{NONE}"] = None

    @property
    def all(self) -> list[str]:
        """All names, the base first."""
        return list(self._adapters)

    def adapter(self, name: str | None) -> str | None:
        """The adapter that a name stands for; None for the model as it is.

        Args:
            name: None for the base.

        Raises:
            Problem: 404; it names those there are.
        """
        name = self.base if name is None else name
        if name in self._adapters:
            return self._adapters[name]
        shown = name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "..."
        near = nearest(name[:SHOWN_CHARACTERS], self._adapters)
        hint = f"did you mean '{near}'? " if near else ""
        raise Problem(
            404,
            f"no model is called '{shown}'; {hint}there are {', '.join(self._adapters)}",
            param="model",
            code="model_not_found",
        )
