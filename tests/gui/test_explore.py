"""The panel that explores features, in a real window, by clicks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Shapes
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_hrdv2._widgets.explore import ExploreWidget

_PATIENCE_MS = 60_000


@pytest.fixture
def explorer(viewer: Any, tiny_weights: Path, empty_cache: Path) -> ExploreWidget:
    """The panel, opened as a user does, on a tiny random backbone."""
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Explore features")
    panel.session.use_weights(tiny_weights)
    panel.session.configure(passes=2, device="cpu")
    return panel


@pytest.fixture
def use(qtbot: QtBot, click: Callable[[Any], None]) -> Callable[..., None]:
    """Clicks a button and waits for what it does."""

    def use(panel: ExploreWidget, button: Any) -> None:
        click(button)
        qtbot.waitUntil(lambda: not panel.is_busy, timeout=_PATIENCE_MS)

    return use


@pytest.fixture
def point(viewer: Any) -> Callable[..., QPoint]:
    """Where a position (y, x) in the viewer's world is on the canvas."""

    def point(y: float, x: float) -> QPoint:
        view = viewer.window._qt_viewer.canvas.view
        at = (view.transform * view.scene.transform).map([x, y])
        return QPoint(round(at[0] / at[3]), round(at[1] / at[3]))

    return point


def halves(shape: tuple[int, ...] = (56, 70)) -> np.ndarray:
    """Dark on the left, bright and coarsely patterned on the right."""
    image = np.random.default_rng(0).normal(20, 2, shape).astype(np.float32)
    y, x = np.indices(shape[-2:])
    image += np.where(x >= shape[-1] // 2, 100 + 60 * ((y // 4 + x // 4) % 2), 0)
    return image


def test_every_tool_is_a_click_away(
    viewer: Any, explorer: ExploreWidget, use: Any, click: Any, qtbot: QtBot, point: Any
) -> None:
    image = viewer.add_image(halves(), name="halves", scale=(2, 2), translate=(5, 7))
    use(explorer, explorer.components_button)
    colours = viewer.layers["halves components"]
    assert isinstance(colours, Image)
    assert colours.rgb
    assert colours.data.shape == (56, 70, 3)
    assert colours.data.std(axis=(0, 1)).min() > 0

    explorer.heads_box.setChecked(True)
    use(explorer, explorer.attention_button)
    heads = [one for one in viewer.layers if "head" in one.name]
    assert len(heads) == 2
    assert not any(one.visible for one in heads)
    together = viewer.layers["halves attention"]
    np.testing.assert_allclose(together.data, sum(one.data for one in heads), rtol=1e-5)

    use(explorer, explorer.foreground_button)
    found = viewer.layers["halves foreground"]
    assert isinstance(found, Labels)
    assert set(np.unique(found.data)) == {0, 1}

    explorer.classes.setValue(2)
    use(explorer, explorer.clusters_button)
    clusters = viewer.layers["halves clusters"]
    assert set(np.unique(clusters.data)) == {1, 2}
    left, right = clusters.data[:, :21], clusters.data[:, -21:]
    assert np.bincount(left.ravel()).argmax() != np.bincount(right.ravel()).argmax()

    assert explorer.boxes_combo.layer() is clusters
    use(explorer, explorer.boxes_button)
    rectangles = viewer.layers["halves boxes"]
    assert isinstance(rectangles, Shapes)
    assert len(rectangles.data) > 0
    assert set(rectangles.features["class"]) <= {1, 2}

    ours = [one for one in viewer.layers if one is not image]
    for layer in ours:
        np.testing.assert_array_equal(layer.scale, (2, 2))
        np.testing.assert_array_equal(layer.translate, (5, 7))
    assert viewer.layers.selection.active is image


def test_similarity_follows_the_mouse_until_a_click(
    viewer: Any, explorer: ExploreWidget, use: Any, qtbot: QtBot, point: Any
) -> None:
    image = viewer.add_image(halves(), name="halves", scale=(2, 2))
    strokes = viewer.add_labels(np.zeros((56, 70), np.uint8), name="painted", scale=(2, 2))
    strokes.mode = "paint"
    native = viewer.window._qt_viewer.canvas.native
    use(explorer, explorer.follow_button)
    layer = viewer.layers["halves similarity"]
    assert viewer.layers.selection.active is strokes

    for pixel in ((28, 10), (28, 60)):
        QTest.mouseMove(native, point(2 * pixel[0], 2 * pixel[1]))
        qtbot.waitUntil(lambda at=pixel: layer.data[at] > 0.999, timeout=_PATIENCE_MS)
    left, right = layer.data[:, :21].mean(), layer.data[:, -21:].mean()
    assert right > left

    QTest.mouseClick(native, Qt.MouseButton.LeftButton, pos=point(2 * 28, 2 * 10))
    qtbot.waitUntil(lambda: not explorer.follow_button.isChecked(), timeout=_PATIENCE_MS)
    fixed = layer.data.copy()
    assert fixed[28, 10] > 0.999
    QTest.mouseMove(native, point(2 * 28, 2 * 60))
    qtbot.wait(50)
    np.testing.assert_array_equal(layer.data, fixed)
    # The click painted nothing, and painting goes on.
    assert not strokes.data.any()
    assert strokes.mode == "paint"
    assert image in viewer.layers
