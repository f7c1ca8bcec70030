"""What models are marked by, each mark with its interval: classes, answers, texts, ranks, probabilities.

The formulas of text metrics belong to their libraries; a metric's value here is theirs. What this module adds is the
same for all: the examples are drawn anew many times, and the 95 % of the values in the middle are the interval.
A column is one value (or one row of values) per example; all columns of a call are drawn together.

Not here: bits per byte (``minilm.evaluate``), and what a metric fails to see (chapter 14).
References: Efron & Tibshirani 1993 (bootstrap, permutation tests); Wilson 1927 (intervals of shares); Rajpurkar et al.
2016 (exact match, token F1); Post 2018 (sacrebleu); Popović 2015 (chrF); Lin 2004 (ROUGE); Guo et al. 2017
(calibration error).
"""

import inspect
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import regex
from jaxtyping import Bool, Float
from scipy.stats import binomtest, bootstrap, permutation_test

Column = Sequence[Any] | np.ndarray
"""One value for each example."""

Answers = Sequence[str] | Sequence[Sequence[str]]
"""The right answer to each question, or several that are all right."""

SINGLE = r"\p{Han}\p{Hiragana}\p{Katakana}"
"""Characters of scripts without blanks between words."""

WORD = regex.compile(rf"(?V1)[{SINGLE}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{SINGLE}]]+")
"""What ROUGE counts."""

BATCH = 200
"""Resamples drawn at once: all of them together would fill the memory for a large test set."""


