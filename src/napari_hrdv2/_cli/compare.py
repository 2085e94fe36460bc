"""The commands of ``compare``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from .options import Axes, Device, Model, OutputFolder, Passes, Scale, Stride, WeightsFile
from .shared import fail, make_extractor, stderr

if TYPE_CHECKING:
    from PIL import Image

    from .._compare.measuring import Comparison, Score

compare_app = typer.Typer(help="Ways to see features, side by side.", no_args_is_help=True)

Sample = Annotated[
    Path, typer.Argument(help="Image: TIFF, OME-Zarr, PNG, JPEG, or what else bioio reads.")
]
Strokes = Annotated[
    Path | None,
    typer.Option(
        metavar="STROKES",
        help="Painted labels, on which a linear probe is trained; it is tested on strokes held "
        "out, or on the truth.",
        show_default=False,
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(
        metavar="TRUTH",
        help="Label image, 0 where unknown, on which a linear probe is tested; without strokes "
        "they are simulated.",
        show_default=False,
    ),
]
Depth = Annotated[
    float | None,
    typer.Option(
        help="Share of a backbone's blocks that tokens go through. By default 0.75.",
        show_default=False,
    ),
]

_BY_DEFAULT = ["nearest", "bilinear", "strided", "shifts", "guided"]


@compare_app.command()
def upsamplers(
    image: Sample,
    output: OutputFolder,
    upsampler: Annotated[
        list[str],
        typer.Option(
            "--upsampler",
            "-u",
            metavar="NAME",
            help="nearest, bilinear, strided[:PX], shifts[:N], guided, featup:FILE (a checkpoint "
            "of FeatUp), or onnx:FILE (any other learned one); repeat for more. By default all "
            "that need no file. Learned ones were trained with --depth 1.",
            show_default=False,
        ),
    ] = _BY_DEFAULT,
    strokes: Strokes = None,
    truth: Truth = None,
    axes: Axes = None,
    model: Model = "auto",
    depth: Depth = None,
    reference_passes: Annotated[
        int,
        typer.Option(min=1, help="Passes, at half a patch as the stride, of the reference."),
    ] = 16,
    device: Device = "auto",
    weights: WeightsFile = None,
) -> None:
    """Compare ways to bring a backbone's tokens to full resolution on an image.

    Writes upsamplers.png (colours in a basis shared by all, a part enlarged, errors) and
    upsamplers.json (time, memory, error, the scores of a linear probe).
    """
    from .._compare import Case, compare_upsamplers, upsamplers_picture
    from ..core.upsamplers import make_upsampler

    _check_folder(output)
    chosen = [make_upsampler(one) for one in upsampler]
    case = Case.read(image, axes, strokes, truth)
    extractor = make_extractor(device, weights, model=model, depth=depth)
    with _steps(len(chosen) + 1) as (_, on_step):
        comparison, panels = compare_upsamplers(case, chosen, extractor, reference_passes, on_step)
    figures = [
        {
            "passes": f"{one.passes}",
            "stride": f"{one.stride}",
            "tokens s": f"{one.seconds_tokens:.2f}",
            "maps s": f"{one.seconds_maps:.2f}",
            "error": f"{one.error:.3f}",
        }
        for one in comparison.upsamplers
    ]
    _write(output / "upsamplers", upsamplers_picture(case, panels), comparison)
    _print("upsampler", comparison, comparison.upsamplers, figures, comparison.settings.model)
    stderr.print(f"wrote {output / 'upsamplers.png'} and upsamplers.json")


@compare_app.command()
def backbones(
    image: Sample,
    output: OutputFolder,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Backbones: names of 'weights list', timm:NAME for one of the package timm, FILE "
            "for a checkpoint of your own, NAME=FILE for one in the place of a download. By "
            "default one of each kind.",
            show_default=False,
        ),
    ] = None,
    strokes: Strokes = None,
    truth: Truth = None,
    axes: Axes = None,
    passes: Passes = None,
    stride: Stride = None,
    scale: Scale = None,
    depth: Depth = None,
    device: Device = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that holds the models' official files, to use instead of downloads.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare backbones on an image; those that cannot be had are told and left out.

    Writes backbones.png (components as colours, attention, labels of a linear probe) and
    backbones.json (patch, stride, channels, parameters, time, memory, the probe's scores).
    """
    from .._compare import BY_DEFAULT, Candidate, Case, backbones_picture, compare_backbones

    _check_folder(output)
    wanted = BY_DEFAULT if models is None else models.split(",")
    candidates = [Candidate.of(one, weights) for one in wanted]
    case = Case.read(image, axes, strokes, truth)
    settings = {"passes": passes, "stride": stride, "scale": scale, "depth": depth}
    with _steps(len(candidates)) as (bar, on_step):
        download = bar.add_task("weights", visible=False)
        comparison, panels = compare_backbones(
            case,
            candidates,
            device=device,
            progress=lambda done, total: bar.update(
                download, completed=done, total=total, visible=done < total
            ),
            on_step=on_step,
            on_missing=lambda name, reason: fail(f"{name} is left out: {reason}"),
            **{name: value for name, value in settings.items() if value is not None},
        )
    figures = [
        {
            "patch": f"{one.settings.patch}",
            "stride": f"{one.settings.stride}",
            "chan.": f"{one.channels}",
            "par. M": f"{one.parameters / 1e6:.1f}",
            "pass s": f"{one.seconds:.2f}",
        }
        for one in comparison.backbones
    ]
    _write(output / "backbones", backbones_picture(case, panels), comparison)
    _print("backbone", comparison, comparison.backbones, figures)
    stderr.print(f"wrote {output / 'backbones.png'} and backbones.json")


