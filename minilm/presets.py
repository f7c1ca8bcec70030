"""The book's recipes by name, and the models that they make, each trained once and kept.

The chapters get their models from `trained`; the command line follows the same recipes on a reader's own text.

Not here: how a recipe is followed (``minilm.recipe``), and what it costs (``minilm.cost``).
References: Karpathy's nanoGPT (reference, gpt2); Radford et al. 2019 (gpt2); Touvron et al. 2023 (7b).
"""

import ast
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from . import checkpoint, data
from .batching import Stream
from .recipe import Recipe, Trained, build, checksum, make_tokenizer, run, with_seed
from .rnn import RNNConfig
from .train import Record, TrainConfig, train
from .transformer import Config

__all__ = [
    "PRESETS", "Recipe", "Trained", "build", "fit", "make_tokenizer", "preset", "recorded", "run", "small_text",
    "texts", "trained", "with_seed",
]  # fmt: skip

V = 1
"""Stands for the vocabulary size, which the tokenizer will fill in."""

SMALL = 1_115_394
"""Characters of `small_text`: as many as the text has that other recipes of this kind are measured on."""

DECISIVE = (
    "contract batching bpe vocabulary tokenizer rnn layers attention transformer gpt optim trainer recipe".split()
)
DECISIVE += ["trainer", "recipe"]
"""The modules on which a trained model depends."""

RUNS = Path(__file__).parents[1] / "book" / "runs"
"""Where the records of long runs lie."""

MODERN = {"norm": "rms", "activation": "relu2", "positions": "rotary", "bias": False, "qk_norm": True}

QUICK = {"activation": "relu2", "positions": "rotary", "conv": 3, "bias": False, "tied": False}
"""What trains fastest on a processor; LayerNorm stays, as PyTorch has a fused kernel for it there, not for RMSNorm."""

PRESETS = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "reference",
            Config(V, context=64, d_model=128, n_layers=4, n_heads=4, bias=False),
            TrainConfig(steps=2000, batch_size=12, learning_rate=1e-3, warmup=100),
        ),
        Recipe(
            "fast",
            Config(V, context=64, d_model=128, n_layers=3, n_heads=4, **QUICK),
            TrainConfig(260, 12, learning_rate=0.018, schedule="linear", final=0.0, optimizer="muon", eval_every=10),
        ),
        Recipe(
            "long",
            Config(V, context=256, d_model=192, n_layers=5, n_heads=3, **{**QUICK, "activation": "gelu"}),
            TrainConfig(1200, 12, 0.012, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=100),
        ),
        Recipe(
            "gpt",
            Config(V, context=128, d_model=128, n_layers=3, n_heads=4, **QUICK),
            TrainConfig(1700, 8, 0.02, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=425),
            tokenizer="bpe",
            vocab_size=1024,
        ),
        Recipe(
            "gpt2-mini",
            Config(V, context=256, d_model=128, n_layers=4, n_heads=4),
            TrainConfig(700, 6, 0.012, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=175),
            tokenizer="bpe",
            vocab_size=1024,
        ),
        Recipe(
            "lstm",
            RNNConfig(V, d_model=256, n_layers=1, cell="lstm"),
            TrainConfig(1000, 16, 0.006, warmup=10, schedule="linear", final=0.0, eval_every=334),
            tokenizer="bpe",
            vocab_size=1024,
            window=64,
        ),
        Recipe(
            "gpt2",
            Config(V, context=1024, d_model=768, n_layers=12, n_heads=12, bias=False),
            TrainConfig(
                600_000, 480, 6e-4, warmup=2000, betas=(0.9, 0.95), accumulate=40, eval_every=2000, dtype="auto",
                compile=True,
            ),
            tokenizer="bpe",
            vocab_size=50_257,
            machine="one GPU",
        ),
        Recipe(
            "7b",
            Config(V, context=4096, d_model=4096, n_layers=32, n_heads=32, d_ff=16_384, tied=False, **MODERN),
            TrainConfig(
                500_000, 1024, 3e-4, warmup=2000, betas=(0.9, 0.95), accumulate=4, eval_every=2000, dtype="auto",
                compile=True, shard=True,
            ),
            tokenizer="bpe",
            vocab_size=32_000,
            machine="a cluster of 256 GPUs",
        ),
    )
}  # fmt: skip


