"""LoRA: leave a weight matrix as it is, and learn a correction to it that is a product of two thin ones.

`wrap` puts a `LoRA` in the place of every named linear layer of a model; `merge` adds the corrections to the weights
and takes the wrapping away.

Not here: files (``minilm.lora_files``), and variants: DoRA, rank-stabilised scaling, dropout.
Letters: E inputs and D outputs of a layer, r rank.
References: Hu et al. 2022; Aghajanyan et al. 2021 (why few directions are enough).
"""

from collections import Counter
from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .heads import frozen


class LoRA(nn.Module):
    """``y = W x + b + (alpha / r) B A x``: a linear layer with a trainable correction of rank r.

    W and b are frozen. A (r, E) starts random and B (D, r) at zero, so at first the layer computes what it did before;
    were both zero, neither would ever get a gradient. Raises ValueError for a rank below 1 or above what W can have.

    >>> layer = nn.Linear(4, 3)
    >>> x = torch.ones(2, 4)
    >>> torch.equal(LoRA(layer, rank=2, alpha=4)(x), layer(x))
    True
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: int | float):
        super().__init__()
        D, E = base.weight.shape
        if not 1 <= rank <= min(D, E):
            raise ValueError(f"rank={rank}: a matrix of {D} by {E} has corrections of rank 1 to {min(D, E)}")
        self.base, self.rank, self.alpha = frozen(base), rank, alpha
        self.A = nn.Parameter(torch.empty(rank, E, dtype=base.weight.dtype, device=base.weight.device))
        self.B = nn.Parameter(base.weight.new_zeros(D, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)  # as nn.Linear starts

    @property
    def scale(self) -> float:
        """``alpha / r``: another rank then needs no other learning rate."""
        return self.alpha / self.rank

    @property
    def weight(self) -> Float[Tensor, "D E"]:
        """The matrix that the layer amounts to, ``W + (alpha / r) B A``."""
        return self.base.weight + self.scale * self.B @ self.A

    @property
    def bias(self) -> Tensor | None:
        """That of the layer inside."""
        return self.base.bias

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B D"]:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)


def wrap(
    model: nn.Module, rank: int = 8, alpha: int | float = 16, names: Collection[str] = ("qkv", "out")
) -> nn.Module:
    """Freeze a model and give every linear layer whose name ends in one of ``names`` a trainable correction; in place.

    In this package's Transformers: "qkv" and "out" of the attention, "inner" and "outer" of the MLP. Queries, keys and
    values are one matrix here, as in GPT-2, and get one correction. Raises ValueError for a name that fits no layer of
    `linear`.

    >>> from .transformer import Config, Stack
    >>> stack = wrap(Stack(Config(vocab_size=9, context=8, d_model=16, n_layers=2, n_heads=4)), rank=2, names=["qkv"])
    >>> sum(p.numel() for p in stack.parameters() if p.requires_grad)          # 2 layers, 2 (16 + 48) each
    256
    """
    layers = linear(model)
    chosen = {path: layer for path, layer in layers.items() if path.rpartition(".")[2] in names}
    if missing := set(names) - {path.rpartition(".")[2] for path in chosen}:
        there = ", ".join(sorted({path.rpartition(".")[2] for path in layers})) or "none"
        raise ValueError(
            f"names: no linear layer with a weight of its own is called {min(missing)!r}; those of this model: {there}"
        )
    frozen(model)
    for path, layer in chosen.items():
        put(model, path, LoRA(layer, rank, alpha))
    return model


def linear(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that can be corrected, by where they are: those whose weight is no other module's as well.

    An output layer that is the embedding table cannot: merged, its correction would change what the embedding says.
    """
    owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    layers = ((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear))
    return {path: layer for path, layer in layers if owners[id(layer.weight)] == 1}


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add every correction to its matrix and take the wrapping away, in place: the same function at the old cost.

    The weights stay frozen; ``model.requires_grad_(True)`` makes them trainable again.
    """
    for path, layer in list(adapters(model)):
        layer.base.weight.copy_(layer.weight)
        put(model, path, layer.base)
    return model


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRA]]:
    """The wrapped layers and where they are."""
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, LoRA))


def put(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Set the layer at ``path`` of a model."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
