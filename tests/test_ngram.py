"""Counts against dictionaries, methods against nltk and against their papers written out slowly, rows against one."""

import json
import math
import warnings
from collections import Counter, defaultdict
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.lm import MLE, KneserNeyInterpolated, Lidstone, WittenBellInterpolated
from nltk.lm.smoothing import WittenBell as NltkWittenBell
from nltk.probability import FreqDist, SimpleGoodTuringProbDist
from nltk.util import everygrams

from minilm.contract import LanguageModel, loss, next_token
from minilm.discounts import (
    absolute_discount,
    deleted_estimate,
    katz_counts,
    modified_discounts,
    simple_good_turing,
    turing,
)
from minilm.ngram import (
    METHODS,
    AddK,
    GoodTuring,
    Katz,
    KneserNey,
    MaximumLikelihood,
    ModifiedKneserNey,
    WittenBell,
    count,
    cross_validate,
    load,
)

SMOOTHED = [method for method in METHODS.values() if method is not MaximumLikelihood]
SMALL = settings(max_examples=25)


@st.composite
def corpora(draw, max_order=6, max_vocab=50, max_size=120, min_size=1):
    """(ids, order, vocab_size); skewed, so that counts of 1, 2, 3, ... all occur, and some words never do."""
    vocab_size = draw(st.integers(2, max_vocab))
    size, seed = draw(st.integers(min_size, max_size)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ids = (vocab_size * rng.random(size) ** draw(st.integers(1, 4))).astype(int).tolist()
    return ids, draw(st.integers(1, max_order)), vocab_size


def contexts(ids, order, vocab_size):
    """Seen contexts, unseen ones, and ones that hold a word without counts, of every length up to order - 1."""
    rng = np.random.default_rng(len(ids))
    for n in range(order):
        starts = rng.integers(0, max(len(ids) - n, 0) + 1, size=2)
        yield from (ids[i : i + n] for i in starts)
        yield rng.integers(0, vocab_size, size=n).tolist()
        yield n * [vocab_size - 1]


def cyclic(ids, order):
    """A text whose opening n-grams come again: nltk's N1+(h .) counts them, though its N1+(. h w) does not."""
    return ids + ids[: order - 1]


def nltk_model(cls, ids, order, vocab_size, **options):
    words = [str(i) for i in ids]
    model = cls(order=order, **options)
    model.fit([everygrams(words, max_len=order)], vocabulary_text=[str(i) for i in range(vocab_size)])
    return model


def nltk_row(model, context, vocab_size):
    return [model.unmasked_score(str(w), tuple(map(str, context))) for w in range(vocab_size)]


def close(row, expected, atol=1e-12):
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=0)


# --- Counts -----------------------------------------------------------------------------------------------------------


@given(corpora(max_vocab=9, max_size=30))
@SMALL
def test_counts_are_those_of_a_dictionary(corpus):
    ids, order, vocab_size = corpus
    counts = count(torch.tensor(ids), order, vocab_size)
    for k in range(1, order + 1):
        grams = Counter(tuple(ids[i : i + k]) for i in range(len(ids) - k + 1))
        assert counts.of_counts(k) == dict(sorted(Counter(grams.values()).items()))
        for gram, c in grams.items():
            assert counts[gram] == c
            followers = {g[-1]: grams[g] for g in grams if g[:-1] == gram[:-1]}
            assert counts.after(gram[:-1]) == followers
            assert list(counts.after(gram[:-1]).values()) == sorted(followers.values(), reverse=True)
            if k < order:
                assert counts.before(gram) == len({ids[i - 1] for i in range(1, len(ids)) if ids[i:][:k] == [*gram]})
        assert counts[tuple(ids[:1] * k)] == grams[tuple(ids[:1] * k)]


def test_an_n_gram_longer_than_the_text_is_never_counted():
    counts = count([3, 1], order=4, vocab_size=5)
    assert [len(table.keys) for table in counts.tables] == [2, 1, 0, 0]
    assert counts[3, 1, 3] == 0 and counts.after((3, 1, 3)) == {}


