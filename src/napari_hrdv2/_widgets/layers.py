"""What this plugin knows of napari's layers: which it can use, and how it dresses its own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, finalize

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer
from napari.utils import DirectLabelColormap

from ..core.base import MAX_LABEL, PixelClass, default_class
from ..core.errors import ImageError, StrokesError
from ..core.planes import Index, Planes, Region, guess_axes

MARK = "napari-hrdv2"
_FEATURES = {"index", "name"}
# A segmentation of thousands of objects chosen as strokes has no classes in its colours.
_MAX_ADOPTED = 100
# Pixels of an image whose whole segmentation takes so long that the part in view goes first.
_LARGE = 1024 * 1024
# What napari's layers say where nobody gave a unit.
_NO_UNIT = "pixel"
# Bytes of labels beyond which they lie on disk, and side of their chunks there.
_IN_MEMORY, _CHUNK = 1 << 30, 512


@dataclass(frozen=True)
class Reading:
    """How an image layer is to be understood, where somebody knows better than it tells.

    Attributes
    ----------
    axes
        A letter for every axis, see :class:`.Planes`; None: as the layer tells.
    channels
        Those used; None: all.
    level
        Of several resolutions, 0 is the finest.
    """

    axes: str | None = None
    channels: tuple[int, ...] | None = None
    level: int = 0


class Window(NamedTuple):
    """How an image's labels lie in the viewer.

    Attributes
    ----------
    axes
        The image's, without those of its samples, and without channels where these come first.
        Napari lines layers up from the last axis on, so that channels between others leave an
        axis of length 1, long enough to be seen at every channel.
    shape
        Length of each.
    place
        Where they lie, as arguments of a layer.
    """

    axes: str
    shape: tuple[int, ...]
    place: dict[str, Any]

    def at(self, index: Index, region: Region) -> tuple[Any, ...]:
        """Where a region of a plane is in an array of labels."""
        along = iter(index)
        return (*(0 if one == "C" else next(along) for one in self.axes[:-2]), *region)


def planes_of(layer: Image, reading: Reading) -> Planes:
    """The planes of an image layer that are segmented one by one.

    Raises
    ------
    ImageError
        If the axes do not fit, or there are no such channels.
    """
    data = layer.data
    if layer.multiscale:
        data = data[min(reading.level, len(data) - 1)]
    shape = tuple(data.shape)
    guess = guess_axes(shape, rgb=layer.rgb, names=tuple(layer.axis_labels))
    axes = reading.axes or guess
    if layer.rgb and len(axes) == len(shape) - 1:
        axes += "S"
    if axes.removesuffix("S")[-2:] != "YX":
        raise ImageError(
            f"'{layer.name}' has axes {axes}: the last two, which napari shows, must be Y and X."
        )
    return Planes(data, axes, reading.channels)


def window_of(layer: Image, planes: Planes, reading: Reading) -> Window:
    """How labels of an image lie in the viewer."""
    axes = planes.axes.removesuffix("S")
    kept = [k for k, one in enumerate(axes) if not (one == "C" and k == 0)]
    names = "".join(axes[k] for k in kept)
    counts = [planes.array.shape[k] for k in kept]
    factors = np.ones(len(axes))
    if layer.multiscale:
        levels = np.asarray(layer.downsample_factors)
        factors = levels[min(reading.level, len(levels) - 1)][: len(axes)]
    # Pixels that are larger by a factor, or one instead of n channels, have their middle elsewhere.
    factors = np.array(
        [
            n if one == "C" else f
            for n, one, f in zip(planes.array.shape, axes, factors, strict=False)
        ]
    )
    scale = np.asarray(layer.scale) * factors
    translate = np.asarray(layer.translate) + np.asarray(layer.scale) * (factors - 1) / 2
    rotate, shear = np.asarray(layer.rotate), np.asarray(layer.shear)
    place = {
        "scale": scale[kept],
        "translate": translate[kept],
        "units": tuple(layer.units[k] for k in kept),
        "axis_labels": tuple(layer.axis_labels[k] for k in kept),
        "affine": layer.affine.set_slice(kept),
    }
    if rotate.ndim == 2 and not np.array_equal(rotate, np.eye(len(rotate))):
        place["rotate"] = rotate[np.ix_(kept, kept)]
    if shear.any() and len(kept) == len(axes):
        place["shear"] = shear
    shape = tuple(1 if one == "C" else int(n) for one, n in zip(names, counts, strict=True))
    return Window(names, shape, place)


def strokes_of(layer: Labels, planes: Planes, window: Window) -> Planes:
    """What is painted on a labels layer, as planes of an image.

    Raises
    ------
    StrokesError
        If it has several resolutions, or is of another shape.
    """
    if layer.multiscale:
        raise StrokesError(f"'{layer.name}' has several resolutions: press New for a layer to use.")
    shape = tuple(layer.data.shape)
    for axes, wanted in ((window.axes, window.shape), (planes.labels_axes, planes.labels_shape)):
        if shape == wanted:
            return Planes(layer.data, axes)
    raise StrokesError(
        f"the strokes have shape {shape}, the image {window.shape}: they must be the same"
    )


def view_of(viewer: Any, layer: Image, planes: Planes) -> tuple[Index, Region | None]:
    """Which plane of an image is seen, and which part of it; None where napari does not tell."""
    point = np.asarray(viewer.dims.point)[-layer.ndim :]
    at = np.asarray(layer.world_to_data(point))
    axes = planes.axes.removesuffix("S")
    lengths = planes.array.shape[: len(axes)]
    full = np.asarray(layer.level_shapes[0] if layer.multiscale else layer.data.shape)[: len(axes)]
    at = at * np.asarray(lengths) / full
    index = tuple(
        int(np.clip(round(float(at[axes.index(one)])), 0, lengths[axes.index(one)] - 1))
        for one in planes.stack_axes
    )
    displayed = tuple(viewer.dims.displayed)
    if displayed != (viewer.dims.ndim - 2, viewer.dims.ndim - 1):
        return index, None
    corners = np.asarray(layer.corner_pixels, float)[:, -2:]
    if layer.multiscale:
        corners *= (
            np.asarray(planes.shape)
            / np.asarray(layer.level_shapes[layer.data_level])[len(axes) - 2 : len(axes)]
        )
    starts = np.clip(np.floor(corners[0]).astype(int), 0, planes.shape)
    stops = np.clip(np.ceil(corners[1]).astype(int) + 1, 0, planes.shape)
    if (stops <= starts).any():
        return index, None
    rows, columns = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    return index, (rows, columns)


def pixel_at(layer: Image, planes: Planes, position: Iterable[float]) -> tuple[int, int] | None:
    """The pixel (y, x) of a plane at a position in the viewer; None where there is none."""
    point = np.asarray(tuple(position))[-layer.ndim :]
    at = np.asarray(layer.world_to_data(point))[-2:]
    full = layer.level_shapes[0] if layer.multiscale else layer.data.shape
    at = at * np.asarray(planes.shape) / np.asarray(full)[layer.ndim - 2 : layer.ndim]
    y, x = np.round(at).astype(int).tolist()
    return (y, x) if 0 <= y < planes.shape[0] and 0 <= x < planes.shape[1] else None


def first_part(region: Region | None, shape: tuple[int, int]) -> Region | None:
    """Which part of a plane, of which some is seen, comes first; None where all of it does."""
    if region is None or math.prod(shape) < _LARGE:
        return None
    seen = math.prod(one.stop - one.start for one in region)
    return region if 2 * seen <= math.prod(shape) else None


def place_of(layer: Layer) -> dict[str, Any]:
    """Where a layer lies, in terms that put another one of the same axes onto it."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return {name: getattr(layer, name) for name in names}


