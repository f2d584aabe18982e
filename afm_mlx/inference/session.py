"""A conversation with a model: for programs, and for `afm chat`. docs/session.md has examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from afm_mlx.errors import DataError
from afm_mlx.inference.engine import Engine
from afm_mlx.inference.guardrails import FEATURE, TOOLS_FEATURE, RefusedError
from afm_mlx.inference.requests import Finish, Guide, Message, Stats
from afm_mlx.inference.steps import kv_settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from afm_mlx.inference.calls import Call
    from afm_mlx.inference.guardrails import Guardrails, Verdict
    from afm_mlx.inference.speculative import Draft
    from afm_mlx.inference.tools import Tool

    Typed = TypeVar("Typed", bound=BaseModel)

ANSWER_SHARE = 0.25
"""Share of the context that is kept free for an answer, where `max_tokens` is more. Ours."""

MOST_ROUNDS = 8
"""Times that a model may call tools before it must answer. Ours."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer as it comes."""

    text: str
    kind: Literal["text", "call", "result", "refusal"] = "text"
    """text: of the answer. call, result: of a tool, whole. refusal: what a policy says in place of
    an answer, or of the rest of one."""
    finished: Finish | Literal["refused"] | None = None
    """Why the answer is over, on its last piece."""


class Session:
    """One conversation. What is said and answered is kept in `messages`."""

    def __init__(
        self,
        model: str | Path | Engine = "smollm2",
        *,
        instructions: str = "",
        tools: Sequence[Tool | Callable[..., Any]] = (),
        tool_choice: str = "auto",
        adapter: str | Path | None = None,
        guardrails: Guardrails | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        draft: Draft | None = None,
        kv_bits: int | None = None,
        runs: Path = Path("runs"),
    ) -> None:
        """Open a model, unless it is open already.

        Args:
            model: what `afm chat` takes: a recipe's name, a folder, a GGUF file, a hub id,
                `smollm2`; or an engine, which sessions may share one after the other.
            instructions: the system prompt; "" leaves it to the chat template.
            tools: functions with type hints that the model may call, or tools.
            tool_choice: "auto": the model calls them as it likes. "required", or a tool's name:
                every answer begins with a call.
            adapter: folder or name of an adapter to answer with.
            guardrails: check what is asked and answered; None: nothing is checked.
            max_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token each time.
            top_p: see `Sampling`.
            seed: each answer draws with the seed after that of the answer before.
            draft: see `Engine.stream`.
            kv_bits: see `Engine.stream`.
            runs: where recipes leave their models.

        Raises:
            ModelError, DataError: the model, the adapter, the draft, a tool or `kv_bits` cannot be
                used.
        """
        from afm_mlx.inference.tools import Tool, tool_of

        self.engine = model if isinstance(model, Engine) else _opened(model, adapter, runs)
        kv_settings(self.engine.model.shape, kv_bits)
        if draft is not None:
            draft.check(self.engine.tokenizer)
        self.instructions = instructions
        self.tools = [each if isinstance(each, Tool) else tool_of(each) for each in tools]
        self.tool_choice = tool_choice
        self.guardrails = guardrails
        self.max_tokens, self.temperature, self.top_p = max_tokens, temperature, top_p
        self.seed, self.draft, self.kv_bits = seed, draft, kv_bits
        self.form: Guide | None = None
        """A form for all answers that ask for none of their own."""
        self.messages: list[Message] = []
        """Turns so far, without the instructions; of a tool, its calls and results, too."""
        self.verdict: Verdict | None = None
        """What the guardrails said of the last question or answer; None where nothing was."""
        self.num_dropped = 0
        """Oldest messages that the last answer was given without: they do not fit the context."""
        self.num_answers = 0
        """Answers begun so far, retries included."""

    @property
    def stats(self) -> Stats:
        """What the last answer cost."""
        return self.engine.stats

    @overload
    def respond(self, prompt: str, *, schema: type[Typed]) -> Typed: ...

    @overload
    def respond(self, prompt: str, *, schema: Mapping[str, Any]) -> Any: ...

    @overload
    def respond(self, prompt: str, *, choices: Sequence[str] = (), pattern: str = "") -> str: ...

    def respond(
        self,
        prompt: str,
        *,
        schema: type[BaseModel] | Mapping[str, Any] | None = None,
        choices: Sequence[str] = (),
        pattern: str = "",
    ) -> Any:
        """Say something, and get the whole answer.

        Args:
            prompt: what is said.
            schema: form of the answer: a Pydantic model, of which an instance is returned, or a
                JSON Schema, of which the value is.
            choices: the answer is one of these texts.
            pattern: the answer is a text that this regular expression matches.

        Raises:
            DataError: the form cannot be promised, the prompt does not fit the context, or the
                answer was longer than `max_tokens` before its form was whole.
            RefusedError: the policy refuses the question or the answer.
        """
        form = self.form_of(schema, choices, pattern)
        pieces = list(self.ask(prompt, form=form))
        if pieces and pieces[-1].finished == "refused":
            raise self._refused()
        text = "".join(piece.text for piece in pieces if piece.kind == "text")
        if schema is None:
            return text
        if isinstance(schema, type):
            return schema.model_validate_json(text)
        return json.loads(text)

    def stream(self, prompt: str) -> Generator[str, None, None]:
        """Say something, and get the answer's text in pieces. Closing the iterator stops it.

        Raises:
            DataError: the prompt does not fit the context.
            RefusedError: the policy refuses the question, or the rest of the answer.
        """
        for piece in self.ask(prompt):
            if piece.kind == "refusal":
                raise self._refused()
            if piece.kind == "text" and piece.text:
                yield piece.text

    def ask(self, prompt: str, *, form: Guide | None = None) -> Generator[Piece, None, None]:
        """Say something, and get all that happens in pieces.

        Whatever was said when the iterator is closed counts as the answer, so an answer that is
        stopped stays part of the conversation. A question without any answer leaves no trace.

        Raises:
            DataError: the question alone does not fit the model's context.
        """
        # At the first piece: an iterator that nobody takes one from is never closed, either.
        self.messages.append({"role": "user", "content": prompt})
        yield from self._answer(form or self.form)

    def retry(self) -> Generator[Piece, None, None]:
        """Answer the last question again, with other random choices.

        Raises:
            DataError: nothing has been asked yet.
        """
        if not self.messages:
            raise DataError("there is no question to answer again")
        del self.messages[_turns(self.messages)[-1] + 1 :]
        return self._answer(self.form)

    def clear(self) -> None:
        """Forget the conversation; the instructions stay."""
        self.messages.clear()

    def transcript(self) -> list[Message]:
        """All messages, the instructions first if there are any."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return [*first, *self.messages]

    def save(self, file: Path) -> None:
        """Write the conversation as JSON, `{"messages": [...]}`: one line of training data.

        Raises:
            DataError: the file cannot be written.
        """
        known: dict[str, Any] = {"messages": self.transcript()}
        if self.tools:
            known["tools"] = [tool.schema for tool in self.tools]
        try:
            text = json.dumps(known, ensure_ascii=False) + "\n"
            file.expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            described = (error.strerror or str(error)).lower()
            raise DataError(f"cannot write {file}: {described}") from error

    def form_of(
        self,
        schema: type[BaseModel] | Mapping[str, Any] | None = None,
        choices: Sequence[str] = (),
        pattern: str = "",
    ) -> Guide | None:
        """The form of an answer; None where none is asked for.

        Raises:
            DataError: it cannot be promised, or more than one is asked for.
        """
        if sum(bool(each) for each in (schema, choices, pattern)) > 1:
            raise DataError("an answer has one form: a schema, choices, or a pattern")
        guides = self.engine.guides
        if isinstance(schema, type):
            return guides.model(schema)
        if schema is not None:
            return guides.json_schema(schema)
        if choices:
            return guides.choices(choices)
        return guides.regex(pattern) if pattern else None

    def _answer(self, form: Guide | None) -> Generator[Piece, None, None]:
        """The answer to the last message, calls of tools carried out."""
        from afm_mlx.inference.calls import result_message, run_call

        asked = len(self.messages)
        try:
            self.verdict = None
            if self._refuses(str(self.messages[-1]["content"]), FEATURE):
                yield self._refusal()
                return
            for number in range(MOST_ROUNDS + 1):
                tools = self.tools if form is None and number < MOST_ROUNDS else []
                choice = self.tool_choice if number == 0 else "auto"
                for call in (yield from self._round(form, tools, choice)):
                    yield Piece(f"{call.name}({json.dumps(dict(call.arguments))})", "call")
                    result = run_call(call, tools)
                    if self._refuses(result, TOOLS_FEATURE):
                        del self.messages[asked:]  # or it would be refused with every question
                        yield self._refusal()
                        return
                    self.messages.append(result_message(call, result))
                    yield Piece(result, "result")
                if self.messages[-1]["role"] != "tool":
                    return
        finally:
            self._forget_calls(asked)
            if len(self.messages) == asked:
                self.messages.pop()  # the question: it has no answer

    def _forget_calls(self, asked: int) -> None:
        """Take out calls without a result: the answer was stopped, and one needs the other."""
        place = max(
            (at for at, each in enumerate(self.messages) if "tool_calls" in each), default=0
        )
        if place < asked:
            return
        known = {each.get("tool_call_id") for each in self.messages[place + 1 :]}
        left = dict(self.messages[place])
        left["tool_calls"] = [call for call in left["tool_calls"] if call["id"] in known]
        if not left["tool_calls"]:
            del left["tool_calls"]
        is_empty = not (left["content"] or "tool_calls" in left)
        self.messages[place : place + 1] = [] if is_empty else [left]

    def _round(
        self, form: Guide | None, tools: Sequence[Tool], choice: str
    ) -> Generator[Piece, None, Sequence[Call]]:
        """One answer of the model, which is added to the messages; the calls in it."""
        from afm_mlx.inference.calls import Reply, TextBeforeCalls, tool_guide

        format = self.engine.tool_format if tools else None
        check = self.guardrails.watch(FEATURE) if self.guardrails else None
        if tools:
            form = tool_guide(self.engine.guides, tools, choice, format=format)
        prompt, seed = self._fitting(tools), self.seed + self.num_answers
        self.num_answers += 1
        text, shown = TextBeforeCalls(format), ""
        calls: Sequence[Call] = ()
        over = False
        try:
            for chunk in self.engine.stream(
                prompt,
                tools=[tool.schema for tool in tools],
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=seed,
                guide=form,
                draft=self.draft,
                kv_bits=self.kv_bits,
            ):
                passed = chunk.text
                if check is not None:
                    passed = check.add(passed) + (check.end() if chunk.finished else "")
                    self.verdict = check.verdict
                piece = text.add(passed)
                refused = check is not None and check.verdict.refused
                over = bool(chunk.finished) and not refused
                if over:
                    reply = text.end(tools)
                    piece, calls = piece + reply.text, reply.calls
                shown += piece
                yield Piece(piece, finished=None if calls or refused else chunk.finished)
                if refused:
                    yield self._refusal()
                    break
            return calls
        finally:
            if calls:
                self.messages.append(Reply(shown.strip(), tuple(calls)).message)
            elif over or shown:
                self.messages.append({"role": "assistant", "content": shown})

    def _refuses(self, text: str, feature: str) -> bool:
        """Whether the policy refuses a question, or what a tool returned."""
        if self.guardrails is None:
            return False
        self.verdict = self.guardrails.check_prompt(text, feature=feature)
        return self.verdict.refused

    def _refusal(self) -> Piece:
        assert self.verdict is not None
        return Piece(self.verdict.message, "refusal", "refused")

    def _refused(self) -> RefusedError:
        assert self.verdict is not None
        return RefusedError(self.verdict.message, self.verdict)

    def _fitting(self, tools: Sequence[Tool]) -> list[Message]:
        """The transcript, without the oldest turns if the context cannot hold all."""
        context = self.engine.context_tokens
        reserved = min(self.max_tokens, int(context * ANSWER_SHARE))
        first = self.transcript()[: bool(self.instructions)]
        schemas = [tool.schema for tool in tools]
        for start in _turns(self.messages):
            prompt = [*first, *self.messages[start:]]
            self.num_dropped = start
            if len(self.engine.prompt_ids(prompt, tools=schemas)) + reserved <= context:
                break
        return prompt


def _turns(messages: Sequence[Message]) -> list[int]:
    """Places of the user's messages: where a turn begins. Never empty where there are messages."""
    return [at for at, each in enumerate(messages) if each["role"] == "user"] or [0]


def _opened(model: str | Path, adapter: str | Path | None, runs: Path) -> Engine:
    from afm_mlx.zoo import resolve_adapter, resolve_model

    folder = resolve_model(str(model), runs=runs).path
    engine = Engine.open(folder)
    if adapter is not None:
        engine.use_adapter(engine.adapters.add(resolve_adapter(str(adapter), folder)))
    return engine
