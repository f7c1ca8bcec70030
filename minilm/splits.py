"""Who trains and who tests: splits that share nothing.

A score is worth something only if the model has not seen the test text. Whole documents are held out, and since
documents quote each other, passages that nearly repeat one held out are removed as well.

Not here: which documents the book holds out (``minilm.cards``).
Reference: Lee et al. 2022, "Deduplicating training data makes language models better".
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, pairwise

from .duplicates import near_duplicates

SPLITS = ("train", "validation", "test")
LEAK = 0.5  # passages whose Jaccard similarity reaches this must not stand in two splits
LEAK_WORDS = 8  # shorter passages ("Ay, my lord.") are the language, not a leak
BLOCK = 50  # neighbours of a list that stay on one side


def side(title: str, validation: Collection[str] = (), test: Collection[str] = ()) -> str:
    """The split a document belongs to: by lists of titles, or without lists by the SHA-256 of its title modulo 10.

    A hash is as good as a draw, and a document keeps its side when others come and go.

    >>> side("Macbeth", test=["Macbeth"]), side("Autism"), side("Abacus")
    ('test', 'validation', 'test')
    """
    if validation or test:
        return "test" if title in test else "validation" if title in validation else "train"
    return {8: "validation", 9: "test"}.get(int(hashlib.sha256(title.encode()).hexdigest(), 16) % 10, "train")


def block_side(place: int) -> str:
    """The split of the text at ``place`` of a list whose neighbours resemble each other, as reviews of one film do.

    ``BLOCK`` neighbours stay together; of ten such blocks seven train, one validates and two test.

    >>> [block_side(place) for place in (0, 49, 349, 350, 400, 500)]
    ['train', 'train', 'train', 'validation', 'test', 'train']
    """
    return {7: "validation", 8: "test", 9: "test"}.get(place // BLOCK % 10, "train")


def leaks(sides: Sequence[Iterable[str]], n: int = 5, least_words: int = LEAK_WORDS) -> list[set[str]]:
    """For each side, its passages that nearly repeat one of a *later* side: train first, test last.

    Compared are passages of at least ``least_words`` words, by their shingles of ``n`` words.

    >>> leaks([["a rose is a rose", "a tulip"], ["A rose is a rose!"]], n=2, least_words=1)
    [{'a rose is a rose'}, set()]
    """
    owned = sorted(
        {(text, place) for place, side in enumerate(sides) for text in side if len(text.split()) >= least_words}
    )
    gone: list[set[str]] = [set() for _ in sides]
    for i, j, _ in near_duplicates([text for text, _ in owned], LEAK, n):
        (first, a), (second, b) = owned[i], owned[j]
        if a != b:
            gone[min(a, b)].add(first if a < b else second)
    return gone


def split_text(text: str, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> tuple[str, ...]:
    r"""A text cut into consecutive parts of about these fractions, together the whole text.

    Each cut lies at the line end nearest to its fraction; where no line ends within half the smallest fraction of the
    text, it lies between two characters. Raises ValueError where the fractions are not positive or do not sum to 1.

    >>> split_text("one\ntwo\nthree\nfour\n", (0.5, 0.5))
    ('one\ntwo\n', 'three\nfour\n')
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions are {tuple(fractions)}: positive numbers that sum to 1 are needed")
    targets = [round(share * len(text)) for share in accumulate(fractions)][:-1]
    reach = min(fractions) * len(text) / 2
    cuts = [0, *(_line_end(text, target, reach) for target in targets), len(text)]
    return tuple(text[start:stop] for start, stop in pairwise(cuts))


def _line_end(text: str, target: int, reach: float) -> int:
    """The end of a line nearest to ``target``; ``target`` itself where none lies within ``reach``."""
    ends = text.rfind("\n", 0, target) + 1, text.find("\n", target) + 1
    nearest = min((end for end in ends if end), key=lambda end: abs(end - target), default=0)
    return nearest if nearest and abs(nearest - target) < reach else target
