"""Asking hosts politely: one request at a time, a delay in between, and again only when it helps.

When a host was last asked is kept on disk, so that a crawl that goes on keeps the delay, too.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from urllib.parse import urlsplit

from afm_mlx.corpus.crawl.contents import Content
from afm_mlx.corpus.crawl.fetch import Answer, Request
from afm_mlx.corpus.crawl.frontier import Frontier
from afm_mlx.corpus.web.response import Unusable
from afm_mlx.settings.web import Crawl

# Worth another try. Source: RFC 9110, section 15.6, and RFC 6585, section 4, for the numbers.
_MAY_PASS = ("timeout", "no connection", 429, 500, 502, 503, 504)


class Asker:
    """Sends the requests of a crawl; made and used inside an event loop."""

    def __init__(self, settings: Crawl, frontier: Frontier, threads: Executor) -> None:
        self._settings, self._frontier, self._threads = settings, frontier, threads
        self._free = asyncio.Semaphore(settings.connections)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(
        self,
        url: str,
        delay: float,
        *,
        read: Callable[[Answer], Content],
        max_bytes: int,
        wanted: Sequence[str] = (),
        private: bool = False,
    ) -> tuple[Answer | str, Content]:
        """Ask for `url`, and again after a failure that may pass.

        Args:
            url: the address.
            delay: seconds since the last request to its host, at least.
            read: takes the answer apart, in a thread.
            max_bytes: most to receive of its body.
            wanted: media types; another one's body is not received. Empty: all.
            private: whether it may be in this machine's own network.

        Returns:
            The answer and its content; a text in place of the answer says what failed.
        """
        settings, host = self._settings, urlsplit(url).netloc
        answer: Answer | str = ""
        content = Content()
        for repeat in range(settings.retries + 1):
            wait = delay
            if repeat:
                asked_for = 0.0 if isinstance(answer, str) else answer.retry_after
                wait = max(delay, asked_for, settings.retry_seconds * 2 ** (repeat - 1))
                if asked_for > settings.max_delay_seconds:
                    break
            request = Request(
                url, settings.user_agent, wanted, max_bytes, settings.timeout_seconds, private
            )
            async with self._turns[host]:
                # A clock that was set back must not stop the crawl.
                ready = self._frontier.asked(host) + wait - time.time()
                await asyncio.sleep(min(max(ready, 0), wait))
                async with self._free:
                    answer, content = await self._in_thread(request, read)
                self._frontier.ask(host, time.time())
            result = answer if isinstance(answer, str) else answer.status
            if result not in _MAY_PASS:
                break
        return answer, content

    async def _in_thread(
        self, request: Request, read: Callable[[Answer], Content]
    ) -> tuple[Answer | str, Content]:
        loop = asyncio.get_running_loop()
        watch = loop.call_later(self._settings.timeout_seconds, request.end)
        try:
            answer = await loop.run_in_executor(self._threads, request.run)
            watch.cancel()
            return answer, await loop.run_in_executor(self._threads, read, answer)
        except Unusable as reason:
            return str(reason), Content()
        except ssl.SSLCertVerificationError:
            return "bad certificate", Content()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            late = request.ended or isinstance(error, TimeoutError)
            return "timeout" if late else "no connection", Content()
        finally:  # also when the crawl is interrupted
            watch.cancel()
            request.end()
