"""What a pretrained model is shown so that it learns to answer: prompts, each with the answer that should follow.

An `Example` is a prompt and an answer, both as ids. The model reads both and is scored on the answer alone: the prompt
is given at use, so nothing is gained by learning to write it.

Not here: texts with classes (``minilm.bert.labelled``), heads (``minilm.heads``), which weights are trained
(``minilm.lora``), and answers of which one is only better than another (``minilm.preference``).
References: Radford et al. 2018 (pretraining, then fine-tuning); Ouyang et al. 2022; Wei et al. 2022 (instructions).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch

from . import chat
from .batching import Stream, derived_seed, pad
from .contract import IGNORE, Batch, next_token
from .tokenizer import Tokenizer

Item = TypeVar("Item")


class Example(NamedTuple):
    """A prompt, and the answer that should follow it."""

    prompt: list[int]
    answer: list[int]


def examples(items: Sequence[Example], pad_id: int = 0) -> Batch:
    """A next-token batch of prompts and answers whose targets are the answers alone.

    The last token of a prompt has a target, the first of the answer. Raises ValueError for an empty prompt or answer.

    >>> batch = examples([Example([5, 6], [7, 8]), Example([5], [9])])
    >>> batch.inputs[0].tolist()
    [[5, 6, 7], [5, 9, 0]]
    >>> batch.targets.tolist()
    [[-100, 7, 8], [9, -100, -100]]
    """
    for row, item in enumerate(items):
        if not item.prompt or not item.answer:
            raise ValueError(f"items[{row}]: prompt and answer need at least one token each")
    whole = pad([item.prompt + item.answer for item in items], pad_id)
    answers = pad([[IGNORE] * len(item.prompt) + item.answer for item in items], IGNORE)
    return Batch(next_token(whole).inputs, next_token(answers).targets)


def turn(tokenizer: Tokenizer, request: str, answer: str, system: str | None = None) -> Example:
    """A request and its answer in the chat template; the mark that ends the turn is part of what is learned.

    Both are encoded apart, since at use the model goes on from a prompt that ends where the request does: encoded in
    one piece, a token could reach over the border.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    prompt = chat.encode(tokenizer, [*messages, {"role": "user", "content": request}])
    return Example(prompt, [*tokenizer.encode(answer), tokenizer.specials[chat.END]])


def draws(items: Sequence[Item], collate: Callable[[list[Item]], Batch], batch_size: int, seed: int = 0) -> Stream:
    """A `Stream` of what ``collate`` makes of ``batch_size`` items: each once in a pass, every pass in another order.

    A batch may hold the end of one pass and the beginning of the next, so all batches are of one size.
    Raises ValueError for no items, or a batch size below 1.

    >>> stream = draws([Example([i], [9]) for i in range(4)], examples, batch_size=2)
    >>> sorted(int(i) for step in (0, 1) for i in stream(step).inputs[0])
    [0, 1, 2, 3]
    """
    if not items or batch_size < 1:
        raise ValueError(f"{len(items)} items in batches of {batch_size}: both must be 1 or more")

    @lru_cache(maxsize=2)
    def order(one_pass: int) -> list[int]:
        generator = torch.Generator().manual_seed(derived_seed(seed, one_pass))
        return torch.randperm(len(items), generator=generator).tolist()

    def batch(step: int) -> Batch:
        places = (divmod(place, len(items)) for place in range(step * batch_size, (step + 1) * batch_size))
        return collate([items[order(one_pass)[i]] for one_pass, i in places])

    return batch
