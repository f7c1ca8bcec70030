"""Sampling against closed forms, brute force and long-run frequencies."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from minilm.generate import generate, next_token_probs

logits = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda x: torch.tensor(x).double() / 8
)


class Chain:
    """A first-order Markov chain with a given transition table."""

    context = 1

    def __init__(self, table):
        self.log_probs = torch.tensor(table).double().log()
        self.vocab_size = len(table)

    def __call__(self, ids):
        return self.log_probs[ids]


@given(logits, st.floats(0.2, 3))
def test_temperature_is_a_power_of_the_probabilities(x, temperature):
    powered = x.softmax(0) ** (1 / temperature)
    torch.testing.assert_close(next_token_probs(x, temperature), powered / powered.sum())


@given(logits, st.integers(1, 12))
def test_top_k_keeps_the_k_likeliest_in_proportion(x, k):
    probs = next_token_probs(x, top_k=k)
    kept = set(x.topk(min(k, len(x))).indices.tolist())
    assert {i for i in range(len(x)) if probs[i] > 0} == kept
    reference = torch.tensor([x.softmax(0)[i] if i in kept else 0.0 for i in range(len(x))]).double()
    torch.testing.assert_close(probs, reference / reference.sum())


@given(logits, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_tokens_that_hold_p(x, p):
    kept = next_token_probs(x, top_p=p) > 0
    plain = x.softmax(0)
    assert plain[kept].sum() >= p - 1e-9
    assert plain[kept].sum() - plain[kept].min() < p  # one token fewer would not do
    assert not kept.all() or plain.min() > 0
    assert (plain[kept].min() >= plain[~kept].max()) if (~kept).any() else True


def test_samples_follow_the_distribution():
    table = [[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]
    ids = [0, *generate(Chain(table), [0], 6_000, seed=1)]
    for state in range(3):
        counts = torch.bincount(torch.tensor([b for a, b in pairwise(ids) if a == state]), minlength=3)
        expected = counts.sum() * torch.tensor(table[state], dtype=torch.float64)
        assert chisquare(counts, expected).pvalue > 1e-3


def test_seed_decides_the_text():
    model = Chain([[0.5, 0.5], [0.5, 0.5]])
    assert generate(model, [0], 40, seed=3) == generate(model, [0], 40, seed=3) != generate(model, [0], 40, seed=4)


def test_model_is_shown_no_more_than_its_context():
    class Strict(Chain):
        context = 2

        def __call__(self, ids):
            assert ids.shape[1] <= 2
            return super().__call__(ids)

    assert len(generate(Strict([[0.5, 0.5], [0.5, 0.5]]), [0, 1, 1], 5)) == 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": []}, "prompt is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        generate(Chain([[1.0]]), **{"prompt": [0], "max_new_tokens": 1, **options})
