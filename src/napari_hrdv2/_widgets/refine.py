"""What is done to segmentations after they are made."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QSpinBox, QWidget

from .._session import Session
from ..core.refine import Refinement, has_crf
from .parts import form_layout

# Numbers of a refinement: name, what it is called, largest value offered.
_NUMBERS = (
    ("guided", "Snap to edges", 200),
    ("majority", "Smooth", 100),
    ("min_size", "Remove specks", 1_000_000),
)
_COSTS = {
    "guided": "Takes about 0.2 s for a million grey pixels, 0.5 s in colour.",
    "crf": "Takes seconds for a million pixels.",
    "majority": "Takes less than 0.1 s for a million pixels.",
    "min_size": "Takes about 0.1 s for a million pixels.",
}


class RefineOptions(QWidget):
    """How a session refines its segmentations.

    Parameters
    ----------
    session
        Whose refinement is shown and changed.
    parent
        As for every Qt widget.

    Examples
    --------
    >>> options = RefineOptions(Session())  # doctest: +SKIP
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        layout = form_layout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        self.numbers: dict[str, QSpinBox] = {}
        for name, title, largest in _NUMBERS:
            box = self.numbers[name] = QSpinBox()
            box.setRange(0, largest)
            box.setSpecialValueText("off")
            box.setSuffix(" px")
            # Half a number typed is none to work with.
            box.setKeyboardTracking(False)
            box.setToolTip(_tip(name))
            layout.addRow(title, box)
        self.crf = QCheckBox("Fully connected CRF")
        self.crf.setToolTip(_tip("crf"))
        if not has_crf():
            self.crf.setEnabled(False)
            self.crf.setToolTip(f"{_tip('crf')} It is missing: pip install 'napari-hrdv2[crf]'")
        layout.addRow(self.crf)

        self.refresh()
        for box in self.numbers.values():
            box.valueChanged.connect(self._apply)
        self.crf.toggled.connect(self._apply)

    def refresh(self) -> None:
        """Show the session as it is now."""
        refinement = self._session.refinement
        for name, box in self.numbers.items():
            with QSignalBlocker(box):
                box.setValue(getattr(refinement, name))
        with QSignalBlocker(self.crf):
            self.crf.setChecked(refinement.crf)

    def _apply(self) -> None:
        numbers = {name: box.value() for name, box in self.numbers.items()}
        self._session.refine(crf=self.crf.isChecked(), **numbers)


def _tip(name: str) -> str:
    return f"{Refinement.model_fields[name].description} {_COSTS[name]}"
