"""The panel's parts in a real window, on a tiny random backbone."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from npe2.cli import app as npe2_cli
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog, QMenu
from typer.testing import CliRunner

from napari_hrdv2._widgets import subjects
from napari_hrdv2._widgets.segment import SegmentWidget
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes

_SHAPE = (56, 70)


def halves(dtype: Any = np.float32) -> np.ndarray:
    """Dark on the left, bright on the right."""
    image = np.random.default_rng(0).integers(0, 20, _SHAPE)
    image[:, 35:] += 100
    return image.astype(dtype)


def two_strokes(dtype: Any = np.uint8, second: int = 2) -> np.ndarray:
    strokes = np.zeros(_SHAPE, dtype)
    strokes[20:24, 4:12] = 1
    strokes[20:24, 56:64] = second
    return strokes


def add_job(viewer: Any, image: Any = None, strokes: Any = None, **place: Any) -> tuple[Any, Any]:
    """Layers of an image and its strokes, which the panel takes by itself."""
    image_layer = Image(halves() if image is None else image, name="halves", **place)
    strokes_layer = Labels(
        two_strokes() if strokes is None else strokes, name="halves strokes", **place
    )
    viewer.add_layer(image_layer)
    viewer.add_layer(strokes_layer)
    return image_layer, strokes_layer


def empty(viewer: Any) -> None:
    """Remove all layers, and draw: without, napari 0.9.2 crashes at the second layer after."""
    viewer.layers.clear()
    QTest.qWait(100)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes a while."""
    passes = FeatureExtractor.passes

    def slowly(self: FeatureExtractor, image: Any, **options: Any) -> Any:
        for tokens in passes(self, image, **options):
            time.sleep(0.1)
            yield tokens

    monkeypatch.setattr(FeatureExtractor, "passes", slowly)


def test_manifest() -> None:
    done = CliRunner().invoke(npe2_cli, ["validate", "napari-hrdv2", "--imports"])
    assert (done.exit_code, "valid!" in done.output) == (0, True), done.output


def test_opens_from_the_menus(viewer: Any) -> None:
    viewer.open_sample("napari-hrdv2", "glands")
    actions = {
        action.text(): action
        for menu in viewer.window.layers_menu.findChildren(QMenu)
        if "Segment" in menu.title()
        for action in menu.actions()
    }
    assert "Apply a model to many files (HR-Dv2)" in actions
    actions["Segment (HR-Dv2)"].trigger()
    panel = viewer.window._qt_window.findChild(SegmentWidget)
    assert panel.image_combo.currentText() == "glands"
    assert panel.strokes_combo.currentText() == "glands strokes"
    assert [c.name for c in panel.session.classes] == ["epithelium", "stroma", "lumen"]


def test_the_result_lies_on_the_image(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any
) -> None:
    place = {"scale": (0.5, 0.5), "translate": (3, 4)}
    image = viewer.add_image(halves(), name="halves", **place)
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    assert viewer.layers.selection.active is strokes
    assert strokes.data.shape == _SHAPE
    np.testing.assert_array_equal(strokes.extent.world, image.extent.world)
    strokes.data = two_strokes()
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    segmentation = viewer.layers["halves segmentation"]
    np.testing.assert_array_equal(segmentation.extent.world, image.extent.world)
    assert segmentation.data[30, 5] == 1
    assert segmentation.data[30, 65] == 2
    # It can not be chosen as strokes.
    assert tiny_panel.strokes_combo.count() == 1


def test_classes(viewer: Any, tiny_panel: Any, click: Any) -> None:
    _, strokes = add_job(viewer)
    classes, session = tiny_panel.classes, tiny_panel.session
    click(classes.add_button)
    assert strokes.selected_label == 3
    classes.list.item(2).setText("pore")
    assert session.classes[2].name == "pore"
    classes.list.item(2).setText(" ")
    assert classes.list.item(2).text() == "pore"
    classes.set_colour(3, QColor("#ff0000"))
    np.testing.assert_allclose(strokes.colormap.color_dict[3], (1, 0, 0, 1), atol=1e-3)
    assert strokes.colormap.color_dict[None][3] == 0
    place = classes.list.visualItemRect(classes.list.item(1)).center()
    QTest.mouseClick(classes.list.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(place))
    assert (strokes.selected_label, strokes.mode) == (2, "paint")
    # Chosen in napari's own controls.
    strokes.selected_label = 3
    assert classes.list.currentRow() == 2
    click(classes.remove_button)
    assert classes.list.count() == 2
    assert strokes.selected_label == 1


