"""A box to choose one of the viewer's layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget

from .parts import tie


def follow_layers(viewer: Any, refresh: Callable[..., object], ties: ExitStack) -> None:
    """Refresh a list of a viewer's layers, now and with every change until ``ties`` are cut."""
    events = viewer.layers.events
    for event in (events.inserted, events.removed, events.reordered, events.renamed):
        tie(ties, event, refresh)
    refresh()


class LayerCombo(QComboBox):
    """Lists those layers of a viewer that a condition admits, newest first.

    Parameters
    ----------
    viewer
        Whose layers are listed.
    admits
        Tells whether a layer is listed.
    placeholder
        What stands there when none is chosen.
    eager
        Whether it chooses a layer by itself whenever there is one.
    parent
        As for every Qt widget.

    Attributes
    ----------
    layer_changed
        Another layer is chosen, with it or None.

    Examples
    --------
    >>> combo = LayerCombo(viewer, lambda layer: True, "no layer")  # doctest: +SKIP
    """

    layer_changed = Signal(object)

    def __init__(
        self,
        viewer: Any,
        admits: Callable[[Layer], bool],
        placeholder: str,
        *,
        eager: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._admits, self._eager = viewer, admits, eager
        self._layers: list[Layer] = []
        self._chosen: Layer | None = None
        self.setPlaceholderText(placeholder)
        # A long name must not widen the whole dock.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.currentIndexChanged.connect(self._on_index)

    def follow(self, ties: ExitStack) -> None:
        """Keep up with the viewer until ``ties`` are cut."""
        follow_layers(self._viewer, self.refresh, ties)

    def layer(self) -> Layer | None:
        """The layer chosen."""
        return self._chosen

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer, or none."""
        self.setCurrentIndex(self._layers.index(layer) if layer in self._layers else -1)

    def refresh(self, event: object = None) -> None:
        """List the viewer's layers as they are now; the choice stays while its layer does."""
        self._layers = [one for one in reversed(list(self._viewer.layers)) if self._admits(one)]
        self.blockSignals(True)
        self.clear()
        self.addItems([one.name for one in self._layers])
        if self._chosen in self._layers:
            self.setCurrentIndex(self._layers.index(self._chosen))
        else:
            self.setCurrentIndex(0 if self._eager and self._layers else -1)
        self.blockSignals(False)
        self._on_index(self.currentIndex())

    def _on_index(self, index: int) -> None:
        layer = self._layers[index] if index >= 0 else None
        if layer is not self._chosen:
            self._chosen = layer
            self.layer_changed.emit(layer)
