"""Images of every kind in a real window: stacks, channels, colours, resolutions, large ones."""

from __future__ import annotations

import time
from itertools import product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_hrdv2._job import Sight
from napari_hrdv2._widgets.layers import Reading, planes_of, window_of
from napari_hrdv2.core import tiles
from napari_hrdv2.core.extraction import FeatureExtractor

from .test_panel import halves

_TRUTH = np.where(np.arange(70) < 35, 1, 2)
_AWAY = np.abs(np.arange(70) - 35) > 14
_PATIENCE_MS = 30_000


class Kind(NamedTuple):
    """An image of some axes, and what labels of it are like."""

    axes: str
    lengths: tuple[int, ...]
    labels: tuple[int, ...]
    rgb: bool = False
    multiscale: bool = False


_KINDS = {
    "2-D": Kind("YX", (), ()),
    "RGB": Kind("YX", (), (), rgb=True),
    "channels": Kind("CYX", (2,), ()),
    "volume": Kind("ZYX", (5,), (5,)),
    "time": Kind("TYX", (5,), (5,)),
    "channels between": Kind("TZCYX", (2, 2, 3), (2, 2, 1)),
    "RGB stack": Kind("ZYX", (3,), (3,), rgb=True),
    "resolutions": Kind("YX", (), (), multiscale=True),
}
_NAMES = {"C": "channel", "Z": "z", "T": "time", "Y": "y", "X": "x"}


def pixels(kind: Kind) -> Any:
    """Dark on the left and bright on the right in every plane, of other noise."""
    rng = np.random.default_rng(0)
    image = halves() + rng.normal(0, 2, (*kind.lengths, 56, 70)).astype(np.float32)
    if kind.rgb:
        image = np.stack([np.clip(image, 0, 255).astype(np.uint8)] * 3, -1)
    return [image, image[::2, ::2]] if kind.multiscale else image


def place(kind: Kind) -> dict[str, Any]:
    n = len(kind.axes)
    return {
        "scale": (3.0, 2.0, 1.5, 0.5, 0.5)[-n:],
        "translate": (10.0, 20.0, 30.0, 3.0, 4.0)[-n:],
        "units": ("um",) * n,
        "axis_labels": tuple(_NAMES[one] for one in kind.axes),
    }


def add(viewer: Any, kind: Kind, name: str = "image") -> Any:
    return viewer.add_image(
        pixels(kind), name=name, rgb=kind.rgb, multiscale=kind.multiscale, **place(kind)
    )


def paint(strokes: Any, *labels: int, plane: tuple[int, ...] = ()) -> None:
    """A stroke of class 1 on the left, of class 2 on the right, as a user's."""
    for label in labels:
        columns = {1: np.arange(4, 12), 2: np.arange(56, 64)}[label]
        rows, columns = (v.ravel() for v in np.meshgrid(np.arange(20, 24), columns))
        strokes.data_setitem((*(np.full(len(rows), k) for k in plane), rows, columns), label)


@pytest.fixture
def swept(qtbot: Any) -> Any:
    """Waits until all of the image is segmented."""

    def swept(panel: Any) -> None:
        def is_done() -> bool:
            subject = panel.session.subject
            index = (0,) * len(subject.planes.stack_shape)
            return bool(subject.done) and not panel.session.undone(index) and not panel.is_busy

        qtbot.waitUntil(is_done, timeout=_PATIENCE_MS)

    return swept


@pytest.mark.parametrize("is_asked", [True, False])
def test_looking_around_does_not_end_the_sweep(
    viewer: Any, tiny_panel: Any, click: Any, swept: Any, qtbot: Any, is_asked: bool
) -> None:
    """Features of what is seen are at hand, so that nothing else would go on with the rest."""
    add(viewer, _KINDS["volume"])
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    viewer.dims.set_point(0, 0)
    paint(strokes, 1, 2, plane=(0,))
    if is_asked:
        click(tiny_panel.segment_button)
    loop = tiny_panel.loop
    qtbot.waitUntil(lambda: loop._is_sweeping, timeout=_PATIENCE_MS)
    loop._prefetch()
    assert loop._is_look_due
    swept(tiny_panel)


