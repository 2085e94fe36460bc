"""Backbones side by side on one image: what their features show, their time and memory.

Every backbone works in a fresh process, whose memory tells nothing of the others'. Positions are as
they are, as not every backbone's can be moved.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field
from skimage.color import label2rgb
from sklearn.metrics import accuracy_score, jaccard_score

from ._comparison import Task, _drawn, _fitted, _held_out
from ._picture import viridis
from .core.backbone import FacetBackbone
from .core.base import default_class
from .core.classifier import PixelClassifier
from .core.devices import choose_device
from .core.errors import HRDv2Error, WeightsError
from .core.explore import PrincipalComponents, attention_maps
from .core.extraction import FeatureExtractor, make_settings
from .core.memory import peak_memory
from .core.normalise import stretch
from .core.settings import Settings
from .core.strokes import StrokeRows, Training
from .core.timm_backbone import PREFIX
from .core.tokens import Tokens
from .core.weights import Progress, TrustedWeightsWarning, Weights, find

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer]

#: One backbone of each kind.
BY_DEFAULT = (
    "dino_vits16",
    "dinov2_vits14",
    "dinov2_vits14_reg",
    "deit_vits16",
    "augreg_vits16",
    "timm:samvit_base_patch16.sa1b",
    "timm:vit_small_patch16_dinov3.lvd1689m",
)
# Painted pixels of a class that a probe learns from.
_PAINTED = 2000
_TINY_PX = 64
_SIDE_PX, _GAP_PX, _ABOUT_PX, _LINE_PX = 224, 8, 236, 18
_CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors")


class BackboneScore(BaseModel):
    """What was found of one backbone."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="The backbone.")
    settings: Settings = Field(description="Of its tokens.")
    channels: int = Field(description="Channels of a token (a count).")
    blocks: int = Field(description="Blocks of the backbone (a count), whatever the depth used.")
    parameters: int = Field(description="Parameters of the backbone (a count).")
    has_attention: bool = Field(description="Whether its attention can be looked into.")
    seconds: float = Field(description="A pass (seconds).")
    peak_bytes: int | None = Field(
        description="Memory that all passes took at the peak, weights and Python aside (bytes); "
        "null where it cannot be measured."
    )
    mean_iou: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")
    accuracy: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")


class BackboneComparison(BaseModel):
    """What was found on an image, as it is written to JSON."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(description="Name of the image.")
    shape: tuple[int, int] = Field(description="Its height and width (pixels).")
    device: str = Field(description="Where it was computed.")
    threads: int = Field(description="Threads on the CPU (a count).")
    probe: str | None = Field(description="What a linear probe was trained and tested on.")
    backbones: tuple[BackboneScore, ...] = Field(description="In the order asked for.")
    missing: dict[str, str] = Field(
        description="Names of backbones that could not be had, each with the reason."
    )


class BackbonePanel(BaseModel):
    """What the picture shows of one backbone."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    score: BackboneScore
    colours: Floats
    attention: Floats | None
    labels: Labels | None


class Candidate(NamedTuple):
    """A backbone that is asked for.

    Attributes
    ----------
    name
        What it is called in the results.
    model
        Name of the model, as :func:`.find` knows it.
    weights
        Its file, or a folder that holds it, in the place of a download.
    """

    name: str
    model: str
    weights: Path | None

    @classmethod
    def of(cls, text: str, folder: Path | None = None) -> Candidate:
        """From ``NAME``, ``FILE`` or ``NAME=FILE``.

        Parameters
        ----------
        text
            What was asked for.
        folder
            Holds the official files of models that are named alone, timm's aside.

        Raises
        ------
        WeightsError
            If nothing is named.
        """
        name, equals, path = (part.strip() for part in text.partition("="))
        if not name or (equals and not path):
            raise WeightsError(f"{text!r} names no backbone: NAME, FILE or NAME=FILE is wanted")
        if equals:
            return cls(name, name, Path(path))
        if name.endswith(_CHECKPOINTS):
            return cls(Path(name).stem, "auto", Path(name))
        return cls(name, name, None if name.startswith(PREFIX) else folder)


@dataclass(frozen=True, eq=False)
class _Job:
    name: str
    settings: Settings
    weights: Path
    device: str
    threads: int
    image: npt.NDArray[np.generic]
    task: Task | None


