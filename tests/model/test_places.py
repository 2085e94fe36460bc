"""A session on stacks, tiled planes and several images, without Qt and without napari."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_hrdv2._job import Progress, Sight, Skipped, Spot, Swept
from napari_hrdv2._session import Session
from napari_hrdv2._subject import Place, Subject
from napari_hrdv2.core import tiles
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, ImageError, StrokesError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.refine import Refinement

_TRUTH = np.where(np.arange(70) < 35, 1, 2)
_AWAY = np.abs(np.arange(70) - 35) > 14


def share(labels: np.ndarray, truth: np.ndarray = _TRUTH) -> float:
    """Share of pixels away from the edge that are right."""
    return float((labels == truth)[..., _AWAY].mean())


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images went through the backbone."""
    forward, batches = FeatureExtractor._forward, []

    def counting(self, images, *how):
        batches.extend([1] * len(images))
        return forward(self, images, *how)

    monkeypatch.setattr(FeatureExtractor, "_forward", counting)
    return batches


def halves(seed: int) -> np.ndarray:
    """Dark on the left, bright on the right, (56, 70), with noise."""
    image = np.random.default_rng(seed).normal(0, 0.3, (56, 70))
    image[:, 35:] += 1
    return image.astype(np.float32)


def blank(*shape: int) -> np.ndarray:
    return np.zeros((*shape, 56, 70), np.uint8)


def paint(strokes: np.ndarray, *labels: int, rows: slice = slice(20, 24)) -> None:
    """A stroke of class 1 on the left, of class 2 on the right, of (56, 70)."""
    for label in labels:
        strokes[rows, {1: slice(4, 12), 2: slice(56, 64)}[label]] = label


@pytest.fixture
def stack() -> np.ndarray:
    return np.stack([halves(seed) for seed in range(5)])


@pytest.fixture
def painted() -> np.ndarray:
    """Two classes on plane 1 of 5."""
    strokes = blank(5)
    paint(strokes[1], 1, 2)
    return strokes


@pytest.fixture
def work(run: Any) -> Callable[..., Any]:
    """Segments places, by default those of the first plane, with all that is painted; accepted."""

    def work(session: Session, subject: Subject, places: Any = None) -> Any:
        session.watch(subject)
        subject.read_strokes()
        places = subject.at((0,) * len(subject.planes.stack_shape)) if places is None else places
        session.check()
        job = session.look(places)
        for step in [] if job is None else run(job)[1]:
            if isinstance(step, Sight):
                assert session.saw(step)
        job = session.prepare(places)
        if job is None:
            return None
        result, _ = run(job)
        assert session.accept(result)
        return result

    return work


@pytest.fixture
def sweep(run: Any) -> Callable[..., dict[Place, np.ndarray]]:
    """Segments all that is left; the labels by place."""

    def sweep(session: Session, index: Any = (0,)) -> dict[Place, np.ndarray]:
        finished, steps = run(session.sweep(session.undone(index)))
        assert finished
        found = {}
        for step in steps:
            if isinstance(step, Swept):
                assert session.swept(step)
                found[step.found.spot.place] = step.found.labels
            elif isinstance(step, Skipped):
                session.skip(step)
        assert session.undone(index) == []
        return found

    return sweep


def subject_of(image: Any, strokes: Any, axes: str, channels: Any = None) -> Subject:
    planes = Planes(image, axes, channels)
    return Subject(planes, None if strokes is None else Planes(strokes, planes.labels_axes))


# Stacks --------------------------------------------------------------------------------------


def test_strokes_on_two_planes_train_one_model(session, stack, work) -> None:
    strokes = blank(5)
    paint(strokes[1], 1)
    paint(strokes[3], 2)
    subject = subject_of(stack, strokes, "ZYX")
    result = work(session, subject)
    assert [one.spot.place for one in result.found] == [Place((0,), 0)]
    assert [one.spot.place.plane for one in result.learnt.samples] == [(1,), (3,)]
    assert share(result.labels) > 0.95
    np.testing.assert_array_equal(result.classifier.classes_, [1, 2])
    assert result.passes == 2
    # As somebody goes there, it is applied.
    there = work(session, subject, subject.at((4,)))
    assert there.classifier is result.classifier
    assert share(there.labels) > 0.95


