from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from napari_hrdv2._evaluate.scores import agreement, counted, mask_iou, matched, mean_iou, of_labels

from .helpers import rectangle


def test_iou_of_masks():
    first, second = rectangle(0, 0, 10, 10), rectangle(5, 5, 10, 25)
    assert mask_iou(first, second) == 25 / 175
    assert mask_iou(first, first) == 1
    assert mask_iou(first, ~first) == 0
    empty = np.zeros_like(first)
    assert mask_iou(first, empty) == mask_iou(empty, empty) == 0


def test_agreement_by_hand():
    found = agreement(np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0], [0, 4, 0]]))
    assert found.accuracy == 8 / 15
    assert found.ious == (5 / 8, 3 / 10, None)
    assert found.mean_iou == pytest.approx((5 / 8 + 3 / 10) / 2)


def test_a_class_found_but_nowhere_true_has_iou_0():
    found = agreement(np.array([[4, 0], [1, 0]]))
    assert found.ious == (4 / 5, 0)


@pytest.mark.parametrize("clusters", [2, 4, 6])
def test_clusters_are_matched_as_well_as_can_be(rng, clusters):
    counts = rng.integers(0, 50, (clusters, 4))
    classes_of, by_class = matched(counts)
    assert by_class.shape == (5, 4)
    assert by_class.sum() == counts.sum()
    assert len(set(classes_of.values())) == len(classes_of) == min(clusters, 4)
    ways = permutations(range(max(clusters, 4)), clusters)
    best = max(sum(counts[k, c] for k, c in enumerate(way) if c < 4) for way in ways)
    assert np.trace(by_class) == best
    for k, c in classes_of.items():
        np.testing.assert_array_equal(by_class[c], counts[k])


def test_pixels_by_class_with_an_absent_one_and_unknown_pixels():
    truth = np.array([[0, 0, 0, 0], [1, 1, 3, -1], [3, 3, 3, -1]])
    found = np.array([[0, 0, 0, 1], [1, 0, 3, 2], [3, 1, 3, 2]])
    counts = counted(truth, found, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 3]]
    scores = agreement(counts)
    # 7 of 10; class 0: 3 of 3 + 1 + 1; class 1: 1 of 1 + 1 + 2; class 3: 3 of 4; class 2: nowhere.
    assert scores.accuracy == 0.7
    assert scores.ious == (0.6, 0.25, None, 0.75)
    assert scores.mean_iou == pytest.approx((0.6 + 0.25 + 0.75) / 3)


def test_agreement_as_scikit_learn(rng):
    truth, found = rng.integers(1, 6, (2, 40, 50))
    known = truth.copy()
    known[:10] = 0
    flat = truth[10:].ravel(), found[10:].ravel()
    assert mean_iou(known, found) == pytest.approx(jaccard_score(*flat, average="macro"))
    assert of_labels(known, found)[1].accuracy == pytest.approx(accuracy_score(*flat))


def test_labels_may_be_any_whole_numbers():
    truth = np.array([[7, 7, 900], [0, 900, 900]])
    found = np.array([[7, 900, 900], [3, 900, 12]])
    labels, scores = of_labels(truth, found)
    assert labels.tolist() == [7, 12, 900]
    assert scores.ious == (0.5, 0, 0.5)
