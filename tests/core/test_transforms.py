"""Transforms: a group, exact on arrays, with the right lattices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_hrdv2.core.transforms import (
    Lattice,
    Transform,
    fold,
    lattice_shifts,
    neighbour_shifts,
    pass_transforms,
    read_all,
    spread,
    token_count,
)
from napari_hrdv2.core.upsample import Operator

from . import oracle

# Each with the steps that the naive oracle does for it.
ORIENTATIONS = {
    "as it is": (Transform(), []),
    "turned 90": (Transform.rotated(1), [("turn", 1)]),
    "turned 180": (Transform.rotated(2), [("turn", 2)]),
    "turned 270": (Transform.rotated(3), [("turn", 3)]),
    "flipped vertically": (Transform.flipped(vertical=True), [("flip", 0)]),
    "flipped horizontally": (Transform.flipped(horizontal=True), [("flip", 1)]),
    "flipped both ways": (
        Transform.flipped(vertical=True, horizontal=True),
        [("flip", 0), ("flip", 1)],
    ),
    "turned, then flipped": (
        Transform.flipped(horizontal=True) @ Transform.rotated(1),
        [("turn", 1), ("flip", 1)],
    ),
    "flipped, then turned": (
        Transform.rotated(1) @ Transform.flipped(horizontal=True),
        [("flip", 1), ("turn", 1)],
    ),
}
orientations = pytest.mark.parametrize(
    ("transform", "steps"), ORIENTATIONS.values(), ids=ORIENTATIONS.keys()
)

small = st.integers(-9, 9)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
elementary = st.one_of(
    st.tuples(st.just("shift"), small, small),
    st.tuples(st.just("flip"), st.integers(0, 1)),
    st.tuples(st.just("turn"), st.integers(0, 3)),
)
step_lists = st.lists(elementary, max_size=5)


def transform_of(steps: list[oracle.Step]) -> Transform:
    """The product of some steps, the first one applied first."""
    out = Transform()
    for name, *by in steps:
        if name == "shift":
            one = Transform.shifted(*by)
        elif name == "flip":
            one = Transform.flipped(vertical=by[0] == 0, horizontal=by[0] == 1)
        else:
            one = Transform.rotated(by[0])
        out = one @ out
    return out


transforms = step_lists.map(transform_of)


def picture(shape: tuple[int, int]) -> np.ndarray:
    """An image whose pixels all differ."""
    return np.arange(shape[0] * shape[1]).reshape(shape)


def read(transform: Transform, image: np.ndarray, boundary: str, window=None) -> np.ndarray:
    return transform.read(torch.from_numpy(image.copy()), boundary, window).numpy()


# --- the group


@given(transforms, transforms, transforms)
def test_composition_is_associative(a, b, c):
    assert (c @ b) @ a == c @ (b @ a)


@given(transforms)
def test_inverse_undoes_from_both_sides(a):
    assert a @ a.inverse == Transform()
    assert a.inverse @ a == Transform()


@given(transforms, transforms)
def test_inverse_of_a_product_undoes_the_last_first(a, b):
    assert (b @ a).inverse == a.inverse @ b.inverse


def test_shift_and_flip_do_not_commute():
    shift, flip = Transform.shifted(0, 3), Transform.flipped(horizontal=True)
    assert flip @ shift != shift @ flip
    assert (flip @ shift).inverse != flip.inverse @ shift.inverse


def test_identity_is_neutral():
    a = Transform.shifted(2, -5) @ Transform.rotated(3)
    assert Transform() @ a == a == a @ Transform()


@given(st.integers(-8, 8))
def test_rotation_counts_quarters_modulo_four(k):
    assert Transform.rotated(k) == Transform.rotated(k % 4)


# --- on arrays


@given(step_lists, shapes)
def test_periodic_read_equals_numpy(steps, shape):
    image = picture(shape)
    np.testing.assert_array_equal(
        read(transform_of(steps), image, "periodic"), oracle.do(image, steps)
    )


@given(step_lists, shapes)
def test_periodic_round_trip_is_the_identity(steps, shape):
    image, a = picture(shape), transform_of(steps)
    np.testing.assert_array_equal(read(a.inverse, read(a, image, "periodic"), "periodic"), image)


@given(step_lists, st.tuples(st.integers(2, 8), st.integers(2, 8)))
def test_reflect_read_equals_numpy_on_a_padded_canvas(steps, shape):
    image, far = picture(shape), 50
    canvas = oracle.do(oracle.pad(image, (0, 0), "reflect", before=far), steps)
    expected = canvas[far:-far, far:-far]
    np.testing.assert_array_equal(read(transform_of(steps), image, "reflect"), expected)


@given(step_lists, st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_reflect_round_trip_is_the_identity_in_the_interior(steps, shape):
    image, a = picture(shape), transform_of(steps)
    back = read(a.inverse, read(a, image, "reflect"), "reflect")
    assert back.shape == shape
    # The product moves the content no farther than its shift along either axis.
    far = max(abs(v) for v in a.shift)
    inner = np.s_[far : shape[0] - far, far : shape[1] - far]
    np.testing.assert_array_equal(back[inner], image[inner])


@given(step_lists, shapes, st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_window_beyond_the_image_goes_on_by_the_boundary(steps, shape, window):
    image, a = picture(shape), transform_of(steps)
    np.testing.assert_array_equal(
        read(a, image, "periodic", window),
        np.pad(oracle.do(image, steps), [(0, n) for n in window], mode="wrap")[
            : window[0], : window[1]
        ],
    )
    assert read(a, image, "reflect", window).shape == window


def test_read_keeps_channels_and_dtype():
    image = torch.arange(3 * 4 * 5, dtype=torch.float16).reshape(3, 4, 5)
    turned = Transform.rotated(1).read(image, "reflect")
    assert turned.shape == (3, 5, 4)
    assert turned.dtype == torch.float16
    np.testing.assert_array_equal(turned[2], np.rot90(image[2]))


@orientations
def test_out_shape(transform, steps):
    assert transform.out_shape((3, 7)) == oracle.do(np.zeros((3, 7)), steps).shape


@orientations
def test_undone_tokens_have_the_axes_of_the_original(transform, steps):
    tokens = np.arange(3 * 4 * 2).reshape(3, 4, 2)
    seen = oracle.do(tokens, steps).copy()
    np.testing.assert_array_equal(transform.undo_tokens(torch.from_numpy(seen)), tokens)


@given(st.integers(-200, 200), st.integers(1, 9), st.sampled_from(["reflect", "periodic"]))
def test_fold_walks_like_a_ball_between_the_edges(index, n, boundary):
    position, step = 0, 1
    for _ in range(abs(index)):
        if boundary == "periodic":
            position = (position + (1 if index > 0 else -1)) % n
        elif n > 1:
            # From pixel 0, walking left looks the same as walking right.
            if not 0 <= position + step < n:
                step = -step
            position += step
    assert fold(np.array([index]), n, boundary).tolist() == [position]


@given(st.lists(step_lists, min_size=1, max_size=5), shapes, shapes)
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_transforms_read_together_as_alone(boundary, chains, shape, size):
    image = torch.from_numpy(picture(shape))
    several = [transform_of(steps) for steps in chains]
    for one, found in zip(several, read_all(several, image, boundary, size), strict=True):
        expected = one.read(image, boundary, one.out_shape(size))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("boundary", "far"), [("reflect", 18), ("periodic", 10)])
def test_far_shifts_take_no_more_memory_than_an_image_and_a_period(boundary, far):
    image = torch.from_numpy(picture((10, 10)))
    several = [Transform.shifted(0, 10**6 * sign + k) for sign in (-1, 1) for k in range(20)]
    found = read_all(several, image, boundary, (10, 10))
    assert {one.untyped_storage().nbytes() for one in found} == {10 * (10 + far - 1) * 8}


# --- which shifts


def hole(shifts: list[tuple[int, int]], side: int, fine: int = 1) -> float:
    """Distance of the point of the periodic square that lies farthest from all shifts."""
    grid = np.stack(np.meshgrid(*[np.arange(0, side, 1 / fine)] * 2, indexing="ij"), -1)
    gaps = np.abs(grid[:, :, None] - np.array(shifts)) % side
    gaps = np.minimum(gaps, side - gaps)
    return float(np.sqrt((gaps**2).sum(-1)).min(-1).max())


@pytest.mark.parametrize("stride", [*range(1, 17)])
def test_lattice_shifts_fill_the_stride_each_once(stride):
    shifts = lattice_shifts(stride, stride**2)
    assert {(y % stride, x % stride) for y, x in shifts} == {
        (y, x) for y in range(stride) for x in range(stride)
    }
    assert len(shifts) == stride**2
    assert all(-stride / 2 < v <= stride / 2 for shift in shifts for v in shift)


def test_lattice_shifts_start_coarse():
    assert [(y % 14, x % 14) for y, x in lattice_shifts(14, 4)[:2]] == [(0, 0), (7, 7)]
    assert {(y % 14, x % 14) for y, x in lattice_shifts(14, 4)[2:]} == {(0, 7), (7, 0)}


@pytest.mark.parametrize("stride", [8, 16])
def test_every_lattice_shift_lands_in_a_largest_hole(stride):
    shifts = lattice_shifts(stride, stride**2)
    for k in range(1, stride**2):
        gaps = np.abs(np.array(shifts[:k]) - shifts[k]) % stride
        gaps = np.minimum(gaps, stride - gaps)
        distance = np.sqrt((gaps**2).sum(-1)).min()
        assert distance == pytest.approx(hole(shifts[:k], stride))


@pytest.mark.parametrize("stride", [8, 16])
def test_doubling_the_lattice_shifts_shrinks_the_holes_by_root_two(stride):
    shifts = lattice_shifts(stride, stride**2)
    for k in range(2 * stride.bit_length() - 2):
        expected = stride / 2**0.5 / 2 ** (k / 2)
        assert hole(shifts[: 2**k], stride, fine=2) == pytest.approx(expected)


@pytest.mark.parametrize("stride", [7, 14])
def test_holes_shrink_as_fast_where_the_stride_cannot_be_halved(stride):
    shifts = lattice_shifts(stride, stride**2)
    for k in range(5):
        # Each shift is rounded by half a pixel at most along both axes.
        even = stride / 2**0.5 / 2 ** (k / 2)
        assert hole(shifts[: 2**k], stride, fine=2) <= even + 0.75


@given(st.integers(1, 16), st.integers(1, 300))
def test_fewer_lattice_shifts_are_the_first_of_more(stride, count):
    assert lattice_shifts(stride, count) == lattice_shifts(stride, 300)[:count]


@given(st.integers(0, 5), st.integers(0, 5))
def test_powers_of_four_points_are_one_for_every_square_of_a_grid(fine, few):
    """And with them their mean is the mean of the squares' corners: they favour no side."""
    side = 2**fine
    points = spread(4**fine)
    assert sorted(points) == [(y / side, x / side) for y in range(side) for x in range(side)]
    assert spread(min(few, 4**fine)) == points[:few]


