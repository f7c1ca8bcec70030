"""Turn a language model into a writer: choose a next token, append it, ask again.

`next_token_probs` reshapes one distribution, `penalise` one row of logits, and `generate` is the loop around them;
`stream` gives the same tokens one at a time, `generate_batch` continues many prompts at once. They serve every
`LanguageModel`; where one offers ``new_cache``, a step reads one token and not the whole text, and with a ``draft``,
such as `lookup` or a `Guesser`, it reads several guesses as well and keeps those that the model would have written.

Not here: searching for the likeliest text instead of drawing one (``minilm.beam``).
References: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Nguyen et al. 2025 (min-p); Keskar et al. 2019
(repetition penalty); Pope et al. 2022 (the cache); Leviathan et al. 2023 (guesses), Saxena 2023 (looked up).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .attention import KVCache
from .contract import LanguageModel

COLD = 1e-6
"""A temperature below which the limit is taken: dividing by it could overflow."""


def next_token_probs(
    logits: Float[Tensor, "*B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*B V"]:
    """The distribution that a sampler draws from: ``softmax(logits / temperature)``, cut to its likeliest tokens.

    ``top_k`` keeps the k likeliest tokens; ``top_p`` the fewest likeliest tokens that together hold probability p or
    more; ``min_p`` those at least p times as likely as the likeliest. What is kept is scaled to sum to one.
    Temperature 0 is the limit: all mass on the likeliest token.

    Raises ValueError for a temperature that is negative or not finite, ``top_k < 1``, or ``top_p`` or ``min_p`` outside
    (0, 1].

    >>> import torch
    >>> logits = torch.tensor([0.5, 0.3, 0.2]).log()
    >>> next_token_probs(logits, top_k=2)
    tensor([0.6250, 0.3750, 0.0000])
    >>> next_token_probs(logits, top_p=0.4)
    tensor([1., 0., 0.])
    >>> next_token_probs(logits, min_p=0.5)
    tensor([0.6250, 0.3750, 0.0000])
    >>> next_token_probs(logits, temperature=0.0)
    tensor([1., 0., 0.])
    """
    _check(temperature, top_k, top_p, min_p)
    if temperature < COLD:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    probs = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None and min_p is None:
        return probs
    ranked, ids = probs.sort(descending=True, stable=True)
    if top_k is not None:
        ranked[..., top_k:] = 0
    if top_p is not None:
        before = ranked.cumsum(-1) - ranked  # mass of the likelier tokens: a token is needed while this is below p
        ranked[before >= top_p * ranked.sum(-1, keepdim=True)] = 0
    if min_p is not None:
        ranked[ranked < min_p * ranked[..., :1]] = 0
    return torch.zeros_like(probs).scatter(-1, ids, ranked / ranked.sum(-1, keepdim=True))


def penalise(logits: Float[Tensor, " V"], ids: Sequence[int], penalty: float) -> Float[Tensor, " V"]:
    """Logits with those of the tokens in ``ids`` made smaller: divided by ``penalty``, or times it where negative.

    Penalty 1 changes nothing; below 1 it rewards repetition. Adding a constant to all logits, which no softmax
    notices, changes what this rule does: it is CTRL's (section 4.1) as the libraries have it.
    Raises ValueError for a penalty that is not positive.

    >>> import torch
    >>> penalise(torch.tensor([2.0, -1.0, 3.0]), [0, 1, 1], 2.0)
    tensor([ 1., -2.,  3.])
    """
    if penalty <= 0:
        raise ValueError(f"repetition_penalty={penalty}: use 1 for none, or a number somewhat above it, such as 1.2")
    used = torch.tensor(list(set(ids)), dtype=torch.long)
    old = logits[used]
    return logits.index_put((used,), torch.where(old < 0, old * penalty, old / penalty))


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Collection[int] = (),
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    cache: bool = True,
    allowed: Callable[[Sequence[int]], Bool[Tensor, " V"]] | None = None,
    draft: Callable[[Sequence[int]], Sequence[int]] | None = None,
) -> list[int]:
    """The ids that follow ``prompt``, at most ``max_new_tokens`` of them; an id in ``stop`` ends the text, unwritten.

    The same seed gives the same text, with the cache or without. Of a text longer than its context a model sees the
    end. ``prompt`` needs one id or more, since a model only ever continues. ``allowed`` says of the ids written so far
    which may come next, those in ``stop`` among them; the others lose all probability. ``draft`` guesses from the text
    so far what follows it: the text stays what it would be without, and costs fewer calls of the model where guesses
    are right.
    Raises ValueError for an empty prompt, a negative length, a seed out of range, scores that are not numbers, or what
    `next_token_probs` and `penalise` refuse.

    >>> import torch
    >>> class Count:                                              # after i comes i + 1
    ...     vocab_size, context = 5, 1
    ...     def __call__(self, ids): return torch.nn.functional.one_hot((ids + 1) % 5, 5).double().log()
    >>> generate(Count(), [3], max_new_tokens=4)
    [4, 0, 1, 2]
    >>> generate(Count(), [3], max_new_tokens=4, stop={1})
    [4, 0]
    """
    how = {"seed": seed, "stop": stop, "repetition_penalty": repetition_penalty, "cache": cache, "allowed": allowed}
    shape = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    return list(stream(model, prompt, max_new_tokens, draft=draft, **how, **shape))


def stream(
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    draft: Callable[[Sequence[int]], Sequence[int]] | None = None,
    **options,
) -> Iterator[int]:
    """The ids that `generate` returns for the same options, each as soon as it is known."""
    for [(_, token)] in _steps(model, [prompt], max_new_tokens, draft=draft, **options):
        yield token


def lookup(text: Sequence[int], n: int = 2, most: int = 2) -> list[int]:
    """A guess at what follows a text: up to ``most`` tokens that followed its last ``n`` where they last stood before.

    What a text repeats, a name or a phrase of the question, is guessed right; where it says something new there is
    mostly no guess. A processor multiplies three rows of numbers about as fast as one, hence two guesses; others may
    like more. Raises ValueError for ``n`` or ``most`` below 1.

    >>> lookup([1, 2, 3, 4, 5, 6, 1, 2])
    [3, 4]
    >>> lookup([1, 2, 3, 4, 5])
    []
    """
    if n < 1 or most < 1:
        raise ValueError(f"n={n}, most={most}: both count tokens, 1 or more")
    end = list(text[-n:])
    for start in range(len(text) - n - 1, -1, -1):
        if text[start + n - 1] == end[-1] and list(text[start : start + n]) == end:
            return list(text[start + n : start + n + most])
    return []


class Guesser:
    """Guesses at what follows a text, by a faster model: what that one would write next, token by token.

    A copy of a model in fewer bits guesses it right nearly always. From call to call only what is new is read. Where
    ``first`` has a guess, such as `lookup`, which costs nothing, the model is not asked. Raises ValueError for ``most``
    below 1.

    >>> class Count:                                              # after i comes i + 1
    ...     vocab_size, context = 5, 1
    ...     def __call__(self, ids): return torch.nn.functional.one_hot((ids + 1) % 5, 5).double().log()
    >>> guess = Guesser(Count(), first=lookup)
    >>> guess([3]), guess([2, 3, 1, 2, 3])
    ([4, 0], [1, 2])
    """

    def __init__(
        self, model: LanguageModel, most: int = 2, first: Callable[[Sequence[int]], Sequence[int]] | None = None
    ):
        if most < 1:
            raise ValueError(f"most={most}: guess at least 1 token")
        self.model, self.most, self.first, self.reader = model, most, first, None

    @torch.inference_mode()
    def __call__(self, text: Sequence[int]) -> list[int]:
        if self.first and (known := self.first(text)):
            return list(known)
        cache = self.reader.cache if self.reader else None
        if isinstance(cache, KVCache) and len(text) + self.most <= cache.size:
            self.reader.resume(text)
        else:
            self.reader = Reader(self.model, [text], len(text) + 256)  # read anew only when the text has doubled
        for _ in range(self.most):
            self.reader.append(self.reader.logits().argmax(-1).tolist())
        return self.reader.texts[0][len(text) :]


def generate_batch(
    model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int = 0, **options
) -> list[list[int]]:
    """`generate` for every prompt, in one batch: what follows prompt b, drawn with ``seed + b``, whatever its length.

    Each row has its own generator, so that a text does not depend on its neighbours.
    """
    texts = [[] for _ in prompts]
    for step in _steps(model, prompts, max_new_tokens, seed, **options):
        for row, token in step:
            texts[row].append(token)
    return texts


@torch.inference_mode()
def _steps(model, prompts, max_new_tokens, seed=0, stop=(), cache=True, draft=None, **how):
    """At every step the (row, new token) of the rows that have not ended."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens}: a text has no negative length; use 0 or more")
    if not abs(seed) < 2**62:
        raise ValueError(f"seed={seed}: use a number below 2**62")
    _check(**{name: how[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in how})
    if draft and len(prompts) > 1:
        raise ValueError(f"draft is given with {len(prompts)} prompts, and guesses for one: use generate or stream")
    reader = Reader(model, prompts, max_new_tokens, cache)
    rows, left = list(range(len(prompts))), max_new_tokens
    generators = [torch.Generator().manual_seed(seed + row) for row in rows]
    while left:
        guesses = reader.fitting(draft(reader.texts[0]))[: left - 1] if draft else []
        scores = reader.logits(guesses)
        if left == max_new_tokens and scores.isnan().any():
            raise ValueError("model: its scores are not numbers, so its training went astray; train it again, slower")
        for logits, guess in zip(scores.split(1), [*guesses, None], strict=True) if guesses else [(scores, None)]:
            starts = (len(prompts[row]) for row in rows)  # not counted unless asked for
            tokens = _choose(logits, reader.texts, starts, [generators[row] for row in rows], **how)
            alive = [i for i, token in enumerate(tokens) if token not in stop]
            if len(alive) < len(rows):
                reader.select(alive)
                rows, tokens = [rows[i] for i in alive], [tokens[i] for i in alive]
                if not alive:
                    return
            reader.append(tokens)
            left -= 1
            yield list(zip(rows, tokens, strict=True))
            if tokens != [guess]:
                break
        if guesses:
            reader.rewind()


def _choose(logits, texts, starts, generators, repetition_penalty=1.0, allowed=None, **shape) -> list[int]:
    """The next token of every text, whose prompt ends at the place in ``starts``."""
    if repetition_penalty != 1:
        rows = zip(logits, texts, strict=True)
        logits = torch.stack([penalise(row, text, repetition_penalty) for row, text in rows])
    if allowed is not None:
        written = [text[start:] for text, start in zip(texts, starts, strict=True)]
        logits = logits.masked_fill(~torch.stack([allowed(ids) for ids in written]), -torch.inf)
    if shape.get("temperature") == 0:
        return logits.argmax(-1).tolist()
    probs = next_token_probs(logits, **shape)
    return [int(p.multinomial(1, generator=generator)) for p, generator in zip(probs, generators, strict=True)]


class Reader:
    """A batch of texts that grow by a token a step, and what the model says comes next in each.

    A cached model reads every token once. Where a text outgrows the context, its window moves on, every token in it
    changes its position, and nothing stored is of use: from there on the windows are read anew. What all texts begin
    with, such as an instruction, is read once for all of them.
    Raises ValueError for an empty text.
    """

    def __init__(self, model: LanguageModel, texts: Sequence[Sequence[int]], room: int, cache: bool = True):
        if not texts or not all(map(len, texts)):
            raise ValueError("prompt is empty: give at least one id, for instance that of the separator token")
        self.model, self.texts = model, [list(text) for text in texts]
        self.unread = self.texts  # what the cache has not seen
        longest = max(map(len, texts))
        self.cache = None
        if cache and hasattr(model, "new_cache"):
            fits = model.context is None or longest <= model.context
            alike = getattr(model, "sources", 1) == 1  # else the rows differ though their texts may not
            shared = common(texts) if fits and alike and len(texts) > 1 else 0
            self.cache = model.new_cache(1 if shared else len(texts), longest + room)
            if shared:
                logits_at(model, torch.tensor([self.texts[0][:shared]]), self.cache, (ALL, -1))
                self.cache.reorder(torch.zeros(len(texts), dtype=torch.long))
                self.unread = [text[shared:] for text in self.texts]

    def logits(self, guesses: Sequence[int] = ()) -> Float[Tensor, "B V"]:
        """The next-token logits of every text; with ``guesses``, of the only text and of it with 1, 2, ... of them."""
        context = self.model.context
        if context is not None and max(map(len, self.texts)) > context:
            self.cache = None
        if self.cache is None:
            window = max(context, 1) if context is not None else 0  # a unigram model still gets one id; -0 is all
            self.unread = [text[-window:] for text in self.texts]
        if guesses:
            self.unread = [self.unread[0] + list(guesses)]
        lengths = [len(ids) for ids in self.unread]
        longest = max(lengths)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in self.unread])  # padded on the right
        if min(lengths) == longest:
            return logits_at(self.model, ids, self.cache, (0, slice(-1 - len(guesses), None)) if guesses else (ALL, -1))
        logits = logits_at(self.model, ids, self.cache, (torch.arange(len(ids)), torch.tensor(lengths) - 1))
        if self.cache is not None:
            self.cache.keep(self.cache.lengths - longest + torch.tensor(lengths))
        return logits

    def append(self, tokens: Sequence[int]) -> None:
        """One more token for every text."""
        self.unread = [[token] for token in tokens]
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def fitting(self, guesses: Sequence[int]) -> list[int]:
        """As many of the guesses as the model can read after the only text."""
        context = self.model.context
        return list(guesses if context is None else guesses[: max(context - len(self.texts[0]), 0)])

    def rewind(self) -> None:
        """Forget the guesses that were read and not appended."""
        if self.cache is not None:
            self.cache.keep(torch.tensor([len(self.texts[0]) - 1]))

    def resume(self, text: Sequence[int]) -> None:
        """Another text in place of the only one: what both begin with is not read again."""
        same = common([self.texts[0], text])
        self.texts, self.unread = [list(text)], [list(text[same:])]
        self.cache.keep(torch.tensor([same]))

    def select(self, rows: Sequence[int]) -> None:
        """Text b becomes a copy of text ``rows[b]``; there may be fewer rows than before, or more."""
        self.texts = [self.texts[row].copy() for row in rows]
        if self.cache is not None:
            self.cache.reorder(torch.tensor(rows, dtype=torch.long))


ALL = slice(None)


def logits_at(model: LanguageModel, ids: Int[Tensor, "B T"], cache: Any, at: tuple) -> Float[Tensor, "N V"]:
    """``model(ids, cache)[at]``: the logits at some places of a text.

    Where a prompt is read, a model with an output layer apart asks it nowhere else. That saves a part of the time, and
    for a long prompt and a large vocabulary more memory than the model takes.
    """
    how = (ids,) if cache is None else (ids, cache)
    if ids.shape[1] > 1 and hasattr(model, "before_head"):
        return model.head(model.before_head(*how)[at])
    return model(*how)[at]


def common(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with; at least one id of each is left over.

    >>> common([[5, 6, 7], [5, 6, 8, 9]]), common([[5, 6], [5, 6]])
    (2, 1)
    """
    most = min(map(len, rows)) - 1
    return next((place for place in range(most) if len({row[place] for row in rows}) > 1), max(most, 0))


def _check(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: use 0 for the likeliest token, or a positive number")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: keep at least 1 token, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: a share of the probability lies in (0, 1]")
    if min_p is not None and not 0 < min_p <= 1:
        raise ValueError(f"min_p={min_p}: a share of the largest probability lies in (0, 1]")
