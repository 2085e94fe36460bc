"""Running an evaluation from its first item to its results file, however often interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from .. import __version__
from ..core.errors import HRDv2Error, ImageError
from ..core.files import PREFIX, remove_leftovers, replacing
from .layout import DataSet, DataSetError, refuse_missing

#: Of an item: numbers, text, lists and so on, as JSON has them. Entries whose names begin with
#: ``_`` are there for the summary, but not in the results.
Row = dict[str, Any]
#: What the results file holds.
Document = dict[str, Any]

_ROWS = "rows.jsonl"


class Event(NamedTuple):
    """What happened to an item.

    Attributes
    ----------
    kind
        ``"kept"``: it was measured before an interruption; ``"measured"``; ``"skipped"``: one of
        its files is broken; ``"written"``: of the results, once all items are done.
    item
        Its name; of results that of their file.
    done, total
        Number of items.
    text
        For people, a line.
    """

    kind: Literal["kept", "measured", "skipped", "written"]
    item: str
    done: int
    total: int
    text: str


class Authors(NamedTuple):
    """What authors report of their own program, to be compared with.

    Attributes
    ----------
    source
        Where, such as ``"HR-Dv2, arXiv 2410.19836"``.
    figures
        By the names that the summary has for them.
    """

    source: str
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(ABC):
    """What is measured, on what, and how rows become figures.

    Attributes
    ----------
    name
        Of the command.
    scores
        What the figures tell, a line.
    columns
        Entries of the rows that are told one by one, beside the figures; as a rule none.
    limit
        How many items are measured, the first ones; by default all. Subclasses leave out the others
        from ``items``.
    """

    name: ClassVar[str]
    scores: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    limit: int | None = None

    @property
    def authors(self) -> Authors | None:
        """What the method's authors report, if anything."""
        return None

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes the rows or figures, as JSON has it; the data aside.

        Of features, the extractor's resolved settings, which hold the weights' hash:
        ``extractor.settings.model_dump(mode="json")``.
        """

    @property
    @abstractmethod
    def items(self) -> Sequence[str]:
        """Names of what is measured, each once, in a fixed order.

        Raises
        ------
        DataSetError
            If a folder or list of the data set is missing.
        """

    @abstractmethod
    def files(self, item: str) -> Sequence[Path]:
        """The files that an item is measured from."""

    @abstractmethod
    def measure(self, item: str) -> Row:
        """Measure an item; the same each time.

        Raises
        ------
        DataSetError, ImageError
            If a file of it is broken: the item is skipped, and named in the results. Other errors
            end the run.
        """

    @abstractmethod
    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Figures of the rows that there are, in the items' order: one at least."""

    def begin(self, folder: Path, done: Sequence[str]) -> Sequence[str]:
        """Prepare for the items that are left, where they depend on those before them.

        Parameters
        ----------
        folder
            To keep a state in, with :func:`.replacing`; it is removed once the results are written.
        done
            The items that were measured before an interruption.

        Returns
        -------
        sequence of str
            Those of them whose rows are kept: all by default, or as many as the state knows.
        """
        return done


@dataclass(frozen=True, eq=False)
class ImageEvaluation(Evaluation):
    """One whose items are the images of a data set.

    Attributes
    ----------
    data
        The images.
    """

    data: DataSet

    @cached_property
    def items(self) -> Sequence[str]:
        """Names of the images."""
        return self.data.names[: self.limit]

    def files(self, item: str) -> Sequence[Path]:
        """Image and annotation."""
        return self.data.pair(item)


