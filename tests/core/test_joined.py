"""Lattices of several windows along an axis: each stretch hangs on its own tokens, exactly."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tokens import Grid, Tokens
from napari_hrdv2.core.transforms import AxisLattice, Joined, Lattice, cropped, join
from napari_hrdv2.core.upsample import Operator, dense_map, projected_maps, rows_at

Passes = list[tuple[AxisLattice, AxisLattice]]
kernels = st.sampled_from(["nearest", "bilinear"])
ONE = Lattice(0.5, 1, 1)


@st.composite
def axes(draw: st.DrawFn, passes: int, most: int = 4) -> tuple[int, list[AxisLattice]]:
    """An axis's length in pixels, and of every pass a lattice of the same stretches of it.

    Where tokens lie has nothing to do with where their stretch does, as far as operators go.
    """
    lengths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=most))
    ends = list(accumulate(lengths))
    parts: list[list[Lattice]] = [[] for _ in range(passes)]
    for end in ends:
        size, stride = draw(st.integers(1, 6)), draw(st.integers(1, 9))
        for mine in parts:
            origin = end - draw(st.integers(-20, 80)) / 2
            mine.append(Lattice(origin, stride, size))
    return ends[-1], [join(one, ends) for one in parts]


@st.composite
def planes(draw: st.DrawFn) -> tuple[tuple[int, int], Passes]:
    passes = draw(st.integers(1, 4))
    (h, y), (w, x) = (draw(axes(passes, 3)) for _ in range(2))
    return (h, w), list(zip(y, x, strict=True))


def tokens_of(lattices: Passes, channels: int = 3) -> torch.Tensor:
    y, x = lattices[0]
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(len(lattices), y.size, x.size, channels))).float()


def naive(shape: tuple[int, int], lattices: Passes, data: torch.Tensor, kernel: str) -> np.ndarray:
    """Maps (h, w, C): stretch by stretch those of an operator of its own pixels and tokens."""
    found = np.full((*shape, data.shape[-1]), np.nan, np.float32)

    def own(one: AxisLattice, n: int) -> list[tuple[int, int, Lattice, slice]]:
        if isinstance(one, Lattice):
            return [(0, n, one, slice(None))]
        stretches, first = [], 0
        for (start, stop), part in zip(pairwise((0, *one.ends)), one.parts, strict=True):
            # In pixels from the stretch's beginning.
            mine = Lattice(part.origin - start, part.stride, part.size)
            stretches.append((start, stop, mine, slice(first, first + part.size)))
            first += part.size
        return stretches

    along = [[own(one, n) for one, n in zip(pair, shape, strict=True)] for pair in lattices]
    for j in range(len(along[0][0])):
        for i in range(len(along[0][1])):
            here = [(y[j], x[i]) for y, x in along]
            (top, bottom, _, rows), (left, right, _, columns) = here[0]
            pairs = tuple((y[2], x[2]) for y, x in here)
            operator = Operator((bottom - top, right - left), pairs, kernel)
            maps = operator.maps(data[:, rows, columns]).permute(0, 2, 1)
            found[top:bottom, left:right] = maps.numpy()
    return found


@given(planes(), kernels)
def test_every_stretch_hangs_on_its_own_tokens(plane, kernel):
    shape, lattices = plane
    data = tokens_of(lattices)
    found = Operator(shape, tuple(lattices), kernel).maps(data).permute(0, 2, 1).numpy()
    np.testing.assert_allclose(found, naive(shape, lattices, data, kernel), atol=1e-5)


@given(planes(), kernels)
def test_rows_are_those_of_the_stretches(plane, kernel):
    shape, lattices = plane
    data = tokens_of(lattices)
    pixels = np.argwhere(np.ones(shape, bool))[::-3]
    found = Operator(shape, tuple(lattices), kernel).rows(data, pixels)
    expected = naive(shape, lattices, data, kernel)[pixels[:, 0], pixels[:, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(planes(), kernels, st.integers(1, 30))
def test_blocks_of_rows_are_the_maps(plane, kernel, rows):
    shape, lattices = plane
    data = tokens_of(lattices)
    operator = Operator(shape, tuple(lattices), kernel)
    blocks = list(operator.blocks(data, rows))
    assert all(len(one) == rows for one in blocks[:-1])
    torch.testing.assert_close(torch.cat(blocks), operator.maps(data))


@given(axes(3), kernels)
def test_the_factors_are_the_matrix_of_the_pixels(axis, kernel):
    n, lattices = axis
    y = Operator((n, 1), tuple((one, ONE) for one in lattices), kernel)._y
    columns = len(y.distinct) * y.distinct[0].size
    expected = y.pixels @ torch.eye(columns)
    line, union = y.factors
    found = line @ (torch.eye(columns) if union is None else union @ torch.eye(columns))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(expected.sum(1), len(y.distinct), atol=1e-5)
    if kernel == "bilinear" and len(y.distinct) > 1:
        assert line.index.shape == (n, 2)


def test_one_stretch_is_no_join():
    lattice = Lattice(7, 14, 3)
    assert join([lattice], [42]) is lattice
    two = join([lattice, lattice], [42, 80])
    assert isinstance(two, Joined)
    assert two.size == 6
    assert [(one.pixels, one.first) for one in two.stretches(80)] == [
        (slice(0, 42), 0),
        (slice(42, 80), 3),
    ]
    assert [(one.pixels, one.first) for one in lattice.stretches(42)] == [(slice(0, 42), 0)]


def test_a_border_between_windows_is_sharp():
    """Bilinear within a window, but from one to the next nothing is mixed."""
    both = join([Lattice(2, 4, 2), Lattice(10, 4, 2)], [8, 16])
    operator = Operator((16, 1), ((both, ONE),), "bilinear")
    data = torch.tensor([0.0, 0.0, 1.0, 3.0]).view(1, 4, 1, 1)
    found = operator.maps(data).flatten().tolist()
    expected = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3]
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- crops


@given(axes(3), st.data())
@example((12, [join([Lattice(2, 4, 2), Lattice(8, 4, 2)], [6, 12])] * 3), None)
def test_cropped_lattices_are_those_that_the_part_hangs_on(axis, data):
    n, lattices = axis
    start = data.draw(st.integers(0, n - 1)) if data else 5
    part = slice(start, data.draw(st.integers(start + 1, n)) if data else 7)
    taken, inner = cropped(lattices, n, part)
    assert len({tuple(one.stop - one.start for one in mine) for mine in taken}) == 1
    touched = [
        one
        for one in lattices[0].stretches(n)
        if one.pixels.stop > start and one.pixels.start < part.stop
    ]
    assert len(taken[0]) == len(touched)
    for one, mine, along in zip(lattices, taken, inner, strict=True):
        assert along.size == sum(s.stop - s.start for s in mine)
        assert isinstance(along, Joined) == (len(mine) > 1)
        if isinstance(along, Joined):
            assert along.ends[-1] == part.stop - part.start
        # The centres of the tokens taken, counted from the part's beginning.
        centres = np.concatenate(
            [
                s.lattice.origin + s.lattice.stride * np.arange(s.lattice.size)
                for s in one.stretches(n)
            ]
        )
        expected = np.concatenate([centres[s] for s in mine]) - start
        found = np.concatenate(
            [
                s.lattice.origin + s.lattice.stride * np.arange(s.lattice.size)
                for s in along.stretches(part.stop - part.start)
            ]
        )
        np.testing.assert_allclose(found, expected)


@given(planes(), kernels, st.data())
def test_a_crop_over_windows_is_the_crop_of_the_map(plane, kernel, data):
    shape, lattices = plane
    settings = Settings(passes=len(lattices), stride=14, patch=14, weights_sha256="", kernel=kernel)
    tokens = Tokens(tokens_of(lattices, 4), tuple(lattices), shape, settings)
    region = []
    for n in shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    y, x = region
    crop = tokens.crop((y, x))
    expected = dense_map(tokens)[y, x]
    assert crop.image_shape == expected.shape[:2]
    assert crop.data.shape[1] <= tokens.data.shape[1]
    np.testing.assert_allclose(dense_map(crop), expected, atol=1e-5)
    weight = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(projected_maps(crop, weight), expected @ weight.T, atol=1e-4)
    pixels = np.argwhere(np.ones(crop.image_shape, bool))
    np.testing.assert_allclose(rows_at(crop, pixels), expected.reshape(-1, 4), atol=1e-5)
    # A crop of the crop is one of the whole.
    ny, nx = crop.image_shape
    inner = crop.crop((slice(ny // 3, ny), slice(0, max(1, nx // 2))))
    np.testing.assert_allclose(dense_map(inner), expected[ny // 3 :, : max(1, nx // 2)], atol=1e-5)


def test_the_rest_of_a_crop_is_not_kept():
    both = join([Lattice(2, 4, 8), Lattice(34, 4, 8), Lattice(66, 4, 8)], [32, 64, 96])
    grid = Grid(torch.rand(2, 24, 1, 5), ((both, ONE), (both, ONE)), (96, 1))
    assert grid.crop((slice(0, 32), slice(0, 1))).data.shape[1] == 8
    assert grid.crop((slice(30, 34), slice(0, 1))).data.shape[1] == 2
    assert grid.crop((slice(40, 41), slice(0, 1))).data.shape[1] == 2


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_moved_and_scaled_lattices_keep_their_start(boundary):
    lattice = Lattice(3, 4, 5, 6 if boundary == "periodic" else None)
    moved, scaled = lattice.moved(2), lattice.scaled(0.5)
    assert (moved.origin, moved.stride, moved.size) == (1, 4, 5)
    assert (scaled.origin, scaled.stride, scaled.size) == (1.5, 2, 5)
    assert (moved.start, scaled.start) == ((4, 3) if boundary == "periodic" else (None, None))
