"""Cells against PyTorch's kernels, the cache against no cache, the language model against its written-out self."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.batching import pad
from minilm.contract import LanguageModel, loss, next_token
from minilm.evaluate import nll
from minilm.generate import generate
from minilm.rnn import CELLS, KERNELS, RNNLM, RNNConfig, rnn_cell, unroll

EXACT = {"rtol": 1e-10, "atol": 1e-10}
cells = pytest.mark.parametrize("cell", CELLS)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**31))


def zeros(cell, *shape):
    one = torch.zeros(*shape, dtype=torch.float64)
    return (one, one.clone()) if cell == "lstm" else one


def hidden(state):
    return state[0] if isinstance(state, tuple) else state


def written_out(model, ids):
    """The logits of an RNNLM by our cells, layer by layer and step by step."""
    x, cell = model.embedding(ids) * 6**0.5, model.config.cell  # width 6
    for weights in model.layers.all_weights:
        states = unroll(CELLS[cell], x, zeros(cell, len(ids), model.config.d_model), *weights)
        x = torch.stack([hidden(state) for state in states], 1)
    return x @ model.embedding.weight.T + model.bias


def small(cell, n_layers=2, vocab_size=11, seed=0):
    torch.manual_seed(seed)
    model = RNNLM(RNNConfig(vocab_size, d_model=6, n_layers=n_layers, cell=cell)).double()
    for parameter in model.parameters():  # large weights: a saturated, history-dependent model shows every mistake
        torch.nn.init.normal_(parameter, std=0.7)
    return model


@cells
@given(sizes)
@settings(max_examples=30)
def test_cells_are_torchs_in_value_and_gradient(cell, size):
    B, T, D, H, seed = size
    torch.manual_seed(seed)
    kernel = KERNELS[cell](D, H, batch_first=True).double()
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 1, B, H, dtype=torch.float64).tanh().requires_grad_()
    both = (start[0], start[1]) if cell == "lstm" else start[0]
    theirs, last = kernel(x, both)
    single = (start[0, 0], start[1, 0]) if cell == "lstm" else start[0, 0]
    states = unroll(CELLS[cell], x, single, *kernel.all_weights[0])
    ours = torch.stack([hidden(state) for state in states], 1)
    torch.testing.assert_close(ours, theirs, **EXACT)
    for mine, its in zip(*[s if isinstance(s, tuple) else (s,) for s in (states[-1], last)], strict=True):
        torch.testing.assert_close(mine, its[0], **EXACT)
    wanted, weight = [x, start, *kernel.parameters()], torch.randn_like(ours)
    for mine, its in zip(*(torch.autograd.grad((y * weight).sum(), wanted) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, its, **EXACT)


@cells
@pytest.mark.parametrize("n_layers", [1, 3])
def test_language_model_is_its_cells(cell, n_layers):
    model, ids = small(cell, n_layers), torch.randint(11, (3, 8))
    assert isinstance(model, LanguageModel)
    torch.testing.assert_close(model(ids), written_out(model, ids), **EXACT)


@cells
@given(st.integers(1, 8), st.integers(0, 10), st.integers(0, 2**31))
@settings(max_examples=20)
def test_the_future_is_not_seen_and_the_past_is(cell, t, token, seed):
    model, ids = small(cell), torch.randint(11, (1, 9), generator=torch.Generator().manual_seed(seed))
    changed = ids.clone()
    changed[0, t] = token
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :t], after[:, :t], rtol=0, atol=0)
    assert (token == ids[0, t]) == torch.equal(before[0, -1], after[0, -1])


@cells
@given(st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=7), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=20)
def test_padded_prompts_continue_like_each_alone(cell, prompts, more):
    """Two padded calls: `keep` must walk back to each row's length from the state where the last call began."""
    model, lengths = small(cell), torch.tensor([len(prompt) for prompt in prompts])
    cache, texts = model.new_cache(len(prompts), 99), prompts
    for extra in (prompts, [prompt[:more][::-1] for prompt in prompts]):
        texts = extra if extra is prompts else [a + b for a, b in zip(texts, extra, strict=True)]
        logits = model(pad(extra, pad_id=3), cache)
        lengths = torch.tensor([len(text) for text in texts])
        cache.keep(torch.ones_like(lengths) + cache.start)  # it may go back and forth
        cache.keep(lengths)
        assert cache.lengths.tolist() == lengths.tolist()
        for row, (text, part) in enumerate(zip(texts, extra, strict=True)):
            torch.testing.assert_close(logits[row, len(part) - 1], model(torch.tensor([text]))[0, -1], **EXACT)
    step = model(torch.full((len(prompts), 1), 7), cache)
    for row, text in enumerate(texts):
        torch.testing.assert_close(step[row, 0], model(torch.tensor([[*text, 7]]))[0, -1], **EXACT)


