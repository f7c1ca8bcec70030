"""What a recipe will cost, before it is started: parameters, operations, memory, time.

Operations are counted from the formula of the model; the time is that count over the rate of one matrix product of the
recipe's own size, measured here and now. Both are compared in the tests with what PyTorch counts.

References: Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B (6 N D, and what attention adds).
"""

import time
from dataclasses import dataclass, replace

import torch

from . import distributed
from .machine import threads
from .recipe import Recipe, build
from .transformer import Config, flops

OVERHEAD = 2.0
"""A step takes about so many times what its matrix products alone would; measured on the presets for two cores."""

UNITS = (("s", 1), ("min", 60), ("h", 3600), ("days", 86_400), ("years", 31_557_600))


@dataclass(frozen=True)
class Cost:
    """An estimate; ``str`` of it is the sentence that a reader sees before a run."""

    recipe: Recipe
    parameters: int
    tokens: int
    """tokens that will be read, all steps together"""
    flops: float
    """floating-point operations, all steps together"""
    memory: float
    """bytes at the same time, in one process"""
    seconds: float
    """on this machine, evaluations excluded"""

    def __str__(self) -> str:
        unit, size = next((unit, size) for unit, size in reversed(UNITS) if self.seconds >= size or unit == "s")
        return (
            f"{self.recipe.name}: {readable(self.parameters)} parameters, {readable(self.tokens)} tokens, "
            f"{self.flops:.1e} floating-point operations, about {self.memory / 1e9:.2g} GB of memory, "
            f"about {self.seconds / size:.2g} {unit} here (a recipe for {self.recipe.machine})"
        )


def estimate(recipe: Recipe, vocab_size: int) -> Cost:
    """The `Cost` of a recipe; measures this machine for a fraction of a second."""
    with torch.device("meta"):  # shapes without memory
        parameters = sum(p.numel() for p in build(recipe, vocab_size).parameters())
    world, c = distributed.here(), recipe.train
    tokens = c.steps * c.batch_size * recipe.context
    operations = 3.0 * tokens * forward_flops(recipe, vocab_size)  # the backward pass costs two forward passes
    at_once = c.batch_size * recipe.context // (c.accumulate * world.size) or 1
    memory = 16.0 * parameters / (world.size if c.shard else 1) + 4 * at_once * activations(recipe, vocab_size)
    seconds = OVERHEAD * operations / world.size / rate(recipe, at_once)
    return Cost(recipe, parameters, tokens, operations, memory, seconds)


def forward_flops(recipe: Recipe, vocab_size: int) -> int:
    """Operations per token of one forward pass: two for every weight that multiplies, and those of attention."""
    m, T = recipe.model, recipe.context
    if isinstance(m, Config):
        return sum(flops(replace(m, vocab_size=vocab_size), T).values()) // T
    with torch.device("meta"):
        model = build(recipe, vocab_size)
    return 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1)


def activations(recipe: Recipe, vocab_size: int) -> int:
    """Numbers per token that the backward pass needs again, roughly; the logits are there three times."""
    m = recipe.model
    inner = (m.d_ff or 4 * m.d_model) if isinstance(m, Config) else 0
    return m.n_layers * (8 * m.d_model + 2 * inner) + 3 * vocab_size


def rate(recipe: Recipe, rows: int, seconds: float = 0.2) -> float:
    """Operations per second of the product (rows, D) times (D, 4 D), as this machine does it at the moment."""
    device, width = distributed.here().device, recipe.model.d_model
    with threads(distributed.here().local_size):
        x, weight = torch.ones(min(rows, 4096), width, device=device), torch.ones(width, 4 * width, device=device)
        done, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            y = x @ weight
            done += 1
        y[0, 0].item()  # waits for a GPU
    return done * 2 * x.numel() * 4 * width / passed


def readable(count: int | float) -> str:
    """A count in three figures.

    >>> readable(1_234_567), readable(7e9), readable(12)
    ('1.23 million', '7 billion', '12')
    """
    for name, size in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"
