"""Settings that most people leave as they are."""

from __future__ import annotations

import math

import torch
from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from .._session import Session
from ..core.errors import HRDv2Error
from ..core.methods import METHODS
from ..core.settings import Settings
from ..core.weights import REGISTRY
from .parts import form_layout, offer

_AUTOMATIC = "auto"
# Zooms offered, and what there is to tell of them.
_ZOOMS = {
    (1.0,): "All passes see the same: fine where all structures are of about one size",
    (1.0, 0.5): "Every second pass sees more around, in a quarter of the time of the others",
    (1.0, 0.5, 2.0): "Fine structures too, and slow: best with 6 or 12 passes, on a GPU",
}
# Size in pixels of the patches of all but a user's own backbone.
_PATCH = 14


class AdvancedSettings(QWidget):
    """Backbone, passes, stride, device and classifier of a session.

    Parameters
    ----------
    session
        Whose settings are shown and changed.
    parent
        As for every Qt widget.

    Attributes
    ----------
    failed
        A value was refused, with the reason.
    cleared
        The cache of features was cleared, with what to tell of it.

    Examples
    --------
    >>> advanced = AdvancedSettings(Session())  # doctest: +SKIP
    """

    failed = Signal(object)
    cleared = Signal(str)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        # Length of a pixel, in pixels or in what the image is measured in.
        self._pixel = 1.0
        fields = Settings.model_fields
        self.model = QComboBox()
        self.model.addItem("best at hand", _AUTOMATIC)
        about = {one.name: f"{one.description}, {one.megabytes} MB" for one in REGISTRY.values()}
        offer(self.model, ((name, name, tip) for name, tip in about.items()))
        self.model.setToolTip(
            "The pretrained vision transformer. Larger ones are slower and may be better; "
            "they are downloaded when used the first time."
        )
        self.weights = QLineEdit()
        self.weights.setReadOnly(True)
        self.weights.setPlaceholderText("downloaded")
        self.weights.setToolTip("A checkpoint of your own instead of a download")
        self.browse = QPushButton("…")
        self.browse.setToolTip("Choose a checkpoint; cancel to go back to downloaded ones")
        self.passes = QSpinBox()
        self.passes.setRange(1, 1024)
        self.passes.setToolTip(str(fields["passes"].description))
        self.zooms = QComboBox()
        offer(self.zooms, ((_listed(one), _said(one), tip) for one, tip in _ZOOMS.items()))
        self.zooms.setToolTip(
            "How many times larger than Structures says the passes see the image, in turn: of "
            "several, whatever its structures' size, and best with as many passes for each. "
            "Time grows with the square."
        )
        self.stride = QSpinBox()
        self.stride.setRange(0, 64)
        self.stride.setSpecialValueText("patch size")
        self.stride.setSuffix(" px")
        self.stride.setToolTip(
            "Distance of neighbouring tokens. Smaller is sharper; time grows with the square of "
            "1 / stride, or faster."
        )
        self.structures = QDoubleSpinBox()
        self.structures.setToolTip(
            "Size of the finest structures that matter, in pixels or, where the image has one, in "
            "its unit. Where it is less than the backbone's patches, of 14 px as a rule, the image "
            "is enlarged for it, where it is more, shrunk. Half the size takes four times as long."
        )
        self.filters = QCheckBox("beside the backbone's features")
        self.filters.setToolTip(
            "Intensity, edges, blobs and texture at full resolution: sharper borders, small "
            "things, and little time"
        )
        self.device = QComboBox()
        self.device.addItem("fastest", _AUTOMATIC)
        self.device.addItem("CPU", "cpu")
        if torch.cuda.is_available():
            self.device.addItem("GPU (CUDA)", "cuda")
        if torch.backends.mps.is_available():
            self.device.addItem("GPU (Apple)", "mps")
        self.device.setToolTip("Where the backbone runs")

        self.method = QComboBox()
        offer(self.method, ((name, one.title, one.description) for name, one in METHODS.items()))
        self.method.setToolTip(
            "What learns from the strokes. The linear ones follow every stroke; trees may find "
            "what they cannot, take seconds, and work when you press Segment."
        )

        file_row = QHBoxLayout()
        file_row.setContentsMargins(0, 0, 0, 0)
        file_row.addWidget(self.weights)
        file_row.addWidget(self.browse)
        self.cache_size = QLabel()
        self.cache_size.setToolTip(
            "Features of images are kept on disk, so that no image is computed twice. The "
            "preferences say where, and how much room they may take."
        )
        self.clear = QPushButton("Clear cache")
        cache_row = QHBoxLayout()
        cache_row.setContentsMargins(0, 0, 0, 0)
        cache_row.addWidget(self.cache_size, 1)
        cache_row.addWidget(self.clear)
        layout = form_layout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addRow("Model", self.model)
        layout.addRow("Weights", file_row)
        layout.addRow("Passes", self.passes)
        layout.addRow("Seen at", self.zooms)
        layout.addRow("Stride", self.stride)
        layout.addRow("Structures", self.structures)
        layout.addRow("Filters", self.filters)
        layout.addRow("Device", self.device)
        layout.addRow("Classifier", self.method)
        layout.addRow("Features", cache_row)
        for box in (self.model, self.zooms, self.device, self.method):
            box.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            box.setMinimumContentsLength(10)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.browse.setFixedWidth(36)

        self.measure_in(1.0, "px")
        self.model.activated.connect(self._apply)
        self.zooms.activated.connect(self._apply)
        self.device.activated.connect(self._apply)
        self.method.activated.connect(self._use_method)
        self.passes.valueChanged.connect(self._apply)
        self.stride.valueChanged.connect(self._apply)
        self.structures.valueChanged.connect(self._apply)
        # Not toggled, which showing the session sets off too.
        self.filters.clicked.connect(self._apply)
        self.browse.clicked.connect(self._browse)
        self.clear.clicked.connect(self._clear)

    def measure_in(self, pixel: float, unit: str) -> None:
        """Show lengths in a unit, in which a pixel has some length."""
        self._pixel = pixel
        with QSignalBlocker(self.structures):
            # As many digits as tell tenths of a pixel.
            self.structures.setDecimals(max(0, math.ceil(-math.log10(pixel / 10))))
            self.structures.setRange(2 * pixel, 100 * pixel)
            self.structures.setSuffix(f" {unit}")
        self.refresh()

    def show_size(self) -> None:
        """Say how large the cache is now."""
        self.cache_size.setText(f"{_readable(self._session.store.size)} kept")

    def _clear(self) -> None:
        size = self._session.store.size
        self._session.store.clear()
        self._session.memory.clear()
        self.show_size()
        self.cleared.emit(f"Cleared {_readable(size)} of features from the disk.")

    def refresh(self) -> None:
        """Show the session as it is now."""
        settings = self._session.settings
        blockers = [QSignalBlocker(box) for box in (self.passes, self.stride, self.structures)]
        _choose(self.model, settings.model, settings.model)
        _choose(self.zooms, _said(settings.zooms), _listed(settings.zooms))
        self.model.setEnabled(self._session.weights is None)
        self.weights.setText(self._session.weights or "")
        self.passes.setValue(settings.passes)
        self.stride.setValue(settings.stride or 0)
        self.structures.setValue(self._pixel * (settings.patch or _PATCH) / settings.scale)
        self.filters.setChecked(settings.filters)
        self.device.setCurrentIndex(max(0, self.device.findData(self._session.device)))
        self.method.setCurrentIndex(self.method.findData(self._session.method))
        for blocker in blockers:
            blocker.unblock()

    def _apply(self) -> None:
        try:
            self._session.configure(
                model=self.model.currentData(),
                passes=self.passes.value(),
                zooms=tuple(map(float, self.zooms.currentData().split(","))),
                stride=self.stride.value() or None,
                scale=self._scale(),
                filters=self.filters.isChecked(),
                device=self.device.currentData(),
            )
        except HRDv2Error as error:
            self.refresh()
            self.failed.emit(error)

    def _use_method(self) -> None:
        self._session.use_method(self.method.currentData())

    def _scale(self) -> float:
        """At which the finest structures are as large as a patch."""
        settings, size = self._session.settings, self.structures.value()
        patch = self._pixel * (settings.patch or _PATCH)
        # What is shown is rounded: who leaves it alone changes nothing.
        if size == round(patch / settings.scale, self.structures.decimals()):
            return settings.scale
        return patch / size

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Weights of the backbone", "", "Checkpoints (*.safetensors *.pth *.pt *.whl)"
        )
        self._session.use_weights(path or None)


def _said(zooms: tuple[float, ...]) -> str:
    return " and ".join(f"{zoom:g}x" for zoom in zooms)


def _listed(zooms: tuple[float, ...]) -> str:
    # Of tuples, not every binding of Qt finds an equal one.
    return ",".join(map(str, zooms))


def _choose(box: QComboBox, text: str, data: str) -> None:
    """Choose what has some data, which may be none of those that were offered."""
    index = box.findData(data)
    if index < 0:
        box.addItem(text, data)
        index = box.count() - 1
    box.setCurrentIndex(index)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