class Estimate(NamedTuple):
    """A measured value and its 95 % interval; formats as ``0.58 [0.49, 0.67]``, or as a format for each number says.

    >>> print(Estimate(0.58, 0.49, 0.67), f"{Estimate(0.58, 0.49, 0.67):.1%}")
    0.58 [0.49, 0.67] 58.0% [49.0%, 67.0%]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        value, low, high = (format(number, spec or ".2f") for number in self[:3])
        return f"{value} [{low}, {high}]"


class Difference(NamedTuple):
    """A mean difference, its paired 95 % interval, and the p-value of the hypothesis that there is none.

    >>> print(Difference(0.021, 0.004, 0.038, 0.0132))
    +0.02 [+0.00, +0.04], p = 0.013
    """

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        return f"{Estimate(*self[:3]):{spec or '+.2f'}}, p = {self.p:.3f}"


def estimate(statistic: Callable[..., Any], *columns: Column) -> Estimate:
    """A statistic of some examples with its 95 % percentile bootstrap interval (2 000 resamples, always the same).

    A statistic that takes ``axis`` is given many resamples at once, drawn along that axis; any other one at a time.
    The interval of a single example is (nan, nan).

    >>> print(estimate(np.mean, [0, 1, 1, 1, 0, 1, 1, 1]))
    0.75 [0.50, 1.00]

    Raises ValueError for no examples, or columns of different lengths.
    """
    arrays = [np.asarray(column) for column in columns]
    sizes = [len(array) for array in arrays]
    if not sizes or 0 in sizes or len(set(sizes)) > 1:
        raise ValueError(
            f"columns have {sizes} examples: each column needs one value for each example, and one or more"
        )
    value = float(statistic(*arrays))
    if sizes[0] < 2:
        return Estimate(value, math.nan, math.nan)
    # Drawn by index, since the `paired` of scipy takes no columns of rows; the draws are the same.
    resampled = lambda index, **axis: statistic(*(array[index] for array in arrays), **axis)
    at_once = "axis" in inspect.signature(statistic).parameters and all(array.ndim == 1 for array in arrays)
    how = {"n_resamples": 2_000, "method": "percentile", "vectorized": at_once, "batch": BATCH, "rng": 0}
    interval = bootstrap((np.arange(sizes[0]),), resampled, **how).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def share(marks: Column) -> Estimate:
    """Share of true marks with its 95 % interval, which is Wilson's (1927).

    Where all marks agree it still has a width; the bootstrap would be certain after three of them.

    >>> print(share([True, False, True, True]), share([True, True, True]))
    0.75 [0.30, 0.95] 1.00 [0.44, 1.00]

    Raises ValueError for no marks.
    """
    if not len(marks):
        raise ValueError("marks is empty: a share needs one mark or more")
    right = int(np.asarray(marks, dtype=bool).sum())
    return Estimate(right / len(marks), *binomtest(right, len(marks)).proportion_ci(method="wilson"))


def paired(scores: Column, others: Column) -> Difference:
    """Mean of ``scores - others``, two marks of each example, with its interval and a permutation test's p-value.

    The test asks how often a difference as large would come about if, for each example by itself, chance decided
    which of the two marks was whose: 9 999 random exchanges, or all of them where there are fewer.

    >>> print(paired([1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1]))    # of 256 exchanges, 18 are as extreme
    +0.75 [+0.25, +1.00], p = 0.070
    """
    if len(scores) != len(others):
        raise ValueError(f"there are {len(scores)} scores and {len(others)} others: give two marks of each example")
    gaps = np.asarray(scores, dtype=float) - np.asarray(others, dtype=float)
    if len(gaps) == 1:
        return Difference(*estimate(np.mean, gaps), 1.0)  # both exchanges are as extreme
    test = permutation_test((gaps,), np.mean, permutation_type="samples", batch=BATCH, rng=0)
    return Difference(*estimate(np.mean, gaps), float(test.pvalue))


# Classes


def accuracy(predicted: Column, references: Column) -> Estimate:
    """Share of examples whose predicted class is the right one.

    >>> print(accuracy(["a", "b", "b", "a"], ["a", "b", "a", "a"]))
    0.75 [0.30, 0.95]
    """
    return share([a == b for a, b in zip(predicted, references, strict=True)])


def f1(predicted: Column, references: Column) -> Estimate:
    """Macro F1: of each class the harmonic mean of precision and recall, 2 hits / (predicted + there); then their mean.

    >>> print(f"{f1(['a', 'b', 'b', 'a'], ['a', 'b', 'a', 'a']):.3f}")       # (4/5 + 2/3) / 2
    0.733 [0.200, 1.000]
    """
    classes = list(dict.fromkeys([*references, *predicted]))
    said, right = (np.array([[c == label for c in classes] for label in side]) for side in (predicted, references))

    def mean_f1(said, right):
        hits, either = (said & right).sum(0), said.sum(0) + right.sum(0)
        return (2 * hits / np.maximum(either, 1)).sum() / (either > 0).sum()

    return estimate(mean_f1, said, right)


# Answers and texts


def exact_match(predicted: Sequence[str], references: Answers) -> Estimate:
    """Share of answers that equal a right one once both are `normalised`.

    >>> exact_match(["The Hague.", "Bern"], ["the hague", ["Basel", "Berne"]]).value
    0.5
    """
    return share(_best(lambda answer, right: answer == right, predicted, references))


def token_f1(predicted: Sequence[str], references: Answers) -> Estimate:
    """Mean over answers of F1 between their words and those of the closest right answer, as SQuAD counts them.

    >>> token_f1(["the old city of Bern"], ["Bern city"]).value      # 2 shared of 4 and 2 words: 4 / 6
    0.6666666666666666
    """

    def overlap(answer: str, right: str) -> float:
        words, wanted = answer.split(), right.split()
        shared = (Counter(words) & Counter(wanted)).total()
        return 2 * shared / (len(words) + len(wanted)) if words and wanted else float(words == wanted)

    return estimate(np.mean, _best(overlap, predicted, references))


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, without punctuation, articles and surplus blank space.

    >>> normalised("The  U.S. (a country)")
    'us country'
    """
    bare = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _best(mark: Callable[[str, str], float], predicted: Sequence[str], references: Answers) -> list[float]:
    """For each example the best mark that its answer gets against one of its references."""
    marks = []
    for answer, right in zip(predicted, references, strict=True):
        choices = [right] if isinstance(right, str) else right
        marks.append(max(float(mark(normalised(answer), normalised(choice))) for choice in choices))
    return marks


