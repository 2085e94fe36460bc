from __future__ import annotations

import numpy as np
import pytest

from napari_hrdv2.core.errors import HRDv2Error
from napari_hrdv2.core.explore import Similarity, descriptor, lengths, similarity
from napari_hrdv2.core.upsample import dense_map

from .helpers import dense_unit

WAYS = {
    "windows": {"window": 56, "passes": 3, "rotations": True, "filters": True},
    "nearest": {"kernel": "nearest", "passes": 2},
    "periodic": {"boundary": "periodic", "passes": 4},
}


@pytest.fixture(params=WAYS)
def images(request, make_extractor, rng):
    extractor = make_extractor(**WAYS[request.param])
    return [extractor.extract(rng.random(shape)) for shape in ((90, 131), (60, 45))]


def test_lengths_are_those_of_the_dense_map(images):
    for tokens in images:
        dense = dense_map(tokens)[..., : tokens.data.shape[-1]]
        np.testing.assert_allclose(lengths(tokens), np.linalg.norm(dense, axis=-1), rtol=1e-5)


def test_to_a_pixel_as_on_the_dense_map(images):
    first, second = images
    dense = [dense_unit(one) for one in images]
    wanted = descriptor(first, (57, 130))
    found = Similarity(first).to(wanted)
    assert found.dtype == np.float32
    assert found[57, 130] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found, dense[0] @ dense[0][57, 130], atol=1e-5)
    np.testing.assert_allclose(
        Similarity(second).to(wanted), dense[1] @ dense[0][57, 130], atol=1e-5
    )


def test_to_the_mean_of_a_region_as_on_the_dense_map(images):
    tokens = images[0]
    mask = np.zeros(tokens.image_shape, np.uint8)
    mask[20:31, 40:90] = 3
    mean = dense_map(tokens)[..., : tokens.data.shape[-1]][mask > 0].mean(0)
    expected = dense_unit(tokens) @ (mean / np.linalg.norm(mean))
    np.testing.assert_allclose(Similarity(tokens).to(descriptor(tokens, mask)), expected, atol=1e-4)


def test_a_large_region_is_a_sample_of_it(images, monkeypatch):
    tokens = images[0]
    mask = np.ones(tokens.image_shape, bool)
    whole = descriptor(tokens, mask)
    monkeypatch.setattr(similarity, "_PIXELS", 300)
    few = descriptor(tokens, mask)
    assert not np.array_equal(few, whole)
    assert few @ whole > 0.98


def test_of_features_of_length_0_nothing_is_like_anything(images):
    tokens = images[0]
    wanted = descriptor(tokens, (5, 5))
    tokens.data[:] = 0
    assert not Similarity(tokens).to(wanted).any()


def test_what_cannot_be_is_said(images):
    tokens = images[0]
    for pixel in ((90, 0), (0, 131), (-1, 0)):
        with pytest.raises(HRDv2Error, match="not in the image"):
            descriptor(tokens, pixel)
    with pytest.raises(HRDv2Error, match="empty"):
        descriptor(tokens, np.zeros(tokens.image_shape, bool))
    with pytest.raises(HRDv2Error, match=r"the region is \(3, 3\)"):
        descriptor(tokens, np.ones((3, 3), bool))
    with pytest.raises(HRDv2Error, match="7 channels"):
        Similarity(tokens).to(np.ones(7, np.float32))
