"""The ruler against closed forms, brute force and repeated sampling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilm import evaluate


class Recency:
    """A model whose answer depends on all tokens it is shown, so that a wrong window changes the numbers."""

    vocab_size = 4

    def __init__(self, context=None):
        self.context = context

    def __call__(self, ids):
        seen = torch.nn.functional.one_hot(ids, 4).double().cumsum(1)
        return (seen + 1).log()


class Bytes:
    """A byte is a token: the simplest lossless tokenizer."""

    vocab_size, tokens = 256, [chr(i) for i in range(256)]

    def encode(self, text, specials=False):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode()

    def token_bytes(self, id):
        return bytes([id])

    def save(self, path): ...


class Unigram:
    """Fixed probabilities, whatever came before."""

    vocab_size, context = 256, 1

    def __init__(self, seed=0):
        self.log_probs = torch.randn(256, generator=torch.Generator().manual_seed(seed)).double().log_softmax(0)

    def __call__(self, ids):
        return self.log_probs.expand(*ids.shape, 256)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 12), st.data())
def test_windows_show_each_token_what_they_promise(ids, context, data):
    stride = data.draw(st.integers(1, context))
    ids, model, expected = torch.tensor(ids), Recency(), []
    for t in range(1, len(ids)):  # brute force: the window in which token t is scored for the first time
        end = context
        while end < t:
            end += stride
        begin = max(0, min(end, len(ids) - 1) - context)
        expected.append(-model(ids[None, begin:t])[0, -1].log_softmax(-1)[ids[t]])
    torch.testing.assert_close(evaluate.nll(model, ids, context, stride), torch.stack(expected))


def test_unbounded_model_sees_everything():
    ids = torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(evaluate.nll(Recency(), ids), evaluate.nll(Recency(context=50), ids))


def test_score_is_used_where_offered():
    class Fast(Recency):
        def score(self, ids):
            return torch.full((1, ids.shape[1] - 1), -0.5)

    assert evaluate.nll(Fast(), torch.tensor([0, 1, 2])).tolist() == [0.5, 0.5]


def test_uniform_bytes_cost_eight_bits():
    class Uniform(Unigram):
        log_probs = torch.zeros(256)

        def __init__(self): ...

    result = evaluate.score(Uniform(), Bytes(), "any text costs the same: 8 bits a byte, even 漢字")
    assert result.bits_per_byte == pytest.approx(8, rel=1e-6)
    assert result.perplexity == pytest.approx(256, rel=1e-6)


def test_blocks_add_up_to_the_whole():
    text = "to be, or not to be: that is the question " * 300
    result, model = evaluate.score(Unigram(), Bytes(), text, block=100), Unigram()
    whole = evaluate.nll(model, torch.tensor(list(text.encode())))
    assert result.bits_per_byte == pytest.approx(evaluate.bits_per_byte(whole, len(text) - 1), rel=1e-12)
    assert result.perplexity == pytest.approx(evaluate.perplexity(whole), rel=1e-12)
    assert len(result.bytes) == math.ceil(len(text) / 100) and result.bytes[0] == 99 and result.bytes[1] == 100


def test_lossy_tokenizer_is_refused():
    class Lossy(Bytes):
        def token_bytes(self, id):
            return b"" if id == ord("x") else bytes([id])

    with pytest.raises(ValueError, match="5 of the text's 6 bytes"):
        evaluate.score(Unigram(), Lossy(), "ab xcd")


def test_compressors_pay_for_the_text_alone():
    assert evaluate.compressed(lambda content: content, "漢字 and more", after="any start") == 8
    assert evaluate.compressed(lambda content: b"head" + content, "four") == 16  # a file of its own has its own header
    assert evaluate.compressed(lambda content: b"head" + content, "four", after="x") == 8
    with pytest.raises(ValueError, match="text is empty"):
        evaluate.compressed(bytes, "", after="x")


def test_a_model_far_astray_has_infinite_perplexity():
    assert evaluate.perplexity(torch.tensor([800.0, 900.0])) == math.inf
    assert evaluate.Score(np.array([1700.0]), np.array([1]), 2).perplexity == math.inf


def test_interval_covers_the_truth_about_95_times_in_100():
    rng, truth, hits = np.random.default_rng(0), 2.0, 0
    for _ in range(200):
        n_bytes = rng.integers(900, 1100, 60)
        nats = n_bytes * math.log(2) * rng.normal(truth, 0.3, 60)
        low, high = evaluate.Score(nats, n_bytes, 60).interval
        hits += low < truth < high
    assert 180 <= hits <= 198  # binomial(200, 0.95) lies in here 99 times in 100, a 90 % interval does not


def test_paired_difference_sees_what_single_intervals_hide():
    rng = np.random.default_rng(0)
    n_bytes, hard = np.full(60, 1000), rng.normal(2.0, 0.5, 60)
    worse = evaluate.Score(1000 * math.log(2) * (hard + 0.05 + rng.normal(0, 0.01, 60)), n_bytes, 60)
    better = evaluate.Score(1000 * math.log(2) * hard, n_bytes, 60)
    gap, low, high = worse.minus(better)
    assert 0.03 < low < gap < high < 0.07
    assert worse.interval[0] < better.bits_per_byte < worse.interval[1]  # unpaired, the two look alike
    assert better.minus(worse)[0] == pytest.approx(-gap)


def test_scores_of_different_texts_do_not_subtract():
    a, b = (evaluate.Score(np.ones(3), np.full(3, n), 3) for n in (1000, 5000))
    with pytest.raises(ValueError, match="score one text"):
        a.minus(b)


def test_one_block_has_no_interval():
    assert all(map(math.isnan, evaluate.Score(np.ones(1), np.ones(1, dtype=int), 1).interval))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: evaluate.nll(Recency(), torch.tensor([1])), "2 or more"),
        (lambda: evaluate.nll(Recency(), torch.tensor([1, 2]), context=2, stride=3), "stride=3"),
        (lambda: evaluate.bits_per_byte(torch.ones(3), 0), "n_bytes=0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Reader(Recency):
    """A model with a score of its own."""

    def score(self, ids):
        return torch.full((len(ids), ids.shape[1] - 1), -7.0)


def test_a_score_of_its_own_is_used_unless_windows_are_asked_for_where_there_is_no_bound():
    ids = torch.arange(9) % 3
    assert (evaluate.nll(Reader(), ids) == 7).all()
    assert (evaluate.nll(Reader(context=2), ids, context=4) == 7).all()
    torch.testing.assert_close(evaluate.nll(Reader(), ids, context=4), evaluate.nll(Recency(), ids, context=4))
