"""What a Transformer is made of besides attention: norms, the MLP, and ways to tell positions apart.

Each idea is a pure function first; a module below it only holds the weights. D is the width, F that of the MLP, T time.

Not here: attention (``minilm.attention``) and how the parts are joined (``minilm.transformer``).
References: Ba et al. 2016 (LayerNorm); Zhang & Sennrich 2019 (RMSNorm); Hendrycks & Gimpel 2016 (GELU); So et al.
2021 (squared ReLU); Shazeer 2020 (SwiGLU); Vaswani et al. 2017, section 3.5 (sinusoids); Su et al. 2024 (rotary);
Raffel et al. 2020, section 2.1 (relative).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

EPS = 1e-5
"""Keeps a norm from dividing by zero; GPT-2's value."""


# Norms


def layer_norm(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"], bias: Float[Tensor, " D"] | None = None, eps: float = EPS
) -> Float[Tensor, "*B D"]:
    """Every vector shifted to mean 0 and scaled to variance 1, then stretched by ``weight`` and moved by ``bias``.

    The variance divides by D, not by D - 1.

    >>> layer_norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(4), eps=0.0)
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    centred = x - x.mean(-1, keepdim=True)
    normal = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return normal if bias is None else normal + bias


def rms_norm(x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"], eps: float = EPS) -> Float[Tensor, "*B D"]:
    """Every vector scaled to root mean square 1, then stretched by ``weight``: LayerNorm without the mean.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), eps=0.0)
    tensor([[0.8485, 1.1314]])
    """
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


NORMS: dict[str, Callable[[int, bool, float], nn.Module]] = {
    "layer": lambda d_model, bias, eps: nn.LayerNorm(d_model, eps, bias=bias),
    "rms": lambda d_model, bias, eps: nn.RMSNorm(d_model, eps),
}
"""PyTorch's norms by the name a `Config` gives: functions of the width, of whether there is a bias, and of eps."""


# Neighbours


def short_convolution(
    x: Float[Tensor, "B T D"], weight: Float[Tensor, "K D"], before: Float[Tensor, "B K D"]
) -> Float[Tensor, "B T D"]:
    """``y_t = x_t + sum_j weight_j * x_(t-j)`` for j = 1 ... K: the last K vectors mixed into each, entry by entry.

    ``before`` holds the K vectors that precede x; zeros at the start of a text.

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> short_convolution(x, torch.tensor([[0.5]]), torch.zeros(1, 1, 1)).flatten()
    tensor([1.0000, 2.5000, 5.0000])
    """
    K, T = len(weight), x.shape[1]
    whole = torch.cat([before, x], 1)
    return x + sum(weight[j - 1] * whole[:, K - j : K - j + T] for j in range(1, K + 1))


# The MLP


