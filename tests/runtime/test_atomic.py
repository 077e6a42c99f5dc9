"""Writes are whole or not at all, and a host that refuses them is named with the way out."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from taemi_runtime.atomic import atomic_file, atomic_folder, write_bytes, write_text
from taemi_runtime.errors import WriteError


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "née")
    assert path.read_bytes() == "née".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(errno.EIO, "broken")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), atomic_file(path) as part:
        part.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(WriteError, match=r"cannot write .*a\.bin: No space left on device\. Free some space"):
        with atomic_file(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/taemi-test"), Path("/dev/stdout")):
        with pytest.raises(WriteError, match="it is a device or a pipe"):
            write_text(path, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_path_through_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="is a file: choose another"):
        write_bytes(tmp_path / "file" / "a", b"")


def test_a_folder_is_replaced_only_when_asked_and_never_half(tmp_path):
    path = tmp_path / "b"
    with atomic_folder(path) as part:
        (part / "one").write_text("1")
    with pytest.raises(FileExistsError), atomic_folder(path):
        pass
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, replace=True) as part:
        (part / "two").write_text("2")
        raise KeyboardInterrupt
    assert os.listdir(path) == ["one"]
    with atomic_folder(path, replace=True) as part:
        (part / "two").write_text("2")
    assert os.listdir(path) == ["two"]
    assert os.listdir(tmp_path) == ["b"]
