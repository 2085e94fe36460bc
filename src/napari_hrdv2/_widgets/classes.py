"""The list of classes."""

from __future__ import annotations

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from .._session import Session
from ..core.base import Colour, PixelClass

#: Classes with these labels can be picked by a key.
KEYS = tuple(range(1, 10))
_ICON_PX = 22
_ROWS_SHOWN = 5
_LABEL = Qt.ItemDataRole.UserRole


class ClassesList(QWidget):
    """Shows the classes of a session: pick, rename, recolour, add, and ask to remove one.

    Parameters
    ----------
    session
        Whose classes are shown.
    parent
        As for every Qt widget.

    Examples
    --------
    >>> classes = ClassesList(Session())  # doctest: +SKIP
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.list = QListWidget()
        self.list.setIconSize(QSize(_ICON_PX, _ICON_PX))
        self.list.setToolTip(
            "Click a class to paint with it, or press its number (keys 1 to 9) while the "
            "strokes layer is selected.\nDouble-click its name to rename it."
        )
        self.list.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.add_button = QPushButton("Add")
        self.add_button.setToolTip("Add a class and paint with it")
        self.colour_button = QPushButton("Colour…")
        self.colour_button.setToolTip("Choose the colour of the class that is painted with")
        self.remove_button = QPushButton("Remove")
        self.remove_button.setToolTip(
            "Remove the class that is painted with; its strokes must be erased before"
        )
        buttons = QHBoxLayout()
        for button in (self.add_button, self.colour_button, self.remove_button):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.list)
        layout.addLayout(buttons)

        self.list.currentItemChanged.connect(self._on_current_item)
        self.list.itemChanged.connect(self._on_item_edited)
        self.add_button.clicked.connect(lambda: session.add_class())
        self.colour_button.clicked.connect(self._choose_colour)
        self.refresh()

    def refresh(self) -> None:
        """Show the session as it is now."""
        classes = self._session.classes
        self.list.blockSignals(True)
        # Rows stay where they are: one of them may be in the middle of an edit.
        while self.list.count() > len(classes):
            self.list.takeItem(self.list.count() - 1)
        while self.list.count() < len(classes):
            new = QListWidgetItem()
            new.setFlags(new.flags() | Qt.ItemFlag.ItemIsEditable)
            self.list.addItem(new)
        for row, one in enumerate(classes):
            item = self.list.item(row)
            assert item is not None
            item.setData(_LABEL, one.label)
            item.setText(one.name)
            item.setIcon(_icon(one))
            if one.label == self._session.current:
                self.list.setCurrentRow(row)
        self.list.blockSignals(False)
        rows = min(max(len(classes), 2), _ROWS_SHOWN)
        height = max(self.list.sizeHintForRow(0), _ICON_PX + 2)
        self.list.setFixedHeight(rows * height + 2 * self.list.frameWidth() + 4)
        self.remove_button.setEnabled(len(classes) > 1)

    def _on_current_item(self, item: QListWidgetItem | None) -> None:
        if item is not None:
            self._session.pick(item.data(_LABEL))

    def _on_item_edited(self, item: QListWidgetItem) -> None:
        self._session.rename(item.data(_LABEL), item.text())
        # An empty name was not taken.
        self.refresh()

    def _choose_colour(self) -> None:
        current = {c.label: c for c in self._session.classes}[self._session.current]
        chosen = QColorDialog.getColor(_qcolor(current.colour), self, f"Colour of {current.name}")
        if chosen.isValid():
            self.set_colour(current.label, chosen)

    def set_colour(self, label: int, colour: QColor) -> None:
        """Give a class a colour."""
        red, green, blue, alpha = (v or 0.0 for v in colour.getRgbF())
        self._session.recolour(label, (red, green, blue, alpha))


def _qcolor(colour: tuple[float, ...] | Colour) -> QColor:
    return QColor.fromRgbF(*colour)


def _icon(one: PixelClass) -> QIcon:
    """Swatch of the class's colour with its number, which is also its key."""
    # Twice the size, for screens of high density.
    pixmap = QPixmap(2 * _ICON_PX, 2 * _ICON_PX)
    pixmap.fill(Qt.GlobalColor.transparent)
    colour = _qcolor(one.colour)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(colour)
    painter.setPen(Qt.PenStyle.NoPen)
    whole = QRectF(pixmap.rect()).adjusted(2, 2, -2, -2)
    painter.drawRoundedRect(whole, 8, 8)
    bright = 0.299 * colour.redF() + 0.587 * colour.greenF() + 0.114 * colour.blueF() > 0.55
    painter.setPen(QColor("black" if bright else "white"))
    font = painter.font()
    font.setPixelSize(24 if one.label < 100 else 16)
    font.setBold(True)
    painter.setFont(font)
    painter.drawText(whole, Qt.AlignmentFlag.AlignCenter, str(one.label))
    painter.end()
    icon = QIcon()
    # Selected rows keep their colour: Qt would tint the icon.
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected, QIcon.Mode.Active):
        icon.addPixmap(pixmap, mode)
    return icon
