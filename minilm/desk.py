"""Many requests, one model: it is loaded at first use and serves one request at a time, in the order they come.

Others wait, and where too many wait the next is told so. A text is sent line by line while it is written; when its
reader goes away, the writing stops at the next token.

Not here: what is served (``minilm.serve``).
"""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from anyio import CancelScope
from anyio.lowlevel import checkpoint
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .data import DataError
from .request import Problem

QUEUE = 8
"""Requests that one model works on or lets wait."""

FAULT = "a fault of the demo: the terminal says more"
ENDED = "the demo has been ended: start it again, and ask again"
log = logging.getLogger(__name__)


class Worker:
    """One thread, which does one piece of work at a time, and which the end of the program need not wait for.

    It is always the same, since PyTorch starts helpers for each thread that calls it.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.jobs: SimpleQueue[tuple[Future, Callable[[], Any]] | None] = SimpleQueue()
        self.result: Future = Future()
        self.stopped = False

    async def do(self, work: Callable, *args: Any) -> Any:
        """What ``work`` gives. Raises Problem where the worker is stopped before that."""
        await checkpoint()  # who has gone asks for no more
        if self.stopped:
            raise Problem(503, ENDED)
        if self.thread is None:
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()
        self.result = Future()
        self.jobs.put((self.result, partial(work, *args)))
        with CancelScope(shield=True):  # one piece of work at a time, whoever goes meanwhile
            return await asyncio.wrap_future(self.result)

    def run(self) -> None:
        """What the thread does."""
        for result, work in iter(self.jobs.get, None):
            with suppress(InvalidStateError):  # it came too late: `stop` has given a result
                try:
                    result.set_result(work())
                except BaseException as error:
                    result.set_exception(error)
            del result, work  # they hold what a request held

    def stop(self) -> None:
        """Begin nothing more, and tell whoever waits, at once."""
        self.stopped = True
        if self.thread:
            with suppress(InvalidStateError):
                self.result.set_exception(Problem(503, ENDED))
            self.jobs.put(None)

    def ended(self, seconds: float) -> bool:
        """Whether the thread has come to its end, or does so within some seconds of a `stop`."""
        if self.thread:
            self.thread.join(seconds)
        return self.thread is None or not self.thread.is_alive()


class Desk:
    """Something that is loaded at first use and serves one request at a time."""

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name, self.make, self.lock, self.worker = name, make, asyncio.Lock(), Worker()
        self.thing: Any = None
        self.state, self.inside = "not loaded", 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue. Raises Problem where there is none."""
        if self.inside >= QUEUE:
            raise Problem(503, f"{self.name} is busy, {self.inside} requests are before you: try again in a minute")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Any]:
        """What stands on the desk, for one request alone. Raises Problem where it cannot be loaded."""
        async with self.lock:
            if self.thing is None:
                await self.worker.do(self.load)
            yield self.thing

    def load(self) -> None:
        """Load it, and say how that goes."""
        self.state = "loading"
        try:
            self.thing, self.state = self.make(), "ready"
        except (DataError, ValueError, OSError) as error:
            raise Problem(503, f"{self.name} cannot be loaded: {error}") from error
        finally:
            if self.thing is None:
                self.state = "cannot be loaded"


class Lines(StreamingResponse):
    """One JSON object a line, each sent as soon as it is known.

    The desk is taken while lines are made. ``held`` is given back at the end, however it comes: after the last line, or
    when the reader has gone.
    """

    def __init__(self, desk: Desk, items: Iterator[dict[str, Any]], held: ExitStack):
        super().__init__(self.lines(desk, items), media_type="application/x-ndjson")
        self.held = held

    async def lines(self, desk: Desk, items: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
        """The objects, and one that says how it ended."""
        end: dict[str, Any] = {"done": True}
        async with desk.lock:
            try:
                while item := await desk.worker.do(next, items, None):
                    yield json.dumps(item) + "\n"
            except Problem as problem:
                end = problem.said
            except Exception as error:  # the status has been sent, so it must be said here
                log.error(FAULT, exc_info=error)
                end = Problem(500, FAULT).said
        yield json.dumps(end) + "\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            async with aclosing(self.body_iterator):
                await super().__call__(scope, receive, send)
