"""The written-out attention and the layer against PyTorch's; the cache against none; what attention cannot see."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from minilm.attention import Attention, KVCache, attention, attention_weights, causal_mask
from minilm.layers import rms_norm, rotary_table

seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coins(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def make(d_model=12, n_heads=6, n_kv_heads=None, bias=True, qk_norm=False) -> Attention:
    torch.manual_seed(0)
    layer = Attention(d_model, n_heads, n_kv_heads, bias, qk_norm).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)  # far from uniform attention, or a wrong score would hardly show
    return layer


# The pure function


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_attention_equals_torch(seed, T, S, d, e):
    q, k, v, mask = (
        normal(seed, 2, 3, T, d),
        normal(seed + 1, 2, 3, S, d),
        normal(seed + 2, 2, 3, S, e),
        coins(seed, T, S),
    )
    assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
    assert_close(attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))  # also rows that see nothing
    bias = normal(seed + 3, T, S)
    assert_close(attention(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, bias))
    unseen = bias.masked_fill(~mask, -torch.inf)
    assert_close(attention(q, k, v, unseen), F.scaled_dot_product_attention(q, k, v, unseen))
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_close(attention(q, k, v, causal_mask(T, S)), causal)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_weights_are_an_average_over_what_may_be_seen(seed, T, S):
    mask = coins(seed, T, S)
    weights = attention_weights(normal(seed, 2, T, 3), normal(seed + 1, 2, S, 3), mask)
    assert (weights >= 0).all() and (weights[:, ~mask] == 0).all() and (weights[:, mask] > 0).all()
    assert_close(weights.sum(-1), mask.any(-1).double().expand(2, T))


def test_scores_beyond_the_reach_of_exp_do_not_overflow():
    q = torch.tensor([[300.0]])
    assert attention(q, torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [2.0]])).tolist() == [[1.0]]


def test_gradient_also_of_a_row_that_sees_nothing():
    q, k, v = (normal(i, 2, 3, 4).requires_grad_() for i in range(3))
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda *qkv: attention(*qkv, mask), (q, k, v))
    attention(q, k, v, mask).sum().backward()
    assert (q.grad[:, 1] == 0).all() and (k.grad[:, 1] != 0).any()


@pytest.mark.parametrize(("T", "S", "start"), [(1, 1, 0), (3, 3, 0), (2, 5, 3), (4, 2, 0), (1, 4, 2)])
def test_causal_mask_cell_by_cell(T, S, start):
    mask = causal_mask(T, S, start)
    assert mask.shape == (T, S)
    for t in range(T):
        for s in range(S):
            assert mask[t, s] == (s <= start + t)


# The layer against torch


def copied(layer: Attention, reference: nn.MultiheadAttention) -> Attention:
    """The layer with the weights of PyTorch's, which stacks queries, keys and values in the same order."""
    layer.qkv.weight, layer.out.weight = reference.in_proj_weight, reference.out_proj.weight
    layer.qkv.bias, layer.out.bias = reference.in_proj_bias, reference.out_proj.bias
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_layer_equals_multihead_attention(heads, bias):
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(12, heads, bias=bias, batch_first=True, dtype=torch.float64)
    if bias:
        nn.init.normal_(reference.in_proj_bias)  # torch starts them at zero
        nn.init.normal_(reference.out_proj.bias)
    layer, x, memory = copied(Attention(12, heads, bias=bias), reference), normal(1, 3, 5, 12), normal(2, 3, 7, 12)

    def peer(*qkv, **how):
        return reference(*qkv, need_weights=False, **how)[0]

    mask, lengths = coins(3, 5, 5) | torch.eye(5, dtype=torch.bool), torch.tensor([7, 2, 4])
    real = torch.arange(7) < lengths[:, None]
    assert_close(layer(x), peer(x, x, x))
    assert_close(layer(x, mask=mask), peer(x, x, x, attn_mask=~mask))
    assert_close(layer(x, causal=True), peer(x, x, x, attn_mask=~causal_mask(5, 5)))
    assert_close(layer(x, memory), peer(x, memory, memory))
    assert_close(layer(x, memory, real[:, None, None]), peer(x, memory, memory, key_padding_mask=~real))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_grouped_heads_equal_repeated_heads(groups):
    grouped, full, x = make(n_kv_heads=groups), make(), normal(0, 2, 5, 12)
    q, k, v = grouped.qkv.weight.unflatten(0, (-1, 2)).split([6, groups, groups])  # (heads, d, D)
    repeated = [part.repeat_interleave(6 // groups, 0) for part in (k, v)]  # head h reads group h // (H / G)
    full.qkv.weight = nn.Parameter(torch.cat([q, *repeated]).flatten(0, 1))
    q, k, v = grouped.qkv.bias.unflatten(0, (-1, 2)).split([6, groups, groups])
    full.qkv.bias = nn.Parameter(torch.cat([q, *(p.repeat_interleave(6 // groups, 0) for p in (k, v))]).flatten())
    full.out = grouped.out
    assert_close(grouped(x, causal=True), full(x, causal=True))
    assert_close(grouped(x, normal(1, 2, 3, 12)), full(x, normal(1, 2, 3, 12)))


def test_layer_equals_the_written_out_path():
    layer, x = make(n_kv_heads=2, qk_norm=True), normal(0, 2, 5, 12)
    q, k, v = (
        x @ w.mT + b for w, b in zip(layer.qkv.weight.split([12, 4, 4]), layer.qkv.bias.split([12, 4, 4]), strict=True)
    )
    ones, heads = torch.ones(2, dtype=torch.float64), []
    for h in range(6):
        g = h // 3
        ours = rms_norm(q[..., 2 * h : 2 * h + 2], ones), rms_norm(k[..., 2 * g : 2 * g + 2], ones)
        heads.append(attention(*ours, v[..., 2 * g : 2 * g + 2], causal_mask(5, 5)))
    assert_close(layer(x, causal=True), torch.cat(heads, -1) @ layer.out.weight.mT + layer.out.bias)


# What attention cannot see


@given(seeds, st.integers(0, 4), st.booleans())
def test_causal_layer_is_blind_to_what_comes_later(seed, t, rotary):
    layer, x, table = make(n_kv_heads=3), normal(seed, 2, 6, 12), rotary_table(torch.arange(6), 2) if rotary else None
    other = torch.cat([x[:, : t + 1], normal(seed + 1, 2, 5 - t, 12)], 1)
    before, after = layer(x, causal=True, rotary=table), layer(other, causal=True, rotary=table)
    assert_close(before[:, : t + 1], after[:, : t + 1])
    assert not torch.isclose(before[:, t + 1 :], after[:, t + 1 :]).any()
    assert_close(before, layer(x, mask=causal_mask(6, 6), rotary=table))


@given(seeds, st.permutations(range(6)))
def test_without_positions_order_is_invisible(seed, order):
    layer, x = make(), normal(seed, 1, 6, 12)
    assert_close(layer(x[:, order]), layer(x)[:, order])
    if order != list(range(6)):
        table = rotary_table(torch.arange(6), 2)
        assert not torch.allclose(layer(x[:, order], rotary=table), layer(x, rotary=table)[:, order])


@given(seeds, st.integers(1, 5))
def test_padding_changes_nothing(seed, length):
    layer, x = make(n_kv_heads=2), normal(seed, 1, 6, 12)
    real = (torch.arange(6) < length)[None, None, None]
    assert_close(layer(x, mask=real)[:, :length], layer(x[:, :length]))
    memory = normal(seed + 1, 1, 6, 12)
    assert_close(layer(x, memory, real), layer(x, memory[:, :length]))


def test_rotary_layer_sees_only_distances():
    layer, x = make(qk_norm=True), normal(0, 1, 6, 12)
    here, there = (rotary_table(torch.arange(6) + start, 2) for start in (0, 50))
    assert_close(layer(x, rotary=here), layer(x, rotary=there), atol=1e-4, rtol=0)
    assert not torch.allclose(layer(x, rotary=here), layer(x), atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_query_key_norm_bounds_the_scores(scale):
    layer = make(qk_norm=True)
    q, k, _ = layer.project(scale * normal(0, 1, 5, 12))
    assert (q @ k.mT).abs().max() <= 2 * (1 + 1e-9)  # d = 2 and unit root mean squares
    assert_close(layer.project(scale * normal(0, 1, 5, 12))[2], make().project(scale * normal(0, 1, 5, 12))[2])


# The cache


def fill(layer: Attention, x: torch.Tensor, chunks: list[int], cache: KVCache) -> torch.Tensor:
    """What the layer says of x, read chunk by chunk."""
    parts, at = [], 0
    for chunk in chunks:
        positions = cache.positions(chunk)
        end = int(positions.max()) + 1
        mask = torch.arange(end) <= positions[:, None, :, None]
        table = rotary_table(positions, layer.d_head)[:, :, None]
        parts.append(layer(x[:, at : at + chunk], mask=mask, rotary=table, cache=(cache, 0, positions)))
        cache.advance(chunk)
        at += chunk
    return torch.cat(parts, 1)


def new_cache(layer: Attention, batch: int, size: int) -> KVCache:
    return KVCache(1, batch, layer.n_kv_heads, size, layer.d_head, like=layer.out.weight)


@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([None, 1, 2]), st.integers(0, 3))
def test_cache_equals_no_cache(seed, chunks, groups, spare):
    layer, T = make(n_kv_heads=groups), sum(chunks)
    x = normal(seed, 2, T, 12)
    cache = new_cache(layer, 2, T + spare)
    whole = layer(x, causal=True, rotary=rotary_table(torch.arange(T), 2))
    assert_close(fill(layer, x, chunks, cache), whole)
    assert cache.lengths.tolist() == [T, T] and cache.even


@settings(max_examples=50)
@given(seeds, st.lists(st.integers(1, 5), min_size=2, max_size=4), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_uneven_rows_equal_each_row_alone(seed, lengths, chunks):
    layer, B, P = make(n_kv_heads=3), len(lengths), max(lengths)
    prompts, rest = normal(seed, B, P, 12), normal(seed + 1, B, sum(chunks), 12)
    cache = new_cache(layer, B, P + sum(chunks))
    read = fill(layer, prompts, [P], cache)
    cache.keep(torch.tensor(lengths))
    assert cache.even == (len(set(lengths)) == 1)
    more = fill(layer, rest, chunks, cache)
    for row, length in enumerate(lengths):
        alone = torch.cat([prompts[row : row + 1, :length], rest[row : row + 1]], 1)
        whole = layer(alone, causal=True, rotary=rotary_table(torch.arange(alone.shape[1]), 2))[0]
        assert_close(torch.cat([read[row, :length], more[row]]), whole)
    assert cache.lengths.tolist() == [length + sum(chunks) for length in lengths]


def test_reorder_moves_rows_with_their_lengths():
    layer, x = make(), normal(0, 3, 4, 12)
    cache = new_cache(layer, 3, 6)
    fill(layer, x, [4], cache)
    cache.keep(torch.tensor([4, 2, 3]))
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.lengths.tolist() == [2, 2, 4]
    new = normal(1, 3, 1, 12)
    after = fill(layer, new, [1], cache)
    for row, (source, length) in enumerate([(1, 2), (1, 2), (0, 4)]):
        alone = torch.cat([x[source : source + 1, :length], new[row : row + 1]], 1)
        whole = layer(alone, causal=True, rotary=rotary_table(torch.arange(length + 1), 2))
        assert_close(after[row], whole[0, -1:])


@given(seeds, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4))
def test_recent_ids_are_those_just_before(seed, chunks, K, kept):
    cache, texts = new_cache(make(), 2, kept + sum(chunks)), [[], []]
    generator = torch.Generator().manual_seed(seed)
    for step, chunk in enumerate([kept, *chunks]):
        ids = torch.randint(99, (2, chunk), generator=generator)
        expected = [([-1] * K + text)[-K:] for text in texts]
        assert cache.recent(ids, cache.positions(chunk), K).tolist() == expected
        cache.advance(chunk)
        texts = [text + row for text, row in zip(texts, ids.tolist(), strict=True)]
        if step == 0:  # the second prompt was padded, then the rows change places
            cache.keep(torch.tensor([kept, 1]))
            cache.reorder(torch.tensor([1, 0]))
            texts = [texts[1][:1], texts[0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Attention(10, 3), "d_model=10, n_heads=3"),
        (lambda: Attention(12, 6, 4), "n_kv_heads=4"),
        (lambda: new_cache(make(), 2, 4).positions(5), "holds 4 tokens a row, 5 are needed"),
        (lambda: new_cache(make(), 2, 4).keep(torch.tensor([0, 1])), r"lengths=\[0, 1\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
