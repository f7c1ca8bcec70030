"""What a text says about itself before any smoothing: how often each n-gram occurs.

``count`` makes one sorted table per order. An n-gram is a pair (index of its context one order down, last word),
packed into one integer: looking one up is a binary search, and the words that follow a context lie side by side.

Not here: what a count is worth on fresh text (``minilm.discounts``), probabilities (``minilm.ngram``). Letters as in
``book/notation.md``: c(h, w) is the count of word w after context h, N_r the number of n-grams seen r times, N1+(h .)
the number of different words seen after h.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

Array = np.ndarray
ARRAYS = ("keys", "counts", "suffixes", "starts")  # of a Table: what a saved model holds for each order


@dataclass(frozen=True, eq=False)
class Table:
    """The G different n-grams of one order, sorted by their context, of which there are C one order down."""

    vocab_size: int
    keys: Array  # (G,) context * V + word, increasing
    counts: Array  # (G,) c(h, w)
    suffixes: Array  # (G,) where the n-gram without its first word stands one order down
    starts: Array  # (C + 1,) the words after context i are the rows starts[i] : starts[i + 1]

    @cached_property
    def contexts(self) -> Array:
        return self.keys // self.vocab_size

    @property
    def n_contexts(self) -> int:
        return len(self.starts) - 1

    @property
    def distinct(self) -> Array:
        """N1+(h .), how many different words follow each context, (C,)."""
        return np.diff(self.starts)

    def find(self, contexts: Array, words: Array) -> Array:
        """The row of each n-gram (context, word); -1 where it was not seen, or where the context is itself -1."""
        if not len(self.keys):
            return np.full(np.shape(words), -1)
        keys = contexts * self.vocab_size + words  # a context of -1 makes a negative key, which no row has
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)

    def after(self, context: int) -> slice:
        """The rows of the words seen after one context: none after an unseen one, which is -1."""
        return slice(*self.starts[context : context + 2]) if context >= 0 else slice(0)

    def sum(self, values: Array) -> Array:
        """One value per n-gram, (G,), added up over the words after each context, (C,)."""
        return np.bincount(self.contexts, weights=values, minlength=self.n_contexts).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Counts:
    """The n-grams of a text for every order from 1 to ``order``; made by ``count``.

    >>> counts = count([0, 1, 0, 2, 0, 1], order=2, vocab_size=3)
    >>> counts[0, 1], counts[2, 2]                  # the pair (0, 1) was seen twice, (2, 2) never
    (2, 0)
    >>> counts.after((0,))                          # what followed 0, most frequent first
    {1: 2, 2: 1}
    >>> counts.before((0,))                         # 0 followed two different words, N1+(. 0)
    2
    >>> counts.of_counts(2)                         # N_r: three pairs were seen once, one twice
    {1: 3, 2: 1}
    """

    vocab_size: int
    tables: tuple[Table, ...]

    @property
    def order(self) -> int:
        return len(self.tables)

    @property
    def bytes(self) -> int:
        """Memory of the tables, in bytes."""
        return sum(getattr(table, name).nbytes for table in self.tables for name in ARRAYS)

    def __getitem__(self, gram: int | Sequence[int]) -> int:
        """c(gram): how often the n-gram occurs; 0 where it does not."""
        gram = (gram,) if isinstance(gram, int) else gram
        row = self._row(gram, self.order)
        return int(self.tables[len(gram) - 1].counts[row]) if row >= 0 else 0

    def after(self, context: Sequence[int] = ()) -> dict[int, int]:
        """{w: c(h, w)} of the words after context h, most frequent first: N1+(h .) words, c(h .) times in all."""
        row = self._row(context, self.order - 1)
        table = self.tables[len(context)]
        found = table.after(row)
        ranked = np.argsort(-table.counts[found], kind="stable")
        words = table.keys[found] - row * self.vocab_size
        return dict(zip(words[ranked].tolist(), table.counts[found][ranked].tolist(), strict=True))

    def before(self, gram: Sequence[int]) -> int:
        """N1+(. gram): how many different words the n-gram follows, its continuation count (Kneser and Ney 1995)."""
        row = self._row(gram, self.order - 1)
        return int(np.count_nonzero(self.tables[len(gram)].suffixes == row)) if row >= 0 else 0

    def continuations(self, k: int) -> Array:
        """N1+(. gram) of every row of the table of order k < ``order``."""
        return np.bincount(self.tables[k].suffixes, minlength=len(self.tables[k - 1].keys))

    def of_counts(self, k: int) -> dict[int, int]:
        """The counts of counts {r: N_r} of the n-grams of order k, r >= 1."""
        return counts_of_counts(self.tables[k - 1].counts)

    def rows(self, ids: Int[Array, "B T"]) -> list[Array]:
        """For k = 0 .. order, the row of the k-gram that starts at each position, (B, T + 1 - k); -1 where unseen."""
        found = [np.zeros((ids.shape[0], ids.shape[1] + 1), dtype=np.int64)]
        for k, table in enumerate(self.tables):
            found.append(table.find(found[-1][:, :-1], ids[:, k:]))
        return found

    def _row(self, gram: Sequence[int], longest: int) -> int:
        if len(gram) > longest:
            raise ValueError(
                f"{gram!r} is longer than {longest}: what was counted is order {self.order}; count a higher"
            )
        words = checked(torch.tensor([gram], dtype=torch.int64), self.vocab_size)
        return int(self.rows(words)[len(gram)][0, 0])


def count(ids: Int[Tensor, " N"] | Sequence[int], order: int, vocab_size: int) -> Counts:
    """Count every n-gram of 1 to ``order`` words in a stream of N token ids, in O(order N log N).

    A context is counted where a word follows it, so c(h .) is one less than c(h) for the words that end the stream.
    Raises ValueError where ids is empty or has an id outside 0 .. vocab_size - 1, and where order < 1.
    """
    if order < 1:
        raise ValueError(f"order={order}: an n-gram has at least 1 word; give 1 for single words, 2 for pairs, ...")
    ids = torch.as_tensor(ids)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"ids has shape {tuple(ids.shape)}: give one non-empty stream of token ids, shape (N,)")
    words = checked(ids, vocab_size)
    tables: list[Table] = []
    rows, n_contexts = np.zeros(len(words) + 1, dtype=np.int64), 1  # the empty n-gram starts at every position
    for k in range(order):  # the k-gram at a position and the word after it make the (k+1)-gram at that position
        pairs = rows[:-1] * vocab_size + words[k:]
        keys, longer, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        suffixes = np.empty_like(keys)
        suffixes[longer] = rows[1:]  # without its first word it is the k-gram at the next position
        starts = np.searchsorted(keys, np.arange(n_contexts + 1) * vocab_size)
        tables.append(Table(vocab_size, keys, counts, suffixes, starts))
        rows, n_contexts = longer, len(keys)
    return Counts(vocab_size, tuple(tables))


def checked(ids: Int[Tensor, "..."], vocab_size: int) -> Array:
    """The ids as int64, once every one of them is known to be a token: a wrong one would alias another n-gram."""
    if vocab_size < 1:
        raise ValueError(f"vocab_size={vocab_size}: give the number of tokens, tokenizer.vocab_size")
    if ids.is_floating_point():
        raise ValueError(f"ids has dtype {ids.dtype}: token ids are integers, as tokenizer.encode gives them")
    words = ids.detach().cpu().numpy().astype(np.int64, copy=False)
    if words.size and not (words.min() >= 0 and words.max() < vocab_size):
        wrong = int(words[(words < 0) | (words >= vocab_size)].flat[0])
        raise ValueError(f"ids holds {wrong}, outside 0 .. {vocab_size - 1}: encode with the tokenizer counted with")
    return words


def counts_of_counts(counts: Array) -> dict[int, int]:
    """{r: N_r}: how many of the counts equal r, for r >= 1.

    >>> counts_of_counts(np.array([1, 1, 5, 0, 1]))
    {1: 3, 5: 1}
    """
    values, times = np.unique(counts[counts > 0], return_counts=True)
    return dict(zip(values.tolist(), times.tolist(), strict=True))
