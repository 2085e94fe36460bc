"""The work of a session, with all it needs: what a session hands to other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .core.base import BasePixelClassifier, PixelClass, check_strokes
from .core.cache import TokenMemory, TokenStore
from .core.classifier import PixelClassifier
from .core.errors import Cancelled, StrokesError, WeightsError
from .core.extraction import FeatureExtractor
from .core.methods import make_classifier
from .core.refine import Refinement
from .core.settings import Settings
from .core.strokes import StrokeRows
from .core.threads import single_thread
from .core.tiles import Piece
from .core.tokens import Tokens
from .core.tuning import Choice

_POLL_S = 0.1
NOTHING_PAINTED = "Nothing is painted: paint at least a stroke of each of two classes."


class Progress(NamedTuple):
    """How far a job is.

    Attributes
    ----------
    done, total
        Of whatever is counted; ``total`` is 0 where nobody knows.
    text
        What is being done, for people.
    """

    done: int
    total: int
    text: str


class Wanted(NamedTuple):
    """Everything that decides which extractor is made."""

    settings: Settings
    device: str
    weights: str | None


class Made(NamedTuple):
    """An extractor, and the wishes it fulfils."""

    wanted: Wanted
    extractor: FeatureExtractor


class Sight(NamedTuple):
    """Features of an image, as far as they are made.

    Attributes
    ----------
    generation
        Of the look that found them.
    made
        What extracted them.
    digest
        The image's content.
    tokens
        Of the passes made so far.
    """

    generation: int
    made: Made
    digest: str
    tokens: Tokens


class Part(NamedTuple):
    """The segmentation of a region, which comes before the rest.

    Attributes
    ----------
    generation
        Of the job.
    region
        Rows and columns.
    labels
        (h, w) of uint16, of the region.
    """

    generation: int
    region: tuple[slice, slice]
    labels: npt.NDArray[np.uint16]


class Learnt(NamedTuple):
    """What a classifier was trained on.

    Attributes
    ----------
    tokens
        Of the image.
    strokes
        (h, w) of labels, 0 where not painted.
    method
        Of the classifier, one of :data:`.METHODS`.
    """

    tokens: Tokens
    strokes: npt.NDArray[np.integer]
    method: str

    def is_of(self, tokens: Tokens, strokes: npt.NDArray[Any], method: str) -> bool:
        """Whether there is nothing else to learn from these."""
        return (
            self.tokens is tokens
            and self.method == method
            and np.array_equal(self.strokes, strokes)
        )


class Tuned(NamedTuple):
    """What a tuning job chose.

    Attributes
    ----------
    learnt
        For what.
    choice
        What to fit with.
    """

    learnt: Learnt
    choice: Choice


@dataclass(frozen=True, eq=False)
class Result:
    """What a segmenting job found.

    Attributes
    ----------
    labels
        (h, w) of uint16, the segmentation.
    learnt
        What the classifier was trained on; None where the one at hand was applied.
    passes
        How many passes the features were of.
    seconds
        How long it took.
    vanished
        Classes that only the refinement of the segmentation took away.
    """

    labels: npt.NDArray[np.uint16]
    learnt: Learnt | None
    passes: int
    seconds: float
    generation: int
    classifier: BasePixelClassifier
    vanished: tuple[PixelClass, ...]

    @property
    def trained(self) -> bool:
        """Whether the classifier was trained on strokes, or the one at hand applied."""
        return self.learnt is not None


class _Cancellable:
    """What can be told from any thread that nobody waits for it."""

    _cancelled: threading.Event

    def cancel(self) -> None:
        """Give up at the next step; safe from any thread."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()


@dataclass(frozen=True, eq=False)
class Segmenting(_Cancellable):
    """Train on strokes and segment, from features at hand; :meth:`Session.prepare` makes it."""

    generation: int
    tokens: Tokens
    strokes: npt.NDArray[Any] | None
    classes: tuple[PixelClass, ...]
    classifier: BasePixelClassifier | None
    method: str
    choice: Choice
    rows: StrokeRows
    region: tuple[slice, slice] | None
    is_learnt: bool
    image: Any
    refinement: Refinement
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Part | None, None, Result]:
        """Do the work step by step, in any thread; close the generator to cancel.

        Yields
        ------
        Part or None
            The region's segmentation, not refined, once it is there; nothing between the other
            steps.

        Raises
        ------
        HRDv2Error
            If strokes or model cannot be used.
        Cancelled
            If it was cancelled within a step that takes long.
        """
        start = time.perf_counter()
        strokes = check_painted(self.strokes, self.tokens.image_shape, self.classes)
        classifier = self.classifier
        if strokes is not None and not self.is_learnt:
            with single_thread():
                classifier = make_classifier(self.method, self.choice).fit(
                    self.tokens, strokes, self.classes, start=classifier, rows=self.rows
                )
        if classifier is None:
            raise StrokesError(NOTHING_PAINTED)
        yield None
        if self.region is not None and self.tokens.settings.boundary != "periodic":
            with single_thread():
                there = classifier.predict(self.tokens.crop(self.region), self._cancelled.is_set)
            yield Part(self.generation, self.region, there)
        with single_thread():
            refined = self.refinement.predict(
                classifier, self.tokens, self.image, self.classes, self._cancelled.is_set
            )
        return Result(
            labels=refined.labels,
            learnt=None if strokes is None else Learnt(self.tokens, strokes, self.method),
            passes=self.tokens.passes,
            seconds=time.perf_counter() - start,
            generation=self.generation,
            classifier=classifier,
            vanished=refined.vanished,
        )