@pytest.mark.parametrize(
    "ids, order, vocab_size, message",
    [
        ([], 2, 5, r"shape \(0,\).*non-empty"),
        ([1, 5], 2, 5, r"ids holds 5, outside 0 \.\. 4"),
        ([1, -1], 2, 5, r"ids holds -1, outside 0 \.\. 4"),
        ([1, 2], 0, 5, r"order=0.*at least 1"),
        ([1, 2], 2, 0, r"vocab_size=0"),
    ],
)
def test_what_cannot_be_counted_is_refused(ids, order, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        count(ids, order, vocab_size)


def test_a_longer_n_gram_than_counted_is_refused():
    counts = count([0, 1, 0], order=2, vocab_size=2)
    for ask in (lambda: counts[0, 1, 0], lambda: counts.after((0, 1)), lambda: counts.before((0, 1))):
        with pytest.raises(ValueError, match="order 2"):
            ask()


# --- Discounts --------------------------------------------------------------------------------------------------------

# Church and Gale 1991: bigrams in 22 million words of AP newswire. {r: (N_r, r* as published)}
NEWSWIRE = {
    0: (74_671_100_000, 0.0000270),
    1: (2_018_046, 0.446),
    2: (449_721, 1.26),
    3: (188_933, 2.24),
    4: (105_668, 3.24),
    5: (68_379, 4.22),
    6: (48_190, 5.19),
    7: (35_709, 6.21),
    8: (27_710, 7.24),
    9: (22_280, None),
}


def test_turing_gives_the_published_table():
    star = turing({r: n for r, (n, _) in NEWSWIRE.items()})
    for r, (_, printed) in NEWSWIRE.items():
        if printed:  # to the published digits: 4.2285 stands there as 4.22
            assert star[r] == pytest.approx(printed, abs=0.01 if r else 1e-7)


def by_r(n):
    """An nltk frequency distribution with these counts of counts, and one word of each count."""
    samples = {(r, i): r for r, n_r in n.items() for i in range(n_r)}
    return FreqDist(samples)


@given(st.dictionaries(st.integers(1, 40), st.integers(1, 60), min_size=2, max_size=15))
@example({1: 600, 2: 120, 3: 45, 4: 28, 5: 14, 6: 9, 8: 4, 12: 1})  # 1* is 4.0 deviations off the line, 2* is 1.3
@SMALL
def test_simple_good_turing_is_that_of_nltk(n):
    words = by_r(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a flat line is nltk's warning; here its r* is capped where it is used
        oracle = SimpleGoodTuringProbDist(words, bins=words.B() + 1)
    star = simple_good_turing(n)
    assert star == pytest.approx({r: oracle.prob((r, 0)) * words.N() for r in n}, rel=1e-9)
    assert sum(n[r] * star[r] for r in n) == pytest.approx(words.N() - n.get(1, 0))


def test_discounts_by_hand():
    n = {1: 30, 2: 10, 3: 5, 4: 2}  # Y = 30/50
    assert absolute_discount(n) == pytest.approx(3 / 5)
    assert modified_discounts(n) == pytest.approx((1 - 2 * 0.6 / 3, 2 - 3 * 0.6 / 2, 3 - 4 * 0.6 * 2 / 5))
    # Katz, cutoff 2: A = 3 N_3 / N_1 = 1/2; 1* = 2/3, 2* = 3/2; c* = (r* - r A) / (1 - A)
    assert katz_counts(n, cutoff=2) == pytest.approx({1: (2 / 3 - 1 / 2) / (1 / 2), 2: (3 / 2 - 1) / (1 / 2)})


@given(st.dictionaries(st.integers(1, 8), st.integers(1, 60), max_size=8))
@SMALL
def test_estimated_discounts_never_exceed_what_a_count_has(n):
    assert 0 < absolute_discount(n) <= 1
    assert all(0 < d <= r for r, d in enumerate(modified_discounts(n), start=1))
    assert all(0 < kept <= r for r, kept in katz_counts(n).items())
    assert all(value > 0 for value in simple_good_turing(n).values())


def test_katz_saves_what_turing_says():
    """Katz 1987: over all n-grams the discounts come to N_1, the counts of what was not yet seen."""
    n = {r: n_r for r, (n_r, _) in NEWSWIRE.items() if r}
    assert sum(n[r] * (r - kept) for r, kept in katz_counts(n).items()) == pytest.approx(n[1], rel=1e-12)


@given(corpora(max_order=3, max_vocab=6, min_size=2))
@SMALL
def test_deleted_estimate_is_that_of_two_dictionaries(corpus):
    ids, order, vocab_size = corpus
    cuts = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
    a, b = (Counter(tuple(part[i : i + order]) for i in range(len(part) - order + 1)) for part in cuts)
    n, found = Counter(), Counter()
    for gram in product(range(vocab_size), repeat=order):
        n.update([a[gram], b[gram]])
        found[a[gram]] += b[gram]
        found[b[gram]] += a[gram]
    expected = {r: found[r] / n[r] for r in range(6) if n[r]}
    assert deleted_estimate(torch.tensor(ids), order, vocab_size, r_max=5) == pytest.approx(expected)


# --- Methods against nltk ---------------------------------------------------------------------------------------------


@given(corpora(max_order=5, max_vocab=6, max_size=40, min_size=5), st.floats(0.05, 0.95))
@SMALL
def test_kneser_ney_is_that_of_nltk(corpus, discount):
    ids, order, vocab_size = corpus
    order = max(order, 2)  # nltk divides by zero at order 1: it has no continuation counts there
    ids = cyclic(ids, order)
    oracle = nltk_model(KneserNeyInterpolated, ids, order, vocab_size, discount=discount)
    model = KneserNey(count(ids, order, vocab_size), [0.0] + (order - 1) * [discount])
    for context in contexts(ids, order, vocab_size):
        close(model.probs(context), nltk_row(oracle, context, vocab_size))


def test_kneser_ney_departs_from_nltk_where_nltk_does_not_sum_to_one():
    ids = [0, 1, 2, 1, 2, 2]  # (0, 1) opens the text and follows nothing: nltk lets it pay a discount all the same
    oracle = nltk_model(KneserNeyInterpolated, ids, 3, 3, discount=0.5)
    with pytest.raises(ZeroDivisionError):
        nltk_row(oracle, (0,), 3)
    assert KneserNey(count(ids, 3, 3), 0.5).probs([0]).sum().item() == pytest.approx(1)


class WittenBellOverUniform(NltkWittenBell):
    """nltk ends at the relative frequency of a word; Chen and Goodman, and so we, at the uniform distribution."""

    def unigram_score(self, word):
        words = self.counts.unigrams
        return (words[word] + words.B() / len(self.vocab)) / (words.N() + words.B())


@given(corpora(max_order=5, max_vocab=8))
@SMALL
def test_witten_bell_is_that_of_nltk(corpus):
    ids, order, vocab_size = corpus
    oracle = nltk_model(WittenBellInterpolated, ids, order, vocab_size)
    oracle.vocab = [str(i) for i in range(vocab_size)]  # nltk adds an unknown word; every id is known here
    oracle.estimator = WittenBellOverUniform(oracle.vocab, oracle.counts)
    model = WittenBell(count(ids, order, vocab_size))
    for context in contexts(ids, order, vocab_size):
        close(model.probs(context), nltk_row(oracle, context, vocab_size))


@given(corpora(max_order=4, max_vocab=8), st.floats(0.01, 2))
@SMALL
def test_add_k_and_maximum_likelihood_are_those_of_nltk(corpus, k):
    ids, order, vocab_size = corpus
    counts = count(ids, order, vocab_size)
    lidstone, mle = nltk_model(Lidstone, ids, order, vocab_size, gamma=k), nltk_model(MLE, ids, order, vocab_size)
    lidstone.vocab = range(vocab_size)
    for context in contexts(ids, order, vocab_size):
        close(AddK(counts, k).probs(context), nltk_row(lidstone, context, vocab_size))
        if counts.after(context):
            close(MaximumLikelihood(counts).probs(context), nltk_row(mle, context, vocab_size))


def test_maximum_likelihood_after_an_unseen_context_reads_its_longest_seen_end():
    model = MaximumLikelihood(count([0, 1, 2, 0, 1, 1], order=3, vocab_size=4))
    close(model.probs([2, 1]), [0, 1 / 2, 1 / 2, 0])  # (2, 1) was never seen; after 1 came 2 and 1
    close(model.probs([0, 3]), [2 / 6, 3 / 6, 1 / 6, 0])  # nothing was seen after 3
    assert model.score(torch.tensor([[1, 0]])).item() == -math.inf


# --- Methods against their papers, written out slowly -----------------------------------------------------------------


def grams_of(ids, k):
    return Counter(tuple(ids[i : i + k]) for i in range(len(ids) - k + 1))


def modified_kneser_ney(ids, order, vocab_size, triples):
    """Chen and Goodman 1999, section 3, word by word: a dictionary per order and a recursive p."""
    raw = [grams_of(ids, k) for k in range(1, order + 2)]
    tables = []
    for k in range(1, order + 1):
        if k == order:
            tables.append(raw[k - 1])
            continue
        before = defaultdict(set)
        for gram in raw[k]:
            before[gram[1:]].add(gram[0])
        tables.append(Counter({gram: len(words) for gram, words in before.items()}))

    @cache
    def p(w, h):
        if h is None:
            return 1 / vocab_size
        table, triple = tables[len(h)], triples[len(h)]
        discount = lambda c: 0.0 if c == 0 else triple[min(c, 3) - 1]
        row = {v: table[(*h, v)] for v in range(vocab_size)}
        total, shorter = sum(row.values()), h[1:] if h else None
        if total == 0:
            return p(w, shorter)
        n = Counter(min(c, 3) for c in row.values())
        gamma = sum(triple[i - 1] * n[i] for i in (1, 2, 3)) / total
        return (row[w] - discount(row[w])) / total + gamma * p(w, shorter)

    return p


@given(corpora(max_order=5, max_vocab=8), st.tuples(st.floats(0, 1), st.floats(0, 2), st.floats(0, 3)))
@SMALL
def test_modified_kneser_ney_is_that_of_the_paper(corpus, triple):
    ids, order, vocab_size = corpus
    counts = count(ids, order, vocab_size)
    for model in (ModifiedKneserNey(counts, triple), ModifiedKneserNey(counts)):
        p = modified_kneser_ney(ids, order, vocab_size, model.D)
        for context in contexts(ids, order, vocab_size):
            close(model.probs(context), [p(w, tuple(context)) for w in range(vocab_size)])


def test_kneser_ney_estimates_its_discounts_from_continuation_counts():
    rng = np.random.default_rng(0)
    ids = (30 * rng.random(600) ** 3).astype(int).tolist()
    counts = count(ids, 3, 30)
    before = Counter(len({a for a, b in grams_of(ids, 2) if b == w}) for w in set(ids))
    pairs = Counter(Counter(gram[1:] for gram in grams_of(ids, 3)).values())
    triples = Counter(grams_of(ids, 3).values())
    expected = [n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5 for n in (before, pairs, triples)]
    assert [d[0] for d in KneserNey(counts).D] == pytest.approx(expected)
    assert [modified_discounts(n) for n in (before, pairs, triples)] == ModifiedKneserNey(counts).D


def test_modified_kneser_ney_by_hand():
    # 0 1 0 1 0 2, pairs: 01 twice, 10 twice, 02 once. N1+(. w) = 1, 1, 1 of 3. D = (0.5, 1, 1.5).
    model = ModifiedKneserNey(count([0, 1, 0, 1, 0, 2], order=2, vocab_size=4), [0.5, 1, 1.5])
    single = (1 - 0.5) / 3 + (3 * 0.5 / 3) / 4  # each word seen once as a continuation, 1/2 spread over 4 words
    reserve = (1 + 0.5) / 3  # after 0: 1 pays D_2 = 1, 2 pays D_1 = 0.5
    expected = [reserve * single, 1 / 3 + reserve * single, 0.5 / 3 + reserve * single, reserve * 0.5 / 4]
    close(model.probs([0]), expected)


def back_off(ids, order, vocab_size, kept, shorten):
    """Katz 1987 with counts ``kept[k][gram]``; ``shorten`` False spreads the reserve evenly."""

    @cache
    def p(w, h):
        if h is None:
            return 1 / vocab_size
        row = {g[-1]: c for g, c in grams_of(ids, len(h) + 1).items() if g[:-1] == h}
        if not row:
            return lower(w, h)
        keep = {v: kept[len(h)][(*h, v)] for v in row}
        lost = sum(row[v] - keep[v] for v in row)
        total = sum(row.values()) if lost > 0 else sum(row.values()) + 1
        rest = 1 - sum(keep.values()) / total
        if len(row) == vocab_size:  # no unseen word to take the rest: as documented, every word gets its share
            return keep[w] / total + rest * lower(w, h)
        if w in row:
            return keep[w] / total
        return rest * lower(w, h) / sum(lower(v, h) for v in range(vocab_size) if v not in row)

    def lower(w, h):
        return p(w, h[1:] if h else None) if shorten else 1 / vocab_size

    return p


@given(corpora(max_order=4, max_vocab=8, min_size=30), st.integers(2, 6))
@SMALL
def test_katz_is_that_of_the_paper(corpus, cutoff):
    ids, order, vocab_size = corpus
    kept = []
    for k in range(1, order + 1):
        worth = katz_counts(Counter(grams_of(ids, k).values()), cutoff)
        kept.append({gram: worth.get(c, c) for gram, c in grams_of(ids, k).items()})
    p, model = back_off(ids, order, vocab_size, kept, True), Katz(count(ids, order, vocab_size), cutoff)
    for context in contexts(ids, order, vocab_size):
        close(model.probs(context), [p(w, tuple(context)) for w in range(vocab_size)])


@given(corpora(max_order=3, max_vocab=8, min_size=30))
@SMALL
def test_good_turing_spreads_what_simple_good_turing_saves(corpus):
    ids, order, vocab_size = corpus
    kept = []
    for k in range(1, order + 1):
        worth = simple_good_turing(Counter(grams_of(ids, k).values()))
        kept.append({gram: min(worth[c], c) for gram, c in grams_of(ids, k).items()})
    p, model = back_off(ids, order, vocab_size, kept, False), GoodTuring(count(ids, order, vocab_size))
    for context in contexts(ids, order, vocab_size):
        close(model.probs(context), [p(w, tuple(context)) for w in range(vocab_size)])


# --- Every method -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values())
@given(corpora())
@settings(max_examples=60)
def test_every_row_sums_to_one(method, corpus):
    ids, order, vocab_size = corpus
    model = method(count(ids, order, vocab_size))
    for context in contexts(ids, order, vocab_size):
        row = model.probs(context)
        assert row.sum().item() == pytest.approx(1, abs=1e-9)
        assert (row >= 0 if method is MaximumLikelihood else row > 0).all()


@pytest.mark.parametrize("method", SMOOTHED)
@pytest.mark.parametrize("ids", [[0], [0, 0], [0] * 50, [0, 1] * 20, list(range(9)), [0, 0, 1, 1] * 5, [8] * 3 + [7]])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_texts_too_small_to_estimate_from_still_give_distributions(method, ids, order):
    model = method(count(ids, order, 9))
    for context in contexts(ids, order, 9):
        row = model.probs(context)
        assert (row > 0).all() and row.sum().item() == pytest.approx(1, abs=1e-12)


def test_katz_shares_a_reserve_that_almost_no_probability_is_left_to_take():
    """After 0 came only 0, and P(0) itself is 1 - 5e-7: dividing by what is left would lose half the digits."""
    model = Katz(count(torch.zeros(1_000_000, dtype=torch.int64), order=3, vocab_size=2))
    for context in ([], [0], [0, 0], [1]):
        row = model.probs(context)
        assert (row > 0).all() and row.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("method", METHODS.values())
@given(corpora(), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
@SMALL
def test_the_table_the_score_and_single_rows_agree(method, corpus, batch, time, seed):
    ids, order, vocab_size = corpus
    model = method(count(ids, order, vocab_size))
    text = torch.from_numpy(np.random.default_rng(seed).integers(0, vocab_size, (batch, time)))
    table = model(text)
    assert table.shape == (batch, time, vocab_size) and table.dtype == torch.float64
    read = table[:, :-1].gather(-1, text[:, 1:, None])[..., 0]
    torch.testing.assert_close(model.score(text), read, atol=1e-12, rtol=0)
    for b, t in np.ndindex(batch, time):
        assert torch.equal(table[b, t].exp(), model.probs(text[b, : t + 1].tolist()).log().exp())


@pytest.mark.parametrize("method", METHODS.values())
def test_the_contract(method):
    model = method(count([0, 1, 2, 0, 1, 0, 0, 2, 1] * 4, order=3, vocab_size=3))
    assert isinstance(model, LanguageModel) and model.vocab_size == 3 and model.context == 2
    ids = torch.tensor([[0, 1, 2, 0], [1, 0, 0, 1]])
    changed = ids.clone()
    changed[:, 3] = 2
    assert torch.equal(model(ids)[:, :3], model(changed)[:, :3])  # no row reads what stands to its right
    batch = next_token(ids)
    assert loss(model(*batch.inputs), batch.targets).item() == pytest.approx(-model.score(ids).mean().item())


def test_order_one_ignores_the_context():
    model = KneserNey(count([0, 1, 0, 2], order=1, vocab_size=4), 0.5)
    close(model.probs([2]), [1.5 / 4 + 1.5 / 16, 0.5 / 4 + 1.5 / 16, 0.5 / 4 + 1.5 / 16, 1.5 / 16])
    assert model.context == 0 and torch.equal(model.probs([2]), model.probs([0, 1]))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda c: AddK(c, 0.0), r"k=0\.0.*positive"),
        (lambda c: AddK(c, float("nan")), r"k=nan.*positive"),
        (lambda c: KneserNey(c, 1.5), r"discount=1\.5.*0 \.\. 1"),
        (lambda c: KneserNey(c, -0.1), r"discount=-0\.1.*0 \.\. 1"),
        (lambda c: KneserNey(c, [0.5, 0.5]), r"discount=\[0\.5, 0\.5\].*3 orders"),
        (lambda c: ModifiedKneserNey(c, [0.5, 2.5, 1.0]), r"discounts=.*between 0 and r"),
        (lambda c: ModifiedKneserNey(c, [0.5, 1.0]), r"discounts=\[0\.5, 1\.0\].*3 orders"),
        (lambda c: Katz(c, 0), r"cutoff=0"),
        (lambda c: WittenBell(c)(torch.tensor([[0, 9]])), r"ids holds 9, outside 0 \.\. 3"),
        (lambda c: WittenBell(c).score(torch.tensor([[0, -100]])), r"ids holds -100"),
        (lambda c: WittenBell(c).probs([4]), r"ids holds 4"),
    ],
)
def test_what_makes_no_model_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(count([0, 1, 2, 0, 1, 3], order=3, vocab_size=4))