@pytest.mark.parametrize("name", _KINDS)
def test_every_kind_from_strokes_to_segmentation(
    viewer: Any, tiny_panel: Any, click: Any, swept: Any, told: Any, name: str
) -> None:
    kind = _KINDS[name]
    image = add(viewer, kind)
    shape = (*kind.labels, 56, 70)
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    window = window_of(image, planes_of(image, Reading()), Reading())
    assert (strokes.data.shape, window.shape) == (shape, shape)
    planes = list(np.ndindex(kind.labels))
    viewer.dims.set_point(range(viewer.dims.ndim - 2), [10**6] * (viewer.dims.ndim - 2))
    # One class on the first plane, the other on the last.
    paint(strokes, 1, plane=planes[0])
    paint(strokes, 2, plane=planes[-1])
    click(tiny_panel.segment_button)
    swept(tiny_panel)
    assert told == []
    layer = viewer.layers["image segmentation"]
    assert layer.data.shape == shape
    assert (layer.data == _TRUTH)[..., _AWAY].mean() > 0.95
    assert min((one == _TRUTH)[:, _AWAY].mean() for one in layer.data.reshape(-1, 56, 70)) > 0.9
    for one in (strokes, layer):
        n = one.ndim
        np.testing.assert_allclose(one.scale[-2:], (0.5, 0.5))
        np.testing.assert_allclose(one.translate[-2:], (3, 4))
        assert one.axis_labels == image.axis_labels[-n:]
        assert [str(unit) for unit in one.units] == ["micrometer"] * n
        np.testing.assert_allclose(one.extent.world[:, -2:], image.extent.world[:, -2:])
    # Wherever one looks the labels are seen, at every channel too.
    for at in product(*(range(n) for n in kind.lengths)):
        for column, label in ((5, 1), (65, 2)):
            position = image.data_to_world((*at, 30, column))
            assert layer.get_value(position, world=True) == label, at
            for axis, k in enumerate(position[:-2]):
                viewer.dims.set_point(axis, k)
            data = layer.world_to_data(np.asarray(position)[-layer.ndim :])
            seen = layer._slice.image.raw
            assert seen.shape == (56, 70)
            assert seen[round(data[-2]), round(data[-1])] == label


def test_scrolling_to_another_plane_segments_it_first(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, qtbot: Any, monkeypatch: Any
) -> None:
    image = add(viewer, _KINDS["volume"])
    monkeypatch.setattr(tiny_panel.loop, "_sweep_unasked", lambda: None)
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    viewer.dims.set_point(0, image.data_to_world((1, 0, 0))[0])
    paint(strokes, 1, 2, plane=(1,))
    finished(tiny_panel)
    layer = viewer.layers["image segmentation"]
    assert [one.any() for one in layer.data] == [False, True, False, False, False]
    classifier = tiny_panel.session.classifier
    viewer.dims.set_point(0, image.data_to_world((4, 0, 0))[0])
    qtbot.waitUntil(lambda: bool(layer.data[4].all()), timeout=_PATIENCE_MS)
    finished(tiny_panel)
    assert [one.any() for one in layer.data] == [False, True, False, False, True]
    assert (layer.data[4] == _TRUTH)[:, _AWAY].mean() > 0.9
    assert tiny_panel.session.classifier is classifier


def test_after_strokes_the_other_planes_follow(
    viewer: Any, tiny_panel: Any, click: Any, swept: Any, told: Any
) -> None:
    add(viewer, _KINDS["volume"])
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    paint(strokes, 1, 2, plane=(0,))
    QTest.qWait(50)
    swept(tiny_panel)
    layer = viewer.layers["image segmentation"]
    assert min((one == _TRUTH)[:, _AWAY].mean() for one in layer.data) > 0.9
    assert not tiny_panel.loop.is_asked
    assert told == []


def edit(field: Any, text: str) -> None:
    field.setFocus()
    field.setText(text)
    QTest.keyClick(field, Qt.Key.Key_Return)


def test_axes_and_channels_are_corrected(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, swept: Any, told: Any
) -> None:
    stack = np.stack([halves(), halves() + 3, np.zeros_like(halves())])
    viewer.add_image(stack, name="image")
    fields = tiny_panel.axes
    assert fields.axes.isVisible()
    assert (fields.axes.text(), fields.channels.isVisible()) == ("CYX", True)
    click(tiny_panel.new_button)
    first = tiny_panel.strokes_combo.layer()
    paint(first, 1, 2)
    swept(tiny_panel)
    layer = viewer.layers["image segmentation"]
    assert layer.data.shape == (56, 70)
    assert tiny_panel.session.settings.channels == (0, 1, 2)
    edit(fields.channels, "2, 0")
    swept(tiny_panel)
    assert tiny_panel.session.classifier.settings_.channels == (2, 0)
    assert tiny_panel.strokes_combo.layer() is first
    assert len(tiny_panel.session.subjects) == 1
    for text in ("7", "none"):
        edit(fields.channels, text)
        assert text in told.pop()
        assert fields.channels.text() == "2, 0"
    edit(fields.axes, "zyx")
    assert (fields.axes.text(), fields.channels.isVisible()) == ("ZYX", False)
    # The strokes before were of one plane.
    assert tiny_panel.strokes_combo.layer() is None
    click(tiny_panel.new_button)
    second = tiny_panel.strokes_combo.layer()
    assert second.data.shape == (3, 56, 70)
    paint(second, 1, 2, plane=(1,))
    click(tiny_panel.segment_button)
    swept(tiny_panel)
    layer = viewer.layers["image segmentation"]
    assert layer.data.shape == (3, 56, 70)
    assert (layer.data[:2] == _TRUTH)[..., _AWAY].mean() > 0.9
    assert tiny_panel.session.settings.channels is None
    assert told == []


