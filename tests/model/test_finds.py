"""The layers that show what was found, in a napari without a window."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_hrdv2._explore import Boxed
from napari_hrdv2._widgets import layers as layers_module
from napari_hrdv2._widgets.finds import Finds
from napari_hrdv2._widgets.layers import Reading, Window, pixel_at, planes_of, window_of
from napari_hrdv2.core.base import default_class
from napari_hrdv2.core.explore import Box
from napari_hrdv2.core.planes import Planes


class Kind(NamedTuple):
    """An image of some axes, the plane in question, and where it is in labels of the image."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[int, ...] = ()
    lead: tuple[int, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})


_KINDS = {
    "2-D": Kind(("y", "x"), (40, 50)),
    "RGB": Kind(("y", "x"), (40, 50, 3), options={"rgb": True}),
    "channels": Kind(("channel", "y", "x"), (2, 40, 50)),
    "stack": Kind(("time", "y", "x"), (5, 40, 50), (3,), (3,)),
    "channels between": Kind(
        ("time", "z", "channel", "y", "x"), (2, 3, 2, 40, 50), (1, 2), (1, 2, 0)
    ),
    "turned": Kind(("y", "x"), (40, 50), options={"rotate": 30, "shear": [0.2]}),
}


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def opened(viewer: ViewerModel, kind: Kind) -> tuple[Image, Planes, Window]:
    n = len(kind.axes)
    image = viewer.add_image(
        np.random.default_rng(0).integers(0, 255, kind.shape, np.uint8),
        name="it",
        axis_labels=kind.axes,
        scale=np.arange(2, n + 2) / 2,
        translate=np.arange(n) * 10.0,
        **kind.options,
    )
    planes = planes_of(image, Reading())
    return image, planes, window_of(image, planes, Reading())


@pytest.mark.parametrize("kind", _KINDS.values(), ids=list(_KINDS))
def test_finds_lie_on_their_image(viewer: ViewerModel, kind: Kind) -> None:
    image, planes, window = opened(viewer, kind)
    finds = Finds(viewer)
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 255, (40, 50, 3), np.uint8)
    values = rng.random((40, 50), np.float32)
    labels = rng.integers(0, 4, (40, 50)).astype(np.uint16)
    boxes = [Boxed(Box(4, 6, 10, 20), 2), Boxed(Box(0, 0, 40, 50), 1)]
    shown = {
        "colours": finds.show_image(image, window, kind.index, "colours", colours),
        "values": finds.show_image(image, window, kind.index, "values", values, colormap="magma"),
        "labels": finds.show_labels(image, window, kind.index, "labels", labels),
    }
    for name, data in (("colours", colours), ("values", values), ("labels", labels)):
        np.testing.assert_array_equal(shown[name].data[kind.lead], data)
        shown[name].data[kind.lead] = 0
        assert not shown[name].data.any()
    rectangles = finds.show_boxes(image, window, kind.index, "boxes", boxes)
    assert rectangles.features["class"].tolist() == [2, 1]
    np.testing.assert_allclose(rectangles.edge_color[0], default_class(2).colour, atol=1e-6)
    first = rectangles.data[0]
    assert (first[:, :-2] == kind.lead).all()
    np.testing.assert_array_equal(first[:, -2:].min(0), (3.5, 5.5))
    np.testing.assert_array_equal(first[:, -2:].max(0), (9.5, 19.5))
    # A pixel is where it is in the image.
    pixel = (7, 31)
    at = dict(zip(planes.stack_axes, kind.index, strict=True))
    letters = planes.axes.removesuffix("S")
    where = tuple({"C": 0, "Y": pixel[0], "X": pixel[1]}.get(one, at.get(one)) for one in letters)
    wanted = np.asarray(image.data_to_world(where))[-2:]
    for layer in (*shown.values(), rectangles):
        np.testing.assert_allclose(layer.data_to_world((*kind.lead, *pixel))[-2:], wanted)
        assert layer.units[-2:] == image.units[-2:]
    assert pixel_at(image, planes, image.data_to_world(where)) == pixel
    assert pixel_at(image, planes, image.data_to_world((*where[:-2], 7, 50))) is None


