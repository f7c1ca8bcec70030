"""Span corruption loses nothing, hides what it says it hides, and a batch of pairs scores every target once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilm.contract import IGNORE
from minilm.spans import END, PAD, SENTINELS, SPECIALS, _cut, corrupt, pairs, sample_pairs, sample_spans, spans
from minilm.tokenizer import Words

FIRST = 2  # the id of the first sentinel
GENERATOR = lambda seed: torch.Generator().manual_seed(seed)


def restored(source: list[int], target: list[int]) -> list[int]:
    """The text again, by putting what the target says in the places of the sentinels."""
    hidden, name = {}, None
    for token in target:
        if FIRST <= token < FIRST + len(SENTINELS):
            name = token
            hidden[name] = []
        else:
            hidden[name].append(token)
    return [token for one in source for token in hidden.get(one, [one])]


@given(st.integers(2, 120), st.floats(0.01, 0.6), st.floats(1, 6), st.integers(0, 99))
def test_corruption_can_be_undone(length, share, mean, seed):
    ids = list(range(100, 100 + length))
    hidden = spans(length, share, mean, GENERATOR(seed))
    if hidden.sum() > 60:
        return
    source, target = corrupt(ids, hidden, range(FIRST, FIRST + len(SENTINELS)))
    assert restored(source, target) == ids
    kept = [token for token in source if token >= 100]
    assert kept == [i for i, hide in zip(ids, hidden.tolist(), strict=True) if not hide]


@given(st.integers(2, 500), st.floats(0.01, 0.6), st.floats(1, 6), st.integers(0, 99))
def test_as_much_is_hidden_as_was_asked(length, share, mean, seed):
    hidden = spans(length, share, mean, GENERATOR(seed))
    asked = min(max(round(length * share), 1), length - 1)
    edges = torch.cat([torch.tensor([False]), hidden]).int().diff()
    assert len(hidden) == length and hidden.sum() == asked and not hidden[0]
    assert (edges == 1).sum() == min(max(round(asked / mean), 1), length - asked)


def test_every_way_to_cut_is_equally_likely():
    drawn = [tuple(_cut(5, 3, GENERATOR(seed)).tolist()) for seed in range(3000)]
    ways = {(a, b, 5 - a - b) for a in range(1, 4) for b in range(1, 5 - a)}
    assert set(drawn) == ways
    expected = 3000 / len(ways)
    assert sum((drawn.count(way) - expected) ** 2 / expected for way in ways) < 25  # chi-squared, 5 degrees: p < 2e-4


def test_the_example_of_the_paper():
    """Raffel et al. 2020, figure 2."""
    text = "Thank you for inviting me to your party last week ."
    words = Words.train(text, len(SPECIALS) + 256 + 11, specials=SPECIALS)
    ids = words.encode(text)
    hidden = torch.tensor([word in ("for", "inviting", "last") for word in text.split()])
    source, target = corrupt(ids, hidden, range(FIRST, FIRST + 3))
    assert words.decode(source) == "Thank you<extra_id_0> me to your party<extra_id_1> week ."
    assert words.decode(target) == "<extra_id_0> for inviting<extra_id_1> last<extra_id_2>"


def test_too_few_sentinels():
    with pytest.raises(ValueError, match="2 are too few"):
        corrupt([9, 9, 9, 9], torch.tensor([False, True, False, True]), [2, 3])


def test_a_stream_of_spans_is_a_function_of_the_step():
    ids = torch.arange(100, 1000)
    stream = sample_spans(ids, context=64, batch_size=4, seed=1)
    once, again, next_one = stream(3), stream(3), stream(4)
    assert torch.equal(once.inputs[0], again.inputs[0]) and not torch.equal(once.inputs[0], next_one.inputs[0])
    source, _, mask = once.inputs
    for row, seen, target in zip(source, mask, once.targets, strict=True):
        text = restored(row[seen].tolist()[:-1], target[target != IGNORE].tolist()[:-1])
        assert text == list(range(text[0], text[0] + 64))


def test_pairs_read_what_they_have_written():
    batch = pairs([[5, 6], [7]], [[8], [9, 10]])
    source, read, mask = batch.inputs
    assert source.tolist() == [[5, 6, END], [7, END, PAD]]
    assert torch.equal(mask, source != PAD)
    assert read[:, 0].tolist() == [PAD, PAD]
    written = batch.targets[:, :-1] > END  # neither the end nor what is not scored
    assert torch.equal(read[:, 1:][written], batch.targets[:, :-1][written])
    assert (batch.targets == END).sum(1).tolist() == [1, 1]


def test_batches_of_pairs_waste_little_and_draw_all():
    sources = [[9] * (1 + i % 40) for i in range(400)]
    targets = [[i] for i in range(400)]
    stream = sample_pairs(sources, targets, batch_size=16, seed=0)
    batches = [stream(step) for step in range(160)]
    filled = sum(int(b.inputs[2].sum()) for b in batches) / sum(b.inputs[2].numel() for b in batches)
    assert filled > 0.85
    drawn = {int(i) for b in batches for i in b.targets[:, 0]}
    assert len(drawn) > 390  # 2,560 draws leave one in 600 out
    assert all(
        len(sources[int(i)]) == int(m.sum()) - 1
        for i, m in zip(batches[7].targets[:, 0], batches[7].inputs[2], strict=True)
    )
