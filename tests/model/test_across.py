"""What several images have in common, as jobs without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.util import img_as_ubyte

from napari_hrdv2 import _across
from napari_hrdv2._across import Across
from napari_hrdv2._explore import Coloured, Exploration
from napari_hrdv2._job import Progress
from napari_hrdv2._retrieval import Indexing
from napari_hrdv2._subject import Subject
from napari_hrdv2.core.cache import CacheWarning
from napari_hrdv2.core.errors import Cancelled, HRDv2Error, ImageWarning, altered
from napari_hrdv2.core.explore import PrincipalComponents, correspondences, cosegment
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.planes import Planes


def done(job: Any) -> Any:
    """What a job returns, and what it yields but for progress."""
    steps, yielded = job.run(), []
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value, yielded
        if not isinstance(step, Progress):
            yielded.append(step)


@pytest.fixture
def exploration(tiny_weights: Path) -> Exploration:
    found = Exploration()
    found.session.use_weights(tiny_weights)
    found.session.configure(passes=2, device="cpu")
    return found


@pytest.fixture
def across(exploration: Exploration) -> Across:
    return Across(exploration)


def spot(exploration: Exploration, image: np.ndarray) -> Any:
    return exploration.spot(Subject(Planes(image, "YX")), ())


def picture(seed: int = 0) -> np.ndarray:
    """A square of stripes on noise."""
    image = np.random.default_rng(seed).normal(100, 20, (70, 84))
    image[14:56, 28:70] = 250 * (np.arange(42) // 3 % 2)
    return image


def test_colours_mean_the_same_in_all_images(exploration):
    spots = [spot(exploration, one) for one in (picture(), picture(1), picture())]
    basis, coloured = done(exploration.components_of(spots))
    assert isinstance(basis, PrincipalComponents)
    assert [one.spot for one in coloured] == spots
    assert all(isinstance(one, Coloured) and one.components is basis for one in coloured)
    np.testing.assert_array_equal(coloured[0].colours, coloured[2].colours)
    features = done(exploration.tokens_for(spots))[0]
    expected = PrincipalComponents.fit([one.tokens for one in features])
    np.testing.assert_array_equal(expected.components, basis.components)


@pytest.mark.parametrize("kind", ["tokens", "k"])
def test_the_common_foreground_is_that_of_the_core(exploration, across, kind, monkeypatch):
    exploration.kind = kind
    spots = [spot(exploration, picture(k)) for k in range(2)]
    found, _ = done(across.cosegment(spots, 2))
    features = done(exploration.tokens_for(spots))[0]
    attentions = [done(exploration.attention(one))[0].together for one in spots]
    expected = cosegment([one.tokens for one in features], attentions)
    for (place, labels), wanted, one in zip(found, expected.labels(2), spots, strict=True):
        assert place is one
        np.testing.assert_array_equal(labels, wanted)
    # Another number of classes does not cluster again.
    monkeypatch.setattr(_across, "cosegment", None)
    (_, labels), _ = done(across.cosegment(spots, 1))[0]
    np.testing.assert_array_equal(labels, expected.masks[0])


def test_one_image_has_nothing_in_common(exploration, across):
    with pytest.raises(HRDv2Error, match="at least two"):
        across.cosegment([spot(exploration, picture())])


def test_points_of_a_moved_copy(exploration, across):
    image = img_as_ubyte(np.random.default_rng(0).random((84, 112)))
    first, second = (spot(exploration, image[:, at : at + 84]) for at in (0, 28))
    found, _ = done(across.points(first, second, 10))
    assert len(found.first) <= 10
    assert np.median(np.abs(found.first - found.second - [0, 28])) <= 3
    common, _ = done(across.points(first, second, 10, in_common=True))
    masks = [labels > 0 for _, labels in done(across.cosegment([first, second]))[0]]
    assert len(common.first) > 0
    assert all(masks[0][tuple(one)] for one in common.first)


def test_points_of_images_of_which_one_may_be_turned(exploration, across):
    spots = [spot(exploration, picture(k)) for k in range(2)]
    (found, _) = done(across.points(*spots, 10, turned=True))
    settings = exploration.session.settings
    extractor = FeatureExtractor(
        altered(settings, rotations=True, move_positions=False, passes=8),
        weights=exploration.session.weights,
    )
    expected = correspondences(*(extractor.extract(picture(k)) for k in range(2)), count=10)
    np.testing.assert_array_equal(found.second, expected.second)
    # What is explored next is explored as before.
    (features, *_), _ = done(exploration.tokens_for(spots))
    assert features.tokens.settings.rotations is False


def test_points_without_anything_in_common_are_told(exploration, across, monkeypatch):
    spots = [spot(exploration, picture(k)) for k in range(2)]
    found = cosegment(
        [one.tokens for one in done(exploration.tokens_for(spots))[0]],
        [np.ones((70, 84)), np.ones((70, 84))],
    )
    nothing = found._replace(is_salient=found.is_salient & False)
    monkeypatch.setattr(_across, "cosegment", lambda *args: nothing)
    with pytest.raises(HRDv2Error, match="no common foreground"):
        done(across.points(*spots, in_common=True))


# --- retrieval


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of noise, and one of stripes."""
    found = tmp_path / "images"
    found.mkdir()
    rng = np.random.default_rng(5)
    for k in range(3):
        noise = img_as_ubyte(rng.random((70, 84)))
        Image.fromarray(noise if k != 1 else picture(7).clip(0, 255).astype(np.uint8)).save(
            found / f"{k}.png"
        )
    return found


