"""Many requests, one model: it is loaded at first use and serves one request at a time, in the order they come.

Others wait, and where too many wait the next is told so. A text is sent line by line while it is written; when its
reader goes away, the writing stops at the next token.

Not here: what is served (``minilm.serve``).
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any

from anyio.to_thread import run_sync
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .data import DataError
from .request import Problem

QUEUE = 8
"""Requests that one model works on or lets wait."""

FAULT = "a fault of the demo: the terminal says more"
log = logging.getLogger(__name__)


class Desk:
    """Something that is loaded at first use and serves one request at a time."""

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name, self.make, self.lock = name, make, asyncio.Lock()
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
                await run_sync(self.load)
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
                async for item in iterate_in_threadpool(items):
                    yield json.dumps(item) + "\n"
            except Exception as error:  # the status has been sent, so it must be said here
                log.error(FAULT, exc_info=error)
                end = Problem(500, FAULT).said
        yield json.dumps(end) + "\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            async with aclosing(self.body_iterator):
                await super().__call__(scope, receive, send)
