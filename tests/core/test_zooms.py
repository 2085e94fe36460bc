"""Passes that see the image larger or smaller, brought to the places of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.errors import HRDv2Error
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.normalise import levels_of
from napari_hrdv2.core.tiles import Cut, Piece, cuts, zoomed_cuts
from napari_hrdv2.core.transforms import AxisLattice, Joined, Lattice
from napari_hrdv2.core.upsample import dense_map

Make = Callable[..., FeatureExtractor]

ZOOMS = (1.0, 0.5, 1.7)
WAYS: dict[str, dict[str, Any]] = {
    "at once": {"window": 0},
    "windows": {"window": 56},
    "windows, enlarged": {"window": 90, "scale": 1.3},
    "turned": {"window": 56, "flips": True, "rotations": True},
    "stride": {"window": 56, "stride": 6},
    "periodic": {"boundary": "periodic"},
    "unmoved": {"window": 56, "move_positions": False},
}
SHAPE = (123, 150)


def image_of(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noise that grows, on a ramp: no part looks like another."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(0, 2, shape[1]) ** 2)
    return rng.random(shape) * (ramp + 0.2) + ramp


def parts_of(axis: AxisLattice) -> tuple[Lattice, ...]:
    return axis.parts if isinstance(axis, Joined) else (axis,)


def places(lattice: Lattice) -> np.ndarray:
    return lattice.origin + lattice.stride * np.arange(lattice.size)


def between(
    tokens: np.ndarray, axis: int, lattice: AxisLattice, at: np.ndarray, quarter: float, n: int
) -> np.ndarray:
    """Tokens interpolated along one axis: the mean of what lies on either side."""
    assert isinstance(lattice, Lattice)
    sides = [at - quarter, at + quarter]
    if lattice.start is not None:
        sides = [(one - lattice.start) % n + lattice.start for one in sides]
    return np.apply_along_axis(
        lambda line: np.mean([np.interp(one, places(lattice), line) for one in sides], axis=0),
        axis,
        tokens,
    )


def is_for(cut: Cut, group: tuple[Cut, ...], at: np.ndarray) -> np.ndarray:
    """Which places a window is for: those in its core, and those beyond if it is the outermost."""
    low = -np.inf if cut is group[0] else cut.core.start
    high = np.inf if cut is group[-1] else cut.core.stop
    return np.flatnonzero((at >= low) & (at < high))


def naive(extractor: FeatureExtractor, image: np.ndarray, k: int, make: Make) -> np.ndarray:
    """Tokens (ny, nx, C) of a pass: every window an image of its own, at a scale of its own."""
    settings = extractor.settings
    zoom, levels = settings.pass_zooms()[k], levels_of(image, settings.percentiles)
    rounds = settings.passes // len(settings.zooms)
    plain = make(settings=settings, zooms=(1.0,), passes=rounds).extract(image)
    how = {"zooms": (1.0,), "passes": rounds, "scale": settings.scale * zoom, "window": 0}
    alone = make(settings=settings, **how)
    whole = np.full(plain.data.shape[1:], np.nan)
    # Every zoom looks the same way before the next way's turn.
    turn = k // len(settings.zooms)
    lattices = plain.lattices[turn]
    # Along each axis, for every window: whose core's tokens it gives, and which.
    jobs: list[list[tuple[Cut, np.ndarray, np.ndarray, float]]] = [[], []]
    for n, lattice, found in zip(image.shape, lattices, jobs, strict=True):
        first = 0
        groups = zoomed_cuts(cuts(n, settings), settings, zoom)
        for group, part in zip(groups, parts_of(lattice), strict=True):
            for cut in group:
                mine = is_for(cut, group, places(part))
                at = places(part)[mine] - cut.window.start
                found.append((cut, first + mine, at, part.stride / 4))
            first += part.size
    for (row, rows, y, dy), (column, columns, x, dx) in product(*jobs):
        pixels = image[row.window, column.window]
        tokens = alone.extract(Piece(pixels, None, levels))
        found_y, found_x = tokens.lattices[turn]
        values = between(tokens.data[turn].numpy(), 0, found_y, y, dy, pixels.shape[0])
        whole[np.ix_(rows, columns)] = between(values, 1, found_x, x, dx, pixels.shape[1])
    assert np.isfinite(whole).all()
    return whole


@pytest.mark.parametrize("way", WAYS)
def test_tokens_of_a_zoom_lie_where_the_others_do(make_extractor, way):
    extractor = make_extractor(zooms=ZOOMS, passes=6, **WAYS[way])
    image = image_of()
    found = extractor.extract(image)
    plain = make_extractor(passes=2, **WAYS[way]).extract(image)
    assert found.lattices[::3] == found.lattices[1::3] == found.lattices[2::3] == plain.lattices
    np.testing.assert_array_equal(found.data[::3], plain.data)
    for k in (1, 2, 4, 5):
        expected = naive(extractor, image, k, make_extractor)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.data[k], expected, atol=1e-4 * scale)
        assert np.abs(plain.data[k // 3].numpy() - expected).max() > 0.05 * scale


@pytest.fixture
def brightness(monkeypatch) -> None:
    """A backbone that sees the mean brightness of a patch, and nothing else."""

    def forward(self, images, moves, on_block, meanwhile):
        meanwhile()
        settings = self.settings
        found = F.avg_pool2d(images[:, :1], settings.patch, settings.stride)
        return found.permute(0, 2, 3, 1).expand(-1, -1, -1, self.backbone.dim)

    monkeypatch.setattr(FeatureExtractor, "_forward", forward)


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize("way", ["windows", "turned", "stride", "at once"])
def test_what_lies_somewhere_is_found_there(make_extractor, way):
    """A ramp is a ramp at any zoom, away from the edges, where it is mirrored."""
    ramp = np.add.outer(np.arange(140.0), 2 * np.arange(180.0))
    levels = np.array([[0.0, ramp.max()]])
    extractor = make_extractor(zooms=(0.5, 2.0, 0.75, 1.4), passes=4, **WAYS[way])
    found = dense_map(extractor.extract(Piece(ramp, None, levels)))[..., 0]
    inner = np.s_[45:-45, 45:-45]
    np.testing.assert_allclose(found[inner], (ramp / ramp.max())[inner], atol=2e-3)


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    zooms=st.lists(st.sampled_from([0.25, 0.5, 0.9, 1.0, 1.41, 3.0]), min_size=1, max_size=3),
    window=st.sampled_from([0, 14, 20, 40]),
    stride=st.sampled_from([5, 14]),
    flips=st.booleans(),
)
def test_any_image_has_tokens_at_any_zoom(make_extractor, shape, zooms, window, stride, flips):
    how = {"window": window, "stride": stride, "flips": flips}
    image = image_of(shape)
    found = make_extractor(zooms=tuple(zooms), passes=3, **how).extract(image)
    plain = make_extractor(passes=-(-3 // len(zooms)), **how).extract(image)
    assert found.data.shape[1:] == plain.data.shape[1:]
    assert found.lattices == tuple(plain.lattices[k // len(zooms)] for k in range(3))
    assert torch.isfinite(found.data).all()


def test_passes_are_kept_by_their_zoom(make_extractor, tmp_path):
    store = TokenStore(tmp_path, 10**9)
    image = image_of()

    def extract(*zooms: float) -> torch.Tensor:
        how = {"zooms": zooms, "passes": 2 * len(zooms), "precision": "auto"}
        return make_extractor(**how).extract(image, store=store).data

    plain, zoomed = extract(1.0), extract(1.0, 0.5)
    # Two of four are those that there were.
    assert len(list(tmp_path.iterdir())) == 4
    torch.testing.assert_close(zoomed[::2], plain, rtol=0, atol=0)
    assert (zoomed[1::2] - plain).abs().max() > 0.05
    torch.testing.assert_close(extract(1.0, 0.5), zoomed, rtol=0, atol=0)


@pytest.mark.parametrize("zooms", [(), (0.0,), (1.0, 5.0), (1.0, float("nan"))])
def test_zooms_that_make_no_sense_are_refused(make_extractor, zooms):
    with pytest.raises(HRDv2Error, match="zooms"):
        make_extractor(zooms=zooms)
