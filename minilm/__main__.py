"""The command line: ``python -m minilm data | train | evaluate | generate``.

One JSON object on standard output, for programs; progress and errors on standard error, for people. Exit code 0 says
that the object is complete, 1 that the work could not be done, 2 that the command line was not understood.
The flags of a command are the fields of its dataclass.
"""

import argparse
import dataclasses
import json
import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import data, evaluate, generate, ngram, tokenizer


def flag(help: str, *, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field with the words that ``--help`` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help, **options})


@dataclass(frozen=True)
class Data:
    """list, fetch, verify, or find the corpora and models of the book"""

    action: str = flag("what to do", choices=["list", "fetch", "verify", "path", "card"], positional=True)
    names: list[str] = flag("names; none means all, and of what to fetch, all corpora", positional=True, nargs="*")

    def run(self) -> dict:
        """Do ``action`` to each named archive, and tell what is so afterwards."""
        everything = [name for name, card in data.CARDS.items() if self.action != "fetch" or card.kind == "corpus"]
        return {name: self._one(name) for name in self.names or everything}

    def _one(self, name: str) -> Any:
        card = data.card(name)
        if self.action == "card":
            return dataclasses.asdict(card)
        if self.action == "path":
            return str(data.path(name))
        if self.action == "fetch":
            return str(data.fetch(name))
        if self.action == "verify":
            return data.verify(name)
        return {"title": card.title, "licence": card.licence, "fetched": data.path(name).exists()}


@dataclass(frozen=True)
class Train:
    """train a model on a text: the first nine tenths train it, the last tenth scores it"""

    model: str = flag("kind of model", choices=["ngram"])
    text: Path = flag("a UTF-8 text file, or a folder of them")
    out: Path = flag("folder to write; it must not hold a model yet")
    method: str = flag("smoothing", default="ModifiedKneserNey", choices=list(ngram.METHODS))
    order: int = flag("n of the n-gram", default=5)
    tokenizer: str = flag("unit of text", default="bpe", choices=["characters", "words", "bpe"])
    vocab_size: int = flag("size of the vocabulary (characters: ignored)", default=1024)

    def run(self) -> dict:
        """Train, save and score; the object holds the score on the last tenth."""
        if self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(
                f"--out {self.out}: the folder is not empty; choose a new one, nothing is overwritten"
            )
        train, held_out = data.split_text(data.read_text(self.text), (0.9, 0.1))
        say(f"tokenizer: {self.tokenizer} on {len(train):,} characters")
        units = train_tokenizer(self.tokenizer, train, self.vocab_size)
        ids = torch.tensor(units.encode(train))
        say(f"{self.method}, order {self.order}, on {len(ids):,} tokens")
        model = ngram.METHODS[self.method](ngram.count(ids, self.order, units.vocab_size))
        units.save(self.out / "tokenizer.json")
        model.save(self.out)
        return {"out": str(self.out), "train_tokens": len(ids), **report(model, units, held_out)}


@dataclass(frozen=True)
class Evaluate:
    """score a saved model on a text: perplexity, bits per byte and its 95 % interval"""

    model: Path = flag("a folder that `train` wrote", positional=True)
    text: Path = flag("a UTF-8 text file, or a folder of them")

    def run(self) -> dict:
        """The score of the whole text."""
        return {"model": str(self.model), **report(*load(self.model), data.read_text(self.text))}


@dataclass(frozen=True)
class Generate:
    """continue a prompt with a saved model"""

    model: Path = flag("a folder that `train` wrote", positional=True)
    prompt: str = flag("the text to continue")
    max_new_tokens: int = flag("length of the continuation", default=100)
    temperature: float = flag("0 takes the likeliest token; 1 is the model's own distribution", default=1.0)
    top_k: int | None = flag("draw from the k likeliest tokens only", default=None)
    top_p: float | None = flag("draw from the likeliest tokens that hold this share", default=None)
    seed: int = flag("the same seed gives the same text", default=0)

    def run(self) -> dict:
        """Prompt and continuation as text, and the new ids."""
        model, units = load(self.model)
        options = {k: getattr(self, k) for k in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")}
        prompt = units.encode(self.prompt)
        ids = generate.generate(model, prompt, **options)
        return {"text": units.decode(prompt + ids), "ids": ids}


def train_tokenizer(kind: str, text: str, vocab_size: int) -> tokenizer.Tokenizer:
    """A tokenizer of the named kind, made from ``text``."""
    if kind == "characters":
        return tokenizer.Characters.train(text)
    return {"words": tokenizer.Words, "bpe": tokenizer.BPE}[kind].train(text, vocab_size)


def load(folder: Path) -> tuple[ngram.NGram, tokenizer.Tokenizer]:
    """The model and the tokenizer that `Train` saved in ``folder``."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder}: no config.json there; name a folder that `python -m minilm train` wrote")
    return ngram.load(folder), tokenizer.load(folder / "tokenizer.json")


def report(model: ngram.NGram, units: tokenizer.Tokenizer, text: str) -> dict:
    """A `minilm.evaluate.Score` as plain numbers."""
    score = evaluate.score(model, units, text)
    return {
        "tokens": score.tokens,
        "bytes": int(score.bytes.sum()),
        "nats_per_token": float(score.nats.sum() / score.tokens),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "bits_per_byte_95": None if math.isnan(score.interval[0]) else list(score.interval),
    }


def say(message: str) -> None:
    """One line of progress."""
    print(message, file=sys.stderr, flush=True)


COMMANDS: dict[str, type] = {"data": Data, "train": Train, "evaluate": Evaluate, "generate": Generate}


def parser() -> argparse.ArgumentParser:
    """The command line, read off the dataclasses: a field without a default is required."""
    top = argparse.ArgumentParser("python -m minilm", description="Language models, from counting to a real LLM.")
    commands = top.add_subparsers(dest="command", required=True)
    for name, cls in COMMANDS.items():
        one = commands.add_parser(name, help=cls.__doc__, description=cls.__doc__)
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            add_flag(one, field, hints[field.name])
    return top


def add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any) -> None:
    """One field as one flag; ``X | None`` and ``list[X]`` are read as X."""
    options = dict(field.metadata)
    kind: Callable = next((t for t in typing.get_args(hint) if t is not type(None)), hint)
    if options.pop("positional", False):
        parser.add_argument(field.name, type=kind, **options)
    else:
        required = field.default is dataclasses.MISSING
        default = {} if required else {"default": field.default}
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, required=required, **default, **options)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code says how it went."""
    given = vars(parser().parse_args(arguments))
    command = COMMANDS[given.pop("command")](**given)
    try:
        print(json.dumps(command.run(), ensure_ascii=False, allow_nan=False))
    except (data.DataError, ValueError, OSError) as error:
        say(f"minilm: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