def preset(name: str) -> Recipe:
    """The preset of that name; ValueError lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def trained(
    recipe: str | Recipe,
    corpus: str = "shakespeare",
    seed: int = 0,
    progress: bool = True,
    watch: Callable[[Record], None] | None = None,
) -> Trained:
    """The model that a recipe makes of a corpus, trained at the first call and read from the cache afterwards.

    ``corpus`` is a name for `minilm.data.load`, whose training and validation texts are taken, or "small" for
    `small_text`. A call that was interrupted goes on where it was. The cache knows a model by all that decides it:
    recipe, seed, texts, and the code of this package (comments and docstrings aside).
    """
    chosen = with_seed(recipe if isinstance(recipe, Recipe) else preset(recipe), seed)
    text, held_out = texts(corpus)
    key = hashlib.sha256(json.dumps([asdict(chosen), checksum(text, held_out), code()]).encode()).hexdigest()[:16]
    folder = data.home() / "models" / f"{chosen.name}-{corpus}-{seed}-{key}"
    if progress and not (folder / "checkpoint.safetensors").exists():
        print(f"training {chosen.name} on {corpus}, seed {seed}; kept for later calls", file=sys.stderr, flush=True)
    with suppress(OSError, ValueError):
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        if log[-1]["step"] == chosen.train.steps:
            return Trained(*checkpoint.load(folder), log)
    made = run(chosen, text, held_out, folder, progress, watch)
    return made._replace(model=made.model.cpu())  # as it is read from the cache, wherever it was trained


def fit(
    model: nn.Module, stream: Stream, config: TrainConfig, name: str, *modules: ModuleType, progress: bool = True
) -> list[Record]:
    """Train any model in place, or fill it from the cache where the same has been trained before; return the log.

    For models that follow no recipe. The cache knows one by its weights at the start, by which of them are trained,
    the first batch, ``config``, and the code of this package and of ``modules``, where those decide it too.
    """
    weights = hashlib.sha256(repr((model, getattr(model, "config", None))).encode())
    for part, tensor in checkpoint.tensors(model):
        weights.update(f"{part} {tensor.requires_grad}".encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    sources = [Path(module.__file__).read_text(encoding="utf-8") for module in modules]
    parts = [code(), sources, weights.hexdigest(), repr(config), checkpoint.digest(stream(0))]
    folder = data.home() / "models" / f"{name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
    if progress and not folder.exists():
        print(f"training {name}; kept for later calls", file=sys.stderr, flush=True)
    log = train(model, stream, config, out=folder, progress=progress)
    model.eval()
    return log


def recorded(name: str) -> dict[str, Any]:
    """What a run too long for a notebook measured: its ``command``, ``machine``, ``date`` and ``rows``.

    The records lie in book/runs, beside the package in a clone; book/_tools/record.py makes them.
    Raises ValueError for a name without a record.

    >>> recorded("ablation")["command"]
    'python book/_tools/record.py ablation'
    """
    path = RUNS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in RUNS.glob("*.json"))) or f"none in {RUNS}"
        raise ValueError(f"there is no record {name!r}: the records are {there}")
    return json.loads(path.read_text(encoding="utf-8"))


def texts(corpus: str) -> tuple[str, str]:
    """What to train on, and what to measure on while training; the test text of a corpus is not touched."""
    if corpus == "small":
        return data.split_text(small_text(), (0.9, 0.1))
    whole = data.load(corpus)
    return whole.text("train"), whole.text("validation")


def small_text() -> str:
    """The beginning of the Shakespeare corpus' training text, of the size that small recipes are compared on."""
    return data.load("shakespeare").text("train")[:SMALL]


@lru_cache
def code() -> str:
    """A checksum of the modules that decide a trained model, without their comments and docstrings."""
    trees = [ast.parse(Path(__file__).with_name(f"{name}.py").read_bytes()) for name in DECISIVE]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(getattr(node, "body", None), list):
            node.body = [part for part in node.body if not (isinstance(part, ast.Expr) and is_text(part.value))]
    return checksum(*map(ast.dump, trees))


def is_text(node: ast.expr) -> bool:
    """Whether a piece of code is just a string, which as a statement is a docstring."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
