"""From the segmentation to objects that are counted and measured."""

from __future__ import annotations

from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QWidget,
)

from .._counting import Counted, Counting
from .._session import Session
from ..core.base import PixelClass
from ..core.errors import HRDv2Error, ImageError
from ..core.objects import ObjectSettings, make_object_settings, rows_of, write_csv
from .layers import MARK, Segmentations, pixel_size_of, place_of
from .parts import form_layout
from .runner import JobRunner

_MOST_PX = 1_000_000


class _Asked(NamedTuple):
    """What is being counted, and where it will be shown."""

    segmentation: Labels
    pixel_class: PixelClass
    name: str
    job: Counting


class CountObjects(QWidget):
    """Count the objects of a class in an image's segmentation.

    They become a labels layer over it, with a table of their sizes as its features, which
    napari's status bar and its features table show.

    Parameters
    ----------
    viewer
        Whose layers are used.
    session
        Whose classes are shown.
    segmentations
        Where the image's segmentation is found.
    parent
        As for every Qt widget.

    Attributes
    ----------
    failed
        An error that the user can mend, or what ended the counting.
    told
        What was done, to be shown.
    table
        Of the objects counted last; None before.

    Examples
    --------
    >>> count = CountObjects(viewer, session, Segmentations(viewer))  # doctest: +SKIP
    >>> count.watch(image_layer)  # doctest: +SKIP
    >>> count.count()  # doctest: +SKIP
    """

    failed = Signal(object)
    told = Signal(str)

    def __init__(
        self,
        viewer: Any,
        session: Session,
        segmentations: Segmentations,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._session, self._segmentations = viewer, session, segmentations
        self._image: Image | None = None
        self._asked: _Asked | None = None
        self._name = ""
        self.table: dict[str, npt.NDArray[Any]] | None = None
        self._runner = JobRunner(self)

        self.class_combo = QComboBox()
        self.class_combo.setToolTip("The class whose objects are counted")
        self.split = _box("Split touching objects", "split")
        self.split.setToolTip(
            f"{_tip('split')} Seams on which the class is less sure count as necks, while the "
            "image's features are at hand."
        )
        self.neck = QDoubleSpinBox()
        self.neck.setRange(0.1, 1000)
        self.neck.setSingleStep(0.5)
        self.neck.setDecimals(1)
        self.neck.setSuffix(" px")
        self.neck.setValue(ObjectSettings().neck)
        self.neck.setToolTip(_tip("neck"))
        self.neck.setEnabled(False)
        self.min_size = QSpinBox()
        self.min_size.setRange(0, _MOST_PX)
        self.min_size.setSpecialValueText("off")
        self.min_size.setSuffix(" px")
        self.min_size.setToolTip(_tip("min_size"))
        self.clear_border = _box("Drop objects at the edge", "clear_border")
        self.volume = _box("3-D", "volume")
        self.count_button = QPushButton("Count objects")
        self.count_button.setToolTip("Make a layer of the objects, and a table of their sizes")
        self.save_button = QPushButton("Save table…")
        self.save_button.setToolTip("Write the table as CSV")
        self.save_button.setEnabled(False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.count_button)
        buttons.addWidget(self.save_button)

        layout = form_layout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addRow("Class", self.class_combo)
        layout.addRow(self.split)
        layout.addRow("Neck", self.neck)
        layout.addRow("Smallest", self.min_size)
        layout.addRow(self.clear_border)
        layout.addRow(self.volume)
        layout.addRow(buttons)

        self.refresh()
        self.watch(None)
        self.split.toggled.connect(self.neck.setEnabled)
        self.count_button.clicked.connect(self._on_count)
        self.save_button.clicked.connect(self._on_save)
        self._runner.returned.connect(self._on_returned)
        self._runner.ended.connect(self._update)

    def refresh(self) -> None:
        """Show the session's classes as they are now."""
        chosen = self.class_combo.currentData()
        with QSignalBlocker(self.class_combo):
            self.class_combo.clear()
            for one in self._session.classes:
                self.class_combo.addItem(one.name, one.label)
            self.class_combo.setCurrentIndex(max(self.class_combo.findData(chosen), 0))

    def watch(self, image: Image | None) -> None:
        """Count in an image's segmentation from now on."""
        self._image = image
        self.volume.setVisible(image is not None and image.ndim > 2)
        self._update()

    @property
    def is_busy(self) -> bool:
        """Whether objects are being counted."""
        return self._runner.is_busy

    @property
    def settings(self) -> ObjectSettings:
        """What was chosen."""
        return make_object_settings(
            split=self.split.isChecked(),
            neck=self.neck.value(),
            min_size=self.min_size.value(),
            clear_border=self.clear_border.isChecked(),
            volume=self.volume.isChecked() and not self.volume.isHidden(),
        )

    def count(self) -> None:
        """Start to count, in another thread.

        Raises
        ------
        ImageError
            If there is no segmentation.
        """
        if self.is_busy:
            return
        image = self._image
        layer = None if image is None else self._segmentations.of(image)
        if image is None or layer is None:
            raise ImageError("There is no segmentation to count in: press Segment first.")
        label = self.class_combo.currentData()
        (chosen,) = (one for one in self._session.classes if one.label == label)
        settings = self.settings
        pixel_size, unit = pixel_size_of(layer, 3 if settings.volume else 2)
        data, pixels = layer.data, image.data
        fits = not image.multiscale and pixels.shape[: data.ndim] == data.shape
        job = Counting(
            # The live loop writes into the layer's array.
            labels=data.copy() if isinstance(data, np.ndarray) else data,
            label=label,
            settings=settings,
            pixel_size=pixel_size,
            unit=unit,
            intensity=pixels if fits else None,
            classifier=self._session.classifier,
            tokens=self._session.tokens_of_all,
        )
        self._asked = _Asked(layer, chosen, f"{image.name} {chosen.name} objects", job)
        self._runner.start(job)
        self.told.emit("Counting.")
        self._update()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table as CSV.

        Raises
        ------
        HRDv2Error
            If nothing was counted yet, or the file cannot be written.
        """
        if self.table is None:
            raise HRDv2Error("There is no table to save yet: press Count objects first.")
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".csv")
        try:
            write_csv(path, rows_of(self.table), [*self.table])
        except OSError as error:
            raise HRDv2Error(f"{path} cannot be written: {error.strerror or error}") from None
        self.told.emit(f"Saved {path.name}.")

    def abandon(self) -> None:
        """Stop counting, for good."""
        self._runner.abandon()
        self._update()

    def _on_returned(self, outcome: Counted | Exception) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if isinstance(outcome, Exception):
            self.failed.emit(outcome)
            return
        self.table, self._name = outcome.table, asked.name
        self.told.emit(_summary(asked, outcome.table))
        if asked.segmentation in self._viewer.layers:
            self._show(asked, outcome)

    def _show(self, asked: _Asked, counted: Counted) -> None:
        """Write the objects into their layer, leaving everything else as it is."""
        features = {"index": counted.table["label"]}
        features |= {name: column for name, column in counted.table.items() if name != "label"}
        place = place_of(asked.segmentation)
        layers = self._viewer.layers
        for layer in layers:
            if layer.name == asked.name and layer.metadata.get(MARK) == "objects":
                layer.data, layer.features = counted.objects, features
                for name, value in place.items():
                    setattr(layer, name, value)
                return
        active: Layer | None = layers.selection.active
        layer = Labels(
            counted.objects,
            name=asked.name,
            features=features,
            opacity=0.7,
            metadata={MARK: "objects"},
            **place,
        )
        layers.insert(layers.index(asked.segmentation) + 1, layer)
        # Who paints goes on painting.
        layers.selection.active = active

    def _update(self) -> None:
        self.count_button.setEnabled(self._image is not None and not self.is_busy)
        self.save_button.setEnabled(self.table is not None)

    def _on_count(self) -> None:
        self._try(self.count)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save table", f"{self._name}.csv", "Tables (*.csv)"
        )
        if path:
            self._try(partial(self.save, path))

    def _try(self, action: Any) -> None:
        try:
            action()
        except HRDv2Error as error:
            self.failed.emit(error)


def _box(text: str, name: str) -> QCheckBox:
    box = QCheckBox(text)
    box.setToolTip(_tip(name))
    return box


def _tip(name: str) -> str:
    return str(ObjectSettings.model_fields[name].description)


def _summary(asked: _Asked, table: dict[str, npt.NDArray[Any]]) -> str:
    """How many there are, and how large."""
    count = len(table["label"])
    if not count:
        return f"No objects of '{asked.pixel_class.name}'."
    volume = asked.job.settings.volume
    text = f"{count} object{'s' if count > 1 else ''} of '{asked.pixel_class.name}'"
    text += f", mean {'volume' if volume else 'area'} {table['area_px'].mean():.4g} px"
    if asked.job.unit is not None:
        text += f" ({table['area'].mean():.3g} {asked.job.unit}{'³' if volume else '²'})"
    return f"{text}."
