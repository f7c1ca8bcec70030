"""T5: an encoder reads the source with both eyes open, a decoder writes the target and looks back at it.

Positions are told apart by nothing but a bias on the scores, one number for each head and kind of distance, shared by
all layers of a stack. `T5.given` turns a model and a source into a `LanguageModel` of the target, which
``minilm.generate`` and ``minilm.beam`` continue like any other.

Not here: objectives (``minilm.spans``), tasks (``minilm.tasks``), weights to and from ``transformers``
(``minilm.t5_files``).
Letters: B batch, T time of the target, S time of the source, D width, H heads, V vocabulary.
Reference: Raffel et al. 2020.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention import KVCache
from .batching import pad
from .generate import generate_batch
from .layers import BUCKETS, relative_buckets
from .spans import END, PAD, lengths_mask
from .transformer import Config, Stack


class T5(nn.Module):
    """``model(source, target)``: logits (B, T, V) of the token that follows each of ``target``, given ``source``.

    ``config.positions`` is "relative", whose reach is not bounded; ``context`` is what the model was trained on.

    >>> c = Config(100, context=32, d_model=16, n_layers=2, n_heads=4, positions="relative", norm="rms", bias=False)
    >>> T5(c)(torch.tensor([[5, 6, 7, 1]]), torch.tensor([[0, 8]])).shape
    torch.Size([1, 2, 100])
    """

    def __init__(self, config: Config):
        super().__init__()
        if config.positions != "relative" or config.conv:
            raise ValueError(f"positions={config.positions!r}, conv={config.conv}: T5 has 'relative' and 0")
        self.config, self.vocab_size = config, config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder, self.decoder = Stack(config), Stack(config, cross=True)
        self.encoder_bias, self.decoder_bias = (nn.Embedding(BUCKETS, config.n_heads) for _ in range(2))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset()

    def reset(self) -> None:
        """T5's initial weights: normal, with variance 1 / D in a matrix of D inputs, and 1 in the embeddings."""
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        for bias in (self.encoder_bias, self.decoder_bias):
            nn.init.normal_(bias.weight, std=self.config.d_model**-0.5)
        nn.init.normal_(self.embedding.weight)
        if self.config.tied:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        source_mask: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """``target`` starts with `PAD`; ``source_mask`` is True for tokens and False for padding."""
        return self.decode(target, self.encode(source, source_mask), source_mask)

    def encode(
        self, source: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The memory: a vector for each token of the source, which has seen all others."""
        positions = torch.arange(source.shape[1], device=source.device)[None]
        mask = bias(self.encoder_bias.weight, positions, source.shape[1], both_sides=True)
        if source_mask is not None:
            mask = mask.masked_fill(~source_mask[:, None, None], -torch.inf)
        return self.dropout(self.encoder(self.dropout(self.embedding(source)), mask=mask))

    def decode(
        self,
        target: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        source_mask: Bool[Tensor, "B S"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits after each of ``target``; with a cache, ``target`` is only what is new."""
        T = target.shape[1]
        positions = cache.positions(T) if cache else torch.arange(T, device=target.device)[None]
        queries = positions[:1] if cache and cache.even else positions  # one bias then serves all rows
        how: dict[str, Any] = {"mask": bias(self.decoder_bias.weight, queries, int(positions.max()) + 1, False)}
        if cache:
            how["cache"] = (cache, positions)
        seen = None if source_mask is None else source_mask[:, None, None]
        x = self.decoder(self.dropout(self.embedding(target)), memory=memory, memory_mask=seen, **how)
        if cache:
            cache.advance(T)
        scale = (
            self.config.d_model**-0.5 if self.config.tied else 1.0
        )  # embeddings are about D times as long as a head's rows
        return self.head(self.dropout(x) * scale)

    def given(self, source: Sequence[int] | Sequence[Sequence[int]]) -> "Given":
        """The language model of the target, given one source or, for a batch, one source for each row."""
        rows = [source] if isinstance(source[0], int) else source
        return Given(self, pad(rows, PAD), lengths_mask([len(row) for row in rows]))


def bias(
    table: Float[Tensor, "N H"], queries: Int[Tensor, "B T"], S: int, both_sides: bool
) -> Float[Tensor, "B H T S"]:
    """What is added to the score of each query with each of S keys; -inf for later ones unless ``both_sides``.

    >>> table = torch.arange(BUCKETS * 1.0)[:, None]             # one head, whose bias is the number of the bucket
    >>> bias(table, torch.tensor([[1, 2]]), S=3, both_sides=False)
    tensor([[[[1., 0., -inf],
              [2., 1., 0.]]]])
    """
    distance = torch.arange(S, device=queries.device) - queries[..., None]
    scores = table[relative_buckets(distance, both_sides)].permute(0, 3, 1, 2)  # (B, T, S, H) to (B, H, T, S)
    return scores if both_sides else scores.masked_fill((distance > 0)[:, None], -torch.inf)


# Writing


class Given:
    """A decoder whose source has been read: a `LanguageModel` over targets, each of which starts with `PAD`."""

    def __init__(self, model: T5, source: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"]):
        self.model, self.vocab_size, self.context, self.mask = model, model.vocab_size, None, source_mask
        with torch.no_grad():
            self.memory = model.encode(source, source_mask)
        self.sources = len(source)

    def new_cache(self, batch: int, size: int) -> "Memory":
        """An empty cache for ``batch`` targets of at most ``size`` tokens."""
        return Memory(self.model.config, *self.rows(batch), size)

    def rows(self, batch: int) -> tuple[Tensor, Tensor]:
        """The memory and its mask for as many targets. ValueError for neither one source nor one for each."""
        if self.sources not in (1, batch):
            raise ValueError(f"there are {self.sources} sources for {batch} targets: give one, or one for each")
        return self.memory.expand(batch, -1, -1), self.mask.expand(batch, -1)

    def __call__(self, ids: Int[Tensor, "B T"], cache: "Memory | None" = None) -> Float[Tensor, "B T V"]:
        memory, mask = (cache.memory, cache.mask) if cache else self.rows(len(ids))
        return self.model.decode(ids, memory, mask, cache)


class Memory(KVCache):
    """A cache that also knows which source each row is written for, so that the two stay together."""

    def __init__(self, config: Config, memory: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"], size: int):
        super().__init__(config.n_layers, len(memory), config.kv_heads, size, config.d_head, memory)
        self.memory, self.mask = memory, mask

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """Row b becomes a copy of row ``rows[b]``, its source included."""
        super().reorder(rows)
        self.memory, self.mask = self.memory[rows], self.mask[rows]


def answers(
    model: T5, sources: Sequence[Sequence[int]], max_new_tokens: int = 64, batch_size: int = 256
) -> list[list[int]]:
    """The greedy target of every source; sources of similar length share a batch, to waste little on padding."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        given = model.given([sources[i] for i in rows])
        texts = generate_batch(given, [[PAD]] * len(rows), max_new_tokens, temperature=0.0, stop={END})
        found |= dict(zip(rows, texts, strict=True))
    return [found[i] for i in range(len(sources))]
