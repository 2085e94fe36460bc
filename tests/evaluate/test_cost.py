"""Rows of times and memory: what is asked, what becomes of the answers."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import torch

from napari_hrdv2._evaluate import cost_row, run
from napari_hrdv2._evaluate.cost import Cost, exponent, in_fresh_process, variants
from napari_hrdv2._evaluate.layout import DataSetError
from napari_hrdv2.core.errors import DeviceError, HRDv2Error
from napari_hrdv2.core.memory import is_measurable

CPU = torch.device("cpu")


def fake(exponent=1.5, calls=None):
    """A machine on which time is a power of the pixels."""

    def measured(request):
        if calls is not None:
            calls.append(request)
        pixels = request["side"] ** 2
        seconds = 1e-6 * pixels**exponent * request["settings"]["passes"]
        return {
            "features_s": seconds,
            "fit_s": 0.1,
            "segment_s": 0.2,
            "tokens_mb": 1.0,
            "before_mb": 2.0,
            "peak_mb": pixels / 1e6,
        }

    return measured


@pytest.fixture
def make(extractor, tiny_weights):
    def made(**changes):
        options = {"sides": (64, 128), "only": ("passes 1", "passes 4"), "measured": fake()}
        options |= {"resolved": extractor.settings, "device": CPU, "weights": tiny_weights}
        return Cost(**options | changes)

    return made


def finished(evaluation, output):
    events = list(run(evaluation, output))
    return events, json.loads(output.read_text())


def test_exponents_and_what_the_largest_image_takes(make, tmp_path):
    _, document = finished(make(), tmp_path / "out.json")
    summary = document["summary"]
    assert summary["exponent, passes 1"] == pytest.approx(1.5)
    assert summary["s per megapixel, passes 4"] == pytest.approx(4 * 128**3 / 128**2)
    assert summary["peak MB at 128, passes 1"] == 128**2 / 1e6
    assert [row["item"] for row in document["rows"]] == [
        "passes 1, 64 x 64",
        "passes 1, 128 x 128",
        "passes 4, 64 x 64",
        "passes 4, 128 x 128",
    ]
    assert document["rows"][3]["pixels"] == 128**2
    assert document["settings"]["cores"] > 0
    assert document["settings"]["weights_sha256"]


def test_one_size_has_no_exponent(make, tmp_path):
    _, document = finished(make(sides=(64,)), tmp_path / "out.json")
    assert not [name for name in document["summary"] if name.startswith("exponent")]


def test_exponent_of_noisy_times_is_by_least_squares():
    # log 2 steps: of 0, 1, 2 and times of 0, 3, 3 the slope is 3 / 2.
    assert exponent([1, 2, 4], [1, 8, 8]) == pytest.approx(1.5)


def test_rows_that_are_done_are_kept(make, tmp_path):
    steps = run(make(), tmp_path / "out.json")
    next(steps)
    next(steps)
    steps.close()
    calls = []
    slower = make(measured=fake(2, calls))
    events, document = finished(slower, tmp_path / "out.json")
    assert [one.kind for one in events] == ["kept", "kept", "measured", "measured", "written"]
    assert len(calls) == 2
    assert document["summary"]["exponent, passes 1"] == pytest.approx(1.5)
    assert document["summary"]["exponent, passes 4"] == pytest.approx(2)


def test_what_is_asked_are_the_variants_settings(make, tmp_path, extractor):
    calls = []
    finished(make(only=(), sides=(64,), measured=fake(calls=calls)), tmp_path / "out.json")
    known = variants(extractor.settings.patch)
    assert len(calls) == len(known)
    for request, changes in zip(calls, known.values(), strict=True):
        assert {name: request["settings"][name] for name in changes} == changes


def test_a_variant_that_there_is_not(make, tmp_path):
    with pytest.raises(HRDv2Error, match=r"no variant 'passes 3': choose among default, passes 1"):
        finished(make(only=("passes 3",)), tmp_path / "out.json")


def test_too_little_memory_leaves_a_row_out(make, tmp_path):
    def measured(request):
        if request["side"] == 128:
            raise DataSetError("the memory does not suffice")
        return fake()(request)

    _, document = finished(make(measured=measured), tmp_path / "out.json")
    assert [one["item"] for one in document["skipped"]] == [
        "passes 1, 128 x 128",
        "passes 4, 128 x 128",
    ]


def test_a_row_in_a_fresh_process(make, tmp_path):
    evaluation = make(only=("passes 4",), sides=(96,), measured=in_fresh_process)
    _, document = finished(evaluation, tmp_path / "out.json")
    (row,) = document["rows"]
    assert row["features_s"] > 0
    assert row["fit_s"] > 0
    assert row["segment_s"] > 0
    assert row["tokens_mb"] > 0
    if is_measurable():
        # Python and torch take some 100 MB, and more than that is not needed here.
        assert 50 < row["before_mb"] <= row["peak_mb"] < 2000


def test_what_a_process_cannot_do_is_told(extractor, monkeypatch, capsys, tmp_path):
    settings = extractor.settings.model_dump(mode="json") | {"weights_sha256": None, "patch": None}
    request = {"side": 64, "settings": settings, "device": "cpu", "weights": "none.pth"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert cost_row.main() == 2
    said = capsys.readouterr().err
    assert "none.pth" in said

    def failed(*_, **__):
        return subprocess.CompletedProcess([], 2, "", said)

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(HRDv2Error, match=r"code 2.*none\.pth"):
        in_fresh_process(request)


@pytest.mark.parametrize("code", [3, -9])
def test_a_process_without_memory_leaves_its_row_out(monkeypatch, code):
    def killed(*_, **__):
        return subprocess.CompletedProcess([], code, "", "the image is too large\n")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(DataSetError, match="does not suffice: the image is too large"):
        in_fresh_process({})


def test_a_process_tells_that_its_memory_does_not_suffice(monkeypatch, capsys):
    def failing(_):
        raise DeviceError("the image is too large")

    monkeypatch.setattr(cost_row, "measured", failing)
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    assert cost_row.main() == 3
    assert capsys.readouterr().err == "the image is too large\n"
