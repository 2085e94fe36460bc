"""The operator A on its own, without a backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Lattice
from napari_hrdv2.core.upsample import Operator, interpolation, predicted, projected_maps

from . import oracle

lattices = st.builds(
    Lattice,
    origin=st.integers(-60, 60).map(lambda v: v / 2),
    stride=st.integers(1, 16),
    size=st.integers(1, 9),
)
kernels = st.sampled_from(["nearest", "bilinear"])


def matrix(n: int, lattice: Lattice, kernel: str) -> np.ndarray:
    """The interpolation at the pixels' centres, dense."""
    rows = interpolation(np.arange(n) + 0.5, n, lattice, kernel)
    return (rows @ torch.eye(lattice.size)).numpy()


def maps_of(operator: Operator, tokens: np.ndarray) -> np.ndarray:
    return operator.maps(torch.from_numpy(tokens)).permute(0, 2, 1).numpy()


@given(st.integers(1, 40), lattices, kernels)
def test_interpolation_equals_the_naive_one(n, lattice, kernel):
    patch = 2 * lattice.origin  # of the oracle's lattice, which begins at half a patch
    at = np.arange(n) + 0.5
    expected = oracle.weights_1d(at, lattice.size, patch, lattice.stride, kernel)
    found = matrix(n, lattice, kernel)
    assert found.shape == (n, lattice.size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_nearest_takes_the_mean_of_two_equally_near():
    # Centres at 2 and 5: pixel 3's centre, 3.5, lies midway.
    found = matrix(6, Lattice(2, 3, 2), "nearest")
    assert found[:, 0].tolist() == [1, 1, 1, 0.5, 0, 0]


def test_bilinear_is_linear_between_centres():
    found = matrix(6, Lattice(1.5, 2, 2), "bilinear")
    assert found[:, 1].tolist() == [0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("start", [-5, 0, 3, 12, -37])
def test_periodic_pixels_before_the_start_are_read_a_period_later(kernel, start):
    n, lattice = 12, Lattice(start + 3.0, 4, 3, start)
    moved = matrix(n, lattice, kernel)
    plain = matrix(n, Lattice(3.0, 4, 3), kernel)
    np.testing.assert_allclose(moved, np.roll(plain, start, axis=0))


@given(st.integers(1, 200), st.integers(0, 9), kernels)
def test_a_constant_stays_constant(n, shift, kernel):
    lattice = Lattice(7 - shift, 14, max(0, -(-(n - 14) // 14)) + 1)
    operator = Operator((n, 5), ((lattice, Lattice(7, 14, 1)),) * 2, kernel)
    tokens = np.full((2, lattice.size, 1, 3), 2.5, np.float32)
    np.testing.assert_allclose(maps_of(operator, tokens), 2.5, rtol=1e-6)


def test_a_pixel_has_two_entries_however_many_the_passes():
    for step in (14, 7, 2, 1):
        pairs = tuple((Lattice(7 - k, 14, 4), Lattice(7, 14, 4)) for k in range(0, 14, step))
        operator = Operator((50, 50), pairs, "bilinear")
        line, union = operator._y.factors
        assert line.index.shape == (50, 2)
        if step == 14:
            assert union is None
        else:
            assert union.index.shape == (4 * 14 // step, 2 * 14 // step)


@given(st.lists(lattices, min_size=1, max_size=6), st.integers(1, 60), st.integers(1, 9), kernels)
def test_the_factors_are_the_sum_of_the_lattices(some, n, size, kernel):
    along = [Lattice(one.origin, some[0].stride, size) for one in some]
    operator = Operator((n, 1), tuple((one, Lattice(0.5, 1, 1)) for one in along), kernel)
    line, union = operator._y.factors
    distinct = list(dict.fromkeys(along))
    expected = np.concatenate([matrix(n, one, kernel) for one in distinct], 1)
    same = torch.eye(expected.shape[1])
    found = line @ (same if union is None else union @ same)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(
    st.integers(1, 90),
    st.integers(1, 70),
    st.sampled_from([1, 2, 5, 9]),
    st.sampled_from([3, 7, 14]),
    kernels,
    st.data(),
)
def test_a_crop_predicts_its_region(h, w, passes, stride, kernel, data):
    settings = Settings(
        passes=passes, stride=stride, patch=14, weights_sha256="", kernel=kernel, flips=True
    )
    transforms = settings.transforms()
    lattices_of = tuple(t.lattice((h, w), 14, stride, "reflect") for t in transforms)
    grid = [one.size for one in lattices_of[0]]
    rng = np.random.default_rng(0)
    tokens = Tokens(
        torch.from_numpy(rng.normal(size=(passes, *grid, 6))).float(), lattices_of, (h, w), settings
    )
    region = []
    for n in (h, w):
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    weight, bias = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    whole = projected_maps(tokens, weight, bias)
    crop = tokens.crop((region[0], region[1]))
    found = projected_maps(crop, weight, bias)
    np.testing.assert_allclose(found, whole[region[0], region[1]], atol=1e-4)
    labels = predicted(tokens, weight, bias)
    assert labels.shape == (h, w)
    picked = np.take_along_axis(whole, labels[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(picked, whole.max(-1), atol=1e-4)


def test_the_first_of_equal_maps_is_taken():
    one = Lattice(7, 14, 2)
    tokens = Tokens(torch.ones(1, 2, 2, 3), ((one, one),), (28, 28), Settings())
    weight = np.ones((300, 3), np.float32)
    assert not predicted(tokens, weight, np.zeros(300, np.float32)).any()
    weight[299] = 2
    assert (predicted(tokens, weight, np.zeros(300, np.float32)) == 299).all()


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_maps_and_rows_are_the_mean_over_passes(rng, kernel):
    h, w = 23, 31
    pairs = (
        (Lattice(7, 7, 3), Lattice(7, 7, 4)),
        (Lattice(4, 7, 3), Lattice(7, 7, 4)),
        (Lattice(7, 7, 3), Lattice(9.5, 7, 4)),
    )
    tokens = rng.normal(size=(3, 3, 4, 6)).astype(np.float32)
    expected = np.zeros((h, w, 6))
    for (along_y, along_x), one in zip(pairs, tokens, strict=True):
        u_y = oracle.weights_1d(np.arange(h) + 0.5, 3, 2 * along_y.origin, 7, kernel)
        u_x = oracle.weights_1d(np.arange(w) + 0.5, 4, 2 * along_x.origin, 7, kernel)
        expected += np.einsum("hi,wj,ijc->hwc", u_y, u_x, one) / 3
    operator = Operator((h, w), pairs, kernel)
    np.testing.assert_allclose(maps_of(operator, tokens), expected, atol=1e-5)
    pixels = np.argwhere(np.ones((h, w), bool))[::5]
    np.testing.assert_allclose(
        operator.rows(torch.from_numpy(tokens), pixels),
        expected[pixels[:, 0], pixels[:, 1]],
        atol=1e-5,
    )


def test_rows_of_half_precision_tokens_are_single_precision(rng):
    tokens = torch.from_numpy(rng.normal(size=(1, 3, 4, 6))).half()
    operator = Operator((42, 56), ((Lattice(7, 14, 3), Lattice(7, 14, 4)),), "bilinear")
    rows = operator.rows(tokens, np.array([[0, 0], [41, 55]]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, tokens[0, [0, 2], [0, 3]].float(), rtol=1e-6)


def test_maps_refuse_tokens_of_another_number_of_passes():
    operator = Operator((14, 14), ((Lattice(7, 14, 1), Lattice(7, 14, 1)),), "bilinear")
    with pytest.raises(ValueError, match="tokens of 2 passes"):
        operator.maps(torch.zeros(2, 1, 1, 3))
