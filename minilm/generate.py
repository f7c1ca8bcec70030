"""Turn a language model into a writer: choose a next token, append it, ask again.

`next_token_probs` reshapes one distribution, and `generate` is the loop around it. They serve every `LanguageModel`.

Reference: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (top-p); Fan et al. 2018 (top-k).
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .contract import LanguageModel


def next_token_probs(
    logits: Float[Tensor, " V"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, " V"]:
    """The distribution that a sampler draws from: ``softmax(logits / temperature)``, cut to its likeliest tokens.

    ``top_k`` keeps the k likeliest tokens; ``top_p`` keeps the fewest likeliest tokens that together hold probability
    p or more. What is kept is scaled to sum to one. Temperature 0 is the limit: all mass on the likeliest token.

    Raises ValueError for a negative temperature, ``top_k < 1`` or ``top_p`` outside (0, 1].

    >>> import torch
    >>> logits = torch.tensor([0.5, 0.3, 0.2]).log()
    >>> next_token_probs(logits, top_k=2)
    tensor([0.6250, 0.3750, 0.0000])
    >>> next_token_probs(logits, top_p=0.4)
    tensor([1., 0., 0.])
    >>> next_token_probs(logits, temperature=0.0)
    tensor([1., 0., 0.])
    """
    _check(temperature, top_k, top_p)
    if temperature == 0:
        return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)
    probs = (logits / temperature).softmax(-1)
    ranked, ids = probs.sort(descending=True, stable=True)
    if top_k is not None:
        ranked[top_k:] = 0
    if top_p is not None:
        before = ranked.cumsum(0) - ranked  # mass of the likelier tokens: a token is needed while this is below p
        ranked[before >= top_p * ranked.sum()] = 0
    return torch.zeros_like(probs).index_put((ids,), ranked / ranked.sum())


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Collection[int] = (),
) -> list[int]:
    """The ids that follow ``prompt``, at most ``max_new_tokens`` of them; an id in ``stop`` ends the text, unwritten.

    The same seed gives the same text. ``prompt`` needs one id or more, since a model only ever continues.
    Raises ValueError for an empty prompt, a negative length, or what `next_token_probs` refuses.

    >>> import torch
    >>> class Count:                                              # after i comes i + 1
    ...     vocab_size, context = 5, 1
    ...     def __call__(self, ids): return torch.nn.functional.one_hot((ids + 1) % 5, 5).double().log()
    >>> generate(Count(), [3], max_new_tokens=4)
    [4, 0, 1, 2]
    >>> generate(Count(), [3], max_new_tokens=4, stop={1})
    [4, 0]
    """
    if not len(prompt):
        raise ValueError("prompt is empty: give at least one id, for instance that of the separator token")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens}: a text has no negative length; use 0 or more")
    _check(temperature, top_k, top_p)
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    while len(ids) < len(prompt) + max_new_tokens:
        seen = ids[-model.context or -1 :] if model.context is not None else ids  # a unigram model still gets one id
        logits = model(torch.tensor([seen]))[0, -1]
        probs = next_token_probs(logits, temperature, top_k, top_p)
        token = int(torch.multinomial(probs, 1, generator=generator))
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ValueError(f"temperature={temperature}: use 0 for the likeliest token, or a positive number")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: keep at least 1 token, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: a share of the probability lies in (0, 1]")
