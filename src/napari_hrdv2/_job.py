"""The work of a session, with all it needs: what a session hands to other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._subject import Place, Strokes, Subject
from .core.base import BasePixelClassifier, PixelClass
from .core.cache import TokenMemory, TokenStore
from .core.classifier import PixelClassifier
from .core.errors import Cancelled, HRDv2Error, ImageError, StrokesError, WeightsError, never
from .core.extraction import FeatureExtractor
from .core.methods import make_classifier
from .core.planes import Region
from .core.refine import Refinement
from .core.settings import Settings
from .core.strokes import StrokeRows, Training
from .core.threads import single_thread
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

    def fulfils(self, wanted: Wanted) -> bool:
        """Whether it is just what somebody wants, perhaps in other words."""
        resolved = self.wanted._replace(settings=self.extractor.settings)
        return wanted in (self.wanted, resolved)


class Spot(NamedTuple):
    """A place of an image."""

    subject: Subject
    place: Place


class Sight(NamedTuple):
    """Features of a place, as far as they are made.

    Attributes
    ----------
    generation
        Of the look that found them.
    made
        What extracted them.
    spot
        Where.
    digest
        Of what they hang on there.
    tokens
        Of the passes made so far.
    """

    generation: int
    made: Made
    spot: Spot
    digest: str
    tokens: Tokens


class Sample(NamedTuple):
    """What is painted at a place, and its features.

    Attributes
    ----------
    spot, digest, strokes
        The place, what its features hang on, and the labels painted there, (h, w).
    settings, passes
        Of the features.
    source
        These, or the painted pixels with them where they are gathered already.
    """

    spot: Spot
    digest: str
    strokes: Strokes
    settings: Settings
    passes: int
    source: Tokens | Training

    def is_like(self, other: Sample) -> bool:
        """Whether it says the same."""
        return self.strokes is other.strokes and self[:2] + self[3:5] == other[:2] + other[3:5]

    def gather(self, rows: StrokeRows, max_pixels: int) -> Sample:
        """The same, with its painted pixels gathered."""
        if isinstance(self.source, Training):
            return self
        return self._replace(source=Training.of(self.source, self.strokes, rows, max_pixels))


class Found(NamedTuple):
    """The segmentation of a place, or of a region there.

    Attributes
    ----------
    spot
        The place.
    region
        Rows and columns of the plane.
    labels
        (h, w) of uint16, of the region.
    passes
        How many the features were of.
    vanished
        Classes that only the refinement took away.
    """

    spot: Spot
    region: Region
    labels: npt.NDArray[np.uint16]
    passes: int
    vanished: tuple[PixelClass, ...] = ()


class Part(NamedTuple):
    """The segmentation of a region, which comes before the rest."""

    generation: int
    found: Found


class Swept(NamedTuple):
    """The segmentation of a place that nobody looks at, by a classifier.

    Attributes
    ----------
    classifier, refinement
        What it comes from.
    digest
        Of what the place's features, now in memory, hang on.
    found
        The segmentation.
    """

    classifier: BasePixelClassifier
    refinement: Refinement
    digest: str
    found: Found


class Skipped(NamedTuple):
    """A place that a sweep could not segment, and why."""

    classifier: BasePixelClassifier
    refinement: Refinement
    spot: Spot
    error: HRDv2Error


class Learnt(NamedTuple):
    """What a classifier was trained on.

    Attributes
    ----------
    samples
        With gathered pixels.
    method
        Of the classifier, one of :data:`.METHODS`.
    """

    samples: tuple[Sample, ...]
    method: str

    def is_of(self, samples: Sequence[Sample], method: str) -> bool:
        """Whether there is nothing else to learn from these."""
        return (
            self.method == method
            and len(self.samples) == len(samples)
            and all(a.is_like(b) for a, b in zip(self.samples, samples, strict=True))
        )

    @property
    def is_complete(self) -> bool:
        """Whether all features are of all passes."""
        return all(one.passes == one.settings.passes for one in self.samples)


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
    found
        The segmentations of places.
    learnt
        What the classifier was trained on; None where the one at hand was applied.
    seconds
        How long it took.
    """

    found: tuple[Found, ...]
    learnt: Learnt | None
    seconds: float
    generation: int
    classifier: BasePixelClassifier
    refinement: Refinement

    @property
    def trained(self) -> bool:
        """Whether the classifier was trained on strokes, or the one at hand applied."""
        return self.learnt is not None

    @property
    def passes(self) -> int:
        """How many passes the features were of, at least."""
        return min(one.passes for one in self.found)

    @property
    def labels(self) -> npt.NDArray[np.uint16]:
        """(h, w), the segmentation of the first place."""
        return self.found[0].labels


