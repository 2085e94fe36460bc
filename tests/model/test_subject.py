"""An image with its strokes as places, without a session."""

from __future__ import annotations

import numpy as np
import pytest

from napari_hrdv2._subject import Place, Subject
from napari_hrdv2.core import tiles
from napari_hrdv2.core.errors import StrokesError
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.settings import Settings

_SMALL = Settings(window=56)


@pytest.fixture
def stack() -> Subject:
    """Of 2 x 3 planes, each of one tile; unpainted."""
    subject = Subject(Planes(np.zeros((2, 3, 20, 30)), "TZYX"), Planes(_blank(), "TZYX"))
    subject.cut(Settings())
    return subject


def _blank() -> np.ndarray:
    return np.zeros((2, 3, 20, 30), np.uint8)


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A plane (200, 300) of 2 x 3 tiles."""
    monkeypatch.setattr(tiles, "_TOGETHER", 1)
    subject = Subject(Planes(np.zeros((200, 300)), "YX"), Planes(np.zeros((200, 300), int), "YX"))
    subject.cut(_SMALL)
    return subject


def test_places_of_a_stack(stack) -> None:
    assert stack.at((1, 2)) == [Place((1, 2), 0)]
    assert stack.core(Place((1, 2), 0)) == (slice(0, 20), slice(0, 30))
    everywhere = stack.everywhere((1, 0))
    assert len(set(everywhere)) == len(everywhere) == 6
    away = [sum(abs(a - b) for a, b in zip(one.plane, (1, 0), strict=True)) for one in everywhere]
    assert (away[0], away[1:3], away[-1]) == (0, [1, 1], 3)
    # A channel in between is no plane.
    subject = Subject(Planes(np.zeros((4, 2, 20, 30)), "ZCYX"))
    subject.cut(Settings())
    assert [one.plane for one in subject.everywhere((3,))] == [(3,), (2,), (1,), (0,)]


def test_tiles_cover_a_plane_and_those_in_the_middle_of_the_view_come_first(tiled) -> None:
    assert len(tiled.tiles) == 6
    covered = np.zeros((200, 300), int)
    for place in tiled.at(()):
        covered[tiled.core(place)] += 1
    assert (covered == 1).all()
    middle = (slice(140, 180), slice(190, 230))
    seen = tiled.at((), middle)
    assert 1 <= len(seen) < 6
    first = tiled.core(seen[0])
    assert first[0].start <= 160 < first[0].stop
    assert first[1].start <= 210 < first[1].stop
    for place in set(tiled.at(())) - set(seen):
        beside = zip(tiled.core(place), middle, strict=True)
        assert any(a.stop <= b.start or b.stop <= a.start for a, b in beside)
    assert tiled.at((), (slice(0, 200), slice(0, 300)))[0] != seen[0]


def test_other_tiles_know_of_strokes_and_no_segmentation(tiled) -> None:
    tiled.strokes.array[190, 290] = 1
    assert tiled.read_strokes()
    assert list(tiled.drawn) == [Place((), 5)]
    tiled.done[Place((), 5)] = None
    before = tiled.tiles
    tiled.cut(_SMALL.model_copy(update={"passes": 9}))
    assert (tiled.tiles, len(tiled.done)) == (before, 1)
    tiled.cut(Settings(window=0))
    assert (len(tiled.tiles), tiled.done) == (1, {})
    assert list(tiled.drawn) == [Place((), 0)]
    assert tiled.drawn[Place((), 0)][190, 290] == 1


def test_strokes_are_copies_and_only_what_is_new_is_told(stack) -> None:
    place, other = Place((0, 1), 0), Place((1, 1), 0)
    strokes = stack.strokes.array
    strokes[0, 1, 5, 5] = 2
    assert not stack.read_strokes([other])
    assert not stack.stroked([place])
    assert stack.read_strokes([place])
    assert (stack.stroked([place]), stack.stroked([other])) == (True, False)
    kept = stack.drawn[place]
    assert not stack.read_strokes()
    assert stack.drawn[place] is kept
    strokes[0, 1, 6, 6] = 1
    assert kept[6, 6] == 0
    assert stack.read_strokes()
    assert stack.drawn[place] is not kept
    strokes[...] = 0
    assert stack.read_strokes()
    assert stack.drawn == {}
    strokes[1, 1] = 1
    stack.read_strokes()
    stack.strokes = None
    assert stack.read_strokes()
    assert stack.drawn == {}


def test_strokes_that_cannot_be_used_count_as_none(stack) -> None:
    stack.strokes = Planes(_blank().astype(int), "TZYX")
    stack.strokes.array[0, 0, 0, 0], stack.strokes.array[1, 0, 0, 0] = 70_000, 3
    stack.read_strokes()
    assert list(stack.drawn) == [Place((1, 0), 0)]
    with pytest.raises(StrokesError, match="70000"):
        stack.check_strokes()
    stack.strokes.array[0, 0, 0, 0] = 1
    stack.read_strokes()
    stack.check_strokes()
    assert len(stack.drawn) == 2
    stack.strokes = Planes(_blank()[:, :2], "TZYX")
    stack.read_strokes()
    assert stack.drawn == {}
    with pytest.raises(StrokesError, match="must be the same"):
        stack.check_strokes()


def test_a_tile_is_stretched_as_its_whole_plane(tiled) -> None:
    image = np.random.default_rng(0).normal(size=(2, 200, 300))
    image[1] += 100
    subject = Subject(Planes(image, "ZYX"))
    subject.cut(_SMALL)
    levels = []
    for plane in (0, 1):
        pieces = [subject.piece(place, _SMALL) for place in subject.at((plane,))]
        for place, piece in zip(subject.at((plane,)), pieces, strict=True):
            np.testing.assert_array_equal(piece.levels, pieces[0].levels)
            inner = piece.tile.inner().core
            np.testing.assert_array_equal(piece.pixels[inner], image[(plane, *subject.core(place))])
        levels.append(pieces[0].levels)
        np.testing.assert_allclose(levels[-1][0], np.percentile(image[plane], (1, 99)))
    assert levels[1].min() > levels[0].max()
    # A plane that is one tile is by itself.
    subject.cut(Settings())
    assert subject.piece(Place((1,), 0), Settings()).levels is None


def test_images_of_other_channels_do_not_fit() -> None:
    grey, two = Subject(Planes(np.zeros((8, 9)), "YX")), Subject(Planes(np.zeros((2, 8, 9)), "CYX"))
    rgb = Subject(Planes(np.zeros((8, 9, 3)), "YXS"))
    assert [one.fits(Settings()) for one in (grey, rgb, two)] == [True, True, False]
    of_two = Settings(channels=(0, 1), channel_count=2)
    assert [one.fits(of_two) for one in (grey, rgb, two)] == [False, False, True]
    assert two.fits(Settings(channels=(0, 1)))
    assert not two.fits(Settings(channels=(0, 1), channel_count=3))
    assert not two.fits(Settings(channels=(1, 0), channel_count=2))
