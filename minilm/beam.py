"""Beam search: look for the likeliest continuation, keeping the few best beginnings at every step.

Greedy decoding commits to each token; beam search commits to none until ``n_beams`` better texts have ended. It finds
texts of higher probability, which is not to say better ones: see chapter 9.

References: Graves 2012; Sutskever et al. 2014 (beams for a decoder); Wu et al. 2016 (length normalisation). The order
of events is that of ``generate`` in ``transformers``, so that both return the same text.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .contract import LanguageModel
from .generate import Reader


class Hypothesis(NamedTuple):
    """A continuation, its log-probability (with that of the stop token, where one ended it), and its rank's score."""

    ids: list[int]
    log_prob: float
    score: float


@torch.inference_mode()
def beam(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    n_beams: int = 4,
    length_penalty: float = 1.0,
    stop: Collection[int] = (),
    cache: bool = True,
) -> list[Hypothesis]:
    """At most ``n_beams`` continuations of ``prompt``, the best first; one beam is greedy decoding.

    The score is ``log_prob / length ** length_penalty``: 0 compares plain log-probabilities and favours short texts, 1
    compares means per token, more favours long texts. Length counts the stop token, ``ids`` do not hold it.
    Raises ValueError for ``n_beams < 1``, a length below 1, or an empty prompt.

    >>> class Trap:                                   # 1 is likelier than 2 at first, but 2 has a sure continuation
    ...     vocab_size, context = 4, 1
    ...     def __call__(self, ids):
    ...         rows = [[0, 0.6, 0.4, 0], [0.3, 0.4, 0, 0.3], [0, 0, 0, 1], [0.25] * 4]
    ...         return torch.tensor(rows)[ids].log()
    >>> [[h.ids for h in beam(Trap(), [0], 2, n)] for n in (1, 2)]
    [[[1, 1]], [[2, 3], [1, 1]]]
    """
    if n_beams < 1 or max_new_tokens < 1:
        raise ValueError(f"n_beams={n_beams}, max_new_tokens={max_new_tokens}: both must be 1 or more")
    reader, running, ended = Reader(model, [prompt], max_new_tokens, cache), torch.zeros(1), []
    for length in range(1, max_new_tokens + 1):
        log_probs = running[:, None] + reader.logits().log_softmax(-1)
        candidates = _best(log_probs, n_beams * (1 + max(1, len(stop))))  # enough to go on where many of them stop
        for log_prob, row, token in candidates[:n_beams]:
            if token in stop or length == max_new_tokens:
                ids = reader.texts[row][len(prompt) :] + [token] * (token not in stop)
                ended.append(Hypothesis(ids, log_prob, log_prob / length**length_penalty))
        ended = sorted(ended, key=lambda h: -h.score)[:n_beams]
        alive = [candidate for candidate in candidates if candidate[2] not in stop][:n_beams]
        full = len(ended) == n_beams and alive and alive[0][0] / length**length_penalty <= ended[-1].score
        if full or not alive or length == max_new_tokens:
            break
        running = log_probs.new_tensor([log_prob for log_prob, _, _ in alive])
        reader.select([row for _, row, _ in alive])
        reader.append([token for _, _, token in alive])
    return ended


def _best(log_probs: Float[Tensor, "B V"], n: int) -> list[tuple[float, int, int]]:
    """The n likeliest (log-probability, row, token), the best first, without those of probability 0."""
    best = log_probs.flatten().topk(min(n, log_probs.numel()))
    places = [divmod(place, log_probs.shape[1]) for place in best.indices.tolist()]
    return [(p, row, token) for p, (row, token) in zip(best.values.tolist(), places, strict=True) if p > -torch.inf]
