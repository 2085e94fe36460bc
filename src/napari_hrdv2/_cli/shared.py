"""What commands share: the backbone, its progress, what is told on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..core.extraction import FeatureExtractor
    from ..core.tiles import Piece
    from ..core.tokens import Tokens
    from ..core.weights import Weights

stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def make_extractor(device: str, weights: Path | None, **settings: Any) -> FeatureExtractor:
    from ..core.extraction import FeatureExtractor

    given = {name: value for name, value in settings.items() if value is not None}
    with download_bar() as progress:
        return FeatureExtractor(device=device, weights=weights, progress=progress, **given)


def find_weights(name: str) -> Weights:
    from ..core.weights import find

    with download_bar() as progress:
        return find(name, progress=progress)


@contextmanager
def download_bar() -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=stderr)
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


def extract(extractor: FeatureExtractor, image: npt.ArrayLike | Piece, name: str) -> Tokens:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("pass {task.completed} of {task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(escape(name), total=extractor.settings.passes)
        for tokens in extractor.passes(image):
            bar.update(task, completed=tokens.passes)
    return tokens


def fail(error: Exception | str) -> None:
    stderr.print(f"napari-hrdv2: {' '.join(str(error).split())}", markup=False)