def bleu(predicted: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> Estimate:
    """Corpus BLEU of sacrebleu, 0 to 100: shared 1- to 4-grams, counted over the whole corpus, too short is punished.

    ``tokenize``: "13a" for languages with spaces between words, "zh" for Chinese.

    >>> bleu(["the cat sat on a mat", "it rained"], ["the cat sat on the mat", "it rained"]).value < 100
    True
    """
    from sacrebleu.metrics import BLEU

    return _corpus(BLEU(tokenize=tokenize), predicted, references)


def chrf(predicted: Sequence[str], references: Sequence[str]) -> Estimate:
    """Corpus chrF of sacrebleu, 0 to 100: F-score (recall counts double) of shared runs of 1 to 6 characters.

    >>> chrf(["Bern"], ["Bern"]).value
    100.0
    """
    from sacrebleu.metrics import CHRF

    return _corpus(CHRF(), predicted, references)


def _corpus(metric: Any, predicted: Sequence[str], references: Sequence[str]) -> Estimate:
    """A sacrebleu metric, whose counts are taken once from each example and added up for each resample."""
    rows = list(zip(predicted, references, strict=True))
    counts = [metric._extract_corpus_statistics([text], [[right]])[0] for text, right in rows]
    return estimate(lambda rows: metric._compute_score_from_stats(rows.sum(0).tolist()).score, counts)


def rouge(predicted: Sequence[str], references: Sequence[str], kind: str = "rougeL") -> Estimate:
    """Mean F-score of rouge-score over examples, 0 to 1, words lower-cased and not stemmed.

    ``kind``: "rouge1" and "rouge2" count shared words and pairs of words, "rougeL" the longest common subsequence.
    Words are runs of letters and digits of any script, Chinese and Japanese characters one by one; the library's own
    rule knows a to z only.

    >>> print(f"{rouge(['the cat sat'], ['the cat sat down']).value:.3f}")     # 3 of 3 and of 4 words: 6 / 7
    0.857
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=SimpleNamespace(tokenize=lambda text: WORD.findall(text.lower())))
    rows = zip(predicted, references, strict=True)
    return estimate(np.mean, [scorer.score(right, text)[kind].fmeasure for text, right in rows])


# Ranks


def recall_at(ranks: Column, k: int) -> Estimate:
    """Share of questions whose right passage is among the first ``k`` (ranks start at 1; `math.inf`: not found).

    >>> recall_at([1, 3, math.inf, 2], k=2).value
    0.5
    """
    return share(np.asarray(ranks, dtype=float) <= k)


def mrr(ranks: Column) -> Estimate:
    """Mean of 1 / rank of the right passage, 0 where it was not found.

    >>> mrr([1, 2, math.inf, 4]).value
    0.4375
    """
    return estimate(np.mean, 1 / np.asarray(ranks, dtype=float))


# Probabilities


def calibration_error(probabilities: Column, references: Column, bins: int = 10) -> Estimate:
    """Expected calibration error: how far the mean probability in a bin is from the share that came true, on average.

    ``probabilities`` (N,) are of events, ``references`` (N,) say which of them came true; or (N, C) are of classes,
    ``references`` the index of the right one, and the event is that the most likely class is right. Bins are of equal
    width. Chance alone lets a bin miss, so a small sample overstates the error, and resamples overstate it more.

    >>> calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0]).value, calibration_error([0.9], [0]).value
    (0.0, 0.9)
    """
    confidence, came_true = _events(probabilities, references)
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    error = lambda slot, gap: np.abs(np.bincount(slot, gap)).sum() / len(gap)
    return estimate(error, slot, confidence - came_true)


def brier(probabilities: Column, references: Column) -> Estimate:
    """Mean squared distance between probabilities and what came true; (N, C): summed over the classes, as Brier did.

    >>> brier([0.8, 0.8], [1, 0]).value, brier([[0.75, 0.25]], [0]).value          # doctest: +NUMBER
    (0.34, 0.125)
    """
    p, right = np.asarray(probabilities, dtype=float), np.asarray(references)
    came_true = right if p.ndim == 1 else np.eye(p.shape[1])[right]
    return estimate(np.mean, ((p - came_true) ** 2).reshape(len(p), -1).sum(1))


def _events(probabilities: Column, references: Column) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Confidence in an event and whether it came true; of classes, the event is that the most likely one is right."""
    p, right = np.asarray(probabilities, dtype=float), np.asarray(references)
    if p.min() < 0 or p.max() > 1 + 1e-6:
        raise ValueError(f"probabilities lie between {p.min():.3g} and {p.max():.3g}: give probabilities, not logits")
    return (p, right.astype(bool)) if p.ndim == 1 else (p.max(1), p.argmax(1) == right)