def compare_backbones(
    image: npt.NDArray[np.generic],
    name: str,
    candidates: Sequence[Candidate],
    task: Task | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    on_step: Callable[[str], None] = lambda name: None,
    on_missing: Callable[[str, str], None] = lambda name, reason: None,
    **settings: Any,
) -> tuple[BackboneComparison, list[BackbonePanel]]:
    """Set backbones side by side on an image.

    Parameters
    ----------
    image
        (h, w) or (h, w, 3 or 4), any real dtype.
    name
        Its name.
    candidates
        The backbones, of different names.
    task
        For a linear probe.
    device
        As for :class:`.FeatureExtractor`.
    progress
        Called while weights are downloaded.
    on_step
        Called with the name of each before its turn.
    on_missing
        Called with the name of one that cannot be had, and the reason.
    **settings
        Fields of :class:`.Settings`.

    Returns
    -------
    BackboneComparison, list of BackbonePanel
        Of those that could be had.

    Raises
    ------
    HRDv2Error
        If none can be had, two have one name, or the image or settings cannot be used.
    """
    names = [one.name for one in candidates]
    for one in names:
        if names.count(one) > 1:
            raise HRDv2Error(f"two backbones are called {one}: name one of them NAME=FILE")
    wanted = make_settings(None, **settings | {"filters": False, "move_positions": False})
    # What is wrong with these, is wrong for all.
    choose_device(device)
    stretch(image)
    panels, missing = [], {}
    for candidate in candidates:
        on_step(candidate.name)
        try:
            weights = find(candidate.model, candidate.weights, progress)
            panels.append(_measured_apart(candidate.name, weights, wanted, device, image, task))
        except HRDv2Error as error:
            missing[candidate.name] = str(error)
            on_missing(candidate.name, str(error))
    if not panels:
        first = next(iter(missing.items()), ("none", "none was named"))
        raise HRDv2Error(f"none of the backbones can be had; {first[0]}: {first[1]}")
    comparison = BackboneComparison(
        image=name,
        shape=(image.shape[0], image.shape[1]),
        device=device,
        threads=torch.get_num_threads(),
        probe=None if task is None else task.description,
        backbones=tuple(one.score for one in panels),
        missing=missing,
    )
    return comparison, panels


def _measured_apart(
    name: str,
    weights: Weights,
    settings: Settings,
    device: str,
    image: npt.NDArray[np.generic],
    task: Task | None,
) -> BackbonePanel:
    """Let a backbone work in a fresh process."""
    chosen = make_settings(settings, model=weights.name)
    job = _Job(name, chosen, weights.path, device, torch.get_num_threads(), image, task)
    # Forked from one that has imported all this and done nothing: a new one takes no second.
    linux = sys.platform == "linux"
    context = multiprocessing.get_context("forkserver" if linux else "spawn")
    if linux:
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measured, job).result()
        except BrokenProcessPool:
            raise WeightsError(
                "its process ended before its work was done: the memory may be too small for it"
            ) from None


