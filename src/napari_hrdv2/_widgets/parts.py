"""What several panels are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget
from superqt import QCollapsible

from .._job import Progress


class ProgressRow(QWidget):
    """How far a job is, beside a button that ends it.

    Parameters
    ----------
    parent
        As for every Qt widget.

    Attributes
    ----------
    bar, cancel_button
        What it consists of.

    Examples
    --------
    >>> row = ProgressRow()  # doctest: +SKIP
    >>> row.show_progress(Progress(1, 4, "Pass 2 of 4"))  # doctest: +SKIP
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop the work; passes that are done are kept")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.bar, 1)
        layout.addWidget(self.cancel_button)
        # Nothing jumps when work begins or ends.
        policy = self.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.setSizePolicy(policy)

    def show_progress(self, progress: Progress) -> None:
        """Show how far the work is."""
        # Nought of nought is Qt's way to show that it does not know how long.
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        self.bar.setFormat(progress.text)
        self.bar.setToolTip(progress.text)


def collapsible(title: str, content: QWidget) -> QCollapsible:
    """A section that is closed at first."""
    section = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    section.setDuration(0)
    for part in (section, section.content()):
        inner = part.layout()
        assert inner is not None
        inner.setContentsMargins(0, 0, 0, 0)
    section.addWidget(content)
    return section


def sentence(text: str) -> str:
    """A text as one shows it: from a capital to a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def disconnect(signal: Any, slot: Callable[..., object]) -> None:
    """Disconnect a signal of psygnal, whether or not it is connected."""
    signal.disconnect(slot, missing_ok=True)