def run(
    evaluation: Evaluation,
    output: Path,
    *,
    overwrite: bool = False,
    skip_missing: bool = False,
) -> Generator[Event, None, Document]:
    """Measure all items and write the results; close the generator to interrupt.

    What is measured is kept beside the results, in NAME.partial, so that the same run once more
    goes on where it ended and writes the same file, byte for byte. A line that its writer was
    killed in is measured again, and so are items that were skipped.

    Parameters
    ----------
    evaluation
        What to do.
    output
        The results file to write, ``.json``.
    overwrite
        Whether to begin anew where there are results, or a part of them, of other settings or data.
        Those of the same are made anew, too.
    skip_missing
        Whether items whose files are missing are skipped rather than refused before any work.

    Yields
    ------
    Event
        After every item.

    Returns
    -------
    dict
        What the file holds: ``evaluation``, ``scores``, ``program``, ``settings``, ``data``,
        ``summary``, ``authors``, ``skipped`` and ``rows``.

    Raises
    ------
    HRDv2Error
        If a part of the data set is missing, no item could be measured, or there are results of
        other settings or data and they are not to be overwritten.
    OSError
        If a file cannot be written.
    """
    if output.is_dir() or output.suffix != ".json":
        raise HRDv2Error(f"the results are a file that ends in .json, not {output}")
    items = list(evaluation.items)
    if len(set(items)) < len(items):
        twice = next(one for k, one in enumerate(items) if one in items[:k])
        raise DataSetError(f"the data set lists {twice} twice")
    files = [path for item in items for path in evaluation.files(item)]
    if not skip_missing:
        refuse_missing(files)
    identity = _plain(
        {
            "evaluation": evaluation.name,
            "scores": evaluation.scores,
            "program": f"napari-hrdv2 {__version__}",
            "settings": {"limit": evaluation.limit, **evaluation.settings},
            "data": {"items": len(items), "sha256": _digest(items, files)},
        }
    )
    folder = output.with_suffix(".partial")
    _refuse_strange(folder)
    remove_leftovers(output)
    document: Document
    if output.exists():
        document = _read(output)
        if overwrite:
            output.unlink()
        else:
            _refuse_others(output, document, identity)
    if output.exists() or overwrite:
        _remove(folder)
    if output.exists():
        yield Event("kept", output.name, len(items), len(items), f"{output} is there already")
        return document
    rows: dict[str, Row] = {}
    skipped: list[dict[str, str]] = []
    kept = _Kept.opened(folder, identity)
    kept.keep(evaluation.begin(folder, [one for one in items if one in kept.rows]))
    with kept:
        for k, item in enumerate(items, 1):
            if item in kept.rows:
                rows[item] = kept.rows[item]
                yield Event("kept", item, k, len(items), f"{item}, measured before")
                continue
            try:
                rows[item] = _plain(evaluation.measure(item))
            except (DataSetError, ImageError) as error:
                why = " ".join(str(error).split())
                skipped.append({"item": item, "why": why})
                yield Event("skipped", item, k, len(items), f"{item} is left out: {why}")
                continue
            kept.add(item, rows[item])
            yield Event("measured", item, k, len(items), item)
    if not rows:
        raise DataSetError(f"no item could be measured; the first: {skipped[0]['why']}")
    authors = evaluation.authors
    document = _plain(
        {
            **identity,
            "summary": evaluation.summary(list(rows.values())),
            "authors": None
            if authors is None
            else {
                "note": "reported by the authors of their own program, not measured here",
                "source": authors.source,
                "figures": dict(authors.figures),
            },
            "skipped": skipped,
            "rows": [{"item": item, **_public(row)} for item, row in rows.items()],
        }
    )
    with replacing(output) as path:
        path.write_text(_text(document), encoding="utf-8")
    _remove(folder)
    yield Event("written", output.name, len(items), len(items), f"wrote {output}")
    return document


