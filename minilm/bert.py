"""BERT at work: published weights, texts as batches, a vector or a class for each text.

Not here: the model and its objective (``minilm.encoder``), how weights are stored (``minilm.bert_files``), and heads
for classes and spans (``minilm.heads``). The names of the first two can be had from here as well.
Letters: B batch, T time, D width, N texts.
Reference: Reimers & Gurevych 2019 (sentence vectors).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby, pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import data, encoder, heads, presets
from .batching import Stream, derived_seed, pad
from .bert_files import from_bert, load, save, to_bert
from .contract import Batch
from .encoder import BERT, MaskedLM, mask_tokens
from .heads import Classifier, mean_pool
from .train import Record, TrainConfig
from .wordpiece import IDEOGRAPH, WordPiece

__all__ = [
    "BERT", "MaskedLM", "averaged", "by_length", "classifier", "cut", "embed", "from_bert", "labelled", "load",
    "logits", "mask_tokens", "save", "to_bert",
]  # fmt: skip

LENGTH = 64
"""Tokens that a classifier reads of a text."""

WORD = re.compile(rf"[{IDEOGRAPH}]|[^\s{IDEOGRAPH}]+")
"""What `cut` does not cut: a word between blanks, or a Chinese character."""


def by_length(
    tokenizer: WordPiece, texts: Sequence[str], batch_size: int = 64, length: int = 256
) -> Iterator[tuple[list[int], Int[Tensor, "B T"], Bool[Tensor, "B T"]]]:
    """All texts, the shortest first so that little is padded: a batch's places in ``texts``, its ids and its mask."""
    rows = [tokenizer.row(text, length=length)[0] for text in texts]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        yield places, *_padded([rows[place] for place in places], tokenizer.pad_id)


def labelled(
    tokenizer: WordPiece, examples: Sequence[tuple[str, int]], batch_size: int, length: int = LENGTH, seed: int = 0
) -> Stream:
    """A `Stream` of pairs of a text and its class, in a new order every epoch; ids and mask in, classes out.

    Texts of similar length share a batch, since padding costs as much as text: within stretches of 16 batches, drawn at
    random, texts are sorted by length, and the batches come in random order. The last texts of an epoch that do not
    fill a batch are left out. Raises ValueError for less texts than a batch holds.
    """
    if len(examples) < batch_size:
        raise ValueError(f"examples holds {len(examples)} texts: a batch of {batch_size} needs as many")
    rows = [tokenizer.row(text, length=length)[0] for text, _ in examples]
    classes = torch.tensor([label for _, label in examples])

    @lru_cache(maxsize=1)
    def epoch(number: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(derived_seed(seed, number))
        order = torch.randperm(len(rows), generator=generator).tolist()
        order = order[: len(order) // batch_size * batch_size]
        stretches = [order[i : i + 16 * batch_size] for i in range(0, len(order), 16 * batch_size)]
        order = [place for part in stretches for place in sorted(part, key=lambda place: len(rows[place]))]
        shuffled = torch.randperm(len(order) // batch_size, generator=generator).tolist()
        return [order[i * batch_size : (i + 1) * batch_size] for i in shuffled]

    def batch(step: int) -> Batch:
        number, place = divmod(step, len(rows) // batch_size)
        chosen = epoch(number)[place]
        return Batch(_padded([rows[i] for i in chosen], tokenizer.pad_id), classes[chosen])

    return batch


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    return pad(rows, pad_id), pad([[1] * len(row) for row in rows], 0).bool()


@torch.no_grad()
def embed(
    model: BERT, tokenizer: WordPiece, texts: Sequence[str], batch_size: int = 64, length: int = 256
) -> Float[Tensor, "N D"]:
    """A unit vector for each text: the mean of its hidden states, scaled. Their products are cosines.

    The model is taken as it is; `load` gives it in evaluation mode.
    """
    vectors = torch.empty(len(texts), model.config.d_model)
    for places, ids, mask in by_length(tokenizer, texts, batch_size, length):
        vectors[places] = F.normalize(mean_pool(model(ids, mask), mask), dim=-1)
    return vectors


def classifier(name: str, seed: int = 0, batch_size: int = 16) -> tuple[Classifier, list[Record]]:
    """MiniLM fine-tuned on the labelled set ``name``, every weight and each text once; and the log of its training.

    Trained at the first call, which takes minutes, and read from the cache afterwards. Its tokenizer is that of
    ``load("all-minilm")``. The rate is small, since the weights are good, and falls to zero.
    Raises what `minilm.data.load_labelled` raises.
    """
    model, units = load("all-minilm", dropout=0.1)
    examples = data.load_labelled(name).train
    steps = len(examples) // batch_size
    config = TrainConfig(
        steps, batch_size, 1e-4, weight_decay=0.01, warmup=steps // 10, schedule="linear", final=0.0,
        betas=(0.9, 0.999), seed=seed, eval_every=max(1, steps // 4),
    )  # fmt: skip
    full = Classifier(model, n_classes=1 + max(label for _, label in examples)).train()
    stream = labelled(units, examples, batch_size, seed=seed)
    log = presets.fit(full, stream, config, f"minilm-{name}-{seed}", encoder, heads)
    return full, log


@torch.no_grad()
def logits(model: Classifier, tokenizer: WordPiece, texts: Sequence[str], length: int = LENGTH) -> Float[Tensor, "N C"]:
    """What a classifier makes of each text."""
    found = [(places, model(ids, mask)) for places, ids, mask in by_length(tokenizer, texts, length=length)]
    order = torch.tensor([place for places, _ in found for place in places])
    return torch.cat([part for _, part in found])[order.argsort()]


def cut(tokenizer: WordPiece, text: str, length: int = LENGTH) -> list[str]:
    """A text in pieces of at most ``length`` tokens with their frame, all of similar size; one that fits stays whole.

    Pieces end between words, so a word that is longer than half a piece may make one too long.

    >>> from .wordpiece import SPECIALS
    >>> cut(WordPiece([*SPECIALS, *"abcde"]), "a b c d e", length=4), cut(WordPiece([*SPECIALS, "a"]), " a ", length=4)
    (['a b', 'c d', 'e'], [' a '])
    """
    if len(tokenizer.encode(text)) <= (room := length - 2):
        return [text]
    words = list(WORD.finditer(text))
    ends = list(accumulate(len(tokenizer.encode(word[0])) for word in words))
    longest = max(end - start for start, end in pairwise([0, *ends]))
    n = math.ceil(ends[-1] / max(room - longest + 1, room // 2, 1))
    parts = groupby(zip(words, ends, strict=True), key=lambda pair: max(pair[1] - 1, 0) * n // ends[-1])
    spans = ([word for word, _ in part] for _, part in parts)
    return [text[part[0].start() : part[-1].end()] for part in spans]


def averaged(
    model: Callable[[list[str]], Tensor], tokenizer: WordPiece, texts: Sequence[str], length: int = LENGTH
) -> Float[Tensor, "N D"]:
    """What ``model`` makes of each text; of one that it would not read to its end, the mean over its pieces (`cut`)."""
    pieces = [cut(tokenizer, text, length) for text in texts]
    rows = model([piece for some in pieces for piece in some]).split([len(some) for some in pieces])
    return torch.stack([part.mean(0) for part in rows])
