"""Attention: every position asks, every position answers, and the answers are averaged by how well they fit.

``attention`` is the equation written out, ``Attention`` the layer with its weights: self-attention or cross-attention,
with as many key-value heads as query heads or fewer, with or without a `KVCache`. At run time the layer calls PyTorch's
kernel for the same equation; the tests hold both equal.

Letters: B batch, T time of the queries, S time of the keys, H heads, G key-value heads, D width, d width of one head.
References: Vaswani et al. 2017, section 3.2; Shazeer 2019 (multi-query), Ainslie et al. 2023 (grouped queries);
Henry et al. 2020 (query-key norm); Pope et al. 2022 (the cache).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .layers import EPS, rotate

Mask = Bool[Tensor, "*M #T #S"] | Float[Tensor, "*M #T #S"]
"""Which keys each query may look at (True: may), or what is added to the scores."""


def attention_weights(
    q: Float[Tensor, "*B T d"], k: Float[Tensor, "*C S d"], mask: Mask | None = None
) -> Float[Tensor, "*B T S"]:
    """``softmax(q k^T / sqrt(d))``: row t says how query t spreads its attention over the S keys.

    ``mask`` is True where a query may look. A query that may look nowhere gets a row of zeros. A mask of numbers is
    added to the scores: a bias for some keys over others, -inf for never.

    >>> q = k = torch.eye(2) * 2**0.25 * torch.tensor(3.0).log().sqrt()    # a score of log 3 where q and k agree
    >>> attention_weights(q, k)
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    >>> attention_weights(q, k, causal_mask(2, 2))
    tensor([[1.0000, 0.0000],
            [0.2500, 0.7500]])
    """
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(-1)
    if mask.is_floating_point():
        scores, mask = scores + mask, mask > -torch.inf
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)


def attention(
    q: Float[Tensor, "*B T d"],
    k: Float[Tensor, "*C S d"],
    v: Float[Tensor, "*C S e"],
    mask: Mask | None = None,
) -> Float[Tensor, "*B T e"]:
    """``softmax(q k^T / sqrt(d)) v``: the values, averaged with the weights above.

    >>> attention(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([[1.0], [2.0], [6.0]]))    # indifferent: the mean
    tensor([[3.]])
    """
    return attention_weights(q, k, mask) @ v


def causal_mask(T: int, S: int, start: int = 0) -> Bool[Tensor, "T S"]:
    """True where key s is not later than the query, which stands at position ``start + t``.

    >>> causal_mask(2, 3, start=1).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.arange(S) <= torch.arange(start, start + T)[:, None]


class KVCache:
    """Keys and values of the tokens read so far, so that each new token costs one row of attention, not all of them.

    Room for ``size`` tokens is set aside at once. ``lengths`` counts the tokens of each row: rows may differ, and what
    lies beyond a row's length is never looked at. A prompt padded on the right is read whole; `keep` then drops the
    padding.

    >>> cache = KVCache(n_layers=1, batch=2, n_kv_heads=1, size=8, d_head=4, like=torch.zeros(0))
    >>> new = torch.ones(2, 1, 3, 4)                        # two prompts of three tokens
    >>> k, v = cache.update(0, new, new, cache.positions(3))
    >>> cache.advance(3)
    >>> cache.keep(torch.tensor([3, 2]))                    # the last token of the second was padding
    >>> cache.positions(1).tolist()
    [[3], [2]]
    """

    def __init__(self, n_layers: int, batch: int, n_kv_heads: int, size: int, d_head: int, like: Tensor):
        shape = (n_layers, batch, n_kv_heads, size, d_head)
        self.k, self.v = like.new_zeros(shape), like.new_zeros(shape)
        self.ids = torch.zeros(batch, size, dtype=torch.long, device=like.device)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=like.device)
        self.longest, self.even = 0, True  # rows equally long: slices then do what scattering does, faster

    @property
    def size(self) -> int:
        """Tokens that fit into a row."""
        return self.k.shape[3]

    def positions(self, T: int) -> Int[Tensor, "B T"]:
        """Where the next T tokens of each row will stand. Raises ValueError where they do not fit."""
        end = self.longest + T
        if end > self.size:
            raise ValueError(f"the cache holds {self.size} tokens a row, {end} are needed: make it larger")
        return self.lengths[:, None] + torch.arange(T, device=self.lengths.device)

    def update(
        self, layer: int, k: Float[Tensor, "B G T d"], v: Float[Tensor, "B G T d"], positions: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B G S d"], Float[Tensor, "B G S d"]]:
        """Store the keys and values of new tokens in one layer; give back all that the layer has now."""
        stores, T = (self.k[layer], self.v[layer]), k.shape[2]
        for store, new in zip(stores, (k, v), strict=True):
            if self.even:
                store.narrow(2, self.longest, T).copy_(new)
            else:
                store.scatter_(2, positions[:, None, :, None].expand_as(new), new)
        keys, values = (store.narrow(2, 0, self.longest + T) for store in stores)
        return keys, values

    def recent(self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], K: int) -> Int[Tensor, "B K"]:
        """Note the new tokens of each row; give back the K before them, -1 where the text has not begun."""
        self.ids.scatter_(1, positions, ids)
        before = positions[:, :1] - torch.arange(K, 0, -1, device=ids.device)
        return self.ids.gather(1, before.clamp(min=0)).masked_fill(before < 0, -1)

    def advance(self, T: int) -> None:
        """Count T more tokens in every row, once all layers have stored them."""
        self.lengths, self.longest = self.lengths + T, self.longest + T

    def keep(self, lengths: Int[Tensor, " B"]) -> None:
        """Forget what lies beyond ``lengths``: padding, or rejected tokens. Raises ValueError for a longer length."""
        if (lengths > self.lengths).any():
            raise ValueError(f"lengths={lengths.tolist()}: the cache holds only {self.lengths.tolist()} tokens")
        self._measure(lengths.clone())

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """Row b becomes a copy of row ``rows[b]``: what beam search needs when one beam overtakes another."""
        self.k = self.k[:, rows]  # one after the other: what is replaced is free before the next is copied
        self.v, self.ids = self.v[:, rows], self.ids[rows]
        self._measure(self.lengths[rows])

    def _measure(self, lengths: Int[Tensor, " B"]) -> None:
        self.lengths, self.longest = lengths, max(lengths.tolist(), default=0)
        self.even = bool((lengths == self.longest).all())


