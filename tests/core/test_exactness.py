"""Logits by way of projected tokens equal those of dense maps made the naive way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.normalise import stretch
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Transform
from napari_hrdv2.core.upsample import dense_map, projected_maps, rows_at
from napari_hrdv2.core.weights import load_vit

from . import oracle

# The matrix of each orientation, worked out by hand: content at (y, x) from the centre, y
# down, goes to ... A quarter turn counter-clockwise brings the right edge to the top.
TURNS_AND_FLIPS: dict[tuple[tuple[int, int], tuple[int, int]], list[oracle.Step]] = {
    ((1, 0), (0, 1)): [],
    ((0, -1), (1, 0)): [("turn", 1)],
    ((-1, 0), (0, -1)): [("turn", 2)],
    ((0, 1), (-1, 0)): [("turn", 3)],
    ((1, 0), (0, -1)): [("flip", 1)],
    ((-1, 0), (0, 1)): [("flip", 0)],
    ((0, -1), (-1, 0)): [("turn", 1), ("flip", 1)],
    ((0, 1), (1, 0)): [("turn", 1), ("flip", 0)],
}


def steps_of(transform: Transform) -> list[oracle.Step]:
    return [*TURNS_AND_FLIPS[transform.matrix], ("shift", *transform.shift)]


@pytest.fixture(scope="module")
def vit(make_extractor):
    return load_vit(make_extractor().weights)


def image_of(shape: tuple[int, ...]) -> np.ndarray:
    """Noise on a ramp: no part looks like another, mirrored or not."""
    rng = np.random.default_rng(1)
    ramp = np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(0, 2, shape[1]) ** 2)
    return rng.random(shape) + (ramp if len(shape) == 2 else ramp[..., None])


def head(channels: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(classes, channels)) / channels**0.5
    return weight.astype(np.float32), rng.normal(size=classes).astype(np.float32) / 10


def expected_features(extractor: FeatureExtractor, vit, image: np.ndarray) -> np.ndarray:
    settings = extractor.settings
    return oracle.features(
        stretch(image, settings.percentiles),
        [steps_of(t) for t in settings.transforms()],
        [oracle.backbone_of(vit, settings.stride, move) for move in settings.position_moves()],
        patch=settings.patch,
        stride=settings.stride,
        boundary=settings.boundary,
        kernel=settings.kernel,
    )


def assert_same_logits(tokens: Tokens, features: np.ndarray) -> None:
    weight, bias = head(tokens.channels)
    expected = features @ weight.T.astype(np.float64) + bias
    found = projected_maps(tokens, weight, bias)
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-4 * scale
    ordered = np.sort(expected, axis=-1)
    clear = ordered[..., -1] - ordered[..., -2] > 2e-4 * scale
    assert clear.mean() > 0.99
    assert (found.argmax(-1) == expected.argmax(-1))[clear].all()
    # Were the labels the same everywhere, that would say little.
    assert len(np.unique(expected.argmax(-1))) > 1


PATTERNS = {
    "lattice": {"shifts": "lattice", "passes": 5},
    "von Neumann": {"shifts": "von_neumann", "passes": 5, "distances": (3,)},
    "Moore": {"shifts": "moore", "passes": 9, "distances": (5,)},
    "flips": {"flips": True, "passes": 4},
    "rotations": {"rotations": True, "passes": 4},
    "far shifts of all orientations": {
        "shifts": "moore",
        "distances": (2, 17),
        "flips": True,
        "rotations": True,
        "passes": 11,
    },
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("stride", [14, 7])
def test_logits_equal_the_naive_way(make_extractor, vit, stride, kernel, boundary, pattern):
    extractor = make_extractor(stride=stride, kernel=kernel, boundary=boundary, **PATTERNS[pattern])
    image = image_of((45, 62))
    assert_same_logits(extractor.extract(image), expected_features(extractor, vit, image))


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_logits_equal_the_naive_way_at_a_small_stride(make_extractor, vit, kernel, boundary):
    extractor = make_extractor(
        stride=4, kernel=kernel, boundary=boundary, flips=True, rotations=True, passes=9
    )
    image = image_of((39, 30))
    assert_same_logits(extractor.extract(image), expected_features(extractor, vit, image))


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("stride", [14, 5, 1])
def test_logits_equal_the_naive_way_for_colour_images_of_few_pixels(
    make_extractor, vit, stride, boundary
):
    extractor = make_extractor(
        stride=stride, boundary=boundary, flips=True, rotations=True, passes=min(8, 8 * stride**2)
    )
    for shape in ((9, 20, 3), (17, 14, 4), (15, 1)):
        image = image_of(shape)
        features = expected_features(extractor, vit, image)
        np.testing.assert_allclose(
            dense_map(extractor.extract(image)), features, atol=1e-4 * np.abs(features).max()
        )


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_products_of_many_steps_equal_the_naive_way(make_extractor, vit, boundary, kernel):
    """Not only the products that the settings offer: any chain of steps."""
    extractor = make_extractor(stride=7, kernel=kernel, boundary=boundary)
    chains = [
        [("shift", 3, -5), ("flip", 0), ("turn", 1)],
        [("turn", 3), ("shift", -6, 2), ("flip", 1), ("shift", 1, 4)],
        [("flip", 1), ("shift", 4, 4), ("turn", 2), ("shift", 0, -9), ("turn", 1)],
    ]
    image = image_of((36, 51))
    pixels = stretch(image)
    backbone = oracle.backbone_of(vit, 7)
    backbones = [backbone] * len(chains)
    options = {"patch": 14, "stride": 7, "boundary": boundary, "kernel": kernel}
    data, lattices = [], []
    for steps in chains:
        transform = Transform()
        for name, *by in steps:
            transform = {
                "shift": lambda y, x: Transform.shifted(y, x),
                "flip": lambda axis: Transform.flipped(vertical=axis == 0, horizontal=axis == 1),
                "turn": Transform.rotated,
            }[name](*by) @ transform
        h, w = transform.out_shape(image.shape)
        window = (oracle.windowed(h, 14, 7), oracle.windowed(w, 14, 7))
        read = transform.read(torch.from_numpy(pixels[..., 0]), boundary, window).numpy()
        data.append(transform.undo_tokens(torch.from_numpy(backbone(read[..., None]))))
        lattices.append(transform.lattice(image.shape, 14, 7, boundary))
    tokens = Tokens(torch.stack(data), tuple(lattices), image.shape, extractor.settings)
    assert_same_logits(tokens, oracle.features(pixels, chains, backbones, **options))


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_one_pass_on_whole_patches_is_the_papers_plain_resize(make_extractor, vit, kernel):
    image = image_of((42, 70))
    tokens = make_extractor(passes=1, kernel=kernel).extract(image)
    seen = oracle.backbone_of(vit, 14)(stretch(image))
    options = (
        {"mode": "nearest"} if kernel == "nearest" else {"mode": "bilinear", "align_corners": False}
    )
    resized = F.interpolate(
        torch.from_numpy(seen).permute(2, 0, 1)[None], size=(42, 70), **options
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(dense_map(tokens), resized, atol=1e-5)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("orientation", [{}, {"flips": True, "rotations": True}])
def test_many_periodic_passes_on_whole_patches_are_the_papers_mean(
    make_extractor, vit, kernel, orientation
):
    """torch.roll, resize each map, roll and turn back, mean: the original's own recipe."""
    image = image_of((42, 56))
    extractor = make_extractor(
        passes=9,
        shifts="moore",
        kernel=kernel,
        boundary="periodic",
        move_positions=False,
        **orientation,
    )
    options = (
        {"mode": "nearest"} if kernel == "nearest" else {"mode": "bilinear", "align_corners": False}
    )
    backbone = oracle.backbone_of(vit, 14)
    total = 0
    for transform in extractor.settings.transforms():
        steps = steps_of(transform)
        turned = oracle.do(stretch(image), steps)
        seen = torch.from_numpy(backbone(turned)).permute(2, 0, 1)[None]
        resized = F.interpolate(seen, size=turned.shape[:2], **options)[0].permute(1, 2, 0)
        total = total + oracle.undo(resized.numpy(), steps)
    expected = total / 9
    np.testing.assert_allclose(
        dense_map(extractor.extract(image)), expected, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("shape", [(56, 56), (42, 70)])
def test_passes_see_the_periodic_image_rolled_by_whole_patches(make_extractor, vit, shape):
    """The whole way once more, with no word of positions: large shifts do what moving them does."""
    image = image_of(shape)
    extractor = make_extractor(passes=4, boundary="periodic", kernel="nearest")
    pixels, total = stretch(image), 0
    backbone = oracle.backbone_of(vit, 14)
    options = {"patch": 14, "stride": 14, "boundary": "periodic", "kernel": "nearest"}
    for (dy, dx), (y, x) in zip(
        [(0, 0), (7, 7), (7, 0), (0, 7)], [(0, 0), (1, 1), (1, 0), (0, 1)], strict=True
    ):
        far = [("shift", dy + y * (shape[0] // 28) * 14, dx + x * (shape[1] // 28) * 14)]
        total = total + oracle.dense_pass(pixels, far, backbone, **options)
    found = dense_map(extractor.extract(image))
    np.testing.assert_allclose(found, total / 4, atol=1e-4 * np.abs(total).max())


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_pixels_beyond_the_outermost_centres_show_the_outermost_token(
    make_extractor, kernel, boundary
):
    tokens = make_extractor(passes=1, stride=4, kernel=kernel, boundary=boundary).extract(
        image_of((30, 30))
    )
    dense = dense_map(tokens)
    # Centres at 7, 11, ..., 7 + 4 * 4 = 23 and, beyond the image's end less a half patch, 23.
    assert tokens.lattices[0][0].origin == 7
    assert tokens.data.shape[1:3] == (5, 5)
    first, last = tokens.data[0, 0, 0].numpy(), tokens.data[0, -1, -1].numpy()
    np.testing.assert_allclose(dense[:6, :6], np.broadcast_to(first, (6, 6, 128)), atol=1e-6)
    np.testing.assert_allclose(dense[24:, 24:], np.broadcast_to(last, (6, 6, 128)), atol=1e-6)


@pytest.mark.parametrize("distance", [14, 40, 200])
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_shifts_beyond_the_image_give_defined_features(make_extractor, distance, boundary):
    extractor = make_extractor(passes=9, shifts="moore", distances=(distance,), boundary=boundary)
    assert np.isfinite(dense_map(extractor.extract(image_of((20, 33))))).all()


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_rows_at_pixels_equal_the_dense_map(make_extractor, rng, kernel):
    extractor = make_extractor(passes=7, stride=7, kernel=kernel, flips=True, rotations=True)
    tokens = extractor.extract(image_of((41, 55)))
    dense = dense_map(tokens)
    pixels = np.stack([rng.integers(0, 41, 200), rng.integers(0, 55, 200)], 1)
    pixels = np.concatenate([pixels, [(0, 0), (40, 54), (40, 0), (0, 54), (3, 3), (3, 3)]])
    np.testing.assert_allclose(
        rows_at(tokens, pixels), dense[pixels[:, 0], pixels[:, 1]], atol=1e-5
    )


def test_rows_at_no_pixels_is_empty(make_extractor):
    tokens = make_extractor(passes=2).extract(image_of((20, 20)))
    assert rows_at(tokens, np.zeros((0, 2), np.intp)).shape == (0, 128)


def test_projected_maps_equal_the_dense_map_times_the_weights(make_extractor):
    tokens = make_extractor(passes=4, rotations=True).extract(image_of((33, 47)))
    weight, bias = head(128)
    np.testing.assert_allclose(
        projected_maps(tokens, weight, bias), dense_map(tokens) @ weight.T + bias, atol=1e-5
    )
    without = projected_maps(tokens, weight)
    np.testing.assert_allclose(without + bias, projected_maps(tokens, weight, bias), atol=1e-6)


def test_half_precision_tokens_are_close(make_extractor):
    image = image_of((45, 62))
    exact = dense_map(make_extractor(passes=4).extract(image))
    tokens = make_extractor(passes=4, precision="auto").extract(image)
    assert tokens.data.dtype == torch.float16
    np.testing.assert_allclose(dense_map(tokens), exact, atol=3e-3 * np.abs(exact).max())


@pytest.mark.parametrize(("scale", "shape"), [(2.0, (45, 62)), (0.5, (120, 91))])
def test_an_enlarged_image_has_its_tokens_where_they_belong(make_extractor, vit, scale, shape):
    image = image_of(shape)
    tokens = make_extractor(scale=scale, passes=2).extract(image)
    size = [round(scale * n) for n in shape]
    seen = F.interpolate(
        torch.from_numpy(stretch(image)[None, ..., 0])[None], size, mode="bicubic", antialias=True
    )
    seen = seen[0, 0].clamp(0, 1).numpy()
    window = [oracle.windowed(n, 14, 14) - n for n in size]
    expected = oracle.backbone_of(vit, 14)(oracle.pad(seen, window, "reflect")[..., None])
    np.testing.assert_allclose(tokens.data[0], expected, rtol=1e-4, atol=1e-4)
    assert tokens.image_shape == shape
    lattices = make_extractor(passes=2).extract(seen).lattices
    for ours, theirs in zip(tokens.lattices, lattices, strict=True):
        for one, other, n, m in zip(ours, theirs, shape, size, strict=True):
            assert one.size == other.size
            assert one.origin == pytest.approx(other.origin * n / m)
            assert one.stride == pytest.approx(14 * n / m)


@pytest.mark.parametrize(("depth", "blocks"), [(1.0, 2), (0.75, 2), (0.5, 1)])
def test_tokens_go_through_a_share_of_the_blocks(make_extractor, vit, depth, blocks):
    image = image_of((28, 42))
    found = make_extractor(depth=depth, passes=1).extract(image).data[0].numpy()
    seen = oracle.backbone_of(
        lambda batch, stride, **how: vit(batch, stride, blocks=blocks, **how), 14
    )
    np.testing.assert_allclose(found, seen(stretch(image)), rtol=1e-4, atol=1e-4)
    if blocks == 1:
        assert np.abs(found - oracle.backbone_of(vit, 14)(stretch(image))).max() > 0.1
