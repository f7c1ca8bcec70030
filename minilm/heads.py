"""A pretrained encoder, and on top of it the few weights that a task needs: a class, or a span of the text.

An encoder is any module with ``config.d_model`` whose call on ``ids (B, T), mask (B, T)`` gives hidden states
(B, T, D); ``mask`` is True where a token stands. A head's answers are logits of the shape that ``contract.loss`` takes,
so it is trained like everything else: with ``minilm.train.train``, on batches whose inputs are ids and mask.

Not here: encoders (``minilm.bert``), and changing their weights by few numbers (``minilm.lora``).
Letters: B batch, T time, D width, C classes.
References: Devlin et al. 2019, section 4 (both heads); Reimers & Gurevych 2019 (the mean as a summary of a text).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def mean_pool(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The mean of a text's hidden states, padding aside. A text without a token gives zeros.

    >>> mean_pool(torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    inside = mask[..., None].to(hidden)
    return (hidden * inside).sum(1) / inside.sum(1).clamp(min=1)


def first_pool(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The hidden state of the first token, BERT's ``[CLS]``.

    >>> first_pool(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[True, True]]))
    tensor([[1.]])
    """
    return hidden[:, 0]


class Classifier(nn.Module):
    """One of C classes for a text: ``W pool(encoder(ids)) + b``.

    The default pool is the mean. An encoder that was trained to summarise a text in ``[CLS]`` can be asked there, but
    one that was trained on masked words alone, or with the mean, has put nothing there yet; the mean is a summary from
    the first step on. The new weights start at zero: all classes equally likely, and a first loss of log C.

    >>> from types import SimpleNamespace
    >>> class Letters(nn.Module):                           # the smallest encoder there is
    ...     config = SimpleNamespace(d_model=4)
    ...     def forward(self, ids, mask): return torch.nn.functional.one_hot(ids, 4).float()
    >>> Classifier(Letters(), n_classes=3)(torch.tensor([[1, 2]]), torch.tensor([[True, True]])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_classes: int,
        pool: Callable[[Tensor, Tensor], Tensor] = mean_pool,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.encoder, self.pool, self.dropout = encoder, pool, nn.Dropout(dropout)
        self.head = _zero_linear(encoder.config.d_model, n_classes)

    def forward(self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *more: Tensor) -> Float[Tensor, "B C"]:
        """Logits of the classes; ``more`` goes to the encoder as well."""
        return self.head(self.dropout(self.pool(self.encoder(ids, mask, *more), mask)))


class SpanHead(nn.Module):
    """Where in a text an answer begins and where it ends: two scores for each token.

    Logits are (B, 2, T): row 0 scores the T tokens as the first of the answer, row 1 as the last. To ``contract.loss``
    these are two choices among T, with targets (B, 2). Padding cannot be chosen. With ``types``, 0 for the tokens of a
    question and 1 for those of the passage, neither can the question.
    """

    def __init__(self, encoder: nn.Module, dropout: float = 0.1):
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.head = _zero_linear(encoder.config.d_model, 2)

    def forward(
        self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], types: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B 2 T"]:
        """Scores of each token as the answer's first and as its last; -inf where it cannot be."""
        inputs, open_to = ((ids, mask), mask) if types is None else ((ids, mask, types), mask & (types == 1))
        scores = self.head(self.dropout(self.encoder(*inputs))).mT  # (B, T, 2) to (B, 2, T)
        return scores.masked_fill(~open_to[:, None], -torch.inf)


def best_span(logits: Float[Tensor, "B 2 T"], longest: int = 16) -> Int[Tensor, "B 2"]:
    """First and last token of the likeliest answer: the highest sum of both scores, in order and not too far apart.

    The two rows are trained apart, so their maxima need not make a span. Raises ValueError for ``longest`` below 1.

    >>> start = torch.tensor([0.0, 1.0, 3.0])
    >>> end = torch.tensor([5.0, 2.0, 1.0])                  # the likeliest end lies before the likeliest start
    >>> best_span(torch.stack([start, end])[None], longest=1).tolist()
    [[0, 0]]
    >>> best_span(torch.stack([start - 9 * (start == 0), end])[None]).tolist()
    [[2, 2]]
    """
    if longest < 1:
        raise ValueError(f"longest={longest}: an answer has at least one token")
    T = logits.shape[-1]
    sums = logits[:, 0, :, None] + logits[:, 1, None, :]  # (B, first, last)
    possible = torch.ones(T, T, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    best = sums.masked_fill(~possible, -torch.inf).flatten(1).argmax(1)
    return torch.stack([best // T, best % T], 1)


def frozen(module: Module) -> Module:
    """The module itself, its weights now constants: no gradient is computed for them and no optimizer moves them.

    ``Classifier(frozen(encoder), 2)`` trains the head alone, a probe of what the encoder already knows.
    ``module.requires_grad_(True)`` undoes it.
    """
    return module.requires_grad_(False)


def trainable(module: nn.Module) -> int:
    """How many numbers training would change.

    >>> trainable(nn.Linear(3, 2)), trainable(frozen(nn.Linear(3, 2)))
    (8, 0)
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
