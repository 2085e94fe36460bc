"""The percentile stretch on every kind of image, and on what is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from napari_hrdv2.core.errors import ImageError
from napari_hrdv2.core.normalise import levels_of, stretch

DTYPES = [
    *(np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)),
    *(np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)),
    *(np.dtype(f"float{bits}") for bits in (16, 32, 64)),
]


def ramp(dtype: np.dtype) -> np.ndarray:
    """From the smallest to the largest number that the dtype holds, in 101 equal steps."""
    limits = np.iinfo(dtype) if dtype.kind in "ui" else np.finfo(dtype)
    low, high = float(limits.min), float(limits.max)
    values = low * np.linspace(1, 0, 101) + high * np.linspace(0, 1, 101)
    if dtype.kind in "ui":
        values = np.array([min(max(int(v), limits.min), limits.max) for v in values], object)
    return values.astype(dtype).reshape(1, 101)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_whole_range_of_every_dtype_is_stretched(dtype):
    found = stretch(ramp(dtype))
    assert found.dtype == np.float32
    assert found.shape == (1, 101, 1)
    expected = np.clip((np.arange(101) - 1) / 98, 0, 1)
    # Whole numbers of 8 bits are rounded to 1 / 255.
    np.testing.assert_allclose(found[0, :, 0], expected, atol=6e-3)


def test_bool():
    image = np.zeros((10, 10), bool)
    image[3:] = True
    np.testing.assert_array_equal(stretch(image)[..., 0], image.astype(np.float32))


def test_percentiles_become_black_and_white():
    image = np.arange(1001.0).reshape(7, 143)
    found = stretch(image, (10, 60))[..., 0].ravel()
    np.testing.assert_allclose(found[[0, 100, 350, 600, 1000]], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_lists_are_images_too():
    np.testing.assert_array_equal(stretch([[0, 10]])[..., 0], [[0, 1]])


def test_colour_channels_are_stretched_together_and_alpha_dropped(rng):
    image = rng.integers(0, 200, (20, 30, 4)).astype(np.uint8)
    found = stretch(image)
    assert found.shape == (20, 30, 3)
    low, high = np.percentile(image[..., :3], (1, 99))
    expected = np.clip((image[..., :3] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found, stretch(image[..., :3]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinities_become_black_and_white_and_nan_mid_grey(dtype):
    image = np.linspace(0, 1, 200, dtype=dtype).reshape(10, 20)
    plain = stretch(image)[..., 0]
    image[0, 0], image[5, 5], image[6, 6] = np.inf, -np.inf, np.nan
    found = stretch(image)[..., 0]
    assert (found[0, 0], found[5, 5], found[6, 6]) == (1, 0, 0.5)
    np.testing.assert_allclose(found[1:5], plain[1:5], atol=0.02)


@pytest.mark.parametrize("value", [0, 7.5, -1e300, 1e-320])
def test_constant_image_is_mid_grey(value):
    assert (stretch(np.full((4, 5), value)) == 0.5).all()


def test_constant_image_with_nan_and_infinities():
    image = np.full((2, 2), 3.0)
    image[0] = np.nan, np.inf
    image[1, 0] = -np.inf
    np.testing.assert_array_equal(stretch(image)[..., 0], [[0.5, 1], [0, 0.5]])


def test_few_bright_pixels_beyond_the_percentiles_still_show():
    image = np.zeros((100, 100), np.uint16)
    image[50, 50] = 900
    found = stretch(image)
    assert (found[50, 50], found[0, 0]) == (1, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 50), (50, 1, 4)])
def test_images_of_few_pixels(shape):
    found = stretch(np.arange(np.prod(shape)).reshape(shape))
    assert found.shape == (*shape[:2], 1 if len(shape) == 2 else 3)
    assert np.isfinite(found).all()


BAD = {
    "complex": (np.ones((4, 4), complex), "complex"),
    "text": (np.full((4, 4), "a"), "not numbers"),
    "objects": (np.full((4, 4), None), "not numbers"),
    "dates": (np.zeros((4, 4), "datetime64[s]"), "not numbers"),
    "a number": (np.float64(3), "shape"),
    "a line": (np.zeros(5), "shape"),
    "two channels": (np.zeros((5, 5, 2)), "shape"),
    "a stack": (np.zeros((5, 8, 9)), "shape"),
    "four axes": (np.zeros((2, 5, 5, 3)), "shape"),
    "no rows": (np.zeros((0, 5)), "no pixels"),
    "no columns": (np.zeros((5, 0, 3)), "no pixels"),
    "all NaN": (np.full((4, 4), np.nan), "no finite"),
    "all infinite": (np.full((4, 4), np.inf), "no finite"),
    "NaN but for the alpha": (
        np.dstack([np.full((4, 4, 3), np.nan), np.ones((4, 4))]),
        "no finite",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_a_one_line_error(kind):
    image, words = BAD[kind]
    with pytest.raises(ImageError, match=words) as caught:
        stretch(image)
    assert "\n" not in str(caught.value)


def test_the_image_stays_as_it_is():
    image = np.array([[0.0, np.nan], [np.inf, 5.0]])
    before = image.copy()
    stretch(image)
    np.testing.assert_array_equal(image, before)


def test_large_images_take_a_sample_that_gives_the_same(rng, monkeypatch):
    image = rng.normal(size=(300, 301))
    whole = stretch(image)
    monkeypatch.setattr("napari_hrdv2.core.normalise._SAMPLE", 10_000)
    np.testing.assert_allclose(stretch(image), whole, atol=0.03)


images = npst.arrays(
    np.float64, npst.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(-99, 99)
)


@given(images, st.sampled_from([0.01, 0.5, 3, 4096]), st.integers(-10_000, 10_000))
def test_brightness_and_contrast_make_no_difference(image, gain, offset):
    np.testing.assert_allclose(stretch(gain * image + offset), stretch(image), atol=1e-6)


@given(images)
def test_a_negative_is_the_negative(image):
    np.testing.assert_allclose(stretch(-image), 1 - stretch(image), atol=1e-6)


@given(images)
def test_the_order_of_grey_levels_stays(image):
    found = stretch(image)[..., 0].ravel()
    order = np.argsort(image.ravel(), kind="stable")
    assert (np.diff(found[order]) >= 0).all()


@given(
    npst.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        npst.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements={"allow_subnormal": True},
    )
)
@example(np.array([[0, 5e-324]]))
@example(np.array([[0.0] * 200 + [1e-310] * 5 + [1e300]]))
def test_any_floats_give_finite_values_from_0_to_1(image):
    """Without warnings too, which are errors in the tests."""
    if not np.isfinite(image).any():
        return
    found = stretch(image)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1


# --- levels, and channels apart


@given(
    npst.arrays(
        st.sampled_from([np.uint8, np.int32, np.float32, np.float64]),
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)),
        elements=st.integers(0, 99),
    )
)
def test_channels_apart_are_stretched_one_by_one(image):
    found = stretch(image, (5, 90), apart=True)
    alone = [stretch(image[..., k], (5, 90)) for k in range(image.shape[-1])]
    np.testing.assert_array_equal(found, np.concatenate(alone, -1))
    levels = levels_of(image, (5, 90), apart=True)
    np.testing.assert_array_equal(
        levels, np.concatenate([levels_of(image[..., k], (5, 90)) for k in range(image.shape[-1])])
    )


def test_constant_channels_and_those_that_are_not_finite_are_each_their_own():
    image = np.zeros((3, 4, 3))
    image[..., 0] = np.arange(12).reshape(3, 4)
    image[0, 0, 1:] = np.nan, np.inf
    found = stretch(image, apart=True)
    np.testing.assert_array_equal(found[..., 0], stretch(image[..., 0])[..., 0])
    assert (found[..., 1] == 0.5).all()
    assert found[0, 0, 2] == 1
    assert (found[1:, :, 2] == 0.5).all()
    image[..., 1] = np.nan
    with pytest.raises(ImageError, match="no finite"):
        stretch(image, apart=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_part_with_the_levels_of_the_whole_is_that_part(dtype):
    image = np.concatenate([ramp(dtype), ramp(dtype)[:, ::-1]])
    levels = levels_of(image)
    assert levels.shape == (1, 2)
    for part in ((slice(0, 1), slice(0, 9)), (slice(None), slice(50, 60))):
        np.testing.assert_array_equal(stretch(image[part], levels=levels), stretch(image)[part])


def test_levels_are_the_values_that_become_black_and_white():
    image = np.arange(1001.0).reshape(7, 143)
    np.testing.assert_allclose(levels_of(image, (10, 60)), [[100, 600]])
    found = stretch(image, levels=np.array([[200.0, 201.0]]))[..., 0].ravel()
    np.testing.assert_array_equal(found[[0, 200, 201, 1000]], [0, 0, 1, 1])
    # Of constant levels grey is all that there is.
    assert (stretch(image, levels=np.array([[5.0, 5.0]])) == 0.5).all()
    found = stretch(np.stack([image, image], -1), levels=np.array([[0, 2], [5, 5]]), apart=True)
    assert found[0, :3, 0].tolist() == [0, 0.5, 1]
    assert (found[..., 1] == 0.5).all()


def test_levels_do_not_count_alpha_nor_what_is_not_finite(rng):
    image = rng.random((20, 30, 4))
    image[..., 3] = 1000
    image[0, 0] = np.nan
    image[1, 1] = np.inf
    expected = np.percentile(image[..., :3][np.isfinite(image[..., :3])], (1, 99))
    np.testing.assert_allclose(levels_of(image), expected[None])
    assert levels_of(image, apart=True).shape == (4, 2)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 5, 3), (0, 5, 2)])
def test_channels_apart_are_of_planes_too(shape):
    for act in (stretch, levels_of):
        with pytest.raises(ImageError):
            act(np.zeros(shape), apart=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("apart", [False, True])
def test_what_is_counted_and_looked_up_is_what_is_computed(dtype: type, apart: bool) -> None:
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 20, (61, 47, 3)).clip(0, 255).astype(dtype)
    slow = image.astype(np.int32)  # sorted, and computed pixel by pixel
    percentiles = (1.3, 98.6)
    np.testing.assert_allclose(
        levels_of(image, percentiles, apart=apart),
        levels_of(slow, percentiles, apart=apart),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        stretch(image, percentiles, apart=apart),
        stretch(slow, percentiles, apart=apart),
        rtol=0,
        atol=1e-6,
    )
