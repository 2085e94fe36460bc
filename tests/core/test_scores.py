from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from napari_hrdv2.core.scores import Confusion, confusion_of, mean_iou


def test_by_hand_with_an_absent_class_and_ignored_pixels():
    truth = np.array([[0, 0, 0, 0], [1, 1, 3, -1], [3, 3, 3, 255]])
    found = np.array([[0, 0, 0, 1], [1, 0, 3, 2], [3, 1, 3, 2]])
    counts = confusion_of(truth, found, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 3]]
    scores = Confusion(counts)
    # 7 of 10; class 0: 3 of 3 + 1 + 1; class 1: 1 of 1 + 1 + 2; class 3: 3 of 4; class 2: nowhere.
    assert scores.accuracy == 0.7
    np.testing.assert_allclose(scores.iou, [0.6, 0.25, np.nan, 0.75])
    assert scores.mean_iou == pytest.approx((0.6 + 0.25 + 0.75) / 3)


def test_a_class_that_is_only_found_counts_as_missed():
    assert Confusion(confusion_of(np.zeros((2, 2), int), np.array([[0, 0], [0, 1]]), 3)).iou[
        :2
    ].tolist() == [0.75, 0]


def test_as_scikit_learn(rng):
    truth, found = rng.integers(1, 6, (2, 40, 50))
    known = truth.copy()
    known[:10] = 0
    assert mean_iou(known, found) == pytest.approx(
        jaccard_score(truth[10:].ravel(), found[10:].ravel(), average="macro")
    )
    scores = Confusion(confusion_of(known - 1, found - 1, 5))
    assert scores.accuracy == pytest.approx(accuracy_score(truth[10:].ravel(), found[10:].ravel()))


def test_labels_of_mean_iou_may_be_any():
    truth = np.array([[7, 7, 900], [0, 900, 900]])
    found = np.array([[7, 900, 900], [3, 900, 12]])
    # 7: 1 of 2; 900: 2 of 4; 12: 0 of 1.
    assert mean_iou(truth, found) == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_of_nothing_known():
    scores = Confusion(confusion_of(np.full((2, 2), -1), np.zeros((2, 2), int), 2))
    assert np.isnan(scores.accuracy)
    assert np.isnan(scores.mean_iou)
    assert np.isnan(mean_iou(np.zeros((2, 2), int), np.ones((2, 2), int)))


def test_refuses_other_shapes_and_classes():
    with pytest.raises(ValueError, match="shape"):
        confusion_of(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match="below 2"):
        confusion_of(np.zeros((2, 2), int), np.full((2, 2), 2), 2)