def gelu(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``x Phi(x)`` in the tanh form of GPT-2: the input, times the chance that a normal variable lies below it.

    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def relu2(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``max(x, 0)^2``, the squared ReLU.

    >>> relu2(torch.tensor([-1.0, 0.0, 3.0]))
    tensor([0., 0., 9.])
    """
    return x.relu().square()


def swiglu(x: Float[Tensor, "*B two_F"]) -> Float[Tensor, "*B F"]:
    """``g sigmoid(g) u`` for the halves g and u of the input: one half decides how much of the other passes.

    >>> swiglu(torch.tensor([0.0, 2.0, 5.0, 1.0]))
    tensor([0.0000, 1.7616])
    """
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu2": relu2,
    "swiglu": swiglu,
}
"""Activations by the name a `Config` gives; ``gelu`` is PyTorch's kernel for the function above, ``gelu_erf`` BERT's
form of it, with the normal distribution itself."""

GATED = ("swiglu",)
"""Activations that take two numbers for each one they give."""


class MLP(nn.Module):
    """``W_out activation(W_in x + b_in) + b_out`` at every position by itself: where a block spends most parameters."""

    def __init__(self, d_model: int, d_ff: int, activation: str, bias: bool):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.inner = nn.Linear(d_model, d_ff * (1 + (activation in GATED)), bias)
        self.outer = nn.Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.outer(self.activation(self.inner(x)))


# Positions


def sinusoids(positions: Int[Tensor, "*B"], d_model: int) -> Float[Tensor, "*B D"]:
    """The fixed position vectors of the first Transformer: sines and cosines of geometrically spaced wavelengths.

    Entry ``2i`` is ``sin(p / 10000^(2i/D))``, entry ``2i + 1`` the cosine. Raises ValueError for an odd width.

    >>> sinusoids(torch.arange(2), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    angles = positions[..., None] * frequencies(d_model).to(positions.device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def frequencies(width: int, base: float = 10_000.0) -> Float[Tensor, " half"]:
    """Radians per position of each pair of entries: ``base^(-2i/width)``, from 1 down to about ``1 / base``.

    >>> frequencies(4)
    tensor([1.0000, 0.0100])
    """
    if width % 2:
        raise ValueError(f"width={width}: sines and cosines come in pairs, so the width must be even")
    return base ** (-torch.arange(0, width, 2) / width)


def rotary_table(positions: Int[Tensor, "*B T"], d_head: int, base: float = 10_000.0) -> Float[Tensor, "two *B T d"]:
    """Cosines and sines by which `rotate` turns queries and keys that stand at ``positions``.

    Entry i and entry ``i + d/2`` turn by the same angle; what the first gets from the second has a minus sign.

    >>> rotary_table(torch.tensor([0, 1]), 4)[0]            # the cosines: a pair turns by 1, or by 1/100, a position
    tensor([[1.0000, 1.0000, 1.0000, 1.0000],
            [0.5403, 0.9999, 0.5403, 0.9999]])
    """
    angles = positions[..., None] * frequencies(d_head, base).to(positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def rotate(x: Float[Tensor, "*B T d"], table: Float[Tensor, "two *C T d"]) -> Float[Tensor, "*B T d"]:
    """Turn each pair of entries of a query or key by an angle proportional to its position (rotary positions).

    Entry i forms a pair with entry ``i + d/2``. A turn keeps lengths, and the product of a turned query with a turned
    key depends on positions only through their difference.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])                    # the same vector at positions 0 and 1
    >>> rotate(x, rotary_table(torch.arange(2), 2))
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415]])
    """
    cos, sin = table
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)  # rolled by half, an entry meets its partner


BUCKETS, FARTHEST = 32, 128
"""T5's: how many kinds of distance it tells apart, and from where on all distances are one kind."""


def relative_buckets(distance: Int[Tensor, "*B"], both_sides: bool) -> Int[Tensor, "*B"]:
    """T5's kinds of distance, where ``distance`` is the position of a key less that of a query.

    Near ones have a bucket each, farther ones share: the buckets grow by a constant factor up to `FARTHEST`. With
    ``both_sides`` half of the `BUCKETS` are for keys to the right; otherwise such keys count as distance 0.

    >>> relative_buckets(torch.tensor([0, -1, -15, -16, -17, -18, -19, -127, -999]), both_sides=False).tolist()
    [0, 1, 15, 16, 16, 16, 17, 31, 31]
    >>> relative_buckets(torch.tensor([-8, -1, 0, 1, 8]), both_sides=True).tolist()
    [8, 1, 0, 17, 24]
    """
    n = BUCKETS // 2 if both_sides else BUCKETS
    side = n * (distance > 0) if both_sides else torch.zeros_like(distance)
    far, exact = distance.abs() if both_sides else (-distance).clamp(min=0), n // 2
    steps = (far.float() / exact).log() / math.log(FARTHEST / exact) * (n - exact)  # -inf at 0, which is not far
    return side + torch.where(far < exact, far, (exact + steps.clamp(min=0).long()).clamp(max=n - 1))
