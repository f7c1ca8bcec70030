"""A recipe: everything that decides a trained model but the text and the seed; and the one way to follow it.

Not here: the book's recipes (``minilm.presets``) and what they cost (``minilm.cost``).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from . import distributed
from . import tokenizer as tokenizers
from .batching import derived_seed, sample
from .gpt import GPT
from .rnn import RNNLM, RNNConfig
from .tokenizer import Tokenizer
from .train import Record, TrainConfig, train, validation
from .transformer import Config


@dataclass(frozen=True)
class Recipe:
    """A model's shape, its tokens and its training; what is left open is the text and the seed."""

    name: str
    model: Config | RNNConfig
    train: TrainConfig
    tokenizer: str = "characters"  # or "words", "bpe"
    vocab_size: int | None = None  # tokens to train; None for characters, which are counted
    window: int | None = None  # tokens in a training row; None: the model's context
    machine: str = "two cores"  # what it is meant for

    def __post_init__(self):
        if self.window is None and not isinstance(self.model, Config):
            raise ValueError("window=None: a recurrent model has no context; give the tokens of a training row")

    @property
    def context(self) -> int:
        """Tokens that a row of a batch feeds to the model."""
        return self.window or self.model.context


class Trained(NamedTuple):
    """What `trained` and `run` give: a model in evaluation mode, its tokenizer, and the log of its training."""

    model: nn.Module
    tokenizer: Tokenizer
    log: list[Record]


def run(
    recipe: Recipe,
    text: str,
    held_out: str,
    out: str | Path | None = None,
    progress: bool = True,
    watch: Callable[[Record], None] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Trained:
    """Train a recipe on ``text``, measured on ``held_out``; with a folder ``out``, as `minilm.train.train` keeps it.

    ``tokenizer`` is the recipe's, where it has been made of the text already.
    """
    units = tokenizer or make_tokenizer(recipe, text, held_out)
    ids = torch.tensor(units.encode(text))
    stream = sample(ids, recipe.context, recipe.train.batch_size, recipe.train.seed)
    model = build(recipe, units.vocab_size).to(distributed.here().device)
    log = train(
        model,
        stream,
        recipe.train,
        validation(held_out, units, recipe.context),
        out,
        progress,
        watch,
        tokenizer=units,
        data=checksum(text, held_out, recipe.tokenizer, str(recipe.context)),
    )
    return Trained(model.eval(), units, log)


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed."""
    return replace(recipe, train=replace(recipe.train, seed=seed))


def make_tokenizer(recipe: Recipe, text: str, held_out: str = "") -> Tokenizer:
    """The recipe's tokenizer, trained on ``text``.

    The list of characters is taken from ``held_out`` as well: a character that only stands there could not be scored.
    """
    return train_tokenizer(recipe.tokenizer, text + held_out * (recipe.tokenizer == "characters"), recipe.vocab_size)


def train_tokenizer(kind: str, text: str, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer of the named kind, made from ``text``; characters bring their own vocabulary size."""
    if kind == "characters":
        return tokenizers.Characters.train(text)
    if vocab_size is None:
        raise ValueError(f"vocab_size is missing: a tokenizer of {kind} needs it, for instance 1024")
    return {"words": tokenizers.Words, "bpe": tokenizers.BPE}[kind].train(text, vocab_size)


def build(recipe: Recipe, vocab_size: int) -> nn.Module:
    """The recipe's model with its initial weights, which its seed decides."""
    config = replace(recipe.model, vocab_size=vocab_size)
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(recipe.train.seed, "weights"))
        return GPT(config) if isinstance(config, Config) else RNNLM(config)


def checksum(*parts: str) -> str:
    """A checksum of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
