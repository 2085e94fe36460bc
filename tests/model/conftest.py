from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_hrdv2._job import Result, Segmenting, Sight
from napari_hrdv2._session import Session
from napari_hrdv2._subject import Place, Subject
from napari_hrdv2.core.planes import Planes


@pytest.fixture
def session(tiny_weights: Path, empty_cache: Path) -> Session:
    """A session on the tiny backbone, whose patches are 14 px."""
    session = Session()
    session.use_weights(tiny_weights)
    session.configure(passes=2, device="cpu")
    return session


@pytest.fixture
def image() -> np.ndarray:
    """Dark on the left, bright on the right, (56, 70), with noise."""
    image = np.random.default_rng(0).normal(0, 0.25, (56, 70)).astype(np.float32)
    image[:, 35:] += 1
    return image


@pytest.fixture
def strokes() -> np.ndarray:
    strokes = np.zeros((56, 70), np.uint8)
    strokes[20:24, 4:12] = 1
    strokes[20:24, 56:64] = 2
    return strokes


@pytest.fixture
def run() -> Callable[..., tuple[Any, list[Any]]]:
    """What a job returns, and what it yields."""

    def run(job: Any) -> tuple[Any, list[Any]]:
        work, steps = job.run(), []
        while True:
            try:
                steps.append(next(work))
            except StopIteration as stop:
                return stop.value, steps

    return run


@pytest.fixture
def watch() -> Callable[..., list[Place]]:
    """Has a session work on an image and no other; the places of its first plane."""

    def watch(
        session: Session, image: np.ndarray, strokes: Any = None, axes: str = "YX"
    ) -> list[Place]:
        subject = session.subject
        if subject is None or subject.planes.array is not image:
            subject = Subject(Planes(image, axes))
        labels_axes = subject.planes.labels_axes
        subject.strokes = None if strokes is None else Planes(strokes, labels_axes)
        for other in session.subjects:
            if other is not subject:
                session.forget(other)
        session.watch(subject)
        subject.read_strokes()
        return subject.at((0,) * len(subject.planes.stack_shape))

    return watch


@pytest.fixture
def see(run: Any, watch: Any) -> Callable[..., list[Place]]:
    """Takes over the features of an image, and of what else is painted; its places."""

    def see(session: Session, *image: Any, **axes: Any) -> list[Place]:
        places = watch(session, *image, **axes)
        # Pixels may have been changed in place.
        session.renew()
        finished, steps = run(session.look(places))
        assert finished
        for step in steps:
            if isinstance(step, Sight):
                assert session.saw(step)
        return places

    return see


@pytest.fixture
def prepare(watch: Any) -> Callable[..., Segmenting]:
    """Job for an image whose features are at hand, however often it was segmented before."""

    def prepare(
        session: Session, image: np.ndarray, strokes: Any = None, region: Any = None
    ) -> Segmenting:
        places = watch(session, image, strokes)
        session.subject.done.clear()
        job = session.prepare(places, region)
        assert job is not None
        return job

    return prepare


@pytest.fixture
def segment(run: Any, watch: Any, see: Any, prepare: Any) -> Callable[..., Result]:
    """Everything from an image to its segmentation, accepted."""

    def segment(session: Session, image: np.ndarray, strokes: Any = None) -> Result:
        watch(session, image, strokes)
        session.check()
        see(session, image, strokes)
        result, _ = run(prepare(session, image, strokes))
        assert session.accept(result)
        return result

    return segment


@pytest.fixture
def count() -> Callable[[Any], list[tuple[Any, ...]]]:
    """Collects what a signal emits."""

    def count(signal: Any) -> list[tuple[Any, ...]]:
        heard: list[tuple[Any, ...]] = []
        signal.connect(lambda *args: heard.append(args), check_nargs=False)
        return heard

    return count
