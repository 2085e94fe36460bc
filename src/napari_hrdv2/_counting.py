"""A job that counts objects, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ._job import Cancellable
from .core.base import BasePixelClassifier
from .core.objects import ObjectSettings, find_objects, measure_objects
from .core.threads import single_thread
from .core.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Counted:
    """What a counting job found.

    Attributes
    ----------
    objects
        (..., h, w), see :func:`.find_objects`.
    table
        Of them, see :func:`.measure_objects`.
    """

    objects: npt.NDArray[np.int32]
    table: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Counting(Cancellable):
    """Find the objects of a class and measure them.

    Attributes
    ----------
    labels
        (..., h, w) of integers. They must not be changed from now on.
    label, settings
        Of the class, and how it becomes objects.
    pixel_size, unit
        As for :func:`.measure_objects`.
    intensity
        The image, where it has the shape of the labels, but for colours.
    classifier, tokens
        What gives the class's probabilities, by which touching objects are split too, where
        that is at hand.
    """

    labels: Any
    label: int
    settings: ObjectSettings
    pixel_size: tuple[float, ...] | None = None
    unit: str | None = None
    intensity: Any = None
    classifier: BasePixelClassifier | None = None
    tokens: Tokens | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[None, None, Counted]:
        """Do the work; close the generator to cancel.

        Raises
        ------
        HRDv2Error
            If the labels cannot be used.
        Cancelled
            If it was cancelled.
        """
        stop = self._cancelled.is_set
        objects = find_objects(
            self.labels,
            self.label,
            self.settings,
            self._probabilities(),
            pixel_size=self.pixel_size,
            is_cancelled=stop,
        )
        yield
        table = measure_objects(
            objects,
            pixel_size=self.pixel_size,
            unit=self.unit,
            intensity=self.intensity,
            volume=self.settings.volume,
            is_cancelled=stop,
        )
        return Counted(objects, table)

    def _probabilities(self) -> npt.NDArray[np.float32] | None:
        """Of the class; None where nothing tells them, or nobody needs them."""
        classifier, tokens = self.classifier, self.tokens
        if not self.settings.split or classifier is None or tokens is None:
            return None
        known = np.flatnonzero(classifier.classes_ == self.label)
        fits = tokens.settings == classifier.settings_ and tokens.image_shape == self.labels.shape
        if not fits or not len(known):
            return None
        with single_thread():
            probabilities = classifier.predict_proba(tokens, self._cancelled.is_set)
        return probabilities[..., known[0]]
