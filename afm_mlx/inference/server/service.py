"""What is asked in a request, made ready for the model: prompts, guide, tools, limits, policy."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from afm_mlx.decoder.adapters import NONE
from afm_mlx.errors import AfmError, DataError, RunError
from afm_mlx.inference.guardrails import FEATURE, TOOLS_FEATURE, Guardrails
from afm_mlx.inference.requests import Chunk, Guide
from afm_mlx.inference.server.api import Answering, Chat, Completion, Turn
from afm_mlx.inference.server.feed import Feed
from afm_mlx.inference.server.jobs import Answers, Job
from afm_mlx.inference.server.limits import Limits
from afm_mlx.inference.server.names import Names
from afm_mlx.inference.server.problems import Problem, bad, problem_of
from afm_mlx.inference.server.writing import Piece, TokenTexts, Writing

if TYPE_CHECKING:
    from afm_mlx.inference.batches import Batcher
    from afm_mlx.inference.calls import ToolFormat
    from afm_mlx.inference.tools import Tool

WORKERS = 4
"""Threads that read requests: prompts to tokens, schemas to guides, checks of texts. Ours."""


@dataclass
class Service:
    """A model behind a server."""

    batcher: Batcher
    names: Names
    limits: Limits = field(default_factory=Limits)
    guardrails: Guardrails | None = None

    def __post_init__(self) -> None:
        """Start the threads that read requests."""
        self.engine = self.batcher.engine
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="afm-requests")
        self._closed = False
        self._reading = threading.Lock()  # chat templates and their tokenizer: one at a time

    async def chat(self, chat: Chat) -> Answers:
        """Begin to answer a conversation.

        Raises:
            Problem: it cannot be answered; the message says why.
            AfmError: as above.
        """
        return await self._begun(lambda: self._chat_job(chat), stream=bool(chat.stream))

    async def complete(self, completion: Completion) -> Answers:
        """Begin to continue texts. Raises as `chat`."""
        stream = bool(completion.stream)
        return await self._begun(lambda: self._completion_job(completion), stream=stream)

    def close(self) -> None:
        """End all answers with an error, and the threads."""
        self._closed = True
        self.batcher.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _begun(self, job_of: Callable[[], Job], *, stream: bool) -> Answers:
        most = self.limits.unsent_chunks if stream else None
        feed = Feed(asyncio.get_running_loop(), most=most)

        def begin() -> Answers:
            job = job_of()
            try:
                return Answers(job, self.batcher, feed, lambda: self._writing(job), self._checked)
            except AfmError as error:
                raise self._problem(error) from None

        if self._closed:
            raise RunError("the model is shut down")
        work = self._workers.submit(begin)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:  # nobody waits for what the thread is about to begin
            work.add_done_callback(_cancel)
            raise

    async def _checked(self, writing: Writing, chunks: Sequence[Chunk]) -> Piece:
        """What may be told; found off the loop where a classifier may take its time."""
        if self.guardrails is None:
            return writing.add(chunks)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: writing.add(chunks))

    def _writing(self, job: Job) -> Writing:
        return Writing(
            self._token_texts,
            check=self.guardrails.watch(job.feature) if self.guardrails else None,
            tools=job.tools,
            form=job.form,
            parallel=job.parallel,
        )

    def _chat_job(self, chat: Chat) -> Job:
        adapter = self.names.adapter(chat.model)
        self._check_numbers(chat, 1, chat.wanted_tokens)
        tools, form = self._tools(chat)
        guide = self._guide(chat, tools, form)
        messages = [turn.message for turn in chat.messages]
        declared = [tool.schema for tool in tools] or None
        try:
            with self._reading:
                who = NONE if adapter is None else adapter
                ids = self.engine.prompt_ids(messages, tools=declared, adapter=who)
        except DataError as error:
            raise self._problem(error, "messages") from None
        limit = self._limit([ids], chat.wanted_tokens, "messages")
        refusal = self._refusal(_texts(chat.messages, declared), adapter or FEATURE)
        samplings = chat.samplings(limit, chat.wanted_logprobs)
        parallel = chat.parallel_tool_calls is not False
        return Job(adapter, [ids], samplings, guide, tools, form, parallel, refusal)

    def _completion_job(self, completion: Completion) -> Job:
        adapter = self.names.adapter(completion.model)
        self._check_numbers(completion, len(completion.prompt), completion.wanted_tokens)
        try:
            with self._reading:
                prompts = [self._prompt_ids(prompt) for prompt in completion.prompt]
        except DataError as error:
            raise self._problem(error, "prompt") from None
        limit = self._limit(prompts, completion.wanted_tokens, "prompt")
        texts = [
            prompt if isinstance(prompt, str) else self.engine.tokenizer.decode(prompt)
            for prompt in completion.prompt
        ]
        refusal = self._refusal({"": "\n".join(texts)}, adapter or FEATURE)
        samplings = completion.samplings(limit, completion.logprobs)
        return Job(adapter, prompts, samplings, refusal=refusal)

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.engine.prompt_ids(prompt, raw=True)
        self.engine.tokenizer.decode(prompt)  # raises where one is not in the vocabulary
        return prompt

    def _check_numbers(self, asked: Answering, num_prompts: int, wanted: int | None) -> None:
        """Refuse what the limits rule out, before anything is read."""
        num = num_prompts * (asked.n or 1)
        if num > self.limits.answers:
            raise bad(
                f"{num:,} answers are asked for, and a request has {self.limits.answers:,} at most",
                "n",
            )
        if wanted is not None and wanted > self.limits.max_tokens:
            raise bad(
                f"max_tokens is {wanted:,}, and this server writes {self.limits.max_tokens:,} at "
                "most",
                "max_tokens",
            )

    def _limit(self, prompts: Sequence[Sequence[int]], wanted: int | None, param: str) -> int:
        """Longest answer, in tokens, to any of the prompts."""
        longest = max(len(ids) for ids in prompts)
        most = self.engine.context_tokens - 1
        if self.limits.prompt_tokens is not None:
            most = min(most, self.limits.prompt_tokens)
        if longest > most:
            raise bad(
                f"the prompt has {longest:,} tokens, and {most:,} is the most here",
                param,
                "context_length_exceeded",
            )
        room = self.engine.context_tokens - longest
        fits = min(room, self.batcher.budget.most_answer(longest))
        return wanted or max(1, min(self.limits.max_tokens, fits))

    def _tools(self, chat: Chat) -> tuple[list[Tool], ToolFormat | None]:
        """Tools that the model may call, and how it writes calls."""
        if chat.choice == "none":
            return [], None
        from afm_mlx.inference.tools import declared_tool

        try:
            found = [declared_tool(tool.model_dump(exclude_none=True)) for tool in chat.tools or ()]
            with self._reading:
                return found, self.engine.tool_format
        except DataError as error:
            raise self._problem(error, "tools") from None

    def _guide(self, chat: Chat, tools: list[Tool], form: ToolFormat | None) -> Guide | None:
        from afm_mlx.inference.calls import tool_guide

        try:
            if tools:
                parallel = chat.parallel_tool_calls is not False
                guides = self.engine.guides
                return tool_guide(guides, tools, chat.choice, format=form, parallel=parallel)
            if (schema := chat.schema_of_answer) is not None:
                return self.engine.guides.json_schema(schema)
        except DataError as error:
            raise self._problem(error, "tools" if tools else "response_format") from None
        return None

    def _refusal(self, texts: dict[str, str], feature: str) -> str:
        """What to tell the user in place of an answer; "" where the policy lets all texts pass."""
        if self.guardrails is None:
            return ""
        for each, text in texts.items():
            verdict = self.guardrails.check_prompt(text, feature=each or feature)
            if verdict.refused:
                return verdict.message
        return ""

    def _problem(self, error: AfmError, param: str | None = None) -> Problem:
        """What clients are told of an error: the model goes by its name, and not by its folder."""
        message, hint = (
            text.replace(str(self.engine.folder), self.names.base)
            for text in (str(error), error.hint)
        )
        return problem_of(type(error)(message, hint=hint), param)

    @cached_property
    def _token_texts(self) -> TokenTexts:
        try:
            return TokenTexts(self.engine.tokenizer, self.engine.guides.vocabulary.bytes)
        except DataError:  # a vocabulary that does not tell its bytes
            return TokenTexts(self.engine.tokenizer)


def _texts(turns: Sequence[Turn], declared: Any) -> dict[str, str]:
    """What a conversation says, by feature; "" for the one that answers.

    All turns count, and together: any of them can ask for something, in parts as well.
    """
    said = [turn.text for turn in turns if turn.role != "tool"]
    called = [call.function.arguments for turn in turns for call in turn.tool_calls or ()]
    returned = [turn.text for turn in turns if turn.role == "tool"]
    about = [json.dumps(declared, ensure_ascii=False)] if declared else []
    texts = {"": "\n".join([*said, *called, *about]), TOOLS_FEATURE: "\n".join(returned)}
    return {feature: text for feature, text in texts.items() if text}


def _cancel(work: Future[Answers]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().cancel()
