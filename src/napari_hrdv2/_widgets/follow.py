"""The mouse over a viewer's canvas, for tools that follow it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

# How far a hand that clicks may shake, in pixels of the screen.
_SHAKE_PX = 4


class MouseFollower(QObject):
    """Tells where the mouse is, as often as somebody has time to listen, and where it clicks.

    While it is on, the active layer moves with a drag and is not painted.

    Parameters
    ----------
    viewer
        Over whose canvas.
    parent
        As for every Qt object.

    Attributes
    ----------
    moved, clicked
        With the position in the viewer, a tuple of float.

    Examples
    --------
    >>> follower = MouseFollower(viewer)  # doctest: +SKIP
    >>> follower.start()  # doctest: +SKIP
    """

    moved = Signal(object)
    clicked = Signal(object)

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._is_on = False
        self._position: tuple[float, ...] = ()
        self._painted: tuple[Any, Any] | None = None
        # Moves that come while somebody is at work are one move.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._tell)

    def start(self) -> None:
        """Follow the mouse."""
        if self._is_on:
            return
        self._is_on = True
        active = self._viewer.layers.selection.active
        mode = getattr(active, "mode", None)
        if mode is not None and mode != "pan_zoom":
            self._painted = active, mode
            active.mode = "pan_zoom"
        self._viewer.mouse_move_callbacks.append(self._on_move)
        self._viewer.mouse_drag_callbacks.append(self._on_drag)

    def stop(self) -> None:
        """Let the mouse go; the active layer is as it was."""
        if not self._is_on:
            return
        self._is_on = False
        self._soon.stop()
        self._viewer.mouse_move_callbacks.remove(self._on_move)
        self._viewer.mouse_drag_callbacks.remove(self._on_drag)
        if self._painted is not None:
            layer, mode = self._painted
            self._painted = None
            if layer in self._viewer.layers and layer.mode == "pan_zoom":
                layer.mode = mode

    def _on_move(self, viewer: Any, event: Any) -> None:
        self._position = tuple(event.position)
        if not self._soon.isActive():
            self._soon.start()

    def _tell(self) -> None:
        self.moved.emit(self._position)

    def _on_drag(self, viewer: Any, event: Any) -> Iterator[None]:
        start, position = tuple(event.pos), tuple(event.position)
        yield
        while event.type == "mouse_move":
            yield
        if math.dist(start, tuple(event.pos)) <= _SHAKE_PX:
            self.clicked.emit(position)
