"""Strokes from clusters and label images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import StrokesError
from napari_hrdv2.core.explore import Clusters, strokes_of

from .helpers import PATCH, planted


@st.composite
def label_images(draw):
    shape = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(draw(st.integers(1, 6)), *shape))
    scores = ndi.gaussian_filter(scores, (0, *[draw(st.sampled_from([0, 1, 4]))] * 2))
    dtype = draw(st.sampled_from([np.uint8, np.int64, np.uint16]))
    # Labels have gaps between them.
    return 3 * scores.argmax(0).astype(dtype)


def pieces(strokes, label):
    return ndi.label(strokes == label, np.ones((3, 3)))[1]


@given(label_images(), st.integers(1, 5), st.floats(1, 9), st.integers(0, 99))
def test_every_class_is_painted_and_nothing_outside_it(labels, per_class, width, seed):
    before = labels.copy()
    strokes = strokes_of(labels, per_class=per_class, width=width, seed=seed)
    assert strokes.dtype == labels.dtype
    assert strokes.shape == labels.shape
    assert np.array_equal(strokes[strokes > 0], labels[strokes > 0])
    assert set(np.unique(strokes[strokes > 0])) == set(np.unique(labels[labels > 0]))
    assert np.bincount(strokes.ravel())[1:].max(initial=0) <= per_class * round(25 * width)
    again = strokes_of(labels, per_class=per_class, width=width, seed=seed)
    assert np.array_equal(strokes, again)
    assert np.array_equal(labels, before)


@given(label_images(), st.integers(0, 99))
def test_of_uncertain_pixels_none_is_painted(labels, seed):
    certainty = np.random.default_rng(seed).random(labels.shape)
    strokes = strokes_of(labels, certainty=certainty)
    for label in np.unique(labels[labels > 0]):
        mine = labels == label
        assert certainty[strokes == label].min() >= np.median(certainty[mine])


def disks(shape, *circles):
    """Labels of circles (label, y, x, radius) on a ground of 1."""
    labels = np.ones(shape, np.uint8)
    y, x = np.indices(shape)
    for label, cy, cx, radius in circles:
        labels[np.hypot(y - cy, x - cx) <= radius] = label
    return labels


def test_the_widest_region_comes_first_then_the_next():
    labels = disks((120, 160), (2, 40, 40, 30), (2, 80, 120, 20), (2, 20, 140, 17))
    regions, _ = ndi.label(labels == 2)
    middles = [(40, 40), (80, 120), (20, 140)]
    for count in (1, 2, 3):
        strokes = strokes_of(labels, per_class=count)
        touched = set(np.unique(regions[strokes == 2]))
        assert touched == {regions[one] for one in middles[:count]}
        assert all(strokes[one] == 2 for one in middles[:count])


def test_strokes_keep_away_from_borders_where_there_is_room():
    labels = disks((200, 200), (2, 100, 100, 60))
    for width in (1, 3, 7):
        strokes = strokes_of(labels, width=width)
        for label in (1, 2):
            depth = ndi.distance_transform_edt(labels == label)
            # Its middle line keeps as far away as it is wide.
            assert depth[strokes == label].min() >= width / 2 - 0.5


def test_thin_regions_are_painted_too():
    labels = np.ones((60, 60), np.uint8)
    labels[30] = 2
    labels[5, 5] = 3
    strokes = strokes_of(labels)
    assert (strokes == 2).any()
    assert strokes[5, 5] == 3


def test_strokes_are_short_and_few():
    labels = np.repeat(np.uint16([1, 2]), 100)[:, None].repeat(200, 1)
    strokes = strokes_of(labels, per_class=3)
    for label in (1, 2):
        assert 2 <= pieces(strokes, label) <= 3
        assert 20 < (strokes == label).sum() <= 3 * 75
    assert not np.array_equal(strokes, strokes_of(labels, per_class=3, seed=1))


def test_further_classes_do_not_move_strokes():
    labels = disks((90, 90), (2, 45, 45, 20))
    strokes = strokes_of(labels)
    assert np.array_equal(strokes_of(np.where(labels == 1, 0, labels)) == 2, strokes == 2)


def test_one_class_everywhere_and_none_at_all():
    assert (strokes_of(np.ones((40, 40), bool)) == 1).any()
    assert not strokes_of(np.zeros((40, 40), np.uint8)).any()
    assert strokes_of(np.zeros((0, 4), np.uint8)).shape == (0, 4)


def test_strokes_of_clusters_train_what_finds_the_clusters():
    truth = np.repeat([[0] * 12, [1] * 12, [2] * 12], 4, axis=0)
    tokens = planted(truth)
    clusters = Clusters.fit([tokens], 12).merged(n_classes=3)
    labels = clusters.segment(tokens)
    strokes = strokes_of(labels, certainty=clusters.probabilities(tokens).max(-1))
    assert 0 < (strokes > 0).mean() < 0.1
    found = PixelClassifier(C=0.01, emphasis=0.3).fit(tokens, strokes).predict(tokens)
    assert (found == labels).mean() > 0.97
    assert len(np.unique(labels[2 * PATCH :: 4 * PATCH, 0])) == 3


def test_what_cannot_be_is_said():
    labels = np.ones((5, 5), int)
    with pytest.raises(StrokesError, match="whole numbers"):
        strokes_of(labels * 1.0)
    with pytest.raises(StrokesError, match="labels go from 1"):
        strokes_of(-labels)
    with pytest.raises(StrokesError, match="1 pixel wide"):
        strokes_of(labels, width=0)
    with pytest.raises(StrokesError, match="at least one stroke"):
        strokes_of(labels, per_class=0)
    with pytest.raises(StrokesError, match="same image"):
        strokes_of(labels, certainty=labels[1:])
    with pytest.raises(StrokesError, match="not finite"):
        strokes_of(labels, certainty=labels * np.nan)
