"""Filters: against SciPy and scikit-image, where they lie, and colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.feature import hessian_matrix, hessian_matrix_eigvals

from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.extraction import DeviceError
from napari_hrdv2.core.filters import SCALES, Scale, _convolved, _responses, _summed, filter_grids
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.upsample import dense_map, predicted, projected_maps, rows_at

NAMES = ("smooth", "dog", "gradient", "ridge", "valley", "laplacian", "strong", "weak", "deviation")


def image_of(shape: tuple[int, int] = (50, 61), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = ndi.gaussian_filter(rng.random(shape), 1.5)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def channels_of(image: np.ndarray, scale: Scale) -> dict[str, np.ndarray]:
    """The channels of one scale by name, where they lie."""
    grids = filter_grids(torch.from_numpy(image)[None])
    strides = list(dict.fromkeys(one.stride for one in SCALES))
    data = grids[strides.index(scale.stride)].data[0].float().numpy()
    before = [one for one in SCALES if one.stride == scale.stride].index(scale)
    first = (scale.stride == 1) + before * len(NAMES)
    return {name: data[..., first + k] for k, name in enumerate(NAMES)}


@pytest.mark.parametrize("scale", SCALES)
def test_channels_are_what_scipy_and_skimage_compute(scale: Scale) -> None:
    image = image_of((60, 64))
    small = image.reshape(60 // scale.stride, scale.stride, 64 // scale.stride, -1).mean((1, 3))
    found, sigma = channels_of(image, scale), scale.sigma

    def blurred(one: np.ndarray, width: float = sigma) -> np.ndarray:
        return ndi.gaussian_filter(one, width, mode="nearest", truncate=6)

    mean = blurred(small)
    gy, gx = (sigma * np.gradient(mean, axis=axis) for axis in (0, 1))
    hessian = hessian_matrix(small, sigma, mode="nearest", use_gaussian_derivatives=True)
    ridge, valley = sigma**2 * hessian_matrix_eigvals(hessian)
    tensor = [blurred(one, 2 * sigma) for one in (gy * gy, gy * gx, gx * gx)]
    matrices = np.stack([tensor[0], tensor[1], tensor[1], tensor[2]], -1).reshape(*mean.shape, 2, 2)
    weak, strong = np.moveaxis(np.sqrt(np.maximum(np.linalg.eigvalsh(matrices), 0)), -1, 0)
    expected = {
        "smooth": mean,
        "dog": mean - blurred(small, 2 * sigma),
        "gradient": np.hypot(gy, gx),
        "ridge": ridge,
        "valley": valley,
        "laplacian": ridge + valley,
        "strong": strong,
        "weak": weak,
        "deviation": np.sqrt(np.maximum(blurred(small**2) - mean**2, 0)),
    }
    # Differences of neighbours are derivatives but for a few percent; edges are their own.
    inner = (slice(8, -8), slice(8, -8))
    for name, one in expected.items():
        spread = np.ptp(one[inner])
        error = np.abs(found[name] - one)[inner].max() / spread
        exact = name in ("smooth", "dog", "deviation")
        assert error < (0.02 if exact else 0.25), (name, error)
        assert np.corrcoef(found[name][inner].ravel(), one[inner].ravel())[0, 1] > 0.98, name


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_any_image_is_filtered_where_it_lies(height: int, width: int, colours: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(colours, height, width, generator=generator)
    grids = filter_grids(image)
    assert len(grids) == (2 if colours == 1 else 4)
    for grid in grids:
        assert grid.image_shape == (height, width)
        assert grid.data.shape[1:3] == tuple(one.size for one in grid.lattices[0])
        assert grid.data.isfinite().all()
        assert grid.operator.maps(grid.data).shape == (height, grid.channels, width)
    # The intensities themselves, at every pixel.
    grey = image.mean(0).half().float()
    torch.testing.assert_close(grids[0].operator.maps(grids[0].data)[:, 0], grey)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_lies_where_the_image_does(axis: int) -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    ramp = ramp.T if axis == 0 else ramp
    inner = (slice(16, -16), slice(16, -16))
    for grid in filter_grids(torch.from_numpy(ramp.copy())[None]):
        maps = grid.operator.maps(grid.data).numpy()
        smooth = maps[:, 0] if grid.lattices[0][0].stride > 1 else maps[:, 1]
        np.testing.assert_allclose(smooth[inner], ramp[inner], atol=2e-3)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_strips_make_no_difference(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.from_numpy(image_of((97, 40)))[None]
    monkeypatch.setattr("napari_hrdv2.core.filters._ROWS", 1000)
    whole = filter_grids(image)
    monkeypatch.setattr("napari_hrdv2.core.filters._ROWS", rows)
    for one, other in zip(filter_grids(image), whole, strict=True):
        assert torch.equal(one.data, other.data)


def test_a_constant_image_has_no_edges() -> None:
    for grid in filter_grids(torch.full((1, 20, 30), 0.5)):
        values = grid.data[0].float().reshape(-1, grid.channels)
        assert (values.amax(0) - values.amin(0)).max() < 1e-3


@pytest.fixture(scope="module")
def grey(make_extractor) -> Tokens:
    return make_extractor(passes=1, filters=True).extract(image_of())


@pytest.fixture(scope="module")
def coloured(make_extractor) -> Tokens:
    image = np.stack([image_of(seed=k) for k in range(3)], -1)
    return make_extractor(passes=1, filters=True).extract(image)


def test_every_colour_counts() -> None:
    image = torch.from_numpy(np.stack([image_of(seed=k) for k in range(3)]))
    plain = [grid.data for grid in filter_grids(image)[2:]]
    for colour in range(3):
        other = image.clone()
        other[colour] = torch.from_numpy(image_of(seed=3))
        found = [grid.data for grid in filter_grids(other)[2:]]
        assert all((a != b).any() for a, b in zip(plain, found, strict=True))
    # Red and green exchanged by as much as keeps the first difference show in the second.
    shifted = image + torch.tensor([0.1, 0.1, -0.2])[:, None, None]
    found = filter_grids(shifted)[2].data
    assert (found - plain[0]).abs().amax() > 0.2


def test_rows_and_maps_are_those_of_the_dense_map(make_extractor) -> None:
    # More rows than are predicted at once.
    image = np.stack([image_of((150, 31), seed=k) for k in range(3)], -1)
    coloured = make_extractor(passes=1, filters=True).extract(image)
    dense = dense_map(coloured)
    assert dense.shape == (150, 31, coloured.channels)
    pixels = np.argwhere(np.ones(dense.shape[:2], bool))[::7]
    np.testing.assert_allclose(
        rows_at(coloured, pixels), dense[pixels[:, 0], pixels[:, 1]], rtol=1e-4, atol=1e-4
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, coloured.channels)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    expected = dense @ weight.T + bias
    np.testing.assert_allclose(projected_maps(coloured, weight, bias), expected, atol=1e-2)
    agree = predicted(coloured, weight, bias) == expected.argmax(-1)
    assert agree.mean() > 0.999


def test_a_grey_image_saved_in_colours_is_grey(make_extractor, grey: Tokens) -> None:
    repeated = make_extractor(passes=1, filters=True).extract(np.stack([image_of()] * 3, -1))
    assert repeated.channels == grey.channels
    np.testing.assert_allclose(dense_map(repeated), dense_map(grey), atol=0.02)


def test_colours_and_greys_share_a_model(grey: Tokens, coloured: Tokens) -> None:
    strokes = np.zeros(grey.image_shape, np.uint8)
    strokes[5:9, 5:30], strokes[30:34, 20:50] = 1, 2
    both = PixelClassifier().fit([grey, coloured], [strokes, strokes])
    assert both.n_features_in_ == coloured.channels > grey.channels
    dense = np.pad(dense_map(grey), ((0, 0), (0, 0), (0, coloured.channels - grey.channels)))
    expected = dense @ both.coef_.T + both.intercept_
    np.testing.assert_allclose(both.decision_function(grey), expected, atol=1e-2)
    alone = PixelClassifier().fit(grey, strokes)
    expected = dense_map(coloured)[..., : grey.channels] @ alone.coef_.T + alone.intercept_
    np.testing.assert_allclose(alone.decision_function(coloured), expected, atol=1e-2)


def test_weights_of_other_features_are_refused(grey: Tokens) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        projected_maps(grey, np.ones((2, grey.channels - 1), np.float32))


def test_too_little_memory_is_told(make_extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_by_name: object) -> None:
        raise MemoryError

    monkeypatch.setattr("napari_hrdv2.core.extraction.filter_grids", refuse)
    with pytest.raises(DeviceError, match="memory does not suffice"):
        make_extractor(passes=1, filters=True).extract(image_of())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(7, 1), (1, 7), (3, 3)])
def test_the_kernels_of_a_gpu_are_those_of_a_cpu(shape: tuple[int, int], groups: int) -> None:
    images, kernels = torch.rand(3, groups, 31, 40), torch.randn(4, 1, *shape)
    kernels[0, 0, 0, 0] = 0
    found = _convolved(images, kernels)
    torch.testing.assert_close(_summed(images, kernels), found, rtol=0, atol=2e-6)
    # As many kernels for each group, in the groups' order.
    one = ndi.correlate(images[1, -1].numpy(), kernels[3, 0].numpy())
    rows, columns = (slice(n // 2, -(n // 2) or None) for n in shape)
    np.testing.assert_allclose(found[1, 3], one[rows, columns], atol=2e-6)


@pytest.mark.parametrize("every", [True, False])
def test_scales_go_together_on_a_gpu(every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(np.stack([image_of((33, 40), seed=k) for k in range(2)]))
    alone = [_responses(images, (sigma,), every=every) for sigma in (1.0, 2.0)]
    monkeypatch.setattr("napari_hrdv2.core.filters._correlated", _convolved)
    together = _responses(images, (1.0, 2.0), every=every)
    torch.testing.assert_close(together, torch.cat(alone, 2), rtol=0, atol=3e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_of_edges_are_the_same_on_both_sides_and_count_less(channels: int) -> None:
    """On a step, a filter of edges cannot tell the sides apart; flags of all channels say so."""
    image = torch.zeros((channels, 64, 64))
    image[:, :, 32:] = torch.tensor([0.9, 0.6, 0.3][:channels])[:, None, None]
    grids = filter_grids(image)
    for grid in grids:
        assert len(grid.edges) == grid.channels
        middle = grid.data[0, grid.data.shape[1] // 2].float()
        nx = len(middle)
        sides = middle[nx // 2 - 1], middle[nx // 2]
        differs = (sides[0] - sides[1]).abs() > 0.02
        assert not differs[torch.tensor(grid.edges)].any()
        assert grid.crop((slice(8, 40), slice(16, 48))).edges == grid.edges
    assert sum(sum(grid.edges) for grid in grids) == 3 * (4 if channels == 1 else 4 + 2 * 2)
