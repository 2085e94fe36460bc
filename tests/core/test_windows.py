"""Tokens of images looked at through windows: window by window the naive way, and tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from napari_hrdv2.core import devices
from napari_hrdv2.core import tiles as tiles_module
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.errors import Cancelled, DeviceError
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.normalise import levels_of
from napari_hrdv2.core.planes import Planes
from napari_hrdv2.core.tiles import Piece, cuts, levels_in, piece_of, tiles
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Joined
from napari_hrdv2.core.upsample import dense_map, projected_maps, rows_at

SHAPE = (139, 171)
#: Of so many pixels that a tile of 2 x 2 windows is not the whole.
LARGE = (100, 330)
#: Windows of at most 56 px: two or three along either axis, the last ones smaller.
SMALL = {"window": 56, "passes": 2}
WAYS: dict[str, dict[str, Any]] = {
    "shifts": {"passes": 5},
    "flips": {"passes": 4, "flips": True},
    "flips and rotations": {"passes": 9, "flips": True, "rotations": True},
    "small strides": {"stride": 6, "passes": 3, "rotations": True},
    "nearest": {"kernel": "nearest", "passes": 4},
    "neighbours": {"shifts": "moore", "passes": 9, "distances": (5,), "flips": True},
    "enlarged": {"scale": 1.4, "passes": 3, "window": 80},
    "shrunk": {"scale": 0.45, "passes": 3, "window": 30, "rotations": True},
    "filters": {"filters": True},
    "filters, shrunk": {"scale": 0.45, "window": 30, "filters": True},
    "filters, enlarged": {"scale": 2.0, "window": 112, "filters": True, "passes": 1},
    "positions as they are": {"move_positions": False},
}
#: Through windows that are others than those of the rest.
ZOOMS: dict[str, dict[str, Any]] = {
    "zooms": {"zooms": (1.0, 0.5, 1.7), "passes": 4},
    "zooms, turned": {"zooms": (0.6, 2.0), "passes": 4, "rotations": True, "flips": True},
    "zooms, filters": {"zooms": (1.0, 0.5), "passes": 2, "filters": True, "scale": 0.8},
}
COLOURS = {
    "grey": LARGE,
    "long": (100, 520),
    "RGB": (*LARGE, 3),
    "turned": LARGE[::-1],
    "both": (230, 310),
}


def image_of(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noise that grows, on a ramp: no part looks like another, or has the same percentiles."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(0, 2, shape[1]) ** 2)
    return (rng.random(shape).T * (ramp.T + 0.2) + ramp.T).T


def naive(extractor: FeatureExtractor, image: np.ndarray, make_extractor) -> np.ndarray:
    """Features (h, w, C): every window an image of its own, of which the middle is kept."""
    settings = extractor.settings
    alone = make_extractor(settings=settings, window=0, filters=settings.filters)
    levels = levels_of(image, settings.percentiles)
    found: np.ndarray | None = None
    y, x = (cuts(n, settings) for n in image.shape[:2])
    assert len(y) > 1
    assert len(x) > 1
    for rows in y:
        for columns in x:
            pixels = image[rows.window, columns.window]
            *_, tokens = alone.passes(Piece(pixels, None, levels))
            assert not isinstance(tokens.lattices[0][0], Joined)
            dense = dense_map(tokens)
            if found is None:
                found = np.full((*image.shape[:2], dense.shape[-1]), np.nan, np.float32)
            inner = rows.moved(rows.window.start).core, columns.moved(columns.window.start).core
            found[rows.core, columns.core] = dense[inner]
    assert found is not None
    return found


def assert_close(found: Any, expected: Any) -> None:
    scale = np.abs(np.asarray(expected)).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale)


# --- against images of their own


@pytest.mark.parametrize("way", WAYS)
def test_features_are_those_of_every_window_alone(make_extractor, way):
    extractor = make_extractor(**SMALL | WAYS[way])
    # So large that no window holds all of it along any axis.
    shape = (190, 300)
    image = image_of(shape)
    tokens = extractor.extract(image)
    assert tokens.image_shape == shape
    expected = naive(extractor, image, make_extractor)
    assert_close(dense_map(tokens), expected)
    pixels = np.argwhere(np.ones(shape, bool))[::101].copy()
    assert_close(rows_at(tokens, pixels), expected[pixels[:, 0], pixels[:, 1]])
    # Were all looked at at once, they would be others.
    whole = dense_map(make_extractor(**SMALL | WAYS[way] | {"window": 0}).extract(image))
    assert np.abs(whole - expected)[..., :128].max() > 0.1


def test_features_of_colours_are_those_of_every_window_alone(make_extractor):
    extractor = make_extractor(**SMALL, filters=True)
    image = image_of((*SHAPE, 3))
    assert_close(dense_map(extractor.extract(image)), naive(extractor, image, make_extractor))


@pytest.mark.parametrize("shape", [(9, 200), (200, 1), (58, 70)])
def test_long_images_have_windows_along_one_axis(make_extractor, shape):
    extractor = make_extractor(**SMALL, filters=True)
    image = image_of(shape)
    y, x = extractor.extract(image).lattices[0]
    assert isinstance(y, Joined) == (shape[0] > 70)
    assert isinstance(x, Joined) == (shape[1] > 70)
    assert np.isfinite(dense_map(extractor.extract(image))).all()


@pytest.mark.parametrize("changes", [{"window": 200}, {"boundary": "periodic"}])
def test_small_and_periodic_images_are_looked_at_as_a_whole(make_extractor, changes):
    options = {**SMALL, **changes}
    found = make_extractor(**options).extract(image_of())
    whole = make_extractor(**options | {"window": 0}).extract(image_of())
    assert found.lattices == whole.lattices
    assert torch.equal(found.data, whole.data)


def test_passes_grow_one_by_one(make_extractor):
    extractor = make_extractor(window=56, passes=5, rotations=True)
    whole = extractor.extract(image_of())
    for k, tokens in enumerate(extractor.passes(image_of()), 1):
        assert tokens.passes == k
        assert tokens.lattices == whole.lattices[:k]
        torch.testing.assert_close(tokens.data, whole.data[:k])


def test_a_crop_over_windows_is_the_crop_of_the_map(make_extractor):
    tokens = make_extractor(window=56, passes=3, rotations=True, filters=True).extract(image_of())
    dense = dense_map(tokens)
    for region in (
        (slice(20, 110), slice(40, 41)),
        (slice(0, 139), slice(57, 171)),
        (slice(50, 60), slice(3, 9)),
    ):
        assert_close(dense_map(tokens.crop(region)), dense[region])


# --- tiles


def tokens_of_tiles(
    extractor: FeatureExtractor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> list[tuple[Any, Tokens]]:
    """The tiles of an image and their tokens."""
    monkeypatch.setattr(tiles_module, "_TOGETHER", 1)
    settings = extractor.settings
    channels = image.ndim == 3 and settings.has_channels
    axes = "YX" if image.ndim == 2 else "YXC" if channels else "YXS"
    planes = Planes(image, axes)
    levels = levels_in(planes, (), settings)
    found = []
    for tile in tiles(planes.shape, settings):
        piece = piece_of(planes, (), tile, levels)
        assert piece.pixels.shape[:2] != planes.shape
        *_, tokens = extractor.passes(piece, **how)
        found.append((tile, tokens))
    assert len(found) > 1
    return found


@pytest.mark.parametrize(
    ("way", "colours"),
    [*((way, "grey") for way in WAYS), *((way, "long") for way in ZOOMS)]
    + [("filters", one) for one in COLOURS if one not in ("grey", "long")]
    + [("flips and rotations", "turned"), ("enlarged", "RGB")],
)
def test_tiles_are_as_the_whole(make_extractor, monkeypatch, way, colours):
    extractor = make_extractor(**SMALL | (WAYS | ZOOMS)[way])
    image = image_of(COLOURS[colours])
    whole = extractor.extract(image)
    dense = dense_map(whole)
    weight = np.random.default_rng(3).normal(size=(2, whole.channels)).astype(np.float32)
    maps = projected_maps(whole, weight)
    for tile, tokens in tokens_of_tiles(extractor, image, monkeypatch):
        assert tokens.image_shape == tile.shape
        assert tokens.settings == whole.settings
        assert_close(dense_map(tokens), dense[tile.core])
        assert_close(projected_maps(tokens, weight), maps[tile.core])


def test_filters_of_tiles_are_those_of_the_whole_to_the_last_bit(make_extractor, monkeypatch):
    extractor = make_extractor(window=56, passes=1, filters=True)
    image = image_of(LARGE)
    dense = dense_map(extractor.extract(image))[..., 128:]
    for tile, tokens in tokens_of_tiles(extractor, image, monkeypatch):
        np.testing.assert_array_equal(dense_map(tokens)[..., 128:], dense[tile.core])


def test_a_tile_without_colours_is_as_in_a_coloured_image(make_extractor, monkeypatch):
    """It has no filters of colours, which are nought there in the whole."""
    image = np.repeat(image_of(LARGE)[..., None], 3, -1)
    image[:, 250:, 0] *= 1.5
    extractor = make_extractor(**SMALL, filters=True)
    whole = extractor.extract(image)
    weight = np.random.default_rng(3).normal(size=(2, whole.channels)).astype(np.float32)
    maps = projected_maps(whole, weight)
    found = tokens_of_tiles(extractor, image, monkeypatch)
    assert {tokens.channels == whole.channels for _, tokens in found} == {True, False}
    for tile, tokens in found:
        assert_close(projected_maps(tokens, weight), maps[tile.core])


def test_tiles_of_channels_are_as_the_whole(make_extractor, monkeypatch):
    image = image_of((*LARGE, 2)) * (1, 50)
    for colours in ("each", "mapped"):
        extractor = make_extractor(**SMALL, channels=(0, 1), colours=colours, filters=True)
        dense = dense_map(extractor.extract(image))
        for tile, tokens in tokens_of_tiles(extractor, image, monkeypatch):
            assert_close(dense_map(tokens), dense[tile.core])


def test_a_tile_stretched_by_itself_is_another(make_extractor, monkeypatch):
    """What levels are for."""
    extractor = make_extractor(**SMALL)
    image = image_of(LARGE)
    dense = dense_map(extractor.extract(image))
    monkeypatch.setattr(tiles_module, "levels_of", lambda *_, **__: None)
    tile, tokens = tokens_of_tiles(extractor, image, monkeypatch)[0]
    assert np.abs(dense_map(tokens) - dense[tile.core]).max() > 0.1


# --- memory, cancelling, the store


@pytest.fixture
def looks(monkeypatch) -> list[int]:
    """How many windows went through the backbone, batch by batch; at most three fit."""
    forward, batches = FeatureExtractor._forward, []
    monkeypatch.setattr(devices, "batch_size", lambda *args: 8)

    def limited(self, images, *how):
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        batches.append(len(images))
        return forward(self, images, *how)

    monkeypatch.setattr(FeatureExtractor, "_forward", limited)
    return batches


def test_batches_of_windows_are_halved_when_memory_runs_out(make_extractor, looks, monkeypatch):
    options = {"window": 56, "passes": 3, "rotations": True}
    found = make_extractor(**options).extract(image_of())
    assert max(looks) > 1
    # Every window was looked at once in every pass.
    assert sum(looks) == 3 * 9
    monkeypatch.setattr(devices, "batch_size", lambda *args: 1)
    expected = make_extractor(**options).extract(image_of())
    torch.testing.assert_close(found.data, expected.data, rtol=1e-4, atol=1e-4)


def test_not_one_window_fits_into_the_memory(make_extractor, monkeypatch):
    def refuse(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(FeatureExtractor, "_forward", refuse)
    with pytest.raises(DeviceError, match="memory does not suffice"):
        make_extractor(**SMALL).extract(image_of())


def test_cancelling_ends_within_a_pass(make_extractor, looks, monkeypatch):
    monkeypatch.setattr(devices, "batch_size", lambda *args: 1)
    asked = []

    def is_cancelled() -> bool:
        asked.append(1)
        # Before the pass and in both blocks of every window: in the third window.
        return len(asked) > 5

    passes = make_extractor(**SMALL).passes(image_of(), is_cancelled=is_cancelled)
    with pytest.raises(Cancelled):
        next(passes)
    assert len(looks) == 3


def test_tokens_of_tiles_come_back_from_the_store(make_extractor, monkeypatch, looks, tmp_path):
    store = TokenStore(tmp_path / "tokens", 10**8)
    extractor = make_extractor(window=56, passes=3, precision="auto", filters=True)
    first = tokens_of_tiles(extractor, image_of(LARGE), monkeypatch, store=store)
    count = sum(looks)
    assert count == 3 * 12
    again = tokens_of_tiles(extractor, image_of(LARGE), monkeypatch, store=store)
    assert sum(looks) == count
    for (_, one), (_, other) in zip(first, again, strict=True):
        assert torch.equal(one.data, other.data)
        assert one.lattices == other.lattices
        assert np.array_equal(dense_map(one), dense_map(other))
    # Neither those of the whole, nor of windows of another size, nor of another image's levels.
    extractor.extract(image_of(LARGE), store=store)
    assert sum(looks) == 2 * count
    more = make_extractor(window=54, passes=3, precision="auto")
    more.extract(image_of(LARGE), store=store)
    assert sum(looks) == 3 * count
    brighter = image_of(LARGE)
    brighter[:, -20:] *= 9
    _, tokens = tokens_of_tiles(extractor, brighter, monkeypatch, store=store)[0]
    assert sum(looks) == 4 * count
    assert not torch.equal(tokens.data, first[0][1].data)
