"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from svdhooks.wholefile import written_whole


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.bin"
    with written_whole(path) as part:
        part.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), written_whole(path) as part:
        part.write_bytes(b"half")
        raise OSError("full")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(OSError, match="give another path"),
        written_whole(tmp_path / "pipe") as part,
    ):
        part.write_text("a")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
