"""Files that are there whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

PART = ".part"
"""Ends the name of a file that is being written."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name, and rename it once it is complete.

    Args:
        path: Where the file is to be.

    Yields:
        Where to write it. If that fails, nothing is left behind.

    Raises:
        OSError: If it cannot be renamed, or there is a device or pipe of that name, which
            a file would replace.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file that could be replaced; give another path.")
    part = path.with_name(path.name + PART)
    try:
        yield part
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
