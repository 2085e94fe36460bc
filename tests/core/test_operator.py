"""The operator A on its own, without a backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_hrdv2.core.transforms import Lattice
from napari_hrdv2.core.upsample import Operator, interpolation

from . import oracle

lattices = st.builds(
    Lattice,
    origin=st.integers(-60, 60).map(lambda v: v / 2),
    stride=st.integers(1, 16),
    size=st.integers(1, 9),
)
kernels = st.sampled_from(["nearest", "bilinear"])


@given(st.integers(1, 40), lattices, kernels)
def test_interpolation_equals_the_naive_one(n, lattice, kernel):
    patch = 2 * lattice.origin  # of the oracle's lattice, which begins at half a patch
    at = np.arange(n) + 0.5
    expected = oracle.weights_1d(at, lattice.size, patch, lattice.stride, kernel)
    found = interpolation(n, lattice, kernel)
    assert found.shape == (n, lattice.size)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_nearest_takes_the_mean_of_two_equally_near():
    # Centres at 2 and 5: pixel 3's centre, 3.5, lies midway.
    matrix = interpolation(6, Lattice(2, 3, 2), "nearest").toarray()
    assert matrix[:, 0].tolist() == [1, 1, 1, 0.5, 0, 0]


def test_bilinear_is_linear_between_centres():
    matrix = interpolation(6, Lattice(1.5, 2, 2), "bilinear").toarray()
    assert matrix[:, 1].tolist() == [0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("start", [-5, 0, 3, 12, -37])
def test_periodic_pixels_before_the_start_are_read_a_period_later(kernel, start):
    n, lattice = 12, Lattice(start + 3.0, 4, 3, start)
    moved = interpolation(n, lattice, kernel).toarray()
    plain = interpolation(n, Lattice(3.0, 4, 3), kernel).toarray()
    np.testing.assert_allclose(moved, np.roll(plain, start, axis=0))


@given(st.integers(1, 200), st.integers(0, 9), kernels)
def test_a_constant_stays_constant(n, shift, kernel):
    lattice = Lattice(7 - shift, 14, max(0, -(-(n - 14) // 14)) + 1)
    operator = Operator((n, 5), ((lattice, Lattice(7, 14, 1)),) * 2, kernel)
    tokens = np.full((2, lattice.size, 1, 3), 2.5, np.float32)
    np.testing.assert_allclose(operator.maps(tokens), 2.5, rtol=1e-6)


def test_passes_of_one_lattice_share_its_matrix():
    """The cost at full resolution hangs on the lattices, not on the number of passes."""
    y, x = Lattice(7, 14, 3), Lattice(7, 14, 4)
    once, often = (Operator((42, 56), ((y, x),) * k, "bilinear") for k in (1, 64))
    assert [u.nnz for u in once._u] == [u.nnz for u in often._u]


def test_a_row_of_the_matrix_holds_no_more_than_twice_the_stride():
    pairs = tuple((Lattice(7 - k, 14, 4), Lattice(7 - k, 14, 4)) for k in range(-6, 8))
    operator = Operator((50, 50), pairs, "bilinear")
    assert max(np.diff(u.indptr).max() for u in operator._u) <= 28


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
    np.testing.assert_allclose(operator.maps(tokens), expected, atol=1e-5)
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
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        operator.maps(np.zeros((2, 1, 1, 3), np.float32))
