"""Settings of generated training data, `afm synth`, and of the sandbox that runs generated code.

OB, LS and FB are notes on arXiv:2407.21075. `Ours`: nobody has published it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from afm_mlx.settings.sections import Count, Fraction, NotNegative, Positive, Section

Depth = Annotated[int, Field(ge=0, le=6)]
Temperature = NotNegative


class Sandbox(Section):
    """Limits of generated code while it runs."""

    cpu_seconds: Count = 10
    """Processor time, in seconds. Ours."""
    wall_seconds: Positive = 15.0
    """Time from start to end, in seconds. Ours."""
    memory_bytes: Annotated[int, Field(ge=2**26)] = 512 * 2**20
    """Memory, in bytes: address space on Linux, resident on macOS. Ours."""
    file_bytes: Count = 2**20
    """Largest file, in bytes; also the largest output. Ours."""
    folder_bytes: Count = 16 * 2**20
    """All files together, in bytes, looked at while it runs. Ours."""


class Synthetic(Section):
    """What all kinds of generated data share."""

    held_out_fraction: Fraction = 0.15
    """Share of the families, 0 to 1, that only `--split held_out` writes. Decided by a family's
    name, so that no seed and no other setting moves a family to the other side. Ours."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Least estimated Jaccard similarity of two prompts' shingles at which the second is dropped.
    At 1 only equal prompts are. Usual, as in [dedup]."""
    give_up_after: Count = 2_000
    """Candidates dropped in a row after which the kind is taken to be exhausted. Ours."""
    temperature: Temperature = 0.8
    """Sampling temperature of `--model`. Ours."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus of `--model`, above 0, to 1. Ours."""
    max_tokens: Count = 512
    """Longest answer of `--model`, in tokens. Ours."""
    answers_kept: Count = 1
    """Different right answers of `--model` kept per prompt, at most. Ours."""


class BasicTask(StrEnum):
    """One-step tasks."""

    SUM = "sum"
    LARGER = "larger"
    NEXT = "next"
    COUNT = "count"
    RANGE = "range"
    KINDS = "kinds"
    OPPOSITES = "opposites"
    CAPITALS = "capitals"
    REPEAT = "repeat"
    WHICH = "which"
    MEMBER = "member"
    END = "end"
    JSON = "json"


class SynthBasics(Synthetic):
    """One-step tasks with short answers."""

    tasks: Annotated[tuple[BasicTask, ...], Field(min_length=1)] = tuple(BasicTask)
    """Tasks to draw from: all, or some. Ours."""


class SynthMath(Synthetic):
    """Word problems with worked answers."""

    rephrased_fraction: Fraction = 0.25
    """Share of problems said in other words, 0 to 1 (MetaMath's rephrasing). Ours."""
    reversed_fraction: Fraction = 0.2
    """Share turned round: the answer is given, a number of the statement is asked for. Ours."""
    deepest: Depth = 2
    """Steps that evolving adds to a problem, at most, 0 to 6. Ours."""
    broader_fraction: Fraction = 0.1
    """Share of problems, 0 to 1, that ask about two things and their sum or difference. Ours."""


class SynthTools(Synthetic):
    """Requests that need a function, several, or none."""

    no_call_fraction: Fraction = 0.2
    """Share of requests, 0 to 1, for which no tool must be called. Ours."""
    parallel_fraction: Fraction = 0.2
    """Share that needs several calls at once. Ours."""
    steps_fraction: Fraction = 0.2
    """Share that goes on after a tool's answer. Ours."""
    functions: tuple[str, ...] = ()
    """Functions to ask for, by name, for a model that is too small for all. Empty: all. Ours."""
    distractors: Annotated[int, Field(ge=0, le=30)] = 6
    """Tools offered beside the right ones, at most; about half are of the same domain. Ours."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        shares = [self.no_call_fraction, self.parallel_fraction, self.steps_fraction]
        if sum(shares) > 1:
            raise ValueError(
                "no_call_fraction, parallel_fraction and steps_fraction "
                f"({', '.join(f'{share:g}' for share in shares)}) must not be above 1 together"
            )
        return self


class SynthCode(Synthetic):
    """Small functions with tests, run before they are kept."""

    tests: Annotated[int, Field(ge=2, le=40)] = 8
    """Tests of a task. Ours."""
    shown_tests: Annotated[int, Field(ge=0, le=10)] = 2
    """Of these, shown as examples in the prompt, at most. Ours."""
    least_wrong_caught: Fraction = 1.0
    """Share of the wrong variants, 0 to 1, that the tests must catch, or the task is dropped:
    OB's threshold on pass counts, from the other side. Ours."""
    sandbox: Sandbox = Sandbox(cpu_seconds=4, wall_seconds=6.0)
    """Limits of one run."""


