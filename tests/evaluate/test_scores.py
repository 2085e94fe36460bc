from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from napari_hrdv2._evaluate.scores import agreement, mask_iou, matched

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
