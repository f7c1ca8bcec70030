"""Time and memory of 5-grams over a million words, and the ratio to nltk.lm on a slice that nltk can hold.

Run: python tests/benchmarks/bench_ngram.py (about two minutes, most of them nltk's)

The words are drawn independently from a Zipf distribution over 30,000: almost no 5-gram comes twice, so the tables are
about as large as a text of this length can make them. Promised: train in under 30 s, 100,000 scores in under 10 s.
"""

import os
import platform
import time

import numpy as np
import torch
from nltk.lm import KneserNeyInterpolated
from nltk.util import everygrams

from minilm.ngram import METHODS, KneserNey, count

ORDER, VOCAB_SIZE, TRAIN, SCORED = 5, 30_000, 1_000_000, 100_000
SLICE, SLICE_SCORED, DISCOUNT = 50_000, 20, 0.75


def zipf(n: int) -> torch.Tensor:
    """Ids of n words drawn independently, word r with a probability in proportion to 1 / (r + 1)."""
    weights = 1 / np.arange(1, VOCAB_SIZE + 1)
    return torch.from_numpy(np.random.default_rng(0).choice(VOCAB_SIZE, size=n, p=weights / weights.sum()))


def timed(work):
    """What ``work`` returns, and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def methods(train: torch.Tensor, held_out: torch.Tensor) -> None:
    """Train and score with every method at full size."""
    counts, counting = timed(lambda: count(train, ORDER, VOCAB_SIZE))
    grams = " + ".join(f"{len(table.keys):,}" for table in counts.tables)
    print(f"{'count':20}{counting:9.2f} s{'':12}{counts.bytes / 1e6:10.0f} MB   {grams} n-grams of order 1 to {ORDER}")
    for name, method in METHODS.items():
        model, fitting = timed(lambda method=method: method(counts))
        _, scoring = timed(lambda model=model: model.score(held_out[None]))
        print(f"{name:20}{counting + fitting:9.2f} s{scoring:10.2f} s{model.bytes / 1e6:10.0f} MB")


def peer(ids: torch.Tensor) -> None:
    """The same Kneser-Ney model by nltk: a slice to train on, and the last few words of it to score."""
    words = [str(i) for i in ids.tolist()]

    def fit() -> KneserNeyInterpolated:
        oracle = KneserNeyInterpolated(order=ORDER, discount=DISCOUNT)
        oracle.fit([everygrams(words, max_len=ORDER)], vocabulary_text=words)
        return oracle

    oracle, nltk_fits = timed(fit)
    places = range(len(ids) - SLICE_SCORED, len(ids))
    theirs, nltk_scores = timed(lambda: [oracle.score(words[t], words[t - ORDER + 1 : t]) for t in places])
    model, fits = timed(lambda: KneserNey(count(ids, ORDER, VOCAB_SIZE), [0.0] + (ORDER - 1) * [DISCOUNT]))
    ours, scores = timed(lambda: model.score(ids[None])[0])
    report(nltk_fits, fits, nltk_scores / SLICE_SCORED, scores / len(ours))
    difference = (ours[-SLICE_SCORED:].exp() - torch.tensor(theirs, dtype=torch.float64)).abs().max()
    print(f"largest difference of the {SLICE_SCORED} probabilities: {difference:.1e}")


def report(nltk_fits: float, fits: float, nltk_score: float, score: float) -> None:
    """The two lines of the comparison."""
    print(f"{'train':20}{nltk_fits:12.2f} s{fits:12.3f} s{nltk_fits / fits:12,.0f}")
    print(f"{'score 100,000 words':20}{nltk_score * 1e5:12,.0f} s{score * 1e5:12.3f} s{nltk_score / score:12,.0f}")


if __name__ == "__main__":
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"\n{TRAIN:,} words, order {ORDER}\n{'':20}{'train':>11}{'score 100k':>12}{'memory':>13}")
    ids = zipf(TRAIN + SCORED)
    methods(ids[:TRAIN], ids[TRAIN:])
    print(f"\n{SLICE:,} words, KneserNey, order {ORDER}\n{'':20}{'nltk.lm':>14}{'minilm':>14}{'ratio':>12}")
    peer(ids[:SLICE])
