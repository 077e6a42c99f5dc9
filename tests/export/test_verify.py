from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from taemi_export import verify_bundle
from taemi_export.compare import compare_output
from taemi_export.sizes import Case
from taemi_runtime.errors import BundleError, ParityError, UsageError
from taemi_runtime.manifest import read_manifest
from taemi_runtime.spec import Gate


def test_intact_bundle_passes_and_says_what_was_compared(exported: Path) -> None:
    report = verify_bundle(exported)
    assert report.passed
    assert [(engine.file, engine.graph, engine.precision) for engine in report.engines] == [
        ("tagger.onnx", "tagger", "fp32"),
        ("front.onnx", "front", "fp32"),
    ]
    for engine in report.engines:
        assert engine.cases >= 7
        assert engine.weights >= 10
        assert engine.backend.startswith("onnxruntime-cpu")
        assert 0 < engine.parity().max_abs <= 1e-4


def test_manifest_keeps_what_the_export_measured(exported: Path) -> None:
    parity = read_manifest(exported).parity
    report = verify_bundle(exported)
    assert {engine.file: engine.parity() for engine in report.engines} == parity


@pytest.mark.parametrize(
    ("file", "weight", "place"),
    [
        ("tagger.onnx", "head.weight.T", (3, 2)),
        ("tagger.onnx", "no_tokens", (0,)),
        # No reference input reads the last rows of the embedding: no number can show this change.
        ("tagger.onnx", "embedding.weight", (63, 5)),
        ("front.onnx", "second.weight", (1, 2, 0)),
    ],
)
def test_one_weight_changed_by_one_bit_fails_by_name(
    bundle: Path, tamper: Callable[..., None], file: str, weight: str, place: tuple[int, ...]
) -> None:
    tamper(bundle, file, weight, place)
    report = verify_bundle(bundle)
    assert not report.passed
    with pytest.raises(BundleError, match=f"{file} does not hold the weights.*weight {weight} has sha256"):
        report.require()
    others = [engine for engine in report.engines if engine.file != file]
    assert all(engine.passed for engine in others)


def test_changed_file_is_refused_before_anything_reads_it(bundle: Path, tamper: Callable[..., None]) -> None:
    tamper(bundle, "tagger.onnx", "head.bias", (0,), manifest=False)
    report = verify_bundle(bundle)
    tagger, front = report.engines
    assert tagger.cases == 0
    assert "SHA-256" in str(tagger.errors[0])
    assert front.passed


def test_damaged_further_file_fails(bundle: Path) -> None:
    (bundle / "words.json").write_bytes(b'{"a": 2}')
    report = verify_bundle(bundle)
    assert all(engine.passed for engine in report.engines)
    with pytest.raises(BundleError, match=r"words\.json"):
        report.require()


