"""Requests to an assistant with tools: one call, several at once, steps, and none.

Families are the functions of `tool_catalogue.py`: what is held out is a function, which then stands
in no record of training, also not as a distractor. Arguments that the request does not name are
left out; where they have a default, a check also accepts that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afm_mlx.errors import DataError
from afm_mlx.settings.mistakes import nearest
from afm_mlx.settings.synthetic import SynthTools
from afm_mlx.synthetic.draws import Draw, share_of
from afm_mlx.synthetic.kinds.tool_catalogue import CHAINS, FACTS, FUNCTIONS, Function, Parameter
from afm_mlx.synthetic.records import Candidate, Kind, Message, assistant, tool, user

_NAMED = {function.name: function for function in FUNCTIONS}

_SYSTEMS = (
    "You are a helpful assistant. Call a function where one is needed, and only then.",
    "You can use the functions listed here. If none of them fits, say so.",
    "Help the user. Use your tools when they are the way to do it.",
    "You are the assistant of a phone. Its functions are given as tools.",
)
_POLITE = ("{}", "{}", "{}", "Hi! {}", "Hello, {}", "{} Thanks!", "{} Thank you.", "Hey, {}")
_ALSO = ("{} Also: {}", "{} And another thing: {}", "{} {}", "Two things. {} {}", "{} Then: {}")
_AGAIN = ("{} The same for this: {}", "{} And: {}", "{} {}", "{} One more: {}")
_CANNOT = (
    "I have no tool to {does}, so I can't do that here.",
    "None of the functions I have can {does}.",
    "Sorry, I can't {does}: there is no function for it among my tools.",
    "That is beyond my tools: none of them lets me {does}.",
)
_MORE_FRACTION = 0.35  # of each optional argument, that a request names it


class _Request:
    """One call with the words that ask for it."""

    def __init__(self, draw: Draw, function: Function, given: Mapping[str, Any] | None = None):
        said, values = _drawn(draw, function.required, given or {})
        text = draw.pick(function.asks).format(**said)
        for name, parameter in function.optional.items():
            if draw.chance(_MORE_FRACTION) and name in function.more:
                shown, values[name] = parameter.pool(draw)
                text += " " + function.more[name].format(**{name: shown})
        self.function = function
        self.said, self.values, self.text = said, values, text

    @property
    def call(self) -> Message:
        return {"name": self.function.name, "arguments": self.values}

    @property
    def expected(self) -> Message:
        """The call as a check has it: defaults may be said or not."""
        return expected_call(self.function, self.values)


def tools_kind(settings: SynthTools) -> Kind:
    """The generator of requests to an assistant with tools.

    Raises:
        DataError: there is no function of a name in `settings.functions`.
    """
    for name in settings.functions:
        if name not in _NAMED:
            near = nearest(name, _NAMED)
            raise DataError(
                f"functions names '{name}', and there is no such function",
                hint=f"did you mean '{near}'?" if near else "",
            )
    chosen = settings.functions or tuple(_NAMED)

    def make(draw: Draw, family: str, families: Sequence[str]) -> Candidate | str:
        # The held-out side has few functions; there all others may stand beside the right one.
        few = len(families) < len(chosen) / 2
        usable = [_NAMED[name] for name in chosen if few or name in families]
        function = _NAMED[family]
        form = draw.below(1_000) / 1_000
        if form < settings.no_call_fraction:
            held_out = family in families and few
            return _no_call(draw, function, usable, settings, held_out=held_out)
        form -= settings.no_call_fraction
        if form < settings.parallel_fraction:
            return _parallel(draw, function, usable, settings)
        form -= settings.parallel_fraction
        if form < settings.steps_fraction:
            chains = [
                chain
                for chain in CHAINS
                if family in (chain[0], chain[3])
                and {chain[0], chain[3]} <= {u.name for u in usable}
            ]
            if chains:
                return _chain(draw, draw.pick(chains), usable, settings)
            if function.returns:
                return _told(draw, function, usable, settings)
        request = _Request(draw, function)
        return _candidate(
            draw, [user(_said(draw, request.text))], [request], usable, settings, [function]
        )

    return Kind("tools", chosen, make)


def expected_call(function: Function, values: Mapping[str, Any]) -> Message:
    """A call as a check has it: an argument that has a default may also be said with that."""
    call: Message = {"name": function.name, "arguments": dict(values)}
    optional = {
        name: [parameter.default]
        for name, parameter in function.optional.items()
        if parameter.default is not None and name not in values
    }
    for name, value in values.items():
        if name in function.optional and function.optional[name].default == value:
            optional[name] = [value]  # said or not, it is the default
    call["arguments"] = {name: value for name, value in values.items() if name not in optional}
    return call | ({"optional": optional} if optional else {})


def _drawn(
    draw: Draw, parameters: Mapping[str, Parameter], given: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Values of all parameters, as said and as arguments; no two the same."""
    said: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in given:
            said[name], values[name] = str(given[name]), given[name]
            continue
        shown, value = parameter.pool(draw)
        while isinstance(value, str) and value in values.values():
            shown, value = parameter.pool(draw)
        said[name], values[name] = shown, value
    return said, values


def _said(draw: Draw, text: str) -> str:
    frame = draw.pick(_POLITE)
    if frame.startswith("Hello,") or frame.startswith("Hey,"):
        first = text.split()[0]
        keeps = first in ("I", "I'm", "I'd", "I've") or first.isupper() or "-" in first
        text = text if keeps else text[0].lower() + text[1:]
    return frame.format(text)


