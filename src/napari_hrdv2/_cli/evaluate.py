"""The commands of ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .options import Looking, Refining, spread
from .shared import fail, stderr

if TYPE_CHECKING:
    from .._evaluate import Document, Evaluation
    from .._evaluate.layout import DataSet
    from ..core.extraction import FeatureExtractor

    _D = TypeVar("_D", bound=DataSet)

evaluate_app = typer.Typer(
    help="Score what is done without labels, and with few, on public data sets in their own "
    "layouts. What is measured is kept: the same command goes on where it was interrupted.",
    no_args_is_help=True,
)

Data = Annotated[Path, typer.Argument(metavar="FOLDER", help="The data set's folder.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT.json", help="Results file to write.")
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Measure the first so many only.", show_default=False),
]
Kind = Annotated[
    str,
    typer.Option(
        "--method",
        help="What the foreground is: attention, clusters that the class token looks at; or "
        "component, a side of the first principal component.",
    ),
]
Clusters = Annotated[
    int, typer.Option(min=1, help="Clusters of an image, or of a group, for attention.")
]
Depth = Annotated[
    float | None,
    typer.Option(
        help="Share of the backbone's blocks that tokens are taken after; 1, the last one, as the "
        "paper does. By default 0.75, and 1 for coco-probe.",
        show_default=False,
    ),
]
CubSplit = Annotated[str, typer.Option(help="Images of CUB: test, train or all.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where there are results already.")
]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing", help="Leave out what lacks a file, rather than refuse the data set."
    ),
]


@dataclass(frozen=True)
class Features(Looking):
    """What is looked at."""

    depth: Depth = None

    def extractor(self, **otherwise: Any) -> FeatureExtractor:
        """As a rule without filters, as without labels nothing tells which of them matter."""
        return super().extractor(**{"filters": False} | otherwise)


@dataclass(frozen=True)
class Salient(Refining):
    """What stands out of it."""

    method: Kind = "attention"
    clusters: Clusters = 80


@dataclass(frozen=True)
class Running:
    """How an evaluation is run."""

    limit: Limit = None
    overwrite: Overwrite = False
    skip_missing: SkipMissing = False


def opened(data: _D) -> _D:
    """A data set whose folders and lists are there, told before weights are downloaded."""
    assert data.names
    return data


def report(
    evaluation: Evaluation, output: Path, *, overwrite: bool, skip_missing: bool = False
) -> None:
    """Run an evaluation with a bar, and print its table.

    Raises
    ------
    typer.Exit
        With 2 if items had to be left out.
    """
    from .._evaluate import Event, run

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=stderr)
    task = bar.add_task(evaluation.name, total=None)

    def reported() -> Iterator[Event | Document]:
        yield (yield from run(evaluation, output, overwrite=overwrite, skip_missing=skip_missing))

    told = f"wrote {output}"
    with ExitStack() as stack:
        for event in reported():
            if not isinstance(event, Event):
                document = event
                continue
            # Not before: what is missing is told without a bar.
            if not bar.live.is_started:
                stack.enter_context(bar)
            bar.update(task, completed=event.done, total=event.total, description=event.text)
            if event.kind == "skipped":
                fail(event.text)
            told = event.text
    stderr.print(told, markup=False)
    console = Console(highlight=False)
    if evaluation.columns:
        console.print(table_of_rows(document, evaluation.columns))
    console.print(table(document))
    if document["skipped"]:
        names = ", ".join(one["item"] for one in document["skipped"])
        stderr.print(f"left out: {names}", markup=False)
        raise typer.Exit(2)


def table(document: Document) -> Table:
    """The figures of results beside those that the method's authors report."""
    authors: dict[str, Any] = document["authors"] or {"source": "", "figures": {}}
    theirs = authors["figures"]
    found = Table(title=f"{document['evaluation']}: {document['scores']}")
    found.add_column("figure")
    found.add_column("measured", justify="right")
    if theirs:
        found.add_column(f"theirs ({authors['source']})", justify="right")
    figures = document["summary"] | {"items": f"{len(document['rows'])}"}
    for name, value in figures.items():
        cells = [name, _number(value)]
        if theirs:
            cells.append(_number(theirs.get(name, "")))
        found.add_row(*cells)
    return found


