"""Norms, activations and positions against PyTorch, ``transformers`` and formulas worked out with ``math``."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from minilm.layers import (
    ACTIVATIONS,
    EPS,
    MLP,
    NORMS,
    frequencies,
    gelu,
    layer_norm,
    relu2,
    rms_norm,
    rotary_table,
    rotate,
    short_convolution,
    sinusoids,
)

seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, st.integers(1, 9), st.sampled_from([EPS, 0.1]))  # the large eps shows whether it stands inside the root
def test_norms_equal_torch(seed, width, eps):
    x, weight, bias = normal(seed, 3, 4, width), normal(seed + 1, width), normal(seed + 2, width)
    assert_close(layer_norm(x, weight, bias, eps), F.layer_norm(x, (width,), weight, bias, eps))
    assert_close(layer_norm(x, weight, eps=eps), F.layer_norm(x, (width,), weight, None, eps))
    assert_close(rms_norm(x, weight, eps), F.rms_norm(x, (width,), weight, eps))


@pytest.mark.parametrize("eps", [EPS, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_modules_compute_the_functions(bias, eps):
    x, weight, shift = normal(0, 2, 3, 8), normal(1, 8), normal(2, 8)
    for name, function in {"layer": layer_norm, "rms": rms_norm}.items():
        module = NORMS[name](8, bias, eps).double()
        given = {"weight": weight} | ({"bias": shift} if name == "layer" and bias else {})
        module.load_state_dict(given)  # strict: no parameter more or less
        assert_close(module(x), function(x, **given, eps=eps))


def test_gradients_of_the_norms():
    x, weight, bias = (normal(i, *shape).requires_grad_() for i, shape in enumerate([(2, 5), (5,), (5,)]))
    assert torch.autograd.gradcheck(layer_norm, (x, weight, bias))
    assert torch.autograd.gradcheck(rms_norm, (x, weight))


@given(st.floats(0.1, 10), st.floats(-10, 10), seeds)
def test_what_each_norm_does_not_see(scale, shift, seed):
    x, ones = normal(seed, 6), torch.ones(6, dtype=torch.float64)
    assert_close(layer_norm(scale * x + shift, ones, eps=0.0), layer_norm(x, ones, eps=0.0))
    assert_close(rms_norm(scale * x, ones, eps=0.0), rms_norm(x, ones, eps=0.0))
    assert rms_norm(-x, ones).sum() == -rms_norm(x, ones).sum()


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_short_convolution_equals_torch(seed, K, T):
    x, weight, before = normal(seed, 2, T, 3), normal(seed + 1, K, 3), normal(seed + 2, 2, K, 3)
    kernel = torch.cat([torch.ones(1, 3), weight]).flip(0).T[:, None]  # conv1d reads its window from left to right
    expected = F.conv1d(torch.cat([before, x], 1).mT, kernel, groups=3).mT
    assert_close(short_convolution(x, weight, before), expected)


def test_gelu_equals_torch_and_nearly_the_definition():
    x = torch.linspace(-6, 6, 201, dtype=torch.float64)
    assert_close(gelu(x), F.gelu(x, approximate="tanh"))
    assert_close(ACTIVATIONS["gelu"](x), gelu(x))
    exact = x * torch.tensor([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()], dtype=torch.float64)
    assert_close(ACTIVATIONS["gelu_erf"](x), exact)
    assert_close(gelu(x), exact, atol=5e-4, rtol=0)  # how far the tanh form is off; another constant would be further


def test_relu2():
    assert relu2(torch.tensor([-2.0, 3.0])).tolist() == [0.0, 9.0]
    assert torch.autograd.gradcheck(relu2, normal(0, 5).requires_grad_())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_acts_on_each_position_alone(activation, bias):
    mlp, x = MLP(4, 10, activation, bias).double(), normal(0, 2, 3, 4)
    inner = x @ mlp.inner.weight.mT + (mlp.inner.bias if bias else 0)
    gate, up = inner.chunk(2, -1)
    by_hand = {
        "relu": inner.clamp(min=0),
        "gelu": gelu(inner),
        "gelu_erf": inner * torch.special.ndtr(inner),
        "relu2": inner.clamp(min=0) ** 2,
        "swiglu": gate * gate.sigmoid() * up,
    }[activation]
    assert by_hand.shape[-1] == mlp.outer.in_features == 10
    assert_close(mlp(x), by_hand @ mlp.outer.weight.mT + (mlp.outer.bias if bias else 0))
    assert_close(mlp(x)[1, 2], mlp(x[1, 2]))
    assert {name for name, _ in mlp.named_parameters() if "bias" in name} == (
        {"inner.bias", "outer.bias"} if bias else set()
    )


@given(st.integers(0, 500), st.integers(1, 8))
def test_sinusoids_by_hand(position, half):
    expected = []
    for i in range(half):
        angle = position / 10_000 ** (2 * i / (2 * half))
        expected += [math.sin(angle), math.cos(angle)]
    assert_close(sinusoids(torch.tensor([position]), 2 * half)[0], torch.tensor(expected), atol=1e-4, rtol=0)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_product_of_sinusoids_depends_on_distance_alone(p, q, shift):
    a, b = sinusoids(torch.tensor([p, q]), 16), sinusoids(torch.tensor([p + shift, q + shift]), 16)
    assert_close(a[0] @ a[1], b[0] @ b[1], atol=2e-4, rtol=0)


def transformers_table(positions: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines as Llama's rotary embedding makes them: the frequencies twice in a row."""
    angles = positions[:, :, None].double() * 10_000 ** (-torch.arange(0, width, 2).double() / width)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


@given(seeds, st.integers(1, 4), st.integers(1, 5))
def test_rotary_equals_transformers(seed, half, T):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(100, (2, T), generator=generator)  # rows at different places, as in a cache
    q, k = normal(seed, 2, 3, T, 2 * half), normal(seed + 1, 2, 1, T, 2 * half)
    table = rotary_table(positions, 2 * half)[:, :, None]
    theirs = apply_rotary_pos_emb(q, k, *transformers_table(positions, 2 * half))
    for ours, expected in zip((rotate(q, table), rotate(k, table)), theirs, strict=True):
        assert_close(ours, expected, atol=2e-5, rtol=0)


@given(seeds, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_rotary_keeps_lengths_and_sees_only_distance(seed, p, q, shift):
    x, y = normal(seed, 2, 8)

    def turned(vector, position):
        return rotate(vector[None], rotary_table(torch.tensor([position]), 8))[0]

    assert_close(turned(x, p).norm(), x.norm(), atol=1e-6, rtol=0)
    assert_close(turned(x, p) @ turned(y, q), turned(x, p + shift) @ turned(y, q + shift), atol=1e-3, rtol=0)
    assert_close(turned(turned(x, p), q), turned(x, p + q), atol=1e-3, rtol=0)


def test_rotary_tells_before_from_after():
    q, k = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # k is a quarter turn ahead of q
    before, after = (
        rotate(k, rotary_table(torch.tensor([9, 11]), 2)) @ rotate(q[None], rotary_table(torch.tensor([10]), 2)).mT
    ).flatten()
    assert_close(torch.stack([before, after]), torch.tensor([math.sin(1.0), -math.sin(1.0)]))


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"width=5.*must be even"):
        frequencies(5)


def test_positions_are_computed_where_they_are():
    """Another device than the processor's, without one: the device on which tensors have no numbers."""
    places = torch.arange(5, device="meta")
    assert sinusoids(places, 8).device.type == rotary_table(places, 8).device.type == "meta"
