"""Summaries by choosing: the sentences of a text that stand for the rest of it.

Each way gives every sentence a score; `chosen` takes the best ones that a number of words has room for, in the order
of the text. `textrank` asks which sentences share words with many that do, `centroid` which come nearest to the mean of
all their vectors. `oracle` looks at the reference, and so says how far choosing could get.

Not here: summaries in words of their own (``minilm.writing``). Letters: N sentences, D width.
References: Mihalcea & Tarau 2004 (TextRank); Brin & Page 1998 (the walk behind it); Radev et al. 2004 (centroids).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .retrieval import counted, joined, n_words, sentences, vectors, words

DAMPING = 0.85
"""How often the walk follows a similarity; else it jumps anywhere."""


def similarity(texts: Sequence[str]) -> Float[np.ndarray, "N N"]:
    """Words in common, over the logarithms of both lengths; zero of a sentence with itself.

    >>> similarity(["red green blue", "red green", "black white"]).round(2)
    array([[0.  , 1.12, 0.  ],
           [1.12, 0.  , 0.  ],
           [0.  , 0.  , 0.  ]])
    """
    bags = [set(words(text)) for text in texts]
    table = np.zeros((len(bags), len(bags)))
    for i, one in enumerate(bags):
        for j, other in enumerate(bags[:i]):
            length = math.log(max(1, len(one))) + math.log(max(1, len(other)))
            table[i, j] = table[j, i] = len(one & other) / length if length else 0.0
    return table


def pagerank(weights: Float[np.ndarray, "N N"], tolerance: float = 1e-10) -> Float[np.ndarray, " N"]:
    """Where a walk spends its time that goes on from i to j in proportion to ``weights[i, j]``, or jumps.

    From a place without any way out it jumps. Repeating the step converges, since each shrinks the error by `DAMPING`.

    >>> pagerank(np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])).round(3)
    array([0.486, 0.257, 0.257])
    """
    n, out = len(weights), weights.sum(1, keepdims=True)
    steps = np.where(out > 0, weights / np.where(out > 0, out, 1), 1 / n)
    here = np.full(n, 1 / n)
    while True:
        there = (1 - DAMPING) / n + DAMPING * here @ steps
        if np.abs(there - here).sum() < tolerance:
            return there
        here = there


def textrank(texts: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The `pagerank` of sentences in the graph of their `similarity`."""
    return pagerank(similarity(texts))


def centroid(texts: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The product of each sentence's vector by MiniLM with the mean of all."""
    table = vectors(texts)
    return table @ table.mean(0)


def first(texts: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The earlier, the better."""
    return -np.arange(len(texts), dtype=float)


HOW: dict[str, Callable[[Sequence[str]], Float[np.ndarray, " N"]]] = {
    "centroid": centroid,
    "textrank": textrank,
    "first": first,
}
"""The ways to score sentences, by name."""


def chosen(texts: Sequence[str], scores: ArrayLike, most: int) -> list[int]:
    """The best sentences that ``most`` words have room for, in order; what is too long for the rest is passed over.

    Words are counted by `minilm.retrieval.n_words`. One sentence is always taken, and of sentences that say the same in
    the same words one.

    >>> chosen(["a b c", "d e", "f g h i", "j"], [3, 1, 2, 0], most=6)
    [0, 1, 3]
    """
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable").tolist()
    sizes = [n_words(text) for text in texts]
    taken, left = order[:1], most - sum(sizes[i] for i in order[:1])
    for i in order[1:]:
        if sizes[i] <= left and texts[i] not in [texts[j] for j in taken]:
            taken.append(i)
            left -= sizes[i]
    return sorted(taken)


def summarise(text: str, most: int = 80, how: str = "centroid") -> str:
    """Sentences of a text that together have about ``most`` words. Raises ValueError for no text, or an unknown way.

    >>> summarise("The cat sat. It rained all day in Bern. The cat slept.", most=6, how="first")
    'The cat sat. The cat slept.'
    """
    if how not in HOW:
        raise ValueError(f"how={how!r}: choose one of {', '.join(HOW)}")
    texts = sentences(text)
    if not texts:
        raise ValueError("text is empty: give one with a sentence in it")
    return joined(texts[i] for i in chosen(texts, HOW[how](texts), most))


def oracle(texts: Sequence[str], reference: str, most: int) -> list[int]:
    """The sentences that, added one by one, share most words with the reference, as far as ``most`` words have room.

    >>> oracle(["it was so", "green cats", "cats sleep all day"], "All day long cats sleep.", most=7)
    [2]
    """
    count = lambda text: Counter(counted(text))
    goal, bags, taken, have = count(reference), [count(text) for text in texts], [], Counter()
    f1 = lambda bag: 2 * (bag & goal).total() / max(1, bag.total() + goal.total())
    room = lambda i: sum(n_words(texts[j]) for j in (*taken, i)) <= most
    while more := [i for i in range(len(texts)) if i not in taken and (room(i) or not taken)]:
        best = max(more, key=lambda i: f1(have + bags[i]))
        if taken and f1(have + bags[best]) <= f1(have):
            break
        taken.append(best)
        have += bags[best]
    return sorted(taken)
