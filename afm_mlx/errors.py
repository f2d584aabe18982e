"""Errors that a user can cause. Each says what is wrong and, in `hint`, what to do.

AfmError
    RecipeError    a setting, or a recipe file
    DataError      a document, a data file, a shard, a tokenizer
    ModelError     a model folder or file that cannot be read or represented
    RunError       a run folder, or a run that had to stop
    FitError       does not fit this machine, or the memory it was given
    BusyError      too many requests wait already
    ExportError    a conversion to another runtime
"""


class AfmError(Exception):
    """`str(error)` says what is wrong; `error.hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class RecipeError(AfmError):
    """A setting or a recipe file is wrong."""


class DataError(AfmError):
    """A document, data file, shard or tokenizer is wrong."""


class ModelError(AfmError):
    """A model folder or file cannot be read, or not be represented exactly."""


class RunError(AfmError):
    """A run folder is wrong, or a run had to stop."""


class FitError(AfmError):
    """The work does not fit this machine, or the memory it was given."""


class BusyError(AfmError):
    """Too many requests wait already; later this one would be taken."""


class ExportError(AfmError):
    """A conversion to another runtime failed."""
