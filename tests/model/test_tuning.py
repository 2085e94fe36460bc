"""What a session fits with, chosen for the strokes, without Qt and without napari."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_hrdv2._session import Session
from napari_hrdv2.core.errors import Cancelled
from napari_hrdv2.core.tuning import CHOICES, DEFAULT


@pytest.fixture
def many(strokes: np.ndarray) -> np.ndarray:
    """Two strokes of each class."""
    strokes[40:44, 4:12], strokes[40:44, 56:64] = 1, 2
    return strokes


@pytest.fixture
def prefers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has strokes speak for another choice than the default; how often they are asked."""
    asked: list[int] = []

    def choose(*_: Any) -> Any:
        asked.append(1)
        return CHOICES[1]

    monkeypatch.setattr("napari_hrdv2.core.classifier.choose", choose)
    return asked


def test_the_first_segmentation_waits_for_no_choice(session, image, many, segment, prefers) -> None:
    result = segment(session, image, many)
    assert result.classifier.choice_ == DEFAULT
    assert not prefers


def test_a_choice_is_learnt_from_anew(session, image, many, run, segment, prefers) -> None:
    assert session.tune() is None
    first = segment(session, image, many)
    tuned, _ = run(session.tune())
    assert session.accept_choice(tuned)
    again = segment(session, image, many)
    assert first.classifier.choice_ == DEFAULT
    assert again.classifier.choice_ == CHOICES[1]
    # Chosen for these strokes already; for others it is chosen anew.
    assert session.tune() is None
    more = many.copy()
    more[50:54, 4:12] = 1
    segment(session, image, more)
    tuned, _ = run(session.tune())
    assert not session.accept_choice(tuned)
    assert len(prefers) == 2


def test_other_features_are_chosen_for_anew(session, image, many, run, segment, prefers) -> None:
    segment(session, image, many)
    tuned, _ = run(session.tune())
    session.configure(passes=1)
    segment(session, image, many)
    # What was chosen for the features before is of no use now.
    assert not session.accept_choice(tuned)
    assert session.classifier.choice_ == DEFAULT
    tuned, _ = run(session.tune())
    assert session.accept_choice(tuned)
    segment(session, image, many)
    session.configure(passes=2)
    segment(session, image, many)
    assert session.tune() is not None


def test_it_can_be_cancelled(session, image, many, run, segment) -> None:
    segment(session, image, many)
    job = session.tune()
    job.cancel()
    with pytest.raises(Cancelled):
        run(job)


def test_trees_have_nothing_to_choose(session, image, many, segment) -> None:
    session.use_method("forest")
    segment(session, image, many)
    assert session.tune() is None


def test_a_saved_model_knows_its_choice(
    session, image, many, run, segment, prefers, tmp_path
) -> None:
    segment(session, image, many)
    tuned, _ = run(session.tune())
    session.accept_choice(tuned)
    segment(session, image, many)
    path = session.save(tmp_path / "model")
    other = Session()
    other.load(path)
    assert other.classifier.choice_ == CHOICES[1]
    assert other._choice == CHOICES[1]
