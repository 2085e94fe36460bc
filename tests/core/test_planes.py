"""Arrays of any axes as planes: against moveaxis and take, lazily, and axes that are guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_hrdv2.core.errors import ImageError
from napari_hrdv2.core.planes import Planes, guess_axes


class Lazy:
    """An array that counts what is read of it, and takes only slices and numbers, as zarr does."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.read = 0

    def __getitem__(self, at: tuple[Any, ...]) -> np.ndarray:
        assert all(isinstance(one, (int, slice)) for one in at)
        found = self._array[at]
        self.read += found.size
        return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, str, tuple[int, ...] | None]:
    """An array none of whose values are the same, its axes, and the channels chosen."""
    over_planes = draw(st.lists(st.sampled_from("TZPQ"), max_size=3, unique=True))
    last = draw(st.sampled_from(["", "C", "S"]))
    axes = "".join(draw(st.permutations([*over_planes, "Y", "X", *last])))
    shape = tuple(
        draw(st.integers(3, 4) if one == "S" else st.integers(1, 4 if one in "TZPQ" else 5))
        for one in axes
    )
    channels = None
    if "C" in axes and draw(st.booleans()):
        count = shape[axes.index("C")]
        some = st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True)
        channels = tuple(draw(some))
    return np.arange(np.prod(shape)).reshape(shape), axes, channels


def naive(
    array: np.ndarray, axes: str, index: dict[str, int], channels: tuple[int, ...] | None
) -> np.ndarray:
    """A plane: one axis taken after the other, then the rest brought into order."""
    for axis, k in index.items():
        array, axes = np.take(array, k, axes.index(axis)), axes.replace(axis, "")
    order = [one for one in "YXCS" if one in axes]
    array = np.moveaxis(array, [axes.index(one) for one in order], range(len(order)))
    if "C" not in axes:
        return array
    if array.shape[-1] == 1:
        return array[..., 0]
    return array if channels is None else np.take(array, channels, -1)


@given(cases(), st.data())
def test_planes_are_taken_axis_by_axis(case, data):
    array, axes, channels = case
    planes = Planes(array, axes, channels)
    over = [one for one in axes if one not in "YXCS"]
    assert planes.stack_axes == "".join(over)
    assert planes.stack_shape == tuple(array.shape[axes.index(one)] for one in over)
    assert planes.labels_axes == f"{planes.stack_axes}YX"
    assert planes.labels_shape == (*planes.stack_shape, *planes.shape)
    indices = list(planes.indices())
    assert len(indices) == planes.count == len(set(indices))
    region = []
    for n in planes.shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    for index in indices:
        expected = naive(array, axes, dict(zip(over, index, strict=True)), channels)
        assert expected.shape[:2] == planes.shape
        np.testing.assert_array_equal(planes.read(index), expected)
        np.testing.assert_array_equal(
            planes.read(index, (region[0], region[1])), expected[region[0], region[1]]
        )


@given(cases())
def test_channels_are_told_only_where_there_are_some(case):
    array, axes, channels = case
    planes = Planes(array, axes, channels)
    count = array.shape[axes.index("C")] if "C" in axes else 1
    if count == 1:
        assert planes.channel_count is None
        assert planes.channels is None
        assert planes.read(next(planes.indices())).ndim == (3 if "S" in axes else 2)
    else:
        assert planes.channel_count == count
        assert planes.channels == (channels or tuple(range(count)))


def test_only_what_is_asked_for_is_read():
    array = Lazy(np.arange(5 * 6 * 40 * 30).reshape(5, 6, 40, 30))
    planes = Planes(array, "ZCYX", (4, 2))
    assert array.read == 0
    found = planes.read((3,), (slice(8, 20), slice(5, 10)))
    np.testing.assert_array_equal(found, array._array[3][[4, 2], 8:20, 5:10].transpose(1, 2, 0))
    # Of the channels those from the first to the last used.
    assert array.read == 12 * 5 * 3


def test_what_cannot_be_read_is_one_line():
    class Broken(Lazy):
        def __getitem__(self, at: tuple[Any, ...]) -> np.ndarray:
            raise OSError("chunk 3.4 is gone\nand more")

    with pytest.raises(ImageError, match=r"cannot be read: chunk 3\.4 is gone$"):
        Planes(Broken(np.zeros((4, 4))), "YX").read()


def test_planes_take_as_many_numbers_as_there_are_axes_over_them():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Planes(np.zeros((2, 4, 4)), "ZYX").read()