def table_of_rows(document: Document, columns: Sequence[str]) -> Table:
    """What was measured one by one."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("item", no_wrap=True)
    for name in columns:
        found.add_column(name.replace("_", " "), justify="right")
    for row in document["rows"]:
        found.add_row(row["item"], *(_number(row[name]) for name in columns))
    return found


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


@evaluate_app.command("voc-boxes")
@spread
def voc_boxes(
    folder: Data,
    output: Output,
    *,
    year: Annotated[
        int | None,
        typer.Option(
            help="2007 or 2012, where the folder is VOCdevkit with both in it.", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="List in ImageSets/Main.")] = "trainval",
    keep_hard: Annotated[
        bool,
        typer.Option(
            "--keep-hard", help="Count objects, too, that are marked as difficult or truncated."
        ),
    ] = False,
    salient: Salient,
    features: Features,
    how: Running,
) -> None:
    """Object localisation on PASCAL VOC 2007 or 2012: CorLoc, boxes per image."""
    from .._evaluate.methods import Objects
    from .._evaluate.voc import Voc
    from .._evaluate.voc_boxes import VocBoxes

    refinement = salient.refinement()
    data = opened(Voc(folder, "Main", split, year))
    boxes = Objects(features.extractor(), salient.method, salient.clusters, refinement)
    evaluation = VocBoxes(data, boxes, keep_hard, limit=how.limit)
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)


@evaluate_app.command("cub-foreground")
@spread
def cub_foreground(
    folder: Data,
    output: Output,
    *,
    split: CubSplit = "test",
    salient: Salient,
    features: Features,
    how: Running,
) -> None:
    """Foreground on CUB-200-2011: mean IoU."""
    from .._evaluate.foreground import CubForeground
    from .._evaluate.masks import Cub
    from .._evaluate.methods import Foreground

    refinement = salient.refinement()
    data = opened(Cub(folder, split))
    foreground = Foreground(features.extractor(), salient.method, salient.clusters, refinement)
    evaluation = CubForeground(data, foreground, limit=how.limit)
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)


@evaluate_app.command("duts-foreground")
@spread
def duts_foreground(
    folder: Data,
    output: Output,
    *,
    salient: Salient,
    features: Features,
    how: Running,
) -> None:
    """Foreground on DUTS-TE: mean IoU."""
    from .._evaluate.foreground import DutsForeground
    from .._evaluate.masks import Duts
    from .._evaluate.methods import Foreground

    refinement = salient.refinement()
    data = opened(Duts(folder))
    foreground = Foreground(features.extractor(), salient.method, salient.clusters, refinement)
    evaluation = DutsForeground(data, foreground, limit=how.limit)
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)


@evaluate_app.command("voc-clusters")
@spread
def voc_clusters(
    folder: Data,
    output: Output,
    *,
    split: Annotated[str, typer.Option(help="List in ImageSets/Segmentation.")] = "val",
    region_clusters: Annotated[
        int, typer.Option(min=1, help="Clusters of all images' regions, beside the background.")
    ] = 20,
    salient: Salient,
    features: Features,
    how: Running,
) -> None:
    """Segmentation on PASCAL VOC 2012 by clusters matched with the classes: accuracy, mean IoU."""
    from .._evaluate.methods import Regions
    from .._evaluate.voc import Voc
    from .._evaluate.voc_clusters import VocClusters

    refinement = salient.refinement()
    data = opened(Voc(folder, "Segmentation", split, 2012))
    regions = Regions(features.extractor(), salient.method, salient.clusters, refinement)
    evaluation = VocClusters(data, regions, region_clusters, limit=how.limit)
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)


@evaluate_app.command("cub-cosegment")
@spread
def cub_cosegment(
    folder: Data,
    output: Output,
    *,
    split: CubSplit = "test",
    group: Annotated[
        int, typer.Option(min=2, help="Images of one class looked at together, about.")
    ] = 10,
    votes: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of its images that must find a cluster salient."),
    ] = 0.5,
    clusters: Clusters = 80,
    features: Features,
    how: Running,
) -> None:
    """Co-segmentation of images of one class on CUB-200-2011: mean IoU."""
    from .._evaluate.foreground import CubCosegment
    from .._evaluate.masks import Cub
    from .._evaluate.methods import CommonForeground

    data = opened(Cub(folder, split))
    common = CommonForeground(features.extractor(), clusters, votes)
    evaluation = CubCosegment(data, common, group, limit=how.limit)
    report(evaluation, output, overwrite=how.overwrite, skip_missing=how.skip_missing)
