"""The window's second panel: what features show of an image before anything is painted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import napari.viewer
import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from .._explore import Alike, Coloured, Exploration, Mask
from .._job import Progress, Spot
from ..core.errors import HRDv2Error
from ..core.explore import AttentionMaps, PrincipalComponents
from ..core.planes import Index
from .across import AcrossImages
from .finds import Finds
from .follow import MouseFollower
from .layer_combo import LayerCombo
from .layers import may_be_image, pixel_at, strokes_of, view_of
from .panel import ImagePanel
from .parts import collapsible, form_layout, offer, tie
from .refine import RefineOptions
from .runner import JobRunner
from .subjects import Opened
from .unsupervised import UnsupervisedLabels

_KINDS = (
    ("tokens", "tokens", "What the backbone says in the end; these are painted with, too"),
    ("k", "keys", "Keys of the last block: they may tell parts of things better"),
    ("q", "queries", "Queries of the last block"),
    ("v", "values", "Values of the last block"),
)
_HINT = "Choose what to see of the image. Nothing has to be painted."


class ExploreWidget(ImagePanel):
    """See what features tell of an image before a label is there.

    Parameters
    ----------
    viewer
        Whose layers are used.
    parent
        As for every Qt widget.

    Attributes
    ----------
    exploration
        What does the work.
    finds
        The layers that show what was found.
    labels, across
        The parts about labels, and about several images.

    Examples
    --------
    >>> widget = ExploreWidget(viewer)  # doctest: +SKIP
    >>> widget.components()  # doctest: +SKIP
    """

    # The annotation by which napari knows what to pass.
    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        exploration = Exploration()
        super().__init__(viewer, exploration.session, parent)
        self.exploration = exploration
        self.finds = Finds(viewer)
        self.follower = MouseFollower(viewer, self)
        self.runner = JobRunner(self)
        self._image_ties = ExitStack()
        # The basis of the colours shown last, with the kind of features that it is of.
        self._basis: tuple[str, PrincipalComponents] | None = None
        self._alike: Alike | None = None
        self._shown: Callable[[Any], object] | None = None
        self._next: tuple[Any, Callable[[Any], object]] | None = None
        self._build()
        self._open()

    # The panel ---------------------------------------------------------------------------------

    def _build(self) -> None:
        self.image_combo.setToolTip("The image to explore")
        self.passes = QSpinBox()
        self.passes.setRange(1, 1024)
        # Half a number typed is none to work with.
        self.passes.setKeyboardTracking(False)
        self.passes.setToolTip(
            "How often the backbone looks at the image, each time shifted: 16 leave fewer traces "
            "of where things lie than 4"
        )
        self.kind = QComboBox()
        offer(self.kind, _KINDS)
        self.kind.setToolTip("Which features everything but attention is made of")
        form = form_layout()
        form.addRow("Image", self.image_combo)
        form.addRow(self.axes)
        form.addRow("Passes", self.passes)
        form.addRow("Features", self.kind)

        self.status.setText(_HINT)
        self.labels = UnsupervisedLabels(self, self._viewer)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for box in (self._build_maps(), self._build_similarity(), self.labels):
            layout.addWidget(box)
        self.refine = RefineOptions(self.session)
        options = collapsible("Clusters: more", self.labels.options)
        refine = collapsible("Clusters: refine", self.refine)
        self.across = AcrossImages(self, self._viewer)
        self.sections = options, refine, collapsible("Across images", self.across)
        for section in self.sections:
            layout.addWidget(section)
            section.toggled.connect(self._on_section)
        layout.addWidget(self.progress_row)
        layout.addWidget(self.status)
        layout.addWidget(self.weights_label)
        layout.addStretch(1)

        self.image_combo.layer_changed.connect(self._on_image_changed)
        self.axes.changed.connect(self._on_axes_changed)
        self.cancel_button.clicked.connect(self.cancel)
        self.passes.valueChanged.connect(self._on_passes)
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.runner.yielded.connect(self._on_yielded)
        self.runner.returned.connect(self._on_returned)
        self.runner.ended.connect(self._on_ended)
        self.follower.moved.connect(self._on_moved)
        self.follower.clicked.connect(self._on_clicked)

    def _on_section(self, is_open: bool) -> None:
        """All open at once would be higher than a screen."""
        for section in self.sections:
            if is_open and section is not self.sender():
                section.collapse(animate=False)

    def _build_maps(self) -> QGroupBox:
        box = QGroupBox("See features")
        self.components_button = QPushButton("Principal components")
        self.components_button.setToolTip(
            "What varies most in the features, as red, green and blue"
        )
        self.stack_box = QCheckBox("Whole stack")
        self.stack_box.setToolTip(
            "All planes in the same colours: components of planes sampled over the stack"
        )
        self.keep_box = QCheckBox("Same colours as before")
        self.keep_box.setToolTip(
            "Use the components found last, perhaps in another image or plane, so that colours "
            "mean the same"
        )
        self.attention_button = QPushButton("Attention")
        self.attention_button.setToolTip(
            "Where the class token looks, in units of even attention: all heads together"
        )
        self.heads_box = QCheckBox("Each head too")
        self.heads_box.setToolTip("A hidden layer for every head: show them one by one")
        grid = QGridLayout(box)
        grid.addWidget(self.components_button, 0, 0, 1, 2)
        grid.addWidget(self.stack_box, 1, 0)
        grid.addWidget(self.keep_box, 1, 1)
        grid.addWidget(self.attention_button, 2, 0)
        grid.addWidget(self.heads_box, 2, 1)
        self.on_click(self.components_button, self.components)
        self.on_click(self.attention_button, self.attention)
        return box

    def _build_similarity(self) -> QGroupBox:
        box = QGroupBox("Similarity")
        self.follow_button = QPushButton("Follow the mouse")
        self.follow_button.setCheckable(True)
        self.follow_button.setToolTip(
            "Show how much alike everything is to the pixel under the mouse; a click fixes it"
        )
        self.region_combo = LayerCombo(
            self._viewer, lambda layer: isinstance(layer, Labels), "no labels layer"
        )
        self.region_combo.setToolTip("The labels layer whose selected label is the region")
        self.region_button = QPushButton("To the region")
        self.region_button.setToolTip(
            "Show how much alike everything is to what is painted with the selected label"
        )
        self.others_box = QCheckBox("In the other open images too")
        self.others_box.setToolTip(
            "A click, or a region, is looked for in all images of the same channels"
        )
        row = QHBoxLayout()
        row.addWidget(self.region_combo, 1)
        row.addWidget(self.region_button)
        layout = QVBoxLayout(box)
        layout.addWidget(self.follow_button)
        layout.addLayout(row)
        layout.addWidget(self.others_box)
        self.follow_button.toggled.connect(self._on_follow)
        self.on_click(self.region_button, self.region)
        return box

    # Opening and closing -----------------------------------------------------------------------

    def _tie(self) -> None:
        tie(self._ties, self.session.settings_changed, self._on_settings_changed)
        tie(self._ties, self.session.refinement_changed, self.refine.refresh)
        super()._tie()
        for part in (self.region_combo, self.labels.boxes_combo, self.across):
            part.follow(self._ties)
        tie(self._ties, self._viewer.layers.events.removed, self._on_layer_removed)
        self._ties.callback(self._image_ties.close)
        self._on_image_changed(self.image_combo.layer())
        self._on_settings_changed()
        self._update()

    def _close(self) -> None:
        self.follow_button.setChecked(False)
        self._next = self._shown = None
        self.runner.abandon()
        super()._close()

    # The image ---------------------------------------------------------------------------------

    def _on_image_changed(self, image: Layer | None) -> None:
        self._image_ties.close()
        if image is not None:
            tie(self._image_ties, image.events.data, self._on_axes_changed)
        self.axes.watch(image)
        self._on_axes_changed()

    def _on_axes_changed(self, event: object = None) -> None:
        self.follow_button.setChecked(False)
        opened = self.subjects.usable(self.image_combo.layer(), None)
        self.session.watch(None if opened is None else opened.subject)
        self._update()

    def opened(self) -> tuple[Image, Opened]:
        """The image chosen, as it is now.

        Raises
        ------
        HRDv2Error
            If none is chosen, or it cannot be explored.
        """
        image = self._image()
        opened = self.subjects.open(image, None)
        self.session.watch(opened.subject)
        opened.subject.forget_levels()
        return image, opened

    def index_of(self, image: Image, opened: Opened) -> Index:
        """Index of the plane of an image that is in view."""
        index, _ = view_of(self._viewer, image, opened.subject.planes)
        return index

    def seen(self) -> tuple[Image, Opened, Spot]:
        """The image chosen, and its plane that is in view.

        Raises
        ------
        HRDv2Error
            If none is chosen, or it cannot be explored.
        """
        image, opened = self.opened()
        index = self.index_of(image, opened)
        return image, opened, self.exploration.spot(opened.subject, index)

    def others(self) -> list[Spot]:
        """Planes in view of the other images, as far as they can be explored with this one."""
        found = []
        for layer in self._viewer.layers:
            if layer is self.image_combo.layer() or not may_be_image(layer):
                continue
            try:
                opened = self.subjects.open(layer, None)
                index = self.index_of(layer, opened)
                found.append(self.exploration.spot(opened.subject, index))
            except HRDv2Error as error:
                self._report(HRDv2Error(f"'{layer.name}' is left out: {error}"))
        return found

    # Work --------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether anything is being computed."""
        return self.runner.is_busy or self._next is not None

    def start(self, job: Any, show: Callable[[Any], object], text: str) -> None:
        """Run a job of the exploration; what ran before is given up.

        Parameters
        ----------
        job
            As :meth:`.Exploration.job` makes it.
        show
            Called with what it yields on the way, but for progress, and with what it returns.
        text
            What is being done, for people.
        """
        self.status.setText(text)
        self.progress_row.show_progress(Progress(0, 0, "Starting"))
        if self.runner.is_busy:
            self._next = job, show
            self.runner.cancel()
        else:
            self._shown = show
            self.runner.start(job)
        self._update()

    def cancel(self) -> None:
        """Stop the work within a pass."""
        self._next = None
        self.follow_button.setChecked(False)
        if self.runner.is_busy:
            self.runner.cancel()
            self.status.setText("Cancelled.")

    def _on_yielded(self, step: Any) -> None:
        if isinstance(step, Progress):
            self.progress_row.show_progress(step)
        elif self._shown is not None:
            self._shown(step)

    def _on_returned(self, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            self._on_failed(outcome)
        elif self._shown is not None:
            self._shown(outcome)

    def _on_ended(self) -> None:
        self._shown = None
        if self._next is not None:
            job, self._shown = self._next
            self._next = None
            self.runner.start(job)
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self.follow_button.setChecked(False)
        super()._on_failed(error)

    def _on_passes(self, passes: int) -> None:
        self.session.configure(passes=passes)

    def _on_kind(self) -> None:
        self.follow_button.setChecked(False)
        self.exploration.kind = self.kind.currentData()

    def _on_settings_changed(self) -> None:
        self.follow_button.setChecked(False)
        with QSignalBlocker(self.passes):
            self.passes.setValue(self.session.settings.passes)
        self.axes.refresh()

    def _update(self) -> None:
        """Show what can be done, and what is being done."""
        image = self.image_combo.layer()
        for button in (
            self.components_button,
            self.attention_button,
            self.follow_button,
            self.region_button,
            *self.labels.buttons,
        ):
            button.setEnabled(image is not None)
        opened = None if image is None else self.session.subject
        self.stack_box.setVisible(opened is not None and opened.planes.count > 1)
        self.progress_row.setVisible(self.is_busy)
        self._show_weights(self.exploration.weights_in_use)

    def _named(self, what: str) -> str:
        """What is shown, with the features that it is made of."""
        return what if self.exploration.kind == "tokens" else f"{what} of {self.kind.currentText()}"

    # Maps --------------------------------------------------------------------------------------

    def components(self) -> None:
        """Show principal components, of the plane in view or of all planes.

        Raises
        ------
        HRDv2Error
            If no image is chosen, or it cannot be explored.
        """
        image, opened, spot = self.seen()
        kind, basis = self.exploration.kind, None
        if self.keep_box.isChecked() and self._basis is not None and self._basis[0] == kind:
            basis = self._basis[1]
        what = self._named("components")
        self.finds.raise_(image, what)
        show = partial(self._show_components, kind, what)
        if self.stack_box.isChecked() and opened.subject.planes.count > 1:
            job = self.exploration.components_of_stack(opened.subject, basis=basis)
            self.start(job, show, "Colouring all planes.")
        else:
            self.start(self.exploration.components(spot, basis=basis), show, "Finding components.")

    def _show_components(self, kind: str, what: str, found: Coloured | PrincipalComponents) -> None:
        if isinstance(found, PrincipalComponents):
            self.status.setText("All planes are coloured: colours mean the same in all of them.")
            return
        self._basis = kind, found.components
        self.show_map(found.spot, what, found.colours)
        self.status.setText("What has the same colour has like features.")

    def attention(self) -> None:
        """Show where the class token looks.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        image, _, spot = self.seen()
        self.finds.raise_(image, "attention")
        show = partial(self._show_attention, spot, self.heads_box.isChecked())
        self.start(self.exploration.attention(spot), show, "Finding attention.")

    def _show_attention(self, spot: Spot, with_heads: bool, found: AttentionMaps) -> None:
        if with_heads:
            for k in range(found.heads.shape[-1]):
                plane = np.ascontiguousarray(found.heads[..., k])
                dress = {"colormap": "magma", "contrast_limits": _limits(plane), "visible": False}
                self.show_map(spot, f"attention, head {k + 1}", plane, **dress)
        limits = _limits(found.together)
        layer = self.show_map(
            spot, "attention", found.together, colormap="magma", contrast_limits=limits
        )
        if layer is not None:
            layer.contrast_limits = limits
        self.status.setText("Bright is what the class token attends to.")

    def show_map(self, spot: Spot, what: str, values: Any, **dress: Any) -> Image | None:
        """Show a map of a plane, as :meth:`.Finds.show_image`; None where its image is gone."""
        known = self.where(spot)
        if known is None:
            return None
        image, opened = known
        plane = spot.place.plane
        return self.finds.show_image(image, opened.window, plane, what, values, **dress)

    def show_labels(self, spot: Spot, what: str, labels: Any) -> Labels | None:
        """Show labels of a plane, as :meth:`.Finds.show_labels`; None where its image is gone."""
        known = self.where(spot)
        if known is None:
            return None
        image, opened = known
        layer = self.finds.show_labels(image, opened.window, spot.place.plane, what, labels)
        layer.visible = True
        return layer

    # Similarity --------------------------------------------------------------------------------

    def follow(self) -> None:
        """Have similarity follow the mouse.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        image, _, spot = self.seen()
        self._alike = None
        self.follower.stop()
        self.finds.raise_(image, self._named("similarity"))
        self.start(self.exploration.similarity(spot), self._begin_to_follow, "Measuring features.")

    def _begin_to_follow(self, alike: Alike) -> None:
        if not self.follow_button.isChecked():
            return
        self._alike = alike
        height, width = alike.features.tokens.image_shape
        self._show_similarity(alike.features.spot, alike.to_pixel((height // 2, width // 2)))
        self.follower.start()
        self.status.setText("Move the mouse over the image; a click keeps what is shown.")

    def _show_similarity(self, spot: Spot, values: Any) -> None:
        self.show_map(
            spot,
            self._named("similarity"),
            values,
            colormap="viridis",
            contrast_limits=(0, 1),
            opacity=0.8,
        )

    def _pixel(self, position: tuple[float, ...]) -> tuple[int, int] | None:
        """The pixel of the plane that is followed, at a position; None beside it."""
        known = None if self._alike is None else self.where(self._alike.features.spot)
        if known is None or self._alike is None or len(self._viewer.dims.displayed) != 2:
            return None
        image, opened = known
        if self.index_of(image, opened) != self._alike.features.spot.place.plane:
            # Another plane is in view by now.
            self.attempt(self.follow)
            return None
        return pixel_at(image, opened.subject.planes, position)

    def _on_moved(self, position: tuple[float, ...]) -> None:
        pixel = self._pixel(position)
        if pixel is not None and self._alike is not None:
            self._show_similarity(self._alike.features.spot, self._alike.to_pixel(pixel))

    def _on_clicked(self, position: tuple[float, ...]) -> None:
        pixel = self._pixel(position)
        if pixel is None or self._alike is None:
            return
        self._on_moved(position)
        spot = self._alike.features.spot
        self.follow_button.setChecked(False)
        self.status.setText(f"Similarity to pixel {pixel}.")
        if self.others_box.isChecked():
            self.attempt(partial(self._look_elsewhere, spot, pixel, f"pixel {pixel}"))

    def _on_follow(self, is_on: bool) -> None:
        if is_on:
            try:
                self.follow()
            except HRDv2Error as error:
                self.follow_button.setChecked(False)
                self._report(error)
        else:
            self.follower.stop()
            self._alike = None

    def region(self) -> None:
        """Show similarity to what is painted, see :meth:`painted`; raises as that."""
        self._look_elsewhere(*self.painted())

    def painted(self) -> tuple[Spot, Mask, str]:
        """The region: what is painted in view with the selected label of the layer chosen.

        Returns
        -------
        tuple
            The plane, (h, w) of bool, and what it is called.

        Raises
        ------
        HRDv2Error
            If no layer is chosen, nothing is painted with its label, or as :meth:`components`.
        """
        _, opened, spot = self.seen()
        layer = self.region_combo.layer()
        if layer is None:
            raise HRDv2Error("choose a labels layer, and paint the region on it")
        labels = strokes_of(layer, opened.subject.planes, opened.window)
        mask = np.asarray(labels.read(spot.place.plane)) == layer.selected_label
        if not mask.any():
            raise HRDv2Error(
                f"nothing is painted with label {layer.selected_label} of '{layer.name}' in view"
            )
        return spot, mask, f"label {layer.selected_label} of '{layer.name}'"

    def _look_elsewhere(self, spot: Spot, where: Any, name: str) -> None:
        others = self.others() if self.others_box.isChecked() else []
        job = self.exploration.similar(spot, where, others)
        self.start(job, partial(self._show_similar, name), "Comparing.")

    def _show_similar(self, name: str, found: Any) -> None:
        for spot, values in found:
            self._show_similarity(spot, values)
            known = self.where(spot)
            if known is not None:
                self.finds.raise_(known[0], self._named("similarity"))
        self.status.setText(f"Similarity to {name}.")


def _limits(values: Any) -> tuple[float, float]:
    """What becomes black and white: a few tokens of very much attention hide no others."""
    low, high = np.percentile(values, (1, 99))
    return float(low), float(max(high, low + 1e-6))