def _offered(
    draw: Draw, right: Sequence[Function], usable: Sequence[Function], settings: SynthTools
) -> list[dict[str, Any]]:
    """Declarations of the right tools and of distractors, about half of a domain of theirs."""
    names = {function.name for function in right}
    domains = {function.domain for function in right}
    others = [function for function in usable if function.name not in names]
    count = draw.between(0, settings.distractors)
    similar = draw.some([one for one in others if one.domain in domains], (count + 1) // 2)
    rest = draw.some([one for one in others if one not in similar], count - len(similar))
    return [one.schema() for one in draw.shuffled([*right, *similar, *rest])]


def _candidate(
    draw: Draw,
    messages: Sequence[Message],
    requests: Sequence[_Request],
    usable: Sequence[Function],
    settings: SynthTools,
    offered: Sequence[Function],
) -> Candidate:
    calls = [request.call for request in requests]
    check = {"kind": "tool_calls", "calls": [request.expected for request in requests]}
    tools = _offered(draw, offered, usable, settings)
    return Candidate([*_head(draw), *messages, assistant("", calls)], check, tools)


def _head(draw: Draw) -> list[Message]:
    if draw.chance(0.5):
        return []
    return [{"role": "system", "content": draw.pick(_SYSTEMS)}]


def _parallel(
    draw: Draw, function: Function, usable: Sequence[Function], settings: SynthTools
) -> Candidate | str:
    """Two or three calls of one function, or calls of two functions."""
    if draw.chance(0.5):
        requests = [_Request(draw, function) for _ in range(draw.between(2, 3))]
        frame = draw.pick(_AGAIN)
        if any(
            one.values == other.values
            for number, one in enumerate(requests)
            for other in requests[:number]
        ):
            return "two equal calls"
    else:
        other = draw.pick([one for one in usable if one.name != function.name])
        requests = [_Request(draw, one) for one in draw.shuffled([function, other])]
        frame = draw.pick(_ALSO)
    text = requests[0].text
    for request in requests[1:]:
        text = frame.format(text, request.text)
        frame = "{} {}"
    right = list({request.function.name: request.function for request in requests}.values())
    return _candidate(draw, [user(_said(draw, text))], requests, usable, settings, right)


def _chain(
    draw: Draw, chain: tuple[Any, ...], usable: Sequence[Function], settings: SynthTools
) -> Candidate:
    """What one function finds is an argument of the next; the answer is the first or second call."""
    finder_name, key, pool, user_name, argument, ask = chain
    finder, follower = _NAMED[finder_name], _NAMED[user_name]
    found = pool(draw)[1]
    first = _Request(draw, finder)
    first.values = {name: first.values[name] for name in finder.required}
    second = _Request(draw, follower, {argument: found})
    second.values = {name: second.values[name] for name in follower.required}
    for name in finder.required:  # such as the date of both
        if name in {**follower.required, **follower.optional} and name != argument:
            second.said[name], second.values[name] = first.said[name], first.values[name]
    request = user(_said(draw, ask.format(**(second.said | first.said))))
    if draw.chance(0.3):
        return _candidate(draw, [request], [first], usable, settings, [finder, follower])
    result: Any = {key: found}
    for name, other in finder.returns.items():
        result.setdefault(name, other(draw)[1])
    if "_id" in key:
        result = {"results": [result]}
    messages = [request, assistant("", [first.call]), tool(result)]
    return _candidate(draw, messages, [second], usable, settings, [finder, follower])


def _told(
    draw: Draw, function: Function, usable: Sequence[Function], settings: SynthTools
) -> Candidate:
    """A tool has answered, and the assistant says what it found."""
    request = _Request(draw, function)
    request.text = request.text.split("?")[0] + "?" if "?" in request.text else request.text
    said, result = dict(request.said), {}
    for name, pool in function.returns.items():
        shown, result[name] = pool(draw)
        said[name] = shown if isinstance(result[name], str) else _plain(result[name])
    if not all(name in function.required for name in request.values):
        request = _Request(draw, function, {n: request.values[n] for n in function.required})
        request.values = {name: request.values[name] for name in function.required}
        request.text = draw.pick(function.asks).format(**said)
    answer = function.says.format(**said)
    texts = [said[name] for name in function.returns if f"{{{name}}}" in function.says]
    messages = [
        *_head(draw),
        user(_said(draw, request.text)),
        assistant("", [request.call]),
        tool(result),
        assistant(answer),
    ]
    tools = _offered(draw, [function], usable, settings)
    return Candidate(messages, {"kind": "contains", "texts": texts}, tools)


def _plain(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _no_call(
    draw: Draw,
    function: Function,
    usable: Sequence[Function],
    settings: SynthTools,
    *,
    held_out: bool,
) -> Candidate | str:
    """A request for which no tool must be called: something lacks, none fits, or none is needed."""
    form = draw.below(3)
    if form == 0 and function.lacking:
        text, answer = draw.pick(function.lacking)
        offered = _offered(draw, [function], usable, settings)
    elif form == 1:
        facts = [
            fact for fact in FACTS if (share_of(fact[0]) < settings.held_out_fraction) == held_out
        ]
        if not facts:
            return "no question of this split"
        text, answer = draw.pick(facts)
        offered = _offered(draw, [function], usable, settings)
    else:
        text = _Request(draw, function).text
        answer = draw.pick(_CANNOT).format(does=function.does)
        others = [one for one in usable if one.name != function.name]
        near = [one for one in others if one.domain == function.domain]
        offered = _offered(draw, [draw.pick(near or others)], others, settings)
    messages = [*_head(draw), user(_said(draw, text)), assistant(answer)]
    return Candidate(messages, {"kind": "tool_calls", "calls": []}, offered)
