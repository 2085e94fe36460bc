"""The images of a session, and which of them are learnt from."""

from __future__ import annotations

from napari.layers import Image
from qtpy.QtCore import QSignalBlocker, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from .._session import Session
from .subjects import Subjects

_ROWS_PX = 110


class ImagesList(QWidget):
    """Lists the images that a session knows; those ticked are learnt from, together.

    Parameters
    ----------
    session
        Whose images are listed.
    subjects
        Which layers they are of.
    parent
        As for every Qt widget.

    Attributes
    ----------
    picked
        An image was clicked, with its layer.

    Examples
    --------
    >>> images = ImagesList(session, Subjects(session))  # doctest: +SKIP
    """

    picked = Signal(object)

    def __init__(self, session: Session, subjects: Subjects, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._subjects = session, subjects
        self._rows: list[Image] = []
        self.list = QListWidget()
        self.list.setMaximumHeight(_ROWS_PX)
        self.list.setToolTip(
            "One model learns from the strokes on all ticked images; a click goes to an image"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(self.list)
        self.list.itemChanged.connect(self._on_item_changed)
        self.list.itemClicked.connect(self._on_clicked)

    def refresh(self) -> None:
        """Show the images as they are now."""
        with QSignalBlocker(self.list):
            self.list.clear()
            self._rows = []
            for subject in self._session.subjects:
                found = self._subjects.find(subject)
                if found is None:
                    continue
                image, _ = found
                self._rows.append(image)
                painted = len({place.plane for place in subject.drawn})
                what = f"{painted} of {subject.planes.count} planes painted"
                if subject.planes.count == 1:
                    what = "painted" if painted else "not painted"
                item = QListWidgetItem(f"{image.name}: {what}")
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                is_on = Qt.CheckState.Checked if subject.is_training else Qt.CheckState.Unchecked
                item.setCheckState(is_on)
                if subject is self._session.subject:
                    font = item.font()
                    font.setBold(True)
                    item.setFont(font)
                self.list.addItem(item)

    def _on_item_changed(self, item: QListWidgetItem) -> None:
        image = self._rows[self.list.row(item)]
        for subject in self._session.subjects:
            found = self._subjects.find(subject)
            if found is not None and found[0] is image:
                self._session.train_on(subject, item.checkState() == Qt.CheckState.Checked)
                return

    def _on_clicked(self, item: QListWidgetItem) -> None:
        self.picked.emit(self._rows[self.list.row(item)])
