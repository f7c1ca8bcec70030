"""Weights in 4 or 8 bits: writing a token reads every weight once, so fewer bytes a weight are more tokens a second.

`round_groups` and `round_rows` are the rounding, as pure functions; `Linear4` and `Linear8` hold rounded weights and
call the kernels that PyTorch has for them; `quantise` puts them in the place of a model's linear layers. Embeddings
stay as they are, since a token reads one row of them.

The kernels are written for bfloat16: inputs, scales and products keep 8 significant bits, sums and the residual stream
24. They gain for one token at a time, and lose for a long text read at once.

Not here: training such a model, rounding that looks at activations, cross-attention, devices other than the processor.
Letters: N outputs, K inputs, G groups of inputs.
References: Dettmers et al. 2022 (8 bits, a scale for each row); Frantar et al. 2023 (4 bits, groups); the groups of 32
with a scale and a minimum are llama.cpp's Q4_1.
"""

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

GROUP = 32
"""Neighbouring weights that share a scale and a minimum, as in the files of llama.cpp."""

# The rounding


class Rows(NamedTuple):
    """``weight = scale * code``: 8 bits a weight, one scale for each row."""

    codes: Int8[Tensor, "N K"]
    scale: Float[Tensor, " N"]

    def weight(self) -> Float[Tensor, "N K"]:
        """The numbers that the codes stand for."""
        return self.codes * self.scale[:, None]


class Groups(NamedTuple):
    """``weight = low + scale * code``: 4 bits a weight, one scale and one minimum for each group in a row."""

    codes: UInt8[Tensor, "N G size"]
    scale: Float[Tensor, "N G"]
    low: Float[Tensor, "N G"]

    def weight(self) -> Float[Tensor, "N K"]:
        """The numbers that the codes stand for."""
        return (self.low[..., None] + self.scale[..., None] * self.codes).flatten(1)


def round_rows(weight: Float[Tensor, "N K"]) -> Rows:
    """Each row on the grid of 255 evenly spaced numbers from minus to plus its largest magnitude.

    No number moves by more than half a step.

    >>> rows = round_rows(torch.tensor([[127.0, -50.4, 0.3], [0.5, 0.25, -1.0]]))
    >>> rows.codes
    tensor([[ 127,  -50,    0],
            [  64,   32, -127]], dtype=torch.int8)
    """
    scale = weight.abs().amax(-1) / 127
    codes = (weight / positive(scale)[:, None]).round().clamp(-127, 127)  # in bfloat16 the largest could come to 128
    return Rows(codes.to(torch.int8), scale)


def round_groups(weight: Float[Tensor, "N K"], size: int = GROUP) -> Groups:
    """Each group on the grid of 16 evenly spaced numbers from its smallest to its largest.

    No number moves by more than half a step, and the smallest and the largest not at all: rounding what is rounded
    changes nothing. Raises ValueError where groups do not divide the row.

    >>> groups = round_groups(torch.tensor([[-1.0, 0.0, 0.6, 14.0]]), size=4)
    >>> groups.codes.tolist(), groups.weight().tolist()
    ([[[0, 1, 2, 15]]], [[-1.0, 0.0, 1.0, 14.0]])
    """
    if weight.shape[1] % size:
        raise ValueError(f"weight has rows of {weight.shape[1]}, not a multiple of size={size}: choose another size")
    parts = weight.unflatten(1, (-1, size))
    low = parts.amin(-1)
    scale = (parts.amax(-1) - low) / 15
    codes = (parts - low[..., None]) / positive(scale)[..., None]
    return Groups(codes.round().to(torch.uint8), scale, low)


def positive(scale: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The scale, and 1 where all numbers are equal and any scale would do."""
    return scale.masked_fill(scale == 0, 1.0)


# The layers


class Linear8(nn.Module):
    """A linear layer with the weights of `round_rows`."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        codes, scale = round_rows(linear.weight.detach().float())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.bfloat16())
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:
        y = torch._weight_int8pack_mm(x.bfloat16().reshape(-1, x.shape[-1]), self.codes, self.scale)
        return finish(y, x, self.bias)


class Linear4(nn.Module):
    """A linear layer with the weights of `round_groups`, two to a byte.

    The kernel counts codes from the middle of the grid: ``weight = centre + scale * (code - 8)``.
    Raises ValueError where the number of outputs is not a multiple of 16.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        if linear.out_features % 16:
            raise ValueError(f"linear has {linear.out_features} outputs: the kernel takes a multiple of 16")
        codes, scale, low = round_groups(linear.weight.detach().float())
        self.register_buffer("codes", torch._convert_weight_to_int4pack_for_cpu(codes.flatten(1).int(), 1))
        grid = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1)  # (G, N, 2)
        self.register_buffer("grid", grid.bfloat16().contiguous())
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:
        y = torch._weight_int4pack_mm_for_cpu(x.bfloat16().reshape(-1, x.shape[-1]), self.codes, GROUP, self.grid)
        return finish(y, x, self.bias)


def finish(y: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """The product in the shape and precision of the input, and the bias."""
    y = y.to(x.dtype).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


LAYERS = {4: Linear4, 8: Linear8}
"""Layers by their bits."""


def quantise(model: nn.Module, bits: int = 4, head: int | None = None) -> nn.Module:
    """The model with linear layers of 4 or 8 bits; ``head`` are those of the output layer, the rest is shared.

    The output layer has 8 bits at least unless told otherwise: its rounding errors go straight into the scores.
    Raises ValueError for other numbers of bits.

    >>> from .gpt import GPT
    >>> from .transformer import Config
    >>> model = GPT(Config(vocab_size=64, context=8, d_model=32, n_layers=1, n_heads=4)).eval()
    >>> small, ids = quantise(model), torch.tensor([[1, 2, 3]])
    >>> bool((small(ids) - model(ids)).abs().max() < 0.1 * model(ids).abs().max())
    True
    """
    head = head or max(bits, 8)
    if not {bits, head} <= LAYERS.keys():
        raise ValueError(f"bits={bits}, head={head}: there are layers of {' and '.join(map(str, LAYERS))} bits")
    done = {id(parameter): parameter for parameter in model.parameters()}  # what the copy below shall not copy
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            done[id(layer)] = LAYERS[head if name == "head" else bits](layer)
    return copy.deepcopy(model, done)
