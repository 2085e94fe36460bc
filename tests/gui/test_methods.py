"""The choice of a classifier in a real window."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_hrdv2 import _job
from napari_hrdv2.core.base import BasePixelClassifier

from .test_panel import add_job, halves

_SEGMENTATION = "halves segmentation"


def choose(panel: Any, title: str) -> None:
    """Choose a classifier as a user does."""
    box = panel.advanced.method
    box.setCurrentIndex(box.findText(title))
    box.activated.emit(box.currentIndex())


def test_trees_wait_to_be_asked_and_linear_ones_follow(
    viewer: Any, tiny_panel: Any, finished: Any, click: Any, told: Any, monkeypatch: Any
) -> None:
    learn, fitted = BasePixelClassifier.learn, []

    def recording(self: Any, *args: Any, **options: Any) -> Any:
        fitted.append(self.method)
        return learn(self, *args, **options)

    monkeypatch.setattr(BasePixelClassifier, "learn", recording)
    _, strokes = add_job(viewer)
    finished(tiny_panel)
    layer = viewer.layers[_SEGMENTATION]
    linear = layer.data.copy()
    fitted.clear()

    def paint(label: int, column: int) -> None:
        strokes.data_setitem((np.arange(40, 44), np.full(4, column)), label)
        finished(tiny_panel)

    choose(tiny_panel, "Random forest")
    finished(tiny_panel)
    paint(1, 4)
    tiny_panel.refine.numbers["guided"].setValue(2)
    finished(tiny_panel)
    tiny_panel.refine.numbers["guided"].setValue(0)
    finished(tiny_panel)
    assert fitted == []
    np.testing.assert_array_equal(layer.data, linear)
    assert "press Segment" in tiny_panel.status.text()

    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert fitted == ["forest"]
    assert "press Segment again" in tiny_panel.status.text()
    forest = layer.data.copy()
    assert (forest != linear).any()
    tiny_panel.next_class()
    tiny_panel._toggle_segmentation()
    assert not layer.visible
    tiny_panel._toggle_segmentation()
    paint(2, 60)
    assert fitted == ["forest"]
    np.testing.assert_array_equal(layer.data, forest)

    choose(tiny_panel, "Ridge regression")
    finished(tiny_panel)
    assert set(fitted[1:]) == {"ridge"}
    ridge = layer.data.copy()
    assert (ridge != forest).any()
    count = len(fitted)
    paint(3, 20)
    assert (layer.data == 3).any()
    assert fitted[count:] == ["ridge"] * (len(fitted) - count)
    assert told == []


def test_trees_learn_once_from_all_passes(
    viewer: Any, tiny_panel: Any, finished: Any, click: Any, monkeypatch: Any
) -> None:
    learn, passes = _job._learn, []

    def recording(classifier: Any, learnt: Any, *args: Any, **options: Any) -> Any:
        passes.extend(one.passes for one in learnt.samples)
        return learn(classifier, learnt, *args, **options)

    monkeypatch.setattr(_job, "_learn", recording)
    tiny_panel.live_box.setChecked(False)
    tiny_panel.session.configure(passes=4)
    choose(tiny_panel, "Gradient boosting")
    add_job(viewer)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert passes == [4]
    assert (viewer.layers[_SEGMENTATION].data[30, [5, 65]] == [1, 2]).all()


def test_a_loaded_forest_is_shown_and_applied(
    viewer: Any, tiny_panel: Any, finished: Any, click: Any, tmp_path: Any
) -> None:
    choose(tiny_panel, "Random forest")
    _, strokes = add_job(viewer)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    labels = viewer.layers[_SEGMENTATION].data.copy()
    tiny_panel.save_model(tmp_path / "model")
    choose(tiny_panel, "Logistic regression")
    finished(tiny_panel)
    strokes.data = np.zeros_like(strokes.data)
    tiny_panel.load_model(tmp_path / "model.skops")
    assert tiny_panel.advanced.method.currentText() == "Random forest"
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    np.testing.assert_array_equal(viewer.layers[_SEGMENTATION].data, labels)
    assert "Applied the model" in tiny_panel.status.text()
    assert halves().shape == labels.shape