class _Kept:
    """Rows on disk, a line each below one that tells what they are of.

    Attributes
    ----------
    rows
        By item.
    """

    def __init__(self, path: Path, identity: Document) -> None:
        self._path, self._identity = path, identity
        self.rows: dict[str, Row] = {}

    @classmethod
    def opened(cls, folder: Path, identity: Document) -> _Kept:
        """Those that there are, if they are of the same.

        Raises
        ------
        HRDv2Error
            If they are of other settings or data.
        """
        kept = cls(folder / _ROWS, identity)
        lines = list(_whole_lines(kept._path))
        if lines:
            _refuse_others(folder, lines[0], identity)
            kept.rows = {one["item"]: one["row"] for one in lines[1:]}
        # A torn line goes, as what is added would end up in it.
        kept._write()
        return kept

    def keep(self, items: Sequence[str]) -> None:
        """Forget all but the rows of these items."""
        if len(items) < len(self.rows):
            wanted = set(items)
            self.rows = {item: row for item, row in self.rows.items() if item in wanted}
            self._write()

    def _write(self) -> None:
        remove_leftovers(self._path)
        with replacing(self._path) as path, path.open("w", encoding="utf-8") as file:
            file.write(_line(self._identity))
            file.writelines(_line({"item": item, "row": row}) for item, row in self.rows.items())

    def __enter__(self) -> _Kept:
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, item: str, row: Row) -> None:
        self._file.write(_line({"item": item, "row": row}))
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole_lines(path: Path) -> Iterator[Any]:
    """The lines up to the first that was not written whole."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return


def _text(document: Document) -> str:
    """JSON with a line for every entry of the document, and for every row."""

    def entry(value: Any) -> str:
        if not (isinstance(value, list) and value):
            return json.dumps(value)
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"

    entries = (f" {json.dumps(name)}: {entry(value)}" for name, value in document.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _read(path: Path) -> Document:
    """Results that are there already.

    Raises
    ------
    HRDv2Error
        If it is a file of another kind, which is never overwritten.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not (isinstance(found, dict) and {"evaluation", "settings", "rows"} <= set(found)):
        raise HRDv2Error(f"{path} is there and holds no results: choose another name")
    document: Document = found
    return document


def _refuse_others(path: Path, found: Any, identity: Document) -> None:
    """Refuse to go on with rows of something else.

    Raises
    ------
    HRDv2Error
        If they are; it says in what they differ.
    """
    mine = _flat(identity)
    theirs = _flat({name: found.get(name) for name in identity} if isinstance(found, dict) else {})
    names = [one for one in (*mine, *theirs) if mine.get(one) != theirs.get(one)]
    if names:
        told = [f"{one} {theirs.get(one)}, now {mine.get(one)}" for one in dict.fromkeys(names)]
        raise HRDv2Error(
            f"{path} is of another run ({'; '.join(told)}): begin anew with --overwrite, or choose "
            "another output"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their last names where these tell enough, such as passes."""
    found: dict[str, Any] = {}
    for name, one in value.items():
        if isinstance(one, Mapping):
            inner = "" if name == "settings" else f"{prefix}{name}."
            found |= _flat(one, inner)
        else:
            found[prefix + name] = one
    return found


def _digest(items: Sequence[str], files: Sequence[Path]) -> str:
    """Of what there is to measure: names, and sizes of the files, as bytes would take too long."""
    sizes = [(one.name, one.stat().st_size if one.is_file() else None) for one in files]
    return hashlib.sha256(json.dumps([items, sizes]).encode()).hexdigest()


def _public(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _plain(value: Any) -> Any:
    """As it comes back from JSON, so that rows are the same before and after an interruption."""
    return json.loads(json.dumps(value, allow_nan=False))


def _refuse_strange(folder: Path) -> None:
    """Refuse a folder that is not of a run, as it would be removed in the end.

    Raises
    ------
    HRDv2Error
        If it holds no rows, but something else.
    """
    if not folder.exists() or (folder / _ROWS).is_file():
        return
    # A run that was killed at its very beginning leaves folders of that name.
    if folder.is_dir() and all(one.name.startswith(PREFIX) for one in folder.iterdir()):
        return
    raise HRDv2Error(f"{folder} is there and not of a run: choose another name for the results")


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
