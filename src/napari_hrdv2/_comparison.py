"""Upsamplers side by side on one image: their time and memory, their pictures and errors.

Every upsampler works in a fresh process, whose memory tells nothing of the others'. What it is
held against, docs/upsamplers.md says.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage as ndi
from skimage.measure import label as connected
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, jaccard_score

from ._picture import viridis
from .core.base import default_class
from .core.classifier import PixelClassifier
from .core.errors import HRDv2Error, StrokesError
from .core.explore import PrincipalComponents
from .core.explore.common import sampled
from .core.extraction import FeatureExtractor
from .core.memory import peak_memory
from .core.normalise import stretch
from .core.settings import Settings
from .core.simulate import simulate_strokes
from .core.strokes import Training, thinned
from .core.tokens import Tokens
from .core.tuning import stroke_folds
from .core.upsample import project
from .core.upsamplers import InterpolatedPasses, PixelFeatures, Upsampler

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer]

REFERENCE_PASSES = 16
_COMPONENTS = 64
# Pixels at which features are mapped to the reference's, and the penalty's share of their number.
_PIXELS, _PENALTY = 6000, 1e-3
# Painted pixels of a class that a probe learns from; the share that is painted where only the
# truth is known, and how many times.
_PAINTED, _FRACTION, _SEEDS = 2000, 0.005, 3
# About what tokens are regularised with by default, but fixed: figures are to stay comparable.
_C = 0.0027
_TINY_PX = 64
_SIDE_PX, _CROPS, _GAP_PX, _TEXT_PX = 224, 5, 8, 40


class Score(BaseModel):
    """What was found of one upsampler."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="The upsampler.")
    passes: int = Field(description="Images that the backbone looked at (a count).")
    stride: int = Field(description="Distance of the tokens of a pass (pixels).")
    channels: int = Field(description="Features of a pixel (a count).")
    seconds_tokens: float = Field(description="From the image to its tokens (seconds).")
    seconds_maps: float = Field(
        description="From tokens to three maps of the image's size (seconds)."
    )
    peak_bytes: int | None = Field(
        description="Memory that both took at the peak, weights and Python aside (bytes); null "
        "where it cannot be measured."
    )
    error: float = Field(
        description="Root mean square of what an affine map of the features leaves of the "
        "reference's, over the reference's own deviation (a ratio): 0 is the reference, 1 is no "
        "better than its mean."
    )
    mean_iou: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")
    accuracy: float | None = Field(None, description="Of a linear probe's labels, in [0, 1].")


class Comparison(BaseModel):
    """What was found on an image, as it is written to JSON."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    image: str = Field(description="Name of the image.")
    shape: tuple[int, int] = Field(description="Its height and width (pixels).")
    settings: Settings = Field(description="Of all tokens, but for what an upsampler wants.")
    device: str = Field(description="Where it was computed.")
    threads: int = Field(description="Threads on the CPU (a count).")
    components: int = Field(description="Principal components of the reference (a count).")
    variance: float = Field(description="Share of its variance that these hold, in [0, 1].")
    probe: str | None = Field(description="What a linear probe was trained and tested on.")
    upsamplers: tuple[Score, ...] = Field(description="The reference first.")


@dataclass(frozen=True, eq=False)
class Task:
    """What a linear probe learns, and what it is tested on.

    Attributes
    ----------
    drawings
        Of each training (h, w) of labels, 0 where not painted.
    truth
        (h, w) of labels, 0 where unknown; without one, strokes are held out.
    """

    drawings: tuple[Labels, ...]
    truth: Labels | None

    @classmethod
    def of(cls, strokes: Labels | None, truth: Labels | None) -> Task | None:
        """From what is known of an image, if anything is.

        Raises
        ------
        StrokesError
            If that does not suffice for a probe.
        """
        for what in (strokes, truth):
            if what is not None and len(np.unique(what[what > 0])) < 2:
                raise StrokesError("a linear probe wants at least two classes")
        if strokes is not None:
            if truth is None and not _has_pairs(strokes):
                raise StrokesError(
                    "a linear probe is tested on strokes held out: paint at least two strokes of "
                    "two classes, or give the truth"
                )
            return cls((strokes,), truth)
        if truth is None:
            return None
        drawn = tuple(simulate_strokes(truth, _FRACTION, seed) for seed in range(_SEEDS))
        return cls(drawn, truth)

    @property
    def description(self) -> str:
        """What a probe is trained and tested on, for people."""
        if self.truth is None:
            return "strokes, tested on strokes held out"
        if len(self.drawings) == 1:
            return "strokes, tested on the truth"
        return (
            f"strokes simulated on {_FRACTION:.1%} of each class, {len(self.drawings)} times, "
            "tested on the rest of the truth"
        )

    @property
    def shown(self) -> Labels:
        """Labels to draw."""
        return self.drawings[0] if self.truth is None else self.truth


def _has_pairs(strokes: Labels) -> bool:
    """Whether two classes at least have two strokes."""
    pieces = connected(strokes)
    labels = [strokes[pieces == k][0] for k in range(1, pieces.max() + 1)]
    return bool((np.bincount(labels) > 1).sum() > 1)


class Panel(BaseModel):
    """What the picture shows of one upsampler."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    score: Score
    colours: Floats
    errors: Floats


