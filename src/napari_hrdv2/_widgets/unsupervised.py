"""The part of the exploring panel about labels that nobody painted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QGroupBox,
    QPushButton,
    QSpinBox,
    QWidget,
)

from .._explore import ClusterOptions, boxed, make_options
from .._job import Spot
from ..core.base import default_class
from ..core.errors import HRDv2Error
from ..core.planes import Index
from .layer_combo import LayerCombo
from .layers import MARK, brush_px, new_strokes, strokes_of
from .parts import form_layout, sentence
from .subjects import Opened

if TYPE_CHECKING:
    from .explore import ExploreWidget

_FOREGROUNDS = (("attention", "by attention"), ("component", "by the first component"))


class UnsupervisedLabels(QGroupBox):
    """Find foreground and clusters, box them, and make strokes of them.

    Parameters
    ----------
    panel
        That it is a part of, which runs its work.
    viewer
        Whose layers are used.

    Attributes
    ----------
    options
        More of how pixels are clustered, to be shown somewhere.

    Examples
    --------
    >>> labels = UnsupervisedLabels(panel, viewer)  # doctest: +SKIP
    >>> labels.clusters()  # doctest: +SKIP
    """

    def __init__(self, panel: ExploreWidget, viewer: Any) -> None:
        super().__init__("Find without labels")
        self._panel, self._viewer = panel, viewer
        self._build()
        self.options = self._build_options()

    def _build(self) -> None:
        self.foreground_combo = QComboBox()
        for name, title in _FOREGROUNDS:
            self.foreground_combo.addItem(title, name)
        self.foreground_button = QPushButton("Foreground")
        self.foreground_button.setToolTip(
            "By attention: clusters that the class token looks at more than at others. By the "
            "first component: its busier side."
        )
        self.classes = QSpinBox()
        self.classes.setRange(0, 1000)
        self.classes.setSpecialValueText("automatic")
        self.classes.setSuffix(" classes")
        self.classes.setValue(ClusterOptions().n_classes or 0)
        self.classes.setToolTip(_tip("n_classes"))
        self.clusters_button = QPushButton("Clusters")
        self.clusters_button.setToolTip("Classes of pixels whose features are alike")
        self.boxes_combo = LayerCombo(
            self._viewer, lambda layer: isinstance(layer, Labels), "no labels layer"
        )
        self.boxes_combo.setToolTip(
            "The labels whose regions get boxes, or become strokes: those found last, or others"
        )
        self.boxes_button = QPushButton("Boxes")
        self.boxes_button.setToolTip(
            "Rectangles around the largest region and the parts of every class above 200 pixels"
        )
        self.paint_button = QPushButton("Start painting from these")
        self.paint_button.setToolTip(
            "Strokes well inside every class of the labels above, on a new layer: mend what is "
            "wrong there, and segment in the panel 'Segment'"
        )
        grid = QGridLayout(self)
        for row, (what, button) in enumerate(
            (
                (self.foreground_combo, self.foreground_button),
                (self.classes, self.clusters_button),
                (self.boxes_combo, self.boxes_button),
            )
        ):
            grid.addWidget(what, row, 0)
            grid.addWidget(button, row, 1)
        grid.addWidget(self.paint_button, row + 1, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        self.buttons = {
            self.foreground_button: self.foreground,
            self.clusters_button: self.clusters,
            self.boxes_button: self.boxes,
            self.paint_button: self.start_painting,
        }
        for button, action in self.buttons.items():
            self._panel.on_click(button, action)

    def _build_options(self) -> QWidget:
        content = QWidget()
        form = form_layout(content)
        default = ClusterOptions()
        self.within = QComboBox()
        self.within.addItem("everywhere", None)
        for name, title in _FOREGROUNDS:
            self.within.addItem(f"foreground {title}", name)
        self.fused = QCheckBox("With colour and position")
        self.fused.setToolTip(_tip("is_fused"))
        form.addRow("Where", self.within)
        self.numbers: dict[str, QSpinBox] = {}
        for field, title, low, high in (
            ("n_clusters", "Clusters", 1, 1000),
            ("samples", "Sampled pixels", 100, 10_000_000),
        ):
            number = self.numbers[field] = QSpinBox()
            number.setRange(low, high)
            number.setValue(getattr(default, field))
            number.setToolTip(_tip(field))
            form.addRow(title, number)
        self.within.setToolTip(_tip("within"))
        form.addRow(self.fused)
        return content

    def foreground(self) -> None:
        """Show the foreground.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        _, _, spot = self._panel.seen()
        job = self._panel.exploration.foreground(spot, self.foreground_combo.currentData())
        self._panel.start(
            job, partial(self._show_labels, spot, "foreground"), "Finding the foreground."
        )

    def clusters(self) -> None:
        """Show classes of pixels that are alike.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        _, _, spot = self._panel.seen()
        options = make_options(
            n_classes=self.classes.value() or None,
            within=self.within.currentData(),
            is_fused=self.fused.isChecked(),
            n_clusters=self.numbers["n_clusters"].value(),
            samples=self.numbers["samples"].value(),
        )
        job = self._panel.exploration.clusters(spot, options)
        self._panel.start(job, partial(self._show_labels, spot, "clusters"), "Clustering pixels.")

    def _show_labels(self, spot: Spot, what: str, labels: Any) -> None:
        layer = self._panel.show_labels(spot, what, labels)
        if layer is None:
            return
        self.boxes_combo.choose(layer)
        count = len(np.unique(labels[labels != 0]))
        self._panel.status.setText(
            f"{sentence(what)[:-1]}: {count} {'class' if count == 1 else 'classes'}."
        )

    def boxes(self) -> None:
        """Show boxes around the regions of the labels layer chosen.

        Raises
        ------
        HRDv2Error
            If no layer is chosen, or none that fits the image.
        """
        image, opened, index, labels = self._labels_chosen()
        found = boxed(labels)
        self._panel.finds.show_boxes(image, opened.window, index, "boxes", found)
        self._panel.status.setText(f"Boxes: {len(found)}.")

    def start_painting(self) -> None:
        """Make a layer with strokes of the classes of the labels layer chosen.

        Raises
        ------
        HRDv2Error
            As :meth:`boxes`, or if there are no two classes.
        """
        image, opened, index, labels = self._labels_chosen()
        layer = self.boxes_combo.layer()
        assert layer is not None
        labels = labels.astype(np.uint16)
        if MARK in layer.metadata:
            # What is left of the foreground is a class, too.
            labels[labels == 0] = labels.max() + 1
        if len(np.unique(labels[labels != 0])) < 2:
            raise HRDv2Error(f"'{layer.name}' has no two classes here: there is nothing to learn")
        job = self._panel.exploration.strokes(labels, brush_px(opened.subject.planes))
        self._panel.start(
            job, partial(self._show_strokes, image, opened, index), "Painting strokes."
        )

    def _show_strokes(self, image: Image, opened: Opened, index: Index, painted: Any) -> None:
        if image not in self._viewer.layers:
            return
        planes, window = opened.subject.planes, opened.window
        classes = [default_class(int(label)) for label in np.unique(painted[painted != 0])]
        strokes = new_strokes(image, planes, window, classes)
        everything = (slice(0, planes.shape[0]), slice(0, planes.shape[1]))
        strokes.data[window.at(index, everything)] = painted.astype(strokes.data.dtype)
        self._viewer.add_layer(strokes)
        self._viewer.layers.selection.active = strokes
        strokes.mode = "paint"
        self._panel.status.setText(
            f"Strokes of {len(classes)} classes are on '{strokes.name}'. Mend them, and segment in "
            "the panel 'Segment' (Plugins > HR-Dv2)."
        )

    def _labels_chosen(self) -> tuple[Image, Opened, Index, Any]:
        """The image, and the labels (h, w) of its plane in view on the layer chosen."""
        image, opened = self._panel.opened()
        layer = self.boxes_combo.layer()
        if layer is None:
            raise HRDv2Error("find the foreground or clusters first, or choose a labels layer")
        index = self._panel.index_of(image, opened)
        labels = strokes_of(layer, opened.subject.planes, opened.window)
        return image, opened, index, np.asarray(labels.read(index))


def _tip(field: str) -> str:
    return str(ClusterOptions.model_fields[field].description)