def test_of_several_resolutions_the_one_explored_counts(viewer: ViewerModel) -> None:
    fine = np.random.default_rng(0).integers(0, 255, (80, 100), np.uint8)
    image = viewer.add_image([fine, fine[::2, ::2]], name="it", multiscale=True, scale=(3, 3))
    reading = Reading(level=1)
    planes = planes_of(image, reading)
    window = window_of(image, planes, reading)
    layer = Finds(viewer).show_image(image, window, (), "values", np.zeros((40, 50), np.float32))
    # Two pixels of the finer one are under one of the coarser.
    np.testing.assert_allclose(layer.data_to_world((7, 31)), np.array((14.5, 62.5)) * 3)
    assert pixel_at(image, planes, (14 * 3, 62 * 3)) == (7, 31)


def test_the_active_layer_and_its_tool_stay(viewer: ViewerModel) -> None:
    image, _, window = opened(viewer, _KINDS["2-D"])
    painted = viewer.add_labels(np.zeros((40, 50), np.uint8))
    painted.mode = "paint"
    finds = Finds(viewer)
    finds.show_image(image, window, (), "values", np.zeros((40, 50), np.float32))
    finds.show_labels(image, window, (), "labels", np.ones((40, 50), np.uint8))
    finds.show_boxes(image, window, (), "boxes", [])
    assert viewer.layers.selection.active is painted
    assert painted.mode == "paint"
    # Maps lie over images and under what is painted.
    assert [layer.name for layer in viewer.layers][:2] == ["it", "it values"]


def test_finds_go_where_their_image_goes(viewer: ViewerModel) -> None:
    image, planes, window = opened(viewer, _KINDS["2-D"])
    finds = Finds(viewer)
    values = np.zeros((40, 50), np.float32)
    layer = finds.show_image(image, window, (), "values", values)
    image.scale, image.translate = (5, 6), (1, 2)
    window = window_of(image, planes, Reading())
    assert finds.show_image(image, window, (), "values", values) is layer
    np.testing.assert_allclose(layer.data_to_world((7, 31)), image.data_to_world((7, 31)))


def test_labels_beyond_a_byte_and_their_colours(viewer: ViewerModel) -> None:
    image, _, window = opened(viewer, _KINDS["2-D"])
    finds = Finds(viewer)
    layer = finds.show_labels(image, window, (), "labels", np.full((40, 50), 3, np.uint16))
    assert layer.data.dtype == np.uint8
    np.testing.assert_allclose(layer.get_color(3), default_class(3).colour, atol=1e-6)
    more = np.full((40, 50), 300, np.uint16)
    assert finds.show_labels(image, window, (), "labels", more) is layer
    np.testing.assert_array_equal(layer.data, more)
    assert layer.get_color(300)[3] == 1
    assert len(viewer.layers) == 2


def test_boxes_of_other_planes_stay(viewer: ViewerModel) -> None:
    image, _, window = opened(viewer, _KINDS["stack"])
    finds = Finds(viewer)
    box = Boxed(Box(1, 2, 30, 40), 1)
    finds.show_boxes(image, window, (1,), "boxes", [box, box])
    layer = finds.show_boxes(image, window, (2,), "boxes", [box])
    assert [int(corners[0, 0]) for corners in layer.data] == [1, 1, 2]
    finds.show_boxes(image, window, (1,), "boxes", [])
    assert [int(corners[0, 0]) for corners in layer.data] == [2]


def test_colours_of_a_large_stack_lie_on_disk_in_whole_colours(
    viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers_module, "_IN_MEMORY", 1000)
    image, _, window = opened(viewer, _KINDS["stack"])
    colours = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    layer = Finds(viewer).show_image(image, window, (3,), "colours", colours)
    assert layer.rgb
    assert layer.data.chunks == (1, 40, 50, 3)
    np.testing.assert_array_equal(np.asarray(layer.data)[3], colours)
