"""Recurrent language models: a state of fixed size that walks along the text and is rewritten at every token.

`rnn_cell`, `gru_cell` and `lstm_cell` are one step each, written out; `unroll` is the walk. `RNNLM` puts embeddings
below and a softmax above. At run time it calls PyTorch's kernel for the same equations; the tests hold both equal.

Weights have PyTorch's layout: the rows of ``weight_ih`` (G H, D) and ``weight_hh`` (G H, H) are the G gates, stacked.
Letters: B batch, T time, D width of the input, H width of the state, L layers, V vocabulary.
References: Elman 1990; Hochreiter & Schmidhuber 1997, Gers et al. 2000 (LSTM); Cho et al. 2014 (GRU).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

State = Tensor | tuple[Tensor, ...]
"""What a network remembers: h, or (h, c) for an LSTM; (B, H) in a cell, (L, B, H) in a stack of layers."""


def rnn_cell(
    x: Float[Tensor, "B D"],
    h: Float[Tensor, "B H"],
    weight_ih: Float[Tensor, "H D"],
    weight_hh: Float[Tensor, "H H"],
    bias_ih: Float[Tensor, " H"],
    bias_hh: Float[Tensor, " H"],
) -> Float[Tensor, "B H"]:
    """One step of Elman's network: ``h' = tanh(W x + U h + b)``.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1)
    >>> rnn_cell(0.2 * one, 0.3 * one, one, one, zero, zero)               # tanh(0.5)
    tensor([[0.4621]])
    """
    return torch.tanh(F.linear(x, weight_ih, bias_ih) + F.linear(h, weight_hh, bias_hh))


def gru_cell(
    x: Float[Tensor, "B D"],
    h: Float[Tensor, "B H"],
    weight_ih: Float[Tensor, "3*H D"],
    weight_hh: Float[Tensor, "3*H H"],
    bias_ih: Float[Tensor, " 3*H"],
    bias_hh: Float[Tensor, " 3*H"],
) -> Float[Tensor, "B H"]:
    """One step of a gated recurrent unit: ``h' = (1 - z) n + z h``, a blend of a new state n and the old one.

    The update gate z says how much of the old state stays, the reset gate r how much of it n may see; r multiplies
    ``U h + b``, as in PyTorch, not h itself as in the paper.

    >>> zeros = [torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3), torch.zeros(3)]
    >>> gru_cell(torch.ones(1, 1), torch.ones(1, 1), *zeros)               # both gates half open, n = 0
    tensor([[0.5000]])
    """
    xr, xz, xn = F.linear(x, weight_ih, bias_ih).chunk(3, -1)
    hr, hz, hn = F.linear(h, weight_hh, bias_hh).chunk(3, -1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    return (1 - z) * n + z * h


def lstm_cell(
    x: Float[Tensor, "B D"],
    state: tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]],
    weight_ih: Float[Tensor, "4*H D"],
    weight_hh: Float[Tensor, "4*H H"],
    bias_ih: Float[Tensor, " 4*H"],
    bias_hh: Float[Tensor, " 4*H"],
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """One step of long short-term memory: ``c' = f c + i g`` is what it remembers, ``h' = o tanh(c')`` what it shows.

    The forget gate f keeps or drops, the input gate i lets the candidate g in, the output gate o lets it be seen.

    >>> zeros = [torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4), torch.zeros(4)]
    >>> h, c = lstm_cell(torch.ones(1, 1), (torch.zeros(1, 1), torch.ones(1, 1)), *zeros)
    >>> c, h                                                    # half of the memory stays; half of its tanh is shown
    (tensor([[0.5000]]), tensor([[0.2311]]))
    """
    h, c = state
    i, f, g, o = (F.linear(x, weight_ih, bias_ih) + F.linear(h, weight_hh, bias_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


CELLS: dict[str, Callable[..., State]] = {"rnn": rnn_cell, "gru": gru_cell, "lstm": lstm_cell}
KERNELS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def unroll(cell: Callable[..., State], x: Float[Tensor, "B T D"], state: State, *weights: Tensor) -> list[State]:
    """The states after each of the T inputs: the same cell with the same weights, over and over.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1)
    >>> [round(h.item(), 3) for h in unroll(rnn_cell, torch.zeros(1, 3, 1), one, one, one, zero, zero)]
    [0.762, 0.642, 0.566]
    """
    states = []
    for step in x.unbind(1):
        state = cell(step, state, *weights)
        states.append(state)
    return states


@dataclass(frozen=True)
class RNNConfig:
    """The shape of a recurrent language model; embeddings are as wide as the state, since they score it too."""

    vocab_size: int
    d_model: int
    n_layers: int = 1
    cell: str = "lstm"  # or "gru", "rnn"


class RNNLM(nn.Module):
    """A `LanguageModel` without a bound on its context: embed, walk, and score the next token from each state.

    The output layer is the embedding table (Press & Wolf 2017). Raises ValueError for an unknown cell.
    """

    context = None

    def __init__(self, config: RNNConfig):
        super().__init__()
        if config.cell not in KERNELS:
            raise ValueError(f"cell={config.cell!r}: there are {', '.join(KERNELS)}")
        self.config, self.vocab_size = config, config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = KERNELS[config.cell](config.d_model, config.d_model, config.n_layers, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.reset()

    def reset(self) -> None:
        """PyTorch's initial weights; small embeddings, and forget gates that start open (Jozefowicz et al. 2015)."""
        nn.init.normal_(self.embedding.weight, std=self.config.d_model**-0.5)
        for name, parameter in self.layers.named_parameters():
            if self.config.cell == "lstm" and name.startswith("bias_ih"):
                nn.init.ones_(parameter.data.chunk(4)[1])

    def new_cache(self, batch: int, size: int | None = None) -> "StateCache":
        """An empty cache for ``batch`` rows; its size does not grow with the text, so ``size`` is not needed."""
        return StateCache(self, batch)

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Token vectors of unit variance; unscaled, as small as logits need them, the cells would hardly feel them."""
        return self.embedding(ids) * self.config.d_model**0.5

    def forward(self, ids: Int[Tensor, "B T"], cache: "StateCache | None" = None) -> Float[Tensor, "B T V"]:
        """Logits of the next token after each of ``ids``; with a cache, ``ids`` are only what is new."""
        y, state = self.layers(self.embed(ids), cache.state if cache else None)
        if cache:
            cache.advance(ids, state)
        return F.linear(y, self.embedding.weight, self.bias)

    def score(self, ids: Int[Tensor, "B T"], chunk: int = 2048) -> Float[Tensor, "B T-1"]:
        """Log-probabilities of ``ids[:, 1:]``, with one state carried through a text of any length."""
        if ids.shape[1] < 2:
            return torch.zeros(len(ids), 0, device=ids.device)
        cache, scores = self.new_cache(len(ids)), []
        for part, following in zip(ids[:, :-1].split(chunk, 1), ids[:, 1:].split(chunk, 1), strict=True):
            scores.append(self(part, cache).log_softmax(-1).gather(-1, following[..., None])[..., 0])
        return torch.cat(scores, 1)


class StateCache:
    """The state after the tokens read so far, with the methods of `minilm.attention.KVCache`.

    Keys and values of a cut-off token can be dropped; a state cannot be taken back. So the cache also remembers where
    the last call started and what it read, and `keep` walks that part again, to each row's own length.
    """

    def __init__(self, model: RNNLM, batch: int):
        self.model, self.state, self.before = model, None, None
        self.ids = torch.zeros(batch, 0, dtype=torch.long)
        self.lengths = self.start = torch.zeros(batch, dtype=torch.long)

    def advance(self, ids: Int[Tensor, "B T"], state: State) -> None:
        """Take over the state after T more tokens in every row."""
        self.before, self.state, self.ids, self.start = self.state, state, ids, self.lengths
        self.lengths = self.lengths + ids.shape[1]

    def keep(self, lengths: Int[Tensor, " B"]) -> None:
        """Go back to ``lengths`` tokens a row: drop padding. Raises ValueError outside what the last call read."""
        last = lengths - self.start  # how much of the last call each row keeps
        if (last < 1).any() or (last > self.ids.shape[1]).any():
            raise ValueError(
                f"lengths={lengths.tolist()}: a row keeps 1 to {self.ids.shape[1]} of the tokens read last"
            )
        if (lengths != self.lengths).any():
            packed = pack_padded_sequence(self.model.embed(self.ids), last.cpu(), True, enforce_sorted=False)
            self.state = self.model.layers(packed, self.before)[1]
        self.lengths = lengths.clone()

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """Row b becomes a copy of row ``rows[b]``: what beam search needs when one beam overtakes another."""
        self.state, self.before = (pick(state, rows) for state in (self.state, self.before))
        self.ids, self.start, self.lengths = self.ids[rows], self.start[rows], self.lengths[rows]


def pick(state: State | None, rows: Int[Tensor, " B"]) -> State | None:
    """The chosen rows of a state (L, B, H)."""
    if isinstance(state, tuple):
        return tuple(part[:, rows] for part in state)
    return None if state is None else state[:, rows]
