"""Headlines, translations and counts: prompts hold what they should, adapters are kept, known pairs come back."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nltk.util import ngrams

from minilm import chat, data, evaluate, llama, lora, multitask, writing
from minilm.gpt import GPT
from minilm.tokenizer import BPE, Characters
from minilm.transformer import Config
from minilm.writing import Article, TranslationMemory, grams

UNITS = BPE.train("Write a headline for this news article. rain stops play, it rained", 300, (chat.START, chat.END))
SHAPE = Config(UNITS.vocab_size, context=256, d_model=16, n_layers=1, n_heads=2)
NEWS = [(f"Rain stops play {n}\n\nIt rained on day {n}.\n\nMore tomorrow.", 0) for n in range(6)]
TOKENS = st.lists(st.integers(0, 3), max_size=12)


# What can be counted


@given(tokens=TOKENS, n=st.integers(1, 5))
def test_runs_are_those_of_nltk(tokens, n):
    assert grams(tokens, n) == list(ngrams(tokens, n))


@given(tokens=TOKENS, n=st.integers(1, 4))
def test_repeated_runs_are_counted_one_by_one(tokens, n):
    runs = list(ngrams(tokens, n))
    again = sum(run in runs[:place] for place, run in enumerate(runs))
    assert writing.repeated(tokens, n) == pytest.approx(again / len(runs) if runs else 0)


@given(tokens=TOKENS, source=TOKENS, n=st.integers(1, 4))
def test_a_text_is_a_copy_of_itself(tokens, source, n):
    known = set(grams(source, n))
    share = writing.copied(tokens, known, n)
    assert 0 <= share <= 1
    assert writing.copied(source, known, n) == (len(source) >= n)
    if source and len(tokens) >= n:
        assert writing.copied([9] * len(tokens), known, n) == 0


def test_what_the_source_does_not_hold_is_invented():
    small = writing.usually_small(["The cut was deep. A cut, said Mr Brown.", "Brown was here; the Bank of England."])
    assert {"cut", "was"} <= small and not {"brown", "england"} & small
    body = "Mr Brown cut 1,500 jobs at Ford in 2004."
    assert writing.invented("Brown Was To Cut 1,500 jobs", body, small | {"to"}) == []
    assert writing.invented("Ford's rival Fiat cuts 1500 jobs in 2005", "Ford's. " + body, small) == [
        "Fiat", "1500", "2005"
    ]  # fmt: skip


def test_prices_are_those_of_the_ruler():
    units = Characters.train("\nabcdefgh")
    torch.manual_seed(0)
    model = GPT(Config(units.vocab_size, context=8, d_model=16, n_layers=1, n_heads=2)).double().eval()
    texts = ["abc", "hgfedcba"]  # the second fills the context
    for text, price in zip(texts, writing.prices(model, units, texts), strict=True):
        log_probs = model(torch.tensor([units.encode("\n" + text[:-1])]))[0].log_softmax(-1)
        nats = -sum(log_probs[t, id].item() for t, id in enumerate(units.encode(text)))
        assert price == pytest.approx(nats / math.log(2) / len(text))
        assert price == pytest.approx(evaluate.score(model, units, "\n" + text).bits_per_byte)
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        writing.prices(model, units, ["a", ""])


# Headlines


def test_a_request_holds_the_opening_and_the_title_is_the_answer():
    long = Article("Rain stops play", "It rained. " * 100)
    example = writing.headline(UNITS, long)
    prompt, answer = (UNITS.decode(ids) for ids in example)
    assert writing.ASK.strip() in prompt and prompt.count(" rained.") == writing.OPENING / 2
    assert "stops" not in prompt and answer == f"Rain stops play{chat.END}"


class Echo:
    """Answers every prompt with the number of its user's turns."""

    vocab_size, context = UNITS.vocab_size, None

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, self.vocab_size)
        for row, text in enumerate(ids.tolist()):
            turns = UNITS.decode(text).count("user\n")
            logits[row, :, UNITS.encode(str(turns))[0]] = 9
        return logits


def test_shots_are_earlier_turns_and_an_answer_is_one_line():
    shots = [writing.article(text) for text, _ in NEWS[:2]]
    assert writing.headlines(Echo(), UNITS, ["a", "b c", "d"], batch_size=2) == ["1" * 20] * 3
    assert writing.headlines(Echo(), UNITS, ["a"], shots) == ["3" * 20]
    assert writing.one_line(' **"Rain" stops play**\nmore') == 'Rain" stops play'
    assert writing.one_line("Headline: Rain") == "Rain" and writing.one_line("") == ""


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A home of its own, and a model so small that it is trained in a moment."""
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))

    def load(name):
        torch.manual_seed(3)
        return GPT(SHAPE).eval(), UNITS

    monkeypatch.setattr(llama, "load", load)
    monkeypatch.setattr(data, "load_labelled", lambda name: SimpleNamespace(train=NEWS))
    return tmp_path


def test_the_headliner_learns_and_only_its_adapter_is_kept(small, monkeypatch, capsys):
    run = replace(writing.HEADLINES, steps=6, eval_every=6, learning_rate=0.02, dtype="float32")
    first, _ = writing.headliner(run=run)
    assert "training headlines" in capsys.readouterr().err and not list(lora.adapters(first))
    base, item = llama.load("smollm2")[0], writing.headline(UNITS, writing.article(NEWS[0][0]))
    moved = {name for name, p in first.named_parameters() if not torch.equal(p, base.state_dict()[name])}
    assert moved == {f"stack.blocks.0.{part}.weight" for part in
                     ("attention.qkv", "attention.out", "mlp.inner", "mlp.outer")}  # fmt: skip

    def price(model):
        ids = torch.tensor(item.prompt + item.answer)
        return evaluate.nll(model, ids)[-len(item.answer) :].mean()

    assert price(first) < price(base) - 0.1
    (kept,) = small.glob("models/headlines-*/checkpoint.safetensors")
    assert kept.stat().st_size < 4 * sum(p.numel() for p in base.parameters())
    monkeypatch.setattr("minilm.trainer.Run.advance", None)
    second, _ = writing.headliner(run=run)
    for ours, again in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, again)


# Translation


def test_interface_strings_are_learnt_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    monkeypatch.setattr(data, "load_parallel", lambda name, split: (("Open file", "打开文件"), ("Close", "关闭")))
    monkeypatch.setattr(multitask, "SHAPE", replace(multitask.SHAPE, d_model=32, n_heads=2, n_layers=1))
    run = replace(writing.STRINGS, steps=40, batch_size=8, eval_every=40, learning_rate=0.02)
    asked = [writing.PREFIX + text for text in ("Open file", "Close")]
    assert writing.interface(run=run)(asked) == ["打开文件", "关闭"]
    monkeypatch.setattr("minilm.trainer.Run.advance", None)
    assert writing.interface(run=run)(asked[1:]) == ["关闭"]


def test_the_memory_knows_what_it_was_given():
    pairs = [("Open file", "1"), ("Open folder", "2"), ("Close window", "3")]
    memory = TranslationMemory(pairs)
    assert memory([source for source, _ in pairs]) == ["1", "2", "3"]
    assert memory(["open the files", "closing windows"]) == ["1", "3"]
    [best] = memory.nearest(["Open folders"], k=2)
    assert best == [pairs[1], pairs[0]]
