"""The preferences as napari keeps them, and the manifest that declares them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari.settings
import pytest
import torch
from napari.settings import _clear_plugin_settings_cache, get_plugin_settings
from napari.utils.notifications import notification_manager
from npe2 import PluginManager, PluginManifest
from pydantic import ValidationError

from napari_hrdv2 import _preferences
from napari_hrdv2._preferences import Preferences, follow, read, token_folder
from napari_hrdv2.core.cache import TokenStore
from napari_hrdv2.core.weights import REGISTRY

_PLUGIN = "napari-hrdv2"
_MB = 10**6


@pytest.fixture
def plugins(npe2pm: Any, plugin_settings: None) -> PluginManager:
    """Where this plugin alone is installed, with its preferences at their defaults."""
    npe2pm.register(PluginManifest.from_distribution(_PLUGIN))
    manager: PluginManager = npe2pm
    return manager


@pytest.fixture
def file(plugins: PluginManager, tmp_path: Path) -> Path:
    """Where napari keeps the preferences in this test."""
    return tmp_path / f"{_PLUGIN}.yaml"


@pytest.fixture
def settings(file: Path) -> Any:
    return get_plugin_settings(_PLUGIN)


@pytest.fixture
def heard() -> list[Preferences]:
    return []


@pytest.fixture
def following(heard: list[Preferences], file: Path) -> Iterator[Callable[[], None]]:
    """Collects changes in ``heard`` until it is called."""
    end = follow(heard.append)
    yield end
    end()


@pytest.fixture
def declared(plugins: PluginManager) -> dict[str, Any]:
    """The manifest's properties by name."""
    groups = plugins.get_manifest(_PLUGIN).contributions.configurations.values()
    return {name: one for group in groups for name, one in group.properties.items()}


def test_the_manifest_says_what_the_model_says(declared: dict[str, Any]) -> None:
    schema = Preferences.model_json_schema()["properties"]
    assert declared.keys() == schema.keys()
    for name, wanted in schema.items():
        for key in ("type", "default", "minimum", "maximum"):
            assert getattr(declared[name], key) == wanted.get(key), (name, key)


def test_the_manifest_offers_every_model_of_the_registry(declared: dict[str, Any]) -> None:
    assert set(declared["model"].enum) == {"auto", *REGISTRY}