def test_painted_places_out_of_view_are_looked_at_after_those_in_view(
    session, stack, painted, run
) -> None:
    subject = subject_of(stack, painted, "ZYX")
    session.watch(subject)
    (place,) = subject.at((2,))
    finished, steps = run(session.look([place]))
    sights = [(s.spot.place.plane, s.tokens.passes) for s in steps if isinstance(s, Sight)]
    # A first pass of what is seen, then what it is to be trained on, then the rest.
    assert (finished, sights) == (True, [((2,), 1), ((1,), 1), ((1,), 2), ((2,), 2)])
    progress = [one for one in steps if isinstance(one, Progress)]
    assert (progress[-1].done, progress[-1].total) == (4, 4)
    for sight in (one for one in steps if isinstance(one, Sight)):
        session.saw(sight)
    assert session.look([place]) is None
    subject.is_training = False
    session.renew()
    assert session.look([place]).others == ()


def test_nothing_is_learnt_before_two_classes_have_features(session, stack, run) -> None:
    strokes = blank(5)
    paint(strokes[0], 1)
    paint(strokes[3], 2)
    subject = subject_of(stack, strokes, "ZYX")
    session.watch(subject)
    session.check()
    places = subject.at((0,))
    prepared = []
    for step in session.look(places).run():
        if isinstance(step, Sight):
            session.saw(step)
            job = session.prepare(places)
            prepared.append((step.spot.place.plane, job is not None))
            if job is not None:
                run(job)
    # In view is the one class alone, which is no reason to say that the other is not painted.
    assert prepared == [((0,), False), ((3,), True), ((3,), True), ((0,), True)]


def test_one_class_alone_is_told_once_all_features_are_there(session, stack, run, work) -> None:
    strokes = blank(5)
    paint(strokes[3], 1)
    subject = subject_of(stack, strokes, "ZYX")
    with pytest.raises(StrokesError, match="Only the class 'class 1'"):
        work(session, subject)


def test_gathered_samples_outlive_their_tokens(session, stack, painted, work, computed) -> None:
    session.memory.budget = 0
    subject = subject_of(stack, painted, "ZYX")
    first = work(session, subject)
    assert len(session.memory._kept) == 1
    session.memory.clear()
    session.store.clear()
    computed.clear()
    # A stroke in view: what was painted elsewhere is known.
    paint(painted[0], 1, rows=slice(40, 44))
    second = work(session, subject)
    assert len(second.learnt.samples) == 2
    assert second.classifier is not first.classifier
    assert not computed
    # Painted upon, it has to be looked at again.
    paint(painted[1], 2, rows=slice(40, 44))
    work(session, subject)
    assert len(computed) == 2


def test_planes_that_nobody_looks_at_any_more_are_let_go(session, stack, painted, work) -> None:
    subject = subject_of(stack, painted, "ZYX")
    for plane in (0, 1, 2, 3, 4, 0):
        work(session, subject, subject.at((plane,)))
    assert {spot.place.plane for spot in session._sights} == {(0,)}


def test_undone_begins_with_the_planes_beside(session, stack, painted, work) -> None:
    subject = subject_of(stack, painted, "ZYX")
    session.watch(subject)
    assert session.undone((2,)) == []
    work(session, subject, subject.at((3,)))
    order = [place.plane[0] for place in session.undone((3,))]
    assert sorted(order) == [0, 1, 2, 4]
    assert (set(order[:2]), order[2:]) == ({2, 4}, [1, 0])
    assert [place.plane[0] for place in session.undone((0,))] == [0, 1, 2, 4]


def test_a_sweep_segments_every_plane_as_if_it_was_looked_at(
    session, stack, painted, work, sweep
) -> None:
    subject = subject_of(stack, painted, "ZYX")
    first = work(session, subject)
    swept = sweep(session)
    assert sorted(place.plane[0] for place in swept) == [1, 2, 3, 4]
    for place, labels in swept.items():
        assert share(labels) > 0.95
        tokens = FeatureExtractor(session.settings, device="cpu", weights=session.weights).extract(
            stack[place.plane]
        )
        np.testing.assert_array_equal(labels, first.classifier.predict(tokens))
    # Looked at, there is nothing to do.
    assert work(session, subject, subject.at((4,))) is None


def test_a_sweep_refines_too(session, stack, painted, work, sweep) -> None:
    subject = subject_of(stack, painted, "ZYX")
    session.refine(guided=12)
    model = work(session, subject).classifier
    refined = sweep(session)
    session.refine(guided=0)
    assert len(session.undone((0,))) == 5
    plain = sweep(session)
    extractor = FeatureExtractor(session.settings, device="cpu", weights=session.weights)
    for place in plain:
        image = stack[place.plane]
        probabilities = model.predict_proba(extractor.extract(image))
        expected = Refinement(guided=12).apply(probabilities, image, model.pixel_classes_).labels
        if place in refined:
            np.testing.assert_array_equal(refined[place], expected)
            assert (refined[place] != plain[place]).any()
    assert len(refined) == 4


