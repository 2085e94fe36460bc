"""The live loop: features come in the background, the segmentation follows the brush."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from napari.layers import Image, Labels
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from .._job import Part, Progress, Result, Sight, Skipped, Swept, Tuned
from .._session import Session
from .._subject import Place
from ..core.errors import Cancelled, HRDv2Error, StrokesError
from ..core.planes import Index, Region
from .layers import first_part, view_of
from .parts import tie
from .runner import JobRunner
from .subjects import Subjects

# How long nothing else is asked for before features are extracted unasked.
_IDLE_MS = 300
# How long nobody paints before it is looked for what to fit with, and planes out of view segmented.
_REST_MS = 800
# How long strokes out of view may have been changed before that is seen, by undoing for instance.
_RESCAN_MS = 300
# How long the view moves before what is seen counts.
_MOVED_MS = 60
# Pixels beyond which nobody wants hours of work that they did not ask for: in view, and in all.
_MOST_UNASKED, _MOST_SWEPT = 4096 * 4096, 64 * 1024 * 1024
# Tiles that are seen at once, those in the middle; of more, one sees no details.
_MOST_SEEN = 16


class LiveLoop(QObject):
    """Keeps the segmentation of an image up to its strokes and its features.

    Two threads work side by side: one looks at what is seen of the image, pass by pass, the other
    trains and segments from the passes there are, whenever strokes or passes are new. What is new
    while it works has it start again; nothing waits for what is stale. When both rest, the first
    sweeps over planes and tiles that are not seen.

    Parameters
    ----------
    session
        Whose jobs are run.
    subjects
        The viewer's images as the session works on them.
    viewer
        Where the image is seen.
    parent
        As for every Qt object.

    Attributes
    ----------
    is_live
        Whether the segmentation follows the strokes by itself.
    is_asked
        Whether a segmentation was asked for and is not yet whole.
    progressed
        A step is done on the way, with its :class:`.Progress`.
    segmented
        A segmentation is there, with its :class:`.Result`, or :class:`.Part` of one, or that of a
        place out of view, :class:`.Swept`.
    failed
        What was asked for ended with an exception.
    skipped
        Places out of view cannot be segmented, with the error of the first; the work goes on.
    changed
        Something begins or ends.

    Examples
    --------
    >>> loop = LiveLoop(session, Subjects(session), viewer)  # doctest: +SKIP
    >>> loop.watch(image_layer, strokes_layer)  # doctest: +SKIP
    """

    progressed = Signal(object)
    segmented = Signal(object)
    failed = Signal(object)
    skipped = Signal(object)
    changed = Signal()

    def __init__(
        self, session: Session, subjects: Subjects, viewer: Any, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._session, self.subjects, self._viewer = session, subjects, viewer
        self.image: Image | None = None
        self._strokes: Labels | None = None
        self._ties = ExitStack()
        self.is_live, self.is_asked = True, False
        # After Cancel nothing begins unasked.
        self._is_paused = False
        self._has_skipped = False
        # After a look that failed there is no other until something changes.
        self._is_stuck = False
        self._is_due = self._is_look_due = self._is_sweeping = False
        # What the look at work is for.
        self._looked_at: tuple[Place, ...] = ()
        self.looker, self.segmenter, self.tuner = (JobRunner(self) for _ in range(3))
        self.looker.yielded.connect(self._on_look_yielded)
        self.looker.returned.connect(self._on_look_returned)
        self.looker.ended.connect(self._on_look_ended)
        self.segmenter.yielded.connect(self._on_part)
        self.segmenter.returned.connect(self._on_result)
        self.segmenter.ended.connect(self._on_segmenter_ended)
        self.tuner.returned.connect(self._on_tuned)
        # Painting tells of itself before it has written; the next turn of the event loop reads it.
        self._soon, self._idle, self._rest, self._rescan, self._moved = (
            QTimer(self) for _ in range(5)
        )
        for timer, milliseconds, slot in (
            (self._soon, 0, self._segment),
            (self._idle, _IDLE_MS, self._prefetch),
            (self._rest, _REST_MS, self._tune),
            (self._rescan, _RESCAN_MS, self._on_rescan),
            (self._moved, _MOVED_MS, self._on_moved),
        ):
            timer.setSingleShot(True)
            timer.setInterval(milliseconds)
            timer.timeout.connect(slot)

    # What is watched ---------------------------------------------------------------------------

    def watch(self, image: Image | None, strokes: Labels | None) -> None:
        """Work on an image and its strokes from now on."""
        other = image is not self.image
        self._ties.close()
        self.image, self._strokes = image, strokes
        if image is not None:
            tie(self._ties, image.events.data, self._on_image_data)
            camera = getattr(self._viewer, "scene", self._viewer).camera  # napari moved it in 0.9
            for event in (self._viewer.dims.events.point, camera.events.zoom, camera.events.center):
                tie(self._ties, event, self._on_view)
        if strokes is not None:
            for event in (strokes.events.paint, strokes.events.set_data):
                tie(self._ties, event, self._on_strokes)
        opened = self.subjects.usable(image, strokes)
        self._session.watch(None if opened is None else opened.subject)
        if opened is not None:
            opened.subject.read_strokes()
        if other:
            self.restart()
        else:
            self._soon.start()

    def reread(self) -> None:
        """Begin anew with the image, which is understood in another way."""
        self.watch(self.image, self._strokes)
        self.restart()

    def restart(self) -> None:
        """Forget what is being done: image or settings are others."""
        self.stop()
        self._is_paused = self._is_stuck = self._has_skipped = False
        self._idle.start()
        self._soon.start()

    def stop(self) -> None:
        """Give up everything that is being done."""
        self._session.drop()
        for timer in (self._soon, self._idle, self._rest, self._rescan, self._moved):
            timer.stop()
        self.is_asked = self._is_due = self._is_look_due = False
        for runner in (self.looker, self.segmenter, self.tuner):
            runner.cancel()
        self.changed.emit()

    def cancel(self) -> None:
        """Give up everything, and begin nothing unasked; what is segmented stays so."""
        self.stop()
        self._is_paused = True

    def close(self) -> None:
        """End the work for good, and let go of the layers."""
        self._ties.close()
        self.image = self._strokes = None
        self.stop()
        for runner in (self.looker, self.segmenter, self.tuner):
            runner.abandon()

    def set_live(self, is_live: bool) -> None:
        """Follow the strokes, or only what is asked for."""
        self.is_live = is_live
        if is_live:
            self._idle.start()
            self._soon.start()

    @property
    def follows(self) -> bool:
        """Whether segmentations follow the strokes; those of slow classifiers are asked for."""
        return self.is_live and self._session.is_quick

    @property
    def is_busy(self) -> bool:
        """Whether anything is being done, or about to be."""
        return (
            self.is_asked
            or self.looker.is_busy
            or self.segmenter.is_busy
            or self._soon.isActive()
            or self._idle.isActive()
            or self._moved.isActive()
        )

    # What is seen ------------------------------------------------------------------------------

    def _view(self) -> tuple[Index, Region | None]:
        assert self.image is not None
        assert self._session.subject is not None
        return view_of(self._viewer, self.image, self._session.subject.planes)

    def seen(self) -> list[Place]:
        """The places of the image that are seen, those in the middle first."""
        subject = self._session.subject
        if subject is None or self.image is None:
            return []
        index, region = self._view()
        return subject.at(index, region if len(subject.tiles) > 1 else None)[:_MOST_SEEN]

    def _on_view(self, event: object = None) -> None:
        subject = self._session.subject
        if subject is not None and subject.planes.count * len(subject.tiles) > 1:
            self._moved.start()

    def _on_moved(self) -> None:
        self._is_stuck = False
        self._soon.start()
        if not self._is_paused:
            self._idle.start()

    # Features ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Segment the image with all passes, whatever has to be computed or downloaded for it.

        What is seen comes first, then what is not yet segmented of the rest.

        Raises
        ------
        HRDv2Error
            If no image is chosen, or image or strokes cannot be used.
        """
        assert self.image is not None
        opened = self.subjects.open(self.image, self._strokes)
        self._session.watch(opened.subject)
        if opened.problem is not None:
            raise opened.problem
        opened.subject.read_strokes()
        self._session.check()
        self.is_asked, self._is_paused = True, False
        self._is_stuck = self._has_skipped = False
        self._idle.stop()
        # Also where features are at hand: pixels may have been changed in place.
        self._session.renew()
        for place in self.seen():
            opened.subject.done.pop(place, None)
        self._look(download=True)
        self.changed.emit()

    def _prefetch(self) -> None:
        if self._is_paused or not self.is_live or self._session.subject is None:
            return
        places = self.seen()
        cores = [self._session.subject.tiles[place.tile].shape for place in places]
        if sum(height * width for height, width in cores) <= _MOST_UNASKED:
            self._look(download=False)

    def _look(self, *, download: bool) -> bool:
        """Get what features are lacking; whether there are any."""
        if self._session.subject is None:
            return False
        places = tuple(self.seen())
        if self.looker.is_busy:
            if self._is_sweeping or self._is_look_due or places != self._looked_at:
                self.looker.cancel()
                self._is_look_due = True
            return True
        self._is_look_due = False
        job = self._session.look(places, download=download)
        if job is None:
            return False
        self._looked_at = places
        self.looker.start(job)
        self.changed.emit()
        return True

    def _on_look_yielded(self, step: Progress | Sight | Swept | Skipped) -> None:
        if isinstance(step, Sight):
            if self._session.saw(step):
                self._soon.start()
        elif isinstance(step, Swept):
            if self._session.swept(step):
                self.segmented.emit(step)
        elif isinstance(step, Skipped):
            self._session.skip(step)
            # Of a stack with many such planes nobody wants to read of all, nor of any again.
            if not self._has_skipped:
                self._has_skipped = True
                self.skipped.emit(step.error)
        else:
            self.progressed.emit(step)

    def _on_look_returned(self, outcome: bool | Exception) -> None:
        is_failed = isinstance(outcome, Exception) and not isinstance(outcome, Cancelled)
        self._is_stuck = is_failed or outcome is False
        # What nobody asked for may fail in silence where the user could mend it.
        silent = (Cancelled,) if self.is_asked else (Cancelled, HRDv2Error)
        if isinstance(outcome, Exception) and not isinstance(outcome, silent):
            self._fail(outcome)

    def _on_look_ended(self) -> None:
        self._is_sweeping = False
        if not (self._is_look_due and self._look(download=self.is_asked)) and not self._is_paused:
            self._soon.start()
            # A sweep that gave way goes on.
            self._rest.start()
        self.changed.emit()

    # Segmentation ------------------------------------------------------------------------------

    def _on_image_data(self, event: object = None) -> None:
        self.reread()

    def _on_strokes(self, event: object = None) -> None:
        self._soon.start()
        self._rescan.start()

    def _on_rescan(self) -> None:
        self._read_strokes(everywhere=True)
        self._soon.start()

    def _read_strokes(self, *, everywhere: bool = False) -> None:
        """See what is painted; what is being learnt is stale if it is new."""
        subject = self._session.subject
        if subject is None:
            return
        # Somebody may have exchanged the layer's data.
        self.subjects.usable(self.image, self._strokes)
        is_new = subject.read_strokes(None if everywhere else self.seen())
        self._is_stuck &= not is_new
        if is_new and self.follows:
            self._interrupt()

    def _interrupt(self) -> None:
        self.segmenter.cancel()
        self.tuner.cancel()
        if self._is_sweeping:
            self.looker.cancel()

    def refine(self) -> None:
        """Segment anew, as the session refines segmentations in another way."""
        if self.follows:
            self._interrupt()
            self._soon.start()

    def relearn(self) -> None:
        """Segment anew, as another of the session's classifiers learns from strokes."""
        self._interrupt()
        self._soon.start()

    def _segment(self) -> None:
        """Train and segment, from the features there are, if anything is new."""
        self._read_strokes()
        session = self._session
        if session.subject is None or not (self.follows or self.is_asked):
            return
        if self.segmenter.is_busy:
            self._is_due = True
            return
        self._is_due = False
        places = self.seen()
        # A model is not applied unasked, but where it was, it is refined.
        is_applied = any(place in session.subject.done for place in places)
        if not (self.is_asked or session.is_painted or is_applied):
            return
        _, region = self._view()
        first = first_part(region, session.subject.planes.shape)
        job = session.prepare(places, None if len(places) > 1 else first)
        if job is not None:
            self.segmenter.start(job)
            self.changed.emit()
        is_looking = self.looker.is_busy and not self._is_sweeping
        is_stopped = self._is_paused or self._is_stuck
        if not (is_stopped or is_looking or session.has_all(places)):
            self._look(download=self.is_asked)
        elif job is None:
            self._go_on()

    def _on_part(self, part: Part | None) -> None:
        if part is not None and self._session.is_current(part):
            self.segmented.emit(part)

    def _on_result(self, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            # Half-painted strokes are no error while somebody is painting.
            if self.is_asked or not isinstance(outcome, StrokesError):
                self._fail(outcome)
        elif self._session.accept(outcome):
            self.segmented.emit(outcome)

    def _on_segmenter_ended(self) -> None:
        if self._is_due:
            self._soon.start()
        else:
            self._rest.start()
            self._go_on()
        self.changed.emit()

    def _go_on(self) -> None:
        """What was asked for goes on out of view, and is whole once nothing is left."""
        is_working = self.looker.is_busy or self.segmenter.is_busy or self._soon.isActive()
        if not self.is_asked or is_working or self._look(download=True):
            return
        if not self._sweep():
            self.is_asked = False
            self.changed.emit()

    # While nobody paints -----------------------------------------------------------------------

    def _tune(self) -> None:
        """Choose what to fit with, for a better segmentation if there is; then sweep."""
        if not self.follows or self.tuner.is_busy or self.segmenter.is_busy:
            return
        job = self._session.tune()
        if job is not None:
            self.tuner.start(job)
        else:
            self._sweep_unasked()

    def _on_tuned(self, outcome: Tuned | Exception) -> None:
        if isinstance(outcome, Exception):
            if not isinstance(outcome, (Cancelled, StrokesError)):
                self._fail(outcome)
        elif self._session.accept_choice(outcome):
            self.relearn()
        else:
            self._sweep_unasked()

    def _sweep_unasked(self) -> None:
        subject = self._session.subject
        is_working = self.looker.is_busy or self.segmenter.is_busy
        if subject is None or self._is_paused or self._is_stuck or is_working:
            return
        # A model is not applied unasked: what is seen is segmented with it by now.
        classifier = self._session.classifier
        if all(one.classifier is not classifier for one in subject.done.values()):
            return
        height, width = subject.planes.shape
        if self.follows and subject.planes.count * height * width <= _MOST_SWEPT:
            self._sweep()

    def _sweep(self) -> bool:
        """Segment what is out of view; whether there is anything."""
        index, _ = self._view()
        undone = self._session.undone(index)
        if not undone:
            return False
        self._is_sweeping = True
        self.looker.start(self._session.sweep(undone, download=self.is_asked))
        self.changed.emit()
        return True

    def _fail(self, error: Exception) -> None:
        self.is_asked, self._is_paused = False, True
        self.looker.cancel()
        self.failed.emit(error)
