"""Applying a model to many files, on this machine or on a cluster of them."""

from __future__ import annotations

import asyncio
import errno
import glob
import hashlib
import logging
import os
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from ._io import (
    Results,
    check_output,
    is_image,
    label_dtype,
    open_image,
    open_results,
    read_notes,
)
from ._job import Cancellable
from .core.apply import (
    Losses,
    Part,
    Segmented,
    extractor_for,
    parts_of,
    planes_for,
    segment_here,
    segment_piece,
)
from .core.base import BasePixelClassifier
from .core.errors import Cancelled, HRDv2Error, ImageError, ModelError, go_on
from .core.extraction import FeatureExtractor
from .core.files import remove_leftovers
from .core.methods import load_classifier
from .core.objects import measure_classes, write_csv
from .core.planes import Planes
from .core.refine import Refinement
from .core.tiles import Piece, piece_of, tiles
from .core.weights import Progress

if TYPE_CHECKING:
    import distributed

_T = TypeVar("_T")

FORMATS = ("tif", "zarr")
# Pieces read before they are needed, results not yet written, tasks for each thread of a cluster.
_AHEAD, _BEHIND, _PER_THREAD = 2, 4, 2
_CONNECT_S, _POLL_S = 5, 0.5
# What goes wrong with one file and may go well with the next.
_OF_A_FILE = (HRDv2Error, OSError, MemoryError)
_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_COLUMNS = (
    *("image", "planes", "class", "label", "area_px", "area_fraction", "objects"),
    *("mean_object_px", "area", "mean_object_area", "unit"),
)


class Event(NamedTuple):
    """What happened to a file.

    Attributes
    ----------
    kind
        ``"tile"``: a tile of it is done; ``"written"``; ``"kept"``: it was there already;
        ``"failed"``.
    path
        The image.
    done, total
        Of all files; parts of one count as shares.
    text
        For people, a line.
    """

    kind: Literal["tile", "written", "kept", "failed"]
    path: Path
    done: float
    total: int
    text: str


@dataclass
class Report:
    """What a batch came to.

    Attributes
    ----------
    written, kept
        Images whose results were written, and whose were there already.
    failed
        Why there is none of the others.
    """

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


class Input(NamedTuple):
    """An image to work on.

    Attributes
    ----------
    path
        Of the image.
    folder
        Where its results go, from the output folder.
    """

    path: Path
    folder: Path


def find_inputs(
    inputs: Sequence[str | os.PathLike[str]], *, recursive: bool = False, leave: Path | None = None
) -> list[Input]:
    """Images that files, folders and patterns stand for.

    Parameters
    ----------
    inputs
        Files, of OME-Zarr folders; folders of images; patterns with ``*``, ``?``, ``[]`` or
        ``**``.
    recursive
        Whether folders in folders are looked through too. Results keep that order.
    leave
        A folder not to be looked into: that of results.

    Returns
    -------
    list of Input
        In the order given, those of a folder or pattern by name.

    Raises
    ------
    ImageError
        If a folder holds no image, or none matches a pattern.
    """
    found = []
    for given in inputs:
        one, path = os.fspath(given), Path(given)
        if not path.exists() and glob.has_magic(one):
            names = sorted(glob.glob(one, recursive=True))  # noqa: PTH207, Path wants a folder first
            matching = [path for path in map(Path, names) if path.is_file() or is_image(path)]
            if not matching:
                raise ImageError(f"no image matches {one}")
            found += [Input(path, Path()) for path in matching]
        elif path.is_dir() and not is_image(path):
            inside = list(_images_in(path, recursive, leave))
            if not inside:
                deeper = "" if recursive else " (--recursive looks into the folders in it, too)"
                raise ImageError(f"the folder {path} holds no image that can be read{deeper}")
            found += [Input(image, image.parent.relative_to(path)) for image in inside]
        else:
            found.append(Input(path, Path()))
    return found


def _images_in(folder: Path, recursive: bool, leave: Path | None) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (leave is not None and path.resolve() == leave.resolve()):
            continue
        if is_image(path):
            yield path
        elif recursive and path.is_dir():
            yield from _images_in(path, recursive, leave)