@dataclass(frozen=True, eq=False)
class _Reference:
    """Features that the others are held against.

    Attributes
    ----------
    path
        Of their principal components (h, w, K) as a NumPy file.
    levels
        (3, 2), values of the first that become 0 and 1 in colours.
    variance
        Share of the tokens' variance that they hold.
    """

    path: Path
    levels: Floats
    variance: float

    def maps(self) -> Floats:
        found: Floats = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return found

    def colours(self, maps: Floats) -> Floats:
        low, high = self.levels.T
        shown: Floats = np.clip((maps[..., :3] - low) / np.where(high > low, high - low, 1), 0, 1)
        return shown


@dataclass(frozen=True, eq=False)
class _Job:
    upsampler: Upsampler
    settings: Settings
    weights: Path
    device: str
    threads: int
    image: npt.NDArray[np.generic]
    task: Task | None
    reference: Path | _Reference


def compare_upsamplers(
    image: npt.NDArray[np.generic],
    name: str,
    upsamplers: Sequence[Upsampler],
    extractor: FeatureExtractor,
    task: Task | None = None,
    reference_passes: int = REFERENCE_PASSES,
    on_step: Callable[[str], None] = lambda name: None,
) -> tuple[Comparison, list[Panel]]:
    """Set upsamplers side by side on an image.

    Parameters
    ----------
    image
        (h, w) or (h, w, 3 or 4), any real dtype.
    name
        Its name.
    upsamplers
        Of different names.
    extractor
        Whose backbone, depth and device are used.
    task
        For a linear probe.
    reference_passes
        Of the reference, at half a patch as the stride.
    on_step
        Called with the name of each before its turn.

    Returns
    -------
    Comparison, list of Panel
        Of the reference first, then in the order given.

    Raises
    ------
    HRDv2Error
        If an upsampler fails, or its process ends; the message says which.
    """
    own = InterpolatedPasses("reference", passes=reference_passes, stride="half")
    everyone = [own, *upsamplers]
    names = [one.name for one in everyone]
    for name_ in names:
        if names.count(name_) > 1:
            raise HRDv2Error(
                f"two upsamplers are called {name_}: leave one out, or rename its file"
            )
    # Positions as they are: what moving them does to features is not what is compared.
    settings = extractor.settings.model_copy(update={"filters": False, "move_positions": False})
    for one in everyone:
        one.settings(settings)
    panels = []
    with tempfile.TemporaryDirectory(prefix="napari-hrdv2-") as folder:
        job = _Job(
            own,
            settings,
            extractor.weights.path,
            str(extractor.device),
            torch.get_num_threads(),
            image,
            task,
            Path(folder) / "reference.npy",
        )
        for one in everyone:
            on_step(one.name)
            panel, reference = _in_fresh_process(replace(job, upsampler=one))
            job = replace(job, reference=reference)
            panels.append(panel)
        count = reference.maps().shape[-1]
    comparison = Comparison(
        image=name,
        shape=(image.shape[0], image.shape[1]),
        settings=settings,
        device=job.device,
        threads=job.threads,
        components=count,
        variance=reference.variance,
        probe=None if task is None else task.description,
        upsamplers=tuple(one.score for one in panels),
    )
    return comparison, panels