@pytest.mark.parametrize("text", ["YX", "ZZYX", "ZYXC", "ABC"])
def test_axes_that_do_not_fit_are_told(viewer: Any, tiny_panel: Any, told: Any, text: str) -> None:
    viewer.add_image(np.stack([halves()] * 3), name="image")
    edit(tiny_panel.axes.axes, text)
    assert len(told) == 1
    assert "axes" in told[0].lower()
    assert tiny_panel.axes.axes.text() == "CYX"
    assert tiny_panel.session.subject.planes.axes == "CYX"
    # Nothing at all is what the image tells by itself.
    edit(tiny_panel.axes.axes, "zyx")
    edit(tiny_panel.axes.axes, "")
    assert tiny_panel.axes.axes.text() == "CYX"
    assert len(told) == 1


def test_a_sweep_goes_on_after_cancel(
    viewer: Any,
    tiny_panel: Any,
    click: Any,
    finished: Any,
    swept: Any,
    qtbot: Any,
    monkeypatch: Any,
) -> None:
    forward, computed = FeatureExtractor._forward, []

    def counting(self: Any, images: Any, *how: Any) -> Any:
        computed.extend([1] * len(images))
        time.sleep(0.06)
        return forward(self, images, *how)

    monkeypatch.setattr(FeatureExtractor, "_forward", counting)
    add(viewer, Kind("ZYX", (10,), (10,)))
    click(tiny_panel.new_button)
    paint(tiny_panel.strokes_combo.layer(), 1, 2, plane=(0,))
    click(tiny_panel.segment_button)

    def count() -> int:
        name = "image segmentation"
        return sum(one.all() for one in viewer.layers[name].data) if name in viewer.layers else 0

    qtbot.waitUntil(lambda: count() >= 4, timeout=_PATIENCE_MS)
    assert tiny_panel.loop.is_asked
    assert tiny_panel.progress.text().startswith("Segmenting the rest")
    click(tiny_panel.cancel_button)
    finished(tiny_panel)
    done = count()
    QTest.qWait(1200)
    assert 4 <= done == count() < 10
    subject = tiny_panel.session.subject
    undone = tiny_panel.session.undone((0,))
    assert len(undone) == 10 - len(subject.done) == 10 - done
    click(tiny_panel.segment_button)
    swept(tiny_panel)
    assert count() == 10
    # Two passes of each plane, but those of the plane that was being worked on.
    assert 20 <= len(computed) <= 22


def test_two_images_train_one_model_and_one_can_be_left_out(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, swept: Any, qtbot: Any
) -> None:
    session, images = tiny_panel.session, tiny_panel.images
    first = add(viewer, _KINDS["2-D"], "first")
    click(tiny_panel.new_button)
    paint(tiny_panel.strokes_combo.layer(), 1, 2)
    swept(tiny_panel)
    alone = session.classifier
    second = add(viewer, _KINDS["volume"], "second")
    tiny_panel.image_combo.choose(second)
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    assert strokes.name == "second strokes"
    paint(strokes, 1, plane=(0,))
    click(tiny_panel.segment_button)
    swept(tiny_panel)
    assert session.classifier is not alone
    assert (viewer.layers["second segmentation"].data == _TRUTH)[..., _AWAY].mean() > 0.9
    assert len(session._learnt.samples) == 2
    assert images.list.count() == 2
    assert images.list.item(0).text().startswith("first")
    together = session.classifier
    images.list.item(0).setCheckState(Qt.CheckState.Unchecked)
    QTest.qWait(100)
    finished(tiny_panel)
    (known, _) = session.subjects
    assert not known.is_training
    assert images.list.item(0).checkState() == Qt.CheckState.Unchecked
    paint(strokes, 2, plane=(0,))
    qtbot.waitUntil(lambda: session.classifier is not together, timeout=_PATIENCE_MS)
    finished(tiny_panel)
    assert [one.spot.subject.planes.stack_shape for one in session._learnt.samples] == [(5,)]
    # A click goes to an image.
    images.list.itemClicked.emit(images.list.item(0))
    assert tiny_panel.image_combo.layer() is first
    viewer.layers.remove(first)
    finished(tiny_panel)
    assert [one.planes.stack_shape for one in session.subjects] == [(5,)]
    assert images.list.count() == 1


