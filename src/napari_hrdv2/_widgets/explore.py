"""The window's second panel: what features show of an image before anything is painted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import napari.viewer
import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QSignalBlocker, QSize, Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qdebounced

from .. import _preferences as preferences
from .._explore import Alike, ClusterOptions, Coloured, Exploration, Mask, boxed, make_options
from .._job import Progress, Spot
from .._preferences import Preferences
from ..core.base import default_class
from ..core.errors import Cancelled, HRDv2Error, ImageError
from ..core.explore import AttentionMaps, PrincipalComponents
from ..core.planes import Index
from .across import AcrossImages
from .axes import AxesFields
from .finds import Finds
from .follow import MouseFollower
from .layer_combo import LayerCombo
from .layers import MARK, brush_px, may_be_image, new_strokes, pixel_at, strokes_of, view_of
from .parts import ProgressRow, collapsible, disconnect, sentence
from .refine import RefineOptions
from .runner import JobRunner
from .subjects import Opened, Subjects

_TYPING_MS = 800
_KINDS = (
    ("tokens", "tokens", "What the backbone says in the end; these are painted with, too"),
    ("k", "keys", "Keys of the last block: they may tell parts of things better"),
    ("q", "queries", "Queries of the last block"),
    ("v", "values", "Values of the last block"),
)
_FOREGROUNDS = (("attention", "by attention"), ("component", "by the first component"))
_HINT = "Choose what to see of the image. Nothing has to be painted."


class ExploreWidget(QWidget):
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
    subjects
        The viewer's images as the exploration works on them.
    finds
        The layers that show what was found.

    Examples
    --------
    >>> widget = ExploreWidget(viewer)  # doctest: +SKIP
    >>> widget.components()  # doctest: +SKIP
    """

    # None until built: Qt sends events before that.
    _is_open: bool | None = None

    # The annotation by which napari knows what to pass.
    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer: Any = viewer
        self.exploration = Exploration()
        self.session = self.exploration.session
        self.subjects = Subjects(self.session)
        self.finds = Finds(viewer)
        self.follower = MouseFollower(viewer, self)
        self.runner = JobRunner(self)
        self._ties, self._image_ties = ExitStack(), ExitStack()
        self._preferences = Preferences()
        # The basis of the colours shown last, with the kind of features that it is of.
        self._basis: tuple[str, PrincipalComponents] | None = None
        self._alike: Alike | None = None
        self._shown: Callable[[Any], object] | None = None
        self._next: tuple[Any, Callable[[Any], object]] | None = None
        self._build()
        self._open()
        # When the window goes, this object's own methods can no longer be called.
        for ties in (self._image_ties, self._ties):
            self.destroyed.connect(ties.close)

    # The panel ---------------------------------------------------------------------------------

    def _build(self) -> None:
        self.image_combo = LayerCombo(self._viewer, may_be_image, "no image is open", eager=True)
        self.image_combo.setToolTip("The image to explore")
        self.axes = AxesFields(self.session, self.subjects)
        self.passes = QSpinBox()
        self.passes.setRange(1, 1024)
        # Half a number typed is none to work with.
        self.passes.setKeyboardTracking(False)
        self.passes.setToolTip(
            "How often the backbone looks at the image, each time shifted: 16 leave fewer traces "
            "of where things lie than 4"
        )
        self.kind = QComboBox()
        for k, (name, title, tip) in enumerate(_KINDS):
            self.kind.addItem(title, name)
            self.kind.setItemData(k, tip, Qt.ItemDataRole.ToolTipRole)
        self.kind.setToolTip("Which features everything but attention is made of")
        form = _form()
        form.addRow("Image", self.image_combo)
        form.addRow(self.axes)
        form.addRow("Passes", self.passes)
        form.addRow("Features", self.kind)

        self.progress = ProgressRow()
        self.status = QLabel(_HINT)
        self.status.setWordWrap(True)
        self.weights_label = QLabel()
        self.weights_label.setWordWrap(True)

        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for box in (
            self._build_maps(),
            self._build_similarity(),
            self._build_labels(),
        ):
            layout.addWidget(box)
        self.refine = RefineOptions(self.session)
        options = collapsible("Clusters: more", self._build_options())
        refine = collapsible("Clusters: refine", self.refine)
        self.across = AcrossImages(self, self._viewer)
        self.sections = options, refine, collapsible("Across images", self.across)
        for section in self.sections:
            layout.addWidget(section)
            section.toggled.connect(self._on_section)
        layout.addWidget(self.progress)
        layout.addWidget(self.status)
        layout.addWidget(self.weights_label)
        layout.addStretch(1)

        self.image_combo.layer_changed.connect(self._on_image_changed)
        self.axes.changed.connect(self._on_axes_changed)
        self.axes.failed.connect(self._report)
        self.passes.valueChanged.connect(self._on_passes)
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.progress.cancel_button.clicked.connect(self.cancel)
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
        self.components_button.clicked.connect(self._on_components)
        self.attention_button.clicked.connect(self._on_attention)
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
        self.region_button.clicked.connect(self._on_region)
        return box

    def _build_labels(self) -> QGroupBox:
        box = QGroupBox("Find without labels")
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
        grid = QGridLayout(box)
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
        self.foreground_button.clicked.connect(self._on_foreground)
        self.clusters_button.clicked.connect(self._on_clusters)
        self.boxes_button.clicked.connect(self._on_boxes)
        self.paint_button.clicked.connect(self._on_paint)
        return box

    def _build_options(self) -> QWidget:
        content = QWidget()
        form = _form(content)
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

    def sizeHint(self) -> QSize:  # noqa: N802, Qt's name
        """Wide enough for the names of layers."""
        return super().sizeHint().expandedTo(QSize(300, 0))

    # Opening and closing -----------------------------------------------------------------------

    def _open(self) -> None:
        if self._is_open:
            return
        self._is_open = True
        session = self.session
        for signal, slot in (
            (session.settings_changed, self._on_settings_changed),
            (session.refinement_changed, self.refine.refresh),
        ):
            signal.connect(slot)
            self._ties.callback(disconnect, signal, slot)
        self._prefer(preferences.read())
        settled: Any = qdebounced(self._prefer, timeout=_TYPING_MS)
        self._ties.callback(preferences.follow(settled))
        for combo in (self.image_combo, self.region_combo, self.boxes_combo):
            combo.follow(self._ties)
        self.across.follow(self._ties)
        removed = self._viewer.layers.events.removed
        removed.connect(self._on_layer_removed)
        self._ties.callback(removed.disconnect, self._on_layer_removed)
        self._on_image_changed(self.image_combo.layer())
        self._on_settings_changed()
        self._update()

    def _prefer(self, preferred: Preferences) -> None:
        old, self._preferences = self._preferences, preferred
        try:
            preferences.prefer(self.session, old, preferred)
        except HRDv2Error as error:
            self._report(error)

    def _close(self) -> None:
        """Let go of the viewer; :meth:`_open` undoes it."""
        self._is_open = False
        self.follow_button.setChecked(False)
        self._next = self._shown = None
        self.runner.abandon()
        self._image_ties.close()
        self._ties.close()

    def event(self, event: QEvent | None) -> bool:
        """Napari takes a closed panel out of its dock without telling it otherwise."""
        built = self._is_open is not None
        if built and event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self._close()
            else:
                self._open()
        return bool(super().event(event))

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802, Qt's name
        """End the work when closed."""
        self._close()
        super().closeEvent(event)

    # The image ---------------------------------------------------------------------------------

    def _on_layer_removed(self, event: Any) -> None:
        if may_be_image(event.value):
            self.subjects.close(event.value)

    def _on_image_changed(self, image: Layer | None) -> None:
        self._image_ties.close()
        if image is not None:
            image.events.data.connect(self._on_axes_changed)
            self._image_ties.callback(image.events.data.disconnect, self._on_axes_changed)
        self.axes.watch(image)
        self._on_axes_changed()

    def _on_axes_changed(self, event: object = None) -> None:
        self.follow_button.setChecked(False)
        self._watch()
        self._update()

    def _watch(self) -> None:
        image = self.image_combo.layer()
        opened = None
        if image is not None:
            try:
                opened = self.subjects.open(image, None)
            except HRDv2Error:
                opened = None
        self.session.watch(None if opened is None else opened.subject)

    def opened(self) -> tuple[Image, Opened]:
        """The image chosen, as it is now.

        Raises
        ------
        HRDv2Error
            If none is chosen, or it cannot be explored.
        """
        image = self.image_combo.layer()
        if image is None:
            raise ImageError("no image is open: open one, or take File > Open Sample > HR-Dv2")
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

    def where(self, spot: Spot) -> tuple[Image, Opened] | None:
        """The layer that a plane is of, None where it is gone."""
        known = self.subjects.find(spot.subject)
        return known if known is not None and known[0] in self._viewer.layers else None

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
        self.progress.show_progress(Progress(0, 0, "Starting"))
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
            self.progress.show_progress(step)
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
        if isinstance(error, HRDv2Error):
            self._report(error)
        elif not isinstance(error, Cancelled):
            self.status.setText("Something went wrong; nothing was changed.")
            # Out of a slot, it arrives where napari shows errors with their traceback.
            raise error

    def attempt(self, action: Callable[[], object]) -> None:
        """Act; errors that the user can mend are told in a notification."""
        try:
            action()
        except HRDv2Error as error:
            self._report(error)

    def _report(self, error: HRDv2Error) -> None:
        text = sentence(str(error))
        self.status.setText(text)
        show_error(text)

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
            self.foreground_button,
            self.clusters_button,
            self.boxes_button,
            self.paint_button,
        ):
            button.setEnabled(image is not None)
        opened = None if image is None else self.session.subject
        self.stack_box.setVisible(opened is not None and opened.planes.count > 1)
        self.progress.setVisible(self.is_busy)
        weights = self.exploration.weights_in_use
        self.weights_label.setText(f"Weights: {weights}")
        self.weights_label.setVisible(weights is not None)

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
        self._show_map(found.spot, what, found.colours)
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
                self._show_map(spot, f"attention, head {k + 1}", plane, **dress)
        limits = _limits(found.together)
        layer = self._show_map(
            spot, "attention", found.together, colormap="magma", contrast_limits=limits
        )
        if layer is not None:
            layer.contrast_limits = limits
        self.status.setText("Bright is what the class token attends to.")

    def _show_map(self, spot: Spot, what: str, values: Any, **dress: Any) -> Image | None:
        known = self.where(spot)
        if known is None:
            return None
        image, opened = known
        plane = spot.place.plane
        return self.finds.show_image(image, opened.window, plane, what, values, **dress)

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
        self._show_map(
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

    # Labels ------------------------------------------------------------------------------------

    def foreground(self) -> None:
        """Show the foreground.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        _, _, spot = self.seen()
        job = self.exploration.foreground(spot, self.foreground_combo.currentData())
        self.start(job, partial(self._show_labels, spot, "foreground"), "Finding the foreground.")

    def clusters(self) -> None:
        """Show classes of pixels that are alike.

        Raises
        ------
        HRDv2Error
            As :meth:`components`.
        """
        _, _, spot = self.seen()
        options = make_options(
            n_classes=self.classes.value() or None,
            within=self.within.currentData(),
            is_fused=self.fused.isChecked(),
            n_clusters=self.numbers["n_clusters"].value(),
            samples=self.numbers["samples"].value(),
        )
        job = self.exploration.clusters(spot, options)
        self.start(job, partial(self._show_labels, spot, "clusters"), "Clustering pixels.")

    def _show_labels(self, spot: Spot, what: str, labels: Any) -> None:
        known = self.where(spot)
        if known is None:
            return
        image, opened = known
        layer = self.finds.show_labels(image, opened.window, spot.place.plane, what, labels)
        self.finds.raise_(image, what)
        self.boxes_combo.choose(layer)
        count = len(np.unique(labels[labels != 0]))
        self.status.setText(
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
        self.finds.show_boxes(image, opened.window, index, "boxes", found)
        self.status.setText(f"Boxes: {len(found)}.")

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
        job = self.exploration.strokes(labels, brush_px(opened.subject.planes))
        self.start(job, partial(self._show_strokes, image, opened, index), "Painting strokes.")

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
        self.status.setText(
            f"Strokes of {len(classes)} classes are on '{strokes.name}'. Mend them, and segment in "
            "the panel 'Segment' (Plugins > HR-Dv2)."
        )

    def _labels_chosen(self) -> tuple[Image, Opened, Index, Any]:
        """The image, and the labels (h, w) of its plane in view on the layer chosen."""
        image, opened = self.opened()
        layer = self.boxes_combo.layer()
        if layer is None:
            raise HRDv2Error("find the foreground or clusters first, or choose a labels layer")
        index = self.index_of(image, opened)
        labels = strokes_of(layer, opened.subject.planes, opened.window)
        return image, opened, index, np.asarray(labels.read(index))

    # Slots are methods: Qt keeps closures, and with them the panel, alive for ever.

    def _on_components(self) -> None:
        self.attempt(self.components)

    def _on_attention(self) -> None:
        self.attempt(self.attention)

    def _on_region(self) -> None:
        self.attempt(self.region)

    def _on_foreground(self) -> None:
        self.attempt(self.foreground)

    def _on_clusters(self) -> None:
        self.attempt(self.clusters)

    def _on_boxes(self) -> None:
        self.attempt(self.boxes)

    def _on_paint(self) -> None:
        self.attempt(self.start_painting)


def _form(parent: QWidget | None = None) -> QFormLayout:
    form = QFormLayout(parent)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def _tip(field: str) -> str:
    return str(ClusterOptions.model_fields[field].description)


def _limits(values: Any) -> tuple[float, float]:
    """What becomes black and white: a few tokens of very much attention hide no others."""
    low, high = np.percentile(values, (1, 99))
    return float(low), float(max(high, low + 1e-6))
