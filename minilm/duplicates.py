"""Near-duplicates: texts that share most of their wording.

A text is seen as the set of its *shingles*, runs of n words. Two texts are near-duplicates where the Jaccard
similarity of their sets, shared shingles over all shingles, reaches a threshold. Comparing all pairs of N texts takes
N^2/2 comparisons; two ways around it stand here:

- an index from shingle to texts (the default): only pairs that share a shingle are compared, and none is missed;
- MinHash signatures in bands: memory does not grow with the length of the texts, and a few pairs may be missed.

Not here: what to do with the pairs (``minilm.data`` keeps them out of the splits).
Reference: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from itertools import combinations

import numpy as np

PRIME = np.uint64((1 << 61) - 1)  # (a h + b) mod a prime, for random a and b, puts the hashes h in a random order
LOW_BITS = np.uint64((1 << 32) - 1)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a Chinese character counts as a word.

    >>> words("To be, or not to be? 你好")
    ['to', 'be', 'or', 'not', 'to', 'be', '你', '好']
    """
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text.lower())


def shingles(text: str, n: int = 5) -> frozenset[str]:
    """The runs of ``n`` words of a text; a text of less than ``n`` words is one shingle, one of none has none.

    >>> sorted(shingles("To be, or not to be", n=3))
    ['be or not', 'not to be', 'or not to', 'to be or']
    """
    run = words(text)
    return frozenset(" ".join(run[i : i + n]) for i in range(max(len(run) - n, 0) + 1)) if run else frozenset()


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """``|a & b| / |a | b|``: 1 for equal sets, 0 for disjoint ones (and for two empty ones, which share nothing).

    >>> jaccard(shingles("a b c", n=1), shingles("b c d", n=1))
    0.5
    """
    return len(a & b) / (len(a | b) or 1)


def minhash(items: Iterable[str], permutations: int = 128, seed: int = 1) -> np.ndarray:
    """The signature (permutations,) of a set: its smallest member in each of several random orders, as uint64.

    Two signatures agree in one place with a probability equal to the Jaccard similarity of the two sets, so the share
    of places where they agree estimates it, with standard error ``sqrt(s (1 - s) / permutations)``. Hashes and orders
    are those of the library ``datasketch`` in its scheme "legacy" (products wrap at 64 bits). An empty set has the
    largest hash everywhere.
    """
    digests = b"".join(hashlib.sha1(item.encode()).digest()[:4] for item in items)
    hashes = np.frombuffer(digests, dtype="<u4").astype(np.uint64)
    a, b = orders(permutations, seed)
    return ((a * hashes + b) % PRIME & LOW_BITS).min(axis=1, initial=LOW_BITS)  # (permutations, N) -> (permutations,)


@cache
def orders(permutations: int, seed: int) -> np.ndarray:
    """Random coefficients a and b of as many orders, (2, permutations, 1), drawn as ``datasketch`` draws them."""
    random = np.random.RandomState(seed)
    drawn = [[random.randint(least, PRIME, dtype=np.uint64) for least in (1, 0)] for _ in range(permutations)]
    return np.array(drawn, dtype=np.uint64).T[:, :, None]


def share_a_key(keys: Iterable[Iterable[Hashable]]) -> set[tuple[int, int]]:
    """All pairs i < j whose collections of keys overlap, found through an index from key to owners.

    >>> sorted(share_a_key(["ab", "bc", "cd"]))
    [(0, 1), (1, 2)]
    """
    owners = defaultdict(list)
    for i, own in enumerate(keys):
        for key in set(own):
            owners[key].append(i)
    return {pair for group in owners.values() for pair in combinations(group, 2)}


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.5, n: int = 5, bands: int | None = None, permutations: int = 128
) -> list[tuple[int, int, float]]:
    """The pairs ``(i, j, similarity)`` with i < j and a Jaccard similarity of at least ``threshold``, sorted.

    With ``bands`` the pairs to compare come from MinHash: signatures are cut into that many bands of
    ``r = permutations / bands`` places, and a pair is compared if one band agrees throughout, which happens with
    probability ``1 - (1 - s^r)^bands`` at similarity s. Similarities are exact in both cases.

    Raises ValueError for a threshold outside (0, 1] or bands that do not divide ``permutations``.

    >>> near_duplicates(["a rose is a rose", "A rose is a rose!", "a tulip"], n=2)
    [(0, 1, 1.0)]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}: a similarity above 0 and up to 1 is needed")
    sets = [shingles(text, n) for text in texts]
    if bands is None:
        candidates = share_a_key(sets)
    elif permutations % bands:
        raise ValueError(f"bands is {bands}: it must divide permutations, {permutations}")
    else:
        signatures = [minhash(own, permutations).reshape(bands, -1) if own else () for own in sets]
        candidates = share_a_key([(i, band.tobytes()) for i, band in enumerate(rows)] for rows in signatures)
    scored = ((i, j, jaccard(sets[i], sets[j])) for i, j in sorted(candidates))
    return [(i, j, similarity) for i, j, similarity in scored if similarity >= threshold]
