import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_hrdv2.core.errors import StrokesError
from napari_hrdv2.core.simulate import draw_stroke, simulate_strokes


@st.composite
def truths(draw):
    """Images of a few regions of any shape, with unknown pixels among them."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    classes = draw(st.integers(1, 4))
    smooth = draw(st.sampled_from([0, 1, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(classes + 1, *shape))
    if smooth:
        scores = ndi.gaussian_filter(scores, (0, smooth, smooth))
    dtype = draw(st.sampled_from([np.uint8, np.int64, np.uint16]))
    return scores.argmax(0).astype(dtype)


fractions = st.floats(1e-4, 1)
lean = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@lean
@given(truths(), fractions, st.integers(0, 1000), st.floats(1, 9))
def test_every_class_gets_its_fraction_and_nothing_outside_it(truth, fraction, seed, width):
    strokes = simulate_strokes(truth, fraction, seed, width)
    assert strokes.shape == truth.shape
    assert strokes.dtype == truth.dtype
    assert np.array_equal(strokes[strokes > 0], truth[strokes > 0])
    for label in np.unique(truth[truth > 0]):
        wanted = max(1, round(fraction * int((truth == label).sum())))
        assert (strokes == label).sum() == wanted


@lean
@given(truths(), fractions, st.integers(0, 1000))
def test_same_seed_same_strokes(truth, fraction, seed):
    before = truth.copy()
    first = simulate_strokes(truth, fraction, seed)
    assert np.array_equal(first, simulate_strokes(truth, fraction, seed))
    assert np.array_equal(truth, before)


@lean
@given(st.integers(0, 1000), st.floats(0.01, 0.05))
def test_strokes_are_connected_pieces_rather_than_salt(seed, fraction):
    strokes = simulate_strokes(halves(), fraction, seed)
    for label in (1, 2):
        sizes = np.bincount(ndi.label(strokes == label, np.ones((3, 3)))[0].ravel())[1:]
        assert sizes[sizes >= 10].sum() > sizes.sum() / 2
        assert len(sizes) <= max(12, sizes.sum() / 10)


def test_strokes_lie_rather_inside():
    truth = halves()
    depth = sum(np.minimum(ndi.distance_transform_edt(truth == k), 50) for k in (1, 2))
    painted = np.concatenate([depth[simulate_strokes(truth, 0.01, s) > 0] for s in range(10)])
    assert painted.mean() > depth.mean()
    assert (painted <= 2).mean() < (depth <= 2).mean()


def halves():
    truth = np.ones((200, 200), np.uint8)
    truth[:, 100:] = 2
    return truth


def test_another_seed_other_strokes():
    truth = np.ones((100, 100), np.uint8)
    drawn = [simulate_strokes(truth, 0.01, seed) for seed in range(5)]
    assert all(not np.array_equal(drawn[0], other) for other in drawn[1:])


def test_one_class_more_leaves_the_strokes_of_the_others():
    truth = np.ones((80, 80), np.uint8)
    truth[:40] = 2
    more = truth.copy()
    more[70:] = 0
    before, after = simulate_strokes(truth, 0.02), simulate_strokes(more, 0.02)
    assert np.array_equal(before == 2, after == 2)


def test_rare_classes_are_touched_in_several_places():
    truth = np.ones((300, 300), np.uint8)
    truth[10::30, 10::30] = 2
    truth = np.where(ndi.grey_dilation(truth, 7) == 2, 2, 1)
    strokes = simulate_strokes(truth, 0.01)
    objects = ndi.label(truth == 2)[0]
    assert len(np.unique(objects[strokes == 2])) >= 5


def test_single_pixels_and_thin_lines():
    truth = np.zeros((40, 40), np.uint8)
    truth[5, 5], truth[20, :], truth[:, 30] = 1, 2, 3
    strokes = simulate_strokes(truth, 0.5)
    assert strokes[5, 5] == 1
    assert (strokes == 2).sum() == round((truth == 2).sum() / 2)
    pieces = ndi.label(strokes == 3, np.ones((3, 3)))[1]
    assert pieces <= 8


def test_whole_classes_and_one_pixel_and_none():
    truth = np.random.default_rng(0).integers(0, 3, (30, 20))
    assert np.array_equal(simulate_strokes(truth, 1.0), truth)
    assert simulate_strokes(np.array([[7]]), 1e-9).tolist() == [[7]]
    assert simulate_strokes(np.zeros((4, 5), int), 0.5).tolist() == np.zeros((4, 5)).tolist()
    assert simulate_strokes(np.zeros((0, 5), int), 0.5).shape == (0, 5)
    assert simulate_strokes(np.ones((3, 3), bool), 1.0).all()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(StrokesError, match="fraction"):
        simulate_strokes(np.ones((5, 5), int), fraction)


@pytest.mark.parametrize("width", [0, 0.5, -3, float("nan"), float("inf")])
def test_bad_brushes_are_refused(width):
    with pytest.raises(StrokesError, match="brush"):
        simulate_strokes(np.ones((5, 5), int), 0.5, width=width)


@pytest.mark.parametrize(
    "truth", [np.ones(5, int), np.ones((2, 5, 5), int), np.ones((5, 5)), np.full((5, 5), -1)]
)
def test_what_is_no_truth_is_refused(truth):
    with pytest.raises(StrokesError, match="label"):
        simulate_strokes(truth, 0.5)


def test_a_drawn_stroke_is_as_wide_as_its_brush_and_stays_in_the_image():
    strokes = np.zeros((20, 30), np.uint8)
    draw_stroke(strokes, np.array([[10.0, -5.0], [10.0, 50.0]]), 5, 3)
    assert (strokes[8:13] == 3).all()
    assert not strokes[:8].any()
    assert not strokes[13:].any()
