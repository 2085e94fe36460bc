"""A viewer's images as a session works on them."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from napari.layers import Image, Labels

from .._session import Session
from .._subject import Subject
from ..core.errors import HRDv2Error, StrokesError
from .layers import Reading, Window, planes_of, strokes_of, window_of


@dataclass(frozen=True, eq=False)
class Opened:
    """An image layer as a session works on it.

    Attributes
    ----------
    subject
        What the session knows of it.
    window
        How its labels lie in the viewer.
    problem
        What is wrong with its strokes, None where nothing is.
    """

    subject: Subject
    window: Window
    problem: StrokesError | None = None


class Subjects:
    """The images of a viewer as a session works on them.

    Parameters
    ----------
    session
        Whose images they become.

    Examples
    --------
    >>> subjects = Subjects(session)  # doctest: +SKIP
    >>> session.watch(subjects.open(image_layer, strokes_layer).subject)  # doctest: +SKIP
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._opened: WeakKeyDictionary[Image, Opened] = WeakKeyDictionary()
        self._readings: WeakKeyDictionary[Image, Reading] = WeakKeyDictionary()

    def reading(self, image: Image) -> Reading:
        """How an image is understood."""
        return self._readings.get(image, Reading())

    def read(self, image: Image, reading: Reading) -> None:
        """Understand an image in another way from now on.

        Raises
        ------
        ImageError
            If it cannot be understood so; nothing is changed then.
        """
        window_of(image, planes_of(image, reading), reading)
        self._readings[image] = reading

    def open(self, image: Image, strokes: Labels | None) -> Opened:
        """An image with the strokes on a layer, or with those it had where there is none.

        Raises
        ------
        ImageError
            If the image cannot be segmented.
        """
        reading = self.reading(image)
        planes = planes_of(image, reading)
        old = self._opened.get(image)
        subject = None
        if old is not None:
            known = old.subject.planes
            if known.array is planes.array and (known.axes, known.channels) == (
                planes.axes,
                planes.channels,
            ):
                subject = old.subject
            else:
                self._session.forget(old.subject)
        if subject is None:
            subject = Subject(planes)
        window, problem = window_of(image, planes, reading), None
        if strokes is not None:
            try:
                subject.strokes = strokes_of(strokes, planes, window)
            except StrokesError as error:
                subject.strokes, problem = None, error
        self._opened[image] = Opened(subject, window, problem)
        return self._opened[image]

    def usable(self, image: Image | None, strokes: Labels | None) -> Opened | None:
        """As :meth:`open`; None where there is no image, or none that can be segmented."""
        try:
            return None if image is None else self.open(image, strokes)
        except HRDv2Error:
            return None

    def close(self, image: Image) -> None:
        """Work on an image no more."""
        opened = self._opened.pop(image, None)
        if opened is not None:
            self._session.forget(opened.subject)

    def unpaint(self, image: Image) -> None:
        """Have no strokes on an image any more."""
        opened = self._opened.get(image)
        if opened is not None:
            opened.subject.strokes = None
            opened.subject.read_strokes()

    def find(self, subject: Subject) -> tuple[Image, Opened] | None:
        """The layer that an image is of, None where it is gone."""
        for image, opened in self._opened.items():
            if opened.subject is subject:
                return image, opened
        return None
