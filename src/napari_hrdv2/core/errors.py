"""Errors whose message is meant for the user: what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

_M = TypeVar("_M", bound=BaseModel)


class HRDv2Error(ValueError):
    """Base of every error that the user can mend; its text is one sentence or two."""


class ImageError(HRDv2Error):
    """The image cannot be segmented as it is."""


class StrokesError(HRDv2Error):
    """The strokes do not fit the image or cannot train a classifier."""


class DeviceError(HRDv2Error):
    """The device asked for is not there, or too small for the image."""


class WeightsError(HRDv2Error):
    """The backbone's weights cannot be used."""


class DownloadError(WeightsError):
    """No host could be reached, or the transfer broke."""


class HashMismatchError(WeightsError):
    """A file is not the one its name promises."""


class ArchitectureError(WeightsError):
    """A checkpoint holds no vision transformer that this package can build."""


class ModelError(HRDv2Error):
    """A saved pixel classifier cannot be read."""


class SettingsMismatchError(ModelError):
    """A classifier was given tokens made with other settings than its own."""


class ImageWarning(UserWarning):
    """A part of an image may be missing."""


class ModelWarning(UserWarning):
    """A saved classifier may not be what it was."""


class RefinementWarning(UserWarning):
    """A refinement took away more than it was meant to."""


class Cancelled(Exception):  # noqa: N818, nothing is wrong
    """Somebody who waited for the work does so no more."""


def never() -> bool:
    """Whether to give up, where nobody would ask for it."""
    return False


def go_on(is_cancelled: Callable[[], bool]) -> None:
    """Raise :class:`Cancelled` where somebody gave up."""
    if is_cancelled():
        raise Cancelled


def plain(error: ValidationError) -> HRDv2Error:
    """The first thing that pydantic found wrong, as one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return HRDv2Error(f"{field}: {what} (got {first['input']!r})" if field else what)


def altered(model: _M, /, **changes: Any) -> _M:
    """A model of pydantic with some fields changed, checked.

    Raises
    ------
    HRDv2Error
        If a field does not exist or its value is out of range; the message names it.
    """
    try:
        return type(model).model_validate(model.model_dump() | changes)
    except ValidationError as error:
        raise plain(error) from None
