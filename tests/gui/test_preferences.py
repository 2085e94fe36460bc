"""The preferences in napari's own dialog and menus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari.settings
import pytest
import torch
from napari.settings import _clear_plugin_settings_cache
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QMenu

from napari_hrdv2._preferences import Preferences, follow, read, token_folder
from napari_hrdv2.core.cache import TokenStore

_FIRST = Preferences()


@pytest.fixture
def page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, viewer: Any
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Opens the dialog; the fields of the plugin's page by name, and the dialog itself."""
    monkeypatch.setattr(napari.settings, "_CFG_PATH", str(tmp_path / "settings.yaml"))
    _clear_plugin_settings_cache()

    def page() -> dict[str, Any]:
        dialog = viewer.window._open_preferences_dialog()
        titles = [dialog._list.item(i).text() for i in range(dialog._list.count())]
        dialog._list.setCurrentRow(titles.index("HR-Dv2"))
        QTest.qWait(50)
        groups = dialog._stack.currentWidget().findChildren(object)
        fields = {w._name: w for w in groups if hasattr(w, "_name")}
        return fields | {"dialog": dialog}

    yield page
    _clear_plugin_settings_cache()


@pytest.fixture
def heard(page: Any) -> Iterator[list[Preferences]]:
    heard: list[Preferences] = []
    end = follow(heard.append)
    yield heard
    end()


def test_the_page_shows_every_preference(page: Any) -> None:
    fields = page()
    dialog = fields.pop("dialog")
    assert {name: field.state for name, field in fields.items()} == _FIRST.model_dump()
    assert all(field.isVisible() and field.toolTip() for field in fields.values())
    dialog.reject()


def test_what_is_clicked_is_heard_and_kept(page: Any, heard: list[Preferences], click: Any) -> None:
    fields = page()
    click(fields["live_update"])
    assert heard == [Preferences(live_update=False)]
    assert read() == heard[-1]
    click(fields["dialog"]._button_ok)
    _clear_plugin_settings_cache()
    assert read() == Preferences(live_update=False)
    fields = page()
    assert not fields["live_update"].isChecked()
    fields["dialog"].accept()


def test_cancel_takes_back_what_was_typed(page: Any, heard: list[Preferences], click: Any) -> None:
    fields = page()
    QTest.keyClicks(fields["cache_folder"], "~/f")
    QTest.keyClick(fields["passes"], Qt.Key.Key_Up)
    assert heard == [
        Preferences(cache_folder="~"),
        Preferences(cache_folder="~/"),
        Preferences(cache_folder="~/f"),
        Preferences(cache_folder="~/f", passes=5),
    ]
    click(fields["dialog"]._button_cancel)
    assert read() == heard[-1] == _FIRST


def test_the_menu_clears_the_cache(
    viewer: Any, page: Any, told: list[str], empty_cache: Path
) -> None:
    store = TokenStore(token_folder(read()), 10**9)
    store.save("0" * 64, torch.zeros(50, 100, 100, dtype=torch.float16))
    (action,) = (
        action
        for menu in viewer.window.file_menu.findChildren(QMenu)
        if menu.title() == "IO Utilities"
        for action in menu.actions()
        if action.text() == "Clear the saved features (HR-Dv2)"
    )
    action.trigger()
    assert told == [f"Cleared 1.0 MB of saved features in {store.folder}"]
    assert store.size == 0