@given(st.integers(1, 300))
def test_no_half_or_quarter_of_the_square_is_favoured_by_more_than_two_points(count):
    points = np.array(spread(count))
    for parts in (2, 4):
        for axis in (0, 1):
            held = np.bincount((points[:, axis] * parts).astype(int), minlength=parts)
            assert held.max() - held.min() <= 2
    assert points[0].tolist() == [0, 0]


def test_neighbour_shifts():
    assert sorted(neighbour_shifts("von_neumann", (3,))) == sorted(
        [(0, 0), (0, 3), (0, -3), (3, 0), (-3, 0)]
    )
    moore = neighbour_shifts("moore", (2, 5))
    assert moore[0] == (0, 0)
    assert set(moore) == {(y * d, x * d) for d in (2, 5) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert len(moore) == 17


# --- which passes


@pytest.mark.parametrize("shifts", ["lattice", "von_neumann", "moore"])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("distances", [(3,), (1, 2), (2, 2)])
def test_passes_all_differ_up_to_the_last(shifts, flips, rotations, distances):
    def make(passes):
        return pass_transforms(
            passes=passes,
            stride=4,
            shifts=shifts,
            distances=distances,
            flips=flips,
            rotations=rotations,
        )

    n = {"lattice": 16, "von_neumann": 5, "moore": 9}[shifts]
    if shifts != "lattice":
        n = 1 + (n - 1) * len(set(distances))
    m = {(0, 0): 1, (1, 0): 4, (0, 1): 4, (1, 1): 8}[flips, rotations]
    whole = make(n * m)
    assert whole[0] == Transform()
    assert len(set(whole)) == n * m
    with pytest.raises(ValueError, match=f"only {n * m} different"):
        make(n * m + 1)
    for passes in range(1, n * m):
        assert len(set(make(passes))) == passes


def test_few_passes_hold_some_of_each_orientation():
    some = pass_transforms(
        passes=8, stride=14, shifts="lattice", distances=(3,), flips=True, rotations=True
    )
    assert len({t.matrix for t in some}) == 8
    assert len({t.shift for t in some}) == 8


# --- where the tokens lie


@pytest.mark.parametrize(("n", "stride"), [(1, 14), (14, 14), (15, 14), (28, 14), (29, 4), (50, 7)])
def test_token_count_covers_the_axis_and_no_more(n, stride):
    count = token_count(n, 14, stride)
    assert 14 + (count - 1) * stride >= n
    assert count == 1 or 14 + (count - 2) * stride < n


def patch_mean_tokens(seen: np.ndarray, patch: int, stride: int) -> np.ndarray:
    """A backbone whose token is the sum of its patch: it knows where it looks."""
    ny, nx = ((n - patch) // stride + 1 for n in seen.shape)
    return np.array(
        [
            [seen[i * stride :, j * stride :][:patch, :patch].sum() for j in range(nx)]
            for i in range(ny)
        ]
    )[..., None]


@orientations
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("stride", [14, 7, 4])
@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-7, 7)])
def test_lattice_tells_which_patch_every_token_saw(transform, steps, boundary, stride, shift):
    patch, shape = 14, (44, 61)
    a = Transform.shifted(*shift) @ transform
    image = np.random.default_rng(0).integers(0, 1000, shape)
    grid = [token_count(n, patch, stride) for n in a.out_shape(shape)]
    window = tuple(patch + (n - 1) * stride for n in grid)
    tokens = patch_mean_tokens(read(a, image, boundary, window), patch, stride)
    tokens = a.undo_tokens(torch.from_numpy(tokens.copy())).numpy()
    along_y, along_x = a.lattice(shape, patch, stride, boundary)
    assert tokens.shape[:2] == (along_y.size, along_x.size)
    far = 60
    wide = oracle.pad(image, (0, 0), boundary, before=far)
    for i in range(along_y.size):
        for j in range(along_x.size):
            y = along_y.origin + i * along_y.stride - patch / 2
            x = along_x.origin + j * along_x.stride - patch / 2
            assert y == int(y)
            assert x == int(x)
            expected = wide[int(y) + far :, int(x) + far :][:patch, :patch].sum()
            # A mirrored or turned patch has the same sum.
            assert tokens[i, j, 0] == expected