class Attention(nn.Module):
    """Multi-head attention: H times in parallel, each head in its own d = D / H dimensions, then mixed by ``W_out``.

    Queries come from ``x``; keys and values from ``memory``, which is ``x`` itself unless given (cross-attention).
    ``n_kv_heads`` G < H lets H / G query heads share a key-value head. ``qk_norm`` scales queries and keys to unit root
    mean square, which keeps scores from growing. Raises ValueError where heads do not divide the width, or each other.

    >>> layer = Attention(d_model=12, n_heads=6, n_kv_heads=2)
    >>> layer(torch.zeros(1, 5, 12), causal=True).shape
    torch.Size([1, 5, 12])
    >>> layer.qkv.weight.shape                              # queries of 6 heads, keys and values of 2, each 2 wide
    torch.Size([20, 12])
    """

    def __init__(
        self, d_model: int, n_heads: int, n_kv_heads: int | None = None, bias: bool = True, qk_norm: bool = False
    ):
        super().__init__()
        n_kv_heads = n_kv_heads or n_heads
        if d_model % n_heads or n_heads % n_kv_heads:
            raise ValueError(
                f"d_model={d_model}, n_heads={n_heads}, n_kv_heads={n_kv_heads}: heads must divide the width, "
                "and key-value heads the heads"
            )
        self.n_heads, self.n_kv_heads, self.d_head, self.qk_norm = n_heads, n_kv_heads, d_model // n_heads, qk_norm
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.d_head, bias)  # one product for all three
        self.out = nn.Linear(d_model, d_model, bias)

    def project(
        self, x: Tensor, memory: Tensor | None = None, rotary: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, d), keys and values (B, G, S, d)."""
        numbers = [self.n_heads, self.n_kv_heads, self.n_kv_heads]
        if memory is None:  # queries and keys together: at one token, what costs is the number of calls
            qk, v = self._heads(self.qkv(x)).split_with_sizes([sum(numbers[:2]), self.n_kv_heads], 1)
            q, k = self._placed(qk, rotary).split_with_sizes(numbers[:2], 1)
            return q, k, v
        widths = [n * self.d_head for n in numbers]
        weights = self.qkv.weight.split(widths)
        biases = self.qkv.bias.split(widths) if self.qkv.bias is not None else [None] * 3
        parts = zip((x, memory, memory), weights, biases, strict=True)
        q, k, v = (self._heads(F.linear(*part)) for part in parts)
        return self._placed(q, rotary), self._placed(k, rotary), v

    def _placed(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        """Queries or keys, scaled to unit size where ``qk_norm`` is set and turned to their positions."""
        x = F.rms_norm(x, (self.d_head,), eps=EPS) if self.qk_norm else x
        return x if rotary is None else rotate(x, rotary)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.d_head).transpose(1, 2)  # (B, T, H d) to (B, H, T, d)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        mask: Mask | None = None,
        causal: bool = False,
        rotary: Float[Tensor, "two *C T d"] | None = None,
        cache: tuple[KVCache, int, Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What each position of ``x`` learns from the positions it may look at.

        ``mask`` (True: may look; or numbers to add to the scores) broadcasts to (B, H, T, S); ``causal`` is the mask of
        a left-to-right model without the memory that a matrix takes. ``cache`` is the `KVCache`, this layer's number
        in it, and the positions of x.
        """
        q, k, v = self.project(x, memory, rotary)
        if cache is not None:
            store, layer, positions = cache
            k, v = store.update(layer, k, v, positions)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=self.n_heads != self.n_kv_heads)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, d) to (B, T, H d)
