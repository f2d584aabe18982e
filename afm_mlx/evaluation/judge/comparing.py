"""The judge's comparison of two models' answers, in both orders.

Judges favor a place, most often the first. So each pair is asked twice, with places swapped. An
answer wins where it is preferred in both orders; where the verdicts differ, it is a tie. That is
the cautious rule of arXiv:2306.05685, section 3.4. The win rate averages the two orders instead (1
for a win, 1/2 for a tie), and so keeps a preference that shows in one order alone: a judge who
follows the place alone gives exactly 1/2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.evaluation.answers import AnswerFile
from afm_mlx.evaluation.items import Item, Mark, Marks, Reply
from afm_mlx.evaluation.judge.asking import JUDGE_TOKENS, SETTLED, InBoth, InBothOrders
from afm_mlx.evaluation.judge.reading import Verdict, read_verdict
from afm_mlx.evaluation.judge.task import JudgeTask, drawn
from afm_mlx.evaluation.judge.wording import VERDICT_SCHEMA, comparing_text
from afm_mlx.evaluation.prompts import Prompt
from afm_mlx.evaluation.scores import FROM_ZERO, Ends

LIKE_LENGTH = 1.2
"""Lengths whose ratio is at most this are alike. Ours."""

_POINTS: Mapping[Verdict, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}
_SWAPPED: Mapping[Verdict, Verdict] = {"A": "B", "tie": "tie", "B": "A"}


class Comparing(JudgeTask):
    """Say whose answers are better. Figures are the first model's.

    Where one answer is empty the other wins, and equal answers tie, without a judge. A pair with a
    verdict that cannot be read counts for nothing but `unreadable`.
    """

    figures: Mapping[str, str] = {
        "win_rate": "mean of both orders, a win being 1, a tie 1/2",
        "win": "share of pairs that are won in both orders",
        "tie": "share of pairs that tie in both orders, or whose orders disagree",
        "lose": "share of pairs that are lost in both orders",
        "consistency": "share of pairs with the same verdict in both orders",
        "position_bias": "share of pairs in which the same place wins in both orders",
        "first_place": "share of decided verdicts for the first place; 1/2 without bias",
        "prefers_longer": "share of decided verdicts for the longer answer",
        "win_rate_like_length": f"win rate of pairs whose lengths differ by {LIKE_LENGTH}x at most",
        "characters": "mean length of the model's answers",
        "characters_opponent": "mean length of the opponent's answers",
        "unreadable": "share of pairs with a verdict that cannot be read, or was not given",
    }
    ranges: Mapping[str, Ends] = dict.fromkeys(("characters", "characters_opponent"), FROM_ZERO)

    def __init__(
        self,
        prompts: Sequence[Prompt],
        answers: AnswerFile,
        opponent: AnswerFile,
        *,
        guided: bool = True,
        reference: bool = True,
        max_tokens: int = JUDGE_TOKENS,
    ) -> None:
        """As `JudgeTask`, with one opponent."""
        super().__init__(
            prompts,
            answers,
            opponent,
            guided=guided,
            reference=reference,
            max_tokens=max_tokens,
        )
        self.opponent = opponent

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {
            "form": "pairs",
            "opponent": self.opponent.model,
            **super().settings,
            **drawn("answers_opponent", self.opponent),
        }

    def items(self) -> Sequence[Item]:
        """See `Task`."""
        ours, theirs = self.answers.answers, self.opponent.answers
        return [
            self._item(prompt, ours[prompt.id].answer, theirs[prompt.id].answer)
            for prompt in self.prompts
        ]

    def mark(self, item: Item, reply: Reply) -> Marks:
        """See `Task`."""
        assert isinstance(item, InBothOrders)
        ours, theirs = item.facts["characters"]
        lengths = {
            "characters": Mark(float(ours)),
            "characters_opponent": Mark(float(theirs)),
        }
        settled = item.facts.get(SETTLED)
        verdicts = (settled, settled) if settled else _verdicts(reply)
        if verdicts is None:
            return {"unreadable": Mark(1.0), **lengths}
        points = sum(_POINTS[verdict] for verdict in verdicts) / 2
        like = min(ours, theirs) * LIKE_LENGTH >= max(ours, theirs)
        return {
            "win_rate": Mark(points),
            "win": Mark(float(points == 1)),
            "tie": Mark(float(0 < points < 1)),
            "lose": Mark(float(points == 0)),
            **({} if settled else _of_judge(verdicts, ours - theirs)),
            **({"win_rate_like_length": Mark(points)} if like else {}),
            "unreadable": Mark(0.0),
            **lengths,
        }

    def kept(self, item: Item, reply: Reply) -> Mapping[str, Any]:
        """See `Task`. Verdicts name the first model A in both orders."""
        assert isinstance(item, InBothOrders)
        if SETTLED in item.facts:
            return {
                "verdicts": [item.facts[SETTLED]] * 2,
                "why": "an answer is empty, or both equal",
            }
        said = {"answer_swapped": reply.swapped} if isinstance(reply, InBoth) else {}
        verdicts = _verdicts(reply)
        return {**said, "verdicts": list(verdicts)} if verdicts else said

    def _item(self, prompt: Prompt, ours: str, theirs: str) -> InBothOrders:
        orders = [
            ({"role": "user", "content": comparing_text(prompt, *pair, reference=self.reference)},)
            for pair in ((ours, theirs), (theirs, ours))
        ]
        settled = _settled(ours.strip(), theirs.strip())
        return InBothOrders(
            prompt.id,
            orders[0],
            self.max_tokens,
            schema=VERDICT_SCHEMA if self.guided else None,
            group=prompt.category,
            facts={
                "characters": (len(ours), len(theirs)),
                **({SETTLED: settled} if settled else {}),
            },
            swapped=orders[1],
        )


def _settled(ours: str, theirs: str) -> Verdict | None:
    """What needs no judge."""
    if ours == theirs:
        return "tie"
    if not (ours and theirs):
        return "A" if ours else "B"
    return None


def _verdicts(reply: Reply) -> tuple[Verdict, Verdict] | None:
    """Of both orders, A being the first model; None where one cannot be read."""
    if not isinstance(reply, InBoth):
        return None
    first, second = read_verdict(reply.text), read_verdict(reply.swapped)
    return (first, _SWAPPED[second]) if first and second else None


def _of_judge(verdicts: tuple[Verdict, Verdict], longer_by: int) -> dict[str, Mark]:
    """What a pair of verdicts says of the judge."""
    first, second = verdicts
    same_place = first != "tie" and second == _SWAPPED[first]
    marks = {
        "consistency": Mark(float(first == second)),
        "position_bias": Mark(float(same_place)),
    }
    decided = sum(verdict != "tie" for verdict in verdicts)
    if decided:
        in_first = (first == "A") + (second == "B")
        marks["first_place"] = Mark(in_first / decided, float(decided))
        if longer_by:
            longer = verdicts.count("A" if longer_by > 0 else "B")
            marks["prefers_longer"] = Mark(longer / decided, float(decided))
    return marks