def test_damaged_reference_is_refused(bundle: Path) -> None:
    content = bytearray((bundle / "reference.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "reference.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"reference\.safetensors.*SHA-256"):
        verify_bundle(bundle)


def test_numbers_beyond_the_gate_name_graph_output_case_and_values(
    exported: Path, bundle: Path, other_front: Path, relist: Callable[[Path, str], None]
) -> None:
    shutil.copy(other_front, bundle)
    relist(bundle, "front.onnx")
    report = verify_bundle(bundle)
    errors = [error for error in report.all_errors if isinstance(error, ParityError)]
    assert len(errors) == 1
    for part in ("front.onnx", "front.features", "case ", "hops", "got ", "expected ", "allowed in fp32"):
        assert part in str(errors[0])
    assert verify_bundle(exported, exported / "front.onnx").passed


def test_one_engine_alone_is_verified_when_named(bundle: Path, tamper: Callable[..., None]) -> None:
    tamper(bundle, "tagger.onnx", "head.bias", (0,))
    assert verify_bundle(bundle, bundle / "front.onnx").passed
    assert verify_bundle(bundle, Path("front.onnx")).passed
    assert not verify_bundle(bundle, Path("tagger.onnx")).passed


def test_engine_outside_the_bundle_is_known_by_its_own_facts(
    exported: Path, bundle: Path, tamper: Callable[..., None], tmp_path: Path
) -> None:
    outside = Path(shutil.copy(bundle / "front.onnx", tmp_path / "other.onnx"))
    assert verify_bundle(exported, outside).passed
    tamper(bundle, "front.onnx", "out.bias", (1,))
    shutil.copy(bundle / "front.onnx", outside)
    with pytest.raises(BundleError, match=r"weight out\.bias"):
        verify_bundle(exported, outside).require()


def test_foreign_engines_are_refused(exported: Path, tmp_path: Path) -> None:
    plain = onnx.load(exported / "front.onnx")
    plain.ClearField("metadata_props")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(plain.SerializeToString())
    with pytest.raises(BundleError, match="no key 'taemi'"):
        verify_bundle(exported, foreign)
    (tmp_path / "x.plan").write_bytes(b"plan")
    with pytest.raises(UsageError, match=r"tagger\.onnx, front\.onnx"):
        verify_bundle(exported, tmp_path / "x.plan")
    with pytest.raises(BundleError, match="no such file"):
        verify_bundle(exported, tmp_path / "absent.onnx")


def test_description_in_file_and_manifest_must_agree(
    bundle: Path, relist: Callable[[Path, str], None]
) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    data["graphs"]["front"]["gates"]["fp32"]["max_abs"] = 10.0
    data["digest"] = ""
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="another description"):
        verify_bundle(bundle).require()


def test_nan_and_wrong_shapes_never_pass(toy: ModuleType) -> None:
    spec = toy.front_spec()
    item = replace(spec.outputs[0], mask=None)
    case = Case("c", {"batch": 1, "samples": 150}, 0)
    expected = np.ones((1, 14, 12), np.float32)
    loose = Gate(1e9, 1e9, -1.0)
    assert compare_output(spec, item, case, {}, expected, expected).passes(Gate(0.0, 0.0, 1.0 - 1e-12))
    for bad in (np.nan, np.inf, -np.inf):
        got = expected.copy()
        got[0, 3, 4] = bad
        found = compare_output(spec, item, case, {}, got, expected)
        assert found.max_abs == math.inf
        assert found.place == (0, 3, 4)
        assert not found.passes(loose)
    assert not compare_output(spec, item, case, {}, expected[:, 1:], expected).passes(loose)
    assert not compare_output(spec, item, case, {}, expected.astype(np.float64), expected).passes(loose)


def test_masked_positions_are_not_compared(toy: ModuleType) -> None:
    spec = toy.front_spec()
    case = Case("c", {"batch": 1, "samples": 150}, 0)
    mask = np.zeros((1, 14), bool)
    mask[0, :5] = True
    expected = np.ones((1, 14, 12), np.float32)
    got = expected.copy()
    got[0, 5:] = np.nan
    found = compare_output(spec, spec.outputs[0], case, {"signal_mask": mask}, got, expected)
    assert (found.max_abs, found.elements) == (0.0, 60)
    assert found.cosine == pytest.approx(1.0)


def test_measures_are_what_they_say(toy: ModuleType) -> None:
    spec = toy.front_spec()
    item = replace(spec.outputs[0], mask=None)
    case = Case("c", {"batch": 1, "samples": 150}, 0)
    expected = np.zeros((1, 14, 12), np.float32)
    expected[0, 0, 0] = 3
    got = expected.copy()
    got[0, 0, 1] = 4
    found = compare_output(spec, item, case, {}, got, expected)
    assert found.max_abs == 4
    assert found.mean_abs == pytest.approx(4 / 168)
    assert found.cosine == pytest.approx(3 / 5)
    assert (found.got, found.expected, found.place) == (4, 0, (0, 0, 1))


def test_verification_needs_neither_torch_nor_onnx(exported: Path, python_env: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'transformers'): sys.modules[name] = None\n"
        f"sys.argv = ['taemi-export', 'verify', {str(exported)!r}, '--device', 'cpu']\n"
        "from taemi_export.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tagger.tags" in done.stdout
