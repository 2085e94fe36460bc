"""What several panels are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QWidget,
)
from superqt import QCollapsible

from .._job import Progress
from ..core.methods import SUFFIXES

MODEL_FILTER = f"Models ({' '.join(f'*{suffix}' for suffix in SUFFIXES)})"


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


def form_layout(parent: QWidget | None = None) -> QFormLayout:
    """Rows of a name and a field that is as wide as there is room."""
    form = QFormLayout(parent)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def offer(combo: QComboBox, choices: Iterable[tuple[str, str, str]]) -> None:
    """Offer choices: of each its data, what it is called, and what there is to tell of it."""
    for data, title, tip in choices:
        combo.addItem(title, data)
        combo.setItemData(combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)


def tie(ties: ExitStack, signal: Any, slot: Callable[..., object]) -> None:
    """Connect a slot with a signal of psygnal or napari until ``ties`` are cut."""
    signal.connect(slot)
    ties.callback(signal.disconnect, slot)