BAD = {
    "too few letters": ((4, 5, 6), "YX", None, "do not fit"),
    "too many letters": ((4, 5), "ZYX", None, "do not fit"),
    "a letter twice": ((4, 5, 6), "YXX", None, "do not fit"),
    "no Y": ((4, 5), "ZX", None, "lack Y or X"),
    "no X": ((4, 5), "YZ", None, "lack Y or X"),
    "samples beside channels": ((2, 4, 5, 3), "CYXS", None, "S stands for"),
    "two samples": ((4, 5, 2), "YXS", None, "S stands for"),
    "no pixels": ((0, 5), "YX", None, "no pixels"),
    "no planes": ((0, 4, 5), "ZYX", None, "no pixels"),
    "a channel beyond": ((2, 4, 5), "CYX", (0, 2), "has 2, from 0 to 1"),
    "a channel from the end": ((2, 4, 5), "CYX", (-1,), "has 2, from 0 to 1"),
    "a channel twice": ((2, 4, 5), "CYX", (1, 1), "channels 1, 1 asked for"),
    "no channel": ((2, 4, 5), "CYX", (), "channels none asked for"),
}


@pytest.mark.parametrize("kind", BAD)
def test_axes_and_channels_that_do_not_fit_are_one_line_errors(kind):
    shape, axes, channels, words = BAD[kind]
    with pytest.raises(ImageError, match=words) as caught:
        Planes(np.zeros(shape), axes, channels)
    assert "\n" not in str(caught.value)


GUESSES = {
    "a plane": ((40, 50), {}, "YX"),
    "RGB": ((40, 50, 3), {"rgb": True}, "YXS"),
    "what could be RGB but is not": ((40, 50, 3), {}, "ZYX"),
    "few are channels": ((3, 40, 50), {}, "CYX"),
    "many are planes": ((5, 40, 50), {}, "ZYX"),
    "one is no channel": ((1, 40, 50), {}, "ZYX"),
    "the shortest are channels": ((4, 2, 40, 50), {}, "ZCYX"),
    "time before depth": ((9, 8, 40, 50), {}, "TZYX"),
    "a stack of RGB has no channels": ((2, 40, 50, 3), {"rgb": True}, "ZYXS"),
    "names": ((9, 2, 40, 50), {"names": ("Time", " z ", "y", "x")}, "TZYX"),
    "names of channels last": ((40, 50, 7), {"names": ("y", "x", "channel")}, "YXC"),
    "names in another order": ((40, 7, 50), {"names": ("x", "c", "y")}, "XCY"),
    "names that say nothing": ((3, 40, 50), {"names": ("0", "1", "2")}, "CYX"),
    "some names": ((3, 9, 40, 50), {"names": ("t", "what", "", "")}, "TZYX"),
    "names where Y and X lie": ((3, 40, 50), {"names": ("", "z", "c")}, "CYX"),
    "Y named, but X's place taken": ((40, 50, 3), {"names": ("y", "column", "c")}, "ZYX"),
    "names of something else": ((3, 40, 50), {"names": ("y", "x")}, "CYX"),
    "a name twice": ((3, 40, 50), {"names": ("z", "slice", "x")}, "CYX"),
    "names of RGB": ((2, 40, 50, 3), {"rgb": True, "names": ("t", "y", "x")}, "TYXS"),
    "RGB has no other channels": ((2, 40, 50, 3), {"rgb": True, "names": ("c", "y", "x")}, "ZYXS"),
}


@pytest.mark.parametrize("kind", GUESSES)
def test_axes_are_guessed(kind):
    shape, how, axes = GUESSES[kind]
    assert guess_axes(shape, **how) == axes
    assert Planes(np.zeros(shape), axes).axes == axes


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.lists(st.sampled_from(["", "c", "t", "z", "y", "x", "-1"]), min_size=6, max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_guessed_fits(shape, names, rgb, named):
    whole = (*shape, 3) if rgb else tuple(shape)
    axes = guess_axes(whole, rgb=rgb, names=tuple(names[: len(shape)]) if named else None)
    assert Planes(np.zeros(whole), axes).axes == axes


@pytest.mark.parametrize(("shape", "rgb"), [((), False), ((7,), False), ((7, 3), True)])
def test_what_has_no_height_and_width_is_an_error(shape, rgb):
    with pytest.raises(ImageError, match="height and width"):
        guess_axes(shape, rgb=rgb)
