"""Apply a model to many files, from a panel of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from magicgui.types import FileDialogMode
from magicgui.widgets import FileEdit
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from .. import _preferences as preferences
from .._batch import FORMATS, Batch, Event, Report
from .panel import Panel
from .parts import MODEL_FILTER, form_layout
from .runner import JobRunner

_STEPS = 1000
_LIST_PX = 80


class BatchWidget(Panel):
    """Apply a saved model to files and folders of images.

    Parameters
    ----------
    parent
        As for every Qt widget.

    Attributes
    ----------
    weights
        A checkpoint to use instead of a download, of models trained on one's own.

    Examples
    --------
    >>> panel = BatchWidget()  # doctest: +SKIP
    >>> panel.add(["plate1", "a.tif"])  # doctest: +SKIP
    >>> panel.start()  # doctest: +SKIP
    """

    weights: str | None = None

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._runner = JobRunner(self)
        self._begun = self._kept = 0.0

        self.model = FileEdit(
            mode=FileDialogMode.EXISTING_FILE,
            filter=MODEL_FILTER,
            tooltip="A model that 'Save model' of the other panel wrote",
        )
        self.inputs = QListWidget()
        self.inputs.setToolTip("Images, and folders of images")
        self.inputs.setMaximumHeight(_LIST_PX)
        self.files_button = QPushButton("Add files…")
        self.folder_button = QPushButton("Add folder…")
        self.clear_button = QPushButton("Clear")
        choose = QHBoxLayout()
        for button in (self.files_button, self.folder_button, self.clear_button):
            choose.addWidget(button)
        images = QVBoxLayout()
        images.addWidget(self.inputs)
        images.addLayout(choose)
        self.recursive = QCheckBox("Folders in folders too")
        self.output = FileEdit(
            mode=FileDialogMode.EXISTING_DIRECTORY, tooltip="The folder that results go to"
        )
        self.format = QComboBox()
        self.format.addItem("OME-TIFF", FORMATS[0])
        self.format.addItem("OME-Zarr", FORMATS[1])
        self.probabilities = QCheckBox("Probabilities too")
        self.table = QCheckBox("Table of areas and objects (classes.csv)")
        self.table.setToolTip("Area and number of objects of every class in every image")
        self.overwrite = QCheckBox("Anew, also what is there already")
        self.start_button = QPushButton("Apply")
        self.start_button.setToolTip(
            "Segment all images. Results that are there already, of the same image and model, are "
            "kept: after an interruption it goes on where it was."
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop: finished files stay")
        self.cancel_button.setEnabled(False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.start_button, 1)
        buttons.addWidget(self.cancel_button)
        self.progress = QProgressBar()
        self.progress.setRange(0, _STEPS)
        self.status.setText("Choose a model, images and a folder for the results.")
        self.failures = QListWidget()
        self.failures.setToolTip("What could not be segmented, and why")
        self.failures.setWordWrap(True)
        self.failures.hide()

        form = form_layout()
        form.addRow("Model", self.model.native)
        form.addRow("Images", images)
        form.addRow(self.recursive)
        form.addRow("Results", self.output.native)
        form.addRow("Format", self.format)
        for box in (self.probabilities, self.table, self.overwrite):
            form.addRow(box)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.status)
        layout.addWidget(self.failures)
        layout.addStretch()

        self.files_button.clicked.connect(self._ask_for_files)
        self.folder_button.clicked.connect(self._ask_for_folder)
        self.clear_button.clicked.connect(self.inputs.clear)
        self.start_button.clicked.connect(self.start)
        self.cancel_button.clicked.connect(self.cancel)
        self._runner.yielded.connect(self._on_event)
        self._runner.returned.connect(self._on_returned)
        self._runner.ended.connect(self._on_ended)
        self._open()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is at work."""
        return self._runner.is_busy

    def add(self, paths: Sequence[str]) -> None:
        """Add files and folders to those to segment."""
        self.inputs.addItems(list(paths))

    def start(self) -> None:
        """Segment all images; what is wrong is told below."""
        inputs = [item.text() for k in range(self.inputs.count()) if (item := self.inputs.item(k))]
        # An empty field is the folder that napari was started in.
        chosen = [str(one.value) for one in (self.model, self.output)]
        if not inputs or "." in chosen:
            self.status.setText("Choose a model, images and a folder for the results first.")
            return
        model, output = map(Path, chosen)
        batch = Batch(
            model,
            inputs,
            output,
            format=self.format.currentData(),
            probabilities=self.probabilities.isChecked(),
            csv=output / "classes.csv" if self.table.isChecked() else None,
            recursive=self.recursive.isChecked(),
            overwrite=self.overwrite.isChecked(),
            device=preferences.read().device,
            weights=self.weights,
        )
        self.failures.clear()
        self.failures.hide()
        self.progress.setValue(0)
        self.status.setText("Starting…")
        self._begun, self._kept = time.monotonic(), 0.0
        self.start_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        self._runner.start(batch)

    def cancel(self) -> None:
        """Stop; finished files stay."""
        if self.is_busy:
            self._runner.cancel()
            self.status.setText("Cancelled. What was finished stays.")

    def _on_event(self, event: Event) -> None:
        self.progress.setValue(round(_STEPS * event.done / event.total))
        if event.kind == "kept":
            self._kept += 1
        done = event.done - self._kept
        left = ""
        if done > 0:
            seconds = (time.monotonic() - self._begun) / done * (event.total - event.done)
            left = f", {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
        self.status.setText(f"{event.done:.1f} of {event.total} files{left}: {event.text}")
        if event.kind == "failed":
            self.failures.addItem(event.text)
            self.failures.show()

    def _on_returned(self, outcome: object) -> None:
        if not isinstance(outcome, Report):
            self.status.setText(str(outcome))
            return
        kept = f", {len(outcome.kept)} were there already" if outcome.kept else ""
        failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
        self.status.setText(f"{len(outcome.written)} files written{kept}{failed}.")

    def _on_ended(self) -> None:
        self.start_button.setEnabled(True)
        self.cancel_button.setEnabled(False)

    def _ask_for_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Images")
        self.add(paths)

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of images, or OME-Zarr")
        if path:
            self.add([path])

    def _close(self) -> None:
        super()._close()
        self._runner.abandon()
        self._on_ended()
