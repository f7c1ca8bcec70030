"""The demo from outside: what it answers, what it refuses and how, and how it treats those who wait or leave."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_book import CUT_OFF, browser, violations  # noqa: F401
from tiny import config

from minilm import chat, desk, generate, ngram, request, serve, tools
from minilm import models as all_models
from minilm.data import DataError
from minilm.gpt import GPT
from minilm.interpret import attention_maps
from minilm.retrieval import Library, Passage
from minilm.tokenizer import BPE

UNITS = BPE.train("the cat sat on the mat and the dog ran off, 低 cat", 300, ("<|endoftext|>", chat.START, chat.END))
HERE = "http://127.0.0.1:8000"


def model(**fields) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": UNITS.vocab_size, "context": 2048, "positions": "rotary", "tied": False}
    return GPT(config(**shape | fields)).eval()


class Slow:
    """A model that takes its time, counts its steps, and stops on the way to let us look."""

    vocab_size, context = UNITS.vocab_size, None

    def __init__(self):
        self.steps, self.busy, self.most_at_once, self.may = 0, 0, 0, threading.Event()
        self.may.set()

    def __call__(self, ids):
        self.busy += 1
        self.steps, self.most_at_once = self.steps + 1, max(self.most_at_once, self.busy)
        self.may.wait(5)
        time.sleep(0.005)
        self.busy -= 1
        return torch.nn.functional.one_hot(ids, self.vocab_size).float() * 9


class Phrasebook:
    """A translator that knows a phrase."""

    def __init__(self, of="phrases"):
        self.of = of

    def __call__(self, sources):
        return ["dans 3 jours" if source.endswith("French: in 3 days") else "?" for source in sources]

    def encode(self, source):
        return UNITS.encode(source)


@pytest.fixture
def models(monkeypatch):
    """Models by name, and in ``loaded`` how often each was asked for."""
    counts = ngram.AddK(ngram.count(torch.tensor(UNITS.encode("the cat sat on the mat")), 2, UNITS.vocab_size))
    known = {"tiny": model(), "short": model(context=8), "counts": counts, "slow": Slow()}

    def load(name):
        known["loaded"].append(name)
        if name == "gone":
            raise DataError("no network: connect and try again")
        return known[name], UNITS

    shelf = Library([Passage("Paris", "The capital of France.", 1), Passage("Bern", "A city by the river Aare.", 1)])
    shelf.vectors = torch.eye(2).double().numpy()
    known["loaded"] = []
    monkeypatch.setattr(all_models, "load", load)
    monkeypatch.setattr(tools, "library", lambda folder: shelf)
    monkeypatch.setattr(tools, "translator", Phrasebook)
    return known


@pytest.fixture
def demo(models):
    demo = serve.Demo(["tiny", "short", "counts", "slow", "gone"])
    yield demo
    demo.stop()


@pytest.fixture
def client(demo):
    with TestClient(demo.app(), base_url=HERE) as client:
        yield client


def lines(response) -> list[dict]:
    assert response.status_code == 200 and response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def error(response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()["error"]


# What it answers


def test_the_page_is_one_file_that_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.text.startswith("<!doctype html>") and "://" not in page.text
    rules = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert rules[kind].startswith("'sha256-") and "unsafe" not in rules[kind]
    assert "access-control-allow-origin" not in page.headers


def test_chat_streams_what_reply_says(client, models):
    talk = [{"role": "user", "content": "the cat"}]
    how = {"max_new_tokens": 20, "temperature": 1.0, "top_p": 1.0, "seed": 3}
    *pieces, end = lines(client.post("/api/chat", json={"messages": talk} | how))
    assert [piece["text"] for piece in pieces] == list(chat.reply(models["tiny"], UNITS, talk, **how))
    assert len(pieces) > 3 and end == {"done": True} and models["loaded"] == ["tiny"]


@pytest.mark.parametrize("name", ["tiny", "short", "counts"])
def test_complete_tells_the_probability_of_each_token(client, models, name):
    """Against the model asked for each token anew, without a cache, over the window that it can see."""
    how = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.95, "seed": 1}
    given, *tokens, end = lines(client.post("/api/complete", json={"model": name, "prompt": "the cat"} | how))
    net, ids = models[name], UNITS.encode("the cat")
    assert [one["id"] for one in given["prompt"]] == ids and end == {"done": True}
    assert [one["id"] for one in tokens] == generate.generate(net, ids, stop=set(UNITS.specials.values()), **how)
    for one in tokens:
        window = ids[-net.context :] if net.context else ids
        probs = net(torch.tensor([window]))[0, -1].softmax(-1)
        assert one["probability"] == pytest.approx(probs[one["id"]].item(), rel=1e-4)
        assert [other["probability"] for other in one["alternatives"]] == pytest.approx(
            probs.topk(10).values.tolist(), rel=1e-4
        )
        assert one["text"].encode() == UNITS.token_bytes(one["id"]) or "\\x" in one["text"]
        ids.append(one["id"])


@pytest.mark.parametrize(("name", "first"), [("tiny", 0), ("short", 5)])
def test_attention_is_the_last_row_of_the_maps(client, models, name, first):
    ids = list(range(20, 33))
    found = client.post("/api/attention", json={"model": name, "ids": ids}).json()
    expected = attention_maps(models[name], torch.tensor([ids[first:]]))[:, 0, :, -1]
    assert found["first"] == first
    torch.testing.assert_close(torch.tensor(found["weights"]), expected, atol=6e-5, rtol=0)


def test_search_and_translate(client):
    hits = client.post("/api/search", json={"query": "river", "how": "bm25"}).json()["hits"]
    assert [hit["title"] for hit in hits] == ["Bern", "Paris"] and hits[0]["score"] > 0
    assert client.post("/api/translate", json={"text": " in 3\ndays"}).json() == {"translation": "dans 3 jours"}


def test_models_are_loaded_once_at_first_use(client, models):
    before = client.get("/api/state").json()
    assert before["models"] == ["tiny", "short", "counts", "slow", "gone"] and models["loaded"] == []
    assert {one["state"] for one in before["state"].values()} == {"not loaded"}
    for _ in range(2):
        lines(client.post("/api/complete", json={"prompt": "the", "max_new_tokens": 2}))
    after = client.get("/api/state").json()["state"]
    assert models["loaded"] == ["tiny"] and after["tiny"] == {"state": "ready", "inside": 0}


# What it refuses

GOOD = {
    "chat": {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 2},
    "complete": {"prompt": "the", "max_new_tokens": 2},
    "attention": {"ids": [20, 21]},
    "search": {"query": "river", "how": "bm25"},
    "translate": {"text": "in 3 days"},
}


@pytest.mark.parametrize(
    ("path", "change", "field", "remedy"),
    [
        ("complete", {"prompt": ...}, "prompt", "give it"),
        ("complete", {"prompt": "  "}, "prompt", "not blank"),
        ("complete", {"prompt": 7}, "prompt", "give a text"),
        ("complete", {"prompt": "\ud800"}, "prompt", "lone surrogate"),
        ("complete", {"temperature": -1}, "temperature", "from 0 to 5"),
        ("complete", {"temperature": True}, "temperature", "from 0 to 5"),
        ("complete", {"temperature": float("nan")}, "temperature", "from 0 to 5"),
        ("complete", {"max_new_tokens": 2.0}, "max_new_tokens", "whole number"),
        ("complete", {"max_new_tokens": 0}, "max_new_tokens", "from 1"),
        ("complete", {"seed": 10**30}, "seed", "whole number"),
        ("complete", {"model": "/etc/passwd"}, "model", "choose one of tiny"),
        ("complete", {"model": ["tiny"]}, "model", "choose one of tiny"),
        ("complete", {"stop": 1}, "stop", "the fields are model, prompt"),
        ("complete", {"prompt": "cat " * 2000}, "prompt", "at most 1024"),
        ("complete", {"prompt": "\x04"}, "prompt", "leaves nothing of this text"),
        ("chat", {"messages": "hi"}, "messages", "give a list"),
        ("chat", {"messages": []}, "messages", "give one"),
        ("chat", {"messages": [{"role": "root", "content": "hi"}]}, "messages", "choose one of system"),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "messages", "give a text"),
        ("chat", {"messages": [{"role": "user", "content": "\udfff"}]}, "messages", "lone surrogate"),
        ("chat", {"messages": [{"role": "assistant", "content": "hi"}]}, "messages", "message of the user"),
        ("attention", {"ids": []}, "ids", "one or more"),
        ("attention", {"ids": [True]}, "ids", "token ids"),
        ("attention", {"ids": [20, 400]}, "ids", "400 is no token"),
        ("attention", {"ids": [20] * 1025}, "ids", "at most 1024"),
        ("attention", {"model": "counts"}, "ids", "no attention"),
        ("search", {"k": 21}, "k", "from 1 to 20"),
        ("search", {"how": "magic"}, "how", "hybrid"),
        ("translate", {"to": "de"}, "to", "choose one of fr, zh"),
        ("translate", {"text": "cat " * 2000}, "text", "at most 1024"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_a_remedy(client, monkeypatch, path, change, field, remedy):
    encode = BPE.encode  # some tokenizers leave characters out
    monkeypatch.setattr(BPE, "encode", lambda units, text: encode(units, text.replace("\x04", "")))
    body = {name: value for name, value in (GOOD[path] | change).items() if value is not ...}
    raw = json.dumps(body).encode()
    found = error(client.post(f"/api/{path}", content=raw, headers={"content-type": "application/json"}), 422)
    assert found["field"] == field and remedy in found["message"]
    value = change.get(field)
    if type(value) in (str, int) and len(repr(value)) <= 80:
        assert found["value"] == value


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"{", "application/json", 400, "no JSON"),
        (b"[1]", "application/json", 400, "no JSON object"),
        (b"[" * 50_000, "application/json", 400, "no JSON"),
        (b"\xff\xfe", "application/json", 400, "no JSON"),
        (b'{"k": ' + b"9" * 5000 + b"}", "application/json", 400, "no JSON"),
        (b'{"prompt": "' + b"a" * 70_000 + b'"}', "application/json", 413, "65,536 bytes"),
        (b'{"prompt": "the"}', "text/plain", 415, "Content-Type"),
        (b'{"prompt": "the"}', "application/x-www-form-urlencoded", 415, "Content-Type"),
    ],
)
def test_a_body_that_is_none_is_refused(client, body, kind, status, words):
    found = error(client.post("/api/complete", content=body, headers={"content-type": kind}), status)
    assert words in found["message"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), path=st.sampled_from(list(GOOD)))
def test_whatever_arrives_the_answer_is_json_and_never_a_fault(client, data, path):
    fields = [*GOOD[path], "model", "temperature", "seed", "other"]
    body = GOOD[path] | data.draw(st.dictionaries(st.sampled_from(fields), ANYTHING, max_size=3))
    raw = data.draw(st.just(json.dumps(body).encode()) | st.binary(max_size=40))
    response = client.post(f"/api/{path}", content=raw, headers={"content-type": "application/json"})
    if response.status_code == 200:
        assert response.text.splitlines()
    else:
        assert response.status_code in (400, 422) and error(response, response.status_code)["message"]


def test_another_name_for_this_computer_is_refused(client):
    for host in ("evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "0.0.0.0:8000", ""):
        found = error(client.get("/api/state", headers={"host": host}), 400)
        assert found["field"] == "Host" and "127.0.0.1" in found["message"]
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9999", "[::1]:8000"):
        assert client.get("/api/state", headers={"host": host}).status_code == 200


def test_other_addresses_and_methods_are_refused_in_json(client):
    assert "open /" in error(client.get("/nothing"), 404)["message"]
    error(client.get("/api/chat"), 405)
    error(client.options("/api/chat", headers={"origin": "http://evil.example"}), 405)


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(client, models):
    for _ in range(2):
        found = error(client.post("/api/complete", json={"model": "gone", "prompt": "the"}), 503)
        assert "gone cannot be loaded: no network: connect" in found["message"]
    assert models["loaded"] == ["gone", "gone"]
    assert client.get("/api/state").json()["state"]["gone"] == {"state": "cannot be loaded", "inside": 0}


def test_a_fault_of_ours_is_told_without_its_words(demo, models, monkeypatch):
    monkeypatch.setattr(serve, "looks", lambda *_: 1 / 0)
    monkeypatch.setattr(models["tiny"], "forward", lambda *_: 1 / 0)
    with TestClient(demo.app(), base_url=HERE, raise_server_exceptions=False) as client:
        assert error(client.post("/api/attention", json=GOOD["attention"]), 500)["message"] == desk.FAULT
        *_, end = lines(client.post("/api/complete", json=GOOD["complete"]))  # the status had gone out before
        assert end["error"]["message"] == desk.FAULT
        assert client.get("/api/state").json()["state"]["tiny"]["inside"] == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_it_listens_to_this_computer_alone(host):
    with pytest.raises(ValueError, match=r"this computer alone; use 127\.0\.0\.1"):
        serve.run(["smollm2"], host=host)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="choose another"):
        serve.run(["smollm2"], port=taken.getsockname()[1])


# Those who wait, and those who leave


@contextmanager
def running(app):
    """The demo behind a real server, as `serve.run` has it, and the address it listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def ask(address, path: str, body: dict) -> socket.socket:
    content = json.dumps(body).encode()
    head = f"POST /api/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    caller = socket.create_connection(address, timeout=10)
    caller.sendall(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return caller


def heard(caller: socket.socket) -> bytes:
    with caller:
        return b"".join(iter(lambda: caller.recv(65_536), b""))


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


LONG = {"model": "slow", "prompt": "the", "max_new_tokens": 500, "temperature": 0}


def test_many_at_once_are_served_one_after_the_other_and_too_many_refused(demo, models):
    body = LONG | {"max_new_tokens": 5}
    models["slow"].may.clear()
    with running(demo.app()) as address:
        callers = [ask(address, "complete", body) for _ in range(desk.QUEUE)]
        until(lambda: demo.models["slow"].inside == desk.QUEUE)
        refused = heard(ask(address, "complete", body))
        assert b"503 Service Unavailable" in refused and b"try again" in refused
        models["slow"].may.set()
        answers = [heard(caller) for caller in callers]
    assert all(answer.count(b'"probability"') >= 5 and b'{"done": true}' in answer for answer in answers)
    assert models["slow"].most_at_once == 1 and models["loaded"] == ["slow"] and demo.models["slow"].inside == 0


def test_other_models_and_the_page_do_not_wait(demo, models):
    models["slow"].may.clear()
    with running(demo.app()) as address:
        waiting = ask(address, "complete", LONG | {"max_new_tokens": 1})
        until(lambda: models["slow"].busy)
        assert b'{"done": true}' in heard(ask(address, "complete", GOOD["complete"]))
        models["slow"].may.set()
        assert b'{"done": true}' in heard(waiting)


def test_who_leaves_frees_the_model_at_once(demo, models):
    """One goes in the middle of a text, one while waiting for the turn; the third is served."""
    slow = models["slow"]
    with running(demo.app()) as address:
        first = ask(address, "complete", LONG)
        until(lambda: slow.steps > 3)
        second = ask(address, "complete", LONG)
        until(lambda: demo.models["slow"].inside == 2)
        second.close()
        first.close()
        assert b'{"done": true}' in heard(ask(address, "complete", LONG | {"max_new_tokens": 2}))
        assert slow.steps < 250 and not slow.busy
        until(lambda: demo.models["slow"].inside == 0)


def test_who_leaves_in_the_middle_of_a_request_is_no_fault(demo, capsys):
    with running(demo.app()) as address:
        head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
        with socket.create_connection(address, timeout=10) as caller:
            caller.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert b"100 Continue" in caller.recv(1000)  # the demo is reading
            caller.sendall(b'{"messages": ')
    assert capsys.readouterr().err == ""


# Ctrl-C

SERVED = """
import sys, time, torch
from minilm import __main__, models

class Endless:
    vocab_size, context = 300, None
    def __call__(self, ids):
        time.sleep(0.1)
        return torch.nn.functional.one_hot(ids, 300).float()

class Bytes:
    def encode(self, text): return list(text.encode())
    def token_bytes(self, id): return b"?"

def load(name):
    weight = torch.zeros(300, 300, requires_grad=True)
    while name == "training":
        for _ in range(20):
            (torch.randn(300, 300) @ weight).sum().backward()
    return Endless(), Bytes()

models.check, models.load = len, load
sys.exit(__main__.main(["serve", "--port", "0", "--models", "writing", "training"]))
"""


def state(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/api/state", timeout=30) as answer:
        return json.load(answer)["state"]


@pytest.mark.parametrize("name", ["writing", "training"])
def test_ctrl_c_ends_what_is_being_done_and_tells_who_waits(name):
    """One who is served, and one who waits for the turn; no word of it in the terminal, but the result."""
    command = [sys.executable, "-c", SERVED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            url = program.stderr.readline().split()[1]
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            first, second = (ask(address, "complete", LONG | {"model": name}) for _ in range(2))
            if name == "writing":
                first.settimeout(60)
                assert b"200 OK" in first.recv(15)
            else:
                until(lambda: state(url)[name] == {"state": "loading", "inside": 2})
            program.send_signal(signal.SIGINT)
            told = [heard(caller) for caller in (first, second)]
            printed, said = program.communicate(timeout=60)
        finally:
            program.kill()
    assert all(desk.ENDED.encode() in answer for answer in told)
    assert (program.returncode, json.loads(printed), said) == (0, {"served": url}, "")


def test_what_is_quoted_in_an_error_is_short():
    assert request.Problem(422, "no", "prompt", "a" * 500).said["error"]["value"] is None
    assert request.Problem(422, "no", "prompt", "a").said["error"] == {"message": "no", "field": "prompt", "value": "a"}


# The page


@pytest.fixture
def tab(browser, demo):  # noqa: F811
    """The page of a running demo, and in ``complaints`` what went wrong in it."""
    with running(demo.app()) as (host, port):
        here = f"http://{host}:{port}"
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce")
        tab.complaints = []
        tab.on("request", lambda one: None if one.url.startswith(here) else tab.complaints.append(one.url))
        tab.on("console", lambda one: tab.complaints.append(one.text) if one.type == "error" else None)
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.set_default_timeout(10_000)
        tab.goto(here)
        yield tab
        tab.close()


def fill(tab, name: str) -> None:
    """Opens a part of the page and has it do its work."""
    tab.get_by_role("tab", name=name, exact=True).click()
    panel = tab.get_by_role("tabpanel", name=name)
    if name == "Chat":
        panel.get_by_label("Your message").fill("the cat")
        panel.get_by_label("Your message").press("Enter")
        panel.get_by_role("log").locator(".assistant:not(.busy) p:not(:empty)").wait_for()
    elif name == "Complete":
        panel.get_by_label("Beginning").fill("the cat\nsat")
        panel.get_by_role("button", name="Continue").click()
        panel.locator("#look:not(.stale) #most tr").first.wait_for()
    elif name == "Search":
        panel.get_by_label("Question or words").fill("river")
        panel.get_by_label("Way to find").select_option("bm25")
        panel.get_by_role("button", name="Search").click()
        panel.get_by_text("A city by the river Aare.").wait_for()
    else:
        panel.get_by_role("button", name="Translate").click()
        panel.get_by_text("dans 3 jours").wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["Chat", "Complete", "Search", "Translate"])
def test_each_part_works_and_can_be_read_by_everybody(tab, name):
    fill(tab, name)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    for mode in ("light", "dark"):
        tab.emulate_media(color_scheme=mode)
        assert violations(tab) == [], mode
    for width in (360, 768):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate(CUT_OFF) == [], f"cut off at {width} px"
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []


@pytest.mark.browser
def test_keys_alone_lead_everywhere(tab):
    """From tab to tab, into a text, and from token to token; each token shows its probability and where it looked."""
    tab.get_by_role("tab", name="Chat").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("tab", name="Complete").get_attribute("aria-selected") == "true"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Control+A")
    tab.keyboard.type("the dog")
    for _ in range(2):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.locator("#tokens [role=option]").nth(30).wait_for()
    tab.locator("#most tr").first.wait_for()
    tab.locator("#tokens [aria-selected=true]").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    chosen = tab.locator("#tokens [aria-selected=true]")
    assert chosen.evaluate("(one) => [...one.parentElement.children].indexOf(one)") == 2
    title = tab.locator("#token-title").text_content()
    assert title.startswith("New token 3, ") and title.split(": ")[-1] in chosen.get_attribute("aria-label")
    assert tab.locator("#alternatives td.number").count() == serve.ALTERNATIVES
    tab.get_by_label("Layer").select_option("1")
    tab.get_by_label("Head").select_option("2")
    assert tab.complaints == []


@pytest.mark.browser
def test_the_attention_shown_is_that_of_the_chosen_head(tab, models):
    fill(tab, "Complete")
    given = [*UNITS.encode("the cat\nsat")]
    tab.get_by_label("Layer").select_option("1")
    tab.get_by_label("Head").select_option("3")
    weights = attention_maps(models["tiny"], torch.tensor([given]))[1, 0, 2, -1]
    shown = tab.evaluate(
        "[...document.querySelectorAll('#seen span')].map((one) => one.style.getPropertyValue('--w') ** 2)"
    )
    torch.testing.assert_close(torch.tensor(shown), weights, atol=1e-4, rtol=0)


@pytest.mark.browser
def test_a_new_conversation_knows_nothing_of_the_old_one(tab):
    """Not even of an answer that was still being written."""
    sent = []
    tab.on("request", lambda one: sent.append(one.post_data_json["messages"]) if one.url.endswith("/chat") else None)
    panel = tab.get_by_role("tabpanel", name="Chat")
    for text in ("the cat", "the dog"):
        panel.get_by_label("Your message").fill(text)
        panel.get_by_label("Your message").press("Enter")
        panel.locator(".assistant:not(.busy) p:not(:empty)").nth(len(sent) - 1).wait_for()
    assert [len(talk) for talk in sent] == [1, 3] and sent[1][0]["content"] == "the cat"
    tab.get_by_label("Language model").select_option("slow")
    panel.get_by_label("Your message").fill("the mat")
    panel.get_by_label("Your message").press("Enter")
    panel.locator(".busy p:not(:empty)").wait_for()
    panel.get_by_role("button", name="New conversation").click()
    panel.get_by_role("button", name="Send", disabled=False).wait_for()
    assert panel.locator(".turn").count() == 0
    tab.get_by_label("Language model").select_option("tiny")
    panel.get_by_label("Your message").fill("off")
    panel.get_by_label("Your message").press("Enter")
    panel.locator(".assistant:not(.busy) p:not(:empty)").wait_for()
    assert [message["content"] for message in sent[-1]] == ["off"]


@pytest.mark.browser
def test_stop_stops_and_what_is_wrong_is_said(tab, models):
    tab.get_by_label("Language model").select_option("slow")
    tab.get_by_role("tab", name="Complete").click()
    panel = tab.get_by_role("tabpanel", name="Complete")
    panel.get_by_text("How the text is drawn").click()
    panel.get_by_label("Most new tokens").fill("500")
    panel.get_by_role("button", name="Continue").click()
    panel.get_by_role("option").nth(3).wait_for()
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_role("button", name="Continue", disabled=False).wait_for()
    steps = models["slow"].steps
    time.sleep(0.2)
    assert steps - 1 <= models["slow"].steps <= steps + 1 < 400
    panel.get_by_label("Beginning").fill("cat " * 3000)
    panel.get_by_role("button", name="Continue").click()
    panel.get_by_role("alert").filter(has_text="at most 1024").wait_for()
    assert [one for one in tab.complaints if "422" not in one] == []


@pytest.mark.browser
def test_every_number_that_is_possible_is_sent_and_of_another_the_browser_says_what_is_wrong(tab):
    sent = []
    tab.on("request", lambda one: sent.append(one.post_data_json) if one.url.endswith("/complete") else None)
    tab.get_by_role("tab", name="Complete").click()
    panel = tab.get_by_role("tabpanel", name="Complete")
    fields = {"Temperature": "0.755", "Top-p": "0.955", "Seed": str(2**31), "Most new tokens": "3"}
    for wrong in (None, "", "0.5"):
        panel.get_by_text("How the text is drawn").click()
        for label, value in (fields if wrong is None else {"Most new tokens": wrong}).items():
            panel.get_by_label(label).fill(value)
        panel.get_by_text("How the text is drawn").click()
        assert not panel.get_by_label("Seed").is_visible()
        panel.get_by_role("button", name="Continue", disabled=False).click()
        if wrong is None:
            panel.get_by_role("option").first.wait_for()
            panel.get_by_role("button", name="Continue", disabled=False).wait_for()
        else:
            panel.get_by_label("Most new tokens").and_(tab.locator(":focus")).wait_for()
            panel.get_by_text("How the text is drawn").click()
    how = {"temperature": 0.755, "top_p": 0.955, "seed": 2**31, "max_new_tokens": 3}
    assert [one | how for one in sent] == sent and len(sent) == 1
    assert tab.complaints == []


@pytest.mark.browser
def test_what_is_shown_belongs_to_the_text_that_was_sent_and_a_chosen_token_stays_chosen(tab, models):
    tab.get_by_label("Language model").select_option("slow")
    tab.get_by_role("tab", name="Complete").click()
    panel = tab.get_by_role("tabpanel", name="Complete")
    models["slow"].may.clear()
    panel.get_by_label("Beginning").fill("the cat")
    panel.get_by_role("button", name="Continue").click()
    panel.get_by_label("Beginning").fill("the dog")
    models["slow"].may.set()
    panel.get_by_role("option").nth(3).click()
    panel.get_by_role("button", name="Continue", disabled=False).wait_for()
    assert tab.locator("#given").text_content() == "the cat"
    assert tab.locator("#token-title").text_content().startswith("New token 4, ")
