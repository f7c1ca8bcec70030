"""Windows, padding and batches against plain loops and round trips."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilm.batching import batches, derived_seed, pad, padded, sample, split, windows
from minilm.contract import IGNORE, Batch, loss

ids = st.integers(0, 50)
rows = st.lists(st.lists(ids, max_size=8), min_size=1, max_size=6)


@given(st.lists(ids, min_size=2, max_size=60), st.integers(1, 12))
def test_every_id_but_the_first_is_a_target_once(stream, context):
    if len(stream) <= context:
        with pytest.raises(ValueError, match=f"needs {context + 1} or more"):
            windows(torch.tensor(stream), context)
        return
    cut = windows(torch.tensor(stream), context)
    scored = cut[:, 1:].flatten().tolist()
    assert scored == stream[1 : 1 + len(scored)]
    assert len(stream) - 1 - len(scored) < context  # only what does not fill a row is left out


@given(st.lists(ids, min_size=9, max_size=40), st.integers(1, 8), st.integers(1, 8))
def test_windows_with_a_stride_are_slices(stream, context, stride):
    expected = [stream[i : i + context + 1] for i in range(0, len(stream) - context, stride)]
    assert windows(torch.tensor(stream), context, stride).tolist() == expected


@pytest.mark.parametrize("context, stride", [(0, None), (3, 0), (-1, None)])
def test_windows_refuse_nonsense(context, stride):
    with pytest.raises(ValueError, match="at least 1"):
        windows(torch.arange(9), context, stride)


@given(rows, st.integers(-100, 100))
def test_pad_keeps_rows_and_fills_the_rest(ragged, pad_id):
    block = pad(ragged, pad_id)
    assert block.shape == (len(ragged), max(map(len, ragged))) and block.dtype == torch.long
    for row, filled in zip(ragged, block.tolist(), strict=True):
        assert filled[: len(row)] == row and set(filled[len(row) :]) <= {pad_id}


@given(st.lists(st.lists(ids, min_size=2, max_size=8), min_size=1, max_size=5), ids)
def test_padding_is_never_scored_and_real_tokens_always_are(ragged, pad_id):
    """The loss of a padded batch is the mean over the rows taken one by one, whatever the id of the padding."""
    batch = padded(ragged, pad_id)
    logits = torch.randn(51, 51, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    single = [(logits.log_softmax(-1)[row[t], row[t + 1]]) for row in ragged for t in range(len(row) - 1)]
    torch.testing.assert_close(loss(logits[batch.inputs[0]], batch.targets), -torch.stack(single).mean())
    assert (batch.targets != IGNORE).sum() == len(single)


def test_pad_refuses_nothing():
    with pytest.raises(ValueError, match="rows is empty"):
        pad([], 0)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_a_pass_hands_out_every_row_once(n, batch_size, seed):
    table = torch.arange(n * 3).reshape(n, 3)
    handed = list(batches(table, batch_size, seed))
    assert [len(batch.targets) for batch in handed[:-1]] == [batch_size] * (len(handed) - 1)
    joined = torch.cat([torch.cat([batch.inputs[0], batch.targets[:, -1:]], dim=1) for batch in handed])
    assert sorted(joined.tolist()) == table.tolist()
    again = list(batches(table, batch_size, seed))
    assert all(torch.equal(one.targets, two.targets) for one, two in zip(handed, again, strict=True))


def test_the_order_depends_on_the_seed_and_not_on_the_global_state():
    table = torch.arange(200).reshape(100, 2)
    first = next(batches(table, 100, seed=0)).targets
    torch.manual_seed(1)
    assert torch.equal(next(batches(table, 100, seed=0)).targets, first)
    assert not torch.equal(next(batches(table, 100, seed=1)).targets, first)
    assert not torch.equal(first, table[:, 1:])


def test_batches_refuse_size_zero_at_once():
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(torch.zeros(3, 2, dtype=torch.long), 0)


@given(st.integers(5, 40), st.integers(1, 4), st.integers(1, 5), st.integers(0, 9), st.integers(0, 10**6))
def test_a_sample_is_windows_of_the_stream_decided_by_seed_and_step(n, context, batch_size, seed, step):
    ids = torch.arange(100, 100 + n)  # each id tells where it stood
    batch = sample(ids, context, batch_size, seed)(step)
    (inputs,) = batch.inputs
    assert inputs.shape == batch.targets.shape == (batch_size, context)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(context)) and torch.equal(batch.targets, inputs + 1)
    assert inputs.min() >= 100 and batch.targets.max() < 100 + n
    torch.manual_seed(step)
    assert torch.equal(sample(ids, context, batch_size, seed)(step).targets, batch.targets)


def test_every_place_is_drawn_equally_often():
    """Also the first and the last window; 6 places, 3000 draws: a chi-square beyond 25.7 has a chance of 1 in 10000."""
    stream = sample(torch.arange(8), context=2, batch_size=3)
    counts = torch.bincount(torch.cat([stream(step).inputs[0][:, 0] for step in range(1000)]), minlength=6)
    assert len(counts) == 6 and ((counts - 500) ** 2 / 500).sum() < 25.7


def test_steps_and_seeds_differ():
    ids = torch.arange(10_000)
    batches = [sample(ids, 4, 8, seed)(step).targets for seed in range(3) for step in range(3)]
    assert len({tuple(batch[:, 0].tolist()) for batch in batches}) == 9
    assert len({derived_seed(a, b) for a in range(30) for b in range(30)}) == 900


def test_sample_refuses_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="batch_size is 0"):
        sample(torch.arange(9), 3, 0)
    with pytest.raises(ValueError, match="needs 10 or more"):
        sample(torch.arange(9), 9, 1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_parts_are_the_batch_in_order(n, rows, inputs):
    tensors = [torch.randint(9, (n * rows, 2)) for _ in range(inputs + 1)]
    parts = split(Batch(tuple(tensors[:-1]), tensors[-1]), n)
    assert len(parts) == n and all(len(part.inputs) == inputs and len(part.targets) == rows for part in parts)
    for k in range(inputs):
        assert torch.equal(torch.cat([part.inputs[k] for part in parts]), tensors[k])
    assert torch.equal(torch.cat([part.targets for part in parts]), tensors[-1])


@pytest.mark.parametrize("n", [0, 2, 4])
def test_unequal_parts_are_refused(n):
    with pytest.raises(ValueError, match=f"3 rows cannot be split into {n} equal parts"):
        split(Batch((torch.zeros(3, 2),), torch.zeros(3, 2)), n)
