"""DPO: its value, its gradient as the paper has it, the policy it leads to; divergences against enumeration."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config, randomised

from minilm.contract import IGNORE, Batch, loss
from minilm.finetune import Example, examples
from minilm.gpt import GPT
from minilm.preference import Preference, divergence, dpo_loss, log_likelihood, pairs
from minilm.train import TrainConfig, train

CHOSEN = [Example([1, 2], [3, 4, 5]), Example([6], [7])]
REJECTED = [Example([1, 2], [9]), Example([6], [8, 8])]
numbers = st.lists(st.floats(-50, 50), min_size=4, max_size=4)


def gpt(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return randomised(GPT(config())).eval()


def by_hand(model, example: Example) -> torch.Tensor:
    """The log-probability of an answer, token by token."""
    ids, total = list(example.prompt), 0.0
    for token in example.answer:
        total = total + model(torch.tensor([ids]))[0, -1].log_softmax(-1)[token]
        ids.append(token)
    return total


def test_log_likelihood_is_the_sum_over_the_answer():
    model, batch = gpt(), examples(CHOSEN)
    expected = torch.stack([by_hand(model, example) for example in CHOSEN])
    torch.testing.assert_close(log_likelihood(model, batch.inputs[0], batch.targets), expected)


@given(numbers, st.floats(0.01, 2.0))
def test_loss_and_gradient_are_the_papers(values, beta):
    a, b, c, d = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values)
    margin = beta * ((values[0] - values[2]) - (values[1] - values[3]))
    value = dpo_loss(a, b, c, d, beta)
    assert value.item() == pytest.approx(math.log1p(math.exp(-margin)) if margin > -500 else -margin, rel=1e-9)
    value.backward()
    wrong = 1 / (1 + math.exp(margin))  # the weight in equation 7: how wrongly the implicit reward orders the pair
    assert a.grad.item() == pytest.approx(-beta * wrong, rel=1e-9)
    assert b.grad.item() == pytest.approx(beta * wrong, rel=1e-9)


def test_preference_is_dpo_as_a_choice():
    policy, reference = gpt(0), gpt(1)
    batch = pairs(reference, list(zip(CHOSEN, REJECTED, strict=True)))
    model = Preference(policy, beta=0.3)
    value = loss(model(*batch.inputs), batch.targets)
    score = lambda m, items: torch.stack([by_hand(m, one) for one in items])
    parts = [score(m, items) for m in (policy, reference) for items in (CHOSEN, REJECTED)]
    torch.testing.assert_close(value, dpo_loss(*parts, beta=0.3))
    value.backward()
    mine = policy.embedding.weight.grad.clone()
    policy.zero_grad()
    margin = 0.3 * ((parts[0] - parts[2]) - (parts[1] - parts[3]))
    weight = (-0.3 * (-margin).sigmoid() / 2).detach()
    (weight * (score(policy, CHOSEN) - score(policy, REJECTED))).sum().backward()
    torch.testing.assert_close(mine, policy.embedding.weight.grad)


def test_the_first_loss_is_log_two():
    model = gpt()
    batch = pairs(model, list(zip(CHOSEN, REJECTED, strict=True)))
    assert loss(Preference(model)(*batch.inputs), batch.targets).item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="beta=0"):
        Preference(model, beta=0.0)


def test_training_prefers_the_chosen():
    policy = gpt().float()
    reference = copy.deepcopy(policy)
    batch = pairs(reference, list(zip(CHOSEN, REJECTED, strict=True)))
    repeated = Batch(tuple(torch.cat([x] * 2) for x in batch.inputs), torch.cat([batch.targets] * 2))
    train(Preference(policy), lambda step: repeated, TrainConfig(30, 4, learning_rate=1e-2), progress=False)
    rewards = Preference(policy)(*batch.inputs)
    assert (rewards[:, 0] > rewards[:, 1] + 0.3).all()
    unchanged = log_likelihood(reference, batch.inputs[0][:, 0], batch.inputs[1][:, 0])
    torch.testing.assert_close(unchanged, batch.inputs[2][:, 0])


def test_enough_pairs_lead_to_the_optimum_of_reward_minus_divergence():
    """All pairs of four answers, chosen with Bradley and Terry's probabilities: p ends at q exp(r / beta) / Z."""
    torch.manual_seed(0)
    rewards, beta = torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64), 0.7
    q = torch.randn(4, dtype=torch.float64).log_softmax(0)
    z = q.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def expected_loss():
        optimizer.zero_grad()
        p, total = z.log_softmax(0), 0.0
        for i, j in itertools.permutations(range(4), 2):
            pair = (p[[i]], p[[j]], q[[i]], q[[j]])
            total = total + (rewards[i] - rewards[j]).sigmoid() * dpo_loss(*pair, beta)
        total.backward()
        return total

    optimizer.step(expected_loss)
    torch.testing.assert_close(z.log_softmax(0), (q + rewards / beta).log_softmax(0), rtol=1e-5, atol=1e-6)


def test_divergence_is_that_of_all_answers():
    """Two tokens after a prompt, enumerated: the mean over draws, weighted by the policy, is the whole divergence."""
    policy, reference, V = gpt(0), gpt(1), 11
    answers = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    ids = torch.cat([torch.full((V * V, 1), 3), answers], 1)
    targets = torch.cat([torch.full((V * V, 1), 5), answers[:, 1:]], 1).clone()
    targets[:, 0] = answers[:, 0]
    inputs = ids[:, :-1]
    p, q = (log_likelihood(m, inputs, targets) for m in (policy, reference))
    assert p.exp().sum().item() == pytest.approx(1.0)
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * divergence(policy, reference, inputs, targets)).sum(), exact)
    assert divergence(policy, reference, inputs, torch.full_like(targets, IGNORE)).abs().max() == 0


def test_what_is_impossible_has_no_divergence_and_is_not_scored():
    """A language model may give a token no probability at all."""

    class Sure:
        vocab_size, context = 3, None

        def __call__(self, ids):
            return torch.tensor([0.5, 0.5, 0.0]).log().expand(*ids.shape, 3)

    ids, targets = torch.tensor([[2, 1, 0]]), torch.tensor([[2, 0, 1]])
    targets[0, 0] = IGNORE
    assert log_likelihood(Sure(), ids, targets).item() == pytest.approx(2 * math.log(0.5))
    assert divergence(Sure(), Sure(), ids, targets).item() == 0
