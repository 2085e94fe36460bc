"""Backbones side by side: what their features show, their time and memory.

Positions are as they are, as not every backbone's can be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field
from skimage.color import label2rgb

from .._picture import viridis
from ..core.backbone import FacetBackbone
from ..core.base import default_class
from ..core.classifier import PixelClassifier
from ..core.devices import choose_device
from ..core.errors import HRDv2Error, WeightsError
from ..core.explore import PrincipalComponents, attention_maps
from ..core.explore.common import Floats
from ..core.extraction import make_settings
from ..core.memory import peak_memory
from ..core.normalise import stretch
from ..core.settings import Settings
from ..core.strokes import StrokeRows, Training
from ..core.timm_backbone import PREFIX
from ..core.tokens import Tokens
from ..core.weights import Progress, find
from .measuring import Comparison, Job, Score, check_names, in_fresh_process, timed_tokens
from .picture import Cell, Colours, sheet, shown
from .probe import PAINTED, Labels, Task, agreement, held_out
from .reading import Case

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
_CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors")


class BackboneScore(Score):
    """What was found of one backbone."""

    settings: Settings = Field(description="Of its tokens.")
    channels: int = Field(description="Channels of a token (a count).")
    blocks: int = Field(description="Blocks of the backbone (a count), whatever the depth used.")
    parameters: int = Field(description="Parameters of the backbone (a count).")
    has_attention: bool = Field(description="Whether its attention can be looked into.")
    seconds: float = Field(description="A pass (seconds).")


class BackboneComparison(Comparison):
    """What was found of several."""

    backbones: tuple[BackboneScore, ...] = Field(description="In the order asked for.")
    missing: dict[str, str] = Field(
        description="Names of backbones that could not be had, each with the reason."
    )


class BackbonePanel(NamedTuple):
    """What the picture shows of one backbone."""

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


def compare_backbones(
    case: Case,
    candidates: Sequence[Candidate],
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
    case
        The image.
    candidates
        The backbones, of different names.
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
    check_names([one.name for one in candidates], "backbones", "name one of them NAME=FILE")
    own = {"filters": False, "move_positions": False}
    wanted = make_settings(None, **{"zooms": (1.0,)} | dict(settings) | own)
    # What is wrong with these, is wrong for all.
    choose_device(device)
    stretch(case.image)
    panels, missing = [], {}
    for candidate in candidates:
        on_step(candidate.name)
        try:
            weights = find(candidate.model, candidate.weights, progress)
            job = Job(
                name=candidate.name,
                settings=make_settings(wanted, model=weights.name),
                weights=weights.path,
                device=device,
                case=case,
            )
            panels.append(in_fresh_process(_measured, job))
        except HRDv2Error as error:
            missing[candidate.name] = str(error)
            on_missing(candidate.name, str(error))
    if not panels:
        first = next(iter(missing.items()), ("none", "none was named"))
        raise HRDv2Error(f"none of the backbones can be had; {first[0]}: {first[1]}")
    scores = tuple(one.score for one in panels)
    comparison = BackboneComparison.of(case, device, backbones=scores, missing=missing)
    return comparison, panels


def _measured(job: Job) -> BackbonePanel:
    """Let a backbone work, and find out how well."""
    extractor = job.prepared()
    with peak_memory(extractor.device) as peak:
        tokens, seconds = timed_tokens(extractor, job.case.image)
    backbone = extractor.backbone
    attention = None
    if isinstance(backbone, FacetBackbone):
        attention = attention_maps(extractor.facets(job.case.image, "attention")).together
    scores, labels = _probed(job.case.task, tokens)
    score = BackboneScore(
        name=job.name,
        settings=extractor.settings,
        channels=backbone.dim,
        blocks=backbone.depth,
        parameters=sum(one.numel() for one in backbone.parameters()),
        has_attention=attention is not None,
        seconds=seconds / tokens.passes,
        peak_bytes=peak.growth,
        **scores,
    )
    colours = PrincipalComponents.fit([tokens]).rgb(tokens)
    return BackbonePanel(score=score, colours=colours, attention=attention, labels=labels)


def _probed(task: Task | None, tokens: Tokens) -> tuple[dict[str, float], Labels | None]:
    """Mean IoU and accuracy of a linear probe, the mean of several, and the first one's labels."""
    if task is None:
        return {}, None
    found, pairs = [], []
    for drawing in task.drawings:
        labels = PixelClassifier(max_pixels=PAINTED).fit(tokens, drawing).predict(tokens)
        found.append(labels)
        if task.truth is None:
            training = Training.of(tokens, drawing, StrokeRows(), PAINTED)
            pairs.append(held_out(training, tokens.settings))
        else:
            pairs.append(task.tested(drawing, labels))
    return agreement(pairs), found[0]


def backbones_picture(case: Case, panels: Sequence[BackbonePanel]) -> Image.Image:
    """Draw what was compared, a row for every backbone below that of the image.

    Parameters
    ----------
    case
        What it was compared on.
    panels
        As :func:`compare_backbones` returns them.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    seen, drawn = shown(case)
    about = Cell(["image", "{} x {}".format(*seen.shape)])
    rows = [[about, *(Cell(colours=one) for one in (seen, drawn) if one is not None)]]
    with_attention = any(one.attention is not None for one in panels)
    for k, one in enumerate(panels):
        parts: dict[str, Colours | None] = {"principal components": one.colours}
        if with_attention:
            parts["attention"] = None if one.attention is None else _heat(one.attention)
        if one.labels is not None:
            palette = [default_class(int(k)).colour[:3] for k in np.unique(one.labels)]
            parts["linear probe"] = label2rgb(one.labels, seen, palette, alpha=0.55)
        cells = [Cell([] if k else [title], colours) for title, colours in parts.items()]
        rows.append([Cell(_about(one.score)), *cells])
    return sheet(rows)


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


def _heat(values: Floats) -> Colours:
    """Values (h, w) as colours (h, w, 3) in [0, 1]."""
    low, high = np.percentile(values, (1, 99))
    return viridis((values - low) / (high - low if high > low else 1)) / 255