# --- Choosing, saving -------------------------------------------------------------------------------------------------


def test_cross_validation_scores_every_block_with_the_others():
    rng = np.random.default_rng(1)
    ids = torch.from_numpy((20 * rng.random(103) ** 2).astype(int))
    grid = [0.1, 0.5, 0.9]
    best, table = cross_validate(ids, 2, 20, grid, folds=4)
    expected = []
    for discount in grid:
        nats = []
        for start, end in ((0, 26), (26, 52), (52, 78), (78, 103)):
            model = KneserNey(count(torch.cat([ids[:start], ids[end:]]), 2, 20), discount)
            nats += [-math.log(model.probs(ids[t - 1 : t].tolist())[ids[t]]) for t in range(start + 1, end)]
        expected.append(sum(nats) / len(nats))
    assert [value for value, _ in table] == grid and [n for _, n in table] == pytest.approx(expected)
    assert best == grid[int(np.argmin(expected))]


def test_cross_validation_finds_the_right_kind_of_value():
    repeated, random = [0, 1, 2, 3] * 50, np.random.default_rng(0).integers(0, 20, 300).tolist()
    assert cross_validate(repeated, 2, 20, [0.01, 0.5, 0.99]).best == 0.01  # counts can be trusted
    assert cross_validate(random, 2, 20, [0.01, 0.5, 0.99]).best == 0.99  # they cannot
    assert cross_validate(random, 2, 20, [0.01, 1.0, 50.0], method=AddK).best == 50.0
    triples = [[0.1, 0.1, 0.1], [0.9, 1.9, 2.9]]
    assert cross_validate(random, 2, 20, triples, method=ModifiedKneserNey).best == triples[1]


