"""Half precision in a bundle: listed only when it is whole, and never at the cost of what was there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from taemi_export.facts import read_facts
from taemi_export.onnx_file import read_onnx
from taemi_export.precision import add_half, half_file
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import BundleError, InputError, ParityError, WriteError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import MANIFEST_NAME, format_manifest, read_manifest
from taemi_runtime.spec import Gate


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_manifest_says_what_was_done_to_which_node(bundle: Path) -> None:
    before = read_manifest(bundle)
    assert add_half(bundle, "tagger") == "tagger.fp16.onnx" == half_file("tagger")
    after = read_manifest(bundle)
    entry = after.files["tagger.fp16.onnx"]
    assert (entry.graph, entry.precision, entry.inputs) == ("tagger", "fp16", {"frames": "float16"})
    conversion = after.conversions["tagger.fp16.onnx"]
    assert conversion.source == "tagger.onnx"
    assert conversion.source_sha256 == before.files["tagger.onnx"].sha256
    names = {node.name for node in onnx.load(bundle / "tagger.fp16.onnx").graph.node}
    assert {name for nodes in conversion.kept.values() for name in nodes} <= names
    assert {"normalisation", "softmax", "last layer"} <= set(conversion.kept)
    assert conversion.counts["float16"] > 0
    parity = after.parity["tagger.fp16.onnx"]
    assert parity.passed
    assert parity.cases > 3
    assert 0 < parity.max_abs < 2e-2
    assert {name: entry for name, entry in after.files.items() if name in before.files} == before.files
    facts = read_facts(read_onnx(bundle / "tagger.fp16.onnx"), "tagger.fp16.onnx")
    assert facts.precision == "fp16"
    assert facts.graph == after.graphs["tagger"]
    Bundle.open(bundle).file("tagger.fp16.onnx")


def test_adding_twice_gives_the_same_bytes(bundle: Path) -> None:
    add_half(bundle, "tagger")
    first = listing(bundle)
    add_half(bundle, "tagger")
    assert listing(bundle) == first


def test_the_file_runs_from_the_bundle_in_either_type(bundle: Path) -> None:
    add_half(bundle, "tagger")
    with open_model(bundle / "tagger.fp16.onnx") as half, open_model(bundle) as full:
        engine = half.engine("tagger")
        assert engine.info.precision == "fp16"
        assert engine.info.inputs == {"frames": "float16"}
        inputs = draw_inputs(engine.spec, {"batch": 3, "tokens": 7, "steps": 9}, seed=4)
        wanted = full.engine("tagger").run(inputs)["tags"]
        got = engine.run(inputs)["tags"]
        with np.errstate(over="ignore"):
            narrow = {**inputs, "frames": inputs["frames"].astype(np.float16)}
        np.testing.assert_array_equal(engine.run(narrow)["tags"], got)
        keep = inputs["frames_mask"]
        np.testing.assert_allclose(got[keep], wanted[keep], atol=2e-2)
        assert got.dtype == np.float32
        with pytest.raises(InputError, match="got float16"):
            full.engine("tagger").run(narrow)
        loud = {**inputs, "frames": inputs["frames"].copy()}
        loud["frames"][0, 2, 1] = 7e4
        with pytest.raises(
            InputError, match=r"tagger\.frames does not fit.*70000\.0 at \(0, 2, 1\).*ends at 65504"
        ):
            engine.run(loud)
        full.engine("tagger").run(loud)


def test_a_process_killed_between_file_and_manifest_leaves_the_bundle_as_it_was(
    bundle: Path, python_env: dict[str, str]
) -> None:
    before = listing(bundle)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import taemi_export.precision as precision\n"
        "precision._list = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "precision.add_half(Path(sys.argv[1]), 'front')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], env=python_env, check=False)
    assert done.returncode == -signal.SIGKILL
    after = listing(bundle)
    assert set(after) - set(before) == {"front.fp16.onnx"}
    assert {name: after[name] for name in before} == before
    with open_model(bundle) as model:
        assert model.engine("front").info.precision == "fp32"
    add_half(bundle, "front")
    assert "front.fp16.onnx" in read_manifest(bundle).files


def test_a_listed_file_is_never_replaced_under_its_old_digest(
    bundle: Path, python_env: dict[str, str]
) -> None:
    add_half(bundle, "tagger")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import taemi_export.precision as precision\n"
        "precision._list = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "precision.add_half(Path(sys.argv[1]), 'tagger', half_inputs=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], env=python_env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "tagger.fp16.onnx" not in read_manifest(bundle).files
    for name in read_manifest(bundle).files:
        Bundle.open(bundle).file(name)


def test_full_disk_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = listing(bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises((WriteError, OSError)):
            add_half(bundle, "tagger")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(bundle) == before


def test_interruption_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = listing(bundle)

    def interrupt(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_half(bundle, "tagger", tick=interrupt)
    assert listing(bundle) == before


def test_a_gate_that_cannot_be_met_changes_nothing(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    spec = replace(manifest.graphs["front"], gates={"fp16": Gate(max_abs=0.0)})
    (bundle / MANIFEST_NAME).write_text(
        format_manifest(replace(manifest, graphs={**manifest.graphs, "front": spec}))
    )
    before = listing(bundle)
    with pytest.raises(ParityError, match="cannot be converted to half precision"):
        add_half(bundle, "front")
    assert listing(bundle) == before


def test_damaged_and_missing_graphs_are_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="cannot convert graph 'nothing'"):
        add_half(bundle, "nothing")
    content = bytearray((bundle / "tagger.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "tagger.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        add_half(bundle, "tagger")
    assert not (bundle / "tagger.fp16.onnx").exists()


def test_no_path_of_this_machine_is_in_the_file(bundle: Path, toy: ModuleType) -> None:
    add_half(bundle, "front")
    content = (bundle / "front.fp16.onnx").read_bytes()
    for path in (str(Path.cwd()), sys.prefix, str(bundle.parent), os.path.expanduser("~/")):  # noqa: PTH111
        assert path.encode() not in content
    conversion = json.loads((bundle / MANIFEST_NAME).read_text())["conversions"]["front.fp16.onnx"]
    assert conversion["tool"].startswith("taemi_export.precision")
    size = (bundle / "front.onnx").stat().st_size
    assert len(content) < 0.95 * size + 12_000
