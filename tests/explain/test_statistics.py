"""Statistics of comparisons against SciPy, the textbook and by hand."""

from math import comb, erf, isnan, sqrt

import numpy as np
import pytest
import scipy.stats

from cifar_core.explain.statistics import agreement, holm, mcnemar, missed_by_all, recalls, spread


def test_spread_is_the_t_interval():
    values = [0.91, 0.93, 0.90, 0.95]
    found = spread(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert spread([0.59, 0.61]).high - 0.6 == pytest.approx(12.706204736 * 0.01)  # t of one degree of freedom
    assert (spread([0.98, 1.0]).high, spread([0.01, 0.0]).low) == (1, 0)  # of an accuracy
    single = spread([0.5])
    assert (single.count, single.mean, isnan(single.std), isnan(single.low)) == (1, 0.5, True, True)
    assert isnan(spread([]).mean)


def hits(only_a: int, only_b: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both + [False])
    b = np.array([False] * only_a + [True] * only_b + [True] * both + [False])
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 3), (0, 6), (8, 1), (31, 12), (5, 4)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int):
    found = mcnemar(*hits(only_a, only_b))
    n = only_a + only_b
    tail = sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert found.p == pytest.approx(scipy.stats.binomtest(only_a, n, 0.5).pvalue if n else 1)
    assert mcnemar(*reversed(hits(only_a, only_b))).p == found.p


def test_mcnemar_nears_the_chi_square_formula_for_many_pictures():
    """(|b - c| - 1)^2 / (b + c), one degree of freedom, as statsmodels' mcnemar(exact=False) has it."""
    b, c = 1040, 950
    statistic = (abs(b - c) - 1) ** 2 / (b + c)
    assert mcnemar(*hits(b, c)).p == pytest.approx(1 - erf(sqrt(statistic / 2)), rel=0.01)
    with pytest.raises(ValueError, match="of the same pictures"):
        mcnemar(np.array([True]), np.array([True, False]))


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_rejects_what_its_definition_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.1, 8)
        rejected = []
        for step, row in enumerate(np.argsort(p)):
            if p[row] > 0.05 / (len(p) - step):
                break
            rejected.append(row)
        assert set(np.flatnonzero(np.array(holm(p)) <= 0.05)) == set(rejected)


def test_agreement_and_missed_pictures_by_hand():
    labels = np.array([0, 1, 2, 2, 0])
    preds = np.array([[0, 1, 1, 0, 2], [0, 2, 1, 1, 2], [0, 1, 1, 0, 1]])
    found = agreement(labels, preds)
    assert (found.all_right, found.all_wrong) == (0.2, 0.6)
    pairs = [(preds[a] == preds[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.same_answer == pytest.approx(np.mean(pairs))
    missed = missed_by_all(labels, preds)
    assert missed.rows.tolist() == [2, 3, 4]
    assert missed.answers.tolist() == [1, 0, 2]
    assert missed.shares == pytest.approx([1, 2 / 3, 2 / 3])
    assert missed_by_all(labels, labels[None]).rows.tolist() == []


def test_recall_of_each_class():
    found = recalls(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2]), 3)
    assert found[:2] == pytest.approx([1 / 2, 2 / 3])
    assert isnan(found[2])
