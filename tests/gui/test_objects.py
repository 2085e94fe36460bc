"""Objects counted in a real window."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog
from superqt import QCollapsible

from napari_hrdv2 import _counting
from napari_hrdv2._counting import Counting
from napari_hrdv2._subject import Place
from napari_hrdv2._widgets.layers import Reading, planes_of, window_of
from napari_hrdv2._widgets.objects import CountObjects
from napari_hrdv2.core.objects import find_objects

from .test_panel import add_job, empty

_PLACE = {"scale": (0.5, 0.5), "translate": (3, 4), "units": ("um", "um")}


def discs() -> np.ndarray:
    """Class 2 in two discs that touch, one apart, one at the edge; class 1 elsewhere."""
    rows, columns = np.indices((56, 70))
    labels = np.ones((56, 70), np.uint8)
    for y, x, radius in ((15, 15, 8), (15, 29, 8), (40, 20, 6), (40, 68, 7)):
        labels[np.hypot(rows - y, columns - x) <= radius] = 2
    return labels


def show_discs(panel: Any, image: Any) -> None:
    """Show them as the segmentation of an image."""
    window = window_of(image, planes_of(image, Reading()), Reading())
    whole = ((), (slice(0, 56), slice(0, 70)), discs())
    strokes = panel.strokes_combo.layer()
    panel._segmentations.show(image, window, [whole], panel.session.classes, strokes)


@pytest.fixture
def tiny_panel(tiny_panel: Any, qtbot: QtBot) -> Any:
    """The panel with its section open: what is hidden cannot be clicked on."""
    (section,) = (one for one in tiny_panel.findChildren(QCollapsible) if one.text() == "Objects")
    section.expand(animate=False)
    qtbot.wait(50)
    return tiny_panel


@pytest.fixture
def job(viewer: Any, tiny_panel: Any, finished: Any) -> Any:
    """The panel of an image that is segmented into discs."""
    tiny_panel.live_box.setChecked(False)
    image, _ = add_job(viewer, 100.0 * discs(), **_PLACE)
    tiny_panel.session.rename(2, "cell")
    show_discs(tiny_panel, image)
    choose(tiny_panel.objects, "cell")
    return tiny_panel


def choose(options: CountObjects, name: str) -> None:
    options.class_combo.setCurrentIndex(options.class_combo.findText(name))


@pytest.fixture
def count(qtbot: QtBot, click: Any) -> Any:
    def count(options: CountObjects) -> None:
        click(options.count_button)
        qtbot.waitUntil(lambda: not options.is_busy, timeout=20_000)

    return count


def test_objects_become_a_layer_with_a_table(viewer: Any, job: Any, count: Any, told: Any) -> None:
    options, strokes = job.objects, viewer.layers["halves strokes"]
    viewer.layers.selection.active, strokes.mode = strokes, "paint"
    count(options)
    layer = viewer.layers["halves cell objects"]
    segmentation = viewer.layers["halves segmentation"]
    assert layer.data.max() == 3
    np.testing.assert_array_equal(layer.data > 0, discs() == 2)
    np.testing.assert_array_equal(layer.extent.world, segmentation.extent.world)
    assert layer.units == segmentation.units
    pixels = np.bincount(layer.data.ravel())[1:]
    assert layer.features["index"].tolist() == [1, 2, 3]
    assert layer.features["area_px"].tolist() == pixels.tolist()
    assert layer.features["area"].tolist() == (pixels / 4).tolist()
    assert set(layer.features["unit"]) == {"µm"}
    assert set(layer.features["mean_intensity"]) == {200}
    mean = pixels.mean()
    assert job.status.text() == (
        f"3 objects of 'cell', mean area {mean:.4g} px ({mean / 4:.3g} µm²)."
    )
    # Where the mouse is, napari tells of the object.
    status = layer.get_status(layer.data_to_world((40, 20)), world=True)
    assert f"area_px: {pixels[layer.data[40, 20] - 1]}" in status["coordinates"]
    # Nothing was taken out of the hands of who paints, and it is no layer of strokes.
    assert viewer.layers.selection.active is strokes
    assert strokes.mode == "paint"
    assert job.strokes_combo.count() == 1
    assert told == []


def test_options_change_the_count_in_the_same_layer(viewer: Any, job: Any, count: Any) -> None:
    options = job.objects
    count(options)
    layer, layers = viewer.layers["halves cell objects"], len(viewer.layers)
    assert not options.neck.isEnabled()
    options.split.setChecked(True)
    assert options.neck.isEnabled()
    count(options)
    assert layer.data.max() == len(layer.features) == 4
    options.clear_border.setChecked(True)
    count(options)
    assert layer.data.max() == 3
    assert layer.data[40, 68] == 0
    options.min_size.setValue(150)
    count(options)
    assert layer.data.max() == len(layer.features) == 2
    options.min_size.setValue(5000)
    count(options)
    assert job.status.text() == "No objects of 'cell'."
    assert layer.data.max() == 0
    assert len(viewer.layers) == layers
    # Another class has a layer of its own.
    options.min_size.setValue(0)
    choose(options, "class 1")
    options.split.setChecked(False)
    options.clear_border.setChecked(False)
    count(options)
    assert "1 object of 'class 1'" in job.status.text()
    assert viewer.layers["halves class 1 objects"].data.max() == 1
    assert len(viewer.layers) == layers + 1


def test_touching_objects_are_split_by_the_probabilities_at_hand(
    viewer: Any, tiny_panel: Any, finished: Any, count: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, session, seen = tiny_panel.objects, tiny_panel.session, []

    def find(*arguments: Any, **options: Any) -> Any:
        seen.append(arguments[3])
        return find_objects(*arguments, **options)

    monkeypatch.setattr(_counting, "find_objects", find)
    add_job(viewer)
    finished(tiny_panel)
    choose(options, "class 2")
    count(options)
    options.split.setChecked(True)
    count(options)
    tokens = session.tokens_at(Place((), 0))
    expected = session.classifier.predict_proba(tokens)[..., 1]
    plain, weighted = seen
    assert plain is None
    np.testing.assert_array_equal(weighted, expected)
    # Of a class that the classifier does not know, they are not.
    session.add_class("new")
    choose(options, "new")
    count(options)
    assert seen[2] is None
    assert tiny_panel.status.text() == "No objects of 'new'."


def test_the_table_is_saved(
    job: Any, count: Any, click: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, asked = job.objects, []

    def answer(*arguments: Any) -> tuple[str, str]:
        asked.append(arguments[2])
        return str(tmp_path / "cells"), ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    assert not options.save_button.isEnabled()
    count(options)
    click(options.save_button)
    assert asked == ["halves cell objects.csv"]
    assert job.status.text() == "Saved cells.csv."
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == [1, 2, 3]
    assert sum(int(row["area_px"]) for row in rows) == (discs() == 2).sum()


def test_what_goes_wrong_is_told(
    viewer: Any, tiny_panel: Any, count: Any, told: Any, tmp_path: Path
) -> None:
    options = tiny_panel.objects
    assert not options.count_button.isEnabled()
    tiny_panel.live_box.setChecked(False)
    image, _ = add_job(viewer)
    count(options)
    assert told == ["There is no segmentation to count in: press Segment first."]
    assert tiny_panel.status.text() == told[0]
    show_discs(tiny_panel, image)
    count(options)
    (tmp_path / "file").touch()
    options._try(lambda: options.save(tmp_path / "file" / "a.csv"))
    assert len(told) == 2
    assert "cannot be written" in told[1]


def test_a_stack_plane_by_plane_or_3d(
    viewer: Any, tiny_panel: Any, count: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny_panel.objects
    tiny_panel.live_box.setChecked(False)
    place = {"scale": (2, 0.5, 0.5), "units": ("um", "um", "um")}
    stack = np.stack([np.ones_like(discs()), discs(), discs()])
    image = viewer.add_image(stack, name="stack", **place)
    layer = Labels(stack, name="stack segmentation", **place)
    viewer.add_layer(layer)
    monkeypatch.setattr(tiny_panel._segmentations, "of", {image: layer}.get)
    assert not options.volume.isHidden()
    choose(options, "class 2")
    count(options)
    objects = viewer.layers["stack class 2 objects"]
    assert objects.data.max() == 6
    assert objects.features["axis_0"].tolist() == [1, 1, 1, 2, 2, 2]
    options.volume.setChecked(True)
    count(options)
    assert objects.data.max() == 3
    assert objects.features["area"].tolist() == (np.bincount(objects.data.ravel())[1:] / 2).tolist()
    assert "3 objects of 'class 2', mean volume" in tiny_panel.status.text()
    assert tiny_panel.status.text().endswith("µm³).")
    # A flat image has no third dimension, whatever was ticked before.
    flat = viewer.add_image(discs(), name="flat")
    tiny_panel.image_combo.choose(flat)
    assert options.volume.isHidden()
    assert not options.settings.volume


@pytest.mark.parametrize(
    ("place", "text", "area"),
    [
        ({}, "px.", None),
        ({"scale": (0.5, 0.5)}, "px.", 0.25),
        ({"scale": (0.5, 0.5), "units": ("um", "mm")}, "px.", None),
    ],
)
def test_sizes_that_are_not_known(
    viewer: Any, tiny_panel: Any, count: Any, place: Any, text: str, area: float | None
) -> None:
    tiny_panel.live_box.setChecked(False)
    image, _ = add_job(viewer, **place)
    show_discs(tiny_panel, image)
    choose(tiny_panel.objects, "class 2")
    count(tiny_panel.objects)
    table = tiny_panel.objects.table
    assert tiny_panel.status.text().endswith(text)
    assert "unit" not in table
    if area is None:
        assert "area" not in table
    else:
        np.testing.assert_array_equal(table["area"], table["area_px"] * area)


def test_the_class_list_follows_the_session(tiny_panel: Any) -> None:
    options, session = tiny_panel.objects, tiny_panel.session
    session.add_class("pore")
    choose(options, "pore")
    session.rename(1, "matrix")
    names = [options.class_combo.itemText(k) for k in range(options.class_combo.count())]
    assert names == ["matrix", "class 2", "pore"]
    assert options.class_combo.currentText() == "pore"
    session.remove_class(options.class_combo.currentData())
    assert options.class_combo.currentText() == "matrix"


def test_layers_that_go_while_it_counts(
    viewer: Any, job: Any, qtbot: QtBot, click: Any, told: Any
) -> None:
    options = job.objects
    click(options.count_button)
    assert options.is_busy
    assert not options.count_button.isEnabled()
    empty(viewer)
    qtbot.waitUntil(lambda: not options.is_busy, timeout=20_000)
    assert len(viewer.layers) == 0
    assert "3 objects" in job.status.text()
    assert told == []


def test_the_layer_may_change_while_it_counts(viewer: Any, job: Any, qtbot: QtBot) -> None:
    options, segmentation = job.objects, viewer.layers["halves segmentation"]
    options.count()
    segmentation.data[...] = 1
    qtbot.waitUntil(lambda: not options.is_busy, timeout=20_000)
    assert viewer.layers["halves cell objects"].data.max() == 3


def test_a_closed_panel_counts_no_more(
    viewer: Any, job: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = []
    monkeypatch.setattr(Counting, "cancel", lambda one: cancelled.append(one))
    job.objects.count()
    viewer.window.remove_dock_widget(job)
    assert len(cancelled) == 1
    assert not job.objects.is_busy
    qtbot.wait(200)
    assert "halves cell objects" not in viewer.layers
