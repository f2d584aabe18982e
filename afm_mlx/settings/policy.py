"""The settings of a policy: what is checked in prompts and answers, and what follows.

Names of categories and subcategories are those of the taxonomy that `afm synth safety` has, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from afm_mlx.settings.sections import Count, Fraction, Section

DEFAULT = "default"
"""The feature, category or threshold that stands for all that are not named."""


MESSAGE = "I can't help with that."
"""What the user is told where the policy says nothing. Ours."""

THRESHOLD = 0.9
"""Least probability of "yes" where the policy says nothing. Ours."""

Value = TypeVar("Value")
Text = Annotated[str, Field(min_length=1)]


class Action(StrEnum):
    """What follows when a rule of a subcategory matches."""

    ALLOW = "allow"
    FLAG = "flag"
    REFUSE = "refuse"

    @property
    def strength(self) -> int:
        """0 to 2: the stronger of two actions counts."""
        return list(Action).index(self)


class Direction(StrEnum):
    """What is checked."""

    INPUT = "input"
    OUTPUT = "output"


def _with_dots(value: Any) -> Any:
    """Tables in tables as dotted names: TOML reads `violence.gore = "flag"` as a table."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in item.items()}
        else:
            flat[name] = item
    return flat


Named = BeforeValidator(_with_dots)
"""Marks a table whose keys are categories, subcategories (`illegal.theft`), or `default`."""


class Rules(Section):
    """What speaks for one subcategory, and sentences that say what the patterns do."""

    both: tuple[str, ...] = ()
    """Patterns that are looked for in prompts and in answers."""
    input: tuple[str, ...] = ()
    """Patterns that are looked for in prompts."""
    output: tuple[str, ...] = ()
    """Patterns that are looked for in answers."""
    samples: tuple[str, ...] = ()
    """Texts that the patterns above must match; `afm policy check` tries them."""
    passes: tuple[str, ...] = ()
    """Texts that look alike and that no pattern of the policy may match."""

    def patterns(self, direction: Direction) -> tuple[str, ...]:
        """Those that are looked for in one direction."""
        return self.both + (self.input if direction is Direction.INPUT else self.output)


class Questions(Section):
    """A classifier: a language model is asked about a text, and how likely "yes" is counts."""

    model: str
    """The model: a folder, from the policy's own folder; or `smollm2`."""
    checks: tuple[Direction, ...] = (Direction.INPUT,)
    """What it reads. Answers are held back up to the end of a sentence. Ours."""
    prompt: str = "Text:\n{text}\n\nQuestion about the text: {question} Answer with yes or no only."
    """What is asked: `{text}` and `{question}` are filled in. Ours."""
    yes: Text = "Yes"
    """The answer that speaks for a category. Ours."""
    no: Text = "No"
    """The answer that speaks against it. Ours."""
    questions: Annotated[dict[str, str], Named, Field(min_length=1)]
    """What is asked about each category or subcategory."""
    thresholds: Annotated[dict[str, Fraction], Named] = Field(default_factory=dict)
    """Least probability of "yes", 0 to 1, at which a category counts as found; `THRESHOLD` where
    neither the category nor `default` is named. Ours."""
    text_tokens: Count = 512
    """Tokens that are read at once; a longer text is read in parts, and the worst counts. Ours."""

    @model_validator(mode="after")
    def _prompt_holds_both(self) -> Self:
        for part in ("{text}", "{question}"):
            if self.prompt.count(part) != 1:
                raise ValueError(f"prompt must have {part} in it, once")
        return self

    def threshold(self, name: str) -> float:
        """Of a category or subcategory: its own, its category's, or the default."""
        return _most_special(self.thresholds, name, THRESHOLD)


class Policy(Section):
    """Categories of what may be unwanted, how it is recognized, and what is done about it."""

    taxonomy: str = ""
    """A TOML file, from the policy's own folder, that adds to the built-in categories."""
    messages: Annotated[dict[str, str], Named] = Field(default_factory=dict)
    """What the user is told when something is refused: by category, subcategory, or `default`."""
    features: dict[str, Annotated[dict[str, Action], Named]] = Field(default_factory=dict)
    """Actions of each feature, by category, subcategory, or `default`. What a feature does not
    name is as in the feature `default`; what that does not name is refused. Ours."""
    rules: dict[str, dict[str, Rules]] = Field(default_factory=dict)
    """Patterns and samples: by category, then by subcategory."""
    classifier: Questions | None = None
    """Asks a model, beside the patterns; absent: does not."""

    @property
    def subcategories(self) -> dict[str, Rules]:
        """Rules by dotted name, in the order of the file."""
        return {
            f"{category}.{name}": rules
            for category, table in self.rules.items()
            for name, rules in table.items()
        }

    def action(self, feature: str, name: str) -> Action:
        """What a feature does about a category or subcategory."""
        general = _most_special(self.features.get(DEFAULT, {}), name, Action.REFUSE)
        return _most_special(self.features.get(feature, {}), name, general)

    def message(self, name: str) -> str:
        """What the user is told when something of a category or subcategory is refused."""
        return _most_special(self.messages, name, MESSAGE)


def _most_special(table: Mapping[str, Value], name: str, otherwise: Value) -> Value:
    """The value of a subcategory, else of its category, else of `default`."""
    for key in (name, name.partition(".")[0], DEFAULT):
        if key in table:
            return table[key]
    return otherwise