def _check_folder(output: Path) -> None:
    from ..core.errors import HRDv2Error

    if output.exists() and not output.is_dir():
        raise HRDv2Error(f"{output} is a file: name a folder to write to")


@contextmanager
def _steps(count: int) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """A bar of so many steps, and what is called with the name of each before its turn."""
    with Progress(console=stderr) as bar:
        step = bar.add_task("", total=count)
        done = iter(range(count))
        yield (
            bar,
            lambda name: bar.update(step, description=escape(name), completed=next(done)),
        )
        bar.update(step, completed=count)


def _write(path: Path, picture: Image.Image, comparison: Comparison) -> None:
    """Write a picture and what it shows, under a path without its ending."""
    from .._picture import with_palette
    from ..core.files import replacing

    with (
        replacing(path.with_suffix(".png")) as whole_picture,
        replacing(path.with_suffix(".json")) as whole,
    ):
        with_palette(picture).save(whole_picture, optimize=True)
        whole.write_text(comparison.model_dump_json(indent=2))


def _print(
    what: str,
    comparison: Comparison,
    scores: Sequence[Score],
    figures: Sequence[Mapping[str, str]],
    *about: str,
) -> None:
    """Print what was found as a table, figures by the names of their columns."""
    h, w = comparison.shape
    title = escape(", ".join((comparison.image, f"{h} x {w}", *about)))
    # Narrow, as columns that have no room in a terminal are not shown at all.
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(what, overflow="fold", min_width=12)
    has_probe = comparison.probe is not None
    for name in (*figures[0], "peak MB", *["mean IoU", "acc."] * has_probe):
        table.add_column(name, justify="right")
    for score, own in zip(scores, figures, strict=True):
        peak = "-" if score.peak_bytes is None else f"{score.peak_bytes / 1e6:.0f}"
        probed = [f"{score.mean_iou:.3f}", f"{score.accuracy:.3f}"] if has_probe else []
        table.add_row(escape(score.name), *own.values(), peak, *probed)
    if has_probe:
        table.caption = f"linear probe: {comparison.probe}"
    Console().print(table)
