"""The session's state, without Qt and without napari."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_hrdv2 import _job
from napari_hrdv2._job import Part, Sight
from napari_hrdv2._session import Session
from napari_hrdv2.core import weights as weights_module
from napari_hrdv2.core.base import PixelClass
from napari_hrdv2.core.errors import (
    Cancelled,
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
    imports = "import napari_hrdv2._explore, napari_hrdv2._session as s"
    code = f"{blocked}; {imports}; print(len(s.Session().classes))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def sights(steps: list[Any]) -> list[Sight]:
    return [step for step in steps if isinstance(step, Sight)]


def test_strokes_train_and_segment(session, image, strokes, run, segment, count) -> None:
    models = count(session.model_changed)
    result = segment(session, image, strokes)
    assert result.labels.shape == image.shape
    truth = np.where(np.arange(70) < 35, 1, 2)
    # The tokens at the edge see both sides.
    assert (result.labels == truth)[:, np.abs(np.arange(70) - 35) > 14].all()
    assert len(models) == 1
    assert session.weights_in_use.startswith("custom:")


def test_features_come_pass_by_pass_and_the_first_segments(
    session, image, strokes, run, watch
) -> None:
    places = watch(session, image, strokes)
    work = session.look(places).run()
    texts = []
    for step in work:
        if isinstance(step, Sight):
            break
        texts.append(step.text)
    assert texts[-1] == "Pass 1 of 2"
    assert session.saw(step)
    tokens = session.tokens_at(places[0])
    assert (tokens.passes, tokens.is_complete) == (1, False)
    result, _ = run(session.prepare(places))
    assert session.accept(result)
    assert (result.passes, result.labels[30, 5], result.labels[30, 65]) == (1, 1, 2)
    assert [s.text for s in work if not isinstance(s, Sight)] == ["Pass 2 of 2", "Pass 2 of 2"]


def test_a_further_stroke_computes_no_features(
    session, image, strokes, run, segment, monkeypatch
) -> None:
    segment(session, image, strokes)

    def refuse(*_: Any) -> None:
        raise AssertionError("it extracts again")

    monkeypatch.setattr(FeatureExtractor, "_forward", refuse)
    more = strokes.copy()
    more[40:50, 40:50] = 3
    again = segment(session, image.copy(), more)
    assert again.trained
    assert 3 in again.labels
    # The painted label that no class had became one.
    assert [c.label for c in session.classes] == [1, 2, 3]


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images went through the backbone."""
    forward, batches = FeatureExtractor._forward, []

    def counting(self, images, *how):
        batches.extend([1] * len(images))
        return forward(self, images, *how)

    monkeypatch.setattr(FeatureExtractor, "_forward", counting)
    return batches


@pytest.mark.parametrize(
    ("what", "number"), [("pixel", 2), ("dtype", 2), ("stride", 2), ("passes", 1)]
)
def test_what_changes_the_features_has_them_computed(
    session, image, strokes, segment, computed, what, number
) -> None:
    segment(session, image, strokes)
    computed.clear()
    if what == "pixel":
        image[0, 0] = 0.5
    elif what == "dtype":
        image = image.astype(np.float64)
    else:
        session.configure(**{what: 3})
    segment(session, image, strokes)
    # Passes made before are not made again.
    assert len(computed) == number


def test_features_outlive_the_session_and_the_image(
    session, image, strokes, segment, computed, tiny_weights
) -> None:
    other = image[::-1].copy()
    first = segment(session, image, strokes)
    segment(session, other, strokes)
    computed.clear()
    session.store.clear()
    segment(session, image, strokes)
    assert not computed, "they are in memory"
    session.store.save("0" * 64, torch.zeros((1, 1, 1), dtype=torch.float16))
    fresh = Session()
    fresh.use_weights(tiny_weights)
    fresh.configure(passes=2, device="cpu")
    segment(fresh, image, strokes)
    assert len(computed) == 2
    last = Session()
    last.use_weights(tiny_weights)
    last.configure(passes=2, device="cpu")
    computed.clear()
    np.testing.assert_array_equal(segment(last, image, strokes).labels, first.labels)
    assert not computed, "they are on disk"


def test_changing_the_device_keeps_the_tokens(session, image, strokes, segment, computed) -> None:
    segment(session, image, strokes)
    computed.clear()
    session.configure(device="auto")
    segment(session, image, strokes)
    assert not computed


def test_features_of_other_images_or_settings_are_not_at_hand(
    session, image, strokes, segment, watch
) -> None:
    assert not session.has_features
    segment(session, image, strokes)
    assert session.has_features
    (place,) = watch(session, image, strokes)
    assert session.tokens_at(place) is not None
    session.configure(passes=3)
    assert session.tokens_at(place) is None
    # The classifier at hand needs those that it was trained on.
    watch(session, image)
    assert session.tokens_at(place) is not None
    session.configure(passes=2)
    watch(session, image.copy(), strokes)
    assert session.tokens_at(place) is None
    assert not session.has_features


def test_stale_results_are_dropped(session, image, strokes, run, see, prepare, count) -> None:
    places = see(session, image, strokes)
    old, _ = run(session.prepare(places))
    new, _ = run(session.prepare(places))
    models = count(session.model_changed)
    assert not session.accept(old)
    assert session.classifier is None
    assert not models
    assert session.accept(new)
    late, _ = run(prepare(session, image, strokes))
    session.renew()
    early = sights(run(session.look(places))[1])[-1]
    session.drop()
    assert not session.accept(late)
    assert not session.saw(early)


