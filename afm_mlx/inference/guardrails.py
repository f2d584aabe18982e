"""Guardrails: what a policy says about prompts, and about answers before they are shown.

A policy file is read again when it changes, so an edit counts from the next prompt on. Nothing is
written to disk, and no text of a prompt or answer is ever said anywhere.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from afm_mlx.errors import AfmError
from afm_mlx.inference.matching import Scan
from afm_mlx.inference.policies import ReadPolicy, default_policy, read_policy
from afm_mlx.settings.policy import Action, Direction, Questions

FEATURE = "chat"
"""The feature unless another is named."""

TOOLS_FEATURE = "tools"
"""The feature of what tools return."""

SENTENCE_ENDS = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f")
"""Where a classifier looks at an answer, and what it has seen is shown."""

MOST_UNREAD = 400
"""Characters of an answer without a sentence's end after which a classifier looks anyway. Ours."""


MOST_REREAD = 2_000
"""Characters of an answer that a classifier reads together: a sentence and those before. Ours."""


@dataclass(frozen=True)
class Verdict:
    """What a policy says about a text."""

    action: Action = Action.ALLOW
    category: str | None = None
    """The category of the taxonomy that was found; None where nothing was."""
    subcategory: str | None = None
    """Its dotted name, as `illegal.theft`; None where a classifier speaks of the category alone."""
    message: str = ""
    """What to tell the user in place of an answer; empty unless `refused`."""

    @property
    def refused(self) -> bool:
        """Whether there must be no answer, or no more of it."""
        return self.action is Action.REFUSE


class RefusedError(AfmError):
    """A policy refuses a question or an answer; `str(error)` is what to tell the user."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict
        """What was found."""


class Classifier(Protocol):
    """Judges texts beside the patterns."""

    def score(self, text: str) -> Mapping[str, float]:
        """Probability, 0 to 1, of each category or subcategory that it knows."""


MakeClassifier = Callable[[Questions, Path], Classifier]
"""From a policy's settings and its folder."""


