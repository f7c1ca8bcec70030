"""Learning from preferences: of two answers, make the better one likelier, and stay near the model one began with.

DPO needs neither a model of the reward nor reinforcement learning: the policy's own log-probabilities, measured from
those of the reference it started as, are the reward. Written as a choice between two answers it is a `Batch` like every
other objective: `Preference` gives the two logits, ``contract.loss`` scores them, ``minilm.train.train`` does the rest.

Not here: where preferences come from (a rule, a person), and sampling (``minilm.generate``).
Letters: B batch, T time, V vocabulary. References: Rafailov et al. 2023 (DPO); Bradley & Terry 1952 (from rewards to
choices); Ziegler et al. 2019 (why the distance to the reference is paid for).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .contract import IGNORE, Batch, LanguageModel
from .finetune import Example, examples


def log_likelihood(model: LanguageModel, ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The log-probability of each row's answer: the sum over the targets that are not ``IGNORE``."""
    scored = targets != IGNORE
    nats = model(ids).log_softmax(-1).gather(-1, targets.masked_fill(~scored, 0)[..., None])[..., 0]
    return nats.where(scored, 0).sum(1)


def dpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """``-log sigmoid(beta (log p(y+)/q(y+) - log p(y-)/q(y-)))``, the mean over pairs; p policy, q reference.

    The arguments are log-probabilities of whole answers.

    >>> zero = torch.zeros(1)
    >>> dpo_loss(zero, zero, zero, zero)                     # the policy is the reference: log 2
    tensor(0.6931)
    >>> dpo_loss(zero + 10, zero, zero, zero) < dpo_loss(zero, zero, zero, zero)
    tensor(True)
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * margin).mean()


class Preference(nn.Module):
    """A policy as the judge of its own answers: two logits ``beta log p(y)/q(y)`` a pair, the better answer first.

    The cross-entropy of choosing the first is `dpo_loss`. The reference need not be kept: its two log-probabilities
    come with the batch, as `pairs` puts them there.
    """

    def __init__(self, policy: nn.Module, beta: float = 0.1):
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta={beta}: the price of distance from the reference must be positive")
        self.policy, self.beta = policy, beta

    def extra_repr(self) -> str:
        return f"beta={self.beta}"

    def forward(
        self, ids: Int[Tensor, "B 2 T"], targets: Int[Tensor, "B 2 T"], reference: Float[Tensor, "B 2"]
    ) -> Float[Tensor, "B 2"]:
        """The implicit rewards of both answers."""
        policy = log_likelihood(self.policy, ids.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        return self.beta * (policy - reference)


@torch.no_grad()
def pairs(reference: LanguageModel, items: Sequence[tuple[Example, Example]]) -> Batch:
    """A batch for `Preference` of pairs of answers to one prompt each, the better answer first."""
    batch = examples([example for pair in items for example in pair])
    nats = log_likelihood(reference, batch.inputs[0], batch.targets)
    ids, targets = (x.unflatten(0, (-1, 2)) for x in (batch.inputs[0], batch.targets))
    return Batch((ids, targets, nats.view(-1, 2)), torch.zeros(len(items), dtype=torch.long))


@torch.no_grad()
def divergence(
    policy: LanguageModel, reference: LanguageModel, ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """``KL(policy || reference)`` in nats, summed over the positions of each row's answer.

    Where the answers are drawn from the policy, the mean over rows estimates the divergence of its whole answers from
    those of the reference, and estimates it better than the mean of ``log p(y)/q(y)``: only the draw of the earlier
    tokens is left to chance.
    """
    p, q = (model(ids).log_softmax(-1) for model in (policy, reference))
    each = torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)  # 0 log 0 is 0
    return each.where(targets != IGNORE, 0).sum(1)
