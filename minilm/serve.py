"""The demo: chat, complete, search and translate with the book's models, in a browser on this computer.

One page (``serve.html``), and addresses that take and give JSON. Models are loaded at first use.

Only this computer can reach it: it listens on a loopback address; answers to no other name, since a page from elsewhere
could rebind its own name to this address; and takes JSON only, which a foreign page cannot send unasked, and permits
none. It is for a lesson, not for the internet.

Not here: the page, what a request may hold (``minilm.request``), many requests for one model (``minilm.desk``), what
models do (``minilm.tools``), and how one looks inside (``minilm.interpret``).
Reference: the ASGI specification, https://asgi.readthedocs.io
"""

import atexit
import base64
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import chat, generate, machine, models, request, retrieval, tools
from .contract import LanguageModel
from .desk import FAULT, Desk, Lines
from .interpret import Watched, attention_maps
from .request import MOST_BYTES, MOST_TOKENS, SAMPLING, Form, Problem, checked, choice, fits, number, text
from .tokenizer import Tokenizer

ALTERNATIVES = 10
"""Likeliest tokens that are shown beside the chosen one."""

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""The names of this computer."""

# The addresses


class Demo:
    """The page and its addresses, over language models by name; searched is Wikipedia, or a folder of texts."""

    def __init__(self, names: Sequence[str], folder: Path | None = None):
        self.models = {name: Desk(name, partial(models.load, name)) for name in names}
        self.library = Desk("search", partial(shelf, folder))
        self.translator = Desk("translate", tools.translator)
        self.desks = [*self.models.values(), self.library, self.translator]
        which: Form = {"model": (choice(names), names[0])}
        self.forms: dict[str, Form] = {
            "chat": which | {"messages": (request.messages, ...)} | SAMPLING,
            "complete": which | {"prompt": (text, ...)} | SAMPLING,
            "attention": which | {"ids": (request.ids, ...)},
            "search": {"query": (text, ...), "k": (number(1, 20), 5), "how": (choice(list(retrieval.HOW)), "hybrid")},
            "translate": {"text": (text, ...), "to": (choice(("fr", "zh")), "fr")},
        }

    def app(self) -> ASGIApp:
        """The application, for any ASGI server."""
        routes = [Route("/", self.page), Route("/api/state", self.state)]
        routes += [Route(f"/api/{name}", self.answer, methods=["POST"]) for name in self.forms]
        return Guard(Starlette(routes=routes, exception_handlers={Problem: refuse, HTTPException: refuse, 500: refuse}))

    async def page(self, _: Request) -> Response:
        """The one page."""
        return HTMLResponse(PAGE)

    async def state(self, _: Request) -> Response:
        """What is loaded, and how many requests are inside."""
        state = {desk.name: {"state": desk.state, "inside": desk.inside} for desk in self.desks}
        return said({"models": list(self.models), "state": state, "most_tokens": MOST_TOKENS})

    async def answer(self, asked: Request) -> Response:
        """A form filled in, to the method of its name."""
        name = asked.url.path.removeprefix("/api/")
        return await getattr(self, name)(request.fields(await body(asked), self.forms[name]))

    async def chat(self, form: dict[str, Any]) -> Response:
        """A stream of ``{"text": piece}``."""
        talk = form["messages"]
        reply = partial(chat.reply, draft=generate.lookup)
        write = lambda model, units, _, how: ({"text": piece} for piece in reply(model, units, talk, **how))
        return await self.stream(form, "messages", chat.encode, write)

    async def complete(self, form: dict[str, Any]) -> Response:
        """A stream: the tokens of the prompt, then each new one, as `completion` tells of them."""
        return await self.stream(form, "prompt", beginning, completion)

    async def stream(self, form: dict[str, Any], field: str, encode: Callable, write: Callable) -> Response:
        """What ``write`` makes of a model, its tokenizer, the ids of a field, and how to sample."""
        desk = self.models[form["model"]]
        with ExitStack() as held:
            held.enter_context(desk.place())
            async with desk.turn() as (model, units):
                ids = checked(field, form[field], partial(encode, units))
            fits(field, len(ids), form["max_new_tokens"])
            items = write(model, units, ids, {name: form[name] for name in SAMPLING})
            return Lines(desk, items, held.pop_all())

    async def attention(self, form: dict[str, Any]) -> Response:
        """What `looks` finds."""
        fits("ids", len(form["ids"]))
        return await self.once(self.models[form["model"]], lambda one: checked("ids", form["ids"], partial(looks, one)))

    async def search(self, form: dict[str, Any]) -> Response:
        """The passages that fit a query best."""
        found = lambda library: {"hits": tools.hits(library, form["query"], form["k"], form["how"])}
        return await self.once(self.library, found)

    async def translate(self, form: dict[str, Any]) -> Response:
        """A translation."""

        def work(translator: Any) -> dict[str, str]:
            source = tools.source(form["text"], form["to"])
            fits("text", len(translator.encode(source)))
            return {"translation": translator([source])[0]}

        return await self.once(self.translator, work)

    async def once(self, desk: Desk, work: Callable[[Any], dict[str, Any]]) -> Response:
        """What ``work`` makes of a desk's thing, in one piece."""
        with desk.place():
            async with desk.turn() as thing:
                return said(await desk.worker.do(work, thing))

    def stop(self) -> None:
        """Do nothing more, and tell those who wait."""
        for desk in self.desks:
            desk.worker.stop()

    def leave(self) -> None:
        """After `stop`, end the program where work goes on: Python's own end aborts with a thread inside PyTorch."""
        if not all(desk.worker.ended(0.2) for desk in self.desks):
            sys.stdout.flush()
            os._exit(0)


