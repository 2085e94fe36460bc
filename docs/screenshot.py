"""Make docs/window.png: napari with the sample, segmented by its strokes.

Run it where there is a display, or under a virtual one:

    QT_QPA_PLATFORM=xcb xvfb-run -a -s '-screen 0 1400x900x24' python docs/screenshot.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE_S = 600
_OUT = Path(__file__).with_name("window.png")


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


def main() -> None:
    """Drive the window and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        # Read when napari is imported: the picture must not depend on the user's settings.
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        import napari
        from napari._qt.dialogs.qt_notification import NapariQtNotification
        from skimage.io import imsave

        viewer = napari.Viewer(show=True)
        window: Any = viewer.window._qt_window
        window.resize(1280, 704)
        viewer.open_sample("napari-hrdv2", "glands")
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
        for toast in window.findChildren(NapariQtNotification):
            toast.close()
        pause(1)
        imsave(_OUT, viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        viewer.close()
    print(f"{_OUT}: {_OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