def pixel_size_of(layer: Layer, ndim: int) -> tuple[tuple[float, ...] | None, str | None]:
    """Size of a layer's pixels along its last axes, None if nobody gave it; and its unit."""
    size = tuple(abs(float(one)) for one in layer.scale[-ndim:])
    units = {str(one): one for one in layer.units[-ndim:]}
    if len(units) > 1:
        return None, None
    ((name, unit),) = units.items()
    if name != _NO_UNIT:
        return size, f"{unit:~}"
    return (None if set(size) == {1.0} else size), None


def blank(shape: tuple[int, ...], dtype: Any, *, samples: int = 0) -> Any:
    """An array of zeros that takes no more memory than what is written to it.

    Beyond a size it lies on disk, where zarr is there, until nobody uses it. Beside its shape it
    may have a last axis of samples, such as red, green and blue.
    """
    last = (samples,) if samples else ()
    size = math.prod(shape + last) * np.dtype(dtype).itemsize
    if size > _IN_MEMORY and find_spec("zarr"):
        import zarr

        folder = tempfile.TemporaryDirectory(prefix="napari-hrdv2-")
        chunks = (1,) * (len(shape) - 2) + tuple(min(n, _CHUNK) for n in shape[-2:]) + last
        array = zarr.create_array(folder.name, shape=shape + last, dtype=dtype, chunks=chunks)
        finalize(array, folder.cleanup)
        return array
    # The system gives memory to those pages only that are written.
    return np.zeros(shape + last, dtype)