def test_another_image_makes_results_stale(session, image, strokes, run, see, watch) -> None:
    result, _ = run(session.prepare(see(session, image, strokes)))
    watch(session, image[::-1])
    assert not session.accept(result)
    assert not session.has_features


def test_cancelling_midway_keeps_what_is_there(
    session, image, strokes, run, watch, computed
) -> None:
    session.configure(passes=5)
    places = watch(session, image, strokes)
    job = session.look(places)
    work = job.run()
    while not isinstance(step := next(work), Sight):
        pass
    session.saw(step)
    job.cancel()
    with pytest.raises(Cancelled):
        for _ in work:
            pass
    assert session.tokens_at(places[0]).passes == 1
    made = len(computed)
    again = sights(run(session.look(places))[1])
    assert [one.tokens.passes for one in again] == [1, 2, 3, 4, 5]
    assert len(computed) <= made + 4


def test_the_part_in_view_comes_first(session, image, strokes, run, see) -> None:
    places = see(session, image, strokes)
    region = (slice(10, 30), slice(20, 69))
    result, steps = run(session.prepare(places, region))
    (part,) = (step for step in steps if isinstance(step, Part))
    assert session.is_current(part)
    assert part.found.region == region
    np.testing.assert_array_equal(part.found.labels, result.labels[region])
    session.configure(boundary="periodic")
    _, steps = run(session.prepare(see(session, image, strokes), region))
    assert not [step for step in steps if isinstance(step, Part)]


def test_a_cancelled_download_ends(session, image, strokes, watch, monkeypatch) -> None:
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
    job = session.look(watch(session, image, strokes))
    work = job.run()
    while (step := next(work)).total != 3:
        pass
    assert step.text == "Downloading the weights: 1 of 3 MB"
    job.cancel()
    work.close()
    assert ended.wait(5)


def test_weights_are_not_downloaded_unasked(image, run, watch, empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(weights_module, "_fetch_wheel", None)
    session = Session()
    finished, steps = run(session.look(watch(session, image), download=False))
    assert (finished, sights(steps)) == (False, [])


def test_without_strokes_the_model_at_hand_is_applied(session, image, strokes, segment) -> None:
    segment(session, image, strokes)
    session.configure(passes=3)
    other = image[:, ::-1].copy()
    result = segment(session, other, np.zeros_like(strokes))
    assert not result.trained
    assert result.labels[10, 5] == 2
    assert result.labels[10, 65] == 1
    # The model's own settings, not those chosen since.
    assert result.passes == 2


def test_save_and_load(session, image, strokes, segment, tmp_path, count, tiny_weights) -> None:
    segment(session, image, strokes)
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
    result, before = segment(fresh, image), segment(session, image, strokes)
    assert (result.labels == before.labels).mean() > 0.99
    # Strokes painted now train anew, with the model's settings.
    assert segment(fresh, image, strokes).trained


def test_a_loaded_model_refuses_other_weights(
    session, image, strokes, segment, tmp_path, tiny_reg_weights
) -> None:
    segment(session, image, strokes)
    path = session.save(tmp_path / "model.safetensors")
    session.use_weights(tiny_reg_weights)
    session.load(path)
    with pytest.raises(SettingsMismatchError, match="weights_sha256"):
        segment(session, image)


def test_models_that_cannot_be_saved_or_loaded(session, image, strokes, segment, tmp_path) -> None:
    with pytest.raises(ModelError, match="paint strokes first"):
        session.save(tmp_path / "model")
    segment(session, image, strokes)
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
    session, image, segment, drawn, message, monkeypatch
) -> None:
    monkeypatch.setattr(FeatureExtractor, "passes", None)
    with pytest.raises(StrokesError, match=message):
        segment(session, image, drawn)


def test_a_bad_image_is_refused(session, image, strokes, segment) -> None:
    with pytest.raises(ImageError, match="complex"):
        segment(session, image.astype(complex), strokes)
    with pytest.raises(ImageError, match="no finite"):
        segment(session, np.full_like(image, np.nan), strokes)


def test_weights_out_of_reach(image, strokes, segment, empty_cache, monkeypatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise DownloadError("no network")

    monkeypatch.setattr(weights_module, "_fetch", unreachable)
    with pytest.raises(DownloadError, match="no network"):
        segment(Session(), image, strokes)


def test_classes(count, watch) -> None:
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
    image = np.zeros((1, 2))
    watch(session, image, np.array([[0, 3]]))
    with pytest.raises(StrokesError, match="'hole' is painted"):
        session.remove_class(3)
    watch(session, image, np.array([[0, 1]]))
    session.remove_class(3)
    watch(session, image)
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
    session, image, strokes, segment, tmp_path: Path
) -> None:
    segment(session, image, strokes)
    session.load(session.save(tmp_path / "model"))
    assert session.settings.is_resolved
    session.configure(model="dinov2_vitb14")
    settings = session.settings
    assert (settings.patch, settings.stride, settings.weights_sha256) == (None, None, None)
