"""Make docs/window.png and docs/explore_window.png: napari with the sample.

In the first it is segmented by its strokes, in the second explored without.

Run it where there is a display, or under a virtual one:

    QT_QPA_PLATFORM=xcb xvfb-run -a -s '-screen 0 1400x900x24' python docs/screenshot.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE_S = 600
_FOLDER = Path(__file__).parent
# (y, x) in the epithelium of a gland.
_PIXEL = (75.0, 62.0)


def wait(until: Callable[[], bool], patience: float = _PATIENCE_S) -> None:
    """Let the window live until something has happened."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + patience
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened within {patience} s")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float) -> None:
    """Let the window live for a while."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def picture(viewer: Any, path: Path) -> None:
    """Take the picture of a window, without notifications."""
    from napari._qt.dialogs.qt_notification import NapariQtNotification
    from PIL import Image

    from napari_hrdv2._picture import with_palette

    window: Any = viewer.window._qt_window
    for toast in window.findChildren(NapariQtNotification):
        toast.close()
    pause(1)
    taken = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    with_palette(taken).save(path, optimize=True)
    viewer.close()
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def opened(height: int) -> Any:
    """A viewer with the sample."""
    import napari

    viewer = napari.Viewer(show=True)
    window: Any = viewer.window._qt_window
    window.resize(1280, height)
    viewer.open_sample("napari-hrdv2", "glands")
    return viewer


def segment() -> None:
    """The painting panel."""
    viewer = opened(704)
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Segment")
    strokes = viewer.layers["glands strokes"]
    viewer.layers.selection.active = strokes
    strokes.opacity = 1
    strokes.brush_size = 5
    strokes.mode = "paint"
    pause(0.5)
    viewer.reset_view(margin=0)
    panel.segment()
    wait(lambda: not panel.is_busy)
    viewer.layers["glands segmentation"].opacity = 0.4
    picture(viewer, _FOLDER / "window.png")


def explore() -> None:
    """The exploring panel, its layers side by side."""
    viewer = opened(820)
    _, panel = viewer.window.add_plugin_dock_widget("napari-hrdv2", "Explore features")
    viewer.layers.remove("glands strokes")
    viewer.layers.selection.active = viewer.layers["glands"]
    panel.passes.setValue(16)
    panel.labels.foreground_combo.setCurrentIndex(1)
    for act in (panel.components, panel.attention, panel.labels.foreground, panel.labels.clusters):
        act()
        wait(lambda: not panel.is_busy)
    panel.follow_button.setChecked(True)
    wait(lambda: not panel.is_busy)
    panel.follower.clicked.emit(_PIXEL)
    # Labels over the image, each map by itself.
    for name in ("glands foreground", "glands clusters"):
        viewer.layers[name].opacity = 1
    viewer.canvas.grid.enabled = True
    viewer.canvas.grid.shape = (3, 2)
    pause(0.5)
    viewer.reset_view(margin=0)
    picture(viewer, _FOLDER / "explore_window.png")


_PICTURES = {"window": segment, "explore_window": explore}


def main() -> None:
    """Drive the window and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=_PICTURES, help="one picture (default: all)")
    chosen = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder:
        # Read when napari is imported: the picture must not depend on the user's settings.
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        for name, take in _PICTURES.items():
            if chosen in (None, name):
                take()


if __name__ == "__main__":
    main()
