"""Tiny data sets in the layouts of large ones, and methods whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_hrdv2._evaluate import Document, Evaluation, Event, run


@dataclass
class Stub:
    """A method that knows an image by the value of its first pixel."""

    answers: Mapping[int, Any]
    settings: Mapping[str, Any] = field(default_factory=lambda: {"method": "stub"})
    seen: list[int] = field(default_factory=list)

    def __call__(self, image: np.ndarray) -> Any:
        self.seen.append(key := round(float(image[0, 0].mean())))
        return self.answers[key]


@dataclass
class StubOfMany(Stub):
    """The same of several images together."""

    def __call__(self, images: Sequence[np.ndarray]) -> Any:
        return [super(StubOfMany, self).__call__(one) for one in images]


def finish(evaluation: Evaluation, output: Path, **options: bool) -> tuple[list[Event], Document]:
    """Run to the end: what was told, and the results."""
    events, job = [], run(evaluation, output, **options)
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return events, end.value


def check_resumes(make: Callable[[], Evaluation], folder: Path, count: int) -> None:
    """A run that is interrupted anywhere, in a write too, ends in the file of one that is not."""
    finish(make(), folder / "whole.json")
    for done in range(1, count):
        out = folder / f"resumed{done}.json"
        assert len(list(islice(run(make(), out), done))) == done
        rows = out.with_suffix(".partial") / "rows.jsonl"
        rows.write_bytes(rows.read_bytes()[: -5 if done % 2 else None])
        events, _ = finish(make(), out)
        kept = [one.kind for one in events].count("kept")
        assert kept == (done - 1 if done % 2 else done)
        assert out.read_bytes() == (folder / "whole.json").read_bytes()


def save_image(path: Path, value: int, shape: tuple[int, int] = (20, 30)) -> None:
    """A grey JPEG of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path, quality=100)


def save_noise(path: Path, seed: int, shape: tuple[int, int] = (56, 70)) -> None:
    """A JPEG of colours with a rectangle that differs."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (*shape, 3))
    pixels[14:42, 14:42] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def save_levels(path: Path, levels: np.ndarray) -> None:
    """A PNG of grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.astype(np.uint8)).save(path)


def save_palette(path: Path, labels: np.ndarray) -> None:
    """A PNG with a palette, whose indices are labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([(37 * k + 11) % 256 for k in range(768)])
    image.save(path)


def rectangle(
    top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (20, 30)
) -> np.ndarray:
    """A mask of rows top ... bottom - 1 and columns left ... right - 1."""
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def write_list(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def annotation(*objects: str) -> str:
    """A file of VOC's Annotations."""
    size = "<size><width>30</width><height>20</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC</folder>{size}{''.join(objects)}</annotation>"


def voc_object(
    left: float, top: float, right: float, bottom: float, *, difficult: int = 0, truncated: int = 0
) -> str:
    """An object in it, corners from 1 on and inclusive; it has a part, with a box of its own."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True)
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax>"
    part += "<ymax>20</ymax></bndbox></part>"
    flags = f"<truncated>{truncated}</truncated><difficult>{difficult}</difficult>"
    return f"<object><name>cat</name>{part}{flags}<bndbox>{box}</bndbox></object>"
