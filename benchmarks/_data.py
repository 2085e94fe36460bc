"""Where the benchmark data lies, and how it is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from skimage import color, data, draw, filters, io, segmentation

from napari_hrdv2._evaluate.scribbles import Sample

VARIABLE = "NAPARI_HRDV2_DATA"


def folder() -> Path:
    """The folder with the data, or the end of the program (code 0), saying so, without one."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get(VARIABLE) or default)
    if not path.is_dir():
        print(f"skipped: there is no benchmark data in {path}; the variable {VARIABLE} names it")
        sys.exit(0)
    return path


def samples(data: Path, name: str) -> list[Sample]:
    """All images of one folder that have a truth, by name."""
    found = []
    for truth in sorted((data / name).glob("*_truth.png")):
        stem = truth.name.removesuffix("_truth.png")
        found.append(Sample(stem, io.imread(truth.with_name(f"{stem}.png")), io.imread(truth)))
    if not found:
        print(f"skipped: {data} holds no {name}")
        sys.exit(0)
    return found


def bundled() -> list[Sample]:
    """Images of several kinds that come with scikit-image, or are drawn, and truths made from them.

    Objects on a ground, small and dim ones among them, print, stained tissue, and textures that
    only their look tells apart; 512 x 512 at most.
    """
    rng = np.random.default_rng(0)
    coins = data.coins()
    marks = np.zeros(coins.shape, np.uint8)
    marks[coins < 30], marks[coins > 150] = 1, 2
    coin_truth = segmentation.watershed(filters.sobel(coins), marks).astype(np.uint8)

    sky = data.hubble_deep_field()[:512, :512]
    bright = filters.gaussian(color.rgb2gray(sky), 1.5)
    sky_truth = 1 + (bright > np.percentile(bright, 96)).astype(np.uint8)

    page = data.page()
    page_truth = 1 + (page < filters.threshold_sauvola(page, 31)).astype(np.uint8)

    tissue = data.immunohistochemistry()
    stains = [filters.gaussian(color.rgb2hed(tissue)[..., k], 2) for k in (0, 2)]
    tissue_truth = np.ones(tissue.shape[:2], np.uint8)
    for label, stain in zip((2, 3), stains, strict=True):
        tissue_truth[stain > filters.threshold_otsu(stain)] = label

    textures = [one()[:512, :512] for one in (data.brick, data.grass, data.gravel)]
    y, x = np.mgrid[:512, :512]
    texture_truth = (1 + (y + x + 60 * np.sin(x / 40) + 60 * np.cos(y / 50)) // 180 % 3).astype(
        np.uint8
    )
    mosaic = np.choose(texture_truth - 1, textures)

    nuclei_truth = np.ones((512, 512), np.uint8)
    brightness = np.zeros((512, 512))
    for _ in range(220):
        middle, radii = rng.uniform(0, 512, 2), rng.uniform(4, 9, 2)
        inside = draw.ellipse(*middle, *radii, shape=(512, 512), rotation=rng.uniform(0, np.pi))
        brightness[inside], nuclei_truth[inside] = rng.uniform(20, 80), 2
    nuclei = rng.poisson(filters.gaussian(brightness, 2) + 4).astype(np.uint16)
    return [
        Sample("coins", coins, coin_truth),
        Sample("galaxies", sky, sky_truth),
        Sample("page", page, page_truth),
        Sample("tissue", tissue, tissue_truth),
        Sample("textures", mosaic, texture_truth),
        Sample("nuclei", nuclei, nuclei_truth),
    ]
