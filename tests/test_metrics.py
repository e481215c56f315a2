"""Figures of merit against scikit-learn, and against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as truth

from mlaas4hep.training.metrics import accuracy, all_classes, auc, auc_uncertainty, cross_entropy, roc_curve


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


def test_auc_without_a_class_is_not_a_number():
    assert np.isnan(auc(np.ones(5, int), np.full((5, 1), 0.3)))


def test_one_output_stands_for_two_classes():
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