def test_a_painted_class_is_not_removed(
    viewer: Any, tiny_panel: Any, click: Any, told: Any
) -> None:
    add_job(viewer)
    click(tiny_panel.classes.remove_button)
    assert "'class 1' is painted" in told[-1]
    assert tiny_panel.classes.list.count() == 2


def test_paint_of_a_new_label_makes_a_class(viewer: Any, tiny_panel: Any) -> None:
    _, strokes = add_job(viewer)
    strokes.mode = "paint"
    strokes.selected_label = 7
    strokes.paint((5, 5), 7)
    assert [c.label for c in tiny_panel.session.classes] == [1, 2, 7]
    assert strokes.colormap.color_dict[7][3] == 1
    assert tiny_panel.session.current == 7


def test_keys_are_given_back(viewer: Any, tiny_panel: Any) -> None:
    _, strokes = add_job(viewer)
    canvas = viewer.window._qt_viewer.canvas.native
    strokes.mode = "paint"
    QTest.keyClick(canvas, "2")
    assert strokes.selected_label == 2
    dock = viewer.window._wrapped_dock_widgets["Segment (napari-hrdv2)"]
    dock.hide()
    # Napari's own meaning of 1 on a labels layer.
    QTest.keyClick(canvas, "1")
    assert (strokes.selected_label, strokes.mode) == (2, "erase")
    dock.show()
    QTest.keyClick(canvas, "1")
    assert (strokes.selected_label, strokes.mode) == (1, "paint")
    viewer.window.remove_dock_widget(dock)
    QTest.keyClick(canvas, "1")
    assert strokes.mode == "erase"


def test_the_boxes_follow_the_layers(viewer: Any, tiny_panel: Any) -> None:
    images, strokes = tiny_panel.image_combo, tiny_panel.strokes_combo
    assert not tiny_panel.segment_button.isEnabled()
    first, first_strokes = add_job(viewer)
    assert strokes.layer() is first_strokes
    other = viewer.add_image(np.zeros((20, 30)), name="other")
    assert images.layer() is first
    other.name = "renamed"
    assert [images.itemText(i) for i in range(2)] == ["renamed", "halves"]
    images.choose(other)
    assert strokes.layer() is None
    images.choose(first)
    assert strokes.layer() is first_strokes
    viewer.layers.move(0, 2)
    assert images.layer() is first
    viewer.layers.remove(first)
    assert images.layer() is other
    empty(viewer)
    assert (images.layer(), strokes.layer()) == (None, None)
    assert not tiny_panel.segment_button.isEnabled()


def test_cancel(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, slow: Any, qtbot: Any
) -> None:
    add_job(viewer)
    tiny_panel.session.configure(passes=50)
    click(tiny_panel.segment_button)
    qtbot.waitUntil(lambda: tiny_panel.progress.value() >= 2, timeout=20_000)
    assert tiny_panel.progress.text().startswith("Pass ")
    assert tiny_panel.progress.maximum() == 50
    start = time.perf_counter()
    click(tiny_panel.cancel_button)
    finished(tiny_panel)
    assert time.perf_counter() - start < 3
    # What the passes made so far gave stays; nothing begins again by itself.
    QTest.qWait(500)
    assert not tiny_panel.is_busy
    assert "Cancelled" in tiny_panel.status.text()
    viewer.layers.remove("halves segmentation")
    tiny_panel.session.configure(passes=2)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert "halves segmentation" in viewer.layers


@pytest.mark.parametrize("what", ["image", "strokes", "all", "exchanged"])
def test_layers_that_go_during_work(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, slow: Any, what: str
) -> None:
    image, strokes = add_job(viewer)
    click(tiny_panel.segment_button)
    if what == "all":
        empty(viewer)
    elif what == "exchanged":
        image.data = np.zeros((10, 12), np.float32)
    else:
        viewer.layers.remove({"image": image, "strokes": strokes}[what])
    finished(tiny_panel)
    assert ("halves segmentation" in viewer.layers) == (what == "strokes")


def test_strokes_go_with_their_layer(viewer: Any, tiny_panel: Any, finished: Any) -> None:
    _, strokes = add_job(viewer)
    finished(tiny_panel)
    assert tiny_panel.session.is_painted
    viewer.layers.remove(strokes)
    finished(tiny_panel)
    assert not tiny_panel.session.is_painted
    tiny_panel.remove_class()
    assert len(tiny_panel.session.classes) == 1


