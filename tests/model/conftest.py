from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_hrdv2._job import Look, Result, Segmenting
from napari_hrdv2._session import Session


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
    image = np.random.default_rng(0).normal(0, 0.05, (56, 70)).astype(np.float32)
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

    def run(job: Look | Segmenting) -> tuple[Any, list[Any]]:
        work, steps = job.run(), []
        while True:
            try:
                steps.append(next(work))
            except StopIteration as stop:
                return stop.value, steps

    return run


@pytest.fixture
def segment(run: Any) -> Callable[..., Result]:
    """Everything from an image to its segmentation, accepted."""

    def segment(session: Session, image: np.ndarray, strokes: Any = None) -> Result:
        session.check(image, strokes)
        sight, _ = run(session.look(image, strokes))
        assert session.saw(sight)
        tokens = session.tokens_for(image, strokes)
        assert tokens is not None
        result, _ = run(session.prepare(tokens, strokes))
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
