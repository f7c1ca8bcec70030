"""What r sightings of an n-gram are worth on fresh text: less than r, and here is by how much.

Every function reads the counts of counts n = {r: N_r} (``Counts.of_counts``), N_r being the number of n-grams seen r
times. ``deleted_estimate`` is the exception: it measures on half of a text what the others predict from the other.

Not here: what becomes of the counts thus saved, which is where methods differ (``minilm.ngram``).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from .counts import count

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of counts 1, 2 and 3+ where a text is too small to estimate them: KenLM's ``--discount_fallback``."""


def turing(n: Mapping[int, int]) -> dict[int, float]:
    """Turing's estimate r* = (r + 1) N_{r+1} / N_r of what a count of r is worth, for every r with N_r > 0.

    It is 0 where no n-gram was seen r + 1 times: the reason why it is smoothed (Good 1953).

    >>> turing({1: 10, 2: 4, 3: 1})
    {1: 0.8, 2: 0.75, 3: 0.0}
    """
    return {r: (r + 1) * n.get(r + 1, 0) / n[r] for r in sorted(n)}


def simple_good_turing(n: Mapping[int, int]) -> dict[int, float]:
    """Simple Good-Turing estimates r*, for every r with N_r > 0 (Gale and Sampson 1995).

    Turing's estimates while they differ from a line through (log r, log N_r) by more than 1.96 standard deviations,
    the line's from there on; scaled so that sum_r N_r r* = N - N_1, which leaves the unseen n-grams N_1 of the N.
    A line needs two different counts: with fewer, r* = r - 1/2. A line flatter than -1 gives r* >= r; what uses the
    estimates must cap them.

    >>> {r: round(value, 3) for r, value in simple_good_turing({1: 10, 2: 4, 3: 1, 5: 1}).items()}
    {1: 0.475, 2: 1.274, 3: 2.156, 5: 4.001}
    """
    r = np.array(sorted(n), dtype=np.float64)
    if len(r) < 2:
        return {k: k - 0.5 for k in n}
    n_r = np.array([n[k] for k in sorted(n)], dtype=np.float64)
    gaps = np.append(r[1:], 2 * r[-1] - r[-2]) - np.append(0, r[:-1])  # a lone N_r stands for the zeros around it
    slope, _ = np.polyfit(np.log(r), np.log(2 * n_r / gaps), 1)
    worth = (r + 1) * ((r + 1) / r) ** slope  # Turing's formula, with the line in place of N_r
    ratio = n_r[1:] / n_r[:-1]
    raw = (r[:-1] + 1) * ratio
    deviation = (r[:-1] + 1) * np.sqrt(ratio / n_r[:-1] * (1 + ratio))
    differs = (np.diff(r) == 1) & (abs(raw - worth[:-1]) > 1.96 * deviation)
    n_raw = int(np.argmin(np.append(differs, False)))
    worth[:n_raw] = raw[:n_raw]
    worth *= (r @ n_r - n.get(1, 0)) / (n_r @ worth)
    return dict(zip(sorted(n), worth.tolist(), strict=True))


def katz_counts(n: Mapping[int, int], cutoff: int = 5) -> dict[int, float]:
    """What counts r = 1 .. cutoff keep, r d_r, with d_r = (r*/r - A) / (1 - A) and A = (cutoff + 1) N_{cutoff+1} / N_1.

    Katz 1987: r* is Turing's estimate, and the reserve is that of Good-Turing, N_1 in all. The cutoff is
    lowered until every d_r lies in (0, 1]; where none does, each of these counts pays 1/2. ValueError where it is < 1.

    >>> {r: round(value, 4) for r, value in katz_counts({1: 100, 2: 40, 3: 20}, cutoff=2).items()}
    {1: 0.5, 2: 0.75}
    """
    if cutoff < 1:
        raise ValueError(f"cutoff={cutoff}: discount counts up to 1 at least; Katz took 5")
    star = turing(n)
    for top in range(cutoff, 1, -1):
        a = (top + 1) * n.get(top + 1, 0) / n.get(1, np.inf)
        kept = {r: (star.get(r, 0) - a * r) / (1 - a) for r in range(1, top + 1) if a < 1}
        if kept and all(0 < value <= r for r, value in kept.items()):
            return kept
    return {r: r - FALLBACK[0] for r in range(1, cutoff + 1)}


def absolute_discount(n: Mapping[int, int]) -> float:
    """D = N_1 / (N_1 + 2 N_2) (Ney, Essen and Kneser 1994); 1/2 where N_1 or N_2 is 0.

    >>> absolute_discount({1: 20, 2: 5})
    0.6666666666666666
    """
    return n[1] / (n[1] + 2 * n[2]) if 1 in n and 2 in n else FALLBACK[0]


def modified_discounts(n: Mapping[int, int]) -> tuple[float, float, float]:
    """D_r = r - (r + 1) Y N_{r+1} / N_r with Y = N_1 / (N_1 + 2 N_2), for r = 1, 2 and 3 or more.

    Chen and Goodman 1999, section 3. ``FALLBACK`` where one of N_1, N_2, N_3 is 0 or a D_r falls to 0 or below.

    >>> modified_discounts({1: 20, 2: 5, 3: 2, 4: 1})
    (0.6666666666666667, 1.2, 1.6666666666666667)
    """
    if not all(n.get(r) for r in (1, 2, 3)):
        return FALLBACK
    y = absolute_discount(n)
    d1, d2, d3 = (r - (r + 1) * y * n.get(r + 1, 0) / n[r] for r in (1, 2, 3))
    return (d1, d2, d3) if min(d1, d2, d3) > 0 else FALLBACK


def deleted_estimate(
    ids: Int[Tensor, " N"] | Sequence[int], order: int, vocab_size: int, r_max: int = 9
) -> dict[int, float]:
    """How often an n-gram seen r times in one half of the text occurs in the other half, r = 0 .. r_max.

    Both halves take both roles: (T_r^{01} + T_r^{10}) / (N_r^0 + N_r^1), Jelinek and Mercer's deleted estimate as in
    Church and Gale (1991). It is the measured r* that Good-Turing predicts from one half alone. Values of r that
    neither half holds are left out.

    >>> deleted_estimate([0, 1, 0, 1, 0, 0, 2, 1], order=1, vocab_size=4, r_max=2)   # halves 0101 and 0021
    {0: 0.3333333333333333, 1: 1.0, 2: 1.6666666666666667}
    """
    half = len(ids) // 2
    halves = [count(part, order, vocab_size) for part in (ids[:half], ids[half:])]
    n, found = np.zeros(r_max + 1), np.zeros(r_max + 1)
    for mine, other in (halves, halves[::-1]):
        rows = np.zeros(1, dtype=np.int64)  # where my n-grams stand in the other half's table
        for table, twin in zip(mine.tables, other.tables, strict=True):
            rows = twin.find(rows[table.contexts], table.keys % vocab_size)
        there, total = np.append(twin.counts, 0)[rows], twin.counts.sum()
        kept = table.counts <= r_max
        n += np.bincount(table.counts[kept], minlength=r_max + 1)
        found += np.bincount(table.counts[kept], weights=there[kept], minlength=r_max + 1)
        n[0] += float(vocab_size) ** order - len(table.keys)
        found[0] += total - there.sum()
    return {r: float(found[r] / n[r]) for r in range(r_max + 1) if n[r]}
