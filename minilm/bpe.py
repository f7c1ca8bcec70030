r"""Byte pair encoding: count neighbours, merge the most frequent pair into a new token, repeat.

The idea is in ``count_pairs`` and ``merge``. ``learn`` (training) and ``apply_merges`` (encoding) do the same without
counting anew after every merge, so that time grows with the text and not with its square.

Not here: text. These functions see rows of ids; ``minilm.tokenizer`` makes those from text and keeps the result.

References: Gage 1994 (pairs of bytes, for compression); Sennrich, Haddow & Birch 2016 (as a tokenizer).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from typing import no_type_check

from tqdm import tqdm

Pair = tuple[int, int]

GAP = -1
"""No token: the border between two words of a row, the end of the row, a place whose token has been merged away."""


def count_pairs(ids: Sequence[int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs.

    >>> count_pairs([1, 2, 3, 1, 2])
    Counter({(1, 2): 2, (2, 3): 1, (3, 1): 1})
    """
    return Counter(pairwise(ids))


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """``ids`` with every occurrence of ``pair``, read from the left, replaced by ``new_id``.

    Three rounds on the example of Wikipedia's article on byte pair encoding, a = 97 to d = 100:

    >>> ids = list(b"aaabdaaabac")
    >>> for new_id in (256, 257, 258):
    ...     counts = count_pairs(ids)
    ...     pair = max(counts, key=counts.get)
    ...     ids = merge(ids, pair, new_id)
    ...     print(pair, counts[pair], ids)
    (97, 97) 4 [256, 97, 98, 100, 256, 97, 98, 97, 99]
    (256, 97) 2 [257, 98, 100, 257, 98, 97, 99]
    (257, 98) 2 [258, 100, 258, 97, 99]
    """
    merged: list[int] = []
    i = 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


@no_type_check  # its methods run millions of times; checking their arguments would slow the tests tenfold
class Row:
    """A row of ids in which joining two neighbours costs the same wherever they stand: a doubly linked list.

    >>> row = Row([1, 2, 3])
    >>> row.join(0, 4)                                 # the places before (none: -1) and after the new token
    (-1, 2)
    >>> row.pair(0)
    (4, 3)
    """

    def __init__(self, ids: Iterable[int]) -> None:
        """``ids`` may hold ``GAP``. One more ends the row, where -1, the place before the first, finds it as well."""
        self.ids = [*ids, GAP]
        self.after = [*range(1, len(self.ids)), len(self.ids) - 1]
        self.before = list(range(-1, len(self.ids) - 1))

    def pair(self, i: int) -> Pair:
        """The token at place ``i`` and the one after it."""
        return self.ids[i], self.ids[self.after[i]]

    def join(self, i: int, new_id: int) -> Pair:
        """Replace the pair at place ``i`` by ``new_id``. Gives the places before and after it."""
        j = self.after[i]
        before, after = self.before[i], self.after[j]
        self.ids[i], self.ids[j] = new_id, GAP
        self.after[i], self.before[after] = after, i
        return before, after


def learn(words: Mapping[Sequence[int], int], n_merges: int, new_id: int, min_count: int = 1) -> dict[Pair, int]:
    """Training: up to ``n_merges`` merges, most frequent first, as ``{pair: new id}``, ids from ``new_id`` on.

    ``words`` gives each distinct word (a sequence of ids; no pair crosses its border) and its count. Of pairs that are
    equally frequent the one with the lowest ids wins, as in the ``tokenizers`` library. Stops early where no pair
    occurs ``min_count`` times. Memory is about 200 bytes for each id in the distinct words.

    >>> learn({b"low": 5, b"lower": 2, b"newest": 6}, n_merges=3, new_id=256)
    {(119, 101): 256, (108, 111): 257, (101, 256): 258}
    """
    row = Row(chain.from_iterable((*word, GAP) for word in words))
    weights = [count for word, count in words.items() for _ in range(len(word) + 1)]
    counts, where = _count_and_find(row, weights)
    heap = [(-count, pair) for pair, count in counts.items()]  # the top is the most frequent pair, then the lowest ids
    heapify(heap)
    merges: dict[Pair, int] = {}
    with tqdm(total=n_merges, desc="BPE merges", delay=1, disable=None) as progress:
        while heap and len(merges) < n_merges:
            count, pair = heappop(heap)
            if -count != counts[pair]:  # outdated: other merges took some of its occurrences
                heappush(heap, (-counts[pair], pair))
                continue
            if -count < max(min_count, 1):
                break
            merges[pair] = new_id + len(merges)
            for made in _merge_everywhere(row, weights, counts, where, pair, merges[pair]):
                heappush(heap, (-counts[made], made))
            progress.update()
    return merges


Counts, Places = dict[Pair, int], dict[Pair, list[int]]


def _count_and_find(row: Row, weights: Sequence[int]) -> tuple[Counts, Places]:
    """The count of each pair, weighted by how often its word occurs, and the places where it stands."""
    counts, where = defaultdict[Pair, int](int), defaultdict[Pair, list[int]](list)
    for i, pair in enumerate(pairwise(row.ids)):
        if GAP not in pair:
            counts[pair] += weights[i]
            where[pair].append(i)
    return counts, where


def _merge_everywhere(
    row: Row, weights: Sequence[int], counts: Counts, where: Places, pair: Pair, new_id: int
) -> set[Pair]:
    """Merge ``pair`` at all its places, keep the counts of its neighbours right, and name the pairs this made."""
    made = set()
    for i in where.pop(pair):
        if row.pair(i) != pair:  # one of the two was merged with its other neighbour
            continue
        before, after = row.join(i, new_id)
        if (left := row.ids[before]) != GAP:
            counts[left, pair[0]] -= weights[i]
            counts[left, new_id] += weights[i]
            where[left, new_id].append(before)
            made.add((left, new_id))
        if (right := row.ids[after]) != GAP:
            counts[pair[1], right] -= weights[i]
            counts[new_id, right] += weights[i]
            where[new_id, right].append(i)
            made.add((new_id, right))
    return made


def apply_merges(ids: Sequence[int], merges: Mapping[Pair, int], ranks: Mapping[Pair, int]) -> list[int]:
    """Encoding: merge the pair of lowest rank, the leftmost first, until no neighbours have a rank.

    A heap holds the candidates, so n ids take O(n log n) steps, however long the row is.

    >>> apply_merges(b"newlow", {(101, 119): 256, (108, 111): 257}, ranks={(101, 119): 0, (108, 111): 1})
    [110, 256, 257, 119]
    """
    row = Row(ids)
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapify(heap)
    while heap:
        rank, i = heappop(heap)
        pair = row.pair(i)
        if ranks.get(pair) != rank:  # outdated: one of the two was merged with its other neighbour
            continue
        before, _ = row.join(i, merges[pair])
        for place in (before, i):
            if (pair := row.pair(place)) in ranks:
                heappush(heap, (ranks[pair], place))
    return [id for id in row.ids if id != GAP]
