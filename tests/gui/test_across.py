"""The part of the exploring panel about several images, in a real window, by clicks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels, Points
from PIL import Image as Picture
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from skimage.util import img_as_ubyte
from superqt import QCollapsible

from napari_hrdv2._widgets.across import AcrossImages
from napari_hrdv2._widgets.explore import ExploreWidget

_PATIENCE_MS = 60_000


@pytest.fixture
def explorer(explorer: ExploreWidget) -> ExploreWidget:
    """The panel, its part about several images open."""
    for section in explorer.findChildren(QCollapsible):
        if section.isAncestorOf(explorer.across):
            section.expand(animate=False)
    return explorer


@pytest.fixture
def section(explorer: ExploreWidget) -> AcrossImages:
    return explorer.across


@pytest.fixture
def use(explorer: ExploreWidget, qtbot: QtBot, click: Any) -> Callable[[Any], None]:
    """Clicks a button and waits for what it does."""

    def use(button: Any) -> None:
        click(button)
        qtbot.waitUntil(lambda: not explorer.is_busy, timeout=_PATIENCE_MS)

    return use


def press(widget: Any, at: QPoint) -> None:
    """Click into a list."""
    QTest.mouseClick(widget.viewport(), Qt.MouseButton.LeftButton, pos=at)


def show(section: AcrossImages, title: str) -> None:
    """Click a tab."""
    bar = section.tabs.tabBar()
    (k,) = (k for k in range(bar.count()) if bar.tabText(k) == title)
    QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(k).center())
    assert section.tabs.currentIndex() == k


def noise(seed: int = 0, shape: tuple[int, ...] = (56, 84)) -> np.ndarray:
    return img_as_ubyte(np.random.default_rng(seed).random(shape))


def striped(seed: int = 0) -> np.ndarray:
    """Stripes in a square on noise."""
    image = noise(seed)
    image[7:49, 21:63] = np.uint8(250) * (np.arange(42) // 3 % 2)
    return image


def test_ticked_images_share_colours_and_a_foreground(
    viewer: Any, explorer: ExploreWidget, section: AcrossImages, use: Any
) -> None:
    first = viewer.add_image(striped(), name="first", scale=(2, 2), translate=(3, 4))
    viewer.add_image(striped(), name="second")
    viewer.add_image(noise(3), name="third")
    assert [section.images.item(k).text() for k in range(3)] == ["first", "second", "third"]
    # The box of the last one is unticked.
    area = section.images.visualItemRect(section.images.item(2))
    press(section.images, QPoint(area.left() + 12, area.center().y()))
    assert section.images.item(2).checkState() == Qt.CheckState.Unchecked

    use(section.colours_button)
    maps = [viewer.layers[f"{one} shared components"] for one in ("first", "second")]
    assert "third shared components" not in viewer.layers
    np.testing.assert_array_equal(maps[0].data, maps[1].data)
    assert isinstance(maps[0], Image)
    np.testing.assert_array_equal(maps[0].scale, (2, 2))
    np.testing.assert_array_equal(maps[0].translate, (3, 4))

    section.classes.setValue(3)
    use(section.cosegment_button)
    found = [viewer.layers[f"{one} common foreground"] for one in ("first", "second")]
    assert "third common foreground" not in viewer.layers
    for one in found:
        assert isinstance(one, Labels)
        assert 0 < (one.data > 0).mean() < 1
        assert one.data.max() <= 3
    np.testing.assert_array_equal(found[0].data, found[1].data)
    np.testing.assert_array_equal(found[0].scale, first.scale)
    assert "common foreground takes" in explorer.status.text()


def test_points_of_a_pair_have_one_colour(
    viewer: Any, explorer: ExploreWidget, section: AcrossImages, use: Any
) -> None:
    whole = noise(1, (56, 112))
    stack = np.stack([noise(8), whole[:, :84], *(noise(k) for k in range(2, 5))])
    viewer.add_image(stack, name="stack", scale=(1, 3, 3))
    viewer.add_image(whole[:, 28:], name="moved", scale=(2, 2))
    explorer.image_combo.choose(viewer.layers["stack"])
    viewer.dims.set_current_step(0, 1)
    show(section, "Points")
    section.other_combo.choose(viewer.layers["moved"])
    section.count.setValue(12)
    assert section.common_box.isChecked()
    section.common_box.setChecked(False)
    use(section.points_button)
    first, second = viewer.layers["stack points"], viewer.layers["moved points"]
    assert isinstance(first, Points)
    count = len(first.data)
    assert 0 < count <= 12
    assert first.data.shape == (count, 3)
    assert second.data.shape == (count, 2)
    # In the plane that is seen, where the noise is the same.
    assert (first.data[:, 0] == 1).all()
    assert np.median(np.abs(first.data[:, 1:] - second.data - [0, 28])) <= 3
    np.testing.assert_array_equal(first.face_color, second.face_color)
    assert len(np.unique(first.face_color, axis=0)) == count
    assert first.features["pair"].tolist() == list(range(1, count + 1))
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.scale, (1, 3, 3))
    np.testing.assert_array_equal(second.scale, (2, 2))

    section.count.setValue(3)
    use(section.points_button)
    assert viewer.layers["stack points"] is first
    assert len(first.data) <= 3
    assert len(first.face_color) == len(first.features) == len(first.data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of noise, one of stripes, one that is none, and one of three planes."""
    found = tmp_path / "images"
    found.mkdir()
    for k in range(3):
        Picture.fromarray(striped(7) if k == 1 else noise(20 + k)).save(found / f"{k}.png")
    (found / "broken.png").write_bytes(b"no image")
    stack = np.stack([noise(30 + k, (56, 56)) for k in range(3)])
    tifffile.imwrite(found / "stack.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return found


@pytest.fixture
def painted(viewer: Any, explorer: ExploreWidget, draw: Any) -> Labels:
    """An image with stripes, on which a stroke is drawn with the mouse."""
    viewer.add_image(striped(), name="seen")
    layer = viewer.add_labels(np.zeros((56, 84), np.uint8), name="region")
    layer.brush_size = 10
    layer.selected_label = 2
    layer.mode = "paint"
    draw(viewer, (28, 30), (28, 50))
    explorer.region_combo.choose(layer)
    return layer


def test_a_region_is_found_in_a_folder_and_opened(
    viewer: Any,
    explorer: ExploreWidget,
    section: AcrossImages,
    use: Any,
    qtbot: QtBot,
    folder: Path,
    painted: Labels,
    told: list[str],
) -> None:
    assert (painted.data == 2).sum() > 80
    show(section, "Folder")
    section.folder.value = folder
    section.regions.setCurrentIndex(2)
    use(section.find_button)
    best = section.found.topLevelItem(0)
    assert best.text(0) == "1.png"
    assert 0.8 < float(best.text(1)) <= 1
    similarities = [
        float(section.found.topLevelItem(k).text(1))
        for k in range(section.found.topLevelItemCount())
    ]
    assert similarities == sorted(similarities, reverse=True)
    assert [one for one in told if "broken.png is left out" in one]

    section.found.scrollToItem(best)
    press(section.found, section.found.visualItemRect(best).center())
    qtbot.waitUntil(lambda: "1.png region" in viewer.layers, timeout=_PATIENCE_MS)
    qtbot.waitUntil(lambda: not explorer.is_busy, timeout=_PATIENCE_MS)
    image, region = viewer.layers["1.png"], viewer.layers["1.png region"]
    np.testing.assert_array_equal(image.data, striped(7))
    y, x = np.nonzero(region.data)
    # A square of ten pixels, within the stripes.
    assert len(y) == 100
    assert y.min() >= 7
    assert x.min() >= 20
    assert x.max() < 63
    assert region.contour > 0
    assert viewer.layers.selection.active is painted
    assert explorer.image_combo.layer() is viewer.layers["seen"]
    # What was opened is not yet among the images looked at together.
    assert section.images.ticked() == [viewer.layers["seen"]]

    # Another region of the same image is shown in the same layers.
    count = len(viewer.layers)
    other = next(
        k for k in range(1, len(similarities)) if section.found.topLevelItem(k).text(0) == "1.png"
    )
    before = region.data.copy()
    item = section.found.topLevelItem(other)
    section.found.scrollToItem(item)
    press(section.found, section.found.visualItemRect(item).center())
    qtbot.waitUntil(lambda: not np.array_equal(region.data, before), timeout=_PATIENCE_MS)
    qtbot.waitUntil(lambda: not explorer.is_busy, timeout=_PATIENCE_MS)
    assert len(viewer.layers) == count
    assert viewer.layers[-1] is region


def test_the_search_is_cancelled_by_a_click(
    viewer: Any,
    explorer: ExploreWidget,
    section: AcrossImages,
    click: Any,
    use: Any,
    qtbot: QtBot,
    folder: Path,
    painted: Labels,
) -> None:
    for k in range(40):
        Picture.fromarray(noise(k, (168, 168))).save(folder / f"more {k}.png")
    show(section, "Folder")
    section.folder.value = folder
    click(section.find_button)
    bar = explorer.progress
    qtbot.waitUntil(lambda: bar.maximum() == 45 and bar.value() >= 2, timeout=_PATIENCE_MS)
    click(explorer.cancel_button)
    qtbot.waitUntil(lambda: not explorer.is_busy, timeout=_PATIENCE_MS)
    assert section.found.topLevelItemCount() == 0
    assert explorer.status.text() == "Cancelled."


def test_what_is_missing_is_told(
    viewer: Any,
    explorer: ExploreWidget,
    section: AcrossImages,
    use: Any,
    tmp_path: Path,
    told: list[str],
) -> None:
    for button in (section.colours_button, section.cosegment_button):
        use(button)
        assert "tick at least two images" in told.pop()
    show(section, "Points")
    use(section.points_button)
    assert "choose another image" in told.pop().lower()
    show(section, "Folder")
    use(section.find_button)
    assert "No image is open" in told.pop()
    viewer.add_image(striped(), name="seen")
    use(section.find_button)
    assert "paint the region" in told.pop()
    labels = np.zeros((56, 84), np.uint8)
    labels[20:30, 30:40] = 1
    explorer.region_combo.choose(viewer.add_labels(labels, name="region"))
    use(section.find_button)
    assert "choose the folder" in told.pop().lower()
    section.folder.value = tmp_path / "empty"
    use(section.find_button)
    assert "There is no folder" in told.pop()
    (tmp_path / "empty").mkdir()
    use(section.find_button)
    assert "holds no image" in told.pop()
    show(section, "Common")
    channels = viewer.add_image(np.stack([noise(1), noise(2)]), name="channels")
    use(section.cosegment_button)
    assert "'channels' cannot be explored with the others" in told.pop()
    assert explorer.image_combo.layer() is not channels
