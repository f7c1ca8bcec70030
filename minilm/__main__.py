"""The command line: ``python -m minilm data | train | evaluate | generate | serve``.

One JSON object on standard output, for programs; progress and errors on standard error, for people. Exit code 0 says
that the object is complete, 1 that the work could not be done, 2 that the command line was not understood, 130 that
Ctrl-C ended it.
The flags of a command are the fields of its dataclass (``minilm.flags``).
"""

import codecs
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import (
    chat,
    checkpoint,
    cost,
    data,
    distributed,
    evaluate,
    files,
    generate,
    machine,
    models,
    ngram,
    presets,
)
from .contract import LanguageModel
from .flags import flag, parser
from .gpt import GPT
from .quantise import quantise
from .recipe import train_tokenizer
from .tokenizer import Tokenizer
from .train import TrainConfig


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
    """train a model on a text: the first nine tenths train it, the last tenth scores it; a stopped run goes on"""

    preset: str = flag("kind of model and how it is trained", choices=["ngram", *presets.PRESETS])
    text: Path = flag("a UTF-8 text file, or a folder of them")
    out: Path = flag("folder to write; new, or holding this same run, which goes on (ngram: new)")
    tokenizer: str | None = flag("unit of text, not the preset's", default=None, choices=["characters", "words", "bpe"])
    vocab_size: int | None = flag("size of the vocabulary (characters: ignored)", default=None)
    method: str | None = flag("ngram: smoothing (ModifiedKneserNey)", default=None, choices=list(ngram.METHODS))
    order: int | None = flag("ngram: n (5)", default=None)
    overrides: dict = dataclasses.field(default_factory=dict, metadata={"flags_of": TrainConfig})

    def run(self) -> dict:
        """Train, save and score; the object holds the score on the last tenth."""
        train, held_out = data.split_text(data.read_text(self.text), (0.9, 0.1))
        result = self._count(train, held_out) if self.preset == "ngram" else self._train(train, held_out)
        if not distributed.here().first:
            return {}
        return {"out": str(self.out), **result, **report(*checkpoint.load(self.out), held_out)}

    def _train(self, train: str, held_out: str) -> dict:
        self._refuse(["method", "order"])
        recipe = presets.preset(self.preset)
        given = {k: getattr(self, k) for k in ("tokenizer", "vocab_size") if getattr(self, k) is not None}
        recipe = dataclasses.replace(recipe, **given, train=dataclasses.replace(recipe.train, **self.overrides))
        say(f"tokenizer: {recipe.tokenizer} on {len(train):,} characters")
        units = presets.make_tokenizer(recipe, train, held_out)
        self._scored(units, held_out)
        say(str(cost.estimate(recipe, units.vocab_size)))
        log = presets.run(recipe, train, held_out, self.out, tokenizer=units).log
        return {name: log[-1][name] for name in ("step", "seconds")} | {"train_tokens": log[-1]["tokens"]}

    def _count(self, train: str, held_out: str) -> dict:
        self._refuse(list(self.overrides))
        if self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(
                f"--out {self.out}: the folder is not empty; choose a new one, nothing is overwritten"
            )
        kind, method = self.tokenizer or "bpe", self.method or "ModifiedKneserNey"
        order = 5 if self.order is None else self.order
        say(f"tokenizer: {kind} on {len(train):,} characters")
        units = train_tokenizer(kind, train, 1024 if self.vocab_size is None else self.vocab_size)
        self._scored(units, held_out)
        ids = torch.tensor(units.encode(train))
        say(f"{method}, order {order}, on {len(ids):,} tokens")
        model = ngram.METHODS[method](ngram.count(ids, order, units.vocab_size))
        units.save(self.out / "tokenizer.json")
        model.save(self.out)
        return {"train_tokens": len(ids)}

    def _scored(self, units: Tokenizer, held_out: str) -> None:
        if (n := len(units.encode(held_out[:1_000]))) < 2:  # its beginning tells, and all of it may take minutes
            raise ValueError(f"--text {self.text}: its last tenth is scored, and has {n} tokens; give a longer text")

    def _refuse(self, names: list[str]) -> None:
        wrong = [name for name in names if self.overrides.get(name, getattr(self, name, None)) is not None]
        if wrong:
            raise ValueError(f"--{wrong[0].replace('_', '-')} says nothing to --preset {self.preset}: leave it out")


