"""Questions with their answers in a passage: those of the file, and those that a rule makes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import data, retrieval
from minilm.questions import FILE, KINDS, READ, candidates, made, wanted, written
from minilm.retrieval import Passage

TEXT = 'On 4 March 1921 the "Blue Bird" of Lady Mary Smith sank in the Rhine. It cost 1,200 pounds, one of 35% more.'


@pytest.mark.data
def test_every_written_answer_stands_in_a_held_out_passage():
    corpus, library = data.load("wikipedia"), set(retrieval.wikipedia())
    rows, asked = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()], written()
    assert len(asked) == len(rows) == len({one.question for one in asked}) >= 80
    for one, line in zip(asked, rows, strict=True):
        assert one.answer == line["answer"] and one.passage.title == line["title"] and one.passage in library
    titles = {one.passage.title for one in asked}
    assert titles == {one.title for one in (*corpus.validation, *corpus.test)}


def test_candidates_have_kinds():
    found = {TEXT[span.start : span.end]: span.kind for span in candidates(TEXT)}
    assert found == {
        "4 March 1921": "date", "Blue Bird": "name", "Lady Mary Smith": "name", "Rhine": "name",
        "1,200": "number", "one": "number", "35%": "number",
    }  # fmt: skip


@given(st.lists(st.sampled_from(TEXT.split()), min_size=1, max_size=30).map(" ".join))
def test_candidates_do_not_overlap(text):
    spans = sorted(candidates(text))
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert all(text[span.start : span.end].strip() for span in spans)


@given(st.integers(0, 99), st.integers(1, 5))
def test_made_questions_ask_for_what_is_there_and_do_not_say_it(seed, each):
    passage = Passage("Ship", TEXT)
    asked = made([passage], seed, each)
    assert len(asked) <= each and asked == made([passage], seed, each)
    for one in asked:
        assert (one.start, one.end) in {span[:2] for span in candidates(TEXT)} and one.question.endswith("?")
        assert one.answer not in one.question, "the words around the answer, not the answer"
        kind = next(span.kind for span in candidates(TEXT) if span.start == one.start)
        assert kind == "name" or wanted(one.question) == kind


def test_the_seed_decides():
    passages = [Passage("Ship", TEXT)] * 20
    assert made(passages, seed=1) != made(passages, seed=2)


def test_names_may_begin_with_any_capital_where_a_text_is_read():
    text = "It was painted by Édouard Manet in Ålesund, and the rule has learnt of Paris."
    names = lambda kinds: [text[span.start : span.end] for span in candidates(text, kinds)]
    assert names(READ) == ["Édouard Manet", "Ålesund", "Paris"] and names(KINDS) == ["Manet", "Paris"]
    assert candidates(TEXT, READ) == candidates(TEXT)
