from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_hrdv2.core import extraction
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, SettingsMismatchError
from napari_hrdv2.core.explore import PrincipalComponents, attention_maps
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.transforms import Joined
from napari_hrdv2.core.upsample import dense_map

from .. import oracle

KINDS = ["attention", "q", "k", "v"]


def facet_backbone(extractor, kind, move):
    """The backbone's facet of an image (h, w, 1) in [0, 1], as the oracle wants it."""

    def run(seen):
        normalised = (np.repeat(seen, 3, axis=-1) - oracle.MEAN) / oracle.STD
        batch = torch.from_numpy(np.ascontiguousarray(normalised)).float().permute(2, 0, 1)[None]
        facets = extractor._vit.facets(batch, 1, 7, moves=[move])
        if kind == "attention":
            found = facets.cls_attention[0]
            return (found * found[0].numel()).permute(1, 2, 0).numpy()
        return torch.cat(list(getattr(facets, kind)[0]), -1).numpy()

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_facets_of_all_passes_are_those_of_the_naive_way(make_extractor, rng, kind, boundary):
    extractor = make_extractor(stride=7, passes=4, rotations=True, flips=True, boundary=boundary)
    image = rng.random((45, 61))
    stretched = extraction.stretch(image)
    found = extractor.facets(image, kind, 1)
    passes = []
    for t in extractor.settings.transforms():
        # Of the group's elements the oracle knows steps: turn, mirror, shift.
        steps = [
            steps
            for k in range(4)
            for mirror in (False, True)
            for steps in [[("turn", k)] + [("flip", 1)] * mirror]
            if extraction.Transform.flipped(horizontal=mirror) @ extraction.Transform.rotated(k)
            == extraction.Transform(t.matrix)
        ]
        passes.append([*steps[0], ("shift", *t.shift)])
    moves = extractor.settings.position_moves()
    expected = oracle.features(
        stretched,
        passes,
        [facet_backbone(extractor, kind, move) for move in moves],
        patch=14,
        stride=7,
        boundary=boundary,
        kernel="bilinear",
    )
    np.testing.assert_allclose(dense_map(found), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_facets_come_through_windows_as_tokens_do(make_extractor, rng, kind):
    extractor = make_extractor(window=56, passes=2, rotations=True, filters=True)
    image = rng.random((60, 171))
    tokens, found = extractor.extract(image), extractor.facets(image, kind)
    assert isinstance(found.lattices[0][1], Joined)
    assert found.lattices == tokens.lattices
    assert found.data.shape == (*tokens.data.shape[:3], 2 if kind == "attention" else 128)
    assert found.filters == ()
    assert found.is_complete


def test_facets_of_channels_lie_side_by_side(make_extractor, rng):
    extractor = make_extractor(channels=(0, 2), channel_count=3)
    image = rng.random((40, 50, 2))
    found = extractor.facets(image, "attention")
    assert found.data.shape[-1] == 4
    one = make_extractor().facets(image[..., 1], "attention")
    torch.testing.assert_close(found.data[..., 2:], one.data, rtol=1e-3, atol=1e-3)


def test_attention_is_in_units_of_even_attention(make_extractor, rng):
    found = make_extractor(passes=1).facets(rng.random((70, 98)), "attention")
    share = found.data.mean((0, 1, 2))
    # What is missing goes to the class token.
    assert ((share > 0.5) & (share < 1)).all()


def test_attention_maps_are_heads_and_their_mean(make_extractor, rng):
    extractor = make_extractor(passes=2)
    found = extractor.facets(rng.random((70, 98)), "attention")
    heads, together = attention_maps(found)
    dense = dense_map(found)
    assert heads.shape == (70, 98, 2)
    np.testing.assert_allclose(heads, dense, atol=1e-5)
    np.testing.assert_allclose(together, dense.sum(-1), atol=1e-5)


def test_blocks_differ_and_keys_have_colours(make_extractor, rng):
    extractor, image = make_extractor(passes=1), rng.random((60, 60))
    first, last = (extractor.facets(image, "k", block) for block in (0, -1))
    assert not torch.allclose(first.data, last.data)
    assert torch.equal(extractor.facets(image, "k", 1).data, last.data)
    assert PrincipalComponents.fit([last]).rgb(last).shape == (60, 60, 3)


def test_facets_seen_before_come_from_disk(make_extractor, rng, tmp_path, monkeypatch):
    extractor, image = make_extractor(passes=2, precision="auto"), rng.random((60, 60))
    store = TokenStore(tmp_path, 10**8)
    tokens = extractor.extract(image, store=store)
    wanted = [("attention", -1), ("k", -1), ("k", 0)]
    found = [extractor.facets(image, *one, store=store) for one in wanted]
    assert not torch.equal(found[1].data, tokens.data)
    assert not torch.equal(found[1].data, found[2].data)
    monkeypatch.setattr(FeatureExtractor, "_forward", None)
    again = [extractor.facets(image, *one, store=store) for one in wanted]
    assert all(torch.equal(a.data, b.data) for a, b in zip(found, again, strict=True))
    assert torch.equal(extractor.facets(image, "k", 1, store=store).data, found[1].data)
    assert torch.equal(extractor.extract(image, store=store).data, tokens.data)
    shallow = make_extractor(passes=2, precision="auto", depth=0.5)
    assert torch.equal(shallow.facets(image, "k", store=store).data, found[1].data)
    with pytest.raises(TypeError):
        extractor.facets(image, "q", store=store)


def test_what_learnt_from_tokens_refuses_facets(make_extractor, rng):
    extractor, image = make_extractor(passes=1), rng.random((60, 60))
    tokens, keys = extractor.extract(image), extractor.facets(image, "k")
    strokes = np.repeat([1, 2], 30)[:, None].repeat(60, 1)
    classifier = PixelClassifier(C=0.01, emphasis=0.3)
    with pytest.raises(SettingsMismatchError, match=r"facet None against \('k', 1\)"):
        classifier.fit(tokens, strokes).predict(keys)
    with pytest.raises(SettingsMismatchError, match="facet"):
        PrincipalComponents.fit([tokens, keys])
    classifier.fit(keys, strokes)
    with pytest.raises(SettingsMismatchError, match="facet"):
        classifier.predict(extractor.facets(image, "k", 0))


def test_a_model_of_facets_finds_them_by_its_settings(make_extractor, rng, tmp_path):
    extractor, image = make_extractor(passes=2, filters=True), rng.random((60, 60))
    keys = extractor.facets(image, "k", 0)
    strokes = np.repeat([1, 2], 30)[:, None].repeat(60, 1)
    PixelClassifier(C=0.01, emphasis=0.3).fit(keys, strokes).save(tmp_path / "keys.safetensors")
    classifier = PixelClassifier.load(tmp_path / "keys.safetensors")
    again = make_extractor(**classifier.settings_.model_dump(exclude={"model"})).extract(image)
    assert torch.equal(again.data, keys.data)
    classifier.predict(again)


def test_what_cannot_be_is_said(make_extractor, rng):
    extractor, image = make_extractor(), rng.random((60, 60))
    for block in (2, -3):
        with pytest.raises(HRDv2Error, match="2 blocks, from 0 to 1"):
            extractor.facets(image, "k", block)
    with pytest.raises(HRDv2Error, match="2 blocks, from 0 to 1"):
        make_extractor(facet=("k", 2))
    with pytest.raises(HRDv2Error, match="attention, q, k, v"):
        extractor.facets(image, "w")
    with pytest.raises(Cancelled):
        extractor.facets(image, "k", is_cancelled=lambda: True)
