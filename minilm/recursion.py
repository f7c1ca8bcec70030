r"""One recursion for every n-gram model: what a context knows, and a broader distribution for the rest.

A method splits the count of each n-gram into what it keeps, c*(h, w), and sets a reserve R(h) aside for the context.
With Z(h) = sum_w c*(h, w) + R(h), the reserve over Z is the weight of a broader distribution P':

    alpha(h, w) = c*(h, w) / Z(h)     P(w | h) = alpha(h, w) + gamma(h) P'(w | h')                    (interpolation)
    gamma(h)    = R(h) / Z(h)         P(w | h) = alpha(h, w) if (h, w) was seen, else gamma'(h) P'(w | h')  (back-off)

P' is the same model one word of context shorter, and below single words the uniform 1/V; gamma' is gamma divided by
what P' gives to words not seen after h. A context without counts has gamma = 1. Either way a seen n-gram has a known
P(w | h) and every other word gamma(h) P'(w | h'), so a model is two arrays per order, as in an ARPA file.

Not here: what the methods keep and reserve (``minilm.ngram``). Reference: Jelinek and Mercer 1980 (interpolation),
Katz 1987 (back-off), Chen and Goodman 1999, section 2.8 (both as one recursion).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from .counts import ARRAYS, Array, Counts, Table, checked
from .files import write


@dataclass(eq=False)
class NGram(ABC):
    """A smoothed n-gram model of ``counts``; a ``LanguageModel`` whose every row reads at most order - 1 tokens.

    Rows near the start of a text have a shorter history and use the lower orders of the same recursion.

    >>> from minilm.counts import count
    >>> class Half(NGram):                                    # reserve as much as was counted: gamma = 1/2
    ...     def split(self, order, table): return table.counts, table.sum(table.counts)
    >>> model = Half(count([0, 1, 0, 2, 0, 1], order=2, vocab_size=4))
    >>> model.probs([])                                       # 1/2 (3/6, 2/6, 1/6, 0) + 1/2 1/4
    tensor([0.3750, 0.2917, 0.2083, 0.1250], dtype=torch.float64)
    >>> model.probs([0])                                      # 1/2 (0, 2/3, 1/3, 0) + 1/2 of the row above
    tensor([0.1875, 0.4792, 0.2708, 0.0625], dtype=torch.float64)
    >>> model(torch.tensor([[1, 0]])).exp()[0, 1].allclose(model.probs([0]))
    True
    """

    counts: Counts
    interpolates: ClassVar[bool] = True  # False: backs off
    shortens: ClassVar[bool] = True  # P' has a shorter context; False: P' is uniform

    def __post_init__(self) -> None:
        """Turn counts into P(w | h) of each seen n-gram and gamma(h) of each context: all that look-ups need."""
        self.vocab_size, self.context = self.counts.vocab_size, self.counts.order - 1
        self.seen: list[Array] = []  # per order (G + 1,): the last entry answers for row -1, an unseen n-gram
        self.gamma: list[Array] = []  # per order (C + 1,): the last entry, 1, answers for an unseen context
        for order, table in enumerate(self.counts.tables, start=1):
            broader = self.seen[-1][table.suffixes] if order > 1 and self.shortens else 1 / self.vocab_size
            seen, gamma = self.smooth(*self.split(order, table), np.broadcast_to(broader, len(table.keys)), table)
            self.seen.append(np.append(seen, 0.0))
            self.gamma.append(np.append(gamma, 1.0))

    @abstractmethod
    def split(self, order: int, table: Table) -> tuple[Array, Array]:
        """The method itself, at one order: what each n-gram keeps, (G,), and the reserve of each context, (C,)."""

    def smooth(self, kept: Array, reserve: Array, broader: Array, table: Table) -> tuple[Array, Array]:
        """The recursion: P(w | h) of the seen n-grams, (G,), and the weight of P' for other words, (C,)."""
        total = table.sum(kept) + reserve
        gamma = np.divide(reserve, total, out=np.ones_like(total), where=total > 0)
        alpha = kept / np.where(total > 0, total, 1)[table.contexts]
        if self.interpolates:
            return alpha + gamma[table.contexts] * broader, gamma
        unseen = 1 - table.sum(broader)  # what P' gives to words not seen after h
        shares = unseen < 1e-6  # none, or too little to be divided by: this context interpolates
        gamma = gamma / np.where(shares, 1, unseen)
        return alpha + np.where(shares, gamma, 0)[table.contexts] * broader, gamma

    def __call__(self, ids: Int[Tensor, "B T"]) -> Float64[Tensor, "B T V"]:
        """Log-probabilities of every next token; log 0 is -inf. The answer takes 8 B T V bytes, and nothing beside."""
        rows = self.counts.rows(checked(ids, self.vocab_size))
        out = np.empty((*ids.shape, self.vocab_size))
        for b, t in np.ndindex(*ids.shape):
            history = [int(rows[k][b, t + 1 - k]) for k in range(min(self.context, t + 1) + 1)]
            self._fill(out[b, t], history)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(out, out=out))

    def probs(self, context: Sequence[int] = ()) -> Float64[Tensor, " V"]:
        """P(w | context) for every w: one row of probabilities. Words before the last order - 1 are not read."""
        ids = torch.tensor([context[max(len(context) - self.context, 0) :]], dtype=torch.int64)
        rows, out = self.counts.rows(checked(ids, self.vocab_size)), np.empty(self.vocab_size)
        self._fill(out, [int(found[0, -1]) for found in rows[: ids.shape[1] + 1]])
        return torch.from_numpy(out)

    def score(self, ids: Int[Tensor, "B T"]) -> Float64[Tensor, "B T-1"]:
        """Log-probabilities of ids[:, 1:], equal to those that the whole table holds, in O(B T order log N)."""
        rows = self.counts.rows(checked(ids, self.vocab_size))
        p = np.full(ids.shape, 1 / self.vocab_size)  # P(ids[:, t] | up to k - 1 words before it)
        for k, (seen, gamma) in enumerate(zip(self.seen, self.gamma, strict=True)):
            broader = p[:, k:] if self.shortens else 1 / self.vocab_size
            grams, contexts = rows[k + 1], rows[k][:, :-1]
            p[:, k:] = np.where(grams >= 0, seen[grams], gamma[contexts] * broader)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(p[:, 1:]))

    def _fill(self, p: Array, history: Sequence[int]) -> None:
        """Write P(w | h) for every w into ``p``; history[k] is the row of the last k words of h, -1 where unseen."""
        p[:] = 1 / self.vocab_size
        for table, seen, gamma, row in zip(self.counts.tables, self.seen, self.gamma, history, strict=False):
            p[:] = gamma[row] * (p if self.shortens else 1 / self.vocab_size)
            words = table.after(row)
            p[table.keys[words] - row * self.vocab_size] = seen[words]

    @property
    def bytes(self) -> int:
        """Memory of the model, its counts included, in bytes."""
        return self.counts.bytes + sum(array.nbytes for array in (*self.seen, *self.gamma))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, the counts, then ``config.json``, the rest; each appears whole or not at all.

        The model is computed again from both by ``minilm.ngram.load``: nothing is rounded.
        """
        tables = enumerate(self.counts.tables, start=1)
        content = safetensors.numpy.save({f"{name}.{k}": getattr(t, name) for k, t in tables for name in ARRAYS})
        config = {
            "model": "ngram",
            "method": type(self).__name__,
            "order": self.counts.order,
            "vocab_size": self.vocab_size,
            "parameters": {f.name: getattr(self, f.name) for f in fields(self) if f.name != "counts"},
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        described = json.dumps(config, indent=2, default=lambda number: number.tolist()).encode()  # first: it may fail
        write(Path(folder, "model.safetensors"), content)
        write(Path(folder, "config.json"), described)
