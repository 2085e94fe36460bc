"""What an exploration finds and keeps, without a window."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_hrdv2._explore import (
    Boxed,
    ClusterOptions,
    Coloured,
    Exploration,
    boxed,
    make_options,
)
from napari_hrdv2._job import Progress, Spot
from napari_hrdv2._session import Session
from napari_hrdv2._subject import Subject
from napari_hrdv2.core.errors import (
    Cancelled,
    HRDv2Error,
    ImageError,
    RefinementWarning,
    SettingsMismatchError,
)
from napari_hrdv2.core.explore import (
    Box,
    Clusters,
    PrincipalComponents,
    attention_maps,
    component_foreground,
)
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes

# Columns whose tokens see but one half of the image.
_SIDES = (slice(0, 21), slice(49, 70))


@pytest.fixture
def exploration(tiny_weights: Path, empty_cache: Path) -> Exploration:
    exploration = Exploration()
    exploration.session.use_weights(tiny_weights)
    exploration.session.configure(passes=2, device="cpu")
    return exploration


@pytest.fixture
def spot(exploration: Exploration, image: np.ndarray) -> Spot:
    return at(exploration, image)


def at(exploration: Exploration, image: np.ndarray, axes: str = "YX", *index: int) -> Spot:
    subject = Subject(Planes(image, axes))
    exploration.session.watch(subject)
    return exploration.spot(subject, index)


@pytest.fixture
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forbids the backbone from now on."""

    def forbid() -> None:
        def refuse(*args: object, **options: object) -> None:
            raise AssertionError("the backbone looked at an image")

        monkeypatch.setattr(FeatureExtractor, "_forward", refuse)

    return forbid


def test_tokens_are_those_of_an_extractor(
    exploration, image, spot, run, tiny_weights, no_backbone
) -> None:
    features, steps = run(exploration.tokens_of(spot))
    assert [step for step in steps if isinstance(step, Progress)] == steps
    assert (steps[-1].done, steps[-1].total) == (2, 2)
    exact = FeatureExtractor(weights=tiny_weights, passes=2, device="cpu", filters=False)
    np.testing.assert_array_equal(features.tokens.data, exact.extract(image).data)
    assert features.tokens.filters == ()
    assert exploration.weights_in_use.startswith("custom:")
    no_backbone()
    again, _ = run(exploration.tokens_of(spot))
    assert again.tokens is features.tokens


def test_what_was_computed_while_painting_is_not_computed_again(
    session: Session, exploration, image, strokes, see, run, no_backbone
) -> None:
    assert session.settings.filters
    see(session, image, strokes)
    exploration.session.store = session.store
    spot = at(exploration, image)
    no_backbone()
    features, _ = run(exploration.tokens_of(spot))
    assert features.tokens.filters == ()
    assert features.tokens.is_complete


def test_facets_are_told_apart_and_kept(exploration, spot, run, no_backbone) -> None:
    found = {}
    for kind in ("tokens", "q", "k", "v"):
        exploration.kind = kind
        found[kind] = run(exploration.components(spot))[0].colours
    attention = run(exploration.attention(spot))[0]
    np.testing.assert_allclose(attention.together, attention.heads.sum(-1), rtol=1e-6)
    kinds = list(found)
    for k, one in enumerate(kinds):
        for other in kinds[k + 1 :]:
            assert (found[one] != found[other]).any()
    no_backbone()
    for kind, colours in found.items():
        exploration.kind = kind
        np.testing.assert_array_equal(run(exploration.components(spot))[0].colours, colours)
    run(exploration.attention(spot))


def test_colours_are_those_of_components_and_can_be_used_again(
    exploration, image, spot, run
) -> None:
    tokens = run(exploration.tokens_of(spot))[0].tokens
    found, _ = run(exploration.components(spot))
    exact = PrincipalComponents.fit([tokens]).rgb(tokens)
    assert found.colours.dtype == np.uint8
    np.testing.assert_allclose(found.colours / 255, exact, atol=0.51 / 255)
    other = at(exploration, image[:, ::-1].copy())
    same, _ = run(exploration.components(other, basis=found.components))
    assert same.components is found.components
    exact = found.components.rgb(run(exploration.tokens_of(other))[0].tokens)
    np.testing.assert_allclose(same.colours / 255, exact, atol=0.51 / 255)
    exploration.kind = "k"
    with pytest.raises(SettingsMismatchError):
        run(exploration.components(other, basis=found.components))


