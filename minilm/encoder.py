"""The encoder of BERT: blocks that look both ways, and the objective that trains them, restoring hidden tokens.

`BERT` gives every token of a row a vector that depends on the whole row. `MaskedLM` guesses tokens from these vectors,
and `mask_tokens` hides some for it to guess.

Not here: the paper's next-sentence task, which later work did without; texts and published weights (``minilm.bert``).
Letters: B batch, T time, D width, V vocabulary.
References: Devlin et al. 2019; Liu et al. 2019 (what of it matters).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .batching import derived_seed
from .contract import IGNORE, Batch
from .layers import ACTIVATIONS, NORMS, rotary_table
from .transformer import Config, Stack


class BERT(nn.Module):
    """An encoder: ids (B, T) to hidden states (B, T, D), each of which has seen the whole row.

    ``mask`` is True where a token stands and False where padding does, which then nobody looks at. ``types`` says which
    of two texts a token belongs to. Raises ValueError for more tokens than ``config.context``.

    >>> model = BERT(Config(vocab_size=100, context=8, d_model=16, n_layers=2, n_heads=4, norm_first=False))
    >>> model(torch.tensor([[5, 6, 7]]), torch.tensor([[True, True, False]])).shape
    torch.Size([1, 3, 16])
    """

    def __init__(self, config: Config):
        super().__init__()
        if config.positions not in ("learned", "rotary") or config.conv:
            raise ValueError(f"positions={config.positions!r}, conv={config.conv}: choose 'learned' or 'rotary', and 0")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position = nn.Embedding(config.context, config.d_model)
        self.segment = nn.Embedding(2, config.d_model)
        self.norm = NORMS[config.norm](config.d_model, config.bias, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = Stack(config)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The last hidden states."""
        return self.states(ids, mask, types)[-1]

    def states(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> list[Float[Tensor, "B T D"]]:
        """All hidden states: what enters the first block, and what leaves each."""
        c = self.config
        if ids.shape[1] > c.context:
            raise ValueError(f"ids holds {ids.shape[1]} tokens, the model reads at most {c.context}: cut the texts")
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embedding(ids) + self.segment(torch.zeros_like(ids) if types is None else types)
        how = {"mask": None if mask is None else mask[:, None, None, :]}  # (B, H, T, S): every query, the same keys
        if c.positions == "learned":
            x = x + self.position(positions)
        else:
            how["rotary"] = rotary_table(positions, c.d_head, c.rotary_base).to(x)
        states = [self.dropout(self.norm(x))]
        for block in self.stack.blocks:
            states.append(block(states[-1], **how))
        return [*states[:-1], self.stack.norm(states[-1])]


# The objective


class MaskedLM(nn.Module):
    """What stands at each position of a row, the hidden ones above all: logits (B, T, V).

    Not a `LanguageModel`: each of its rows has seen the tokens on both sides. The output layer is the embedding table.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.encoder = config, BERT(config)
        self.transform = nn.Linear(config.d_model, config.d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = NORMS[config.norm](config.d_model, config.bias, config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Scores of each token of the vocabulary at each position."""
        x = self.norm(self.activation(self.transform(self.encoder(ids, mask, types))))
        return F.linear(x, self.encoder.embedding.weight, self.bias)


def mask_tokens(
    ids: Int[Tensor, "B T"],
    mask_id: int,
    ordinary: range,
    rate: float = 0.15,
    seed: int = 0,
    mask: Bool[Tensor, "B T"] | None = None,
) -> Batch:
    """Hide some tokens: the batch asks for the tokens that stood there, and for no others.

    Each ordinary token is chosen with probability ``rate``. Of those chosen 80 % become ``mask_id``, 10 % a random
    ordinary token, and 10 % stay, so that a model cannot tell from a token whether it will be asked for it. A row may
    come away without a question; ``mask``, where given, goes with the ids. Raises ValueError for a rate outside (0, 1].

    >>> batch = mask_tokens(torch.full((1, 8), 7), mask_id=1, ordinary=range(2, 10), rate=0.5)
    >>> batch.inputs[0].tolist(), batch.targets.tolist()
    ([[1, 7, 7, 7, 7, 1, 1, 1]], [[7, -100, -100, -100, -100, 7, 7, 7]])
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate}: the share of hidden tokens is above 0 and at most 1")
    generator = torch.Generator().manual_seed(derived_seed(seed, "mask"))
    draw = lambda: torch.rand(ids.shape, generator=generator)
    chosen = (draw() < rate) & (ids >= ordinary.start) & (ids < ordinary.stop)
    fate = draw()
    random = torch.randint(ordinary.start, ordinary.stop, ids.shape, generator=generator)
    hidden = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, random, ids))
    inputs = torch.where(chosen, hidden, ids)
    return Batch((inputs,) if mask is None else (inputs, mask), torch.where(chosen, ids, IGNORE))