@pytest.mark.parametrize("options", [{"grid": []}, {"grid": [0.5], "folds": 1}, {"grid": [0.5], "folds": 6}])
def test_cross_validation_refuses_what_it_cannot_cut(options):
    with pytest.raises(ValueError, match=r"grid is empty|folds="):
        cross_validate(list(range(10)), 2, 10, **options)


MODELS = [
    *(lambda c, m=m: m(c) for m in METHODS.values()),
    lambda c: AddK(c, 0.25),
    lambda c: Katz(c, 3),
    lambda c: KneserNey(c, [0.0, 0.3, 0.7]),
    lambda c: ModifiedKneserNey(c, (0.3, 0.9, 1.1)),
]


@pytest.mark.parametrize("make", MODELS)
def test_a_saved_model_is_the_same_to_the_last_bit(make, tmp_path):
    rng = np.random.default_rng(2)
    ids = torch.from_numpy((40 * rng.random(500) ** 3).astype(int))
    model = make(count(ids, 3, 41))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert type(again) is type(model) and torch.equal(model(ids[None, :30]), again(ids[None, :30]))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_parameters_may_be_of_numpy(tmp_path):
    for cls, name, value in ((Katz, "cutoff", np.int64(3)), (AddK, "k", np.float32(0.5))):
        made = cls(count([0, 1, 0, 2, 1, 0], 2, 3), **{name: value.item()})
        object.__setattr__(made, name, value)
        made.save(tmp_path)
        assert torch.equal(load(tmp_path).probs([0]), made.probs([0]))