def may_be_image(layer: Layer) -> bool:
    """Whether a layer is an image to work on; not what we found in one."""
    return isinstance(layer, Image) and MARK not in layer.metadata


def may_be_strokes(layer: Layer) -> bool:
    """Whether people can paint strokes on a layer; not on our own segmentations."""
    return isinstance(layer, Labels) and MARK not in layer.metadata


def strokes_name(image: Layer) -> str:
    """Name of the layer with an image's strokes."""
    return f"{image.name} strokes"


def new_strokes(
    image: Layer, planes: Planes, window: Window, classes: Iterable[PixelClass]
) -> Labels:
    """An empty layer to paint strokes of some classes on an image."""
    classes = tuple(classes)
    largest = max(c.label for c in classes)
    dtype = np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
    data = blank(window.shape, dtype)
    strokes = Labels(data, name=strokes_name(image), opacity=0.8, **window.place)
    dress(strokes, classes)
    strokes.brush_size = brush_px(planes)
    return strokes


def brush_px(planes: Planes) -> int:
    """Diameter of a brush that suits an image, in pixels."""
    return int(np.clip(round(min(planes.shape) / 100), 3, 40))


def classes_of(layer: Labels) -> list[PixelClass]:
    """Classes that a layer's colours and names tell of."""
    if not isinstance(layer.colormap, DirectLabelColormap):
        return []
    colours = layer.colormap.color_dict
    features = layer.features
    names = (
        dict(zip(features["index"], features["name"], strict=True))
        if (set(features) >= _FEATURES)
        else {}
    )
    labels = sorted(k for k in colours if k is not None and 1 <= k <= MAX_LABEL)
    return [
        PixelClass(
            label=int(k),
            name=str(names.get(k) or default_class(int(k)).name),
            colour=tuple(float(v) for v in colours[k]),
        )
        for k in labels[:_MAX_ADOPTED]
    ]


def dress(layer: Labels, classes: Iterable[PixelClass]) -> None:
    """Give a labels layer the classes' colours, and their names for the status bar."""
    classes = tuple(classes)
    clear = (0.0, 0.0, 0.0, 0.0)
    colours: dict[int | None, Any] = {None: clear, 0: clear}
    colours |= {c.label: c.colour for c in classes}
    layer.colormap = DirectLabelColormap(color_dict=colours)
    # A table of somebody else's stays.
    if set(layer.features) <= _FEATURES:
        layer.features = {
            "index": [0, *(c.label for c in classes)],
            "name": ["not painted", *(c.name for c in classes)],
        }