@dataclass(frozen=True, eq=False)
class Batch(Cancellable):
    """Apply a model to many files, each with a result of its own.

    Reading, computing and writing go side by side. A result that is there already, of the same
    image, model and refinement, is kept; one that was half written when its writer was killed has
    no name yet, so that the same batch once more goes on where the last one ended. What is wrong
    with a file costs that file alone; a full disk ends the batch.

    Attributes
    ----------
    model
        Path of a saved model.
    inputs
        As for :func:`find_inputs`.
    output
        Folder of the results, NAME.tif or NAME.zarr.
    format
        ``"tif"`` or ``"zarr"``, OME-TIFF or OME-Zarr.
    probabilities
        Whether these are written too, float32, to NAME_probabilities.
    csv
        Table to write at the end: how much of each class every image holds, and in how many
        objects, which needs a whole plane in memory.
    recursive
        As for :func:`find_inputs`.
    overwrite
        Whether results that are there already are made anew.
    axes, level
        As for :func:`.open_image`.
    refinement
        What is done to every tile, see :func:`.segment_piece`.
    device, weights, progress
        As for :class:`.FeatureExtractor`; on a cluster what its workers have.
    scheduler
        Address of a dask cluster to work on, such as ``"tcp://10.0.0.5:8786"``; its workers must
        see model, images and weights under the same paths.
    workers
        Number of processes of this machine to work in instead; 0: this one.

    Examples
    --------
    >>> batch = Batch(Path("cells.safetensors"), ["plates/*.tif"], Path("out"))  # doctest: +SKIP
    >>> for event in batch.run():  # doctest: +SKIP
    ...     print(event.done, event.text)
    """

    model: Path
    inputs: Sequence[str | os.PathLike[str]]
    output: Path
    format: str = "tif"
    probabilities: bool = False
    csv: Path | None = None
    recursive: bool = False
    overwrite: bool = False
    axes: str | None = None
    level: int = 0
    refinement: Refinement = field(default_factory=Refinement)
    device: str = "auto"
    weights: str | None = None
    progress: Progress | None = None
    scheduler: str | None = None
    workers: int = 0
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Generator[Event, None, Report]:
        """Do the work; close the generator to cancel.

        Yields
        ------
        Event
            After every tile and every file.

        Returns
        -------
        Report
            Of all files.

        Raises
        ------
        HRDv2Error
            If model, inputs, names of results, weights or cluster cannot be used: before any work
            is done.
        OSError
            If the disk is full, or the table cannot be written. Finished files stay.
        Cancelled
            If it was cancelled.
        """
        files = self._files()
        classifier = load_classifier(self.model)
        report = Report()
        done, shares = 0.0, dict.fromkeys(files, 0.0)
        queue: deque[Future[None]] = deque()
        begun: dict[_File, None] = {}

        def ended(waiting: int) -> Iterator[Event]:
            """Wait until no more steps wait to be written, and tell of the files that ended."""
            nonlocal done
            while len(queue) > waiting:
                queue.popleft().result()
            for file in [one for one in begun if one.outcome is not None]:
                del begun[file]
                done += 1 - shares[file]
                yield file.tell(report, done, len(files))

        with ExitStack() as stack:
            writer = stack.enter_context(ThreadPoolExecutor(1))
            # Of what is not whole nothing stays.
            stack.callback(lambda: [writer.submit(one.drop) for one in files])
            for file, part, found in stack.enter_context(self._results(files, classifier)):
                go_on(self._cancelled.is_set)
                if file.outcome is None:
                    begun[file] = None
                    if part is not None and isinstance(found, Segmented):
                        queue.append(writer.submit(file.take, part, found))
                        shares[file] += 1 / file.total
                        done += 1 / file.total
                        text = f"tile {round(shares[file] * file.total)} of {file.total}"
                        text = f"{file.path.name}, {text}"
                        yield Event("tile", file.path, done, len(files), text)
                    else:
                        assert not isinstance(found, Segmented)
                        queue.append(writer.submit(file.end, found))
                yield from ended(_BEHIND)
            yield from ended(0)
        if self.csv is not None:
            remove_leftovers(self.csv)
            write_csv(self.csv, [row for one in files for row in one.rows], _COLUMNS)
        return report

    def _files(self) -> list[_File]:
        """All that there is to do, if the names of the results can be used."""
        if self.format not in FORMATS:
            raise HRDv2Error(f"the format is {' or '.join(FORMATS)}, not {self.format!r}")
        inputs = find_inputs(self.inputs, recursive=self.recursive, leave=self.output)
        files = [_File(self, *one) for one in inputs]
        sources = {one.path.resolve() for one in files}
        targets: set[Path] = set()
        for target in (target for one in files for target in one.targets):
            if target in targets:
                raise ImageError(
                    f"several images would be written to {target}: apply them one by one"
                )
            if target.resolve() in sources:
                raise ImageError(
                    f"the result would overwrite {target}: choose another output folder"
                )
            check_output(target, self.model)
            targets.add(target)
        if self.csv is not None and self.csv.resolve() in sources | {self.model.resolve()}:
            raise HRDv2Error(f"{self.csv} is one of the inputs: give the table another name")
        return files

    @contextmanager
    def _results(self, files: list[_File], classifier: BasePixelClassifier) -> Iterator[_Results]:
        """What becomes of all parts of all files, as it comes."""
        with ExitStack() as stack:
            is_far = self.scheduler is not None or self.workers > 0
            if is_far:
                client = stack.enter_context(_client(self.scheduler, self.workers))
            else:
                extractor = extractor_for(
                    classifier.settings_,
                    device=self.device,
                    weights=self.weights,
                    progress=self.progress,
                )
            sha256 = _sha256(self.model)
            parts = self._parts(files, classifier, sha256, with_pixels=not is_far)
            ready = stack.enter_context(closing(_ahead(stack.enter_context(closing(parts)))))
            if is_far:
                yield self._there(ready, client, sha256)
            else:
                yield self._here(ready, classifier, extractor)

    def _parts(
        self,
        files: list[_File],
        classifier: BasePixelClassifier,
        sha256: str,
        *,
        with_pixels: bool,
    ) -> _Parts:
        """All parts of all files; of a file without any, None and what is wrong with it."""
        settings = classifier.settings_
        for file in files:
            try:
                if not file.open(classifier, sha256):
                    yield file, None, None
                    continue
                for part in parts_of(file.planes, settings):
                    if file.outcome is not None:
                        break
                    yield file, part, piece_of(file.planes, *part) if with_pixels else None
            except _OF_A_FILE as error:
                yield file, None, error

    def _here(
        self, parts: _Parts, classifier: BasePixelClassifier, extractor: FeatureExtractor
    ) -> _Results:
        """Segment parts in this thread."""
        stop = self._cancelled.is_set
        for file, part, piece in parts:
            if not isinstance(piece, Piece):
                yield file, part, piece
            elif file.outcome is None:
                found: Segmented | Exception
                try:
                    found = segment_piece(
                        classifier,
                        extractor.extract(piece, is_cancelled=stop),
                        piece,
                        self.refinement,
                        probabilities=self.probabilities,
                        is_cancelled=stop,
                    )
                except _OF_A_FILE as error:
                    found = error
                yield file, part, found

    def _there(self, parts: _Parts, client: distributed.Client, sha256: str) -> _Results:
        """Segment parts on a cluster, as many at a time as keep it busy."""
        from distributed import KilledWorker, wait

        weights = None if self.weights is None else str(Path(self.weights).resolve())
        order = _Order(
            *(self.model.resolve(), sha256, self.refinement, self.probabilities),
            *(self.device, weights, self.axes, self.level),
        )
        pending: dict[Any, tuple[_File, Part]] = {}
        told: set[str] = set()

        def next_ones() -> _Results:
            while True:
                go_on(self._cancelled.is_set)
                try:
                    done, _ = wait(list(pending), _POLL_S, return_when="FIRST_COMPLETED")
                    break
                except TimeoutError:
                    continue
            for future in done:
                file, part = pending.pop(future)
                error = future.exception()
                if isinstance(error, KilledWorker):
                    error = HRDv2Error(
                        "its workers died one after the other, for want of memory as a rule: give "
                        "them more"
                    )
                if error is None:
                    found, said = future.result()
                    for category, text in said:
                        if text not in told:
                            told.add(text)
                            warnings.warn(text, category, stacklevel=2)
                    yield file, part, found
                elif isinstance(error, _OF_A_FILE):
                    yield file, part, error
                else:
                    raise error

        for file, part, error in parts:
            if part is None:
                assert not isinstance(error, Piece)
                yield file, part, error
                continue
            path = file.path.resolve()
            # Not pure: what is read may change from one run to the next.
            pending[client.submit(_segment_there, order, path, part, pure=False)] = file, part
            while len(pending) >= _PER_THREAD * max(1, sum(client.nthreads().values())):
                yield from next_ones()
        while pending:
            yield from next_ones()


