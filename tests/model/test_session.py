"""The session's state, without Qt and without napari."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_hrdv2 import _job
from napari_hrdv2._session import Session
from napari_hrdv2.core import weights as weights_module
from napari_hrdv2.core.classifier import PixelClass
from napari_hrdv2.core.errors import (
    DownloadError,
    HRDv2Error,
    ImageError,
    ModelError,
    SettingsMismatchError,
    StrokesError,
)
from napari_hrdv2.core.extraction import FeatureExtractor


def test_needs_neither_qt_nor_napari() -> None:
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('napari', 'qtpy', 'PyQt6', 'superqt')))"
    )
    code = f"{blocked}; import napari_hrdv2._session as s; print(len(s.Session().classes))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_strokes_train_and_segment(session, image, strokes, run, count) -> None:
    models = count(session.model_changed)
    result, steps = run(session.prepare(image, strokes))
    assert session.accept(result)
    assert result.labels.shape == image.shape
    truth = np.where(np.arange(70) < 35, 1, 2)
    # The tokens at the edge see both sides.
    assert (result.labels == truth)[:, np.abs(np.arange(70) - 35) > 14].all()
    assert [s.text for s in steps if s.total == 2 and s.done < 2] == ["Pass 1 of 2", "Pass 2 of 2"]
    assert len(models) == 1
    assert session.weights_in_use.startswith("custom:")


def test_a_further_stroke_retrains_without_extracting(
    session, image, strokes, run, monkeypatch
) -> None:
    first, _ = run(session.prepare(image, strokes))
    session.accept(first)

    def refuse(*_: Any) -> None:
        raise AssertionError("it extracts again")

    monkeypatch.setattr(FeatureExtractor, "passes", refuse)
    strokes[40:50, 40:50] = 3
    again, _ = run(session.prepare(image.copy(), strokes))
    assert not again.extracted
    assert again.trained
    assert session.accept(again)
    assert 3 in again.labels
    # The painted label that no class had became one.
    assert [c.label for c in session.classes] == [1, 2, 3]


@pytest.mark.parametrize("what", ["pixel", "passes", "stride", "dtype"])
def test_what_changes_the_features_has_them_extracted(session, image, strokes, run, what) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    if what == "pixel":
        image[0, 0] = 0.5
    elif what == "dtype":
        image = image.astype(np.float64)
    else:
        session.configure(**{what: 3})
    assert run(session.prepare(image, strokes))[0].extracted


def test_changing_the_device_keeps_the_tokens(session, image, strokes, run) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    session.configure(device="auto")
    assert not run(session.prepare(image, strokes))[0].extracted


def test_stale_results_are_dropped(session, image, strokes, run, count) -> None:
    old, _ = run(session.prepare(image, strokes))
    new, _ = run(session.prepare(image, strokes))
    models = count(session.model_changed)
    assert not session.accept(old)
    assert session.classifier is None
    assert not models
    assert session.accept(new)
    late, _ = run(session.prepare(image, strokes))
    session.drop()
    assert not session.accept(late)


def test_cancelling_midway_leaves_the_session_as_it_was(
    session, image, strokes, run, count
) -> None:
    heard = count(session.model_changed)
    work = session.prepare(image, strokes).run()
    while next(work).text != "Pass 2 of 2":
        pass
    work.close()
    assert session.classifier is None
    assert session.weights_in_use is None
    assert not heard
    result, _ = run(session.prepare(image, strokes))
    assert result.extracted
    assert session.accept(result)


def test_a_cancelled_download_ends(session, image, strokes, monkeypatch) -> None:
    going_on, ended = threading.Event(), threading.Event()

    def endless(*_: Any, progress: Any = None, **__: Any) -> Any:
        try:
            while True:
                progress(1_000_000, 3_000_000)
                going_on.set()
                threading.Event().wait(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(_job, "FeatureExtractor", endless)
    job = session.prepare(image, strokes)
    work = job.run()
    while (step := next(work)).total != 3:
        pass
    assert step.text == "Downloading the weights: 1 of 3 MB"
    job.cancel()
    work.close()
    assert ended.wait(5)


def test_without_strokes_the_model_at_hand_is_applied(session, image, strokes, run) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    session.configure(passes=3)
    other = image[:, ::-1].copy()
    result, _ = run(session.prepare(other, np.zeros_like(strokes)))
    assert not result.trained
    assert session.accept(result)
    assert result.labels[10, 5] == 2
    assert result.labels[10, 65] == 1
    # The model's own settings, not those chosen since.
    assert result.seen.tokens.passes == 2


def test_save_and_load(session, image, strokes, run, tmp_path, count, tiny_weights) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    session.rename(1, "dark")
    session.recolour(2, (1.0, 0.0, 0.0, 1.0))
    path = session.save(tmp_path / "halves")
    assert path == tmp_path / "halves.safetensors"

    fresh = Session()
    fresh.use_weights(tiny_weights)
    signals = [count(s) for s in (fresh.classes_changed, fresh.settings_changed)]
    fresh.load(path)
    assert all(signals)
    assert [(c.name, c.colour[0]) for c in fresh.classes] == [
        ("dark", 0.9019607843137255),
        ("class 2", 1.0),
    ]
    assert fresh.settings.passes == 2
    result, _ = run(fresh.prepare(image))
    assert fresh.accept(result)
    before, _ = run(session.prepare(image, strokes))
    np.testing.assert_array_equal(result.labels, before.labels)
    # Strokes painted now train anew, with the model's settings.
    assert run(fresh.prepare(image, strokes))[0].trained


def test_a_loaded_model_refuses_other_weights(
    session, image, strokes, run, tmp_path, tiny_reg_weights
) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    path = session.save(tmp_path / "model.safetensors")
    session.use_weights(tiny_reg_weights)
    session.load(path)
    with pytest.raises(SettingsMismatchError, match="weights_sha256"):
        run(session.prepare(image))


def test_models_that_cannot_be_saved_or_loaded(session, image, strokes, run, tmp_path) -> None:
    with pytest.raises(ModelError, match="press Segment first"):
        session.save(tmp_path / "model")
    session.accept(run(session.prepare(image, strokes))[0])
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        session.save(tmp_path / "folder")
    model = session.classifier
    (tmp_path / "text.safetensors").write_text("no model")
    for name in ("none.safetensors", "text.safetensors"):
        with pytest.raises(ModelError):
            session.load(tmp_path / name)
    assert session.classifier is model


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (None, "Nothing is painted"),
        (np.zeros((56, 70), np.uint8), "Nothing is painted"),
        (np.eye(56, 70, dtype=np.uint8), "Only the class 'class 1'"),
        (np.eye(70, 56, dtype=np.uint8), "must be the same"),
        (-np.eye(56, 70, dtype=np.int8), "-1"),
        (np.eye(56, 70, dtype=np.uint32) * 70_000, "70000"),
    ],
)
def test_bad_strokes_are_refused_before_extracting(
    session, image, run, drawn, message, monkeypatch
) -> None:
    monkeypatch.setattr(FeatureExtractor, "passes", None)
    with pytest.raises(StrokesError, match=message):
        run(session.prepare(image, drawn))


def test_a_bad_image_is_refused(session, image, strokes, run) -> None:
    with pytest.raises(ImageError, match="complex"):
        run(session.prepare(image.astype(complex), strokes))
    with pytest.raises(ImageError, match="no finite"):
        run(session.prepare(np.full_like(image, np.nan), strokes))


def test_weights_out_of_reach(image, strokes, run, empty_cache, monkeypatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise DownloadError("no network")

    monkeypatch.setattr(weights_module, "_fetch", unreachable)
    with pytest.raises(DownloadError, match="no network"):
        run(Session().prepare(image, strokes))


def test_classes(count) -> None:
    session = Session()
    changes, picks = count(session.classes_changed), count(session.current_changed)
    assert session.add_class("pore").label == 3
    assert (session.current, len(changes), picks) == (3, 1, [(3,)])
    session.pick(9)
    session.pick(3)
    session.rename(3, "  ")
    assert (session.current, len(changes), len(picks)) == (3, 1, 1)
    session.rename(3, " hole ")
    assert session.classes[2].name == "hole"
    with pytest.raises(StrokesError, match="'hole' is painted"):
        session.remove_class(3, np.array([[0, 3]]))
    session.remove_class(3, np.array([[0, 1]]))
    assert session.current == 1
    session.remove_class(1)
    with pytest.raises(StrokesError, match="last class"):
        session.remove_class(2)
    # The lowest free label comes next.
    assert session.add_class().label == 1


def test_adopted_classes_replace_only_untouched_ones() -> None:
    own = PixelClass(label=5, name="own", colour=(1.0, 1.0, 1.0, 1.0))
    session = Session()
    session.adopt([own])
    assert session.classes == (own,)
    assert session.current == 5
    session.add_class("mine")
    session.add_class()
    theirs = [own.model_copy(update={"label": k, "name": f"theirs {k}"}) for k in (1, 2, 3, 5)]
    session.adopt(theirs)
    assert [c.name for c in session.classes] == ["mine", "theirs 2", "theirs 3", "own"]


def test_settings_out_of_range_change_nothing(count) -> None:
    session = Session()
    heard = count(session.settings_changed)
    with pytest.raises(HRDv2Error, match="passes"):
        session.configure(passes=0)
    assert not heard
    session.configure(passes=4)
    assert not heard
    session.configure(passes=8)
    assert (session.settings.passes, len(heard)) == (8, 1)


def test_another_model_forgets_what_only_weights_tell(
    session, image, strokes, run, tmp_path: Path
) -> None:
    session.accept(run(session.prepare(image, strokes))[0])
    session.load(session.save(tmp_path / "model"))
    assert session.settings.is_resolved
    session.configure(model="dinov2_vitb14")
    settings = session.settings
    assert (settings.patch, settings.stride, settings.weights_sha256) == (None, None, None)
