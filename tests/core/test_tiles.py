"""Windows and tiles: they cover a plane once, and know what their features hang on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_hrdv2.core import tiles as tiles_module
from napari_hrdv2.core.cache import digest_of
from napari_hrdv2.core.errors import ImageError
from napari_hrdv2.core.normalise import levels_of, stretch
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tiles import Piece, Tile, cuts, levels_in, piece_of, tiles, whole

from .test_planes import Lazy

settings_of = st.builds(
    Settings,
    window=st.sampled_from([0, 30, 64, 200, 512]),
    scale=st.sampled_from([0.125, 0.7, 1.0, 1.5, 2.0, 8.0]),
    boundary=st.sampled_from(["reflect", "periodic"]),
)
#: Of 64 px, on any image of some size several.
SMALL = Settings(window=64)


# --- cuts


@given(st.integers(1, 5000), settings_of)
def test_cuts_cover_the_axis_once(n, settings):
    found = cuts(n, settings)
    np.testing.assert_array_equal(
        np.concatenate([np.arange(n)[one.core] for one in found]), np.arange(n)
    )
    for one in found:
        assert 0 <= one.window.start <= one.core.start < one.core.stop <= one.window.stop <= n
        # Filters on every second pixel lie in a window where they lie in the whole.
        assert one.core.start % 2 == one.window.start % 2 == 0


@given(st.integers(1, 5000), settings_of)
def test_windows_reach_as_far_as_patches_and_filters_see(n, settings):
    beyond = max(56 / settings.scale, 40)
    for one in cuts(n, settings):
        assert one.window.start == 0 or one.core.start - one.window.start >= beyond
        assert one.window.stop == n or one.window.stop - one.core.stop >= beyond


@given(st.integers(1, 5000), settings_of)
def test_windows_are_about_as_large_as_wished(n, settings):
    found = cuts(n, settings)
    if settings.window == 0 or settings.boundary == "periodic":
        assert len(found) == 1
        return
    seen = n * settings.scale
    # A quarter more is no reason for another; even ones may be fewer.
    assert len(found) <= max(1, math.ceil(seen / settings.window - 0.25))
    assert (len(found) == 1) == (seen <= 1.25 * settings.window or n <= 2)
    for one in found:
        core = one.core.stop - one.core.start
        assert core * settings.scale <= 1.25 * settings.window or core <= 2


def test_windows_of_some_lengths():
    def cores(n: int, **how: float) -> list[int]:
        return [one.core.stop - one.core.start for one in cuts(n, Settings(**how))]

    assert cores(640) == [640]
    assert cores(641) == [322, 319]
    assert cores(1024) == [512, 512]
    assert cores(898, scale=2) == [226, 226, 226, 220]
    assert cores(2048, scale=0.25) == [2048]
    assert cores(2048, window=0) == cores(2048, boundary="periodic") == [2048]


# --- tiles


@given(st.tuples(st.integers(1, 900), st.integers(1, 900)), st.sampled_from([30, 64, 200, 0]))
def test_tiles_cover_a_plane_once(shape, window):
    settings = Settings(window=window)
    found = tiles(shape, settings)
    covered = np.zeros(shape, int)
    for tile in found:
        covered[tile.core] += 1
        assert tile.shape == covered[tile.core].shape
        for cut, seen, core in zip(tile, tile.window, tile.core, strict=True):
            assert seen.start <= core.start < core.stop <= seen.stop
            assert all(seen.start <= one.window.start for one in cut)
            assert all(one.window.stop <= seen.stop for one in cut)
    assert (covered == 1).all()
    everything = whole(shape, settings)
    count = math.prod(map(len, everything))
    if count <= 20:
        assert found == (everything,)
    else:
        assert len(found) > 1
        assert all(max(map(len, tile)) <= 2 for tile in found)
    # A tile's windows are the whole's own.
    assert sorted({str(y) for one in found for y in one.rows}) == sorted(map(str, everything.rows))


def test_inner_tiles_count_from_their_window():
    tile = tiles((700, 900), SMALL)[-1]
    inner = tile.inner()
    assert all(part.start == 0 for part in inner.window)
    image = np.arange(700 * 900).reshape(700, 900)
    seen = image[tile.window]
    np.testing.assert_array_equal(seen[inner.core], image[tile.core])
    for y, outer in zip(inner.rows, tile.rows, strict=True):
        np.testing.assert_array_equal(
            seen[y.window, inner.core[1]], image[outer.window, tile.core[1]]
        )
    assert inner.inner() == inner


# --- pieces


@pytest.fixture
def planes(rng):
    return Planes(Lazy(rng.integers(0, 1000, (3, 520, 600))), "ZYX")


def test_pieces_are_read_by_themselves(planes):
    some = tiles(planes.shape, SMALL)
    assert len(some) > 1
    levels = levels_in(planes, (1,), SMALL)
    planes.array.read = 0
    piece = piece_of(planes, (1,), some[3], levels)
    y, x = some[3].window
    assert planes.array.read == (y.stop - y.start) * (x.stop - x.start)
    np.testing.assert_array_equal(piece.pixels, planes.array._array[1][y, x])
    assert (piece.tile, piece.levels) == (some[3], levels)


def test_a_tile_that_is_the_whole_plane_is_an_image_by_itself(planes):
    (tile,) = tiles(planes.shape, Settings())
    piece = piece_of(planes, (2,), tile, None)
    assert (piece.tile, piece.levels) == (None, None)
    assert piece.digest == digest_of(planes.array._array[2]) == Piece(piece.pixels).digest


def test_the_digest_is_of_everything_that_changes_tokens():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (200, 220)).astype(np.uint8)
    levels = np.array([[3.0, 250.0]])
    rows, columns = whole((200, 220), SMALL)
    parts = {
        "the image": Piece(pixels),
        "other pixels": Piece(pixels + 1),
        "other levels": Piece(pixels, None, levels),
        "a little other levels": Piece(pixels, None, np.nextafter(levels, 0)),
        "all windows": Piece(pixels, Tile(rows, columns), levels),
        "all windows, own levels": Piece(pixels, Tile(rows, columns)),
        "some windows": Piece(pixels, Tile(rows[:1], columns), levels),
        "other windows": Piece(pixels, Tile(rows[1:], columns), levels),
        "windows elsewhere": Piece(pixels, Tile(rows, columns[:2]), levels),
    }
    digests = {name: piece.digest for name, piece in parts.items()}
    assert len(set(digests.values())) == len(parts), digests


def test_the_digest_does_not_hang_on_where_in_the_image_a_tile_lies():
    tile = tiles((700, 900), SMALL)[-1]
    y, x = tile.window
    pixels = np.random.default_rng(0).random((y.stop - y.start, x.stop - x.start))
    assert Piece(pixels, tile).digest == Piece(pixels.copy(), tile.inner()).digest
    assert Piece(pixels, tile, np.array([[0, 1]])).digest != Piece(pixels, tile).digest


# --- levels


def test_levels_of_a_plane_are_those_that_stretching_it_takes(rng):
    stack = rng.normal(size=(2, 3, 50, 60)) * np.array([1, 10, 100])[:, None, None]
    grey, colours = Planes(stack[0], "ZYX"), Planes(stack[0].transpose(1, 2, 0), "YXS")
    channels = Planes(stack, "ZCYX", (2, 0))
    for planes, index in ((grey, (1,)), (colours, ()), (channels, (1,))):
        apart = planes is channels
        settings = Settings(percentiles=(5, 80), channels=planes.channels)
        image = planes.read(index)
        levels = levels_in(planes, index, settings)
        assert levels.shape == (2 if apart else 1, 2)
        np.testing.assert_array_equal(levels, levels_of(image, (5, 80), apart=apart))
        part = image[10:30, 20:40]
        np.testing.assert_array_equal(
            stretch(part, (5, 80), levels=levels, apart=apart),
            stretch(image, (5, 80), apart=apart)[10:30, 20:40],
        )


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3))
def test_levels_of_large_planes_are_close(height, width, channels):
    assume(height * width > 2500)
    rng = np.random.default_rng(0)
    image = rng.random((channels, height, width)) + np.linspace(0, 1, width)
    lazy = Lazy(image)
    planes = Planes(lazy, "CYX")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "_ALL", 2500)
        patch.setattr(tiles_module, "_BLOCKS", 8)
        patch.setattr(tiles_module, "_BLOCK", 6)
        levels = levels_in(planes, (), Settings(channels=planes.channels))
    assert lazy.read <= channels * 8**2 * 6**2
    expected = levels_of(planes.read(), apart=channels > 1)
    assert levels.shape == expected.shape
    np.testing.assert_allclose(levels, expected, atol=0.15)


def test_of_an_axis_as_short_as_a_block_there_is_one_block(monkeypatch):
    monkeypatch.setattr(tiles_module, "_ALL", 100)
    lazy = Lazy(np.random.default_rng(0).random((50, 4000)))
    levels_in(Planes(lazy, "YX"), (), Settings())
    assert lazy.read == 50 * 16 * 128


def test_a_plane_without_finite_pixels_has_no_levels():
    with pytest.raises(ImageError, match="no finite pixel"):
        levels_in(Planes(np.full((4, 5), np.nan), "YX"), (), Settings())