def test_a_new_stroke_leaves_all_planes_to_do(session, stack, painted, run, work, sweep) -> None:
    subject = subject_of(stack, painted, "ZYX")
    work(session, subject)
    stale = session.sweep(session.undone((0,)))
    sweep(session)
    paint(painted[1], 1, rows=slice(40, 44))
    subject.read_strokes()
    assert session.undone((0,)) == []
    work(session, subject)
    assert [place.plane[0] for place in session.undone((0,))] == [1, 2, 3, 4]
    # What the classifier before says is of no use.
    late = [step for step in run(stale)[1] if isinstance(step, Swept)]
    assert not any(session.swept(step) for step in late)
    assert len(session.undone((0,))) == 4


def test_a_sweep_that_was_cancelled_goes_on_where_it_was(
    session, stack, painted, work, sweep, computed
) -> None:
    subject = subject_of(stack, painted, "ZYX")
    work(session, subject)
    computed.clear()
    session.memory.clear()
    session.store.clear()
    job = session.sweep(session.undone((0,)))
    for step in (steps := job.run()):
        if isinstance(step, Swept):
            session.swept(step)
            if len(session.undone((0,))) == 2:
                break
    job.cancel()
    with pytest.raises(Cancelled):
        for _ in steps:
            pass
    assert len(computed) == 4
    left = session.undone((0,))
    assert set(sweep(session)) == set(left)
    assert len(computed) == 8


