"""What the user set in napari's preferences, and the command that empties the cache.

The manifest's ``configurations`` give the page and its ranges, napari keeps the values. Before
napari 0.9 plugins have no preferences: everything here then works with the defaults.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from npe2 import PluginManager
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .core.cache import TokenStore, default_folder
from .core.devices import choose_device
from .core.settings import Settings
from .core.weights import REGISTRY

if TYPE_CHECKING:
    from ._session import Session

_PLUGIN = "napari-hrdv2"
_FEATURES = Settings()


def _known(model: str) -> str:
    if model != "auto" and model not in REGISTRY:
        raise ValueError(f"there is no model {model!r}")
    return model


def _there(device: str) -> str:
    choose_device(device)
    return device


class Preferences(BaseModel):
    """What new panels start with, and what the cache may take.

    Attributes
    ----------
    model
        ``"auto"`` or a name in :data:`~napari_hrdv2.core.weights.REGISTRY`.
    passes
        How many passes the backbone makes, from 1 to 1024.
    live_update
        Whether the segmentation follows each stroke.
    device
        ``"auto"``, or a device of this machine: ``"cpu"``, ``"cuda"``, ``"mps"``.
    memory_gb
        What the features may take in memory, in 10^9 bytes.
    cache_folder
        Where features are saved; empty for the user's cache. See :func:`token_folder`.
    disk_gb
        What they may take there, in 10^9 bytes; 0 to save none.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: Annotated[str, AfterValidator(_known)] = _FEATURES.model
    passes: int = Field(_FEATURES.passes, ge=1, le=1024)
    live_update: bool = True
    device: Annotated[str, AfterValidator(_there)] = "auto"
    memory_gb: float = Field(2.0, ge=0.1, le=1000)
    cache_folder: str = ""
    disk_gb: float = Field(10.0, ge=0, le=10_000)

    @property
    def memory_bytes(self) -> int:
        """What the features may take in memory, in bytes."""
        return round(self.memory_gb * 1e9)

    @property
    def disk_bytes(self) -> int:
        """What the features may take on disk, in bytes."""
        return round(self.disk_gb * 1e9)


def read() -> Preferences:
    """The user's preferences.

    What cannot be used (a device that this machine has not, say) is replaced by its default,
    with a :class:`UserWarning` that names it.
    """
    return _usable(_settings())


def follow(callback: Callable[[Preferences], object]) -> Callable[[], None]:
    """Tell of every change of the preferences.

    Parameters
    ----------
    callback
        Called in the thread of the change with what :func:`read` then returns. In napari's
        dialog every letter typed is a change, and *Cancel* takes all of them back: where a
        change costs, wrap it in ``superqt.utils.qdebounced``.

    Returns
    -------
    callable
        Ends it; a second call does nothing.
    """
    followed: Any = None
    last = read()

    def tell(*_: object) -> None:
        nonlocal last
        if (now := read()) != last:
            last = now
            callback(now)

    def attach(*_: object) -> None:
        # Napari makes all plugins' settings anew when one is added, enabled or disabled.
        nonlocal followed
        leave()
        followed = _settings()
        if followed is not None:
            followed.events.changed.connect(tell)
        tell()

    def leave() -> None:
        nonlocal followed
        if followed is not None:
            followed.events.changed.disconnect(tell)
            followed = None

    def end() -> None:
        leave()
        for signal in signals:
            signal.disconnect(attach, missing_ok=True)

    events = PluginManager.instance().events
    signals = (events.plugins_registered, events.enablement_changed)
    for signal in signals:
        signal.connect(attach)
    attach()
    return end


def prefer(session: Session, old: Preferences, new: Preferences) -> None:
    """Have a session take over those preferences that are others than before.

    The rest was perhaps chosen in its panel.

    Raises
    ------
    HRDv2Error
        If they cannot be used.
    """
    session.memory.budget = new.memory_bytes
    folder = token_folder(new)
    if (folder, new.disk_bytes) != (session.store.folder, session.store.budget):
        session.store = TokenStore(folder, new.disk_bytes)
    names = [
        name for name in ("model", "passes", "device") if getattr(new, name) != getattr(old, name)
    ]
    session.configure(**{name: getattr(new, name) for name in names})


def token_folder(preferences: Preferences) -> Path:
    """Where features are saved: in a folder of their own, which need not be there yet.

    A relative ``cache_folder`` counts from the user's home.
    """
    folder = preferences.cache_folder.strip()
    if not folder:
        return default_folder()
    # Path.expanduser raises for users that are not there, as halfway through typing a path.
    chosen = Path.home() / os.path.expanduser(folder)  # noqa: PTH111
    # Never the chosen folder itself: what else lies there must not fall to the cache's eviction.
    return chosen / "napari-hrdv2" / "tokens"


def clear_cache() -> None:
    """Delete the features saved on disk and notify of the space won: a command of the manifest."""
    from napari.utils.notifications import show_info
    from rich.filesize import decimal

    store = TokenStore(token_folder(read()), 0)
    before = store.size
    store.clear()
    show_info(f"Cleared {decimal(before - store.size)} of saved features in {store.folder}")


def _settings() -> Any:
    """Napari's settings of this plugin; None where there are none."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return None
    try:
        return get_plugin_settings(_PLUGIN)
    except KeyError:  # the plugin is disabled
        return None
    except Exception as error:
        # Napari reads those of all plugins at once: any of them may be at fault.
        warnings.warn(
            f"napari cannot read the plugins' preferences ({type(error).__name__}: "
            f"{str(error)[:200]}), HR-Dv2 works with its defaults. Mend or delete the damaged "
            "file beside napari's settings ('napari --info' says where they are).",
            stacklevel=2,
        )
        return None


def _usable(settings: Any) -> Preferences:
    groups = {} if settings is None else settings.model_dump()
    values = {name: value for group in groups.values() for name, value in group.items()}
    try:
        return Preferences.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            del values[name]
            default = Preferences.model_fields[name].default
            warnings.warn(
                f"HR-Dv2's preference {name!r} cannot be used and is taken as {default!r}: "
                f"{fault['msg'].removeprefix('Value error, ')}",
                stacklevel=3,
            )
        return Preferences.model_validate(values)
