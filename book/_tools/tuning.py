"""The long runs behind chapters 10 and 13: what pretraining is worth, what tuning SmolLM2 costs, with LoRA and in full.

Called by ``record.py``, which says how each is started.
"""

import random
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context

import torch
from torch import nn

from minilm import bert, chat, data, evaluate, llama, lora, tasks
from minilm.batching import derived_seed
from minilm.contract import loss
from minilm.finetune import Example, draws, examples, turn
from minilm.generate import generate_batch
from minilm.heads import Classifier, frozen, trainable
from minilm.machine import threads
from minilm.train import TrainConfig, train

# What pretraining is worth, by the number of labels

PASSES = {50: 6, 200: 3, 800: 1}
"""How often each number of labels is read."""

RATES = {"full": 1e-4, "lora": 1e-3, "frozen": 1e-2}
"""Learning rates: what is trained says how far it may move."""


def labels() -> Iterator[dict]:
    """MiniLM on Rotten Tomatoes: from its weights and from random ones; then LoRA, and the head alone."""
    for n, start in product(PASSES, ("pretrained", "random")):
        yield classify(start, "full", n, 0)
    for seed, how in product(range(2), ("lora", "frozen")):
        yield classify("pretrained", how, 800, seed)
    for n in PASSES:
        yield classify("pretrained", "full", n, 1)


def classify(start: str, how: str, n: int, seed: int) -> dict:
    """Fine-tune on the first n of the shuffled labels; measured on all 800 texts for validation."""
    corpus = data.load_labelled("rotten-tomatoes")
    texts = random.Random(seed).sample(corpus.train, n)
    model, units = classifier(start, how, seed)
    steps = PASSES[n] * n // 16
    config = TrainConfig(
        steps, 16, RATES[how], 0.01, warmup=steps // 10, schedule="linear", final=0.0, betas=(0.9, 0.999),
        seed=seed, eval_every=steps,
    )  # fmt: skip
    log = train(
        model, bert.labelled(units, texts, 16, length=32, seed=seed), config,
        partial(measure, units=units, texts=corpus.validation), progress=False,
    )  # fmt: skip
    row = {"start": start, "how": how, "labels": n, "seed": seed, "passes": PASSES[n], "trainable": trainable(model)}
    print(row, log[-1], file=sys.stderr, flush=True)
    return row | {"log": log}


def classifier(start: str, how: str, seed: int) -> tuple[Classifier, bert.WordPiece]:
    """MiniLM with a head for two classes; only what ``how`` names can be trained."""
    encoder, units = bert.load("all-minilm")
    torch.manual_seed(derived_seed(seed, start))
    if start == "random":
        encoder = bert.BERT(encoder.config)
    if how == "frozen":
        frozen(encoder)
    if how == "lora":
        lora.wrap(encoder, rank=8, alpha=16, names=("qkv", "out", "inner", "outer"))
    return Classifier(encoder, 2), units


@torch.no_grad()
def measure(model: nn.Module, units: bert.WordPiece, texts: list[tuple[str, int]]) -> dict:
    """Accuracy and loss on labelled texts."""
    logits, classes = torch.zeros(len(texts), 2), torch.tensor([label for _, label in texts])
    with threads():
        for places, ids, mask in bert.by_length(units, [text for text, _ in texts], length=48):
            logits[places] = model(ids, mask)
    right = (logits.argmax(1) == classes).double().mean()
    return {"accuracy": float(right), "val_loss": float(loss(logits, classes))}


# Instruction tuning of SmolLM2: LoRA and full

SYSTEM = "Write the date as YYYY-MM-DD."
KEPT_BYTES = 8_000
"""Bytes of each text on which forgetting is measured."""


def smollm2() -> Iterator[dict]:
    """Dates to ISO form, learned from English: LoRA and full, each in its own process, which then has its own peak."""
    right, scores = apart(state)
    yield {"how": "before", "right": right, "change": {}}
    for seed, (how, rate) in product(range(2), (("LoRA", 1e-3), ("full", 1e-4))):
        yield apart(instruct, how, rate, seed, scores)


def apart(function, *arguments):
    """What a function returns that runs in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def state(model: nn.Module | None = None) -> tuple[dict[str, int], dict[str, evaluate.Score]]:
    """Dates and capitals that a model gets right, and what it pays for two texts that have nothing to do with them."""
    torch.set_num_threads(1)
    published, tokenizer = llama.load("smollm2")
    model = model or published
    right = {name: exact(model, tokenizer, pairs) for name, pairs in held_out_dates().items()}
    right["capitals"] = capitals(model, tokenizer)
    texts = {name: data.load(name).text("validation")[:KEPT_BYTES] for name in ("wikipedia", "shakespeare")}
    return right, {name: evaluate.score(model, tokenizer, text, 256) for name, text in texts.items()}


def instruct(how: str, rate: float, seed: int, before: dict[str, evaluate.Score], steps: int = 16) -> dict:
    """Tune on English dates: cost, and what it did to the `state`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, tokenizer = llama.load("smollm2")
    if how == "LoRA":
        lora.wrap(model, rank=8, alpha=16, names=("qkv", "out", "inner", "outer"))
    items = [as_turn(tokenizer, pair) for pair in tasks.load("date")["train"] if pair.template.startswith("en")]
    config = TrainConfig(steps, 8, rate, 0.0, warmup=2, schedule="linear", final=0.0, seed=seed, eval_every=steps)
    log = train(model, draws(items, examples, 8, seed), config, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    right, after = state(model.eval())
    change = {name: after[name].minus(before[name]) for name in before}
    row = {"how": how, "seed": seed, "trainable": trainable(model), "peak_mb": peak, "right": right, "change": change}
    print(row, log, file=sys.stderr, flush=True)
    return {**row, "seconds": log[-1]["seconds"], "loss": log[-1]["train_loss"]}


def as_turn(tokenizer: llama.BPE, pair: tasks.Pair) -> Example:
    """A date and its ISO form as a request and its answer."""
    return turn(tokenizer, pair.source.removeprefix(tasks.PREFIXES["date"]), pair.target, SYSTEM)


def held_out_dates() -> dict[str, list[tasks.Pair]]:
    """Forty dates each of the validation split: in English, and in five languages that are not trained on."""
    pairs = tasks.load("date")["validation"]
    english = [pair for pair in pairs if pair.template.startswith("en")]
    others = [pair for pair in pairs if pair.template[:2] in ("de", "es", "fr", "it", "nl")]
    return {"English": english[:40], "other languages": others[:40]}


def exact(model: nn.Module, tokenizer: llama.BPE, pairs: list[tasks.Pair]) -> int:
    """How many dates are right to the letter."""
    written = answers(model, tokenizer, [as_turn(tokenizer, pair).prompt for pair in pairs])
    return sum(answer == pair.target for answer, pair in zip(written, pairs, strict=True))


def capitals(model: nn.Module, tokenizer: llama.BPE) -> int:
    """How many of forty capitals are named, in the plain chat template."""
    pairs = tasks.load("capital")["train"][:40]
    prompts = [turn(tokenizer, pair.source.removeprefix(tasks.PREFIXES["capital"]), "").prompt for pair in pairs]
    return sum(pair.target in answer for answer, pair in zip(answers(model, tokenizer, prompts), pairs, strict=True))


def answers(model: nn.Module, tokenizer: llama.BPE, prompts: list[list[int]]) -> list[str]:
    """The likeliest short answers."""
    rows = generate_batch(model, prompts, 14, stop={tokenizer.specials[chat.END]}, temperature=0.0)
    return [tokenizer.decode(row) for row in rows]