def test_a_segmentation_that_was_removed_comes_again(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any
) -> None:
    add_job(viewer)
    for _ in range(2):
        click(tiny_panel.segment_button)
        finished(tiny_panel)
        viewer.layers.remove("halves segmentation")
    viewer.layers.selection.active = None
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert "halves segmentation" in viewer.layers


def test_save_and_load_a_model(
    viewer: Any,
    tiny_panel: Any,
    click: Any,
    finished: Any,
    tmp_path: Path,
    monkeypatch: Any,
    told: Any,
) -> None:
    path = str(tmp_path / "halves.safetensors")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (path, ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (path, ""))
    assert not tiny_panel.save_button.isEnabled()
    add_job(viewer)
    tiny_panel.session.rename(1, "dark")
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    click(tiny_panel.save_button)
    assert Path(path).is_file()

    empty(viewer)
    tiny_panel.session.configure(passes=3)
    tiny_panel.session.rename(1, "forgotten")
    viewer.add_image(halves()[:, ::-1], name="mirrored")
    click(tiny_panel.load_button)
    assert tiny_panel.classes.list.item(0).text() == "dark"
    assert tiny_panel.advanced.passes.value() == 2
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    segmentation = viewer.layers["mirrored segmentation"].data
    assert (segmentation[30, 5], segmentation[30, 65]) == (2, 1)
    assert tiny_panel.status.text().startswith("Applied the model (dark, class 2)")
    Path(path).write_text("damaged")
    click(tiny_panel.load_button)
    assert "damaged" in told[-1]


# What is wrong with the image, and what is said of it; None where it is segmented.
_IMAGES = {
    "bool": (halves() > 50, None),
    "16 bits": (halves(np.uint16) * 500, None),
    "infinities": (np.where(np.eye(*_SHAPE) > 0, [[np.inf], [-np.inf]] * 28, halves()), None),
    "some NaN": (np.where(np.eye(*_SHAPE) > 0, np.nan, halves()), None),
    "all NaN": (np.full(_SHAPE, np.nan, np.float32), "no finite pixel"),
    "constant": (np.full(_SHAPE, 3.0), None),
    "one pixel": (np.ones((1, 1)), "must be the same"),
    "volume": (np.zeros((5, *_SHAPE)), None),
    "resolutions": ([halves(), halves()[::2, ::2]], None),
    "stack of RGB": (np.zeros((2, *_SHAPE, 3), np.uint8), None),
    "volume, strokes of a plane": (np.zeros((5, *_SHAPE)), "must be the same"),
    "RGB, strokes of a stack": (np.zeros((*_SHAPE, 3), np.uint8), "must be the same"),
}


def test_odd_images(viewer: Any, tiny_panel: Any, click: Any, finished: Any, told: Any) -> None:
    for name, (image, said) in _IMAGES.items():
        told.clear()
        options = {"rgb": True} if "RGB" in name else {}
        viewer.add_image(
            image, name="odd", contrast_limits=(0, 1), multiscale=isinstance(image, list), **options
        )
        is_stack = name in ("volume", "stack of RGB", "RGB, strokes of a stack")
        strokes = np.stack([two_strokes()] * 5) if is_stack else two_strokes()
        viewer.add_labels(strokes[: len(image)] if is_stack else strokes, name="odd strokes")
        click(tiny_panel.segment_button)
        finished(tiny_panel)
        if said is None:
            assert (told, "odd segmentation" in viewer.layers) == ([], True), name
        else:
            assert [said in text for text in told] == [True], (name, told)
            assert "odd segmentation" not in viewer.layers, name
        empty(viewer)


def test_a_complex_image(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, told: Any, monkeypatch: Any
) -> None:
    # Napari 0.9.2 cannot draw one; later ones may.
    planes = Planes(halves(np.complex64), "YX")
    monkeypatch.setattr(subjects, "planes_of", lambda *_: planes)
    add_job(viewer)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert ["complex" in text for text in told] == [True]


def test_images_smaller_than_a_patch(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, told: Any
) -> None:
    for shape in ((1, 2), (5, 3), (13, 40)):
        viewer.add_image(np.arange(np.prod(shape), dtype=float).reshape(shape), name="small")
        click(tiny_panel.new_button)
        strokes = viewer.layers["small strokes"]
        strokes.data[0, 0], strokes.data[-1, -1] = 1, 2
        click(tiny_panel.segment_button)
        finished(tiny_panel)
        assert viewer.layers["small segmentation"].data.shape == shape
        empty(viewer)
    assert told == []


