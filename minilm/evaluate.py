"""One ruler for every model: negative log-likelihood, perplexity, bits per byte, and how sure we are of them.

Nats per token depend on how the text was cut into tokens; bits per byte do not, so the book compares models in them.
Intervals resample *blocks* of text, not tokens, because neighbouring tokens succeed and fail together.

References: Shannon 1951 (entropy of English); Efron & Tibshirani 1993, ch. 8 (bootstrap of dependent data).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .batching import windows
from .contract import LanguageModel, next_token
from .metrics import Estimate, estimate
from .tokenizer import Tokenizer

BLOCK_LOGITS = 2**22
"""How many logits are computed at once: 16 megabytes of them."""

BLOCK_BYTES = 2_000
"""Length of a bootstrap block: some twenty lines, beyond which one line tells little about the next."""


@torch.no_grad()
def nll(
    model: LanguageModel, ids: Int[Tensor, " N"], context: int | None = None, stride: int | None = None
) -> Float[Tensor, " M"]:
    """Negative log-likelihood in nats of ``ids[1:]``, each given the tokens before it: M = N - 1 numbers.

    The first token is context only. A model that reads at most ``context`` tokens (default: the model's own bound)
    sees the stream in windows that advance by ``stride`` (default: the whole window), so a token right after a window
    border has little context; a smaller stride gives each token more of it, and costs more. A model with a
    ``score`` of its own reads the stream whole, unless it has no bound and ``context`` gives it one.

    Raises ValueError for fewer than 2 ids, or a stride outside 1..context.

    >>> import math, torch
    >>> class Coin:
    ...     vocab_size, context = 2, None
    ...     def __call__(self, ids): return torch.zeros(*ids.shape, 2)
    >>> nll(Coin(), torch.tensor([0, 1, 1])) / math.log(2)
    tensor([1., 1.])
    """
    if len(ids) < 2:
        raise ValueError(f"ids holds {len(ids)} tokens: scoring needs 2 or more, since the first is only context")
    if hasattr(model, "score") and (context is None or model.context is not None):
        return -model.score(ids[None].to(_device(model)))[0].cpu()
    context = context or model.context or len(ids)
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride={stride}: a window of {context} tokens can advance by 1 to {context}")
    width = min(context, len(ids) - 1)
    last = len(ids) - 1 - width
    rows = windows(ids.to(_device(model)), width, stride=1)  # a view: no window is copied before its turn
    scored, done = [], 0
    for starts in torch.arange(0, last + stride, stride).clamp(max=last).split(_rows_at_once(model, width)):
        batch = next_token(rows[starts])
        log_probs = model(*batch.inputs).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        for start, row in zip(starts.tolist(), -log_probs.cpu(), strict=True):
            scored.append(row[done - start :])
            done = start + width
    return torch.cat(scored)


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")


def _rows_at_once(model: LanguageModel, width: int) -> int:
    return max(1, BLOCK_LOGITS // (width * model.vocab_size))


def perplexity(nats: Float[Tensor, " N"]) -> float:
    """``exp`` of the mean: the number of equally likely tokens that would be as hard to guess.

    >>> import math, torch
    >>> round(perplexity(torch.full((9,), math.log(6))), 4)        # a fair die
    6.0
    """
    return nats.double().mean().exp().item()  # a model far astray has infinity, which math.exp refuses


def bits_per_byte(nats: Float[Tensor, " N"], n_bytes: int) -> float:
    """Total nats as bits, over the UTF-8 bytes of the scored text: what an ideal compressor would need per byte.

    >>> import math, torch
    >>> bits_per_byte(torch.full((10,), math.log(2), dtype=torch.float64), 5)  # ten yes-or-no questions for five bytes
    2.0
    """
    if n_bytes <= 0:
        raise ValueError(f"n_bytes={n_bytes}: the scored text must hold at least one byte")
    return nats.double().sum().item() / math.log(2) / n_bytes


@dataclass(frozen=True)
class Score:
    """What a model paid for a text, block by block; blocks of two scores of the same text cover the same bytes."""

    nats: Float[np.ndarray, " K"]
    bytes: Int[np.ndarray, " K"]
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the scored text."""
        return float(_bits_per_byte(self.nats, self.bytes))

    @property
    def perplexity(self) -> float:
        """Perplexity per token: comparable only between models with the same tokenizer."""
        return perplexity(torch.tensor([self.nats.sum() / self.tokens]))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % block-bootstrap interval of `bits_per_byte`; (nan, nan) for a single block, or an infinite score."""
        if not math.isfinite(self.bits_per_byte):
            return math.nan, math.nan
        return estimate(_bits_per_byte, self.nats, self.bytes)[1:]

    def minus(self, other: "Score") -> Estimate:
        """Difference in bits per byte to another model's score of the same text, with its paired 95 % interval.

        Both models find the same passages hard, so this interval is far narrower than the two intervals suggest.
        Raises ValueError where the two scores do not cover the same text.
        """
        if abs(int(self.bytes.sum()) - int(other.bytes.sum())) > BLOCK_BYTES or len(self.bytes) != len(other.bytes):
            raise ValueError(f"other covers {other.bytes.sum()} bytes, this score {self.bytes.sum()}: score one text")

        def gap(nats, n_bytes, nats_other, bytes_other, axis=-1):
            return _bits_per_byte(nats, n_bytes, axis) - _bits_per_byte(nats_other, bytes_other, axis)

        return estimate(gap, self.nats, self.bytes, other.nats, other.bytes)


def score(
    model: LanguageModel, tokenizer: Tokenizer, text: str, context: int | None = None, block: int = BLOCK_BYTES
) -> Score:
    """Score a text with a model: every token but the first, in blocks of ``block`` bytes.

    A tokenizer that loses bytes cannot be scored in bits per byte: what it drops costs it nothing, and the number
    would flatter it. Raises ValueError for such a tokenizer, and what `nll` raises.
    """
    ids, sizes = _measured(tokenizer, text)
    nats = nll(model, ids, context).double().numpy()
    blocks = (np.cumsum(sizes) - sizes)[1:] // block  # a token belongs to the block its first byte lies in
    return Score(np.bincount(blocks, nats), np.bincount(blocks, sizes[1:]).astype(np.int64), len(nats))


def compressed(pack: Callable[[bytes], bytes], text: str, after: str = "") -> float:
    """Bits per byte of a compressor such as ``gzip.compress``: what ``text`` adds to the file that holds ``after``.

    >>> import zlib
    >>> line = "Shall I compare thee to a summer's day? "
    >>> compressed(zlib.compress, line) > 8 > 1 > compressed(zlib.compress, line, after=line)
    True
    """
    first, then = after.encode(), text.encode()
    if not then:
        raise ValueError("text is empty: bits per byte need a byte or more")
    return 8 * (len(pack(first + then)) - (len(pack(first)) if first else 0)) / len(then)


@lru_cache(maxsize=8)  # a table of models scores one text again and again, and encoding it costs more than scoring
def _measured(tokenizer: Tokenizer, text: str) -> tuple[Int[Tensor, " N"], Int[np.ndarray, " N"]]:
    """The ids of a text and the bytes of each; ValueError where these are not all the bytes of the text."""
    ids = tokenizer.encode(text)
    sizes = np.array([len(tokenizer.token_bytes(i)) for i in ids], dtype=np.int64)
    if sizes.sum() != len(text.encode()):
        raise ValueError(
            f"tokenizer: its tokens hold {sizes.sum()} of the text's {len(text.encode())} bytes, so bits per byte "
            "would not count the rest; use a tokenizer with byte fallback"
        )
    return torch.tensor(ids), sizes


def _bits_per_byte(nats, n_bytes, axis=-1):
    return nats.sum(axis) / n_bytes.sum(axis) / math.log(2)