class Cancellable:
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
class Segmenting(Cancellable):
    """Train on strokes and segment, from features at hand; :meth:`Session.prepare` makes it."""

    generation: int
    samples: tuple[Sample, ...]
    targets: tuple[tuple[Spot, Tokens], ...]
    classes: tuple[PixelClass, ...]
    classifier: BasePixelClassifier | None
    method: str
    choice: Choice
    rows: StrokeRows
    region: Region | None
    learnt: Learnt | None
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
        classifier, learnt = self.classifier, self.learnt
        if self.samples and learnt is None:
            check_painted([one.strokes for one in self.samples], self.classes)
            with single_thread():
                new = make_classifier(self.method, self.choice)
                learnt = self._gathered(new.max_pixels)
                classifier = _learn(new, learnt, self.classes, classifier)
        if classifier is None:
            raise StrokesError(NOTHING_PAINTED)
        yield None
        found = []
        for spot, tokens in self.targets:
            if self.region is not None and tokens.settings.boundary != "periodic":
                with single_thread():
                    there = classifier.predict(tokens.crop(self.region), self._cancelled.is_set)
                yield Part(self.generation, Found(spot, self.region, there, tokens.passes))
            found.append(
                segmented(
                    spot, tokens, classifier, self.refinement, self.classes, self._cancelled.is_set
                )
            )
            yield None
        return Result(
            found=tuple(found),
            learnt=learnt,
            seconds=time.perf_counter() - start,
            generation=self.generation,
            classifier=classifier,
            refinement=self.refinement,
        )

    def _gathered(self, max_pixels: int) -> Learnt:
        samples = tuple(one.gather(self.rows, max_pixels) for one in self.samples)
        return Learnt(samples, self.method)


def _learn(
    classifier: BasePixelClassifier,
    learnt: Learnt,
    classes: tuple[PixelClass, ...] = (),
    start: BasePixelClassifier | None = None,
    is_cancelled: Callable[[], bool] = never,
) -> BasePixelClassifier:
    parts = [one.source for one in learnt.samples if isinstance(one.source, Training)]
    return classifier.learn(parts, learnt.samples[0].settings, classes, start, is_cancelled)


def segmented(
    spot: Spot,
    tokens: Tokens,
    classifier: BasePixelClassifier,
    refinement: Refinement,
    classes: tuple[PixelClass, ...],
    is_cancelled: Callable[[], bool],
) -> Found:
    """Segment a place with a classifier, on one thread: others are left to the backbone."""
    subject, place = spot
    # What nobody asks for is not read.
    pixels = () if refinement.is_off else subject.pixels(place)
    with single_thread():
        refined = refinement.predict(classifier, tokens, pixels, classes, is_cancelled)
    return Found(spot, subject.core(place), refined.labels, tokens.passes, refined.vanished)


@dataclass(frozen=True, eq=False)
class Tuning(Cancellable):
    """Choose what to fit with by cross-validation over strokes; :meth:`Session.tune` makes it."""

    learnt: Learnt
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
        _learn(classifier, self.learnt, is_cancelled=self._cancelled.is_set)
        return Tuned(self.learnt, classifier.choice_)


def check_painted(strokes: Iterable[Strokes], classes: tuple[PixelClass, ...]) -> None:
    """Refuse strokes of fewer than two classes.

    Raises
    ------
    StrokesError
        If only one class is painted, or none.
    """
    labels = _first_labels(strokes)
    if len(labels) > 1:
        return
    if not labels:
        raise StrokesError(NOTHING_PAINTED)
    (label,) = labels
    name = next((c.name for c in classes if c.label == label), str(label))
    raise StrokesError(f"Only the class '{name}' is painted: paint at least a stroke of one more.")


def has_classes(strokes: Iterable[Strokes]) -> bool:
    """Whether two classes or more are painted."""
    return len(_first_labels(strokes)) > 1


def _first_labels(strokes: Iterable[Strokes]) -> set[int]:
    """Labels that are painted; once there are two, the rest is not looked at."""
    labels: set[int] = set()
    for one in strokes:
        labels |= set(np.unique(one[one > 0]).tolist())
        if len(labels) > 1:
            break
    return labels