def test_every_offered_value_is_taken(
    declared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("model", "device"):
        for value in declared[name].enum:
            assert getattr(Preferences(**{name: value}), name) == value
        with pytest.raises(ValidationError, match="nonsense"):
            Preferences(**{name: "nonsense"})


def test_descriptions_fit_a_tooltip(declared: dict[str, Any]) -> None:
    # Qt breaks no lines of plain text.
    for one in declared.values():
        assert max(map(len, one.description.splitlines())) <= 100


def test_nothing_set(settings: Any) -> None:
    assert read() == Preferences()
    assert read().disk_bytes == 10 * 10**9
    assert read().memory_bytes == 2 * 10**9


def test_what_is_set_is_read_and_kept(settings: Any, file: Path) -> None:
    settings.segmentation.update({"model": "dinov2_vitb14", "passes": 16, "live_update": False})
    settings.computing.update({"device": "cpu", "memory_gb": 0.5})
    settings.saved_features.update({"cache_folder": "~/features", "disk_gb": 0})
    wanted = Preferences(
        model="dinov2_vitb14",
        passes=16,
        live_update=False,
        device="cpu",
        memory_gb=0.5,
        cache_folder="~/features",
        disk_gb=0,
    )
    assert read() == wanted
    _clear_plugin_settings_cache()
    assert read() == wanted
    get_plugin_settings(_PLUGIN).reset()
    assert read() == Preferences()


def test_a_file_of_another_version(file: Path) -> None:
    file.write_text(
        "segmentation: {passes: 2000, model: dinov9, live_update: false}\n"
        "computing: {device: tpu, memory_gb: .nan, cores: 8}\n"
        "more: {things: 1}\n"
    )
    assert read() == Preferences(live_update=False)


def test_a_device_that_is_not_there(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings.computing.device = "cuda"
    settings.segmentation.passes = 9
    with pytest.warns(UserWarning, match="'device' cannot be used.*'auto'.*no device 'cuda'"):
        assert read() == Preferences(passes=9)


@pytest.mark.parametrize("content", ["[1, 2]", "3"])
def test_a_damaged_file(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.warns(UserWarning, match="napari cannot read the plugins' preferences"):
        assert read() == Preferences()


def test_a_file_that_is_no_yaml(file: Path) -> None:
    file.write_text("segmentation: {passes: [")
    assert read() == Preferences()


def test_a_disabled_plugin_has_defaults(settings: Any, plugins: PluginManager) -> None:
    settings.segmentation.passes = 9
    plugins.disable(_PLUGIN)
    assert read() == Preferences()
    plugins.enable(_PLUGIN)
    assert read() == Preferences(passes=9)


def test_napari_without_preferences_of_plugins(
    settings: Any, monkeypatch: pytest.MonkeyPatch, heard: list[Preferences]
) -> None:
    settings.segmentation.passes = 9
    monkeypatch.delattr(napari.settings, "get_plugin_settings")
    assert read() == Preferences()
    follow(heard.append)()
    assert heard == []


def test_without_napari_and_qt() -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['napari', 'qtpy', 'PyQt6', 'superqt', 'vispy'])\n"
        "from napari_hrdv2._preferences import *\n"
        "from napari_hrdv2._preferences import Preferences, follow, read, token_folder\n"
        "follow(print)()\n"
        "assert read() == Preferences()\n"
        "print(token_folder(read()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_followers_hear_of_changes(
    settings: Any, heard: list[Preferences], following: Callable[[], None]
) -> None:
    assert heard == []
    settings.segmentation.live_update = False
    settings.segmentation.live_update = False
    # As the dialog does: all of a group at once.
    settings.segmentation.update({"model": "auto", "passes": 2, "live_update": True})
    settings.computing.memory_gb = 1
    assert heard == [
        Preferences(live_update=False),
        Preferences(passes=2),
        Preferences(passes=2, memory_gb=1),
    ]
    assert read() == heard[-1]
    following()
    following()
    settings.reset()
    assert len(heard) == 3


def test_followers_stay_when_plugins_come_and_go(
    settings: Any,
    heard: list[Preferences],
    following: Callable[[], None],
    plugins: PluginManager,
) -> None:
    settings.segmentation.passes = 9
    plugins.disable(_PLUGIN)
    plugins.enable(_PLUGIN)
    assert heard == [Preferences(passes=9), Preferences(), Preferences(passes=9)]
    made_anew = get_plugin_settings(_PLUGIN)
    assert made_anew is not settings
    made_anew.segmentation.passes = 2
    settings.segmentation.passes = 5
    assert heard[3:] == [Preferences(passes=2)]
    following()
    plugins.disable(_PLUGIN)
    assert len(heard) == 4


@pytest.mark.parametrize(
    ("chosen", "folder"),
    [
        ("~/features", Path.home() / "features"),
        (" features ", Path.home() / "features"),
        ("~nobody-of-that-name", Path.home() / "~nobody-of-that-name"),
        (str(Path("/scratch").absolute()), Path("/scratch").absolute()),
    ],
)
def test_the_folder_chosen(chosen: str, folder: Path) -> None:
    assert token_folder(Preferences(cache_folder=chosen)) == folder / "napari-hrdv2" / "tokens"


@pytest.mark.parametrize("chosen", ["", "  "])
def test_the_usual_folder(chosen: str, empty_cache: Path) -> None:
    assert token_folder(Preferences(cache_folder=chosen)) == empty_cache.with_name("tokens")


@pytest.mark.parametrize("is_chosen", [True, False])
def test_the_command_that_clears(
    settings: Any, plugins: Any, tmp_path: Path, empty_cache: Path, is_chosen: bool
) -> None:
    chosen = tmp_path / "chosen"
    settings.saved_features.cache_folder = str(chosen) if is_chosen else ""
    stores = [
        TokenStore(chosen / "napari-hrdv2" / "tokens", 10**9),
        TokenStore(empty_cache.with_name("tokens"), 10**9),
    ]
    for store in stores:
        store.save("0" * 64, torch.zeros(50, 100, 100, dtype=torch.float16))
    (chosen / "model.safetensors").write_bytes(b"a model of the user's")
    told: list[str] = []
    notification_manager.notification_ready.connect(lambda n: told.append(n.message))
    plugins.commands.execute(f"{_PLUGIN}.clear_cache")
    notification_manager.notification_ready.disconnect()
    cleared, kept = stores if is_chosen else stores[::-1]
    assert (cleared.size, kept.size // _MB) == (0, 1)
    assert told == [f"Cleared 1.0 MB of saved features in {cleared.folder}"]
    assert (chosen / "model.safetensors").exists()


def test_nothing_to_clear(settings: Any, empty_cache: Path) -> None:
    told: list[str] = []
    notification_manager.notification_ready.connect(lambda n: told.append(n.message))
    _preferences.clear_cache()
    notification_manager.notification_ready.disconnect()
    assert told == [f"Cleared 0 bytes of saved features in {empty_cache.with_name('tokens')}"]
    assert not empty_cache.with_name("tokens").exists()