class _File:
    """An image on its way to its results.

    Attributes
    ----------
    path
        Of the image.
    targets
        Of labels, and of probabilities where they are wanted.
    planes, total
        Of the image, and how many parts they have; once it is open.
    outcome
        None while there is work to do.
    error
        Why it failed.
    rows
        Of the table.
    """

    planes: Planes
    total = 0

    def __init__(self, batch: Batch, path: Path, folder: Path) -> None:
        self._batch, self.path = batch, path
        endings = ("", "_probabilities") if batch.probabilities else ("",)
        self.targets = [
            batch.output / folder / f"{path.stem}{ending}.{batch.format}" for ending in endings
        ]
        self.outcome: Literal["written", "kept", "failed"] | None = None
        self.error: Exception | None = None
        self.rows: list[dict[str, Any]] = []
        self._stack = ExitStack()
        self._results: list[Results] = []
        self._left = 0
        self._losses = Losses()

    def open(self, classifier: BasePixelClassifier, sha256: str) -> bool:
        """Open the image; False if its results are there already.

        Raises
        ------
        ImageError
            If it cannot be read, or is none that the model is for.
        OSError
            If leftovers cannot be removed.
        """
        batch = self._batch
        self._classes = classifier.pixel_classes_
        if not self.path.exists():
            raise ImageError(f"there is no file {self.path}")
        self._notes = {
            "made": {
                "model": sha256,
                "refinement": batch.refinement.model_dump(),
                "image": stamp_of(self.path),
                "axes": batch.axes,
                "level": batch.level,
            }
        }
        for target in self.targets:
            remove_leftovers(target)
        if not batch.overwrite and all(self._is_made(target) for target in self.targets):
            return False
        self._source = open_image(self.path, axes=batch.axes, level=batch.level)
        self.planes = planes_for(self._source.planes, classifier.settings_)
        self.total = self._left = self.planes.count * len(
            tiles(self.planes.shape, classifier.settings_)
        )
        return True

    def _is_made(self, target: Path) -> bool:
        if not target.exists():
            return False
        try:
            return read_notes(target).get("made") == self._notes["made"]
        except ImageError:
            return False

    def take(self, part: Part, found: Segmented) -> None:
        """Write a part; the last one ends the file."""
        if self.outcome is None:
            with self._failing():
                if not self._results:
                    self._create()
                for results, values in zip(self._results, found[:2], strict=False):
                    assert values is not None
                    results.write(part.plane, part.tile.core, values)
                self._losses.add(found)
                self._left -= 1
                if self._left == 0:
                    self._stack.close()
                    self._measure()
                    self.outcome = "written"
                    self._losses.tell(self.path.name)

    def end(self, error: Exception | None) -> None:
        """End the file without a part: with what is wrong, or because its results are there."""
        if self.outcome is None:
            with self._failing():
                if error is not None:
                    raise error
                self._measure()
                self.outcome = "kept"

    def drop(self) -> None:
        """Remove what is written so far of a file that is not whole."""
        self._stack.__exit__(Cancelled, Cancelled(), None)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except _OF_A_FILE as error:
            self.drop()
            self.error, self.outcome = error, "failed"

    def _create(self) -> None:
        planes, count = self.planes, len(self._classes)
        about: dict[str, Any] = {
            "pixel_size": self._source.pixel_size,
            "unit": self._source.unit,
            "classes": self._classes,
            "notes": self._notes,
        }
        largest = np.array([one.label for one in self._classes])
        kinds: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            (planes.labels_axes, planes.labels_shape, label_dtype(largest)),
            (
                f"{planes.stack_axes}CYX",
                (*planes.stack_shape, count, *planes.shape),
                np.dtype(np.float32),
            ),
        ]
        # The last one opened is the first one that gets its name: where labels are, all is.
        self._results = [
            self._stack.enter_context(open_results(target, *kind, **about))
            for target, kind in zip(self.targets, kinds, strict=False)
        ]

    def _measure(self) -> None:
        """The rows of the table, from what was written, now or the last time."""
        if self._batch.csv is None:
            return
        source = open_image(self.targets[0])
        planes = source.planes
        sizes = [source.pixel_size[axis] for axis in "YX" if axis in source.pixel_size]
        measures = [
            measure_classes(
                planes.read(index),
                self._classes,
                pixel_size=sizes if len(sizes) == 2 else None,
                unit=source.unit,
            )
            for index in planes.indices()
        ]
        whole = [reduce(add, one) for one in zip(*measures, strict=True)]
        about = {"image": str(self.path), "planes": planes.count}
        self.rows = [about | one.row() for one in whole]

    def tell(self, report: Report, done: float, total: int) -> Event:
        """Enter what became of the file into the report, and say it.

        Raises
        ------
        OSError
            If it failed for want of space on the disk.
        """
        assert self.outcome is not None
        text = f"{self.path.name}: {self.outcome}"
        if self.error is not None:
            if _is_full(self.error):
                raise OSError(
                    f"the disk is full: {len(report.written)} files are written, not "
                    f"{self.targets[0]} and what comes after it. Make room and run the same again"
                ) from self.error
            text = " ".join(str(self.error).split()) or "the memory does not suffice"
            if self.path.name not in text:
                text = f"{self.path}: {text}"
            report.failed[self.path] = text
        else:
            (report.kept if self.outcome == "kept" else report.written).append(self.path)
        return Event(self.outcome, self.path, done, total, text)


