"""A session that refines its segmentations, without Qt and without napari."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_hrdv2._job import Part
from napari_hrdv2._session import Session
from napari_hrdv2.core import refine
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, RefinementWarning
from napari_hrdv2.core.refine import Refinement


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a classifier was trained."""
    learn, done = PixelClassifier.learn, []

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        done.append(1)
        return learn(self, *args, **options)

    monkeypatch.setattr(PixelClassifier, "learn", counting)
    return done


def test_it_is_off_at_first_and_changes_are_told(count) -> None:
    session = Session()
    heard = count(session.refinement_changed)
    assert session.refinement.is_off
    with pytest.raises(HRDv2Error, match="guided: "):
        session.refine(guided=-1, majority=2)
    session.refine(guided=0)
    assert (session.refinement, heard) == (Refinement(), [])
    session.refine(guided=4)
    session.refine(min_size=9)
    assert (session.refinement, len(heard)) == (Refinement(guided=4, min_size=9), 2)


def test_the_crf_without_its_package(monkeypatch) -> None:
    monkeypatch.setattr(refine, "has_crf", lambda: False)
    session = Session()
    with pytest.raises(HRDv2Error, match="pip install"):
        session.refine(crf=True)
    assert session.refinement.is_off


def test_the_result_is_refined_and_nothing_is_trained_for_it(
    session, image, strokes, run, watch, segment, fits
) -> None:
    plain = segment(session, image, strokes)
    session.refine(guided=12)
    refined, _ = run(session.prepare(watch(session, image, strokes.copy())))
    assert session.accept(refined)
    truth = np.where(np.arange(70) < 35, 1, 2)
    assert (refined.labels != truth).sum() < (plain.labels != truth).sum() / 2
    assert refined.trained
    assert refined.classifier is plain.classifier
    assert len(fits) == 1
    session.refine(guided=0)
    off, _ = run(session.prepare(watch(session, image, strokes.copy())))
    np.testing.assert_array_equal(off.labels, plain.labels)
    assert len(fits) == 1


@pytest.mark.parametrize("what", ["stroke", "tokens", "model", "refused"])
def test_it_is_trained_where_anything_else_is_new(
    session, image, strokes, run, see, segment, prepare, fits, tmp_path, what
) -> None:
    segment(session, image, strokes)
    if what == "stroke":
        strokes = strokes.copy()
        strokes[40:44, 4:12] = 1
    elif what == "tokens":
        session.configure(passes=3)
        see(session, image, strokes)
    elif what == "model":
        session.load(session.save(tmp_path / "model"))
    else:
        other = np.where(strokes == 2, 3, strokes)
        run(prepare(session, image, other))
        strokes = other
        fits.clear()
        fits.append(1)
    run(prepare(session, image, strokes))
    assert len(fits) == 2


def test_a_model_applied_is_refined(session, image, strokes, segment) -> None:
    segment(session, image, strokes)
    session.refine(guided=12)
    refined = segment(session, image[:, ::-1].copy())
    assert not refined.trained
    session.refine(guided=0)
    assert (segment(session, image[:, ::-1].copy()).labels != refined.labels).any()


def test_a_class_that_vanishes_is_told(session, image, strokes, run, segment, prepare) -> None:
    image[40:46, 20:26] = -3
    strokes[41:44, 21:24] = 3
    size = (segment(session, image, strokes).labels == 3).sum()
    assert 0 < size < 1000
    session.rename(3, "pore")
    session.refine(min_size=size + 1)
    job = prepare(session, image, strokes)
    with pytest.warns(RefinementWarning, match="'pore'"):
        result, _ = run(job)
    assert [c.name for c in result.found[0].vanished] == ["pore"]
    assert 3 not in result.labels


def test_the_part_in_view_comes_unrefined(session, image, strokes, run, segment, prepare) -> None:
    plain = segment(session, image, strokes)
    session.refine(guided=12)
    region = (slice(10, 30), slice(20, 69))
    job = prepare(session, image, strokes, region)
    refined, steps = run(job)
    (part,) = (step for step in steps if isinstance(step, Part))
    np.testing.assert_array_equal(part.found.labels, plain.labels[region])
    assert (refined.labels[region] != part.found.labels).any()


def test_cancelling_ends_a_refinement(session, image, strokes, segment, prepare) -> None:
    segment(session, image, strokes)
    session.refine(guided=3)
    job = prepare(session, image, strokes)
    work = job.run()
    next(work)
    job.cancel()
    with pytest.raises(Cancelled):
        next(work)