@pytest.mark.parametrize("name", ["2-D", "channels"])
def test_one_class_on_another_image_applies_no_model_of_the_first(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, swept: Any, told: Any, name: str
) -> None:
    add(viewer, _KINDS["2-D"], "first")
    click(tiny_panel.new_button)
    paint(tiny_panel.strokes_combo.layer(), 1, 2)
    swept(tiny_panel)
    tiny_panel.session.train_on(tiny_panel.session.subject, False)
    second = add(viewer, _KINDS[name], "second")
    tiny_panel.image_combo.choose(second)
    finished(tiny_panel)
    click(tiny_panel.new_button)
    paint(tiny_panel.strokes_combo.layer(), 1)
    finished(tiny_panel)
    QTest.qWait(1500)
    finished(tiny_panel)
    assert "second segmentation" not in viewer.layers
    assert told == []


class _Reads:
    """Tells which planes of a stack are read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.planes: set[int] = set()

    def __getitem__(self, at: Any) -> np.ndarray:
        self.planes |= set(np.arange(len(self.array))[at[0]].ravel().tolist())
        return self.array[at]


def test_only_planes_that_are_needed_are_read(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tiny_panel.loop, "_sweep_unasked", lambda: None)
    reads = _Reads(pixels(Kind("ZYX", (12,), (12,))))
    lazy = da.from_array(reads, chunks=(1, 56, 70), meta=np.zeros((0, 0, 0), np.float32))
    viewer.add_image(lazy, name="image", contrast_limits=(0, 255), axis_labels=("z", "y", "x"))
    viewer.dims.set_point(0, 3)
    # Those that napari reads for itself.
    before = set(reads.planes)
    assert len(before) < 4
    click(tiny_panel.new_button)
    paint(tiny_panel.strokes_combo.layer(), 1, 2, plane=(3,))
    finished(tiny_panel)
    layer = viewer.layers["image segmentation"]
    assert (layer.data[3] == _TRUTH)[:, _AWAY].mean() > 0.9
    assert reads.planes == before | {3}


def test_a_large_plane_is_segmented_where_one_looks_first(
    viewer: Any, tiny_panel: Any, click: Any, finished: Any, swept: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tiles, "_TOGETHER", 1)
    monkeypatch.setattr(tiny_panel.loop, "_sweep_unasked", lambda: None)
    tiny_panel.session.configure(window=56)
    large = np.kron(halves(), np.ones((4, 4), np.float32))
    viewer.add_image(large, name="image")
    viewer.reset_view()
    looked: list[int] = []
    tiny_panel.loop.looker.yielded.connect(
        lambda step: looked.append(step.spot.place.tile) if isinstance(step, Sight) else None
    )
    camera = getattr(viewer, "scene", viewer).camera  # napari moved it in 0.9
    camera.center = (0, 112, 140)
    camera.zoom *= 12
    QTest.qWait(300)
    click(tiny_panel.new_button)
    strokes = tiny_panel.strokes_combo.layer()
    finished(tiny_panel)
    looked.clear()
    subject = tiny_panel.session.subject
    assert len(subject.tiles) > 4
    seen = {place.tile for place in tiny_panel.loop.seen()}
    assert 0 < len(seen) < len(subject.tiles)
    strokes.data[100:124, 115:125], strokes.data[100:124, 155:165] = 1, 2
    strokes.refresh()
    finished(tiny_panel)
    layer = viewer.layers["image segmentation"]
    for k, tile in enumerate(subject.tiles):
        assert layer.data[tile.core].any() == (k in seen)
    assert set(looked) <= seen
    click(tiny_panel.segment_button)
    swept(tiny_panel)
    truth = np.where(np.arange(280) < 140, 1, 2)
    assert (layer.data == truth)[:, np.abs(np.arange(280) - 140) > 14].mean() > 0.9
    assert layer.data.all()
