"""Near-duplicates against brute force and against the library datasketch."""

import math

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from minilm.duplicates import jaccard, minhash, near_duplicates, shingles, words

texts = st.lists(st.text("ab ,.", max_size=20), max_size=8)
sets = st.frozensets(st.text(max_size=6), max_size=30)


def with_overlap(shared, own):
    """Two sets with ``shared`` members in common and ``own`` more each."""
    common = {f"c{i}" for i in range(shared)}
    return frozenset(common | {f"a{i}" for i in range(own)}), frozenset(common | {f"b{i}" for i in range(own)})


def test_words_and_shingles_by_hand():
    assert words("Don't! ÉTÉ-2016 文件(F)") == ["don", "t", "été", "2016", "文", "件", "f"]
    assert shingles("one two", n=5) == {"one two"}
    assert shingles("... !") == frozenset()
    assert shingles("a b c d", n=2) == {"a b", "b c", "c d"}


@given(sets, sets)
def test_jaccard_by_counting(a, b):
    both = sum(item in b for item in a)
    either = len(a) + len(b) - both
    assert jaccard(a, b) == (both / either if either else 0)


@given(sets, st.integers(1, 64), st.integers(0, 3))
def test_minhash_equals_datasketch(items, permutations, seed):
    peer = MinHash(num_perm=permutations, seed=seed, scheme="legacy")
    peer.update_batch(item.encode() for item in items)
    assert np.array_equal(minhash(items, permutations, seed), peer.hashvalues)


@pytest.mark.parametrize("shared, own", [(0, 50), (50, 25), (90, 5), (60, 0)])
def test_signatures_estimate_the_similarity(shared, own):
    a, b = with_overlap(shared, own)
    similarity = shared / (shared + 2 * own)
    agree = (minhash(a, 4096) == minhash(b, 4096)).mean()
    assert abs(agree - similarity) <= 4 * math.sqrt(similarity * (1 - similarity) / 4096)


@given(texts, st.sampled_from([0.2, 0.5, 1.0]), st.integers(1, 3))
def test_the_index_misses_no_pair(texts, threshold, n):
    own = [shingles(text, n) for text in texts]
    pairs = [(i, j, jaccard(own[i], own[j])) for j in range(len(own)) for i in range(j)]
    assert near_duplicates(texts, threshold, n) == sorted(pair for pair in pairs if pair[2] >= threshold)


def test_bands_find_a_pair_as_often_as_the_formula_says():
    """100 pairs of similarity 0.5 under 4 bands of 2: each is compared with probability 1 - (1 - s^2)^4."""
    texts = []
    for i in range(100):
        common = " ".join(f"c{i}x{k}" for k in range(20))
        texts += [common + "".join(f" a{i}x{k}" for k in range(10)), common + "".join(f" b{i}x{k}" for k in range(10))]
    found = near_duplicates(texts, 0.4, n=1, bands=4, permutations=8)
    expected = 1 - (1 - 0.5**2) ** 4
    assert all(j == i + 1 and i % 2 == 0 and similarity == 0.5 for i, j, similarity in found)
    assert abs(len(found) / 100 - expected) <= 4 * math.sqrt(expected * (1 - expected) / 100)
    assert len(near_duplicates(texts, 0.4, n=1, bands=64, permutations=128)) == 100


@given(texts)
def test_bands_never_invent_a_pair(texts):
    assert set(near_duplicates(texts, 0.5, 2, bands=8, permutations=16)) <= set(near_duplicates(texts, 0.5, 2))


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.1}, {"bands": 7}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        near_duplicates(["a"], **options)
