"""Refinement in a real window."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from napari_hrdv2._session import Session
from napari_hrdv2._widgets.refine import RefineOptions
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.refine import Refinement

from .test_panel import add_job, halves, two_strokes

_SEGMENTATION = "halves segmentation"


@pytest.fixture
def segmented(viewer: Any, tiny_panel: Any, finished: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The layer of a segmentation after which nothing may be extracted or trained."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("more is done than to refine")

    # Without filters borders are as coarse as the tokens.
    tiny_panel.session.configure(filters=False)
    add_job(viewer)
    finished(tiny_panel)
    monkeypatch.setattr(FeatureExtractor, "_forward", refuse)
    monkeypatch.setattr(PixelClassifier, "learn", refuse)
    return viewer.layers[_SEGMENTATION]


def test_the_segmentation_follows_the_options(
    segmented: Any, tiny_panel: Any, finished: Any, told: Any
) -> None:
    truth = np.where(np.arange(70) < 35, 1, 2)
    plain = segmented.data.copy()
    options = tiny_panel.refine.numbers
    assert {box.text() for box in options.values()} == {"off"}
    options["guided"].setValue(12)
    finished(tiny_panel)
    assert (segmented.data != truth).sum() < (plain != truth).sum() / 2
    options["guided"].setValue(0)
    finished(tiny_panel)
    np.testing.assert_array_equal(segmented.data, plain)
    # To and fro before anything was done.
    options["guided"].setValue(12)
    options["guided"].setValue(0)
    finished(tiny_panel)
    np.testing.assert_array_equal(segmented.data, plain)
    assert told == []


def test_without_live_update_it_waits(segmented: Any, tiny_panel: Any, finished: Any) -> None:
    plain = segmented.data.copy()
    tiny_panel.live_box.setChecked(False)
    tiny_panel.refine.numbers["guided"].setValue(12)
    finished(tiny_panel)
    np.testing.assert_array_equal(segmented.data, plain)
    tiny_panel.live_box.setChecked(True)
    finished(tiny_panel)
    assert (segmented.data != plain).any()


def test_a_model_that_was_applied_is_refined(
    viewer: Any, tiny_panel: Any, finished: Any, click: Any
) -> None:
    tiny_panel.session.configure(filters=False)
    _, strokes = add_job(viewer)
    finished(tiny_panel)
    strokes.data = np.zeros_like(strokes.data)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert "Applied the model" in tiny_panel.status.text()
    layer = viewer.layers[_SEGMENTATION]
    plain = layer.data.copy()
    tiny_panel.refine.numbers["guided"].setValue(12)
    finished(tiny_panel)
    assert (layer.data != plain).any()


def test_a_class_that_vanishes_is_told(
    viewer: Any, tiny_panel: Any, finished: Any, told: Any
) -> None:
    image, strokes = halves(), two_strokes()
    image[40:46, 20:26] = 255
    strokes[41:44, 21:24] = 3
    add_job(viewer, image, strokes)
    finished(tiny_panel)
    size = int((viewer.layers[_SEGMENTATION].data == 3).sum())
    assert 0 < size < 1000
    tiny_panel.refine.numbers["min_size"].setValue(size + 1)
    finished(tiny_panel)
    assert 3 not in viewer.layers[_SEGMENTATION].data
    assert told == ["Nothing is left of 'class 3' after refining: refine less."]
    assert told[0] in tiny_panel.status.text()


def test_the_crf_where_it_is_and_where_not(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    options = RefineOptions(Session())
    qtbot.addWidget(options)
    assert not options.crf.isEnabled()
    assert "pip install 'napari-hrdv2[crf]'" in options.crf.toolTip()
    monkeypatch.undo()
    pytest.importorskip("pydensecrf")
    session = Session()
    options = RefineOptions(session)
    qtbot.addWidget(options)
    options.crf.setChecked(True)
    assert session.refinement == Refinement(crf=True)