def _in_fresh_process(job: _Job) -> tuple[Panel, _Reference]:
    # Forked from one that has imported all this and done nothing: a new one takes no second.
    linux = sys.platform == "linux"
    # Its type does not tell of processes.
    context: Any = multiprocessing.get_context("forkserver" if linux else "spawn")
    if linux:
        context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    # No pool, whose processes would wait for ever after this one was killed.
    process = context.Process(target=_send, args=(job, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        raise HRDv2Error(
            f"the process of the upsampler {job.upsampler.name} ended before its work was done: "
            "the memory may be too small for it"
        ) from None
    finally:
        receiver.close()
        process.terminate()
        process.join()
    if isinstance(found, Exception):
        raise found
    panel, reference = found
    return panel, reference


def _send(job: _Job, sender: Connection) -> None:
    """What :func:`_measured` returns or raises, to the process that waits for it."""
    try:
        found: object = _measured(job)
    except Exception as error:
        found = error
    sender.send(found)


def _measured(job: _Job) -> tuple[Panel, _Reference]:
    """Let an upsampler work, and find out how well."""
    torch.set_num_threads(job.threads)
    settings = job.upsampler.settings(job.settings)
    extractor = FeatureExtractor(settings, device=job.device, weights=job.weights)
    extractor.extract(np.tile(np.array([0, 1], np.uint8), (_TINY_PX, _TINY_PX // 2)))
    with peak_memory(extractor.device) as peak:
        start = time.perf_counter()
        tokens = extractor.extract(job.image)
        if extractor.device.type == "cuda":
            torch.cuda.synchronize(extractor.device)
        extracted = time.perf_counter()
        features = job.upsampler.upsample(job.image, tokens)
        features.maps(np.eye(3, features.channels, dtype=np.float32))
        upsampled = time.perf_counter()
    seen, drawn = _pixels(job)
    rows = features.rows(np.concatenate([seen, *drawn]))
    parts = np.split(rows, np.cumsum([len(seen), *map(len, drawn)])[:-1])
    if isinstance(job.reference, Path):
        reference = _refer(tokens, features, job.reference)
        maps = target = reference.maps()
    else:
        reference = job.reference
        target = reference.maps()
        maps = features.maps(*_affine(parts[0], target[seen[:, 0], seen[:, 1]]))
    squares = np.square(maps - target).sum(-1)
    deviation = np.square(target - target.mean((0, 1))).sum(-1).mean()
    errors = np.sqrt(squares / max(deviation, np.finfo(np.float32).tiny)).astype(np.float32)
    mean_iou, accuracy = _probed(job.task, features, settings, parts, drawn)
    score = Score(
        name=job.upsampler.name,
        passes=settings.passes,
        stride=settings.stride or 0,
        channels=features.channels,
        seconds_tokens=extracted - start,
        seconds_maps=upsampled - extracted,
        peak_bytes=peak.growth,
        error=float(np.sqrt(np.square(errors, dtype=np.float64).mean())),
        mean_iou=mean_iou,
        accuracy=accuracy,
    )
    return Panel(score=score, colours=reference.colours(maps), errors=errors), reference


def _pixels(job: _Job) -> tuple[npt.NDArray[np.intp], list[npt.NDArray[np.intp]]]:
    """Pixels (n, 2) anywhere in the image, and for each drawing those painted."""
    h, w = job.image.shape[:2]

    def places(index: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return np.stack(np.unravel_index(index, (h, w)), 1)

    drawn = []
    for one in () if job.task is None else job.task.drawings:
        index = np.flatnonzero(one)
        kept = thinned(one.ravel()[index], _PAINTED)
        drawn.append(places(index if kept is None else index[kept]))
    return places(sampled(h * w, _PIXELS)), drawn


def _refer(tokens: Tokens, features: PixelFeatures, path: Path) -> _Reference:
    """Make features the reference: write their principal components."""
    count = min(_COMPONENTS, *tokens.data.flatten(0, 2).shape)
    components = PrincipalComponents.fit([tokens], count)
    weight = components.components
    maps = features.maps(weight, -weight @ components.mean)
    np.save(path, maps)
    kept = project(tokens.data, weight).flatten(0, 2).var(0).sum()
    whole = tokens.data.float().flatten(0, 2).var(0).sum()
    levels = np.percentile(maps[..., :3], (1, 99), axis=(0, 1)).T.astype(np.float32)
    return _Reference(path, levels, float(kept / whole))


def _affine(rows: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Weights (K, C) and biases (K,) that map features (n, C) to what is wanted (n, K)."""
    mean, scale = rows.mean(0), rows.std(0)
    scale[scale == 0] = 1
    found = Ridge(_PENALTY * len(rows)).fit((rows - mean) / scale, wanted)
    weight = (found.coef_ / scale).astype(np.float32)
    return weight, (found.intercept_ - weight @ mean).astype(np.float32)


def _probed(
    task: Task | None,
    features: PixelFeatures,
    settings: Settings,
    parts: Sequence[Floats],
    drawn: Sequence[npt.NDArray[np.intp]],
) -> tuple[float | None, float | None]:
    """Mean IoU and accuracy of a linear probe, the mean of several."""
    if task is None:
        return None, None
    anywhere, *rows = parts
    trainings = [
        _training(x, one, at, anywhere)
        for x, one, at in zip(rows, task.drawings, drawn, strict=True)
    ]
    if task.truth is None:
        pairs = [_held_out(one, settings) for one in trainings]
    else:
        probes = [_probe(one, settings) for one in trainings]
        ends = np.cumsum([len(one.classes_) for one in probes])[:-1]
        weight = np.concatenate([one.coef_ for one in probes])
        bias = np.concatenate([one.intercept_ for one in probes])
        scores = np.split(features.maps(weight, bias), ends, axis=-1)
        pairs = []
        for probe, one, strokes in zip(probes, scores, task.drawings, strict=True):
            tested = (task.truth > 0) & (strokes == 0)
            pairs.append((task.truth[tested], probe.labels_of(one)[tested]))
    ious = [
        jaccard_score(truth, found, labels=np.unique(truth), average="macro")
        for truth, found in pairs
    ]
    return float(np.mean(ious)), float(np.mean([accuracy_score(*pair) for pair in pairs]))


def _training(
    rows: Floats, strokes: Labels, at: npt.NDArray[np.intp], anywhere: Floats
) -> Training:
    y, x = at.T
    return Training(
        rows, strokes[y, x], anywhere, rows.shape[1], lambda: np.asarray(connected(strokes)[y, x])
    )


def _probe(training: Training, settings: Settings) -> PixelClassifier:
    return PixelClassifier(C=_C, emphasis=1.0).learn([training], settings)


def _held_out(training: Training, settings: Settings) -> tuple[Labels, Labels]:
    """Labels of strokes, and what probes that did not see these say."""
    folds = stroke_folds(training)
    truth, found = [], []
    for fold in range(folds.max() + 1):
        probe = _probe(training[np.flatnonzero(folds != fold)], settings)
        held = folds == fold
        truth.append(training.labels[held])
        scores = training.features[held] @ probe.coef_.T + probe.intercept_
        found.append(probe.labels_of(scores))
    return np.concatenate(truth), np.concatenate(found)


def picture(
    image: npt.NDArray[np.generic], panels: Sequence[Panel], task: Task | None
) -> Image.Image:
    """Draw what was compared: colours, a part of them enlarged, and the errors below.

    Parameters
    ----------
    image
        (h, w) or (h, w, 3 or 4).
    panels
        As :func:`compare_upsamplers` returns them, the reference first.
    task
        Whose labels are drawn below the image.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    h, w = image.shape[:2]
    grey = np.broadcast_to(stretch(image), (h, w, 3))
    part = _part(panels[0].colours)
    columns = [("image", "", [grey, grey[part], _drawn(grey, task)])]
    for k, one in enumerate(panels):
        score = one.score
        seconds = score.seconds_tokens + score.seconds_maps
        about = f"{seconds:.1f} s" if k == 0 else f"{seconds:.1f} s, error {score.error:.2f}"
        errors = None if k == 0 else viridis(one.errors) / 255
        columns.append((score.name, about, [one.colours, one.colours[part], errors]))
    drawn = [[None if one is None else _fitted(one) for one in some] for *_, some in columns]
    heights = [
        max(one.height for one in row if one) for row in zip(*drawn, strict=True) if any(row)
    ]
    tops = [_TEXT_PX, *(_TEXT_PX + np.cumsum(np.add(heights, _GAP_PX))).tolist()]
    across = _SIDE_PX + _GAP_PX
    canvas = Image.new("RGB", (len(columns) * across + _GAP_PX, tops[-1]), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for k, (title, about, _) in enumerate(columns):
        left = _GAP_PX + k * across
        while draw.textlength(title, font) > _SIDE_PX:
            title = title[:-1]
        draw.text((left, 3), title, "black", font)
        draw.text((left, 20), about, "black", font)
        for top, panel in zip(tops, drawn[k], strict=False):
            if panel is not None:
                canvas.paste(panel, (left, top))
    return canvas


def _part(colours: Floats) -> tuple[slice, slice]:
    """The part of an image in which most changes."""
    size = [max(1, n // _CROPS) for n in colours.shape[:2]]
    change = ndi.gaussian_gradient_magnitude(colours.mean(-1), 1)
    share = ndi.uniform_filter(change, size, mode="constant")
    middle = np.unravel_index(share.argmax(), share.shape)
    starts = [
        int(np.clip(m - k // 2, 0, n - k))
        for m, k, n in zip(middle, size, share.shape, strict=True)
    ]
    y, x = (slice(start, start + k) for start, k in zip(starts, size, strict=True))
    return y, x


def _drawn(grey: npt.NDArray[np.floating], task: Task | None) -> npt.NDArray[np.floating] | None:
    """The image without its colours, and the labels of a task on it."""
    if task is None:
        return None
    drawn: npt.NDArray[np.floating] = np.repeat(grey.mean(-1, keepdims=True), 3, -1)
    for k in np.unique(task.shown[task.shown > 0]).tolist():
        colour, mask = np.array(default_class(k).colour[:3]), task.shown == k
        drawn[mask] = 0.25 * drawn[mask] + 0.75 * colour
    return drawn


def _fitted(colours: npt.NDArray[np.floating]) -> Image.Image:
    """Colours (h, w, 3) in [0, 1] as a picture that fills its place."""
    h, w = colours.shape[:2]
    factor = _SIDE_PX / max(h, w)
    whole = Image.fromarray(np.rint(255 * colours).astype(np.uint8))
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return whole.resize(size, how)
