"""What the axes of an image are, and which of its channels are used."""

from __future__ import annotations

from dataclasses import replace

from napari.layers import Image
from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QLineEdit, QSpinBox, QWidget

from .._session import Session
from ..core.errors import HRDv2Error, ImageError
from ..core.settings import Settings
from .layers import Reading, planes_of
from .parts import form_layout
from .subjects import Subjects

_COLOURS = {"each": "each by itself", "mapped": "as colours (up to 3)"}


class AxesFields(QWidget):
    """Shows how an image with more than height and width is understood, and corrects it.

    Parameters
    ----------
    session
        Whose settings say what the backbone sees of channels.
    subjects
        Where it is kept how images are understood.
    parent
        As for every Qt widget.

    Attributes
    ----------
    changed
        The image is understood in another way.
    failed
        An error that the user can mend.

    Examples
    --------
    >>> fields = AxesFields(session, Subjects(session))  # doctest: +SKIP
    >>> fields.watch(image_layer)  # doctest: +SKIP
    """

    changed = Signal()
    failed = Signal(object)

    def __init__(self, session: Session, subjects: Subjects, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._subjects = session, subjects
        self._image: Image | None = None
        self.axes = QLineEdit()
        self.axes.setToolTip(
            "A letter for every axis: Y and X, C for channels, others such as Z and T for planes "
            "that are segmented one by one"
        )
        self.channels = QLineEdit()
        self.channels.setPlaceholderText("all")
        self.channels.setToolTip("Numbers of the channels that are used, from 0, as 0, 2")
        self.colours = QComboBox()
        for name, text in _COLOURS.items():
            self.colours.addItem(text, name)
        self.colours.setToolTip(str(Settings.model_fields["colours"].description))
        self.level = QSpinBox()
        self.level.setToolTip("Which of the image's resolutions is segmented; 0 is the finest")
        self._form = form_layout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.addRow("Axes", self.axes)
        self._form.addRow("Channels", self.channels)
        self._form.addRow("Seen", self.colours)
        self._form.addRow("Level", self.level)
        self.axes.editingFinished.connect(self._on_edited)
        self.channels.editingFinished.connect(self._on_edited)
        self.level.valueChanged.connect(self._on_edited)
        self.colours.currentIndexChanged.connect(self._on_colours)
        self.watch(None)

    def watch(self, image: Image | None) -> None:
        """Show how an image is understood."""
        self._image = image
        self.refresh()

    def refresh(self) -> None:
        """Show everything as it is now."""
        image = self._image
        axes, count = "", None
        reading = Reading() if image is None else self._subjects.reading(image)
        if image is not None:
            try:
                planes = planes_of(image, reading)
            except ImageError:
                axes = reading.axes or "?" * image.ndim
            else:
                axes, count = planes.axes.removesuffix("S"), planes.channel_count
        fields = (self.axes, self.channels, self.colours, self.level)
        blockers = [QSignalBlocker(field) for field in fields]
        self.axes.setText(axes)
        chosen = reading.channels
        self.channels.setText("" if chosen is None else ", ".join(map(str, chosen)))
        self.colours.setCurrentIndex(self.colours.findData(self._session.settings.colours))
        levels = len(image.data) if image is not None and image.multiscale else 1
        self.level.setRange(0, levels - 1)
        self.level.setValue(reading.level)
        del blockers
        has_channels = count is not None
        for field, is_shown in zip(
            fields, (len(axes) > 2, has_channels, has_channels, levels > 1), strict=True
        ):
            self._form.setRowVisible(field, is_shown)
        self.setVisible(len(axes) > 2 or levels > 1)

    def _on_edited(self) -> None:
        if self._image is None:
            return
        old = self._subjects.reading(self._image)
        try:
            new = self._wanted(old)
            if new != old:
                self._subjects.read(self._image, new)
                self.changed.emit()
        except HRDv2Error as error:
            self.failed.emit(error)
        self.refresh()

    def _wanted(self, old: Reading) -> Reading:
        assert self._image is not None
        axes = self.axes.text().replace(" ", "").upper()
        guess = planes_of(self._image, replace(old, axes=None)).axes.removesuffix("S")
        text = self.channels.text().strip().lower()
        channels = None
        if text not in ("", "all"):
            try:
                channels = tuple(int(one) for one in text.replace(",", " ").split())
            except ValueError:
                raise ImageError(
                    f"'{text}' are no channels: give their numbers from 0 on, as 0, 2"
                ) from None
        if "C" not in axes:
            channels = None
        return Reading(None if axes == guess else axes, channels, self.level.value())

    def _on_colours(self) -> None:
        try:
            self._session.configure(colours=self.colours.currentData())
        except HRDv2Error as error:
            self.failed.emit(error)
            self.refresh()
