"""The Transformer, as one `Block` repeated: encoder, decoder or both, old or modern, by the fields of one `Config`.

The residual stream (B, T, D) runs through the blocks; attention and MLP read from it and add to it. `parameters` and
`flops` say what that costs, before anything is built.

Not here: tokens and objectives, which belong to the models (``minilm.gpt``).
Letters: B batch, T time, S time of the memory, D width, F width of the MLP, H heads, G key-value heads, V vocabulary.
References: Vaswani et al. 2017; Radford et al. 2019 (norm first); Xiong et al. 2020 (why); He et al. 2016 (residuals);
Kaplan et al. 2020, table 1 (the accounting).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .attention import Attention, KVCache, Mask
from .layers import ACTIVATIONS, EPS, GATED, MLP, NORMS

POSITIONS = ("learned", "sinusoid", "rotary", "relative", "none")
"""Ways to tell positions apart, by the name a `Config` gives."""


@dataclass(frozen=True)
class Config:
    """The shape of a Transformer. Two presets of the book differ in every field; see ``minilm.presets``.

    Raises ValueError for a name that is not known, or a number that no model can have.

    >>> Config(vocab_size=256, context=64, d_model=128, n_layers=4, n_heads=4, norm="batch")
    Traceback (most recent call last):
    ValueError: norm='batch': choose one of 'layer', 'rms'
    """

    vocab_size: int
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None  # None: as many as heads
    d_ff: int | None = None  # None: four times the width
    norm: str = "layer"  # or "rms"
    norm_first: bool = True  # False: the first Transformer's order, norm after the residual sum
    eps: float = EPS  # of the norms
    activation: str = "gelu"  # or "relu", "gelu_erf", "relu2", "swiglu"
    positions: str = "learned"  # or "sinusoid", "rotary", "relative", "none"
    rotary_base: float = 10_000.0
    conv: int = 0  # earlier tokens that a short convolution mixes into each embedding
    bias: bool = True
    qk_norm: bool = False
    tied: bool = True  # the output layer is the embedding table
    dropout: float = 0.0

    def __post_init__(self):
        for name, known in (("norm", NORMS), ("activation", ACTIVATIONS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(map(repr, known))}")
        for name in ("vocab_size", "context", "d_model", "n_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"positions='rotary' turns pairs, and a head has {self.d_head} entries: make it even")
        if self.conv < 0:
            raise ValueError(f"conv={self.conv}: the number of earlier tokens is 0 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: a share of the entries lies in [0, 1)")

    @property
    def d_head(self) -> int:
        """Width of one head, D / H."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key-value heads G, where None means as many as heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def d_inner(self) -> int:
        """Width inside the MLP F, where None means four times the width."""
        return self.d_ff or 4 * self.d_model

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate, a third matrix."""
        return self.activation in GATED


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream; with ``cross``, attention to a memory in between.

    An encoder block looks at all of its input, a decoder block is told to be ``causal``, and the decoder block of an
    encoder-decoder has ``cross`` as well. Raises ValueError for a memory without ``cross``, or ``cross`` without one.
    """

    def __init__(self, config: Config, cross: bool = False):
        super().__init__()
        c = config
        norm: Callable[[], nn.Module] = lambda: NORMS[c.norm](c.d_model, c.bias, c.eps)
        attention = lambda: Attention(c.d_model, c.n_heads, c.n_kv_heads, c.bias, c.qk_norm)
        self.norm_first, self.has_cross = c.norm_first, cross
        self.norm1, self.attention = norm(), attention()
        if cross:
            self.norm_cross, self.cross = norm(), attention()
        self.norm2, self.mlp = norm(), MLP(c.d_model, c.d_inner, c.activation, c.bias)
        self.dropout = c.dropout

    def add(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + part(norm(x))``, or in the order of 2017 ``norm(x + part(x))``."""
        y = part(norm(x) if self.norm_first else x)
        if self.dropout:  # at one token, what costs is the number of calls
            y = F.dropout(y, self.dropout, self.training)
        return x + y if self.norm_first else norm(x + y)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        memory_mask: Mask | None = None,
        **how: Any,
    ) -> Float[Tensor, "B T D"]:
        """``how`` goes to the self-attention: mask, causal, rotary, cache."""
        if self.has_cross != (memory is not None):
            given = "no memory was given: pass the encoder's output" if self.has_cross else "a memory needs cross=True"
            raise ValueError(f"cross={self.has_cross}: {given}")
        x = self.add(x, self.norm1, lambda y: self.attention(y, **how))
        if memory is not None:
            x = self.add(x, self.norm_cross, lambda y: self.cross(y, memory, memory_mask))
        return self.add(x, self.norm2, self.mlp)


class Stack(nn.Module):
    """``n_layers`` blocks; a norm at the end where blocks put theirs first, since the stream itself is never normed.

    >>> import torch
    >>> stack = Stack(Config(vocab_size=9, context=8, d_model=16, n_layers=2, n_heads=4))
    >>> stack(torch.zeros(1, 5, 16), causal=True).shape
    torch.Size([1, 5, 16])
    """

    def __init__(self, config: Config, cross: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(config.n_layers))
        self.norm = NORMS[config.norm](config.d_model, config.bias, config.eps) if config.norm_first else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B T D"], cache: tuple[KVCache, Tensor] | None = None, **how: Any
    ) -> Float[Tensor, "B T D"]:
        """``how`` goes to every block; ``cache`` is the `KVCache` and the positions of x in it."""
        for layer, block in enumerate(self.blocks):
            x = block(x, **how, **({"cache": (cache[0], layer, cache[1])} if cache else {}))
        return self.norm(x)


def parameters(config: Config, cross: bool = False) -> dict[str, int]:
    """Numbers that training fits, by part, for a model on this config; their sum is the size of the model.

    ``cross``: each block also has cross-attention. A tied output layer has no numbers of its own.

    >>> gpt2 = Config(vocab_size=50257, context=1024, d_model=768, n_layers=12, n_heads=12)
    >>> sum(parameters(gpt2).values())
    124439808
    """
    c, d = config, config.d_model
    linear = lambda inputs, outputs: (inputs + c.bias) * outputs
    norm = d * (1 + (c.norm == "layer" and c.bias))
    attention = linear(d, d + 2 * c.kv_heads * c.d_head) + linear(d, d)
    return {
        "embedding": (c.vocab_size + c.conv) * d,
        "positions": c.context * d if c.positions == "learned" else 0,
        "attention": c.n_layers * (1 + cross) * attention,
        "mlp": c.n_layers * (linear(d, c.d_inner * (1 + c.gated)) + linear(c.d_inner, d)),
        "norms": (c.n_layers * (2 + cross) + c.norm_first) * norm,
        "head": 0 if c.tied else c.vocab_size * d,
    }


def flops(config: Config, tokens: int, keys: int | None = None) -> dict[str, int]:
    """Floating-point operations of one forward pass over a sequence, by part: two for each multiply-and-add.

    ``tokens`` are read, each compared with ``keys`` positions (default: the tokens themselves; with a cache, all that
    it holds). Masked scores are counted, since a matrix product computes them too. Norms, activations and additions
    are not: they are of order D a token. A training step costs three times this, since the backward pass has two
    products for each one here.

    >>> flops(Config(vocab_size=9, context=8, d_model=4, n_layers=1, n_heads=1), tokens=2)
    {'projections': 256, 'scores': 64, 'mlp': 512, 'head': 144}
    """
    c, d = config, config.d_model
    multiplications = {
        "projections": c.n_layers * tokens * d * (2 * d + 2 * c.kv_heads * c.d_head),
        "scores": c.n_layers * tokens * (tokens if keys is None else keys) * 2 * d,
        "mlp": c.n_layers * tokens * (2 + c.gated) * d * c.d_inner,
        "head": tokens * d * c.vocab_size,
    }
    return {part: 2 * n for part, n in multiplications.items()}
