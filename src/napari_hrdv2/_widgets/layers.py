"""What this plugin knows of napari's layers: which it can use, and how it dresses its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer
from napari.utils import DirectLabelColormap

from ..core.base import MAX_LABEL, PixelClass, default_class
from ..core.errors import ImageError, StrokesError

_MARK = "napari-hrdv2"
_FEATURES = {"index", "name"}
# A segmentation of thousands of objects chosen as strokes has no classes in its colours.
_MAX_ADOPTED = 100
# Pixels of an image whose whole segmentation takes so long that the part in view goes first.
_LARGE = 1024 * 1024


def pixels_of(layer: Image) -> Any:
    """The array of an image layer that can be segmented.

    Raises
    ------
    ImageError
        If it is no flat image of one resolution.
    """
    if layer.multiscale:
        raise ImageError(
            f"'{layer.name}' has several resolutions: add one of them as an image of its own."
        )
    if not layer.rgb and layer.data.ndim != 2:
        raise ImageError(
            f"'{layer.name}' has {layer.data.ndim} dimensions: only 2-D grey and RGB images can be "
            "segmented. Duplicate one plane of it as a 2-D image."
        )
    if layer.rgb and layer.data.ndim != 3:
        raise ImageError(
            f"'{layer.name}' is a stack of RGB images: only a single one can be segmented."
        )
    return layer.data


def drawn_on(layer: Labels) -> npt.NDArray[Any]:
    """A copy of what is painted, which further strokes do not change.

    Raises
    ------
    StrokesError
        If it has several resolutions.
    """
    if layer.multiscale:
        raise StrokesError(f"'{layer.name}' has several resolutions: press New for a layer to use.")
    return np.array(layer.data)


def visible_part(layer: Image) -> tuple[slice, slice] | None:
    """Rows and columns of an image that are seen; None where most of it is, or it is small."""
    shape = layer.data.shape[:2]
    corners = np.asarray(layer.corner_pixels)
    if layer.ndim != 2 or math.prod(shape) < _LARGE:
        return None
    starts = np.clip(np.floor(corners[0]).astype(int), 0, shape)
    stops = np.clip(np.ceil(corners[1]).astype(int) + 1, 0, shape)
    if (stops <= starts).any() or 2 * math.prod(stops - starts) > math.prod(shape):
        return None
    rows, columns = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    return rows, columns


def place_of(image: Layer) -> dict[str, Any]:
    """Where an image lies, in terms that put a labels layer onto it."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return {name: getattr(image, name) for name in names}


def may_be_strokes(layer: Layer) -> bool:
    """Whether people can paint strokes on a layer; not on our own segmentations."""
    return isinstance(layer, Labels) and _MARK not in layer.metadata


def strokes_name(image: Layer) -> str:
    """Name of the layer with an image's strokes."""
    return f"{image.name} strokes"


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
        labels: npt.NDArray[np.unsignedinteger],
        classes: Iterable[PixelClass],
        strokes: Labels | None,
        *,
        is_whole: bool = True,
    ) -> None:
        """Write an image's segmentation into its layer, leaving everything else as it is.

        Parameters
        ----------
        image
            The image that was segmented.
        labels
            (h, w).
        classes
            Whose colours a new layer gets.
        strokes
            The layer of its strokes, under which a new layer is put.
        is_whole
            Whether it is not one of many that come one after the other, pass by pass.
        """
        if labels.max(initial=0) <= np.iinfo(np.uint8).max:
            # Which napari draws fastest.
            labels = labels.astype(np.uint8)
        layer = self._find(image)
        if layer is None:
            self._add(image, labels, classes, strokes)
            return
        if (layer.data.shape, layer.data.dtype) == (labels.shape, labels.dtype):
            layer.data[...] = labels
            # New data would have napari measure everything anew, for longer than one notices.
            layer.refresh(extent=False, highlight=False, thumbnail=is_whole)
        else:
            layer.data = labels
        for name, value in place_of(image).items():
            if not np.array_equal(np.asarray(getattr(layer, name)), np.asarray(value)):
                setattr(layer, name, value)

    def show_part(
        self, image: Image, region: tuple[slice, slice], labels: npt.NDArray[np.unsignedinteger]
    ) -> None:
        """Write the segmentation of a region into the layer, if there is one already."""
        layer = self._find(image)
        if layer is None or layer.data.shape != image.data.shape[:2]:
            return
        if labels.max(initial=0) <= np.iinfo(layer.data.dtype).max:
            layer.data[region] = labels
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
                and layer.metadata.get(_MARK) == "segmentation"
                and layer.name == _segmentation_name(image)
                and layer not in self._of.values()
            ):
                self._of[image] = layer
                return layer
        return None

    def _add(
        self,
        image: Image,
        labels: npt.NDArray[np.unsignedinteger],
        classes: Iterable[PixelClass],
        strokes: Labels | None,
    ) -> None:
        layers = self._viewer.layers
        segmentation = Labels(
            labels,
            name=_segmentation_name(image),
            opacity=0.5,
            metadata={_MARK: "segmentation"},
            **place_of(image),
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