def _measured(job: _Job) -> BackbonePanel:
    """Let a backbone work, and find out how well."""
    torch.set_num_threads(job.threads)
    with warnings.catch_warnings():
        # Told where the weights were found.
        warnings.simplefilter("ignore", TrustedWeightsWarning)
        extractor = FeatureExtractor(job.settings, device=job.device, weights=job.weights)
    extractor.extract(np.tile(np.array([0, 1], np.uint8), (_TINY_PX, _TINY_PX // 2)))
    with peak_memory(extractor.device) as peak:
        start = time.perf_counter()
        tokens = extractor.extract(job.image)
        if extractor.device.type == "cuda":
            torch.cuda.synchronize(extractor.device)
        seconds = time.perf_counter() - start
    backbone = extractor.backbone
    attention = None
    if isinstance(backbone, FacetBackbone):
        attention = attention_maps(extractor.facets(job.image, "attention")).together
    mean_iou, accuracy, labels = _probed(job.task, tokens)
    score = BackboneScore(
        name=job.name,
        settings=extractor.settings,
        channels=backbone.dim,
        blocks=backbone.depth,
        parameters=sum(one.numel() for one in backbone.parameters()),
        has_attention=attention is not None,
        seconds=seconds / tokens.passes,
        peak_bytes=peak.growth,
        mean_iou=mean_iou,
        accuracy=accuracy,
    )
    colours = PrincipalComponents.fit([tokens]).rgb(tokens)
    return BackbonePanel(score=score, colours=colours, attention=attention, labels=labels)


def _probed(
    task: Task | None, tokens: Tokens
) -> tuple[float | None, float | None, npt.NDArray[np.uint16] | None]:
    """Mean IoU and accuracy of a linear probe, the mean of several, and the first one's labels."""
    if task is None:
        return None, None, None
    found, pairs = [], []
    for drawing in task.drawings:
        labels = PixelClassifier(max_pixels=_PAINTED).fit(tokens, drawing).predict(tokens)
        found.append(labels)
        if task.truth is None:
            training = Training.of(tokens, drawing, StrokeRows(), _PAINTED)
            pairs.append(_held_out(training, tokens.settings))
        else:
            tested = (task.truth > 0) & (drawing == 0)
            pairs.append((task.truth[tested], labels[tested]))
    ious = [
        jaccard_score(truth, labels, labels=np.unique(truth), average="macro")
        for truth, labels in pairs
    ]
    accuracies = [accuracy_score(*pair) for pair in pairs]
    return float(np.mean(ious)), float(np.mean(accuracies)), found[0]


def backbones_picture(
    image: npt.NDArray[np.generic], panels: Sequence[BackbonePanel], task: Task | None
) -> Image.Image:
    """Draw what was compared, a row for every backbone below that of the image.

    Parameters
    ----------
    image
        (h, w) or (h, w, 3 or 4).
    panels
        As :func:`compare_backbones` returns them.
    task
        Whose labels are drawn beside the image.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    h, w = image.shape[:2]
    grey = np.broadcast_to(stretch(image), (h, w, 3))
    with_attention = any(one.attention is not None for one in panels)
    titles = ["principal components", *["attention"] * with_attention]
    titles += ["linear probe"] * (task is not None)
    rows: list[tuple[list[str], list[npt.NDArray[np.floating] | None]]] = []
    rows.append((["image", f"{h} x {w}"], [grey, _drawn(grey, task)]))
    for panel in panels:
        shown: list[npt.NDArray[np.floating] | None] = [panel.colours]
        if with_attention:
            shown.append(None if panel.attention is None else _heat(panel.attention))
        if panel.labels is not None:
            palette = {int(k): default_class(int(k)).colour[:3] for k in np.unique(panel.labels)}
            drawn = label2rgb(panel.labels, grey, list(palette.values()), alpha=0.55)
            shown.append(drawn)
        rows.append((_about(panel.score), shown))
    height = round(_SIDE_PX * h / max(h, w))
    width = round(_SIDE_PX * w / max(h, w))
    across, down = width + _GAP_PX, max(height, 6 * _LINE_PX) + _GAP_PX
    columns = max(len(titles), 2 if task else 1)
    top = _LINE_PX + _GAP_PX
    size = (_ABOUT_PX + columns * across + _GAP_PX, 2 * top + len(rows) * down)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for k, (lines, pictures) in enumerate(rows):
        y = _GAP_PX + k * down + (k > 0) * top
        for n, line in enumerate(lines):
            while draw.textlength(line, font) > _ABOUT_PX - 2 * _GAP_PX:
                line = line[:-1]
            draw.text((_GAP_PX, y + n * _LINE_PX), line, "black", font)
        for column, one in enumerate(pictures):
            if one is not None:
                canvas.paste(_fitted(one), (_ABOUT_PX + column * across, y))
    for column, title in enumerate(titles):
        draw.text((_ABOUT_PX + column * across, _GAP_PX + down), title, "black", font)
    return canvas


def _about(score: BackboneScore) -> list[str]:
    """What is told of a backbone beside its pictures."""
    settings = score.settings
    lines = [
        score.name,
        f"patch {settings.patch}, stride {settings.stride}, {score.channels} channels",
        f"{score.parameters / 1e6:.1f} million parameters",
        f"{score.seconds:.2f} s a pass",
    ]
    if score.mean_iou is not None:
        lines.append(f"mean IoU {score.mean_iou:.3f}, accuracy {score.accuracy:.3f}")
    if not score.has_attention:
        lines.append("no attention to be seen")
    return lines


def _heat(values: Floats) -> npt.NDArray[np.floating]:
    """Values (h, w) as colours (h, w, 3) in [0, 1]."""
    low, high = np.percentile(values, (1, 99))
    return viridis((values - low) / (high - low if high > low else 1)) / 255
