"""From token ids to the rectangular tensors a model takes.

A long stream is cut into ``windows``; rows of unequal length are filled up by ``pad``; ``batches`` shuffles rows and
hands them out as next-token batches; ``sample`` draws windows without end, as a `Stream`. Letters: N ids or rows,
B batch, T time.

Not here: text (``minilm.data``) and ids (``minilm.tokenizer``).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from .contract import IGNORE, Batch, next_token

Stream = Callable[[int], Batch]
"""What a model is trained on: the batch of step s, a function of s alone, so a run can stop and go on anywhere."""


def windows(ids: Int[Tensor, " N"], context: int, stride: int | None = None) -> Int[Tensor, "B T"]:
    """Rows of ``T = context + 1`` ids from a stream: ``context`` inputs and, one step later, as many targets.

    Row b starts at ``b * stride``. The default stride, ``context``, lets neighbours share one id, so every id but the
    first is a target exactly once; what does not fill a last row, less than ``stride`` ids, is left out. Where
    ``stride`` is smaller, rows overlap. Raises ValueError where the stream does not fill one row.

    >>> windows(torch.arange(8), context=3).tolist()
    [[0, 1, 2, 3], [3, 4, 5, 6]]
    """
    stride = context if stride is None else stride
    if context < 1 or stride < 1:
        raise ValueError(f"context is {context} and stride {stride}: both must be at least 1")
    if len(ids) <= context:
        raise ValueError(
            f"ids holds {len(ids)} tokens: a window of context {context} needs {context + 1} or more; use a longer text"
        )
    return ids.unfold(0, context + 1, stride)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> Int[Tensor, "B T"]:
    """Rows of unequal length as one tensor, filled up on the right with ``pad_id`` to the longest row.

    Raises ValueError for no rows at all.

    >>> pad([[5, 6, 7], [8]], pad_id=0).tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    if not rows:
        raise ValueError("rows is empty: there is nothing to pad")
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], dtype=torch.long)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """A next-token batch of unequal rows: inputs are padded with ``pad_id``, targets with ``IGNORE``.

    Padding stands on the right, so no real token of a left-to-right model ever sees it, and it is never scored. That
    is decided by the lengths of the rows: a ``pad_id`` that occurs as a real token is scored like any other.
    Raises ValueError where the longest row has less than 2 ids.

    >>> batch = padded([[5, 6, 7], [8, 9]], pad_id=0)
    >>> batch.inputs[0].tolist(), batch.targets.tolist()
    ([[5, 6], [8, 9]], [[6, 7], [9, -100]])
    """
    return Batch(next_token(pad(rows, pad_id)).inputs, next_token(pad(rows, IGNORE)).targets)


def batches(rows: Int[Tensor, "N T"], batch_size: int, seed: int = 0) -> Iterator[Batch]:
    """One pass over the rows in an order drawn from ``seed``, as next-token batches; the last one may be smaller.

    A second pass in another order is a call with another seed. Raises ValueError for a batch size below 1.

    >>> [batch.targets.shape for batch in batches(torch.zeros(5, 4, dtype=torch.long), batch_size=2)]
    [torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([1, 3])]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: at least 1 row is needed")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return (next_token(rows[chosen]) for chosen in order.split(batch_size))


def sample(ids: Int[Tensor, " N"], context: int, batch_size: int, seed: int = 0) -> Stream:
    """A `Stream` of next-token batches: ``batch_size`` windows of ``context`` inputs, drawn anywhere in ``ids``.

    Every place is equally likely at every step; the draw is decided by ``seed`` and the step.
    Raises ValueError for a batch size below 1, or ids that do not fill one window.

    >>> stream = sample(torch.arange(100), context=4, batch_size=2)
    >>> stream(7).targets.shape, torch.equal(stream(7).targets, stream(7).inputs[0] + 1)
    (torch.Size([2, 4]), True)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: at least 1 row is needed")
    rows = windows(ids, context, stride=1)

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(derived_seed(seed, step))
        return next_token(rows[torch.randint(len(rows), (batch_size,), generator=generator)])

    return batch


def derived_seed(*parts: int | str) -> int:
    """A seed made of several: those of neighbouring steps, or of neighbouring seeds, have nothing in common.

    >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(1, 0)
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())


def split(batch: Batch, n: int) -> list[Batch]:
    """A batch as ``n`` batches of as many rows each. Raises ValueError where n does not divide the rows.

    >>> [part.targets.tolist() for part in split(next_token(torch.arange(6).reshape(2, 3)), 2)]
    [[[1, 2]], [[4, 5]]]
    """
    rows = len(batch.targets)
    if n < 1 or rows % n:
        raise ValueError(f"a batch of {rows} rows cannot be split into {n} equal parts: choose a batch size n divides")
    parts = zip(*(tensor.split(rows // n) for tensor in (*batch.inputs, batch.targets)), strict=True)
    return [Batch(tuple(inputs), targets) for *inputs, targets in parts]
