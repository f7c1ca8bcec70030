"""How fast our BPE trains and encodes beside `tokenizers` and `tiktoken`, and whether time grows with the text only.

Run: python tests/benchmarks/bench_tokenizer.py

Times are CPU seconds on one thread, so that other work on the machine does not count as ours or theirs. Runs alternate
between ours and the peers; every encoder is made anew for each run, so that nobody remembers words from the last one.
"""

import os

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")  # before the imports

import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minilm import data
from minilm.tokenizer import BPE, END, load

VOCAB_SIZE, MEGABYTE, RUNS = 1024, 10**6, 5


def train_library(text: str) -> Tokenizer:
    """The peer of `BPE.train`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": [END], "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=VOCAB_SIZE, **options))
    return tokenizer


def encoders(folder: str, text: str) -> dict[str, Callable[[], Callable[[str], list[int]]]]:
    """For each library: a function that makes a fresh encoder from one trained tokenizer."""
    path = Path(folder, "tokenizer.json")
    ours = BPE.train(text, VOCAB_SIZE)
    ours.save(path)

    def in_tiktoken() -> Callable[[str], list[int]]:
        encoding = tiktoken.Encoding(
            "ours", pat_str=ours.pattern, mergeable_ranks=ours.vocab, special_tokens=ours.specials
        )
        return encoding.encode_ordinary

    def in_library() -> Callable[[str], list[int]]:
        tokenizer = Tokenizer.from_file(str(path))
        return lambda text: tokenizer.encode(text).ids

    def in_library_fast() -> Callable[[str], list[int]]:
        tokenizer = Tokenizer.from_file(str(path))
        return lambda text: tokenizer.encode_batch_fast([text])[0].ids

    return {
        "minilm": lambda: load(path).encode,
        "tokenizers encode": in_library,
        "tokenizers encode_batch_fast": in_library_fast,
        "tiktoken": in_tiktoken,
    }


def seconds(make: Callable[[], Callable[[str], object]], text: str) -> float:
    """CPU seconds of one run of what ``make`` gives; the making is not timed."""
    run = make()
    start = time.process_time()
    run(text)
    return time.process_time() - start


def compare(title: str, makers: dict[str, Callable], text: str) -> None:
    """One line a library: the median of alternating runs, and ours as a multiple of it."""
    times = {name: [] for name in makers}
    for _ in range(RUNS):
        for name, make in makers.items():
            times[name].append(seconds(make, text))
    print(f"\n{title}, {len(text.encode()) / MEGABYTE:.2f} MB, vocabulary {VOCAB_SIZE}, median of {RUNS} runs")
    for name, runs in times.items():
        ratio = median(times["minilm"]) / median(runs)
        print(f"  {name:30} {median(runs):7.3f} s   minilm takes {ratio:5.2f} times as long")


def linearity(text: str, folder: str) -> None:
    """Seconds for each megabyte; a column that does not rise is linear time."""
    print(f"\nCPU seconds per MB    {'train':>8} {'encode':>8}")
    make = encoders(folder, text[:MEGABYTE])["minilm"]
    for size in (0.25, 0.5, 1, 2, 4):
        part = text[: int(size * MEGABYTE)]
        train = median(seconds(lambda: lambda text: BPE.train(text, VOCAB_SIZE), part) for _ in range(3))
        encode = median(seconds(make, part) for _ in range(3))
        print(f"  {size:5.2f} MB            {train / size:8.3f} {encode / size:8.3f}")


def main() -> None:
    """Print all tables."""
    corpus = data.load("shakespeare")
    text = "\n\n".join(corpus.text(split) for split in ("train", "validation", "test"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "tiktoken", "regex"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    part = text[: int(1.1 * MEGABYTE)]
    peers = {"minilm": lambda: lambda text: BPE.train(text, VOCAB_SIZE), "tokenizers": lambda: train_library}
    compare("Training on Shakespeare", peers, part)
    with tempfile.TemporaryDirectory() as folder:
        compare("Encoding Shakespeare", encoders(folder, part), part)
        linearity(text, folder)


if __name__ == "__main__":
    main()
