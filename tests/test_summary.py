"""Summaries by choosing: PageRank against eigenvectors, choices against a search through all of them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minilm.metrics import rouge
from minilm.retrieval import words
from minilm.summary import DAMPING, HOW, chosen, oracle, pagerank, similarity, summarise, textrank

TEXTS = [
    "Red hens lay eggs.",
    "Foxes eat red hens.",
    "It rained.",
    "Hens fear foxes, and foxes fear dogs.",
    "It rained.",
]


@given(arrays(float, (6, 6), elements=st.floats(0, 5)))
def test_pagerank_is_the_leading_eigenvector(weights):
    out = weights.sum(1, keepdims=True)
    steps = np.where(out > 0, weights / np.where(out > 0, out, 1), 1 / 6)
    values, vectors = np.linalg.eig((DAMPING * steps + (1 - DAMPING) / 6).T)
    leading = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(pagerank(weights), leading / leading.sum(), atol=1e-8)


def test_similarity_is_its_formula():
    table = similarity(TEXTS)
    assert np.array_equal(table, table.T) and not table.diagonal().any()
    shared = {"red", "hens"} & set(words(TEXTS[1]))
    assert table[0, 1] == pytest.approx(len(shared) / (math.log(4) + math.log(4)))
    assert table[0, 2] == 0
    assert np.argmax(textrank(TEXTS)) in (1, 3), "sentences that share words with others"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 12), st.randoms())
def test_chosen_fits_and_nothing_better_was_left(lengths, most, rng):
    texts = [" ".join(f"w{i}" for _ in range(n)) for i, n in enumerate(lengths)]
    scores = rng.sample(range(100), len(texts))
    taken = chosen(texts, scores, most)
    assert taken == sorted(set(taken)) and scores.index(max(scores)) in taken
    used = sum(lengths[i] for i in taken)
    assert used <= most or len(taken) == 1
    for i in set(range(len(texts))) - set(taken):
        ahead = sum(lengths[j] for j in taken if scores[j] > scores[i])
        assert ahead + lengths[i] > most, "it would have had room before those that score less"


def test_sentences_are_not_said_twice():
    assert chosen(TEXTS, [0, 0, 9, 0, 8], most=4) == [2]


def test_oracle_beats_every_way():
    reference, most = "Foxes fear dogs; hens fear foxes.", 11
    best = oracle(TEXTS, reference, most)
    mark = lambda some: rouge([" ".join(TEXTS[i] for i in some)], [reference], "rouge1").value
    assert sum(len(TEXTS[i].split()) for i in best) <= most
    for n in (1, 2):
        assert all(mark(some) <= mark(best) for some in itertools.combinations(range(5), n))


def test_summarise_keeps_the_order_and_refuses():
    text = " ".join(TEXTS[:4])
    made = summarise(text, most=11, how="textrank")
    assert len(made.split()) <= 11
    assert made == " ".join(one for one in TEXTS[:4] if one in made), "whole sentences in their order"
    with pytest.raises(ValueError, match=f"choose one of {', '.join(HOW)}"):
        summarise(text, how="magic")
    with pytest.raises(ValueError, match="empty"):
        summarise("  ")


def test_chinese_is_summarised_by_sentences():
    text = "今天下雨。小明在家。他有一只猫。猫在睡觉。小明很高兴。"
    assert summarise(text, most=9, how="first") == "今天下雨。小明在家。"
    made = summarise(text, most=10, how="textrank")
    assert 4 <= len(made.replace("。", "")) <= 10 and "猫" in made, "the sentences that share characters with others"
    assert oracle(["今天下雨。", "他有一只猫。"], "一只猫", most=6) == [1]
