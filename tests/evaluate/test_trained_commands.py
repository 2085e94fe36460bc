"""The commands, from the command line to files: with a backbone of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_hrdv2._cli import main

from .test_coco import CAT, PERSON, SKY, WATER, written
from .test_scribbles import stripes, write


@pytest.fixture
def run(tiny_weights, tmp_path):
    def command(name, *arguments, out="out.json"):
        options = ("--weights", str(tiny_weights), "--device", "cpu", "-o", str(tmp_path / out))
        return main(["evaluate", name, *map(str, arguments), *options])

    return command


def results(tmp_path, out="out.json"):
    return json.loads((tmp_path / out).read_text())


def test_coco_probe(run, tmp_path, capsys):
    root = tmp_path / "data"
    written(root, "train2017", "1", np.array([[PERSON, CAT], [SKY, WATER]]))
    written(root, "val2017", "2", np.array([[SKY, CAT], [PERSON, WATER]]))
    assert run("coco-probe", root, "--side", 28, "--epochs", 2, "--passes", 2) == 0
    document = results(tmp_path)
    assert document["settings"]["epochs"] == 2
    # As in the paper: from the last block, positions as they are, and nothing but tokens.
    chosen = ("passes", "depth", "filters", "move_positions")
    assert [document["settings"][name] for name in chosen] == [2, 1.0, False, False]
    said = capsys.readouterr()
    assert "0.651" in said.out
    assert "theirs" in said.out
    (root / "annotations" / "val2017" / "2.png").unlink()
    assert run("coco-probe", root, "--overwrite") == 2
    said = capsys.readouterr()
    assert "annotations/val2017/2.png" in said.err
    assert said.err.count("\n") == 1
    assert run("coco-probe", root, "--learning-rate", 0) == 2
    assert "learning-rate" in capsys.readouterr().err


def test_scribbles(run, tmp_path, capsys):
    for name, labels in {"a": (1, 2), "b": (2, 1)}.items():
        write(tmp_path / "data", name, stripes(*labels, side=56))
    options = ("--painted", 0.1, "--painted", 0.2, "--passes", 1, "--seeds", 2)
    assert run("scribbles", tmp_path / "data", *options) == 0
    document = results(tmp_path)
    assert len(document["rows"]) == 8
    assert document["settings"]["fractions"] == [0.1, 0.2]
    said = capsys.readouterr()
    assert "mean IoU, 10 %" in said.out
    assert "b, 20 %, seed 1" in said.out
    (tmp_path / "data" / "a.png").write_bytes(b"no image")
    assert run("scribbles", tmp_path / "data", "--passes", 1, out="other.json") == 2
    assert "left out: a, 0.5 %, seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--painted", 0), "fraction must be above 0"),
        (("--classifier", "oracle"), "oracle"),
        (("--seeds", 0), "seeds"),
        (("--depth", 2), "depth"),
    ],
)
def test_options_out_of_range_are_one_line(run, tmp_path, capsys, options, words):
    write(tmp_path / "data", "a", stripes(1, 2, side=56))
    assert run("scribbles", tmp_path / "data", "--passes", 1, *options) == 2
    lines = [one for one in capsys.readouterr().err.splitlines() if "napari-hrdv2: " in one]
    (line,) = lines
    assert words in line


@pytest.mark.parametrize("command", ["coco-probe", "scribbles"])
def test_what_is_missing_is_one_line_before_weights_are_looked_for(tmp_path, capsys, command):
    options = ["-o", str(tmp_path / "out.json"), "--weights", str(tmp_path / "none.pth")]
    assert main(["evaluate", command, str(tmp_path / "nowhere"), *options]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert said.count("\n") == 1


def test_cost(run, tmp_path, monkeypatch, capsys):
    from napari_hrdv2._evaluate import cost

    row = {"features_s": 1.5, "fit_s": 0.1, "segment_s": 0.2, "tokens_mb": 1.0}
    memory = {"before_mb": 2.0, "peak_mb": None}
    monkeypatch.setattr(cost.subprocess, "run", lambda *_, **__: _Done(json.dumps(row | memory)))
    assert run("cost", "--side", 64, "--side", 128, "--only", "passes 1") == 0
    document = results(tmp_path)
    assert [one["side"] for one in document["rows"]] == [64, 128]
    assert document["summary"]["exponent, passes 1"] == pytest.approx(0, abs=1e-9)
    assert "passes 1, 128 x 128" in capsys.readouterr().out
    assert run("cost", "--only", "passes 5", out="other.json") == 2
    assert "no variant 'passes 5'" in capsys.readouterr().err


class _Done:
    returncode, stderr = 0, ""

    def __init__(self, stdout):
        self.stdout = stdout
