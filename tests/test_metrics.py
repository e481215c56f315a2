"""Metrics, compared with scikit-learn and with explicit calculations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstwo
from sklearn import metrics as truth

from mlaas4hep.backends.metrics import (
    accuracy,
    all_classes,
    asymptotic_kolmogorov,
    auc,
    auc_uncertainty,
    calibration,
    confusion_matrix,
    cross_entropy,
    effective_events,
    kolmogorov_smirnov,
    roc_curve,
)


def test_auc_counts_pairs_with_ties_as_half():
    y = np.array([0, 0, 1, 1])
    scores = np.array([[0.1], [0.5], [0.5], [0.9]])
    assert auc(y, scores) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_auc_and_loss_agree_with_scikit_learn_with_weights_and_ties(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 200)
    scores = np.round(rng.uniform(0.01, 0.99, (200, 1)), 2)
    weight = rng.exponential(1, 200)
    assert auc(y, scores, weight) == pytest.approx(truth.roc_auc_score(y, scores[:, 0], sample_weight=weight))
    assert cross_entropy(y, scores, weight) == pytest.approx(truth.log_loss(y, scores[:, 0], sample_weight=weight))
    assert accuracy(y, scores) == pytest.approx(np.mean((scores[:, 0] > 0.5) == y))


def test_auc_of_three_classes_is_the_mean_of_each_against_the_others():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 300)
    scores = rng.dirichlet([1, 1, 1], 300)
    assert auc(y, scores) == pytest.approx(truth.roc_auc_score(y, scores, multi_class="ovr"))


def test_auc_without_a_class_is_nan():
    assert np.isnan(auc(np.ones(5, int), np.full((5, 1), 0.3)))


def test_one_output_represents_two_classes():
    assert all_classes(np.array([[0.25]])).tolist() == [[0.75, 0.25]]


def test_roc_curve_has_the_points_of_scikit_learn():
    rng = np.random.default_rng(2)
    y, score = rng.integers(0, 2, 100), np.round(rng.uniform(size=100), 1)
    false, true = roc_curve(y == 1, score)
    expected = truth.roc_curve(y, score, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])


def test_auc_uncertainty_is_the_spread_of_repeated_samples():
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1], 200)
    areas = [auc(y, rng.normal(y, 1, (1, 400)).T) for _ in range(400)]
    assert auc_uncertainty(float(np.mean(areas)), 200, 200) == pytest.approx(np.std(areas), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_weighted_roc_curve_integrates_to_the_auc_also_with_negative_weights(seed, signed):
    rng = np.random.default_rng(seed)
    y, score = rng.integers(0, 2, 300), np.round(rng.uniform(size=300), 2)
    weight = rng.exponential(1, 300) * (rng.choice([1, 1, 1, 1, -1], 300) if signed else 1)
    false, true = roc_curve(y == 1, score, weight)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = ((true[1:] + true[:-1]) / 2 * np.diff(false)).sum()
    assert area == pytest.approx(auc(y, score[:, None], weight), abs=1e-9)


def test_an_integer_weight_counts_as_repetition():
    rng = np.random.default_rng(4)
    y, score, weight = rng.integers(0, 2, 100), np.round(rng.uniform(size=100), 1), rng.integers(1, 5, 100)
    again = np.repeat(np.arange(100), weight)
    for weighted, repeated in zip(
        roc_curve(y == 1, score, weight), roc_curve(y[again] == 1, score[again]), strict=True
    ):
        np.testing.assert_allclose(weighted, repeated)


def test_effective_events_are_those_of_weight_one_with_the_same_relative_error():
    assert effective_events(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_events(np.array([2.0, 1.0, -1.0])) == pytest.approx(4 / 6)
    assert effective_events(np.zeros(0)) == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_the_confusion_matrix_agrees_with_scikit_learn(classes):
    rng = np.random.default_rng(5)
    y, scores, weight = rng.integers(0, classes, 400), rng.dirichlet(np.ones(classes), 400), rng.normal(1, 1, 400)
    given_scores = scores[:, 1:] if classes == 2 else scores
    expected = truth.confusion_matrix(y, scores.argmax(axis=1), sample_weight=weight, labels=range(classes))
    np.testing.assert_allclose(confusion_matrix(y, given_scores, weight), expected)


def test_the_kolmogorov_smirnov_test_is_that_of_scipy():
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=700).astype(np.float32), np.round(rng.normal(0.1, 1, 300), 1).astype(np.float32)
    expected = ks_2samp(first, second, method="asymp")
    distance, p = kolmogorov_smirnov(first, second)
    assert distance == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, rel=0.15)  # the formula is good to a few per cent


def test_the_kolmogorov_smirnov_test_counts_weights_as_events():
    rng = np.random.default_rng(7)
    first, second, weight = rng.normal(size=200), rng.normal(size=100), rng.integers(1, 4, 200)
    distance, p = kolmogorov_smirnov(first, second, weight)
    assert distance == pytest.approx(ks_2samp(np.repeat(first, weight), second).statistic)
    size = effective_events(weight)
    assert p == pytest.approx(kstwo.sf(distance, round(size * 100 / (size + 100))), abs=0.02)
    assert np.isnan(kolmogorov_smirnov(first, np.zeros(0))).all()
    assert np.isnan(kolmogorov_smirnov(first, second[:3])[1])


@pytest.mark.parametrize(("distance", "size"), [(0.05, 100), (0.02, 5000), (0.03, 5000), (0.1, 300), (0.001, 1000)])
def test_without_scipy_the_p_value_is_about_the_same(distance, size):
    assert asymptotic_kolmogorov(distance, size) == pytest.approx(kstwo.sf(distance, size), abs=0.01)


def test_p_values_of_equal_samples_are_uniform():
    rng = np.random.default_rng(8)
    p = [kolmogorov_smirnov(*rng.normal(size=(2, 500)), rng.exponential(1, 500))[1] for _ in range(300)]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.04)


def test_calibration_counts_events_in_ten_bins():
    rng = np.random.default_rng(9)
    p, weight = rng.uniform(0, 0.75, 2000), rng.exponential(1, 2000)
    right = rng.uniform(size=2000) < p
    found = calibration(right, p, weight)
    assert len(found.share) == 8  # none above 0.8
    error = 0.0
    for index in range(8):
        mine = (p >= index / 10) & (p < (index + 1) / 10)
        assert found.predicted[index] == pytest.approx(np.average(p[mine], weights=weight[mine]))
        assert found.observed[index] == pytest.approx(np.average(right[mine], weights=weight[mine]))
        assert found.share[index] == pytest.approx(weight[mine].sum() / weight.sum())
        error += found.share[index] * abs(found.observed[index] - found.predicted[index])
    assert found.expected_error == pytest.approx(error)
    assert (found.low < found.observed).all()
    assert (found.observed < found.high).all()


def test_the_interval_of_a_fraction_is_binomial():
    found = calibration(np.arange(1000) < 300, np.full(1000, 0.3))
    assert (found.high - found.low).item() / 2 == pytest.approx(np.sqrt(0.3 * 0.7 / 1000), rel=0.01)
    never = calibration(np.zeros(50, bool), np.full(50, 0.01))
    assert never.low == pytest.approx(0)
    assert never.high == pytest.approx(1 / 51)
