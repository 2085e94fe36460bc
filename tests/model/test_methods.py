"""A session whose classifier is another one than the default, without Qt and without napari."""

from __future__ import annotations

import numpy as np
import pytest

from napari_hrdv2._job import Part
from napari_hrdv2._session import Session
from napari_hrdv2.core import trees
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, ModelError
from napari_hrdv2.core.trees import TreesClassifier


def test_a_method_is_chosen_by_name_and_told(count) -> None:
    session = Session()
    heard = count(session.method_changed)
    assert (session.method, session.is_quick) == ("logistic", True)
    with pytest.raises(HRDv2Error, match="no classifier 'svm'") as caught:
        session.use_method("svm")
    assert "\n" not in str(caught.value)
    session.use_method("logistic")
    assert (session.method, heard) == ("logistic", [])
    session.use_method("forest")
    assert (session.method, session.is_quick, len(heard)) == ("forest", False, 1)


@pytest.mark.parametrize(
    ("method", "kind"),
    [("ridge", PixelClassifier), ("forest", TreesClassifier), ("boosting", TreesClassifier)],
)
def test_another_method_learns_anew_from_the_same_strokes(
    session, image, strokes, run, segment, prepare, method, kind
) -> None:
    first = segment(session, image, strokes)
    session.use_method(method)
    second, _ = run(prepare(session, image, strokes))
    assert session.accept(second)
    assert second.classifier is not first.classifier
    assert (type(second.classifier), second.classifier.method) == (kind, method)
    truth = np.where(np.arange(70) < 35, 1, 2)
    assert (second.labels == truth)[:, np.abs(np.arange(70) - 35) > 14].mean() > 0.95
    # What was learnt is not learnt again.
    again, _ = run(prepare(session, image, strokes))
    assert again.classifier is second.classifier
    session.use_method("logistic")
    back, _ = run(prepare(session, image, strokes))
    np.testing.assert_array_equal(back.labels, first.labels)


def test_results_of_the_method_before_are_dropped(
    session, image, strokes, run, segment, prepare
) -> None:
    segment(session, image, strokes)
    job = prepare(session, image, strokes)
    session.use_method("forest")
    late, _ = run(job)
    assert late.classifier.method == "logistic"
    assert not session.accept(late)


def test_trees_give_the_region_first_and_give_up_within_the_rest(
    session, image, strokes, segment, prepare, monkeypatch
) -> None:
    session.use_method("forest")
    whole = segment(session, image, strokes).labels
    region = (slice(10, 30), slice(0, 20))
    job = prepare(session, image, strokes, region)
    monkeypatch.setattr(trees, "BLOCK", 400)
    asked = []

    def and_cancel(tokens, pixels):
        asked.append(len(pixels))
        if len(asked) == 3:
            job.cancel()
        return rows_at(tokens, pixels)

    rows_at = trees.rows_at
    monkeypatch.setattr(trees, "rows_at", and_cancel)
    work = job.run()
    (part,) = (step for step in [next(work), next(work)] if isinstance(step, Part))
    assert part.found.region == region
    np.testing.assert_array_equal(part.found.labels, whole[region])
    with pytest.raises(Cancelled):
        next(work)
    # The region's only block and two of the whole.
    assert asked == [400] * 3


@pytest.mark.parametrize("method", ["logistic", "forest"])
def test_a_loaded_model_brings_its_method(session, image, strokes, segment, tmp_path, method):
    session.use_method(method)
    labels = segment(session, image, strokes).labels
    suffix = {"logistic": ".safetensors", "forest": ".skops"}[method]
    for name in ("a", f"a{suffix}", "a.skops", "a.safetensors"):
        assert session.save(tmp_path / name) == tmp_path / f"a{suffix}"
    assert session.save(tmp_path / "b.v2").name == f"b.v2{suffix}"
    other = Session()
    other.use_weights(session.weights)
    other.use_method("boosting")
    other.load(tmp_path / f"a{suffix}")
    assert other.method == method
    np.testing.assert_array_equal(segment(other, image.copy()).labels, labels)


def test_a_file_that_cannot_be_read_changes_nothing(session, tmp_path) -> None:
    session.use_method("boosting")
    (tmp_path / "a.skops").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelError, match="damaged"):
        session.load(tmp_path / "a.skops")
    assert (session.method, session.classifier) == ("boosting", None)