class SynthLongContext(Synthetic):
    """Questions over long documents with planted facts."""

    documents: str = "python:docs"
    """Texts to hide facts in: a file, a folder, `python:docs` or `python:library`."""
    unit_is_tokens: bool = False
    """Lengths are tokens of `tokenizer`; else characters."""
    tokenizer: str = ""
    """Folder of the tokenizer that counts, where lengths are tokens."""
    lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (4_000, 8_000, 16_000)
    """Lengths of the documents. Ours."""
    depths: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the first fact stands, from 0, the start, to 1, the end. Ours."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> Self:
        if self.unit_is_tokens and not self.tokenizer:
            raise ValueError("unit_is_tokens is true and tokenizer is empty")
        return self


class SynthSummaries(Synthetic):
    """Texts to summarize that contain instructions, which must not be obeyed."""

    documents: str = "python:docs"
    """Texts to summarize: a file, a folder, `python:docs` or `python:library`."""
    least_words: Count = 80
    """Shortest text, in words. Ours."""
    most_words: Count = 400
    """Longest text, in words. Ours."""
    own_fraction: Fraction = 0.5
    """Share of texts, 0 to 1, that are short documents of ours with a written summary. Ours."""
    own_documents: Annotated[int, Field(ge=1, le=8)] = 8
    """Kinds of such documents, for a model that is too small for all, 1 to 8. Ours."""
    injected_fraction: Fraction = 0.6
    """Share of texts, 0 to 1, with an instruction put in. Ours."""

    @model_validator(mode="after")
    def _words_are_in_order(self) -> Self:
        if self.least_words > self.most_words:
            raise ValueError(
                f"least_words ({self.least_words}) must not be above most_words ({self.most_words})"
            )
        return self


class SynthInstructions(Synthetic):
    """Writing tasks with constraints that a program can verify."""

    most_constraints: Annotated[int, Field(ge=1, le=6)] = 3
    """Constraints of one task, at most. Ours."""


class SynthSafety(Synthetic):
    """Requests to refuse, and look-alikes to answer, over a taxonomy."""

    taxonomy: str = ""
    """A TOML file of categories in place of the built-in one; may override single policies."""
    benign_fraction: Fraction = 0.5
    """Share of harmless look-alikes, 0 to 1: over-refusal is a failure, too. Ours."""


SECTIONS: dict[str, type[Synthetic]] = {
    "basics": SynthBasics,
    "math": SynthMath,
    "tools": SynthTools,
    "code": SynthCode,
    "long-context": SynthLongContext,
    "summaries": SynthSummaries,
    "instructions": SynthInstructions,
    "safety": SynthSafety,
}
"""Settings of each kind, by name."""


class Split(StrEnum):
    """Which families of templates."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Generated(Section):
    """Conversations that the recipe makes itself, `[synthetic.NAME]`: as `afm synth KIND`."""

    kind: str
    """Kind of data, as of `afm synth`."""
    count: Count
    """Conversations."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides them. Two sources of equal kind, seed, split and settings share no prompt."""
    split: Split = Split.TRAIN
    """train, or held_out: families that no other recipe trains on."""
    settings: dict[str, Any] = Field(default={})
    """Settings of the kind, as of `afm synth KIND --set`."""

    def section(self) -> Synthetic:
        """The settings of the kind, with defaults."""
        return SECTIONS[self.kind].model_validate(self.settings)

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        if self.kind not in SECTIONS:
            raise ValueError(f"no kind is called '{self.kind}'; there are {', '.join(SECTIONS)}")
        try:
            self.section()
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ValueError(f"settings.{name} of {self.kind}: {first['msg']}") from None
        return self