class Segmentations:
    """The layers that show the segmentations of a viewer's images, one for each image.

    Parameters
    ----------
    viewer
        Whose layers they are.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._of: WeakKeyDictionary[Image, Labels] = WeakKeyDictionary()

    def __iter__(self) -> Iterator[Labels]:
        return iter(self._of.values())

    def of(self, image: Image) -> Labels | None:
        """The layer of an image's segmentation, if there is one."""
        return self._find(image)

    def show(
        self,
        image: Image,
        window: Window,
        parts: Iterable[tuple[Index, Region, npt.NDArray[np.unsignedinteger]]],
        classes: Iterable[PixelClass],
        strokes: Labels | None,
        *,
        is_whole: bool = True,
    ) -> None:
        """Write segmentations into an image's layer, leaving everything else as it is.

        Parameters
        ----------
        image
            The image that was segmented.
        window
            How its labels lie in the viewer.
        parts
            Planes, regions of these, and the labels (h, w) there.
        classes
            Whose colours a new layer gets.
        strokes
            The layer of its strokes, under which a new layer is put.
        is_whole
            Whether it is not one of many that come one after the other, pass by pass.
        """
        layer, parts = self._find(image), list(parts)
        largest = max(int(labels.max(initial=0)) for _, _, labels in parts)
        # Which napari draws fastest.
        dtype = np.dtype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
        data = None if layer is None else layer.data
        if data is None or tuple(data.shape) != window.shape:
            data = blank(window.shape, dtype)
        elif data.dtype.itemsize < dtype.itemsize:
            data = np.asarray(data).astype(dtype)
        for index, region, labels in parts:
            data[window.at(index, region)] = labels.astype(data.dtype)
        if layer is None:
            self._add(image, data, window, classes, strokes)
            return
        if data is layer.data:
            # New data would have napari measure everything anew, for longer than one notices.
            layer.refresh(extent=False, highlight=False, thumbnail=is_whole)
        else:
            layer.data = data
        for name, value in window.place.items():
            if not are_same(getattr(layer, name), value):
                setattr(layer, name, value)

    def show_part(
        self,
        image: Image,
        window: Window,
        part: tuple[Index, Region, npt.NDArray[np.unsignedinteger]],
    ) -> None:
        """Write the segmentation of a region into the layer, if there is one already."""
        layer = self._find(image)
        if layer is None or tuple(layer.data.shape) != window.shape:
            return
        index, region, labels = part
        if labels.max(initial=0) <= np.iinfo(layer.data.dtype).max:
            layer.data[window.at(index, region)] = labels.astype(layer.data.dtype)
            layer.refresh(extent=False, highlight=False, thumbnail=False)

    def toggle(self, image: Image) -> None:
        """Show or hide an image's segmentation."""
        layer = self._find(image)
        if layer is not None:
            layer.visible = not layer.visible

    def fade(self, image: Image, step: float) -> None:
        """Change the opacity of an image's segmentation by a step, within 0 to 1."""
        layer = self._find(image)
        if layer is not None:
            layer.opacity = float(np.clip(layer.opacity + step, 0, 1))

    def _find(self, image: Image) -> Labels | None:
        layer = self._of.get(image)
        if layer in self._viewer.layers:
            return layer
        # One that the panel made before it was closed and opened again.
        for layer in self._viewer.layers:
            if (
                isinstance(layer, Labels)
                and layer.metadata.get(MARK) == "segmentation"
                and layer.name == _segmentation_name(image)
                and layer not in self._of.values()
            ):
                self._of[image] = layer
                return layer
        return None

    def _add(
        self,
        image: Image,
        data: Any,
        window: Window,
        classes: Iterable[PixelClass],
        strokes: Labels | None,
    ) -> None:
        layers = self._viewer.layers
        segmentation = Labels(
            data,
            name=_segmentation_name(image),
            opacity=0.5,
            metadata={MARK: "segmentation"},
            **window.place,
        )
        dress(segmentation, classes)
        active = layers.selection.active
        self._of[image] = segmentation
        above = layers.index(strokes) if strokes in layers else len(layers)
        mode = None if strokes is None else strokes.mode
        # Over the image in any case, or it could not be seen.
        layers.insert(max(above, layers.index(image) + 1), segmentation)
        layers.selection.active = active
        if strokes is not None and active == strokes:
            strokes.mode = mode


def _segmentation_name(image: Layer) -> str:
    return f"{image.name} segmentation"


def are_same(one: Any, other: Any) -> bool:
    """Whether two values of a layer's place are the same."""
    one, other = (getattr(v, "affine_matrix", v) for v in (one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))
