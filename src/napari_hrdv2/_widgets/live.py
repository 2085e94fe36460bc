"""The live loop: features come in the background, the segmentation follows the brush."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from .._job import Part, Progress, Result, Sight, Tuned
from .._session import Session
from ..core.errors import Cancelled, HRDv2Error, StrokesError
from ..core.tokens import Tokens
from .layers import drawn_on, pixels_of, visible_part
from .runner import JobRunner

# How long nothing else is asked for before features are extracted unasked.
_IDLE_MS = 300
# How long nobody paints before it is looked for what to fit with.
_REST_MS = 800
# Pixels beyond which nobody wants hours of work that they did not ask for.
_MOST_UNASKED = 4096 * 4096


class LiveLoop(QObject):
    """Keeps the segmentation of one image up to its strokes and its features.

    Two threads work side by side: one looks at the image, pass by pass, the other trains and
    segments from the passes there are, whenever strokes or passes are new. What is new while it
    works has it start again; nothing waits for what is stale.

    Parameters
    ----------
    session
        Whose jobs are run.
    parent
        As for every Qt object.

    Attributes
    ----------
    is_live
        Whether the segmentation follows the strokes by itself.
    is_asked
        Whether a segmentation was asked for and is not yet whole.
    progressed
        A step is done on the way to the features, with its :class:`.Progress`.
    segmented
        A segmentation is there, with its :class:`.Result`, or :class:`.Part` of one.
    failed
        What was asked for ended with an exception.
    changed
        Something begins or ends.

    Examples
    --------
    >>> loop = LiveLoop(session)  # doctest: +SKIP
    >>> loop.watch(image_layer, strokes_layer)  # doctest: +SKIP
    """

    progressed = Signal(object)
    segmented = Signal(object)
    failed = Signal(object)
    changed = Signal()

    def __init__(self, session: Session, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.image: Image | None = None
        self._strokes: Labels | None = None
        # Of a layer that was removed after its strokes were asked to be learnt from.
        self._last_drawn: npt.NDArray[Any] | None = None
        self._done: tuple[Tokens, npt.NDArray[Any] | None] | None = None
        # Whether what is done was refined as the session says now.
        self._is_refined = False
        self._ties = ExitStack()
        self.is_live, self.is_asked = True, False
        # After Cancel nothing begins unasked.
        self._is_paused = False
        self._is_due = self._is_look_due = False
        self.looker, self.segmenter, self.tuner = (JobRunner(self) for _ in range(3))
        self.looker.yielded.connect(self._on_look_yielded)
        self.looker.returned.connect(self._on_look_returned)
        self.looker.ended.connect(self._on_look_ended)
        self.segmenter.yielded.connect(self._on_part)
        self.segmenter.returned.connect(self._on_result)
        self.segmenter.ended.connect(self._on_segmenter_ended)
        self.tuner.returned.connect(self._on_tuned)
        # Painting tells of itself before it has written; the next turn of the event loop reads it.
        self._soon, self._idle, self._rest = (QTimer(self) for _ in range(3))
        for timer, milliseconds, slot in (
            (self._soon, 0, self._segment),
            (self._idle, _IDLE_MS, self._prefetch),
            (self._rest, _REST_MS, self._tune),
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
            self._tie(image.events.data, self._on_image_data)
        if strokes is not None:
            for event in (strokes.events.paint, strokes.events.set_data):
                self._tie(event, self._on_strokes)
        if other:
            self._last_drawn = None
            self.restart()

    def _tie(self, event: Any, slot: Any) -> None:
        event.connect(slot)
        self._ties.callback(event.disconnect, slot)

    def restart(self) -> None:
        """Forget what is being done: image or settings are others."""
        self.stop()
        self._is_paused = False
        self._idle.start()
        self._soon.start()

    def stop(self) -> None:
        """Give up everything that is being done."""
        self._session.drop()
        for timer in (self._soon, self._idle, self._rest):
            timer.stop()
        self.is_asked = self._is_due = self._is_look_due = False
        self._done = None
        for runner in (self.looker, self.segmenter, self.tuner):
            runner.cancel()
        self.changed.emit()

    def cancel(self) -> None:
        """Give up everything, and begin nothing unasked."""
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
        )

    # Features ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Segment the image with all passes, whatever has to be computed or downloaded for it.

        Raises
        ------
        HRDv2Error
            If no image is chosen, or image or strokes cannot be used.
        """
        assert self.image is not None
        pixels, drawn = pixels_of(self.image), self._drawn()
        self._session.check(pixels, drawn)
        self.is_asked, self._is_paused, self._done = True, False, None
        self._idle.stop()
        # Also where features are at hand: pixels may have been changed in place.
        self._look(download=True)
        self.changed.emit()

    def _prefetch(self) -> None:
        if self._is_paused or not self.is_live or self.looker.is_busy:
            return
        pixels = self._pixels()
        if pixels is None or pixels.shape[0] * pixels.shape[1] > _MOST_UNASKED:
            return
        tokens = self._session.tokens_for(pixels, self._drawn())
        if tokens is None or not tokens.is_complete:
            self._look(download=False)

    def _look(self, *, download: bool) -> None:
        pixels = self._pixels()
        if pixels is None:
            return
        if self.looker.is_busy:
            tokens = self._session.tokens_for(pixels, self._drawn())
            if tokens is None or self._is_look_due:
                self.looker.cancel()
                self._is_look_due = True
            return
        self._is_look_due = False
        self.looker.start(self._session.look(pixels, self._drawn(), download=download))
        self.changed.emit()

    def _on_look_yielded(self, step: Progress | Sight) -> None:
        if isinstance(step, Sight):
            self._take(step)
        else:
            self.progressed.emit(step)

    def _on_look_returned(self, outcome: Sight | Exception | None) -> None:
        if isinstance(outcome, Sight):
            self._take(outcome)
            return
        # What nobody asked for may fail in silence where the user could mend it.
        silent = (Cancelled,) if self.is_asked else (Cancelled, HRDv2Error)
        if isinstance(outcome, Exception) and not isinstance(outcome, silent):
            self._fail(outcome)

    def _take(self, sight: Sight) -> None:
        if self._session.saw(sight):
            self._soon.start()

    def _on_look_ended(self) -> None:
        if self._is_look_due:
            self._look(download=self.is_asked)
        self.changed.emit()

    # Segmentation ------------------------------------------------------------------------------

    def _on_image_data(self, event: object = None) -> None:
        self.restart()

    def _on_strokes(self, event: object = None) -> None:
        if self.follows:
            # What is being learnt is stale now.
            if (self.segmenter.is_busy or self.tuner.is_busy) and not self._is_same():
                self.segmenter.cancel()
                self.tuner.cancel()
            self._soon.start()

    def refine(self) -> None:
        """Segment anew, as the session refines segmentations in another way."""
        self._is_refined = False
        if self.follows:
            self.segmenter.cancel()
            self._soon.start()

    def relearn(self) -> None:
        """Segment anew, as another of the session's classifiers learns from strokes."""
        self._done = None
        self.segmenter.cancel()
        self._soon.start()

    def _is_same(self) -> bool:
        """Whether the strokes are those that were learnt from last."""
        return self._done is not None and _equal(self._done[1], self._drawn())

    def _segment(self) -> None:
        """Train and segment, from the features there are, if anything is new."""
        pixels = self._pixels()
        if pixels is None or not (self.follows or self.is_asked):
            return
        if self.segmenter.is_busy:
            self._is_due = True
            return
        self._is_due = False
        drawn = self._drawn()
        tokens = self._session.tokens_for(pixels, drawn)
        if tokens is None:
            # Other strokes may need other features than the model that was applied.
            if self._session.has_features and not self._is_paused:
                self._look(download=self.is_asked)
            return
        if not (self._session.is_quick or tokens.is_complete):
            # It would take longer than the passes to come, and be of no use then.
            return
        done = self._done
        is_done = done is not None and done[0] is tokens
        if done is not None and self._session.is_quick:
            # Who paints on while a slow one works asks again when it is time.
            is_done = is_done and _equal(done[1], drawn)
        if is_done and self._is_refined:
            self._finish(tokens)
            return
        if not (is_done or self.is_asked) and (drawn is None or not drawn.any()):
            return
        self._done, self._is_refined = (tokens, drawn), True
        region = None if self.image is None else visible_part(self.image)
        self.segmenter.start(self._session.prepare(tokens, drawn, region))
        self.changed.emit()

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
        elif self._done is not None:
            self._finish(self._done[0])
            self._rest.start()
        self.changed.emit()

    # What to fit with --------------------------------------------------------------------------

    def _tune(self) -> None:
        """While nobody paints: choose what to fit with, for a better segmentation if there is."""
        if self.follows and not (self.tuner.is_busy or self.segmenter.is_busy):
            job = self._session.tune()
            if job is not None:
                self.tuner.start(job)

    def _on_tuned(self, outcome: Tuned | Exception) -> None:
        if isinstance(outcome, Exception):
            if not isinstance(outcome, (Cancelled, StrokesError)):
                self._fail(outcome)
        elif self._session.accept_choice(outcome):
            self.relearn()

    def _finish(self, tokens: Tokens) -> None:
        """What was asked for is whole once all passes are segmented."""
        if self.is_asked and tokens.is_complete and not self.looker.is_busy:
            self.is_asked = False
            self.changed.emit()

    def _fail(self, error: Exception) -> None:
        self.is_asked, self._is_paused = False, True
        self.looker.cancel()
        self.failed.emit(error)

    # Layers ------------------------------------------------------------------------------------

    def _pixels(self) -> Any:
        """The image's array, None where it is none that can be segmented."""
        if self.image is None:
            return None
        try:
            return pixels_of(self.image)
        except HRDv2Error:
            return None

    def _drawn(self) -> npt.NDArray[Any] | None:
        if self._strokes is not None:
            self._last_drawn = drawn_on(self._strokes)
        return self._last_drawn


def _equal(one: npt.NDArray[Any] | None, other: npt.NDArray[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
