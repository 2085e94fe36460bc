"""One segmentation to be computed, with all it needs: what a session hands to a thread."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .core.classifier import PixelClass, PixelClassifier, check_strokes
from .core.errors import StrokesError
from .core.extraction import FeatureExtractor
from .core.settings import Settings
from .core.tokens import Tokens

_POLL_S = 0.1


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


class Seen(NamedTuple):
    """Tokens of one image, known by its content."""

    digest: str
    tokens: Tokens


@dataclass(frozen=True, eq=False)
class Result:
    """What a job found.

    Attributes
    ----------
    labels
        (h, w) of uint16, the segmentation.
    trained
        Whether a classifier was trained on strokes, or the one at hand applied.
    extracted
        Whether features were extracted, or those at hand used again.
    seconds
        How long it took.
    """

    labels: npt.NDArray[np.uint16]
    trained: bool
    extracted: bool
    seconds: float
    generation: int
    classifier: PixelClassifier
    made: Made
    seen: Seen


class _Cancelled(Exception):  # noqa: N818, nothing is wrong
    """Ends a download that nobody waits for any more."""


@dataclass(frozen=True, eq=False)
class Job:
    """One segmentation to be computed, with all it needs; :meth:`Session.prepare` makes it."""

    generation: int
    image: Any
    strokes: npt.NDArray[Any] | None
    classes: tuple[PixelClass, ...]
    wanted: Wanted
    classifier: PixelClassifier | None
    made: Made | None
    seen: Seen | None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Give up at the next step; safe from any thread."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()

    def run(self) -> Generator[Progress, None, Result]:
        """Do the work step by step, in any thread.

        Yields
        ------
        Progress
            Before and after everything that takes long; close the generator to cancel.

        Returns
        -------
        Result
            For :meth:`Session.accept`.

        Raises
        ------
        HRDv2Error
            If image, strokes, settings, weights or model cannot be used.
        """
        start = time.perf_counter()
        yield Progress(0, 0, "Reading the image")
        image = np.asarray(self.image)
        strokes = self._painted(image)
        wanted = self.wanted
        if strokes is None:
            # A classifier knows only the features that it was trained on.
            assert self.classifier is not None
            wanted = wanted._replace(settings=self.classifier.settings_)
        made = self.made
        if made is None or made.wanted != wanted:
            made = Made(wanted, (yield from self._make_extractor(wanted)))
        extractor = made.extractor
        digest = digest_of(image)
        seen = self.seen
        extracted = (
            seen is None or seen.digest != digest or seen.tokens.settings != extractor.settings
        )
        total = extractor.settings.passes
        if extracted:
            yield Progress(0, total, f"Pass 1 of {total}")
            for tokens in extractor.passes(image):
                following = min(tokens.passes + 1, total)
                yield Progress(tokens.passes, total, f"Pass {following} of {total}")
            seen = Seen(digest, tokens)
        assert seen is not None
        if strokes is None:
            assert self.classifier is not None
            classifier = self.classifier
        else:
            yield Progress(total, total, "Training on the strokes")
            classifier = PixelClassifier().fit(seen.tokens, strokes, self.classes)
        yield Progress(total, total, "Segmenting")
        labels = classifier.predict(seen.tokens)
        return Result(
            labels=labels,
            trained=strokes is not None,
            extracted=extracted,
            seconds=time.perf_counter() - start,
            generation=self.generation,
            classifier=classifier,
            made=made,
            seen=seen,
        )

    def _painted(self, image: npt.NDArray[Any]) -> npt.NDArray[np.integer] | None:
        """The strokes to train on; None to apply the classifier at hand instead."""
        labels: list[int] = []
        if self.strokes is not None:
            strokes = check_strokes(self.strokes, (image.shape[0], image.shape[1]))
            labels = np.flatnonzero(np.bincount(strokes.ravel())).tolist()
            labels = [label for label in labels if label]
        if not labels:
            if self.classifier is None:
                raise StrokesError(
                    "Nothing is painted: paint at least a stroke of each of two classes."
                )
            return None
        if len(labels) == 1:
            # Said before the features are extracted, not after.
            name = next((c.name for c in self.classes if c.label == labels[0]), str(labels[0]))
            raise StrokesError(
                f"Only the class '{name}' is painted: paint at least a stroke of one more."
            )
        return strokes

    def _make_extractor(self, wanted: Wanted) -> Generator[Progress, None, FeatureExtractor]:
        """Make the extractor in a thread of its own: a download has no steps of ours."""
        future: Future[FeatureExtractor] = Future()
        received = [0, 0]

        def downloading(done: int, total: int) -> None:
            if self._cancelled.is_set():
                raise _Cancelled
            received[:] = done, total

        def make() -> None:
            try:
                future.set_result(
                    FeatureExtractor(
                        wanted.settings,
                        device=wanted.device,
                        weights=wanted.weights,
                        progress=downloading,
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


def digest_of(image: npt.NDArray[Any]) -> str:
    """Identity of an image's content."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
