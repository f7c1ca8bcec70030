"""What happens inside while a model reads: where each head looks, and what it held likely before it chose.

`attention_maps` takes the readable path: beside every attention layer, `minilm.attention.attention_weights` computes
from the same queries and keys the weights that PyTorch's kernel multiplies by and never shows. `Watched` keeps the
scores that a text is drawn from. Neither changes what the model computes.

Not here: what such pictures prove, which is little by themselves (Jain & Wallace 2019).
Letters: B batch, T queries, S keys, H heads, L layers, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .attention import Attention, attention_weights, causal_mask
from .contract import LanguageModel


@torch.no_grad()
def attention_maps(
    model: LanguageModel, ids: Int[Tensor, "B S"], last: int | None = None
) -> Float[Tensor, "L B H T S"]:
    """The attention weights of every layer and head while ``model`` reads ``ids``: row t says where token t looks.

    ``last`` keeps the rows of the last tokens only: all of them together are large. Raises ValueError for a model
    without attention, and what the model raises.

    >>> from .gpt import GPT
    >>> from .transformer import Config
    >>> model = GPT(Config(vocab_size=9, context=8, d_model=16, n_layers=2, n_heads=4))
    >>> maps = attention_maps(model, torch.tensor([[5, 6, 7]]))
    >>> maps.shape, torch.allclose(maps.sum(-1), torch.ones(2, 1, 4, 3))
    (torch.Size([2, 1, 4, 3, 3]), True)
    >>> maps[0, 0, 0, 0].tolist()                                     # the first token sees itself alone
    [1.0, 0.0, 0.0]
    """
    layers = [part for part in model.modules() if isinstance(part, Attention)] if isinstance(model, nn.Module) else []
    if not layers:
        raise ValueError(f"model is a {type(model).__name__}, which has no attention: give a GPT")
    S, maps = ids.shape[1], []
    T = min(last or S, S)
    mask = causal_mask(T, S, start=S - T)

    def see(layer: Attention, inputs: tuple[Tensor], how: dict[str, Any]) -> None:
        q, k, _ = layer.project(*inputs, rotary=how.get("rotary"))
        k = k.repeat_interleave(layer.n_heads // layer.n_kv_heads, 1)  # neighbouring heads share keys
        maps.append(attention_weights(q[:, :, S - T :], k, mask))

    hooks = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in layers]
    try:
        model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)


class Watched:
    """A `LanguageModel` that is another one, and keeps in ``scores`` the last row of logits it gave.

    >>> from .generate import stream
    >>> class Coin:
    ...     vocab_size, context = 2, None
    ...     def __call__(self, ids): return torch.zeros(*ids.shape, 2)
    >>> model = Watched(Coin())
    >>> [(token in (0, 1), model.scores.softmax(-1).tolist()) for token in stream(model, [0], 1)]
    [(True, [0.5, 0.5])]
    """

    def __init__(self, model: LanguageModel):
        self.model, self.vocab_size, self.context = model, model.vocab_size, model.context
        if hasattr(model, "new_cache"):
            self.new_cache = model.new_cache
        if hasattr(model, "before_head"):
            self.before_head = model.before_head

    def __call__(self, ids: Int[Tensor, "B T"], *cache: Any) -> Float[Tensor, "B T V"]:
        return self.kept(self.model(ids, *cache))

    def head(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """The model's output layer, where it has one apart."""
        return self.kept(self.model.head(x))

    def kept(self, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
        """The logits, the last row of which is kept."""
        self.scores: Float[Tensor, " V"] = logits.flatten(0, -2)[-1]
        return logits