@dataclass(frozen=True, eq=False)
class Tuning(_Cancellable):
    """Choose what to fit with by cross-validation over strokes; :meth:`Session.tune` makes it."""

    learnt: Learnt
    rows: StrokeRows
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[None, None, Tuned]:
        """Do the work, in any thread.

        Raises
        ------
        HRDv2Error
            If the strokes cannot be used.
        Cancelled
            If it was cancelled.
        """
        yield None
        classifier = PixelClassifier(self.learnt.method)
        classifier.fit(
            self.learnt.tokens,
            self.learnt.strokes,
            rows=self.rows,
            is_cancelled=self._cancelled.is_set,
        )
        return Tuned(self.learnt, classifier.choice_)


def check_painted(
    strokes: npt.NDArray[Any] | None, shape: tuple[int, int], classes: tuple[PixelClass, ...]
) -> npt.NDArray[np.integer] | None:
    """Strokes to train on, None where nothing is painted.

    Raises
    ------
    StrokesError
        If they do not fit the image, or only one class is painted.
    """
    if strokes is None:
        return None
    strokes = check_strokes(strokes, shape)
    if not strokes.any():
        return None
    first = int(strokes.max())
    if not (strokes[strokes > 0] != first).any():
        name = next((c.name for c in classes if c.label == first), str(first))
        raise StrokesError(
            f"Only the class '{name}' is painted: paint at least a stroke of one more."
        )
    return strokes


@dataclass(frozen=True, eq=False)
class Look(_Cancellable):
    """Get the features of an image, from memory, disk or the backbone; of :meth:`Session.look`."""

    generation: int
    image: Any
    wanted: Wanted
    made: Made | None
    memory: TokenMemory
    store: TokenStore
    download: bool
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Progress | Sight, None, Sight | None]:
        """Do the work pass by pass, in any thread; close the generator to cancel.

        Yields
        ------
        Progress or Sight
            Progress before everything that takes long, and a sight after every pass.

        Returns
        -------
        Sight or None
            With all passes; None where the weights would have to be downloaded, and must not.

        Raises
        ------
        HRDv2Error
            If image, settings or weights cannot be used.
        Cancelled
            If it was cancelled within a pass.
        """
        yield Progress(0, 0, "Reading the image")
        image = np.asarray(self.image)
        made = self.made
        if made is None or made.wanted != self.wanted:
            try:
                made = Made(self.wanted, (yield from self._make_extractor(self.wanted)))
            except WeightsError:
                if self.download:
                    raise
                return None
        extractor, piece = made.extractor, Piece(image)
        digest = piece.digest
        tokens = self.memory.get(digest, extractor.settings)
        if tokens is None:
            total = extractor.settings.passes
            yield Progress(0, total, f"Pass 1 of {total}")
            for tokens in extractor.passes(
                piece, store=self.store, is_cancelled=self._cancelled.is_set
            ):
                yield Sight(self.generation, made, digest, tokens)
                following = min(tokens.passes + 1, total)
                yield Progress(tokens.passes, total, f"Pass {following} of {total}")
        assert tokens is not None
        return Sight(self.generation, made, digest, tokens)

    def _make_extractor(self, wanted: Wanted) -> Generator[Progress, None, FeatureExtractor]:
        """Make the extractor in a thread of its own: a download has no steps of ours."""
        future: Future[FeatureExtractor] = Future()
        received = [0, 0]

        def downloading(done: int, total: int) -> None:
            if self._cancelled.is_set():
                raise Cancelled
            received[:] = done, total

        def make() -> None:
            try:
                future.set_result(
                    FeatureExtractor(
                        wanted.settings,
                        device=wanted.device,
                        weights=wanted.weights,
                        progress=downloading,
                        download=self.download,
                    )
                )
            except BaseException as error:  # it is raised again where somebody listens
                future.set_exception(error)

        threading.Thread(target=make, name="napari-hrdv2 weights", daemon=True).start()
        while not wait([future], _POLL_S).done:
            done, total = (n / 1e6 for n in received)
            if total:
                text = f"Downloading the weights: {done:.0f} of {total:.0f} MB"
            else:
                text = "Getting the weights (downloaded the first time)"
            yield Progress(round(done), round(total), text)
        return future.result()
