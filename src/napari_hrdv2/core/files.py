"""Files and folders that are written all at once or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Folders in which files are written begin with this; they stay where a writer is killed.
PREFIX = ".napari-hrdv2-"
# Characters of what is written that its folder's name begins with: names have 255 at most.
_NAMED = 100


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place once it is written.

    Missing folders are made. On an error the old file, if any, stays as it was. What is written
    may be a folder too.

    Parameters
    ----------
    path
        The file or folder to write.

    Yields
    ------
    Path
        Where to write instead, with the same name and ending.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path)) as folder:
        whole = Path(folder) / path.name
        yield whole
        if not (whole.is_dir() and path.is_dir()):
            whole.replace(path)
            return
        # No folder takes the place of another that holds anything.
        old = Path(folder) / f"{path.name}.old"
        path.replace(old)
        try:
            whole.replace(path)
        except OSError:
            old.replace(path)
            raise


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what a killed process left of writing ``path``; nobody must be writing it now.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    path = Path(path)
    # What tempfile adds to a prefix has eight characters.
    for folder in path.parent.glob(f"{glob.escape(_prefix(path))}{'?' * 8}"):
        shutil.rmtree(folder)


def _prefix(path: Path) -> str:
    return f"{PREFIX}{path.name[:_NAMED]}-"