@dataclass(frozen=True, eq=False)
class Extracting(Cancellable):
    """What gets features, from memory, disk or the backbone."""

    generation: int
    wanted: Wanted
    made: Made | None
    memory: TokenMemory
    store: TokenStore
    download: bool

    def _make(self) -> Generator[Progress, None, Made | None]:
        """What extracts; None where the weights would have to be downloaded, and must not."""
        if self.made is not None and self.made.fulfils(self.wanted):
            return self.made
        try:
            return Made(self.wanted, (yield from self._make_extractor(self.wanted)))
        except WeightsError:
            if self.download:
                raise
            return None

    def _sights(self, made: Made, spot: Spot) -> Iterator[Sight]:
        """Features of a place, more passes each time; those at hand all at once."""
        extractor = made.extractor
        piece = spot.subject.piece(spot.place, extractor.settings)
        tokens = self.memory.get(piece.digest, extractor.settings)
        if tokens is not None:
            yield Sight(self.generation, made, spot, piece.digest, tokens)
            return
        for tokens in extractor.passes(
            piece, store=self.store, is_cancelled=self._cancelled.is_set
        ):
            yield Sight(self.generation, made, spot, piece.digest, tokens)

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


@dataclass(frozen=True, eq=False)
class Look(Extracting):
    """Get the features of places; :meth:`Session.look` makes it.

    Attributes
    ----------
    seen
        Places that somebody looks at: of all of them the first pass comes first.
    others
        Places whose features are needed too.
    """

    seen: tuple[Spot, ...] = ()
    others: tuple[Spot, ...] = ()
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Progress | Sight, None, bool]:
        """Do the work pass by pass, in any thread; close the generator to cancel.

        Yields
        ------
        Progress or Sight
            Progress before everything that takes long, and a sight after every pass.

        Returns
        -------
        bool
            Whether it was done; not where the weights would have to be downloaded, and must not.

        Raises
        ------
        HRDv2Error
            If image, settings or weights cannot be used.
        Cancelled
            If it was cancelled within a pass.
        """
        yield Progress(0, 0, "Reading the image")
        made = yield from self._make()
        if made is None:
            return False
        passes, count = made.extractor.settings.passes, len(self.seen) + len(self.others)
        total, done = passes * count, 0

        def progress(made_here: int) -> Progress:
            text = f"Pass {min(made_here + 1, passes)} of {passes}"
            return Progress(done, total, text if count == 1 else f"{text}, {count} places")

        begun: list[Iterator[Sight]] = []
        for spot in self.seen:
            yield progress(0)
            sights = self._sights(made, spot)
            sight = next(sights)
            begun.append(sights)
            yield sight
            done += sight.tokens.passes
        for sights in [self._sights(made, spot) for spot in self.others] + begun:
            yield progress(1 if sights in begun else 0)
            for sight in sights:
                done += 1
                yield sight
                yield progress(sight.tokens.passes)
        return True


@dataclass(frozen=True, eq=False)
class Sweep(Extracting):
    """Segment places that nobody looks at, one after the other; :meth:`Session.sweep` makes it."""

    spots: tuple[Spot, ...] = ()
    classifier: BasePixelClassifier | None = None
    refinement: Refinement = field(default_factory=Refinement)
    classes: tuple[PixelClass, ...] = ()
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Progress | Swept | Skipped, None, bool]:
        """Do the work place by place, in any thread; close the generator to cancel.

        Yields
        ------
        Progress, Swept or Skipped
            Progress before every place, and what was found there, or why nothing was.

        Returns
        -------
        bool
            Whether it was done, as of :meth:`Look.run`.

        Raises
        ------
        HRDv2Error, Cancelled
            As :meth:`Look.run`.
        """
        assert self.classifier is not None
        made = yield from self._make()
        if made is None:
            return False
        for number, spot in enumerate(self.spots):
            text = f"Segmenting the rest: {number + 1} of {len(self.spots)}"
            yield Progress(number, len(self.spots), text)
            try:
                *_, sight = self._sights(made, spot)
                self.memory.put(sight.digest, sight.tokens)
                found = segmented(
                    spot,
                    sight.tokens,
                    self.classifier,
                    self.refinement,
                    self.classes,
                    self._cancelled.is_set,
                )
            except ImageError as error:
                # One plane that cannot be read does not cost the others their segmentation.
                yield Skipped(self.classifier, self.refinement, spot, error)
                continue
            yield Swept(self.classifier, self.refinement, sight.digest, found)
        return True