@orientations
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("stride", [14, 7, 4])
def test_blob_at_a_token_centre_lands_on_its_pixels(transform, steps, boundary, kernel, stride):
    """A square as large as one patch excites that token most, whose centre it then marks."""
    patch, shape = 14, (56, 70)
    a = Transform.shifted(3, -2) @ transform
    along = a.lattice(shape, patch, stride, boundary)
    # Near the middle, where no mirror image of it comes into sight.
    i, j = (round((n / 2 - k.origin) / stride) for n, k in zip(shape, along, strict=True))
    centre = [axis.origin + k * axis.stride for axis, k in zip(along, (i, j), strict=True)]
    image = np.zeros(shape)
    corner = [int(c - patch / 2) for c in centre]
    image[corner[0] : corner[0] + patch, corner[1] : corner[1] + patch] = 1
    grid = [token_count(n, patch, stride) for n in a.out_shape(shape)]
    window = tuple(patch + (n - 1) * stride for n in grid)
    tokens = patch_mean_tokens(read(a, image, boundary, window), patch, stride)
    tokens = a.undo_tokens(torch.from_numpy(tokens.copy())).numpy()
    assert np.unravel_index(tokens.argmax(), tokens.shape)[:2] == (i, j)
    map_ = Operator(shape, (along,), kernel).maps(torch.from_numpy(tokens[None]))[:, 0].numpy()
    peak = np.argwhere(map_ == map_.max()) + 0.5
    np.testing.assert_allclose(peak.mean(0), centre)
    assert np.abs(peak - centre).max() <= stride / 2


def test_lattice_of_a_shift_to_the_right_lies_to_the_left():
    # The content moved right by 3: what token 0 sees began at pixel -3.
    assert Transform.shifted(0, 3).lattice((28, 28), 14, 14, "reflect") == (
        Lattice(7, 14, 2),
        Lattice(4, 14, 2),
    )


def test_lattice_of_a_flip_counts_from_the_far_edge():
    # 30 pixels take three patches, 42 pixels; flipped, 12 of them lie before pixel 0.
    _, along_x = Transform.flipped(horizontal=True).lattice((14, 30), 14, 14, "reflect")
    assert (along_x.origin, along_x.size) == (-5, 3)
