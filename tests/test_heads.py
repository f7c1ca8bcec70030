"""Heads on an encoder: pooling, classes, spans, frozen weights; against loops, torch and transformers' losses."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config, randomised
from torch import nn

from minilm.batching import pad
from minilm.contract import Batch, loss
from minilm.heads import Classifier, SpanHead, best_span, first_pool, frozen, mean_pool, trainable
from minilm.train import TrainConfig, train
from minilm.transformer import Stack


class Encoder(nn.Module):
    """The least that a head asks of an encoder."""

    def __init__(self, **fields):
        super().__init__()
        self.config = config(**fields)
        self.embedding = nn.Embedding(self.config.vocab_size, self.config.d_model)
        self.stack = Stack(self.config)

    def forward(self, ids, mask, types=None):
        x = self.embedding(ids)
        return self.stack(x if types is None else x + types[..., None], mask=mask[:, None, None])


def batch(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return pad(rows, 0), pad([[1] * len(row) for row in rows], 0).bool()


rows_of_ids = st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=7), min_size=1, max_size=4)


@given(rows_of_ids)
def test_padding_changes_no_class(rows):
    model = randomised(Classifier(Encoder(), 3)).eval()
    together = model(*batch(rows))
    alone = torch.cat([model(*batch([row])) for row in rows])
    torch.testing.assert_close(together, alone)


@given(rows_of_ids)
def test_mean_pool_is_the_mean_of_each_text(rows):
    ids, mask = batch(rows)
    hidden = torch.randn(*ids.shape, 4, dtype=torch.float64)
    expected = torch.stack([hidden[i, : len(row)].mean(0) for i, row in enumerate(rows)])
    torch.testing.assert_close(mean_pool(hidden, mask), expected)


def test_classifier_is_a_linear_layer_on_the_pooled_states():
    model = randomised(Classifier(Encoder(), 3, pool=first_pool)).eval()
    ids, mask = batch([[1, 2, 3], [4]])
    hidden = model.encoder(ids, mask)
    torch.testing.assert_close(model(ids, mask), hidden[:, 0] @ model.head.weight.T + model.head.bias)


def test_first_loss_is_log_of_the_number_of_classes():
    model = Classifier(Encoder(), 5)
    assert loss(model(*batch([[1, 2], [3]])), torch.tensor([0, 4])).item() == pytest.approx(math.log(5), abs=1e-6)


@given(rows_of_ids)
def test_spans_lie_in_the_passage(rows):
    ids, mask = batch([[9, 9, *row] for row in rows])  # two tokens of question
    types = (torch.arange(ids.shape[1]) >= 2).long().expand_as(ids)
    logits = randomised(SpanHead(Encoder())).eval()(ids, mask, types)
    assert logits.shape == (len(rows), 2, ids.shape[1])
    for (first, last), row in zip(best_span(logits).tolist(), rows, strict=True):
        assert 2 <= first <= last < 2 + len(row)
    assert (logits.softmax(-1)[:, :, :2] == 0).all()
    assert torch.equal(logits.isfinite(), (mask & (types == 1))[:, None].expand_as(logits))


def test_span_loss_is_that_of_bert_for_question_answering():
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForQuestionAnswering(
        transformers.BertConfig(
            vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
        )
    ).eval()

    class Hidden(nn.Module):
        config = config()

        def forward(self, ids, mask):
            return theirs.bert(ids, mask).last_hidden_state

    ours = SpanHead(Hidden()).eval()
    ours.head.load_state_dict(theirs.qa_outputs.state_dict())
    ids = torch.randint(1, 11, (3, 8))
    first, last = torch.tensor([2, 0, 7]), torch.tensor([3, 0, 7])
    expected = theirs(ids, start_positions=first, end_positions=last)
    logits = ours(ids, torch.ones_like(ids).bool())
    torch.testing.assert_close(logits[:, 0], expected.start_logits)
    torch.testing.assert_close(logits[:, 1], expected.end_logits)
    torch.testing.assert_close(loss(logits, torch.stack([first, last], 1)), expected.loss)


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 7))
def test_best_span_is_the_best_of_all(seed, T, longest):
    logits = torch.randn(1, 2, T, generator=torch.Generator().manual_seed(seed))
    spans = [(i, j) for i, j in itertools.product(range(T), repeat=2) if i <= j < i + longest]
    expected = max(spans, key=lambda span: float(logits[0, 0, span[0]] + logits[0, 1, span[1]]))
    assert best_span(logits, longest).tolist() == [list(expected)]


def test_best_span_refuses_no_length():
    with pytest.raises(ValueError, match="longest=0"):
        best_span(torch.zeros(1, 2, 3), 0)


def stream(step: int) -> Batch:
    """Class 1 where the text holds a 7."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(1, 11, (16, 6), generator=generator)
    return Batch((ids, torch.ones_like(ids).bool()), (ids == 7).any(1).long())


def test_training_teaches_the_class():
    torch.manual_seed(0)
    model = Classifier(Encoder(), 2, dropout=0.0)
    train(model, stream, TrainConfig(steps=60, batch_size=16, learning_rate=2e-2), progress=False)
    held_out = stream(10_000)
    assert (model(*held_out.inputs).argmax(1) == held_out.targets).float().mean() >= 15 / 16


def test_a_frozen_encoder_stays_bit_for_bit_and_its_head_learns():
    torch.manual_seed(0)
    model = Classifier(frozen(Encoder()), 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, stream, TrainConfig(steps=3, batch_size=16, weight_decay=0.5), progress=False)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert trainable(model) == 2 * 16 + 2
    assert trainable(model.requires_grad_(True)) == sum(p.numel() for p in model.parameters())