def test_a_stack_is_coloured_with_one_basis(exploration, image, run) -> None:
    stack = np.stack([np.roll(image, 5 * k, 1) for k in range(12)])
    subject = Subject(Planes(stack, "TYX"))
    exploration.session.watch(subject)
    basis, steps = run(exploration.components_of_stack(subject))
    found = [step for step in steps if isinstance(step, Coloured)]
    assert [one.spot.place.plane for one in found] == [(k,) for k in range(12)]
    assert all(one.components is basis for one in found)
    # Sampled evenly, the first and the last frame among them.
    sampled = [
        run(exploration.tokens_of(found[k].spot))[0].tokens for k in (0, 2, 3, 5, 6, 8, 9, 11)
    ]
    exact = PrincipalComponents.fit(sampled)
    np.testing.assert_allclose(basis.components, exact.components, atol=1e-5)


def test_similarity_of_pixels_and_regions(exploration, image, spot, run) -> None:
    alike, _ = run(exploration.similarity(spot))
    here = alike.to_pixel((30, 10))
    assert here[30, 10] == pytest.approx(1, abs=1e-5)
    assert here[:, :21].mean() > here[:, -21:].mean()
    mask = np.zeros(image.shape, bool)
    mask[20:30, 50:60] = True
    mirrored = at(exploration, image[:, ::-1].copy())
    ((one, right), (other, left)) = run(exploration.similar(spot, mask, [mirrored]))[0]
    assert (one, other) == (spot, mirrored)
    assert right[:, -21:].mean() > right[:, :21].mean()
    assert left[:, :21].mean() > left[:, -21:].mean()


def test_foreground(exploration, image, spot, run) -> None:
    tokens = run(exploration.tokens_of(spot))[0].tokens
    by_component, _ = run(exploration.foreground(spot, "component"))
    np.testing.assert_array_equal(by_component, component_foreground(tokens, image))
    by_attention, _ = run(exploration.foreground(spot, "attention"))
    assert 0 < by_attention.mean() < 1
    attention = run(exploration.attention(spot))[0].together
    assert attention[by_attention].mean() > attention[~by_attention].mean()
    with pytest.raises(HRDv2Error, match="attention or component"):
        exploration.foreground(spot, "magic")


def test_clusters_tell_the_halves_apart(exploration, spot, run) -> None:
    options = make_options(n_classes=2, n_clusters=20)
    labels, _ = run(exploration.clusters(spot, options))
    assert set(np.unique(labels)) == {1, 2}
    left, right = (np.bincount(labels[:, part].ravel(), minlength=3) for part in _SIDES)
    assert left.argmax() != right.argmax()


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("within", ["attention", "component"])
def test_clusters_of_the_foreground_alone(exploration, spot, run, within, is_fused) -> None:
    options = make_options(n_classes=3, n_clusters=10, within=within, is_fused=is_fused)
    labels, _ = run(exploration.clusters(spot, options))
    foreground, _ = run(exploration.foreground(spot, within))
    np.testing.assert_array_equal(labels > 0, foreground)
    if not is_fused:
        tokens = run(exploration.tokens_of(spot))[0].tokens
        clusters = Clusters.fit([tokens], 10, masks=[foreground]).merged(n_classes=3)
        np.testing.assert_array_equal(labels, clusters.segment(tokens, foreground))


def test_as_many_classes_as_differ_from_the_background(exploration, spot, run) -> None:
    labels, _ = run(exploration.clusters(spot, make_options(n_classes=None, n_clusters=12)))
    assert 1 <= len(np.unique(labels)) <= 12


@pytest.mark.parametrize("is_fused", [False, True])
def test_refinement_removes_specks(exploration, spot, run, is_fused) -> None:
    options = make_options(n_classes=4, n_clusters=20, is_fused=is_fused)
    before, _ = run(exploration.clusters(spot, options))
    min_size = smallest(before) + 1
    exploration.session.refine(min_size=min_size)
    with warnings.catch_warnings():
        # A class of nothing but specks may go.
        warnings.simplefilter("ignore", RefinementWarning)
        after, _ = run(exploration.clusters(spot, options))
    assert smallest(after) >= min_size