class _Broken:
    """An array whose plane 2 cannot be read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read: list[int] = []

    def __getitem__(self, at: Any) -> np.ndarray:
        self.read.append(at[0])
        if at[0] == 2:
            raise OSError("the disk is gone")
        return self.array[at]


def test_a_plane_that_cannot_be_read_is_left_out(session, stack, painted, run, work) -> None:
    subject = subject_of(_Broken(stack), painted, "ZYX")
    work(session, subject)
    finished, steps = run(session.sweep(session.undone((0,))))
    assert finished
    found = [step for step in steps if isinstance(step, Swept)]
    (skipped,) = (step for step in steps if isinstance(step, Skipped))
    assert sorted(one.found.spot.place.plane[0] for one in found) == [1, 3, 4]
    assert skipped.spot == Spot(subject, Place((2,), 0))
    assert isinstance(skipped.error, ImageError)
    assert "the disk is gone" in str(skipped.error)
    for one in found:
        session.swept(one)
    assert session.undone((0,)) == [Place((2,), 0)]
    session.skip(skipped)
    # It is not tried again and again.
    assert session.undone((0,)) == []
    with pytest.raises(ImageError, match="the disk is gone"):
        work(session, subject, subject.at((2,)))


def test_planes_that_nobody_needs_are_not_read(session, stack, painted, work) -> None:
    array = _Broken(stack)
    work(session, subject_of(array, painted, "ZYX"), [Place((4,), 0)])
    assert set(array.read) == {1, 4}


# Tiles ---------------------------------------------------------------------------------------


@pytest.fixture
def tiled(monkeypatch, session) -> Subject:
    """A plane (200, 300) of 2 x 3 tiles, painted in two of them."""
    monkeypatch.setattr(tiles, "_TOGETHER", 1)
    session.configure(window=56)
    image = np.random.default_rng(0).normal(0, 0.05, (200, 300)).astype(np.float32)
    image[:, 150:] += 1
    strokes = np.zeros((200, 300), np.uint8)
    strokes[20:24, 20:60], strokes[180:184, 230:270] = 1, 2
    return subject_of(image, strokes, "YX")


def test_a_large_plane_is_segmented_tile_by_tile(session, tiled, work, sweep) -> None:
    session.watch(tiled)
    seen = tiled.at((), (slice(120, 140), slice(110, 130)))
    assert len(seen) == 1
    result = work(session, tiled, seen)
    assert [one.spot.place for one in result.found] == seen
    assert [one.spot.place.tile for one in result.learnt.samples] == [0, 5]
    assert result.found[0].region == tiled.core(seen[0])
    whole = np.zeros((200, 300), np.uint8)
    whole[result.found[0].region] = result.labels
    swept = sweep(session, ())
    assert len(swept) == 5
    for place, labels in swept.items():
        whole[tiled.core(place)] = labels
    truth = np.where(np.arange(300) < 150, 1, 2)
    assert (whole == truth)[:, np.abs(np.arange(300) - 150) > 14].mean() > 0.95
    # Windows are windows, in whatever tiles: as the plane at once.
    extractor = FeatureExtractor(session.settings, device="cpu", weights=session.weights)
    at_once = result.classifier.predict(extractor.extract(tiled.planes.array))
    assert (whole == at_once).mean() > 0.999


def test_pixels_changed_in_place_are_stretched_anew(session, tiled, work) -> None:
    work(session, tiled)
    digests = dict(session._digests)
    tiled.planes.array[180:] *= 1000
    session.renew()
    # Its own pixels are the same, what is white is not.
    work(session, tiled)
    spot = Spot(tiled, Place((), 0))
    assert session._digests[spot] != digests[spot]


# Several images ------------------------------------------------------------------------------


@pytest.fixture
def images() -> list[Subject]:
    """Of other dtypes and brightness; the first has class 1, the second class 2, one nothing."""
    one, two, three = (halves(seed) for seed in range(3))
    first, second = blank(), blank()
    paint(first, 1)
    paint(second, 2)
    rgb = np.stack([(np.clip(three, 0, 1) * 200).astype(np.uint8)] * 3, -1)
    return [
        subject_of(one, first, "YX"),
        subject_of((two * 3000 + 20_000).astype(np.uint16), second, "YX"),
        subject_of(rgb, None, "YXS"),
    ]


def test_strokes_on_several_images_train_one_model(session, images, work, count) -> None:
    heard = count(session.subjects_changed)
    session.watch(images[0])
    images[0].read_strokes()
    with pytest.raises(StrokesError, match="Only the class 'class 1'"):
        session.check()
    result = work(session, images[1])
    assert [one.spot.subject for one in result.learnt.samples] == images[:2]
    assert session.subjects == tuple(images[:2])
    assert share(result.labels) > 0.95
    there = work(session, images[2])
    assert there.classifier is result.classifier
    assert share(there.labels) > 0.95
    assert heard
    back = work(session, images[0])
    assert back.classifier.pixel_classes_ == result.classifier.pixel_classes_
    assert share(back.labels) > 0.95


def test_three_painted_images_of_which_one_is_a_stack(session, images, stack, work, sweep) -> None:
    drawn = blank(5)
    paint(drawn[2], 1, 2)
    images[2].strokes = Planes(blank(), "YX")
    paint(images[2].strokes.array, 1, 2)
    for image in images:
        session.watch(image)
        image.read_strokes()
    result = work(session, subject_of(stack * 1e-3, drawn, "TYX"))
    assert len(result.learnt.samples) == 4
    swept = sweep(session)
    assert len(swept) == 4
    assert share(np.stack(list(swept.values()))) > 0.95


def test_an_image_out_of_training_is_not_learnt_from(session, images, work, count, run) -> None:
    for image in images[:2]:
        session.watch(image)
        image.read_strokes()
    paint(images[1].strokes.array, 1)
    first = work(session, images[1])
    assert len(first.learnt.samples) == 2
    heard = count(session.subjects_changed)
    session.train_on(images[0], False)
    session.train_on(images[0], False)
    assert len(heard) == 1
    second = work(session, images[1])
    assert [one.spot.subject for one in second.learnt.samples] == [images[1]]
    alone = Session()
    alone.use_weights(session.weights)
    alone.configure(passes=2, device="cpu")
    other = subject_of(images[1].planes.array, images[1].strokes.array, "YX")
    np.testing.assert_array_equal(work(alone, other).labels, second.labels)
    session.train_on(images[1], False)
    assert not session.is_painted
    assert session.prepare(images[1].at(())) is None


def test_an_image_that_is_forgotten_is_not_learnt_from(session, images, work, count) -> None:
    for image in images[:2]:
        session.watch(image)
        image.read_strokes()
    work(session, images[1])
    heard = count(session.subjects_changed)
    session.forget(images[0])
    assert (session.subjects, session.subject, len(heard)) == ((images[1],), images[1], 1)
    with pytest.raises(StrokesError, match="Only the class"):
        session.check()
    session.forget(images[1])
    assert (session.subjects, session.subject) == ((), None)
    assert (session._sights, session._digests, session._samples) == ({}, {}, {})
    session.forget(images[1])
    assert len(heard) == 2


def test_a_class_painted_on_another_image_is_not_removed(session, images) -> None:
    for image in images[:2]:
        session.watch(image)
        image.read_strokes()
    with pytest.raises(StrokesError, match="'class 1' is painted"):
        session.remove_class(1)


def test_a_loaded_model_is_not_trained_anew_by_other_images(
    session, images, work, tmp_path, count
) -> None:
    for image in images[:2]:
        session.watch(image)
        image.read_strokes()
    paint(images[1].strokes.array, 1)
    work(session, images[1])
    path = session.save(tmp_path / "model")
    session.watch(images[2])
    session.load(path)
    assert [one.is_training for one in images] == [False, False, True]
    applied = work(session, images[2])
    assert not applied.trained
    assert applied.classifier is session.classifier
    # Who wants that, has them learnt from.
    session.train_on(images[1], True)
    assert work(session, images[2]).trained


# Channels ------------------------------------------------------------------------------------


def two_channels(seed: int) -> np.ndarray:
    """The first is dark on the left, the second on the right."""
    return np.stack([halves(seed), halves(seed + 10)[:, ::-1]])


def test_the_channels_are_those_of_the_image_watched(session, images, work) -> None:
    strokes = blank()
    paint(strokes, 1, 2)
    two = subject_of(two_channels(0), strokes, "CYX")
    assert share(work(session, two).labels) > 0.95
    assert (session.settings.channels, session.settings.channel_count) == ((0, 1), 2)
    assert session.classifier.settings_.channels == (0, 1)
    chosen = subject_of(two.planes.array, strokes, "CYX", (1,))
    work(session, chosen)
    assert session.settings.channels == (1,)
    session.watch(images[0])
    assert (session.settings.channels, session.settings.channel_count) == (None, None)
    assert session.settings.passes == 2


def test_images_of_other_channels_take_no_part(session, images, work) -> None:
    strokes, more = blank(), blank()
    paint(strokes, 1, 2)
    paint(more, 1, rows=slice(40, 44))
    paint(images[0].strokes.array, 2)
    grey = work(session, images[0])
    first = subject_of(two_channels(0), strokes, "CYX")
    stack = subject_of(np.stack([two_channels(k) for k in (1, 2)]), blank(2), "ZCYX")
    stack.strokes.array[1] = more
    session.watch(first)
    first.read_strokes()
    result = work(session, stack)
    assert [one.spot.subject for one in result.learnt.samples] == [first, stack]
    assert (share(result.labels), result.classifier.settings_.channel_count) == (1, 2)
    assert share(grey.labels) > 0.95
    # Nor is a classifier of other channels applied to them.
    session.watch(images[0])
    session.train_on(images[0], False)
    assert session.prepare(images[0].at(())) is None


def test_a_model_of_other_channels_is_refused_and_can_be_trained_anew(
    session, work, tmp_path
) -> None:
    strokes = blank()
    paint(strokes, 1, 2)
    three = np.stack([*two_channels(0), halves(3)])
    work(session, subject_of(three, strokes, "CYX"))
    path = session.save(tmp_path / "three")
    two = subject_of(two_channels(0), blank(), "CYX")
    session.watch(two)
    session.load(path)
    with pytest.raises(ImageError, match=r"3 channels .* 2 channels"):
        session.check()
    assert session.undone(()) == []
    grey = subject_of(halves(0), None, "YX")
    session.watch(grey)
    with pytest.raises(ImageError, match=r"3 channels \(0, 1, 2\), the image has grey levels"):
        session.check()
    # Strokes on such an image train one for it.
    session.watch(two)
    session.load(path)
    two.strokes.array[...] = strokes
    result = work(session, two)
    assert result.trained
    assert result.classifier.settings_.channels == (0, 1)


def test_colours_for_more_channels_than_there_are_colours(session, work) -> None:
    strokes = blank()
    paint(strokes, 1, 2)
    session.watch(subject_of(two_channels(0), strokes, "CYX"))
    session.configure(colours="mapped")
    five = np.stack([*two_channels(0), *two_channels(1), halves(5)])
    assert share(work(session, subject_of(five, strokes, "CYX")).labels) > 0.95
    with pytest.raises(HRDv2Error, match="three channels at most"):
        session.configure(colours="mapped")


def test_trees_wait_for_all_passes_of_a_stack(session, stack, painted, work, sweep) -> None:
    session.use_method("forest")
    subject = subject_of(stack, painted, "ZYX")
    result = work(session, subject)
    assert (result.passes, [one.passes for one in result.learnt.samples]) == (2, [2])
    assert share(np.stack(list(sweep(session).values()))) > 0.95
