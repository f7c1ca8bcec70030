"""GPT: a stack of causal blocks between a table of embeddings and one score for each token of the vocabulary.

Not here: training (``minilm.train``), generation (``minilm.generate``), exchange of weights (``minilm.gpt2_files``).
Letters: B batch, T time, D width, V vocabulary.
References: Radford et al. 2018, 2019; Press & Wolf 2017 (tied embeddings).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention import KVCache
from .layers import rotary_table, short_convolution, sinusoids
from .transformer import Config, Stack

POSITIONS = ("learned", "sinusoid", "rotary", "none")
"""The ways to tell positions apart that a GPT can have."""


class GPT(nn.Module):
    """A `LanguageModel`: ids (B, T) to logits (B, T, V), each row blind to what stands to its right.

    Raises ValueError for more tokens than ``config.context``.

    >>> model = GPT(Config(vocab_size=100, context=8, d_model=16, n_layers=2, n_heads=4))
    >>> model(torch.tensor([[5, 6, 7]])).shape
    torch.Size([1, 3, 100])
    """

    def __init__(self, config: Config):
        super().__init__()
        if config.positions not in POSITIONS:
            raise ValueError(f"positions={config.positions!r}: a GPT has one of {', '.join(map(repr, POSITIONS))}")
        self.config, self.vocab_size, self.context = config, config.vocab_size, config.context
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position = nn.Embedding(config.context, config.d_model)
        if config.conv:
            self.conv = nn.Parameter(torch.empty(config.conv, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.stack = Stack(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset()

    def reset(self) -> None:
        """GPT-2's initial weights: normal, 0.02; what is added to the stream is scaled down by the number of adders.

        Embeddings that are not the output layer as well start at 1: large steps then leave the tokens' own weight.
        """
        for name, parameter in self.named_parameters():
            if name == "conv" or name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = (2 * self.config.n_layers) ** -0.5 if name.endswith(("out.weight", "outer.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
        if self.config.tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.embedding.weight)

    def new_cache(self, batch: int, size: int | None = None) -> KVCache:
        """An empty cache for ``batch`` rows of at most ``size`` tokens (default, and most: the context)."""
        c = self.config
        size = min(size or c.context, c.context)
        return KVCache(c.n_layers, batch, c.kv_heads, size, c.d_head, self.embedding.weight)

    def forward(self, ids: Int[Tensor, "B T"], cache: KVCache | None = None) -> Float[Tensor, "B T V"]:
        """Logits of the next token after each of ``ids``; with a cache, ``ids`` are only what is new."""
        return self.head(self.before_head(ids, cache))

    def before_head(self, ids: Int[Tensor, "B T"], cache: KVCache | None = None) -> Float[Tensor, "B T D"]:
        """What `forward` gives to the output layer, which may cost as much as many blocks: ask it where it matters."""
        if (T := ids.shape[1]) > self.context:
            raise ValueError(f"ids holds {T} tokens, the model reads at most {self.context}: cut the text into windows")
        positions = cache.positions(T) if cache else torch.arange(T, device=ids.device)[None]
        before = cache.recent(ids, positions, self.config.conv) if cache and self.config.conv else None
        x = self.dropout(self.embed(ids, positions, before))
        how: dict[str, Any] = {"causal": True}
        if cache:
            mask = seen(positions) if T > 1 or not cache.even else None  # one new token may look at all there is
            how = {"cache": (cache, positions), "mask": mask}
        if self.config.positions == "rotary":
            table = rotary_table(positions, self.config.d_head, self.config.rotary_base)
            how["rotary"] = table[:, :, None].to(x)  # one table for all heads
        x = self.stack(x, **how)
        if cache:
            cache.advance(T)
        return x

    def embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"], before: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """What enters the first block: the vectors of the tokens, plus those of their positions where there are any.

        ``before`` holds the tokens that precede ``ids``, -1 where there is none.
        """
        x = self.embedding(ids)
        if self.config.conv:
            earlier = x.new_zeros(len(x), self.config.conv, x.shape[2])
            if before is not None:
                earlier = self.embedding(before.clamp(min=0)) * (before >= 0)[..., None]
            x = short_convolution(x, self.conv, earlier)
        if self.config.positions == "learned":
            return x + self.position(positions)
        if self.config.positions == "sinusoid":
            return x + sinusoids(positions, self.config.d_model).to(x)
        return x


def seen(positions: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T S"]:
    """The causal mask of new tokens at ``positions`` over all that the cache then holds, the same for every head.

    >>> seen(torch.tensor([[1, 2]])).int()
    tensor([[[[1, 1, 0],
              [1, 1, 1]]]], dtype=torch.int32)
    """
    return torch.arange(int(positions.max()) + 1, device=positions.device) <= positions[:, None, :, None]