def test_a_damaged_or_foreign_folder_is_refused(tmp_path):
    KneserNey(count([0, 1, 0, 2], 2, 3)).save(tmp_path)
    tensors, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    good_tensors, good_config = tensors.read_bytes(), config.read_text()
    for damaged in (good_tensors[:-1], good_tensors[:-1] + b"\xff", b"", b"PK\x03\x04"):
        tensors.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors is not the file"):
            load(tmp_path)
    tensors.write_bytes(good_tensors)
    for foreign in ("", "[]", good_config[:-20], '{"model_type": "gpt2"}', json.dumps({"method": "Unknown"})):
        config.write_text(foreign)
        with pytest.raises(ValueError, match=r"config\.json does not describe an n-gram model"):
            load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def test_a_failed_write_keeps_the_model_that_was_there(tmp_path, monkeypatch):
    old, new = KneserNey(count([0, 1, 0, 2], 2, 3)), AddK(count([1, 1, 2], 2, 3))
    old.save(tmp_path)

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("os.replace", full)
        new.save(tmp_path)
    object.__setattr__(new, "k", 1j)  # no number that JSON has
    with pytest.raises(AttributeError):
        new.save(tmp_path)
    assert torch.equal(load(tmp_path).probs([0]), old.probs([0]))
    assert len(list(tmp_path.iterdir())) == 2