@cells
def test_reordered_rows_carry_their_own_past(cell):
    model, ids = small(cell), torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    cache, rows = model.new_cache(3), torch.tensor([2, 0, 0])
    model(ids, cache)
    cache.reorder(rows)
    cache.keep(torch.tensor([4, 5, 3]))  # what was read last is reordered too
    step = model(torch.tensor([[1], [2], [3]]), cache)
    for row, text in enumerate([[*ids[2, :4], 1], [*ids[0], 2], [*ids[0, :3], 3]]):
        torch.testing.assert_close(step[row, 0], model(torch.tensor([text]))[0, -1], **EXACT)


@cells
def test_score_is_the_table_read_at_the_next_tokens(cell):
    model, ids = small(cell), torch.randint(11, (2, 23), generator=torch.Generator().manual_seed(2))
    table = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    for chunk in (1, 5, 22, 100):
        torch.testing.assert_close(model.score(ids, chunk), table, **EXACT)
    torch.testing.assert_close(
        nll(model, ids[0]).mean(), loss(model(ids[:1, :-1]), next_token(ids[:1]).targets), **EXACT
    )


def test_generation_feeds_back_what_it_wrote():
    model = small("gru")
    cache, ids = model.new_cache(1), [4, 2]
    logits = model(torch.tensor([ids]), cache)
    for _ in range(12):
        ids.append(int(logits[0, -1].argmax()))
        logits = model(torch.tensor([ids[-1:]]), cache)
    assert ids[2:] == generate(model, [4, 2], 12, temperature=0.0)


@cells
def test_a_text_is_learnt_by_heart(cell):
    """A state is enough to count: after a b b, only the position says whether a or b comes next."""
    torch.manual_seed(0)
    model, batch = RNNLM(RNNConfig(3, d_model=16, cell=cell)), next_token(torch.tensor([[0, 1, 1, 0, 1, 1, 1, 2] * 3]))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        paid = loss(model(*batch.inputs), batch.targets)
        paid.backward()
        optimizer.step()
    assert paid < 0.05


def test_forget_gates_start_open_and_the_table_is_shared():
    model = RNNLM(RNNConfig(50, d_model=64, n_layers=2))
    for _, _, bias_ih, bias_hh in model.layers.all_weights:
        i, f, g, o = (bias_ih + bias_hh).detach().chunk(4)
        assert f.min() > 0.7 and max(part.max() for part in (i, g, o)) < 0.3
    assert sum(p.numel() for p in model.parameters()) == 50 * 64 + 2 * (2 * 4 * 64 * 64 + 2 * 4 * 64) + 50


def test_nothing_to_score_is_no_score():
    assert small("gru").score(torch.zeros(2, 1, dtype=torch.long)).shape == (2, 0)


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="cell='mlp': there are rnn, gru, lstm"):
        RNNLM(RNNConfig(5, 4, cell="mlp"))
    model = small("lstm")
    cache = model.new_cache(2)
    model(torch.zeros(2, 3, dtype=torch.long), cache)
    for lengths in ([3, 4], [0, 3]):
        with pytest.raises(ValueError, match="1 to 3 of the tokens"):
            cache.keep(torch.tensor(lengths))


def test_a_saturated_unit_forgets_nothing_and_learns_nothing():
    """The derivative of tanh is zero where it is saturated: the reason a plain RNN cannot hold and learn at once."""
    x, weight = torch.zeros(1, 30, 1, dtype=torch.float64), torch.full((1, 1), 3.0, dtype=torch.float64)
    start = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    last = unroll(rnn_cell, x, start, weight, weight, zero, zero)[-1]
    last.backward()
    assert last > 0.99 and 0 < start.grad.item() < 1e-20