def shelf(folder: Path | None) -> retrieval.Library:
    """The library, all its passages read, so that no search has to."""
    library = tools.library(folder)
    library.vectors  # noqa: B018
    return library


def beginning(units: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt. Raises ValueError where it has none, since a model goes on from something."""
    if not (ids := units.encode(prompt)):
        raise ValueError("the tokenizer leaves nothing of this text: write a word that the model can go on from")
    return ids


def completion(model: LanguageModel, units: Tokenizer, ids: list[int], how: dict[str, Any]) -> Iterator[dict]:
    """The tokens of the prompt, then each new token, its probability by the model itself, and what else it considered.

    The probabilities are those before the sampler reshapes them: at temperature 1, with nothing cut off.
    """
    show = lambda id: {"id": id, "text": units.token_bytes(id).decode(errors="backslashreplace")}
    yield {"prompt": [show(id) for id in ids]}
    watched = Watched(model)
    for id in generate.stream(watched, ids, stop=set(getattr(units, "specials", {}).values()), **how):
        probs = watched.scores.softmax(-1)
        top = probs.topk(min(ALTERNATIVES, len(probs)))
        others = [show(i) | {"probability": p} for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        yield show(id) | {"probability": probs[id].item(), "alternatives": others}


def looks(thing: tuple[LanguageModel, Tokenizer], ids: list[int]) -> dict[str, Any]:
    """Where the last token looks, by layer and head; ``first`` is the place of the first token that the model sees."""
    model, _ = thing
    if (largest := max(ids)) >= model.vocab_size:
        raise ValueError(f"{largest} is no token: ids are below {model.vocab_size}")
    window = ids[-model.context :] if model.context else ids
    maps = attention_maps(model, torch.tensor([window]), last=1)[:, 0, :, 0]
    return {"first": len(ids) - len(window), "weights": maps.double().round(decimals=4).tolist()}


async def body(asked: Request) -> bytes:
    """What a request holds. Raises Problem where it is too much, or nothing that a foreign page cannot send."""
    if asked.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the request is not said to be JSON: send the header Content-Type: application/json")
    content = bytearray()
    try:
        async for chunk in asked.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise Problem(413, f"a request holds at most {MOST_BYTES:,} bytes: send a shorter text")
    except ClientDisconnect as error:  # nobody hears it, and the terminal need not either
        raise Problem(400, "the request broke off: send it again") from error
    return bytes(content)


def said(content: Any, status: int = 200) -> Response:
    """A response in JSON; what is no character is escaped, so that anything can be quoted."""
    return Response(json.dumps(content), status, media_type="application/json")


async def refuse(_: Request, error: Exception) -> Response:
    """The response to a `Problem`, to an address that there is not, or to a fault of ours; its traceback is logged."""
    if isinstance(error, HTTPException):
        error = Problem(error.status_code, f"{error.detail}: open / in a browser")
    problem = error if isinstance(error, Problem) else Problem(500, FAULT)
    return said(problem.said, problem.status)


# For this computer alone


class Guard:
    """Turns away whoever calls this computer by another name, and tells browsers what the page may do, and no more."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        app = self.app
        if len(hosts) != 1 or re.sub(r":\d*$", "", hosts[0]).lower() not in HOSTS:
            told = Problem(
                400, f"this is a demo on one computer: open it as http://{HOSTS[0]}", "Host", ", ".join(hosts)
            )
            app = said(told.said, 400)
        await app(scope, receive, send_with_headers)


def policy(page: str) -> str:
    """What a browser may load for a page: its own script and style, known by their hashes, and answers from here.

    >>> policy("<style>p {}</style>").split("; ")[:3]
    ["default-src 'none'", "script-src 'none'", "style-src 'sha256-SNJDlN1Iy2mnt7DOjQIyDb2LQE6O5PQiSZomcdzawQ4='"]
    """
    allowed = []
    for kind in ("script", "style"):
        parts = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        allowed.append(
            " ".join([f"{kind}-src", *(f"'sha256-{digest}'" for digest in digests)]) if parts else f"{kind}-src 'none'"
        )
    rest = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return "; ".join(["default-src 'none'", *allowed, rest])


PAGE = Path(__file__).with_name("serve.html").read_text(encoding="utf-8")
HEADERS = [
    (b"content-security-policy", policy(PAGE).encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Server(uvicorn.Server):
    """A server that tells whoever waits for the demo before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, demo: Demo):
        super().__init__(config)
        self.demo = demo

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.demo.stop()
        atexit.register(self.demo.leave)
        await super().shutdown(sockets)


def run(names: Sequence[str], port: int = 8000, host: str = HOSTS[0], folder: Path | None = None) -> str:
    """Serve until Ctrl-C; the address that it was. A training that is broken off goes on when it is next asked for.

    Raises ValueError for an address that others could reach or a model that there is not, OSError for a port in use.
    """
    for name in names:
        models.check(name)
    shown = f"[{host}]" if ":" in host else host
    if shown not in HOSTS:
        raise ValueError(f"--host {host}: the demo serves this computer alone; use {HOSTS[0]}, or ::1")
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}: choose one from 0 to 65535")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"--host {host} --port {port} cannot be used ({error.strerror}): choose another port") from error
    with listener, machine.threads(), suppress(KeyboardInterrupt):
        address = f"http://{shown}:{listener.getsockname()[1]}"
        print(f"open {address} in a browser; Ctrl-C ends it", file=sys.stderr, flush=True)
        how = {"log_level": "warning", "lifespan": "off", "ws": "none", "server_header": False}
        demo = Demo(names, folder)
        Server(uvicorn.Config(demo.app(), timeout_graceful_shutdown=2, **how), demo).run(sockets=[listener])
    return address
