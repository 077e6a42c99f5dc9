"""Ranges for a profiler: what the package nvtx is told, by processes that read the switch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAKE = """
told = []

class annotate:
    def __init__(self, message=None, color=None, domain=None, category=None, payload=None):
        self.name = (domain, message)

    def __enter__(self):
        told.append(("push", *self.name))

    def __exit__(self, *caught):
        told.append(("pop", *self.name))
"""
RUN = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
import numpy as np
from taemi_runtime.engine import Engine, EngineInfo
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec

class Doubling(Engine):
    def _run(self, inputs):
        return {"y": 2 * inputs["x"]}

for name in ("frames", "squares"):
    x, y = InputSpec("x", "float32", (2,)), OutputSpec("y", "float32", (2,))
    spec = GraphSpec(name, (), (x,), (y,), {"fp32": Gate(max_abs=1)})
    with Doubling(spec, EngineInfo("toy", "toy", "fp32", "cpu")) as engine:
        print(engine.run({"x": np.ones(2, np.float32)})["y"][0])
if "nvtx" in sys.modules:
    print(sys.modules["nvtx"].told)
"""


def run(folder: Path, code: str, *, switch: str | None, fake: bool) -> str:
    """Run code in a process with the switch, and with a package called nvtx or with none that imports."""
    package = folder / "nvtx.py"
    package.write_text(FAKE if fake else "raise ImportError('No module named nvtx')")
    folders = [folder, ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "TAEMI_NVTX": switch or ""}
    if switch is None:
        del environment["TAEMI_NVTX"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_engine_call_is_a_range_of_its_graph_s_name(tmp_path):
    told = run(tmp_path, RUN, switch="1", fake=True)
    expected = [(way, "taemi", name) for name in ("frames", "squares") for way in ("push", "pop")]
    assert told.splitlines() == ["2.0", "2.0", str(expected)]


def test_without_the_switch_the_package_is_not_even_imported(tmp_path):
    code = RUN + "\nprint('nvtx' in sys.modules)"
    for switch in (None, "0"):
        assert run(tmp_path, code, switch=switch, fake=True).splitlines() == ["2.0", "2.0", "False"]


def test_a_missing_package_is_said_once_and_nothing_fails(tmp_path):
    said = run(tmp_path, RUN, switch="1", fake=False)
    assert said.count("pip install nvtx") == 1


def test_decoding_and_copies_are_ranges(tmp_path):
    code = """
import sys
import numpy as np
from taemi_runtime.backends.tensorrt_buckets import fill
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.errors import MediaError
from taemi_runtime.preprocessing import Preprocessing
fill(np.zeros((2, 3)), np.ones((2, 2)))
try:
    ClipDecoder(Preprocessing()).decode(sys.argv[1])
except MediaError:
    pass
print([name for way, _, name in sys.modules["nvtx"].told if way == "push"])
"""
    assert run(tmp_path, code, switch="1", fake=True).strip() == "['fill', 'decode']"
