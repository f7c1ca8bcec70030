"""Seven n-gram language models: seven answers to the question what a word gets that was never seen here.

Each says what a count keeps, c*, and what its context holds in reserve, R; ``minilm.recursion`` does the rest.

========================  ==============================  =================  ==========================
method                    keeps c*(h, w)                  reserve R(h)       passed on by
========================  ==============================  =================  ==========================
``MaximumLikelihood``     c                               0
``AddK``                  c                               k V                interpolation with 1/V
``GoodTuring``            r* (Simple Good-Turing)         sum_w (c - c*)     back-off to 1/V
``Katz``                  r d_r for c <= 5, else c        sum_w (c - c*)     back-off
``WittenBell``            c                               N1+(h .)           interpolation
``KneserNey``             c - D                           D N1+(h .)         interpolation
``ModifiedKneserNey``     c - D_1, c - D_2 or c - D_3+    sum_w D_c          interpolation
========================  ==============================  =================  ==========================

>>> counts = count([0, 1, 0, 2, 0, 1, 3, 1, 0, 0, 1, 2], order=2, vocab_size=5)
>>> for name, method in METHODS.items():                     # P(. | 2): 0 came after 2 once, nothing else did
...     print(f"{name:18}", *(f"{p:.3f}" for p in method(counts).probs([2]).tolist()))
MaximumLikelihood  1.000 0.000 0.000 0.000 0.000
AddK               0.333 0.167 0.167 0.167 0.167
GoodTuring         0.400 0.150 0.150 0.150 0.150
Katz               0.500 0.233 0.100 0.033 0.133
WittenBell         0.681 0.150 0.087 0.056 0.025
KneserNey          0.528 0.184 0.184 0.090 0.015
ModifiedKneserNey  0.583 0.101 0.101 0.133 0.083

Not here: counting, discounts, sampling, perplexity. Reference: Chen and Goodman 1999, "An empirical study of smoothing
techniques for language modeling", whose section 2 describes every method below but the last, which is section 3's.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Int
from torch import Tensor

from .counts import ARRAYS, Array, Counts, Table, count, counts_of_counts
from .discounts import absolute_discount, katz_counts, modified_discounts, simple_good_turing
from .recursion import NGram


class MaximumLikelihood(NGram):
    """P(w | h) = c(h, w) / c(h .): no smoothing, so a word not seen after h costs infinitely many nats.

    A context that was never seen has no such ratio; the longest of its ends that was seen stands in for it.
    """

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        return table.counts, np.zeros(table.n_contexts)


@dataclass(eq=False)
class AddK(NGram):
    """P(w | h) = (c(h, w) + k) / (c(h .) + k V): Laplace's rule for k = 1. After an unseen context, 1/V.

    Raises ValueError where k <= 0.
    """

    k: int | float = 1.0
    shortens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.k < np.inf:
            raise ValueError(f"k={self.k}: add a positive number, or use MaximumLikelihood to add nothing")
        super().__post_init__()

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        return table.counts, np.full(table.n_contexts, self.k * self.vocab_size)


class GoodTuring(NGram):
    """Each count r is worth r*; what a context loses by that is shared evenly by the words not seen after it.

    r* comes from the counts of counts of the order (Good 1953; Gale and Sampson 1995), capped at r where few counts
    make it exceed r. A context that loses nothing sets one count aside (``reserved``). The estimate is of whole
    n-grams; leaving to each context what its own n-grams lost makes the rows sum to one: Katz without lower orders.
    """

    interpolates: ClassVar[bool] = False
    shortens: ClassVar[bool] = False

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        worth = simple_good_turing(self.counts.of_counts(order))
        r = np.array(sorted(worth))
        kept = np.array([worth[i] for i in r.tolist()])[np.searchsorted(r, table.counts)]
        return reserved(np.minimum(kept, table.counts), table)


@dataclass(eq=False)
class Katz(NGram):
    """Counts up to ``cutoff`` are discounted as in ``katz_counts``, and the loss goes to the model of lower order.

    A context that loses nothing sets one count aside (``reserved``). Reference: Katz 1987.
    """

    cutoff: int = 5
    interpolates: ClassVar[bool] = False

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        worth = katz_counts(self.counts.of_counts(order), self.cutoff)
        kept = table.counts.astype(np.float64)
        for r, value in worth.items():
            kept[table.counts == r] = value
        return reserved(kept, table)


class WittenBell(NGram):
    """A new word is as likely as new words have been: the reserve is N1+(h .), the times one appeared after h.

    Reference: Bell, Cleary and Witten 1990 and Witten and Bell 1991 (method C), interpolated as by Chen and Goodman.
    """

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        return table.counts, table.distinct


class _AbsoluteDiscounting(NGram):
    """What both forms of Kneser-Ney share: lower orders count contexts, and every count pays its discount.

    Below the highest order, c(h, w) is replaced by N1+(. h w), the number of words that (h, w) was seen after. The
    words that open the text follow nothing, so there N1+ is 0: they pay nothing and keep nothing.
    """

    D: list[tuple[float, float, float]]
    """The discount of counts 1, 2 and 3+ at each order."""

    def __post_init__(self) -> None:
        self.D = []
        super().__post_init__()

    @abstractmethod
    def discount_at(self, order: int, n: Mapping[int, int]) -> Sequence[float]:
        """(D_1, D_2, D_3+) at one order, whose counts of counts are n."""

    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        c = table.counts if order == self.counts.order else self.counts.continuations(order)
        self.D.append(tuple(float(d) for d in self.discount_at(order, counts_of_counts(c))))
        paid = np.array([0.0, *self.D[-1]])[np.minimum(c, 3)]
        return c - paid, table.sum(paid)


@dataclass(eq=False)
class KneserNey(_AbsoluteDiscounting):
    """Interpolated Kneser-Ney: every count pays the same D; lower orders ask how many contexts a word completes.

    ``discount`` is one D for all orders, a list with one for each (single words first), or None to estimate each.
    A discount at order 1 mixes the single words with the uniform distribution, so that a word that was never seen
    gets a probability; with [0, D, D, ...] it gets none, and the model is that of ``nltk.lm.KneserNeyInterpolated``.

    Raises ValueError where a discount lies outside 0 .. 1 or their number is not ``counts.order``.
    Reference: Kneser and Ney 1995; Chen and Goodman 1999, section 2.7.

    >>> model = KneserNey(count([0, 1, 0, 2, 0, 1], order=2, vocab_size=4), discount=[0, 0.5])
    >>> model.probs([0])            # (2 - 0.5)/3 for 1, (1 - 0.5)/3 for 2; 1/3 goes by the number of contexts
    tensor([0.1667, 0.5833, 0.2500, 0.0000], dtype=torch.float64)
    """

    discount: int | float | Sequence[int | float] | None = None

    def discount_at(self, order: int, n: Mapping[int, int]) -> Sequence[float]:
        if self.discount is None:
            return 3 * [absolute_discount(n)]
        return 3 * [given("discount", self.discount, (self.counts.order,), 1.0)[order - 1].item()]


@dataclass(eq=False)
class ModifiedKneserNey(_AbsoluteDiscounting):
    """Kneser-Ney with three discounts: counts of 1, of 2, and of 3 or more pay D_1, D_2 and D_3+.

    ``discounts`` is one triple for all orders, a list with a triple for each, or None to estimate them.
    Raises ValueError where D_i lies outside 0 .. i or the shape is neither (3,) nor (order, 3).
    Reference: Chen and Goodman 1999, section 3.
    """

    discounts: Sequence[Any] | None = None

    def discount_at(self, order: int, n: Mapping[int, int]) -> Sequence[float]:
        if self.discounts is None:
            return modified_discounts(n)
        return given("discounts", self.discounts, (self.counts.order, 3), np.array([1.0, 2.0, 3.0]))[order - 1].tolist()


METHODS: dict[str, type[NGram]] = {
    method.__name__: method
    for method in (MaximumLikelihood, AddK, GoodTuring, Katz, WittenBell, KneserNey, ModifiedKneserNey)
}
"""Every method by its name, in the order in which chapter 3 meets them."""


def given(name: str, value: Any, shape: tuple[int, ...], most: Any) -> Array:
    """Discounts that the caller chose, one for each order, once they are known to be possible."""
    try:
        discounts = np.broadcast_to(np.asarray(value, dtype=np.float64), shape)
    except ValueError:
        raise ValueError(f"{name}={value}: give one for all {shape[0]} orders or one for each, shape {shape}") from None
    if not ((discounts >= 0) & (discounts <= most)).all():
        raise ValueError(f"{name}={value}: a count r can pay between 0 and r, so stay within 0 .. {most}")
    return discounts


def reserved(kept: Array, table: Table) -> tuple[Array, Array]:
    """``kept``, and per context what its counts have lost; 1 where they lost nothing, lest unseen words get nothing.

    The 1 is Doug Paul's remedy in the CMU and SRILM toolkits, equal to one more count in the denominator.
    """
    lost = table.sum(table.counts - kept)
    return kept, np.where(lost > 0, lost, 1.0)


class CrossValidation(NamedTuple):
    """The value with the least held-out loss, and (value, nats per token) for every value tried."""

    best: Any
    table: list[tuple[Any, float]]


def cross_validate(
    ids: Int[Tensor, " N"] | Sequence[int],
    order: int,
    vocab_size: int,
    grid: Sequence[Any],
    folds: int = 5,
    method: Callable[[Counts, Any], NGram] = KneserNey,
) -> CrossValidation:
    """Choose a method's parameter: the value of ``grid`` with the least mean nats per token on held-out blocks.

    The text is cut into ``folds`` contiguous blocks; each in turn is scored by ``method(counts, value)`` counted on the
    others. Where two blocks are joined, order - 1 n-grams at most are counted that the text does not hold.
    Raises ValueError for an empty grid, fewer than 2 folds, or blocks with fewer than 2 tokens.

    >>> cross_validate([0, 1, 0, 1, 2, 0, 1, 0, 1, 1] * 9, 2, 3, grid=[0.1, 10.0], method=AddK).best
    0.1
    """
    ids = torch.as_tensor(ids)
    if not len(grid):
        raise ValueError("grid is empty: give the values to choose from")
    if folds < 2 or len(ids) < 2 * folds:
        raise ValueError(f"folds={folds} of {len(ids)} tokens: use 2 folds or more, with 2 tokens or more in each")
    blocks, nats = torch.tensor_split(ids, folds), np.zeros(len(grid))
    for i, held_out in enumerate(blocks):
        counts = count(torch.cat([*blocks[:i], *blocks[i + 1 :]]), order, vocab_size)
        nats -= [float(method(counts, value).score(held_out[None]).sum()) for value in grid]
    nats /= len(ids) - folds
    return CrossValidation(grid[int(nats.argmin())], list(zip(grid, nats.tolist(), strict=True)))


def load(folder: str | Path) -> NGram:
    """The model that ``NGram.save`` wrote into ``folder``, with the same probabilities to the last bit.

    Raises ValueError where config.json is not of an n-gram model, or model.safetensors is not the file it was saved
    with: truncated, or another model's.
    """
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        method, orders = METHODS[config["method"]], range(1, config["order"] + 1)
        vocab_size, parameters, digest = config["vocab_size"], config["parameters"], config["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe an n-gram model ({error!r}): name a folder written by save"
        ) from error
    content = path.with_name("model.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{folder}/model.safetensors is not the file that config.json names: save the model again")
    arrays = safetensors.numpy.load(content)
    tables = (Table(vocab_size, *(arrays[f"{name}.{k}"] for name in ARRAYS)) for k in orders)
    return method(Counts(vocab_size, tuple(tables)), **parameters)
