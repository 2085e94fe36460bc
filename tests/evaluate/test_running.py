"""Running evaluations: resuming, results, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from napari_hrdv2._evaluate import Authors, DataSetError, Evaluation, Row, run
from napari_hrdv2.core.errors import HRDv2Error

from .helpers import finish


@dataclass(frozen=True, eq=False)
class Lengths(Evaluation):
    """Lengths of texts in files; a file that holds '?' is broken."""

    name = "lengths"
    scores = "how long texts are"
    folder: Path
    factor: int = 1
    measured: list[str] = field(default_factory=list)

    @property
    def authors(self) -> Authors:
        return Authors("a paper", {"mean": 7.5})

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"factor": self.factor}

    @property
    def items(self) -> Sequence[str]:
        return ["a", "b", "c", "d", "e"][: self.limit]

    def files(self, item: str) -> Sequence[Path]:
        return [self.folder / f"{item}.txt"]

    def measure(self, item: str) -> Row:
        self.measured.append(item)
        text = (self.folder / f"{item}.txt").read_text()
        if text == "?":
            raise DataSetError(f"{item}.txt is broken")
        return {"length": len(text) * self.factor / 3, "_text": text, 1: (2, 3)}

    def summary(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "mean": sum(row["length"] for row in rows) / len(rows),
            "all": "".join(row["_text"] for row in rows),
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for item, text in zip("abcde", ("x", "yy", "zzzz", "", "vvvvv"), strict=True):
        (tmp_path / "data" / f"{item}.txt").write_text(text)
    return tmp_path / "data"


def test_results_hold_rows_figures_and_whose_they_are(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    events, document = finish(Lengths(folder), out)
    assert [(one.kind, one.item, one.done, one.total) for one in events] == [
        *(("measured", item, k, 5) for k, item in enumerate("abcde", 1)),
        ("written", "out.json", 5, 5),
    ]
    assert json.loads(out.read_text()) == document
    assert document["summary"] == {"mean": 12 / 3 / 5, "all": "xyyzzzzvvvvv"}
    assert document["rows"][1] == {"item": "b", "length": 2 / 3, "1": [2, 3]}
    assert document["settings"] == {"limit": None, "factor": 1}
    assert document["authors"]["figures"] == {"mean": 7.5}
    assert "not measured here" in document["authors"]["note"]
    assert document["skipped"] == []
    assert [one.name for one in out.parent.iterdir()] == ["out.json"]


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("torn", [b"", b'{"item": "d", "ro', b'{"item": "d"\n', b"\xff\n"])
def test_interrupted_and_resumed_writes_the_same_file(
    folder: Path, tmp_path: Path, count: int, torn: bytes
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    finish(Lengths(folder), whole)
    job = run(Lengths(folder), out)
    assert len(list(islice(job, count))) == count
    job.close()
    assert not out.exists()
    if count:
        with (tmp_path / "out.partial" / "rows.jsonl").open("ab") as file:
            file.write(torn)
    again = Lengths(folder)
    events, _ = finish(again, out)
    assert again.measured == [*"abcde"][count:]
    assert [one.kind for one in events] == ["kept"] * count + ["measured"] * (5 - count) + [
        "written"
    ]
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_a_torn_header_begins_anew(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    next(run(Lengths(folder), out))
    rows = tmp_path / "out.partial" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:20])
    again = Lengths(folder)
    finish(again, out)
    assert again.measured == [*"abcde"]


def test_results_that_are_there_are_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    _, first = finish(Lengths(folder), out)
    again = Lengths(folder)
    events, document = finish(again, out)
    assert not again.measured
    assert [one.kind for one in events] == ["kept"]
    assert document == first
    finish(again, out, overwrite=True)
    assert again.measured == [*"abcde"]


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"factor": 2}, r"\(factor 1, now 2\)"),
        ({"limit": 3}, r"\(limit None, now 3; data.items 5, now 3; data.sha256 "),
        ({"name": "others"}, r"\(evaluation lengths, now others\)"),
        ({"text": "longer"}, r"\(data.sha256 \w+, now \w+\)"),
    ],
)
def test_of_other_settings_or_data_nothing_is_gone_on_with(
    folder: Path, tmp_path: Path, is_finished: bool, change: dict[str, Any], told: str
) -> None:
    out = tmp_path / "out.json"
    if is_finished:
        finish(Lengths(folder), out)
    else:
        next(run(Lengths(folder), out))
    if "text" in change:
        (folder / "c.txt").write_text(change["text"])
        other: Evaluation = Lengths(folder)
    elif "name" in change:
        other = type("Others", (Lengths,), change)(folder)
    else:
        other = Lengths(folder, **change)
    with pytest.raises(HRDv2Error, match=told):
        finish(other, out)
    with pytest.raises(HRDv2Error, match="--overwrite"):
        finish(other, out)
    _, document = finish(other, out, overwrite=True)
    fresh = tmp_path / "fresh.json"
    finish(other, fresh)
    assert out.read_bytes() == fresh.read_bytes()
    assert document["evaluation"] == other.name


def test_what_is_broken_is_left_out_and_tried_again(folder: Path, tmp_path: Path) -> None:
    (folder / "b.txt").write_text("?")
    out = tmp_path / "out.json"
    events, document = finish(Lengths(folder), out)
    assert [one.kind for one in events] == ["measured", "skipped", *["measured"] * 3, "written"]
    assert document["skipped"] == [{"item": "b", "why": "b.txt is broken"}]
    assert [row["item"] for row in document["rows"]] == [*"acde"]
    assert document["summary"]["all"] == "xzzzzvvvvv"
    half, again = tmp_path / "half.json", Lengths(folder)
    list(islice(run(again, half), 3))
    finish(again, half)
    assert again.measured == ["a", "b", "c", "b", "d", "e"]
    assert half.read_bytes() == out.read_bytes()


def test_missing_files_are_refused_by_name_or_left_out(folder: Path, tmp_path: Path) -> None:
    for item in "bcde":
        (folder / f"{item}.txt").unlink()
    out, evaluation = tmp_path / "out.json", Lengths(folder)
    with pytest.raises(DataSetError, match=r"of 5 .* 4 are missing: \S+b.txt, .*d.txt and 1 more"):
        finish(evaluation, out)
    assert not evaluation.measured
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_measured_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("?")
    with pytest.raises(DataSetError, match=r"no item .*: a.txt is broken"):
        finish(Lengths(folder, limit=1), tmp_path / "out.json")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\x00", '{"images": [], "annotations": []}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_another_kind_is_never_overwritten(
    folder: Path, tmp_path: Path, text: str, overwrite: bool
) -> None:
    out = tmp_path / "out.json"
    out.write_text(text)
    with pytest.raises(HRDv2Error, match="holds no results"):
        finish(Lengths(folder), out, overwrite=overwrite)
    assert out.read_text() == text


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_another_kind_is_never_removed(
    folder: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "out.partial").mkdir()
    finish(Lengths(folder), tmp_path / "out.json")
    assert not (tmp_path / "out.partial").exists()
    (tmp_path / "out.json").unlink()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").touch()
    with pytest.raises(HRDv2Error, match=r"out\.partial is there and not of a run"):
        finish(Lengths(folder), tmp_path / "out.json", overwrite=overwrite)
    assert (tmp_path / "out.partial" / "thesis.txt").exists()


def test_output_is_a_json_file(folder: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "out", "."):
        with pytest.raises(HRDv2Error, match=r"ends in \.json"):
            finish(Lengths(folder), tmp_path / name)


def test_names_are_there_once(folder: Path, tmp_path: Path) -> None:
    class Twice(Lengths):
        items = ("a", "b", "a")

    with pytest.raises(DataSetError, match="lists a twice"):
        finish(Twice(folder), tmp_path / "out.json")


@dataclass(frozen=True, eq=False)
class Sums(Lengths):
    """Each row hangs on all before it; the state is saved after every second one."""

    name = "sums"
    state: dict[str, Any] = field(default_factory=dict)

    def begin(self, folder: Path, done: Sequence[str]) -> Sequence[str]:
        saved = folder / "state.json"
        found = json.loads(saved.read_text()) if saved.exists() else {"sum": 0, "count": 0}
        self.state.update(found, saved=saved)
        return done[: found["count"]]

    def measure(self, item: str) -> Row:
        row = super().measure(item)
        self.state["sum"] += row["length"]
        self.state["count"] += 1
        if self.state["count"] % 2 == 0:
            kept = {name: self.state[name] for name in ("sum", "count")}
            self.state["saved"].write_text(json.dumps(kept))
        return row | {"sum": self.state["sum"]}


@pytest.mark.parametrize("count", range(6))
def test_a_state_goes_on_where_it_was_saved(folder: Path, tmp_path: Path, count: int) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    _, document = finish(Sums(folder), whole)
    assert document["rows"][-1]["sum"] == pytest.approx(12 / 3)
    list(islice(run(Sums(folder), out), count))
    again = Sums(folder)
    finish(again, out)
    assert again.measured == [*"abcde"][count // 2 * 2 :]
    assert out.read_bytes() == whole.read_bytes()
