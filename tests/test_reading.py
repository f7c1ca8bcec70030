"""Readers: rows against the tokenizer, spans against the passage, greedy answers against `generate_batch`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config
from torch import nn

from minilm import chat, questions
from minilm.contract import loss
from minilm.encoder import BERT
from minilm.generate import generate_batch
from minilm.gpt import GPT
from minilm.heads import SpanHead
from minilm.questions import Question
from minilm.reading import SpanReader, ask, batch, look_up, prompt, read, row
from minilm.retrieval import Library, Passage
from minilm.tokenizer import BPE
from minilm.wordpiece import SPECIALS, WordPiece

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789?.,"
UNITS = WordPiece([*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "river"])
PASSAGE = Passage("Rivers", "Two rivers, Aare and Rhône, flow by Bern.")


@given(st.text("aé Zx.,9語 ", max_size=40), st.integers(20, 60))
def test_a_row_is_that_of_the_tokenizer(text, length):
    made = row(UNITS, "where?", text, length)
    ids, types = UNITS.row("where?", text, length)
    assert made.ids == ids and made.types == types
    assert len(made.places) == len(ids) - made.first - 1
    for (start, end), id in zip(made.places, ids[made.first :], strict=False):
        assert id in UNITS.encode(text[start:end]), "a token stands where its word does"


def test_targets_are_the_tokens_of_the_answer():
    some = [Question("which river?", PASSAGE, 21, 26), Question("how many?", PASSAGE, 0, 3)]
    assert [one.answer for one in some] == ["Rhône", "Two"]
    made = batch(UNITS, some)
    ids, mask, types = made.inputs
    for one, line, (first, last) in zip(some, ids, made.targets.tolist(), strict=True):
        assert line[first : last + 1].tolist() == UNITS.encode(one.answer)
    assert not types[~mask].any() and loss(torch.zeros(2, 2, ids.shape[1]), made.targets) > 0
    with pytest.raises(ValueError, match="outside the row"):
        batch(UNITS, [Question("?", Passage("A", "a " * 300 + "end"), 600, 603)])


class Pointing(nn.Module):
    """Scores the token with the highest id as the first and the last of the answer."""

    def forward(self, ids, mask, types):
        scores = ids.float().masked_fill(~(mask & (types == 1)), -math.inf)
        return torch.stack([scores, scores], 1)


def test_answers_are_words_of_the_passage_in_the_order_asked():
    texts = [PASSAGE, Passage("Empty", ""), Passage("Short", "One river.")]
    found = SpanReader(Pointing(), UNITS)(["who?", "what?", "which?"], texts, batch_size=2)
    assert [one.text for one in found] == ["Bern", "", "river"], "a name if there is one, else anything"
    assert found[1].score == -math.inf and found[0].passage is PASSAGE
    free = SpanReader(Pointing(), UNITS)(["who?", "how many?"], [PASSAGE, PASSAGE], kinds=False)
    assert [one.text for one in free] == ["rivers", "rivers"]
    [number] = SpanReader(Pointing(), UNITS)(["how many?"], [Passage("A", "Bern has 7 or 9 parks.")])
    assert number.text == "9"


def test_untrained_spans_are_pieces_of_the_passage():
    encoder = BERT(config(vocab_size=UNITS.vocab_size, context=224, norm_first=False, d_model=32)).eval()
    head = SpanHead(encoder)
    nn.init.normal_(head.head.weight)
    [found] = SpanReader(head.eval(), UNITS)(["who?"], [PASSAGE])
    assert found.text and found.text in PASSAGE.text


def test_look_up_takes_the_likeliest_span_of_the_likeliest_passage(monkeypatch):
    library = Library([PASSAGE, Passage("Lakes", "No river, rivers or Water."), Passage("Hills", "Up and down.")])
    monkeypatch.setattr(library, "dense", lambda queries: np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]]))
    reader, asked = SpanReader(Pointing(), UNITS), ["rivers", "Bern"]
    found = look_up(asked, library, reader, k=2, how="bm25")
    for q, one in enumerate(found):
        order = np.argsort(-library.bm25(asked)[q], kind="stable")[:2]
        each = reader([asked[q]] * 2, [library.passages[i] for i in order])
        scores = [answer.score + 20 * library.dense(asked)[q, i] for answer, i in zip(each, order, strict=True)]
        assert one.score == pytest.approx(max(scores)) and one.text == each[int(np.argmax(scores))].text
        assert one.passage in library.passages and one.text in one.passage.text
    with pytest.raises(ValueError, match="at least 1"):
        look_up(asked, library, reader, k=0)


def test_ask_is_greedy_and_knows_how_likely_its_answers_are():
    units = BPE.train("hello there, who is it? " * 9, 300, (chat.START, chat.END))
    torch.manual_seed(0)
    model = GPT(config(vocab_size=units.vocab_size, context=256, d_model=32, positions="rotary")).eval()
    messages = ["who?", "hello there, who is it", "hello"]
    found = ask(model, units, messages, max_new_tokens=6, batch_size=2)
    prompts = [chat.encode(units, [{"role": "user", "content": text}]) for text in messages]
    expected = generate_batch(model, prompts, 6, temperature=0.0, stop={units.specials[chat.END]})
    assert [one.text for one in found] == [units.decode(ids) for ids in expected]
    for one, start, ids in zip(found, prompts, expected, strict=True):
        ids = ids if len(ids) == 6 else [*ids, units.specials[chat.END]]
        logits = model(torch.tensor([start + ids]))[0, len(start) - 1 : -1].log_softmax(-1)
        assert one.score == pytest.approx(logits.gather(1, torch.tensor(ids)[:, None]).sum().item(), abs=1e-3)


def test_the_prompt_holds_question_and_passage():
    assert prompt("Who?") == "Who?" and prompt("Who?", "A text.").startswith("A text.\n\n") and questions.FILE.exists()


@pytest.mark.parametrize("end", [" The river by Bern is Zzz.", " and Zzz"])
def test_a_long_passage_is_read_to_its_end(monkeypatch, end):
    """What follows more words than a row holds is found, whether or not sentences can be told apart."""
    monkeypatch.setattr(Library, "dense", lambda self, queries: np.zeros((len(queries), len(self.passages))))
    filler = " ".join(["One two, three four." if "." in end else "one two"] * 150)
    units = WordPiece([*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "one", "two", "zzz"])
    reader = SpanReader(Pointing(), units)
    texts = [PASSAGE, Passage("Long", filler + end), Passage("Late", f"{filler}\n\n{end}")]
    found = read(["who?"] * 3, texts, reader)
    assert found[0] == reader(["who?"], [PASSAGE])[0], "a short one is read as it is"
    for one in found[1:]:
        assert one.text == "Zzz" and one.passage.text in filler + end
        assert len(row(units, "who?", one.passage.text, 999).ids) <= 224, "all of it was read"
    assert found[2].passage == Passage("Late", end.strip(), 2)


def test_a_capital_may_have_an_accent():
    [found] = SpanReader(Pointing(), UNITS)(["Who?"], [Passage("A", "It is by Édouard Élan.")])
    assert found.text == "Édouard Élan"
