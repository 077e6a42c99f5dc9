"""What a killed process leaves behind is cleared away by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taemi_runtime.working_folder import working_folder

ROOT = Path(__file__).parents[2]
_WORKS = """
import sys, time
from pathlib import Path
from taemi_runtime.working_folder import working_folder
with working_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(bytes(1000))
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def worker(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKS, str(tmp_path / "made.taemi")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.wait()


def grow_old(folder):
    os.utime(folder, (time.time() - 600,) * 2)


def test_a_killed_processs_folder_is_deleted_by_the_next(worker, tmp_path):
    (left,) = tmp_path.iterdir()
    grow_old(left)
    worker.kill()
    worker.wait()
    with working_folder(tmp_path / "made.taemi") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_living_processs_folder_stays(worker, tmp_path):
    (other,) = tmp_path.iterdir()
    grow_old(other)
    with working_folder(tmp_path / "made.taemi") as folder:
        assert set(tmp_path.iterdir()) == {other, folder}
    assert (other / "half").stat().st_size == 1000


def test_folders_of_other_work_stay(tmp_path):
    others = [tmp_path / name for name in (".else.taemi.abc.part", "made.taemi.abc.part", ".made.taemi.abc")]
    for other in others:
        other.mkdir()
        grow_old(other)
    (tmp_path / ".made.taemi.file.part").write_text("a file that is being written")
    grow_old(tmp_path / ".made.taemi.file.part")
    young = tmp_path / ".made.taemi.young.part"  # made, and not locked yet
    young.mkdir()
    with working_folder(tmp_path / "made.taemi"):
        pass
    assert all(path.exists() for path in (*others, young, tmp_path / ".made.taemi.file.part"))


def test_letters_of_patterns_in_a_name_mean_themselves(tmp_path):
    other = tmp_path / ".abc.taemi.left.part"
    other.mkdir()
    grow_old(other)
    with working_folder(tmp_path / "a[b]*?.taemi") as folder:
        assert folder.name.startswith(".a[b]*?.taemi.")
    left = tmp_path / ".a[b]*?.taemi.left.part"
    left.mkdir()
    grow_old(left)
    with working_folder(tmp_path / "a[b]*?.taemi"):
        assert not left.exists()
    assert other.exists()
