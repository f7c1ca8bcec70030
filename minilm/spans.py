"""From texts to the batches of an encoder-decoder: pairs of source and target, and span corruption.

`pairs` makes a `Batch` of any text-to-text task. `corrupt` makes such a task of any text: some spans are hidden, and
the target says what stood there. The model learns to fill gaps of unknown length from both sides.

Not here: the model (``minilm.t5``). Letters: N ids, B batch, T time.
Reference: Raffel et al. 2020, sections 2.1 and 3.1.4; the drawing of spans is that of their code.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .batching import Stream, derived_seed, pad
from .contract import IGNORE, Batch

PAD, END = 0, 1
"""The ids of padding, which also stands before every target, and of what ends every text."""

SENTINELS = tuple(f"<extra_id_{i}>" for i in range(64))
SPECIALS = ("<pad>", "</s>", *SENTINELS)
"""The special tokens of a tokenizer for an encoder-decoder, in the order of their ids."""


def pairs(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Batch:
    """A batch of any text-to-text task: inputs are the source, what the decoder reads, and the mask of the source.

    Sources and targets get an `END`; the decoder reads the target one place to the right, after `PAD`.

    >>> batch = pairs([[5, 6], [7]], [[8], [9, 10]])
    >>> [tensor.int().tolist() for tensor in (*batch.inputs, batch.targets)]      # doctest: +NORMALIZE_WHITESPACE
    [[[5, 6, 1], [7, 1, 0]], [[0, 8, 0], [0, 9, 10]], [[1, 1, 1], [1, 1, 0]],
     [[8, 1, -100], [9, 10, 1]]]
    """
    sources = [[*source, END] for source in sources]
    mask = lengths_mask([len(source) for source in sources])
    shifted = pad([[PAD, *target] for target in targets], PAD)
    return Batch((pad(sources, PAD), shifted, mask), pad([[*target, END] for target in targets], IGNORE))


def lengths_mask(lengths: Sequence[int]) -> Bool[Tensor, "B S"]:
    """True where a row of that length has a token.

    >>> lengths_mask([2, 1]).int().tolist()
    [[1, 1], [1, 0]]
    """
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def sample_pairs(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_size: int, seed: int = 0, group: int = 8
) -> Stream:
    """Batches drawn from pairs for ever, each of similar lengths: ``group`` batches are drawn at once and sorted."""
    sizes = [len(source) + len(target) for source, target in zip(sources, targets, strict=True)]

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(derived_seed(seed, step // group))
        drawn = torch.randint(len(sizes), (batch_size * group,), generator=generator).tolist()
        place = int(torch.randperm(group, generator=generator)[step % group])
        rows = sorted(drawn, key=sizes.__getitem__)[place * batch_size :][:batch_size]
        return pairs([sources[i] for i in rows], [targets[i] for i in rows])

    return batch


def spans(length: int, share: float, mean: float, generator: torch.Generator) -> Bool[Tensor, " T"]:
    """Which tokens of a text to hide: about ``share`` of them, in spans of ``mean`` tokens on average.

    A kept piece and a span take turns, a kept piece first; both kinds are cut at random, no piece is empty.
    """
    hidden = min(max(round(length * share), 1), length - 1)
    n = min(max(round(hidden / mean), 1), length - hidden)
    lengths = torch.stack([_cut(length - hidden, n, generator), _cut(hidden, n, generator)], 1).flatten()
    return torch.arange(2 * n).remainder(2).bool().repeat_interleave(lengths)


def _cut(length: int, n: int, generator: torch.Generator) -> Int[Tensor, " N"]:
    """``length`` as a sum of n positive numbers, every such sum equally likely."""
    places = torch.randperm(length - 1, generator=generator)[: n - 1].sort().values + 1
    edges = torch.cat([torch.zeros(1, dtype=torch.long), places, torch.tensor([length])])
    return edges.diff()


def corrupt(ids: Sequence[int], hidden: Bool[Tensor, " T"], sentinels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Span corruption: each hidden span becomes a sentinel in the source; the target says what each sentinel hides.

    >>> corrupt([10, 11, 12, 13, 14], torch.tensor([False, True, True, False, True]), sentinels=[2, 3, 4])
    ([10, 2, 13, 3], [2, 11, 12, 3, 14, 4])

    A last sentinel ends the target, as in the paper. Raises ValueError where there are too few.
    """
    source, target, used = [], [], 0
    before = False
    for token, hide in zip(ids, hidden.tolist(), strict=True):
        if hide and not before:
            if used + 1 >= len(sentinels):
                raise ValueError(f"sentinels: {len(sentinels)} are too few: one for each span and one for the end")
            source.append(sentinels[used])
            target.append(sentinels[used])
            used += 1
        (target if hide else source).append(token)
        before = hide
    return source, [*target, sentinels[used]]


def sample_spans(
    ids: Int[Tensor, " N"], context: int, batch_size: int, seed: int = 0, share: float = 0.15, mean: float = 3.0
) -> Stream:
    """Windows of ``context`` tokens drawn from a text for ever, with spans hidden anew each time."""
    sentinels = range(2, 2 + len(SENTINELS))

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(derived_seed(seed, step))
        starts = torch.randint(len(ids) - context + 1, (batch_size,), generator=generator).tolist()
        hidden = [spans(context, share, mean, generator) for _ in starts]
        texts = [ids[start : start + context].tolist() for start in starts]
        return pairs(
            *zip(*(corrupt(text, mask, sentinels) for text, mask in zip(texts, hidden, strict=True)), strict=True)
        )

    return batch
