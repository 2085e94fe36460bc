"""Upsamplers side by side: their time and memory, their pictures and errors.

What they are held against, docs/upsamplers.md says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field
from scipy import ndimage as ndi
from skimage.measure import label as connected
from sklearn.linear_model import Ridge

from .._picture import viridis
from ..core.explore import PrincipalComponents
from ..core.explore.common import sampled
from ..core.extraction import FeatureExtractor
from ..core.memory import peak_memory
from ..core.settings import Settings
from ..core.strokes import Training, thinned
from ..core.tokens import Tokens
from ..core.upsample import project
from ..core.upsamplers import InterpolatedPasses, PixelFeatures, Upsampler
from ..core.upsamplers.base import Floats, Pixels
from .measuring import Comparison, Job, Score, check_names, in_fresh_process, timed_tokens
from .picture import Cell, sheet, shown
from .probe import PAINTED, Labels, Task, agreement, held_out, probe
from .reading import Case

REFERENCE_PASSES = 16
_COMPONENTS = 64
# Pixels at which features are mapped to the reference's, and the penalty's share of their number.
_PIXELS, _PENALTY = 6000, 1e-3
_CROPS = 5


class UpsamplerScore(Score):
    """What was found of one upsampler."""

    passes: int = Field(description="Images that the backbone looked at (a count).")
    stride: int = Field(description="Distance of the tokens of a pass (pixels).")
    channels: int = Field(description="Features of a pixel (a count).")
    seconds_tokens: float = Field(description="From the image to its tokens (seconds).")
    seconds_maps: float = Field(
        description="From tokens to three maps of the image's size (seconds)."
    )
    error: float = Field(
        description="Root mean square of what an affine map of the features leaves of the "
        "reference's, over the reference's own deviation (a ratio): 0 is the reference, 1 is no "
        "better than its mean."
    )


class UpsamplerComparison(Comparison):
    """What was found of several."""

    settings: Settings = Field(description="Of all tokens, but for what an upsampler wants.")
    components: int = Field(description="Principal components of the reference (a count).")
    variance: float = Field(description="Share of its variance that these hold, in [0, 1].")
    upsamplers: tuple[UpsamplerScore, ...] = Field(description="The reference first.")


class UpsamplerPanel(NamedTuple):
    """What the picture shows of one upsampler."""

    score: UpsamplerScore
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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Job(Job):
    upsampler: Upsampler
    reference: Path | _Reference


def compare_upsamplers(
    case: Case,
    upsamplers: Sequence[Upsampler],
    extractor: FeatureExtractor,
    reference_passes: int = REFERENCE_PASSES,
    on_step: Callable[[str], None] = lambda name: None,
) -> tuple[UpsamplerComparison, list[UpsamplerPanel]]:
    """Set upsamplers side by side on an image.

    Parameters
    ----------
    case
        The image.
    upsamplers
        Of different names.
    extractor
        Whose backbone, depth and device are used.
    reference_passes
        Of the reference, at half a patch as the stride.
    on_step
        Called with the name of each before its turn.

    Returns
    -------
    UpsamplerComparison, list of UpsamplerPanel
        Of the reference first, then in the order given.

    Raises
    ------
    HRDv2Error
        If an upsampler fails, or its process ends; the message says which.
    """
    own = InterpolatedPasses("reference", passes=reference_passes, stride="half")
    everyone = [own, *upsamplers]
    check_names([one.name for one in everyone], "upsamplers", "leave one out, or rename its file")
    # Positions as they are: what moving them does to features is not what is compared.
    settings = extractor.settings.model_copy(update={"filters": False, "move_positions": False})
    wanted = [one.settings(settings) for one in everyone]
    panels = []
    with tempfile.TemporaryDirectory(prefix="napari-hrdv2-") as folder:
        job = _Job(
            name=own.name,
            settings=settings,
            weights=extractor.weights.path,
            device=str(extractor.device),
            case=case,
            upsampler=own,
            reference=Path(folder) / "reference.npy",
        )
        for one, own_settings in zip(everyone, wanted, strict=True):
            on_step(one.name)
            job = replace(job, name=one.name, upsampler=one, settings=own_settings)
            panel, reference = in_fresh_process(_measured, job)
            job = replace(job, reference=reference)
            panels.append(panel)
        count = reference.maps().shape[-1]
    comparison = UpsamplerComparison.of(
        case,
        job.device,
        settings=settings,
        components=count,
        variance=reference.variance,
        upsamplers=tuple(one.score for one in panels),
    )
    return comparison, panels


def _measured(job: _Job) -> tuple[UpsamplerPanel, _Reference]:
    """Let an upsampler work, and find out how well."""
    extractor = job.prepared()
    settings = extractor.settings
    with peak_memory(extractor.device) as peak:
        tokens, seconds = timed_tokens(extractor, job.case.image)
        start = time.perf_counter()
        features = job.upsampler.upsample(job.case.image, tokens)
        features.maps(np.eye(3, features.channels, dtype=np.float32))
        upsampled = time.perf_counter() - start
    seen, drawn = _pixels(job.case)
    rows = features.rows(np.concatenate([seen, *drawn]))
    parts = np.split(rows, np.cumsum([len(seen), *map(len, drawn)])[:-1])
    if isinstance(job.reference, Path):
        reference = _refer(tokens, features, job.reference)
        maps = target = reference.maps()
    else:
        reference = job.reference
        target = reference.maps()
        maps = features.maps(*affine(parts[0], target[seen[:, 0], seen[:, 1]]))
    squares = np.square(maps - target).sum(-1)
    deviation = np.square(target - target.mean((0, 1))).sum(-1).mean()
    errors = np.sqrt(squares / max(deviation, np.finfo(np.float32).tiny)).astype(np.float32)
    score = UpsamplerScore(
        name=job.name,
        passes=settings.passes,
        stride=settings.stride or 0,
        channels=features.channels,
        seconds_tokens=seconds,
        seconds_maps=upsampled,
        peak_bytes=peak.growth,
        error=float(np.sqrt(np.square(errors, dtype=np.float64).mean())),
        **_probed(job.case.task, features, settings, parts, drawn),
    )
    return UpsamplerPanel(score=score, colours=reference.colours(maps), errors=errors), reference


def _pixels(case: Case) -> tuple[Pixels, list[Pixels]]:
    """Pixels (n, 2) anywhere in the image, and for each drawing those painted."""
    h, w = case.image.shape[:2]

    def places(index: Pixels) -> Pixels:
        return np.stack(np.unravel_index(index, (h, w)), 1)

    drawn = []
    for one in () if case.task is None else case.task.drawings:
        index = np.flatnonzero(one)
        kept = thinned(one.ravel()[index], PAINTED)
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


def affine(rows: Floats, wanted: Floats) -> tuple[Floats, Floats]:
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
    drawn: Sequence[Pixels],
) -> dict[str, float]:
    """Mean IoU and accuracy of a linear probe, the mean of several."""
    if task is None:
        return {}
    anywhere, *rows = parts
    trainings = [
        _training(x, one, at, anywhere)
        for x, one, at in zip(rows, task.drawings, drawn, strict=True)
    ]
    if task.truth is None:
        return agreement([held_out(one, settings) for one in trainings])
    probes = [probe(one, settings) for one in trainings]
    ends = np.cumsum([len(one.classes_) for one in probes])[:-1]
    weight = np.concatenate([one.coef_ for one in probes])
    bias = np.concatenate([one.intercept_ for one in probes])
    scores = np.split(features.maps(weight, bias), ends, axis=-1)
    found = zip(task.drawings, probes, scores, strict=True)
    return agreement([task.tested(one, by.labels_of(each)) for one, by, each in found])


def _training(rows: Floats, strokes: Labels, at: Pixels, anywhere: Floats) -> Training:
    y, x = at.T
    return Training(
        rows, strokes[y, x], anywhere, rows.shape[1], lambda: np.asarray(connected(strokes)[y, x])
    )


def upsamplers_picture(case: Case, panels: Sequence[UpsamplerPanel]) -> Image.Image:
    """Draw what was compared: colours, a part of them enlarged, and the errors below.

    Parameters
    ----------
    case
        What it was compared on.
    panels
        As :func:`compare_upsamplers` returns them, the reference first.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    seen, drawn = shown(case)
    part = part_of(panels[0].colours)
    columns = [[Cell(["image", ""], seen), Cell(colours=seen[part]), Cell(colours=drawn)]]
    for k, (score, colours, errors) in enumerate(panels):
        about = f"{score.seconds_tokens + score.seconds_maps:.1f} s"
        own = Cell() if k == 0 else Cell(colours=viridis(errors) / 255)
        lines = [score.name, about if k == 0 else f"{about}, error {score.error:.2f}"]
        columns.append([Cell(lines, colours), Cell(colours=colours[part]), own])
    return sheet(list(zip(*columns, strict=True)))


def part_of(colours: Floats) -> tuple[slice, slice]:
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
