"""The commands ``segment`` and ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .options import Axes, Channels, Classifier, Colours, Filters, Looking, Refining, spread
from .shared import extract, stderr

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..core.apply import Part
    from ..core.extraction import FeatureExtractor
    from ..core.planes import Index, Planes
    from ..core.tokens import Tokens

    # Strokes of the planes that have any.
    _Painted = dict[Index, npt.NDArray[np.integer]]


@spread
def segment(
    image: Annotated[
        Path,
        typer.Argument(help="Image or stack: TIFF, OME-Zarr, PNG, JPEG, or what else bioio reads."),
    ],
    strokes: Annotated[
        Path,
        typer.Argument(
            help="Painted labels of the same size: TIFF, OME-Zarr or PNG, 0 where not painted."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.tif",
            help="Label image to write: .tif, or .zarr for OME-Zarr.",
        ),
    ],
    *,
    axes: Axes = None,
    looking: Looking,
    filters: Filters = None,
    channels: Channels = None,
    colours: Colours = None,
    classifier: Classifier = "logistic",
    refining: Refining,
) -> None:
    """Train on an image's strokes and segment the image; of a stack, on those of all planes."""
    from .._io import check_output, label_dtype, open_image, open_results
    from ..core.apply import Losses, parts_of, planes_for, segment_piece
    from ..core.methods import make_classifier
    from ..core.tiles import piece_of

    learner = make_classifier(classifier)
    refinement = refining.refinement()
    source = open_image(image, axes=axes)
    check_output(output, image, strokes, axes=source.planes.labels_axes)
    (painted,) = _painted([(strokes, source.planes)])
    chosen = _channels(source.planes, channels)
    extractor = looking.extractor(filters=filters, colours=colours, **chosen)
    settings = extractor.settings
    planes = planes_for(source.planes, settings)
    seen = _looked_at(extractor, image, planes, painted)
    learner.fit([one.tokens for one in seen], [one.drawn for one in seen])
    known = {(one.part.plane, str(one.part.tile)): one.tokens for one in seen}
    losses = Losses()
    with open_results(
        output,
        planes.labels_axes,
        planes.labels_shape,
        label_dtype(learner.classes_),
        pixel_size=source.pixel_size,
        unit=source.unit,
        classes=learner.pixel_classes_,
    ) as results:
        for part in parts_of(planes, settings):
            piece = piece_of(planes, *part)
            tokens = known.get((part.plane, str(part.tile)))
            if tokens is None:
                tokens = extract(extractor, piece, _part_name(image, part))
            found = segment_piece(learner, tokens, piece, refinement)
            results.write(part.plane, part.tile.core, found.labels)
            losses.add(found)
    losses.tell(image.name)
    stderr.print(f"wrote {output}")


@spread
def train(
    image: Annotated[
        list[Path], typer.Option(help="Image to train on; repeat for more.", metavar="IMAGE")
    ],
    strokes: Annotated[
        list[Path],
        typer.Option(help="Its painted labels; one for every image, in order.", metavar="STROKES"),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="MODEL",
            help="Model to write (.safetensors; trees: .skops).",
        ),
    ],
    *,
    looking: Looking,
    filters: Filters = None,
    channels: Channels = None,
    colours: Colours = None,
    classifier: Classifier = "logistic",
    axes: Axes = None,
) -> None:
    """Train one model on the strokes of one or more images."""
    from .._io import open_image
    from ..core.apply import planes_for
    from ..core.errors import StrokesError
    from ..core.methods import make_classifier

    learner = make_classifier(classifier)
    if len(image) != len(strokes):
        raise StrokesError(
            f"{len(image)} --image but {len(strokes)} --strokes: give each image its strokes"
        )
    if output.resolve() in {path.resolve() for path in image + strokes}:
        raise StrokesError(f"{output} is one of the inputs: give the model another name")
    # All inputs are checked before the first is worked on for minutes.
    planes = [open_image(one, axes=axes).planes for one in image]
    painted = _painted(list(zip(strokes, planes, strict=True)))
    chosen = _channels(planes[0], channels)
    extractor = looking.extractor(filters=filters, colours=colours, **chosen)
    fitting = [planes_for(one, extractor.settings) for one in planes]
    seen = [
        found
        for path, one, drawn in zip(image, fitting, painted, strict=True)
        for found in _looked_at(extractor, path, one, drawn)
    ]
    learner.fit([one.tokens for one in seen], [one.drawn for one in seen]).save(output)
    stderr.print(f"wrote {output}")


class _Seen(NamedTuple):
    """A painted tile: its tokens, and the strokes in it."""

    part: Part
    tokens: Tokens
    drawn: npt.NDArray[np.integer]


def _looked_at(
    extractor: FeatureExtractor, path: Path, planes: Planes, painted: _Painted
) -> list[_Seen]:
    """The tiles that have strokes."""
    from ..core.apply import parts_of
    from ..core.tiles import piece_of

    seen = []
    for part in parts_of(planes, extractor.settings, painted):
        drawn = painted[part.plane][part.tile.core]
        if drawn.any():
            piece = piece_of(planes, *part)
            tokens = extract(extractor, piece, _part_name(path, part))
            seen.append(_Seen(part, tokens, drawn))
    return seen


def _painted(images: Sequence[tuple[Path, Planes]]) -> list[_Painted]:
    """Of files of strokes, each with the image that it is of: the planes that have any."""
    from .._io import open_strokes
    from ..core.base import check_strokes
    from ..core.errors import StrokesError

    found: list[_Painted] = []
    for path, planes in images:
        strokes = open_strokes(path, planes)
        read = ((index, strokes.read(index)) for index in planes.indices())
        checked = ((index, check_strokes(one, planes.shape)) for index, one in read)
        found.append({index: one for index, one in checked if one.any()})
    if not any(found):
        raise StrokesError("nothing is painted: paint at least a stroke of each of two classes")
    return found


def _channels(planes: Planes, chosen: str | None) -> dict[str, Any]:
    """Settings that say which of an image's channels are used: by default all."""
    from ..core.errors import ImageError

    count = planes.channel_count
    if count is None:
        if chosen is not None:
            raise ImageError(
                "--channels is for images of several: this one is grey or RGB; --axes says which "
                "axis is C"
            )
        return {}
    try:
        channels = tuple(range(count)) if chosen is None else tuple(map(int, chosen.split(",")))
    except ValueError:
        raise ImageError(f"channels are numbers from 0, such as 0,2; got {chosen!r}") from None
    return {"channels": channels, "channel_count": count}


def _part_name(path: Path, part: Part) -> str:
    """What is worked on, for people: the rows and columns too where it is a part of a plane."""
    name = " ".join([path.name, *map(str, part.plane)])
    if part.levels is None:
        return name
    y, x = part.tile.core
    return f"{name} [{y.start}:{y.stop}, {x.start}:{x.stop}]"
