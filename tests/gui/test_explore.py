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
from napari_hrdv2.core.errors import HRDv2Error

_PATIENCE_MS = 60_000


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

    use(explorer, explorer.labels.foreground_button)
    found = viewer.layers["halves foreground"]
    assert isinstance(found, Labels)
    assert set(np.unique(found.data)) == {0, 1}

    explorer.labels.classes.setValue(2)
    use(explorer, explorer.labels.clusters_button)
    clusters = viewer.layers["halves clusters"]
    assert set(np.unique(clusters.data)) == {1, 2}
    left, right = clusters.data[:, :21], clusters.data[:, -21:]
    assert np.bincount(left.ravel()).argmax() != np.bincount(right.ravel()).argmax()

    assert explorer.labels.boxes_combo.layer() is clusters
    use(explorer, explorer.labels.boxes_button)
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


def test_clusters_become_strokes_that_the_painting_panel_takes(
    viewer: Any, explorer: ExploreWidget, use: Any, tiny_weights: Path, finished: Any
) -> None:
    image = viewer.add_image(halves(), name="halves", translate=(5, 7))
    explorer.labels.classes.setValue(2)
    use(explorer, explorer.labels.clusters_button)
    use(explorer, explorer.labels.paint_button)
    strokes = viewer.layers["halves strokes"]
    clusters = viewer.layers["halves clusters"].data
    painted = strokes.data > 0
    assert 0 < painted.sum() < painted.size / 2
    np.testing.assert_array_equal(strokes.data[painted], clusters[painted])
    assert viewer.layers.selection.active is strokes
    assert strokes.mode == "paint"

    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Segment")
    assert panel.image_combo.layer() is image
    assert panel.strokes_combo.layer() is strokes
    panel.session.use_weights(tiny_weights)
    panel.session.configure(passes=2, device="cpu")
    panel.segment()
    finished(panel)
    agree = viewer.layers["halves segmentation"].data == clusters
    assert agree.mean() > 0.8


def test_the_rest_of_a_foreground_is_a_class_too(
    viewer: Any, explorer: ExploreWidget, use: Any, told: list[str]
) -> None:
    viewer.add_image(halves(), name="halves")
    labels = viewer.add_labels(np.ones((56, 70), np.uint8), name="mine")
    explorer.labels.boxes_combo.choose(labels)
    use(explorer, explorer.labels.paint_button)
    assert "'mine' has no two classes here" in told[-1]
    use(explorer, explorer.labels.foreground_button)
    use(explorer, explorer.labels.paint_button)
    found = viewer.layers["halves foreground"].data
    strokes = viewer.layers["halves strokes"].data
    assert set(np.unique(strokes)) == {0, 1, 2}
    assert (found[strokes == 1] == 1).all()
    assert (found[strokes == 2] == 0).all()


def test_a_region_is_looked_for_in_other_images_too(
    viewer: Any, explorer: ExploreWidget, use: Any, told: list[str]
) -> None:
    viewer.add_image(np.zeros((3, 56, 70), np.float32), name="channels")
    viewer.add_image(halves()[:, ::-1], name="mirrored")
    viewer.add_image(halves(), name="halves")
    painted = np.zeros((56, 70), np.uint8)
    painted[20:36, 45:65] = 3
    layer = viewer.add_labels(painted, name="painted")
    explorer.image_combo.choose(viewer.layers["halves"])
    explorer.region_combo.choose(layer)
    layer.selected_label = 2
    use(explorer, explorer.region_button)
    assert "Nothing is painted with label 2 of 'painted'" in told[-1]
    layer.selected_label = 3
    explorer.others_box.setChecked(True)
    use(explorer, explorer.region_button)
    assert any("'channels' is left out" in text for text in told)
    here, there = (viewer.layers[f"{name} similarity"].data for name in ("halves", "mirrored"))
    assert here[:, -21:].mean() > here[:, :21].mean()
    assert there[:, :21].mean() > there[:, -21:].mean()


def test_all_planes_of_a_stack_in_the_same_colours(
    viewer: Any, explorer: ExploreWidget, use: Any, qtbot: QtBot
) -> None:
    stack = np.stack([np.roll(halves(), 6 * k, 1) for k in range(5)])
    viewer.add_image(stack, name="stack", axis_labels=("t", "y", "x"), scale=(3, 1, 1))
    viewer.dims.set_current_step(0, 2)
    use(explorer, explorer.components_button)
    layer = viewer.layers["stack components"]
    assert layer.data.shape == (5, 56, 70, 3)
    np.testing.assert_array_equal(layer.scale, (3, 1, 1))
    assert [plane.any() for plane in layer.data] == [False, False, True, False, False]
    assert explorer.stack_box.isVisible()
    explorer.stack_box.setChecked(True)
    use(explorer, explorer.components_button)
    assert all(plane.any() for plane in layer.data)
    # One basis: the first frame's pixels, where they went to, have their colours still.
    moved = np.abs(layer.data[0, :, 20:40].astype(int) - layer.data[2, :, 32:52]).mean()
    apart = np.abs(layer.data[0, :, :20].astype(int) - layer.data[0, :, -20:]).mean()
    assert moved < apart

    use(explorer, explorer.labels.boxes_button)
    explorer.labels.classes.setValue(2)
    for step, count in ((2, 1), (4, 2), (2, 2)):
        viewer.dims.set_current_step(0, step)
        use(explorer, explorer.labels.clusters_button)
        use(explorer, explorer.labels.boxes_button)
        found = viewer.layers["stack boxes"]
        assert len({corners[0, 0] for corners in found.data}) == count