_Parts = Generator[tuple[_File, Part | None, Piece | Exception | None], None, None]
_Results = Iterator[tuple[_File, Part | None, Segmented | Exception | None]]


@dataclass(frozen=True)
class _Order:
    """What is done to all parts, as a worker of a cluster needs to know it."""

    model: Path
    sha256: str
    refinement: Refinement
    probabilities: bool
    device: str
    weights: str | None
    axes: str | None
    level: int


def _segment_there(
    order: _Order, path: Path, part: Part
) -> tuple[Segmented, list[tuple[type[Warning], str]]]:
    """Segment a part, in a worker; also what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = _known_model(order.model, order.sha256)
        planes = _known_image(path, path.stat().st_mtime_ns, order.axes, order.level)
        planes = planes_for(planes, classifier.settings_)
        found = segment_here(
            classifier,
            piece_of(planes, *part),
            order.refinement,
            probabilities=order.probabilities,
            device=order.device,
            weights=order.weights,
        )
    return found, [(one.category, str(one.message)) for one in caught]


@lru_cache(maxsize=1)
def _known_model(path: Path, sha256: str) -> BasePixelClassifier:
    classifier = load_classifier(path)
    if _sha256(path) != sha256:
        raise ModelError(f"a worker finds another model in {path}: all need the same folders")
    return classifier


@lru_cache(maxsize=4)
def _known_image(path: Path, mtime_ns: int, axes: str | None, level: int) -> Planes:
    return open_image(path, axes=axes, level=level).planes


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[distributed.Client]:
    """A client of a scheduler, or of one of this machine with so many processes."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise HRDv2Error("a cluster needs dask: pip install 'napari-hrdv2[cluster]'") from None
    # What it says of workers that come and go, the report says better.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            address = stack.enter_context(cluster)
        else:
            try:
                asyncio.run(_knock(scheduler))
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise HRDv2Error(f"there is no dask scheduler at {scheduler}: {reason}") from error
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        stack.enter_context(client)
        # What waits for results asks for the client in use.
        stack.enter_context(client.as_current())
        yield client


async def _knock(scheduler: str) -> None:
    """Connect to a scheduler for a moment; a client that cannot goes on trying when it is gone."""
    from distributed.comm import connect

    comm = await connect(scheduler, timeout=_CONNECT_S)
    await comm.close()


def _ahead(items: Generator[_T, None, None]) -> Generator[_T, None, None]:
    """Items of a generator that runs in another thread, a few items ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


def stamp_of(path: Path) -> list[int]:
    """Bytes, and nanoseconds of the last change, of a file or of all in a folder."""
    inside = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    stats = [one.stat() for one in inside]
    return [sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is a disk without space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        error = error.__cause__
    return False
