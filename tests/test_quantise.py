"""Rounded weights against the written-out grid, `gguf` and `torch`; the kernels against the matrices they stand for."""

import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from minilm.gpt import GPT
from minilm.quantise import GROUP, LAYERS, Linear4, Linear8, quantise, round_groups, round_rows
from minilm.transformer import Config

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 5)


def normal(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    """Weights whose rows differ in size, as those of trained models do."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    return weight * torch.logspace(-2, 1, len(weight), dtype=dtype).view(-1, *[1] * (weight.dim() - 1))


def decoder(seed=0, **fields) -> GPT:
    """A small model with the parts of a modern decoder, and weights large enough to have opinions."""
    torch.manual_seed(seed)
    modern = {"norm": "rms", "activation": "swiglu", "positions": "rotary", "n_kv_heads": 2, "bias": False}
    model = GPT(Config(48, 24, d_model=64, n_layers=2, n_heads=4, **{**modern, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)
    return model


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The length of the difference, relative to that of b."""
    return ((a - b).norm() / b.norm()).item()


# The rounding


@given(seeds, sizes, sizes)
def test_rows_move_by_half_a_step_at_most(seed, N, K):
    weight = normal(seed, N, K)
    rows = round_rows(weight)
    assert ((rows.weight() - weight).abs() <= rows.scale[:, None] * (0.5 + 1e-9)).all()
    assert (rows.codes.int().abs().amax(1) == 127).all(), "the largest number of a row ends the grid"
    assert (round_rows(-weight).codes == -rows.codes).all(), "no side of zero is preferred"


@given(seeds, st.integers(1, 4), st.integers(1, 40))
def test_rows_are_those_of_torch(seed, N, K):
    weight = normal(seed, N, K, dtype=torch.float32)
    rows = round_rows(weight)
    theirs = torch.fake_quantize_per_channel_affine(weight, rows.scale, torch.zeros(N), 0, -127, 127)
    close = (rows.weight() - theirs).abs() <= rows.scale[:, None] * 1e-4
    ties = ((weight / rows.scale[:, None]).frac().abs() - 0.5).abs() < 1e-4  # they multiply by 1 / scale
    assert (close | ties).all()


@given(seeds, sizes, sizes, st.sampled_from([2, 4, 32]))
def test_groups_move_by_half_a_step_at_most_and_their_ends_not_at_all(seed, N, G, size):
    weight = normal(seed, N, G * size)
    groups = round_groups(weight, size)
    rounded, parts = groups.weight().unflatten(1, (G, size)), weight.unflatten(1, (G, size))
    assert ((rounded - parts).abs() <= groups.scale[..., None] * (0.5 + 1e-9)).all()
    assert_close(rounded.amin(-1), parts.amin(-1))
    assert_close(rounded.amax(-1), parts.amax(-1))
    assert groups.codes.max() == 15 and groups.codes.min() == 0


@given(seeds)
def test_groups_are_the_blocks_of_a_file(seed):
    """Q4_1 stores scale and minimum in 16 bits, so that the numbers agree to 11 bits, and the codes all but always."""
    weight = normal(seed, 4, 3 * GROUP, dtype=torch.float32)
    groups, stored = round_groups(weight), quants.quantize(weight.numpy(), GGMLQuantizationType.Q4_1)
    halves = torch.from_numpy(stored).view(4, 3, 20)[..., 4:]  # after the scale and the minimum
    codes = torch.cat([halves & 15, halves >> 4], -1)
    assert (codes != groups.codes).float().mean() < 0.02
    scale, low = torch.from_numpy(stored).view(4, 3, 20)[..., :4].contiguous().view(torch.float16).unbind(-1)
    assert_close(scale.float(), groups.scale, rtol=1e-3, atol=1e-6)
    assert_close(low.float(), groups.low, rtol=1e-3, atol=1e-6)


@given(seeds)
def test_rounding_what_a_file_has_rounded_changes_nothing(seed):
    stored = quants.quantize(normal(seed, 8, 2 * GROUP, dtype=torch.float32).numpy(), GGMLQuantizationType.Q4_1)
    weight = torch.from_numpy(quants.dequantize(stored, GGMLQuantizationType.Q4_1))
    assert_close(round_groups(weight).weight(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_equal_numbers_stay(value):
    weight = torch.full((2, GROUP), value)
    assert round_rows(weight).weight().equal(weight) and round_groups(weight).weight().equal(weight)


def test_groups_must_divide_the_row():
    with pytest.raises(ValueError, match=r"rows of 6, not a multiple of size=4"):
        round_groups(torch.ones(2, 6), size=4)


# The layers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize(("N", "K"), [(16, 32), (48, 96), (208, 64)])
def test_kernels_multiply_by_the_rounded_weights(N, K, shape, bias):
    """But for inputs, scales and products in bfloat16, each of which is off by 2^-9 of itself at most."""
    linear, x = nn.Linear(K, N, bias), torch.randn(*shape, K)
    linear.weight = nn.Parameter(normal(0, N, K, dtype=torch.float32))
    rows, groups = round_rows(linear.weight), round_groups(linear.weight)
    centre = groups.low + 8 * groups.scale
    terms = (groups.scale[..., None] * (groups.codes.float() - 8).abs() + centre[..., None].abs()).flatten(1)
    cases = [(Linear8(linear), rows.weight(), rows.weight().abs()), (Linear4(linear), groups.weight(), terms)]
    for layer, weight, size in cases:
        error = (layer(x) - F.linear(x, weight, linear.bias)).abs()
        assert (error <= 3.1 * 2**-9 * F.linear(x.abs(), size) + 1e-6).all()


def test_the_kernel_of_four_bits_wants_sixteen_outputs():
    with pytest.raises(ValueError, match="20 outputs"):
        Linear4(nn.Linear(32, 20))


# The model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("fields", [{}, {"norm": "layer", "activation": "gelu", "bias": True, "positions": "learned"}])
def test_a_quantised_model_is_the_model_with_rounded_weights(bits, fields):
    model, ids = decoder(**fields), torch.randint(48, (2, 9))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    small = quantise(model, bits)
    assert not any(isinstance(layer, nn.Linear) for layer in small.modules())
    assert all(model.state_dict()[name].equal(weight) for name, weight in before.items()), "the model itself stays"
    assert small.embedding.weight is model.embedding.weight
    rounded = decoder(**fields)
    rounded.head.weight = nn.Parameter(round_rows(model.head.weight).weight())  # and no longer the embedding
    for layer in rounded.stack.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = (round_groups if bits == 4 else round_rows)(layer.weight.data).weight()
    assert distance(small(ids), rounded(ids)) < 0.03


@pytest.mark.parametrize("bits", LAYERS)
def test_its_cache_changes_nothing(bits):
    small, ids = quantise(decoder(), bits), torch.randint(48, (2, 12))
    cache = small.new_cache(2)
    pieces = [small(part, cache) for part in ids.split([5, 1, 1, 3, 1, 1], 1)]
    assert distance(torch.cat(pieces, 1), small(ids)) < 0.03


def test_more_bits_are_closer():
    model, ids = decoder(), torch.randint(48, (4, 20))
    errors = [distance(quantise(model, bits)(ids), model(ids)) for bits in LAYERS]
    assert errors[0] > 2 * errors[1]
    assert distance(quantise(model, 8, head=4)(ids), model(ids)) > 2 * errors[1]


@pytest.mark.parametrize("bits", [{"bits": 3}, {"head": 16}])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match="there are layers of 4 and 8 bits"):
        quantise(decoder(), **bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_bfloat16_are_rounded_as_those_in_float32(bits):
    torch.manual_seed(0)
    layer = nn.Linear(32, 64).bfloat16()
    short, long = LAYERS[bits](layer).state_dict(), LAYERS[bits](layer.float()).state_dict()
    assert all(torch.equal(short[name], long[name]) for name in ("codes", "scale", "grid") if name in short)
    weight = torch.randn(64, 32).bfloat16()
    assert (round_rows(weight).codes * weight.sign() >= 0).all(), "the largest does not turn its sign"
