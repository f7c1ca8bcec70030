"""Marks against the libraries that define them, counts by hand, and repeated sampling."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, ndcg_score

from minilm import metrics

WORDS = "the a cat sat on mat it rained in Spain all day and then stopped .".split()


def sentences(seed, n=30):
    """References and hypotheses that share most of their words."""
    rng = np.random.default_rng(seed)
    right = [" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(n)]
    said = [" ".join(w if rng.random() < 0.8 else rng.choice(WORDS) for w in text.split()) for text in right]
    return said, right


labels = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.sampled_from("abcd"), min_size=n, max_size=n) for _ in range(2)])
)


@given(labels)
@settings(max_examples=25, deadline=None)
def test_accuracy_and_f1_are_those_of_scikit_learn(columns):
    predicted, references = columns
    assert metrics.accuracy(predicted, references).value == pytest.approx(accuracy_score(references, predicted))
    expected = f1_score(references, predicted, average="macro", zero_division=0)
    assert metrics.f1(predicted, references).value == pytest.approx(expected)


def by_definition(predicted, references):
    """Macro F1 from hits, claims and cases of each class that occurs."""
    each = [(predicted == c, references == c) for c in sorted({*predicted, *references})]
    return np.mean([2 * (said & right).sum() / (said.sum() + right.sum()) for said, right in each])


def test_f1_is_computed_anew_on_each_resample():
    rng = np.random.default_rng(0)
    references = rng.choice(list("aaab"), 50)
    predicted = np.where(rng.random(50) < 0.7, references, rng.choice(list("ab"), 50))
    assert metrics.f1(predicted, references) == pytest.approx(metrics.estimate(by_definition, predicted, references))


def test_estimate_draws_what_scipy_draws_for_paired_columns():
    a, b = np.random.default_rng(0).random((2, 40))
    ratio = lambda x, y, axis=-1: x.sum(axis) / y.sum(axis)
    how = {"paired": True, "n_resamples": 2_000, "method": "percentile", "rng": 0}
    low, high = stats.bootstrap((a, b), ratio, **how).confidence_interval
    assert metrics.estimate(ratio, a, b) == (a.sum() / b.sum(), low, high)
    assert metrics.estimate(lambda x, y: x.sum() / y.sum(), a, b) == pytest.approx(metrics.estimate(ratio, a, b))


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    intervals = [metrics.estimate(np.mean, rng.random(200) < 0.7) for _ in range(200)]
    assert 180 <= sum(e.low <= 0.7 <= e.high for e in intervals) <= 198


def test_columns_are_drawn_together():
    column = np.random.default_rng(0).normal(size=50)
    assert metrics.estimate(lambda a, b: (a - b).mean(), column + 1, column)[:3] == pytest.approx((1, 1, 1))


def test_rows_are_drawn_whole():
    rows = np.random.default_rng(0).normal(size=(50, 1)) @ [[1.0, -1.0]]
    assert metrics.estimate(lambda x, axis=-1: x.sum(), rows)[:3] == pytest.approx((0, 0, 0), abs=1e-9)


def test_one_example_has_no_interval():
    value, low, high = metrics.mrr([1])
    assert value == 1 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("n", [1, 3, 80])
def test_where_all_are_right_or_none_the_interval_of_a_share_is_known(n):
    """In closed form: at a share of 0 it ends at z^2 / (n + z^2), at 1 it is mirrored."""
    z2 = stats.norm.ppf(0.975) ** 2
    assert metrics.exact_match(["a"] * n, ["b"] * n) == pytest.approx((0, 0, z2 / (n + z2)))
    assert metrics.accuracy(["a"] * n, ["a"] * n) == pytest.approx((1, n / (n + z2), 1))
    assert metrics.recall_at([2] * n, 2) == pytest.approx((1, n / (n + z2), 1))


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_ends_of_a_shares_interval_are_what_a_z_test_would_just_not_reject(marks):
    value, *ends = metrics.share(marks)
    assert value == pytest.approx(np.mean(marks))
    for p in ends:
        assert abs(value - p) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(p * (1 - p) / len(marks)), abs=1e-9)
    with pytest.raises(ValueError, match="one mark or more"):
        metrics.share([])


def test_one_pair_decides_nothing():
    value, low, high, p = metrics.paired([1], [0])
    assert (value, p) == (1, 1) and math.isnan(low) and math.isnan(high)


def test_paired_knows_whose_mark_is_whose():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 300)
    better, worse = hard + 0.1 + rng.normal(0, 0.1, 300), hard + rng.normal(0, 0.1, 300)
    ahead, behind = metrics.paired(better, worse), metrics.paired(worse, better)
    assert 0 < ahead.low < ahead.value < ahead.high and ahead.p < 0.001
    assert behind.value == pytest.approx(-ahead.value) and behind.high < 0
    assert metrics.estimate(np.mean, better).low < metrics.estimate(np.mean, worse).value  # unpaired, they overlap


def test_permutation_of_right_and_wrong_is_the_sign_test():
    a = np.array([1] * 9 + [0] * 2 + [1] * 5)
    b = np.array([0] * 9 + [1] * 2 + [1] * 5)
    assert metrics.paired(a, b).p == pytest.approx(stats.binomtest(9, 11).pvalue, abs=0.01)


def test_permutation_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [metrics.paired(*rng.normal(size=(2, 12))).p for _ in range(40)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    "answer, references, exact, f1",
    [
        ("The Cat!", "cat", 1, 1),
        ("theatre", "atre", 0, 0),  # an article is a word, not letters
        ("a big cat", "big dog", 0, 0.5),
        ("new new york", "new york", 0, 0.8),  # a repeated word counts as often as it stands in both
        ("", "the", 1, 1),
        ("", "cat", 0, 0),
        ("Washington", ["Washington D.C.", "Washington"], 1, 1),
    ],
)
def test_answers_are_compared_as_in_squad(answer, references, exact, f1):
    assert metrics.exact_match([answer], [references]).value == exact
    assert metrics.token_f1([answer], [references]).value == pytest.approx(f1)


@pytest.mark.parametrize("seed", range(3))
def test_text_metrics_are_those_of_the_libraries(seed):
    said, right = sentences(seed)
    assert metrics.bleu(said, right).value == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)
    assert metrics.chrf(said, right).value == pytest.approx(sacrebleu.corpus_chrf(said, [right]).score)
    for kind in ("rouge1", "rouge2", "rougeL"):
        one_by_one = [RougeScorer([kind]).score(r, s)[kind].fmeasure for s, r in zip(said, right, strict=True)]
        assert metrics.rouge(said, right, kind).value == pytest.approx(np.mean(one_by_one))


def test_rouge_counts_words_of_any_script():
    same = ["大语言模型 2024", "Ещё раз", "C'était l'été", "हिन्दी में"]
    assert metrics.rouge(same, same, "rouge2").value == 1
    assert metrics.rouge(["été"], ["âtà"]).value == metrics.rouge(["语言"], ["模型"]).value == 0
    assert metrics.rouge(["大模型"], ["大语言模型"], "rouge1").value == pytest.approx(2 * 3 / (3 + 5))


def test_text_metrics_have_the_interval_of_whole_corpora_drawn_anew():
    said, right = (np.array(side) for side in sentences(0))
    for mark, whole in ((metrics.bleu, sacrebleu.corpus_bleu), (metrics.chrf, sacrebleu.corpus_chrf)):
        rng = np.random.default_rng(0)
        draws = [rng.integers(0, len(said), len(said)) for _ in range(200)]
        values = [whole(said[i].tolist(), [right[i].tolist()]).score for i in draws]
        assert mark(said.tolist(), right.tolist())[1:] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=2)


def test_chinese_is_counted_in_characters():
    assert metrics.bleu(["我喜欢猫和狗"], ["我喜欢猫和鸟"], tokenize="zh").value > 50
    assert metrics.bleu(["我喜欢猫和狗"], ["我喜欢猫和鸟"]).value < 1


def test_ranks_start_at_one():
    ranks = [1, 2, 10, 11, math.inf]
    assert [metrics.recall_at(ranks, k).value for k in (1, 2, 10, 11)] == [0.2, 0.4, 0.6, 0.8]
    by_hand = np.mean([1, 1 / 2, 1 / 10, 1 / 11, 0])
    assert metrics.mrr(ranks).value == pytest.approx(by_hand)
    # one relevant passage: nDCG is 1 / log2(1 + rank), an outside witness that ranks count from one
    assert ndcg_score([[0, 1, 0]], [[3, 2, 1]]) == pytest.approx(1 / np.log2(1 + 2))


def test_calibration_by_hand():
    probabilities, came_true = [0.05, 0.15, 0.15, 0.95, 1.0], [0, 1, 0, 1, 1]
    by_bin = [(0.05 - 0), (1 - 0.3), (2 - 1.95)]
    assert metrics.calibration_error(probabilities, came_true).value == pytest.approx(sum(by_bin) / 5)
    assert metrics.calibration_error(probabilities, came_true, bins=1).value == pytest.approx(abs(3 - 2.3) / 5)


def test_a_calibrated_forecaster_has_almost_no_error_and_an_overconfident_one_has():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    came_true = rng.random(20_000) < p
    assert metrics.calibration_error(p, came_true).value < 0.02
    assert metrics.calibration_error(np.where(p > 0.5, 0.99, 0.01), came_true).value > 0.2


def test_of_classes_the_likeliest_is_the_event():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 500)
    right = rng.integers(0, 3, 500)
    expected = metrics.calibration_error(p.max(1), p.argmax(1) == right)
    assert metrics.calibration_error(p, right) == expected
    assert metrics.brier(p, right).value == pytest.approx(brier_score_loss(right, p, labels=[0, 1, 2]))
    assert metrics.brier(p[:, 0], right == 0).value == pytest.approx(brier_score_loss(right == 0, p[:, 0]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.estimate(np.mean, []), r"\[0\] examples"),
        (lambda: metrics.estimate(np.mean, [1, 2], [1]), r"\[2, 1\] examples"),
        (lambda: metrics.calibration_error([-1.2, 0.3], [0, 1]), "not logits"),
        (lambda: metrics.accuracy(["a"], ["a", "b"]), "argument 2"),
        (lambda: metrics.bleu(["a"], ["a", "b"]), "argument 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