def test_similarity_goes_with_the_plane_in_view(
    viewer: Any, explorer: ExploreWidget, use: Any, qtbot: QtBot, point: Any
) -> None:
    axes = ("z", "y", "x")
    viewer.add_image(np.stack([halves(), halves()[:, ::-1]]), name="stack", axis_labels=axes)
    viewer.dims.set_current_step(0, 0)
    native = viewer.window._qt_viewer.canvas.native
    use(explorer, explorer.follow_button)
    layer = viewer.layers["stack similarity"]
    QTest.mouseMove(native, point(28, 10))
    qtbot.waitUntil(lambda: layer.data[0, 28, 10] > 0.999, timeout=_PATIENCE_MS)
    viewer.dims.set_current_step(0, 1)
    QTest.mouseMove(native, point(28, 12))
    qtbot.waitUntil(lambda: layer.data[1].any() and not explorer.is_busy, timeout=_PATIENCE_MS)
    QTest.mouseMove(native, point(28, 60))
    qtbot.waitUntil(lambda: layer.data[1, 28, 60] > 0.999, timeout=_PATIENCE_MS)


def test_layers_are_written_in_place_or_made_anew(
    viewer: Any, explorer: ExploreWidget, use: Any
) -> None:
    viewer.add_image(halves(), name="halves")
    strokes = viewer.add_labels(np.zeros((56, 70), np.uint8), name="painted")
    strokes.mode = "paint"
    use(explorer, explorer.components_button)
    use(explorer, explorer.attention_button)
    assert viewer.layers.selection.active is strokes
    assert strokes.mode == "paint"
    colours, attention = viewer.layers["halves components"], viewer.layers["halves attention"]
    assert viewer.layers.index(attention) > viewer.layers.index(colours)
    colours.visible = False
    use(explorer, explorer.components_button)
    assert viewer.layers["halves components"] is colours
    assert colours.visible
    assert viewer.layers.index(colours) > viewer.layers.index(attention)
    viewer.layers.remove(colours)
    use(explorer, explorer.components_button)
    assert viewer.layers["halves components"] is not colours
    explorer.kind.setCurrentIndex(explorer.kind.findData("k"))
    use(explorer, explorer.components_button)
    of_keys = viewer.layers["halves components of keys"]
    assert (of_keys.data != viewer.layers["halves components"].data).any()
    # What was found is no image to work on.
    assert explorer.image_combo.count() == 1


def test_what_cannot_be_explored_is_told(
    viewer: Any, explorer: ExploreWidget, use: Any, told: list[str]
) -> None:
    assert not explorer.components_button.isEnabled()
    for section in explorer.sections:
        section.expand(animate=False)
    assert [one.isExpanded() for one in explorer.sections] == [False, False, True]
    assert explorer.minimumSizeHint().height() < 900
    with pytest.raises(HRDv2Error, match="no image is open"):
        explorer.components()
    large = viewer.add_image(np.zeros((3000, 3000), np.uint8), name="large")
    use(explorer, explorer.components_button)
    assert "3000 x 3000 pixels is too large to explore" in told[-1]
    use(explorer, explorer.follow_button)
    assert not explorer.follow_button.isChecked()
    viewer.layers.remove(large)
    viewer.add_image(halves(), name="halves")
    use(explorer, explorer.labels.boxes_button)
    assert "Find the foreground or clusters first" in told[-1]
    explorer.labels.numbers["n_clusters"].setValue(3)
    explorer.labels.classes.setValue(5)
    use(explorer, explorer.labels.clusters_button)
    assert "5 classes asked for: there are 1 to 3" in told[-1]
    explorer.session.use_weights("/nowhere/weights.pth")
    use(explorer, explorer.attention_button)
    assert "/nowhere/weights.pth" in told[-1]
    assert [layer.name for layer in viewer.layers] == ["halves"]


def test_a_click_on_another_tool_takes_over_and_cancel_stops(
    viewer: Any, explorer: ExploreWidget, use: Any, click: Any, qtbot: QtBot
) -> None:
    viewer.add_image(np.stack([halves()] * 40), name="stack")
    explorer.stack_box.setChecked(True)
    click(explorer.components_button)
    assert explorer.progress.isVisible()
    use(explorer, explorer.attention_button)
    assert "stack attention" in viewer.layers
    explorer.session.configure(passes=4)
    click(explorer.components_button)
    assert explorer.is_busy
    use(explorer, explorer.cancel_button)
    assert explorer.status.text() == "Cancelled."
    assert not explorer.progress.isVisible()
    if "stack components" in viewer.layers:
        assert not viewer.layers["stack components"].data[-1].any()


def test_closing_ends_the_work_and_opening_goes_on(
    viewer: Any, explorer: ExploreWidget, use: Any, click: Any, qtbot: QtBot
) -> None:
    viewer.add_image(halves(), name="halves")
    use(explorer, explorer.follow_button)
    assert len(viewer.mouse_move_callbacks) == 1
    viewer.window.remove_dock_widget(explorer)
    assert not viewer.mouse_move_callbacks
    assert not explorer.is_busy
    viewer.window.add_dock_widget(explorer)
    layer = viewer.layers["halves similarity"]
    use(explorer, explorer.follow_button)
    assert viewer.layers["halves similarity"] is layer
