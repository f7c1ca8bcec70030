"""The two contracts that carry all data through this book.

1. A **language model** is a callable ``ids (B, T) -> logits (B, T, V)``. Row ``t`` of the answer scores the token
   that *follows* ``ids[:, t]``, given ``ids[:, : t + 1]`` and nothing to its right. Log-probabilities are logits,
   so a table of counts obeys the contract as well as a Transformer does.
2. Every training **objective** is a ``Batch``: what goes into the model, and the targets that its logits are scored
   against. A target of ``IGNORE`` is not scored (padding, an unmasked token, the prompt of an instruction).

Not here: how a model is built, trained or evaluated. Letters: B batch, T time, V vocabulary (``book/notation.md``).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
"""The target that means "do not score this position"; PyTorch's own default for ``ignore_index``."""


@runtime_checkable
class LanguageModel(Protocol):
    """Whatever maps ids to next-token logits: counts, a recurrent network, a Transformer.

    ``context`` is the number of tokens that the next prediction can depend on; None where it has no bound.

    A model whose full ``(B, T, V)`` table is far larger than the T numbers a score needs may also offer
    ``score(ids) -> (B, T - 1)``, the log-probabilities of the tokens that did follow. It must equal
    ``log_softmax(model(ids))`` read at the next tokens; ``minilm.evaluate`` then uses it, and the tests compare both.
    """

    vocab_size: int
    context: int | None

    def __call__(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]: ...


@dataclass(frozen=True)
class Batch:
    """One step's work: ``model(*inputs)`` gives logits, ``loss(logits, targets)`` scores them.

    ``inputs`` is a tuple, since an encoder-decoder takes two; ``targets`` holds ids, or ``IGNORE``.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor


def next_token(ids: Int[Tensor, "B T"]) -> Batch:
    """The self-supervised objective: every token is the label of the ones before it.

    Raises ValueError where T < 2, since one token leaves nothing to predict.

    >>> import torch
    >>> batch = next_token(torch.tensor([[5, 6, 7]]))
    >>> batch.inputs[0].tolist(), batch.targets.tolist()
    ([[5, 6]], [[6, 7]])
    """
    if ids.shape[1] < 2:
        raise ValueError(f"ids has shape {tuple(ids.shape)}: next-token prediction needs at least 2 tokens in a row")
    return Batch(inputs=(ids[:, :-1],), targets=ids[:, 1:])


def loss(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats per scored position: the negative log-likelihood of the targets.

    ``-1/N sum_n log softmax(logits_n)[targets_n]`` over the N positions whose target is not ``IGNORE``.
    Raises ValueError where every target is ``IGNORE``: a mean over nothing would be a silent nan.

    >>> import math, torch
    >>> half = torch.tensor([[0.0, 0.0], [9.0, 0.0]])        # the first row gives both tokens probability 1/2
    >>> math.isclose(loss(half, torch.tensor([1, IGNORE])), math.log(2), rel_tol=1e-6)
    True
    """
    if (targets == IGNORE).all():
        raise ValueError("targets: every position is IGNORE, so there is nothing to score; check how the batch is made")
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)
