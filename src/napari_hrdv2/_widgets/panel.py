"""What the panels in napari's dock have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QSize
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QAbstractButton, QLabel, QWidget
from superqt.utils import qdebounced

from .. import _preferences as preferences
from .._job import Spot
from .._preferences import Preferences
from .._session import Session
from ..core.errors import Cancelled, HRDv2Error, ImageError
from .axes import AxesFields
from .layer_combo import LayerCombo
from .layers import may_be_image
from .parts import ProgressRow, sentence
from .subjects import Opened, Subjects

# Every letter typed in the preferences is a change.
_TYPING_MS = 800


class Panel(QWidget):
    """Opens and closes with napari's dock, and tells what it does.

    Attributes
    ----------
    status
        What was done, or is to be done next.
    """

    # None until built: Qt sends events before that.
    _is_open: bool | None = None

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ties = ExitStack()
        # When the window goes, this object's own methods can no longer be called.
        self.destroyed.connect(self._ties.close)
        self._clicks: dict[object, Callable[[], object]] = {}
        self.status = QLabel()
        self.status.setWordWrap(True)

    def _open(self) -> None:
        """Begin to work, when built and whenever the panel comes back."""
        if not self._is_open:
            self._is_open = True
            self._tie()

    def _tie(self) -> None:
        """Follow what is not the panel's own, until its ties are cut."""

    def _close(self) -> None:
        """Let go of all that; :meth:`_open` undoes it."""
        self._is_open = False
        self._ties.close()

    def event(self, event: QEvent | None) -> bool:
        """Napari takes a closed panel out of its dock without telling it otherwise."""
        built = self._is_open is not None
        if built and event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self._close()
            else:
                self._open()
        return bool(super().event(event))

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802, Qt's name
        """End the work when closed."""
        self._close()
        super().closeEvent(event)

    def attempt(self, action: Callable[[], object]) -> None:
        """Act; errors that the user can mend are told in a notification."""
        try:
            action()
        except HRDv2Error as error:
            self._report(error)

    def on_click(self, button: QAbstractButton, action: Callable[[], object]) -> None:
        """Attempt an action whenever a button is clicked."""
        # Not a closure: Qt may keep one, and with it the panel, alive for ever.
        self._clicks[button] = action
        button.clicked.connect(self._on_button)

    def _on_button(self) -> None:
        self.attempt(self._clicks[self.sender()])

    def _report(self, error: HRDv2Error) -> None:
        text = sentence(str(error))
        self.status.setText(text)
        show_error(text)

    def _on_failed(self, error: Exception) -> None:
        """Tell what ended the work."""
        if isinstance(error, HRDv2Error):
            self._report(error)
        elif not isinstance(error, Cancelled):
            self.status.setText("Something went wrong; nothing was changed.")
            # Out of a slot, it arrives where napari shows errors with their traceback.
            raise error


class ImagePanel(Panel):
    """Works on one of a viewer's images at a time.

    Parameters
    ----------
    viewer
        Whose layers are used.
    session
        What works on the images, as the preferences say.
    parent
        As for every Qt widget.

    Attributes
    ----------
    session
        The one given.
    subjects
        The viewer's images as the session works on them.
    image_combo, axes
        Where the image is chosen, and how it is understood.
    progress_row, progress, cancel_button
        How far the work is.
    weights_label
        What the features are computed with.
    """

    def __init__(self, viewer: Any, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self.session = viewer, session
        self.subjects = Subjects(session)
        self._preferences = Preferences()
        self.image_combo = LayerCombo(viewer, may_be_image, "no image is open", eager=True)
        self.axes = AxesFields(session, self.subjects)
        self.progress_row = ProgressRow()
        self.progress, self.cancel_button = self.progress_row.bar, self.progress_row.cancel_button
        self.weights_label = QLabel()
        self.weights_label.setWordWrap(True)
        self.axes.failed.connect(self._report)

    def sizeHint(self) -> QSize:  # noqa: N802, Qt's name
        """Wide enough for the names of layers and classes."""
        return super().sizeHint().expandedTo(QSize(300, 0))

    def _tie(self) -> None:
        self._prefer(preferences.read())
        settled: Any = qdebounced(self._prefer, timeout=_TYPING_MS)
        self._ties.callback(preferences.follow(settled))
        self.image_combo.follow(self._ties)

    def _prefer(self, preferred: Preferences) -> None:
        """Take over those preferences that are others than before; the rest was chosen here."""
        old, self._preferences = self._preferences, preferred
        self.attempt(partial(preferences.prefer, self.session, old, preferred))

    def _on_layer_removed(self, event: Any) -> None:
        self.subjects.close(event.value)

    def _image(self) -> Image:
        """The image chosen; an :class:`.ImageError` if there is none."""
        image = self.image_combo.layer()
        if image is None:
            raise ImageError("no image is open: open one, or take File > Open Sample > HR-Dv2")
        return image

    def where(self, spot: Spot) -> tuple[Image, Opened] | None:
        """The layer that a plane is of, None where it is gone."""
        known = self.subjects.find(spot.subject)
        return known if known is not None and known[0] in self._viewer.layers else None

    def _show_weights(self, weights: str | None, note: str = "") -> None:
        self.weights_label.setText(f"Weights: {weights}{note}")
        self.weights_label.setVisible(weights is not None)