MASK = np.zeros((70, 84), bool)
MASK[20:50, 34:64] = True


def test_the_like_of_a_region_is_found_and_looked_at(exploration, across, folder):
    (index, found), _ = done(across.retrieve(spot(exploration, picture()), MASK, folder))
    best = found[0]
    assert best.plane.path == "1.png"
    rows, columns = np.nonzero(index.mask(best))
    assert 13 < np.median(rows) < 56
    assert 27 < np.median(columns) < 70
    sight, _ = done(across.look(index, best))
    assert sight.path == folder / "1.png"
    assert not sight.has_channels
    np.testing.assert_array_equal(sight.pixels, np.asarray(Image.open(folder / "1.png")))
    np.testing.assert_array_equal(sight.mask, index.mask(best))


def test_the_index_is_kept_until_the_folder_changes(exploration, across, folder, monkeypatch):
    here = spot(exploration, picture())
    runs = []
    run = Indexing.run
    monkeypatch.setattr(Indexing, "run", lambda self: runs.append(self) or run(self))
    first, _ = done(across.retrieve(here, MASK, folder, "grid"))
    again, _ = done(across.retrieve(here, MASK, folder, "grid"))
    fresh, _ = done(Across(exploration).retrieve(here, MASK, folder, "grid"))
    assert len(runs) == 1
    assert first.found == again.found == fresh.found
    done(across.retrieve(here, MASK, folder, "superpixels"))
    assert len(runs) == 2
    exploration.kind = "k"
    done(across.retrieve(here, MASK, folder, "grid"))
    assert len(runs) == 3
    exploration.kind = "tokens"
    (folder / "0.png").unlink()
    less, _ = done(across.retrieve(here, MASK, folder, "grid"))
    assert len(runs) == 4
    assert {one.plane.path for one in less.found} == {"1.png", "2.png"}
    kept = _across.index_path(runs[0])
    assert kept.is_file()
    assert kept != _across.index_path(runs[1])
    kept.write_bytes(b"damaged")
    done(Across(exploration).retrieve(here, MASK, folder, "grid"))
    assert len(runs) == 5


def test_nothing_is_kept_where_nothing_is_to_be_kept(exploration, across, folder, monkeypatch):
    here = spot(exploration, picture())
    runs = []
    run = Indexing.run
    monkeypatch.setattr(Indexing, "run", lambda self: runs.append(self) or run(self))
    exploration.session.store.budget = 0
    done(across.retrieve(here, MASK, folder, "grid"))
    assert not _across.index_path(runs[0]).parent.exists()
    exploration.session.store.budget = 10**9
    kept_in = _across.index_path(runs[0]).parent
    kept_in.parent.mkdir(exist_ok=True)
    kept_in.write_text("in the way")
    with pytest.warns(CacheWarning, match="made again"):
        done(Across(exploration).retrieve(here, MASK, folder, "grid"))


def test_what_cannot_be_read_is_told_and_the_rest_ranked(exploration, across, folder):
    (folder / "0.png").write_bytes(b"no image")
    with pytest.warns(ImageWarning, match=r"0\.png is left out"):
        (_, found), _ = done(
            across.retrieve(spot(exploration, picture()), MASK, folder, "superpixels")
        )
    assert len(found) == 50
    assert {one.plane.path for one in found} <= {"1.png", "2.png"}


def test_cancelling_ends_the_indexing(exploration, across, folder):
    job = across.retrieve(spot(exploration, picture()), MASK, folder)
    steps = job.run()
    while next(steps).text != "1.png":
        pass
    job.cancel()
    with pytest.raises(Cancelled):
        next(steps)


def test_what_cannot_be_is_said(exploration, across, tmp_path):
    here = spot(exploration, picture())
    with pytest.raises(HRDv2Error, match="empty"):
        across.retrieve(here, MASK & False, tmp_path)
    with pytest.raises(HRDv2Error, match="no folder"):
        across.retrieve(here, MASK, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HRDv2Error, match="holds no image"):
        done(across.retrieve(here, MASK, tmp_path / "empty"))


def test_attention_seen_before_is_not_computed(exploration, across, monkeypatch):
    spots = [spot(exploration, picture(k)) for k in range(2)]
    before = done(exploration.attention(spots[0]))[0]
    exploration.session.memory.clear()
    monkeypatch.setattr(FeatureExtractor, "_forward", None)
    after = done(exploration.attention(spots[0]))[0]
    np.testing.assert_array_equal(before.together, after.together)