@dataclass(frozen=True)
class Evaluate:
    """score a model on a text (perplexity, bits per byte), or let it do a task on a reader's own examples"""

    model: str = flag(
        "a folder that `train` wrote, a .gguf file, a preset, or the name of a model: smollm2; for a task also one of "
        "its own models, such as bag-of-words, or default",
        positional=True,
    )
    text: Path | None = flag("a UTF-8 text file, or a folder of them, to be scored", default=None)
    context: int | None = flag("tokens of a window (the model's context, at most 1024)", default=None)
    task: str | None = flag("what to do with the examples, such as sentiment", default=None)
    file: Path | None = flag("examples: .jsonl, .csv with a header, or .txt with one a line", default=None)
    out: Path | None = flag("where to write the answers, one JSON object a line", default=None)
    labels: str | None = flag("topics: what to choose from, as sports,politics,food", default=None)
    schema: Path | None = flag("extract: a file with the JSON schema of an object", default=None)
    folder: Path | None = flag("search, answer: a folder of .txt files in place of Wikipedia", default=None)
    k: int | None = flag("search: how many passages (10)", default=None)
    most: int | None = flag("summarise: how many words (80)", default=None)
    to: str | None = flag("translate: fr, zh, or ui for the strings of an interface (fr)", default=None)
    system: str | None = flag("chat: how the assistant is to behave", default=None)
    max_new_tokens: int | None = flag("continue, chat: length of what is written", default=None)
    temperature: float | None = flag("continue, chat: 0 takes the likeliest token (0)", default=None)
    seed: int | None = flag("continue, chat: the same seed gives the same text (0)", default=None)

    def run(self) -> dict:
        """The score of the whole text; or what the task's tool answers, and its marks where right answers are known."""
        if (self.text is None) == (self.task is None) or (self.task is None) != (self.file is None):
            raise ValueError("give either --text, to score it, or --task and --file, to do the task on the file")
        idle, other = ("context", "task") if self.task else ("out", "text")
        if getattr(self, idle) is not None:
            raise ValueError(f"--{idle} says nothing to --{other}: leave it out")
        if self.context is not None and self.context < 1:
            raise ValueError(f"--context {self.context}: a window holds 1 token or more")
        if self.task:
            return self._do()
        if self.options:
            raise ValueError(f"--{min(self.options).replace('_', '-')} says nothing to --text: leave it out")
        model, units = models.load(self.model)
        if self.context and isinstance(model, ngram.NGram):
            raise ValueError("--context says nothing to an n-gram model: leave it out")
        if self.context and model.context is not None and self.context > model.context:
            raise ValueError(f"--context {self.context}: the model reads at most {model.context} tokens")
        context = self.context or (model.context and min(model.context, 1024))
        return {"model": self.model, **report(model, units, data.read_text(self.text), context)}

    @property
    def options(self) -> dict[str, Any]:
        """What was said about the task."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own = ("model", "text", "context", "task", "file", "out")
        return {name: value for name, value in given.items() if name not in own and value is not None}

    def _do(self) -> dict:
        from . import applications  # only here, since it brings all methods of the book along

        if self.out and self.out.exists():
            raise FileExistsError(f"--out {self.out} is there already: choose a new file, nothing is overwritten")
        examples = applications.read(self.file)
        model = None if self.model == "default" else self.model
        result = applications.run(self.task, examples, model, **self.options)
        marks = {name: finite(one._asdict()) for name, one in result.pop("measures", {}).items()}
        if self.out:
            rows = zip(examples, result.pop("outputs"), strict=True)
            lines = [json.dumps({"example": one, "output": output}, ensure_ascii=False) for one, output in rows]
            files.write(self.out, "".join(f"{line}\n" for line in lines).encode())
            result["out"] = str(self.out)
        return result | ({"measures": marks} if marks else {})


@dataclass(frozen=True)
class Generate:
    """continue a prompt with a saved model, or let a model that has learnt to chat answer it"""

    model: str = flag(
        "a folder that `train` wrote, a .gguf file, a preset, or the name of a model: smollm2", positional=True
    )
    prompt: str = flag("the text to continue; with --chat, the message to answer")
    max_new_tokens: int = flag("length of the continuation", default=100)
    temperature: float = flag("0 takes the likeliest token; 1 is the model's own distribution", default=1.0)
    top_k: int | None = flag("draw from the k likeliest tokens only", default=None)
    top_p: float | None = flag("draw from the likeliest tokens that hold this share", default=None)
    seed: int = flag("the same seed gives the same text", default=0)
    greedy: bool = flag("always take the likeliest token; as --temperature 0", default=False)
    chat: bool = flag("the prompt is a message, and the text its answer", default=False)

    def run(self) -> dict:
        """The text (prompt and continuation, or the answer), the new ids, and how many there were a second."""
        model, units = models.load(self.model)
        options = {k: getattr(self, k) for k in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")}
        if self.greedy:
            options["temperature"] = 0.0
        message = [{"role": "user", "content": self.prompt}]
        prompt = chat.encode(units, message) if self.chat else units.encode(self.prompt)
        stop = {id for name, id in getattr(units, "specials", {}).items() if name == chat.END}
        with machine.threads():
            draft = guesser(model, options["temperature"])
            start = time.perf_counter()
            ids = generate.generate(model, prompt, stop=stop, draft=draft, **options)
            speed = len(ids) / (time.perf_counter() - start)
        text = units.decode(ids if self.chat else prompt + ids)
        return {"text": text, "ids": ids, "tokens_per_second": round(speed, 1)}


@dataclass(frozen=True)
class Serve:
    """show models at work in a browser on this computer: chat, complete, search, translate"""

    models: Sequence[str] = flag("language models to choose from, the first is the usual one: names as for `generate`",
                             default=("smollm2", "gpt"), nargs="+")  # fmt: skip
    folder: Path | None = flag("a folder of .txt files to search in, in place of Wikipedia", default=None)
    port: int = flag("where to listen; 0 is any free port", default=8000)
    host: str = flag("the address to listen on, one of this computer's own", default="127.0.0.1")

    def run(self) -> dict:
        """Serve until Ctrl-C."""
        from . import serve  # only here, since it brings a web server along

        return {"served": serve.run(self.models, self.port, self.host, self.folder)}


LARGE = 2**28
"""Bytes of weights, more than the caches of most processors hold: each token waits until memory has given them all."""


def guesser(model: LanguageModel, temperature: float) -> Callable[[Sequence[int]], list[int]]:
    """What guesses ahead (chapter 12): the text itself; for the likeliest text of a large model also its 4-bit copy.

    The kernels of the copy are fast where the processor multiplies bfloat16. Whoever guesses, the text is the same.
    """
    fast = temperature == 0 and machine.has_bfloat16(torch.device("cpu"))
    if fast and isinstance(model, GPT) and sum(weight.nbytes for weight in model.parameters()) > LARGE:
        return generate.Guesser(quantise(model, 4), first=generate.lookup)
    return generate.lookup


def finite(numbers: dict[str, int | float]) -> dict[str, int | float | None]:
    """Numbers as JSON has them: what is not known, or not finite, is null."""
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def report(model: LanguageModel, units: Tokenizer, text: str, context: int | None = None) -> dict:
    """A `minilm.evaluate.Score` as plain numbers."""
    score = evaluate.score(model, units, text, context)
    numbers = {
        "tokens": score.tokens,
        "bytes": int(score.bytes.sum()),
        "nats_per_token": float(score.nats.sum() / score.tokens),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }
    known = math.isfinite(sum(score.interval))
    return finite(numbers) | {"bits_per_byte_95": list(score.interval) if known else None}


def say(message: str) -> None:
    """One line of progress, said by one process."""
    if distributed.here().first:
        print(message, file=sys.stderr, flush=True)


COMMANDS: dict[str, type] = {"data": Data, "train": Train, "evaluate": Evaluate, "generate": Generate, "serve": Serve}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code says how it went."""
    top = parser("python -m minilm", "Language models, from counting to a real LLM.", COMMANDS)
    given = vars(top.parse_args(arguments))
    cls = COMMANDS[given.pop("command")]
    own = {field.name for field in dataclasses.fields(cls)}
    if overrides := {name: given.pop(name) for name in list(given) if name not in own}:
        given["overrides"] = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    try:
        result = cls(**given).run()
        if distributed.here().first:
            unicode = codecs.lookup(sys.stdout.encoding or "ascii").name.startswith("utf")
            print(json.dumps(result, ensure_ascii=not unicode, allow_nan=False))
    except (data.DataError, ValueError, OSError) as error:
        say(f"minilm: {error}")
        return 1
    except RuntimeError as error:  # of PyTorch, which has one type for all that goes wrong on a processor
        if "allocate memory" not in str(error) and not isinstance(error, torch.OutOfMemoryError):
            raise
        say(f"minilm: not enough memory ({str(error).splitlines()[0]}): take a smaller model, or a smaller batch")
        return 1
    except KeyboardInterrupt as stop:
        say(f"minilm: {stop or 'interrupted'}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