class Guardrails:
    """Checks by a policy file. May be used by several threads."""

    def __init__(
        self,
        path: Path,
        *,
        make_classifier: MakeClassifier | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Read a policy; see `open`."""
        self.path = path
        self._make = make_classifier or _asking
        self._say = say or _to_stderr
        self._lock = threading.Lock()
        self._seen = _stamp(path)
        self._read = read_policy(path)
        self._classifier = self._made(None)

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        make_classifier: MakeClassifier | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Guardrails:
        """Guardrails of a policy file.

        Args:
            path: None for the policy that comes with the toolkit.
            make_classifier: makes the classifier of a policy that has the section; else a model is
                asked (`classifier.py`), and `model` is a folder or `smollm2`.
            say: takes a line when a changed file is read, or is damaged; stderr if not given.

        Raises:
            RecipeError: the policy cannot be used; see `read_policy`.
            DataError: its taxonomy cannot be read.
            ModelError: its classifier's model is not there.
        """
        return cls(path or default_policy(), make_classifier=make_classifier, say=say)

    def check_prompt(self, text: str, *, feature: str = FEATURE) -> Verdict:
        """What the policy says about a prompt. The strongest action counts, then the file's order.

        Raises:
            ModelError: the classifier's model cannot be loaded.
        """
        checks = self._checks(Direction.INPUT, feature)
        verdict = checks.by_patterns(text)
        return verdict if verdict.refused else _stronger(verdict, checks.by_classifier(text))

    def watch(self, feature: str = FEATURE) -> OutputCheck:
        """A check of one answer while it is written, by the policy as it is now."""
        return OutputCheck(self._checks(Direction.OUTPUT, feature))

    def _checks(self, direction: Direction, feature: str) -> _Checks:
        with self._lock:
            self._refresh()
            return _Checks(self._read, self._classifier, direction, feature)

    def _refresh(self) -> None:
        """Read the file again if it has changed; a damaged one is said once, and the old counts."""
        now = _stamp(self.path)
        if now == self._seen:
            return
        self._seen = now
        old = self._read
        try:
            self._read = read_policy(self.path)
            self._classifier = self._made(old)
        except (AfmError, OSError) as error:
            self._read = old
            first = str(error).splitlines()[0]
            self._say(f"the policy stays as it was: {first}")
            return
        self._say(f"policy {self.path} has changed, and was read again")

    def _made(self, old: ReadPolicy | None) -> Classifier | None:
        settings = self._read.policy.classifier
        if old is not None and old.policy.classifier == settings:
            return self._classifier
        return self._make(settings, self.path.parent) if settings else None


class OutputCheck:
    """An answer on its way to the user: what `add` and `end` return may be shown.

    Text is held back while it could still be the start of a match, so nothing of a match is shown.
    A pattern matches at most `patterns.LONGEST` characters, and no more is held back for it, save
    for what folds away (white space in a row, invisible characters). A classifier's policy holds
    back the sentence, too.
    """

    def __init__(self, checks: _Checks) -> None:
        self._checks = checks
        self._refusing = checks.scan(Action.REFUSE)
        self._flagging = checks.scan(Action.FLAG)
        self._held = ""  # read, and may begin a match
        self._count = 0  # characters that are no longer held
        self._unread = ""  # passed the patterns, and the classifier has not seen it
        self._passed = ""  # passed both
        self.verdict = Verdict()
        """So far. Once it is `refused`, nothing more is returned, and the answer should stop."""

    def add(self, text: str) -> str:
        """Take the next piece of an answer; give back what may be shown now."""
        return self._take(text, ended=False)

    def end(self) -> str:
        """The rest, when the answer is over."""
        return self._take("", ended=True)

    def _take(self, text: str, *, ended: bool) -> str:
        if self.verdict.refused:
            return ""
        self._held += text
        found = self._flagging.find(text, ended=ended)
        if found is not None and self.verdict.action is Action.ALLOW:
            self.verdict = self._checks.verdict(found.name)
        found = self._refusing.find(text, ended=ended)
        upto = found.start if found else self._refusing.undecided
        certain = self._held[: upto - self._count]
        self._held = self._held[len(certain) :]
        self._count += len(certain)
        if found:
            certain = self._classified(certain, ended=True)
            if not self.verdict.refused:
                self.verdict = self._checks.verdict(found.name)
            self._held = self._unread = self._passed = ""
            return certain
        return self._classified(certain, ended=ended)

    def _classified(self, certain: str, *, ended: bool) -> str:
        """What of the text that passed the patterns passes the classifier, too."""
        if not self._checks.asks:
            return certain
        self._unread += certain
        cut = max(self._unread.rfind(end) + 1 for end in SENTENCE_ENDS)
        if ended or (not cut and len(self._unread) >= MOST_UNREAD):
            cut = len(self._unread)
        piece, self._unread = self._unread[:cut], self._unread[cut:]
        if not piece.strip():
            return piece  # nothing to ask about
        self._passed = (self._passed + piece)[-MOST_REREAD:]
        self.verdict = _stronger(self.verdict, self._checks.by_classifier(self._passed))
        if self.verdict.refused:
            self._held = self._unread = self._passed = ""
            return ""
        return piece


@dataclass(frozen=True)
class _Found:
    """A subcategory that was found in a text."""

    name: str
    start: int


class _NamedScan:
    """One text, looked through for the patterns of one action."""

    def __init__(self, read: ReadPolicy, direction: Direction, feature: str, action: Action):
        patterns = read.patterns(direction, feature, action)
        self._names = patterns.names
        self._scan = Scan(patterns.automaton) if patterns.names else None
        self._count = 0

    @property
    def undecided(self) -> int:
        """Characters before the first where a match could begin."""
        return self._scan.undecided if self._scan else self._count

    def find(self, text: str, *, ended: bool) -> _Found | None:
        """The first match that the next piece makes certain."""
        self._count += len(text)
        if self._scan is None:
            return None
        found = next(self._scan.read(text), None)
        if found is None and ended:
            found = next(iter(self._scan.end()), None)
        return _Found(self._names[found.pattern], found.start) if found else None


@dataclass(frozen=True)
class _Checks:
    """A policy as it was when a check began."""

    read: ReadPolicy
    classifier: Classifier | None
    direction: Direction
    feature: str

    @property
    def asks(self) -> bool:
        """Whether the classifier is asked."""
        settings = self.read.policy.classifier
        return settings is not None and self.direction in settings.checks

    def scan(self, action: Action) -> _NamedScan:
        """A new look for the patterns that lead to an action."""
        return _NamedScan(self.read, self.direction, self.feature, action)

    def verdict(self, name: str) -> Verdict:
        """What follows when a category or subcategory was found."""
        action = self.read.policy.action(self.feature, name)
        if action is Action.ALLOW:
            return Verdict()
        return Verdict(
            action,
            name.partition(".")[0],
            name if "." in name else None,
            self.read.policy.message(name) if action is Action.REFUSE else "",
        )

    def by_patterns(self, text: str) -> Verdict:
        """What the patterns say about a whole text."""
        for action in (Action.REFUSE, Action.FLAG):
            if found := self.scan(action).find(text, ended=True):
                return self.verdict(found.name)
        return Verdict()

    def by_classifier(self, text: str) -> Verdict:
        """What the classifier says: of what it finds, the strongest action, then the likeliest."""
        settings = self.read.policy.classifier
        if not self.asks or self.classifier is None or settings is None:
            return Verdict()
        verdict = Verdict()
        scores = self.classifier.score(text)
        for name in sorted(scores, key=lambda name: -scores[name]):
            if scores[name] >= settings.threshold(name):
                verdict = _stronger(verdict, self.verdict(name))
        return verdict


def _stronger(one: Verdict, other: Verdict) -> Verdict:
    """The verdict with the stronger action; the first of equals."""
    return other if other.action.strength > one.action.strength else one


def _asking(settings: Questions, folder: Path) -> Classifier:
    """The classifier that asks a model in a folder; it is loaded when the first text comes."""
    from afm_mlx.inference.classifier import AskedModel
    from afm_mlx.zoo import SMOLLM2, resolve_model

    if settings.model == SMOLLM2:
        return AskedModel(settings, resolve_model(SMOLLM2, runs=folder).path)
    return AskedModel(settings, folder / Path(settings.model).expanduser())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written: time, size, and which file it is; None for none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
