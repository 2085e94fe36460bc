"""Where the backbone runs, in which precision, and how much fits at once."""

from __future__ import annotations

import math

import torch

from .errors import DeviceError

# Larger batches gain nothing on a CPU once a pass fills its cores.
_CPU_BATCH_TOKENS = 2048
# Bytes that a block holds at its widest, in channels of every token: input, norm, the
# feed-forward layer's 4 before and 4 after its activation, and as many to spare.
_WIDTHS_IN_FLIGHT = 20


def choose_device(device: str = "auto") -> torch.device:
    """The device of a name, or the fastest there is.

    Parameters
    ----------
    device
        ``"auto"``, or a device of torch: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises
    ------
    DeviceError
        If there is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"{device!r} is no device: use auto, cpu, cuda or mps") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise DeviceError(
            f"this machine has no device {device!r} that torch can use: try auto or cpu"
        )
    return chosen


def fast_dtype(device: torch.device) -> torch.dtype:
    """Half precision where the device is fast at it, else single."""
    if device.type == "cuda":
        # Tensor cores for half precision came with compute capability 7.
        return torch.float16 if torch.cuda.get_device_capability(device)[0] >= 7 else torch.float32
    return torch.float16 if device.type == "mps" else torch.float32


def batch_size(device: torch.device, tokens: int, dim: int, dtype: torch.dtype) -> int:
    """How many images of so many tokens go through the backbone at once.

    Parameters
    ----------
    device
        Where it runs.
    tokens
        Tokens of one image.
    dim
        Channels of a token.
    dtype
        Precision of the backbone.

    Returns
    -------
    int
        At least 1.
    """
    if device.type == "cpu":
        return max(1, _CPU_BATCH_TOKENS // tokens)
    return int(max(1, _free(device) // 2 // (tokens * dim * _WIDTHS_IN_FLIGHT * dtype.itemsize)))


def room_for(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Empty tensor on a device, or on the CPU where it would take more than a quarter there.

    Parameters
    ----------
    shape, dtype
        Of the tensor.
    device
        Where it is wanted.
    """
    wanted = 4 * math.prod(shape) * dtype.itemsize
    if device.type != "cpu" and wanted <= _free(device):
        try:
            return torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return torch.empty(shape, dtype=dtype)


def _free(device: torch.device) -> int:
    """Bytes that a GPU has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def release(device: torch.device) -> None:
    """Give the device's cached memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
