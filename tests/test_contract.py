"""Hand-computed cases and properties of the two contracts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilm.contract import IGNORE, LanguageModel, loss, next_token


def test_loss_of_a_hand_made_case():
    logits = torch.tensor([[[0.2, 0.3, 0.5]], [[0.7, 0.2, 0.1]]]).log()  # already probabilities, so softmax keeps them
    expected = -(math.log(0.5) + math.log(0.2)) / 2
    assert loss(logits, torch.tensor([[2], [1]])).item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 7), st.integers(0, 2**31))
def test_loss_is_the_mean_over_scored_positions_only(batch, time, vocab, seed):
    torch.manual_seed(seed)
    logits = torch.randn(batch, time, vocab, dtype=torch.float64)
    targets = torch.randint(vocab, (batch, time))
    targets[torch.rand(batch, time) < 0.5] = IGNORE
    targets[0, 0] = 1
    total, n = 0.0, 0
    for b in range(batch):
        for t in range(time):
            if targets[b, t] != IGNORE:  # a mean over all positions, or a flipped sign, fails here
                total -= (logits[b, t, targets[b, t]] - logits[b, t].exp().sum().log()).item()
                n += 1
    assert loss(logits, targets).item() == pytest.approx(total / n, rel=1e-12)


def test_loss_over_nothing_is_an_error():
    with pytest.raises(ValueError, match="every position is IGNORE"):
        loss(torch.zeros(2, 3), torch.full((2,), IGNORE))


@given(st.integers(1, 4), st.integers(2, 9))
def test_next_token_pairs_each_token_with_its_successor(batch, time):
    ids = torch.arange(batch * time).reshape(batch, time)
    (inputs,), targets = (made := next_token(ids)).inputs, made.targets
    assert torch.equal(targets, inputs + 1)  # in a row of consecutive numbers the successor is the number plus one
    assert inputs.shape == targets.shape == (batch, time - 1)


def test_next_token_needs_two_tokens():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        next_token(torch.zeros(3, 1, dtype=torch.long))


def test_any_callable_with_a_vocabulary_is_a_language_model():
    class Uniform:
        vocab_size, context = 3, 0

        def __call__(self, ids):
            return torch.zeros(*ids.shape, 3)

    assert isinstance(Uniform(), LanguageModel)
    assert not isinstance(len, LanguageModel)
