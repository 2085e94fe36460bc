"""Where the benchmark data lies, and how it is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from skimage import io

VARIABLE = "NAPARI_HRDV2_DATA"


class Sample(NamedTuple):
    """One micrograph of the benchmark data.

    Attributes
    ----------
    name
        File name without its ending.
    image
        (h, w) grey.
    truth
        (h, w) of labels, 0 where unknown.
    """

    name: str
    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]


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
