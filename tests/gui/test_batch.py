"""Many files segmented from a panel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pytestqt.qtbot import QtBot

from napari_hrdv2 import _batch
from napari_hrdv2._widgets.batch import BatchWidget
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.extraction import FeatureExtractor


def halves(seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).normal(60, 8, (60, 70))
    image[:, 35:] += 120
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def batch(viewer: Any, tmp_path: Path, tiny_weights: Path) -> BatchWidget:
    extractor = FeatureExtractor(weights=tiny_weights, device="cpu", passes=1)
    strokes = np.zeros((60, 70), np.uint8)
    strokes[10:50, 5:9], strokes[10:50, 60:64] = 1, 2
    model = tmp_path / "model.safetensors"
    PixelClassifier().fit(extractor.extract(halves(0)), strokes).save(model)
    (tmp_path / "in").mkdir()
    for k in range(3):
        tifffile.imwrite(tmp_path / "in" / f"{k}.tif", halves(k))
    (tmp_path / "in" / "broken.tif").write_bytes(b"no picture")
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Apply a model to many files")
    panel.weights = str(tiny_weights)
    panel.model.value = model
    panel.output.value = tmp_path / "out"
    panel.add([str(tmp_path / "in")])
    return panel


def test_a_folder_is_segmented(
    batch: BatchWidget, tmp_path: Path, qtbot: QtBot, click: Any
) -> None:
    batch.table.setChecked(True)
    click(batch.start_button)
    assert not batch.start_button.isEnabled()
    qtbot.waitUntil(lambda: batch.start_button.isEnabled(), timeout=60_000)
    assert batch.status.text() == "3 files written, 1 failed."
    assert batch.failures.count() == 1
    assert "broken.tif" in batch.failures.item(0).text()
    assert batch.failures.isVisible()
    assert batch.progress.value() == batch.progress.maximum()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{k}.tif" for k in range(3)),
        "classes.csv",
    }
    click(batch.start_button)
    qtbot.waitUntil(lambda: batch.start_button.isEnabled(), timeout=60_000)
    assert batch.status.text() == "0 files written, 3 were there already, 1 failed."


def test_cancelled_and_closed_it_stops(
    batch: BatchWidget,
    viewer: Any,
    tmp_path: Path,
    qtbot: QtBot,
    click: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segment = _batch.segment_piece

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return segment(*args, **options)

    monkeypatch.setattr(_batch, "segment_piece", slowly)
    click(batch.start_button)
    qtbot.waitUntil(lambda: " left" in batch.status.text(), timeout=60_000)
    click(batch.cancel_button)
    qtbot.waitUntil(lambda: batch.start_button.isEnabled(), timeout=60_000)
    assert batch.status.text().startswith("Cancelled.")
    assert len(list((tmp_path / "out").glob("*.tif"))) < 3
    click(batch.start_button)
    qtbot.wait(200)
    viewer.window.remove_dock_widget(batch.parent())
    assert not batch.is_busy


def test_what_is_wrong_is_told(batch: BatchWidget, tmp_path: Path, qtbot: QtBot) -> None:
    batch.model.value = tmp_path / "none.safetensors"
    batch.start()
    qtbot.waitUntil(lambda: not batch.is_busy, timeout=60_000)
    assert "there is no model" in batch.status.text()
    batch.inputs.clear()
    batch.start()
    assert batch.status.text() == "Choose a model, images and a folder for the results first."