_STROKES = {
    "another shape": (np.ones((10, 12), np.uint8), "must be the same"),
    "a stack": (np.ones((2, *_SHAPE), np.uint8), "must be the same"),
    "none": (np.zeros(_SHAPE, np.uint8), "Nothing is painted"),
    "one class": (two_strokes(second=1), "Only the class 'class 1'"),
    "negative": (two_strokes(np.int16, -2), "-2"),
    "huge": (two_strokes(np.int64, 70_000), "70000"),
    "large": (two_strokes(np.int32, 60_000), None),
}


def test_odd_strokes(viewer: Any, tiny_panel: Any, click: Any, finished: Any, told: Any) -> None:
    for name, (strokes, said) in _STROKES.items():
        told.clear()
        viewer.add_image(halves(), name="odd")
        viewer.add_labels(strokes, name="odd strokes")
        click(tiny_panel.segment_button)
        finished(tiny_panel)
        if said is None:
            assert set(np.unique(viewer.layers["odd segmentation"].data)) == {1, 60_000}
        else:
            assert [said in text for text in told] == [True], (name, told)
        empty(viewer)
    viewer.add_image(halves(), name="unpainted")
    told.clear()
    tiny_panel.session._classifier = None
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert "Nothing is painted" in told[-1]


def test_a_refused_setting_is_told(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, told: Any
) -> None:
    add_job(viewer)
    tiny_panel.advanced.stride.setValue(20)
    click(tiny_panel.segment_button)
    finished(tiny_panel)
    assert "must not exceed the patch size" in told[-1]


def test_an_unexpected_error_goes_napari_s_way(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, monkeypatch: Any, qtbot: Any
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(FeatureExtractor, "passes", broken)
    add_job(viewer)
    # Raised in the main thread, where napari's hook waits for it.
    with qtbot.capture_exceptions() as met:
        click(tiny_panel.segment_button)
        finished(tiny_panel)
    assert [str(error) for _, error, _ in met] == ["a bug"]
    assert tiny_panel.segment_button.isEnabled()
    assert "went wrong" in tiny_panel.status.text()


@pytest.mark.parametrize("how", ["panel", "window"])
def test_closing_during_work(
    viewer: Any, tiny_panel: Any, click: Any, slow: Any, qtbot: Any, how: str
) -> None:
    _, strokes = add_job(viewer)
    tiny_panel.session.configure(passes=50)
    click(tiny_panel.segment_button)
    qtbot.waitUntil(lambda: tiny_panel.progress.value() >= 2, timeout=20_000)
    worker = tiny_panel.loop.looker._worker
    if how == "panel":
        viewer.window.remove_dock_widget(tiny_panel)
        assert not worker.is_running
        assert not strokes.keymap
        assert "1" not in {str(key) for key in viewer.keymap}
        # Nobody listens any more.
        strokes.selected_label = 2
        viewer.add_image(halves(), name="later")
        assert tiny_panel.session.current == 1
        assert tiny_panel.image_combo.count() == 1
        # Opened again, it goes on.
        viewer.window.add_dock_widget(tiny_panel)
        assert tiny_panel.image_combo.count() == 2
        click(tiny_panel.segment_button)
        assert tiny_panel.is_busy
    else:
        viewer.close()
        qtbot.waitUntil(lambda: not worker.is_running, timeout=5000)


def test_a_closed_panel_leaves_nothing_behind(viewer: Any) -> None:
    dock, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Segment")
    add_job(viewer)
    viewer.window.remove_dock_widget(dock)
    gone = ref(panel)
    del dock, panel
    QTest.qWait(50)
    gc.collect()
    assert gone() is None


def test_other_peoples_colours_become_classes(viewer: Any, tiny_panel: Any) -> None:
    colours = DirectLabelColormap(color_dict={None: "transparent", 4: "red", 6: "blue"})
    viewer.add_image(halves(), name="halves")
    viewer.add_labels(two_strokes(), name="halves strokes", colormap=colours)
    assert [(c.label, c.colour) for c in tiny_panel.session.classes] == [
        (4, (1.0, 0.0, 0.0, 1.0)),
        (6, (0.0, 0.0, 1.0, 1.0)),
    ]
