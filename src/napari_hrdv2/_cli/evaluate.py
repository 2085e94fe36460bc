"""The commands of ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .shared import fail, stderr

if TYPE_CHECKING:
    from .._evaluate import Document, Evaluation

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
    typer.Option(min=1, help="Take the first so many images only.", show_default=False),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where there are results already.")
]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing", help="Leave out what lacks a file, rather than refuse the data set."
    ),
]


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
    Console(highlight=False).print(table(document))
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


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