def smallest(labels: np.ndarray) -> int:
    """Pixels of the smallest region of a class, corners included, by flooding."""
    left = {(int(y), int(x)) for y, x in np.ndindex(labels.shape)}
    sizes = []
    while left:
        heap = [left.pop()]
        size = 0
        while heap:
            y, x = heap.pop()
            size += 1
            for there in ((y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                if there in left and labels[there] == labels[y, x]:
                    left.remove(there)
                    heap.append(there)
        sizes.append(size)
    return min(sizes)


def test_what_was_fitted_is_not_fitted_again(
    exploration, spot, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = (
        lambda: exploration.components(spot),
        lambda: exploration.clusters(spot, ClusterOptions(n_clusters=10)),
        lambda: exploration.foreground(spot, "attention"),
    )
    first = [run(job())[0] for job in jobs]

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr("napari_hrdv2._explore.PrincipalComponents.fit", refuse)
    monkeypatch.setattr("napari_hrdv2._explore.Clusters.fit", refuse)
    again = [run(job())[0] for job in jobs]
    np.testing.assert_array_equal(first[0].colours, again[0].colours)
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])
    # Other classes are merged from the same clusters.
    run(exploration.clusters(spot, ClusterOptions(n_clusters=10, n_classes=2)))
    with pytest.raises(AssertionError, match="fitted again"):
        run(exploration.clusters(spot, ClusterOptions(n_clusters=11)))


def test_pixels_changed_in_place_are_seen(exploration, image, spot, run) -> None:
    before, _ = run(exploration.attention(spot))
    image[:, :35] += 2
    after, _ = run(exploration.attention(spot))
    assert (before.together != after.together).any()


def test_channels_are_explored_too(exploration, image, run) -> None:
    channels = np.stack([image, image[:, ::-1]])
    spot = at(exploration, channels, "CYX")
    tokens = run(exploration.tokens_of(spot))[0].tokens
    assert tokens.data.shape[-1] == 2 * 128
    assert run(exploration.foreground(spot, "component"))[0].shape == image.shape
    options = make_options(n_classes=2, is_fused=True)
    assert set(np.unique(run(exploration.clusters(spot, options))[0])) == {1, 2}
    exploration.session.refine(guided=2)
    assert run(exploration.clusters(spot, make_options(n_classes=2, n_clusters=10)))[0].any()


def test_boxes_say_of_which_class_they_are() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[5:25, 10:40] = 2
    labels[40:58, 5:20] = 1
    assert boxed(labels) == (Boxed(Box(5, 10, 25, 40), 2), Boxed(Box(40, 5, 58, 20), 1))
    assert boxed(np.zeros((9, 9), np.uint8)) == ()


def test_a_cancelled_job_ends_within_a_pass(exploration, spot) -> None:
    job = exploration.tokens_of(spot)
    work = job.run()
    assert next(work).text == "Reading the image"
    job.cancel()
    with pytest.raises(Cancelled):
        list(work)


def test_tokens_of_several_images(exploration, image, spot, run) -> None:
    other = at(exploration, image[::-1].copy())
    found, _ = run(exploration.tokens_for([spot, other]))
    assert [one.spot for one in found] == [spot, other]
    assert found[0].tokens.settings == found[1].tokens.settings


def test_what_cannot_be_explored_is_refused(exploration, image) -> None:
    exploration.session.watch(Subject(Planes(image, "YX")))
    large = Subject(Planes(np.broadcast_to(np.uint8(0), (4000, 4000)), "YX"))
    with pytest.raises(ImageError, match=r"4000 x 4000 pixels is too large.*crop it"):
        exploration.spot(large, ())
    channels = Subject(Planes(np.stack([image, image]), "CYX"))
    with pytest.raises(ImageError, match="different channels"):
        exploration.spot(channels, ())
    with pytest.raises(HRDv2Error, match="n_classes"):
        make_options(n_classes=0)


def test_attention_is_that_of_the_extractor(exploration, image, spot, run, tiny_weights) -> None:
    exact = FeatureExtractor(weights=tiny_weights, passes=2, device="cpu", filters=False)
    wanted = attention_maps(exact.facets(image, "attention"))
    np.testing.assert_array_equal(run(exploration.attention(spot))[0].heads, wanted.heads)
