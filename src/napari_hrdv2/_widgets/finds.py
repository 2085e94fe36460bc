"""The layers that show what was found in a viewer's images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer, Points, Shapes
from napari.utils import DirectLabelColormap

from .._explore import Boxed
from ..core.base import default_class
from ..core.planes import Index
from .layers import MARK, Window, are_same, blank, dress

_L = TypeVar("_L", bound=Layer)
# So many edges of a box, side by side, would cover the image.
_EDGES = 300
# So many points, side by side, would too.
_POINTS = 25


class Finds:
    """Layers over a viewer's images, one for each image and what was found there.

    A layer is written anew in place; one that was deleted is made again. Whichever layer is
    active stays so.

    Parameters
    ----------
    viewer
        Whose layers they are.

    Examples
    --------
    >>> finds = Finds(viewer)  # doctest: +SKIP
    >>> finds.show_labels(image, planes, window, (), "clusters", labels)  # doctest: +SKIP
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._of: WeakKeyDictionary[Image, dict[str, Layer]] = WeakKeyDictionary()

    def find(self, image: Image, what: str) -> Layer | None:
        """The layer that shows this of an image, if there is one."""
        layer = self._of.get(image, {}).get(what)
        if layer in self._viewer.layers:
            return layer
        # One that the panel made before it was closed and opened again.
        known = [one for layers in self._of.values() for one in layers.values()]
        for layer in self._viewer.layers:
            if (
                layer.metadata.get(MARK) == what
                and layer.name == f"{image.name} {what}"
                and layer not in known
            ):
                return layer
        return None

    def show_image(
        self,
        image: Image,
        window: Window,
        index: Index,
        what: str,
        values: npt.NDArray[Any],
        **dress: Any,
    ) -> Image:
        """Show a map of a plane.

        Parameters
        ----------
        image
            The image that it is of.
        window
            How labels of the image lie in the viewer.
        index
            Of the plane.
        what
            Is shown, for people.
        values
            (h, w), or (h, w, 3) of uint8.
        **dress
            Arguments of a new layer.
        """
        samples = values.shape[2] if values.ndim == 3 else 0

        def make(data: Any) -> Image:
            return Image(data, rgb=samples > 0, **dress, **self._named(image, window, what))

        return self._write(Image, image, window, index, what, values, make, samples)

    def show_labels(
        self, image: Image, window: Window, index: Index, what: str, labels: npt.NDArray[Any]
    ) -> Labels:
        """Show labels (h, w) of a plane; for the rest see :meth:`show_image`."""
        # Which napari draws fastest.
        small = int(labels.max(initial=0)) <= np.iinfo(np.uint8).max
        values = labels.astype(np.uint8 if small else np.uint16)

        def make(data: Any) -> Labels:
            return Labels(data, opacity=0.5, **self._named(image, window, what))

        layer = self._write(Labels, image, window, index, what, values, make)
        count = int(values.max(initial=1))
        if not isinstance(layer.colormap, DirectLabelColormap) or count not in (
            layer.colormap.color_dict
        ):
            # The colours that strokes of these labels have.
            dress(layer, map(default_class, range(1, count + 1)))
        return layer

    def show_boxes(
        self,
        image: Image,
        window: Window,
        index: Index,
        what: str,
        found: Iterable[Boxed],
    ) -> Shapes:
        """Show boxes of a plane; for the rest see :meth:`show_image`.

        Boxes of other planes stay.
        """
        lead = window.at(index, (slice(0), slice(0)))[:-2]
        layer = self._find_like(Shapes, image, what)
        kept, labels = [], []
        if layer is not None and layer.ndim == len(window.shape):
            for corners, label in zip(layer.data, layer.features["class"], strict=True):
                if tuple(np.round(corners[0, :-2]).astype(int)) != tuple(lead):
                    kept.append(corners)
                    labels.append(int(label))
        for (top, left, bottom, right), label in found:
            # Pixels reach half a pixel beyond their middle.
            ends = np.array([[top, left], [top, right], [bottom, right], [bottom, left]]) - 0.5
            kept.append(np.concatenate([np.broadcast_to(lead, (4, len(lead))), ends], 1))
            labels.append(label)
        if layer is None or layer.ndim != len(window.shape):
            layer = Shapes(
                ndim=len(window.shape),
                face_color="transparent",
                edge_width=max(1, round(max(window.shape) / _EDGES)),
                **self._named(image, window, what),
            )
            self._add(image, what, layer)
        layer.data = []
        if kept:
            layer.add_rectangles(kept)
        layer.features = {"class": np.array(labels, int)}
        layer.edge_color = [default_class(one).colour for one in labels] or "white"
        _lay(layer, window)
        return layer

    def show_points(
        self,
        image: Image,
        window: Window,
        index: Index,
        what: str,
        points: npt.NDArray[np.integer],
        *,
        colours: npt.NDArray[np.floating],
        features: Mapping[str, npt.NDArray[Any]],
    ) -> Points:
        """Show points of a plane, and no others; for the rest see :meth:`show_image`.

        Parameters
        ----------
        points
            (n, 2) of (y, x) in pixels.
        colours
            (n, 4) of them.
        features
            A table of n rows, shown under the mouse.
        """
        lead = window.at(index, (slice(0), slice(0)))[:-2]
        data = np.concatenate([np.broadcast_to(lead, (len(points), len(lead))), points], 1)
        layer = self._find_like(Points, image, what)
        if layer is None or layer.ndim != len(window.shape):
            layer = Points(ndim=len(window.shape), **self._named(image, window, what))
            self._add(image, what, layer)
        layer.data = data
        layer.features = features
        layer.face_color = colours
        layer.size = max(3, round(max(window.shape[-2:]) / _POINTS))
        layer.visible = True
        _lay(layer, window)
        return layer

    def raise_(self, image: Image, what: str) -> None:
        """Have what is there already seen; a map lies above the others then."""
        layer, layers = self.find(image, what), self._viewer.layers
        if layer is None:
            return
        maps = [one for one in layers if isinstance(one, Image) and MARK in one.metadata]
        layer.visible = True
        if layer in maps[:-1]:
            layers.move(layers.index(layer), layers.index(maps[-1]) + 1)

    def _write(
        self,
        kind: type[_L],
        image: Image,
        window: Window,
        index: Index,
        what: str,
        values: npt.NDArray[Any],
        make: Callable[[Any], _L],
        samples: int = 0,
    ) -> _L:
        layer: Any = self._find_like(kind, image, what)
        shape = window.shape + ((samples,) if samples else ())
        region = (slice(0, values.shape[0]), slice(0, values.shape[1]))
        where = window.at(index, region)
        data = None if layer is None else layer.data
        if data is None or tuple(data.shape) != shape:
            data = blank(window.shape, values.dtype, samples=samples)
        elif data.dtype.itemsize < values.dtype.itemsize:
            data = np.asarray(data).astype(values.dtype)
        data[where] = values.astype(data.dtype, copy=False)
        if layer is None:
            layer = make(data)
            self._add(image, what, layer)
        elif data is layer.data:
            # New data would have napari measure everything anew, for longer than one notices.
            layer.refresh(extent=False, highlight=False, thumbnail=False)
        else:
            layer.data = data
        _lay(layer, window)
        found: _L = layer
        return found

    def _find_like(self, kind: type[_L], image: Image, what: str) -> _L | None:
        layer = self.find(image, what)
        return layer if isinstance(layer, kind) else None

    @staticmethod
    def _named(image: Image, window: Window, what: str) -> dict[str, Any]:
        return {"name": f"{image.name} {what}", "metadata": {MARK: what}, **window.place}

    def _add(self, image: Image, what: str, layer: Layer) -> None:
        layers = self._viewer.layers
        active = layers.selection.active
        maps = [layers.index(one) for one in layers if isinstance(one, Image)]
        above = max(maps, default=-1) + 1
        # Maps lie under whatever is painted.
        layers.insert(above if isinstance(layer, Image) else len(layers), layer)
        self._of.setdefault(image, {})[what] = layer
        layers.selection.active = active


def _lay(layer: Layer, window: Window) -> None:
    """Put a layer where its image is now."""
    for name, value in window.place.items():
        if not are_same(getattr(layer, name), value):
            setattr(layer, name, value)
