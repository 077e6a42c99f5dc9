from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open

from taemi.exportable import ExportGraph
from taemi_export.reference import (
    MAX_BYTES,
    METADATA_KEY,
    case_inputs,
    checked_inputs,
    compared_positions,
    compute_reference,
    open_reference,
)
from taemi_runtime.backends import open_engine
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.errors import BundleError, ExportError


def test_recorded_seeds_reproduce_the_inputs_and_their_digests(exported: Path) -> None:
    bundle = Bundle.open(exported)
    reference = open_reference(bundle.file("reference.safetensors"))
    for name, known in reference.index.graphs.items():
        for case in known.cases:
            inputs = checked_inputs(bundle.manifest.graphs[name], case, reference.index.tools)
            assert digest(inputs) == case.inputs_sha256


def test_another_draw_is_refused_with_both_numpy_versions(exported: Path) -> None:
    bundle = Bundle.open(exported)
    reference = open_reference(exported / "reference.safetensors")
    case = replace(reference.index.graphs["front"].cases[0], seed=1)
    with pytest.raises(BundleError, match=rf"numpy here is {np.__version__}, there 1\.2\.3.*numpy==1\.2\.3"):
        checked_inputs(bundle.manifest.graphs["front"], case, {"numpy": "1.2.3"})


def test_reference_file_is_small_and_its_index_is_json(exported: Path) -> None:
    path = exported / "reference.safetensors"
    assert path.stat().st_size < MAX_BYTES
    with safe_open(str(path), framework="np") as file:
        index = json.loads(file.metadata()[METADATA_KEY])
        names = set(file.keys())
    assert set(index["graphs"]) == {"tagger", "front"}
    for graph, known in index["graphs"].items():
        output = {"tagger": "tags", "front": "features"}[graph]
        assert {f"{graph}/{case['name']}/{output}" for case in known["cases"]} <= names


def test_cases_hold_poison_where_it_must_not_matter(toy: ModuleType) -> None:
    cases, outputs = compute_reference(toy.toy_source().graphs[0], 10**6)
    poisoned = {
        case.name for case in cases if not np.isfinite(case_inputs(toy.tagger_spec(), case)["frames"]).all()
    }
    assert {"ragged", "presence", "presence-shortest"} <= poisoned
    assert all(np.isfinite(array).all() for array in outputs.values())


def test_poison_in_padding_changes_nothing_in_the_exported_graph(exported: Path) -> None:
    bundle = Bundle.open(exported)
    spec = bundle.manifest.graphs["tagger"]
    item = spec.outputs[0]
    present = [[True, True], [False, True], [True, False], [False, False], [True, True]]
    sizes = {"batch": 5, "tokens": 13, "steps": 21}
    with open_engine(bundle.file("tagger.onnx"), spec) as engine:
        clean = draw_inputs(spec, sizes, seed=5, present=present, poison=False)
        poisoned = draw_inputs(spec, sizes, seed=5, present=present, poison=True)
        assert not np.array_equal(clean["frames"], poisoned["frames"], equal_nan=True)
        a, b = engine.run(clean)["tags"], engine.run(poisoned)["tags"]
    where = np.broadcast_to(compared_positions(item, clean, a), a.shape)
    np.testing.assert_array_equal(a[where], b[where])


def broken(graph: ExportGraph, change: object) -> ExportGraph:
    reference = graph.reference
    return replace(graph, reference=lambda inputs: {n: change(t) for n, t in reference(inputs).items()})  # type: ignore[operator]


def test_broken_references_are_refused(toy: ModuleType) -> None:
    front = toy.toy_source().graphs[1]
    with pytest.raises(ExportError, match="not finite"):
        compute_reference(broken(front, lambda tensor: tensor / 0), 10**6)
    with pytest.raises(ExportError, match=r"expected float32 \[1, 14, 12\]"):
        compute_reference(broken(front, lambda tensor: tensor[:, 1:]), 10**6)
    with pytest.raises(ExportError, match="got float64"):
        compute_reference(broken(front, lambda tensor: tensor.double()), 10**6)
    nameless = replace(front, reference=lambda inputs: {})
    with pytest.raises(ExportError, match="gives only"):
        compute_reference(nameless, 10**6)


def test_masked_positions_are_zero_in_the_file(exported: Path) -> None:
    bundle = Bundle.open(exported)
    spec = bundle.manifest.graphs["tagger"]
    reference = open_reference(exported / "reference.safetensors")
    case = next(case for case in reference.index.graphs["tagger"].cases if case.name == "ragged")
    mask = case_inputs(spec, case)["frames_mask"]
    output = reference.outputs(spec, case)["tags"]
    assert not mask.all()
    assert (output[~mask] == 0).all()
    assert (output[mask] != 0).any()


def test_damaged_reference_files_are_refused(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    with pytest.raises(BundleError, match="no such file"):
        open_reference(path)
    path.write_bytes((exported / path.name).read_bytes()[:100])
    with pytest.raises(BundleError, match="damaged"):
        open_reference(path)
    content = (exported / path.name).read_bytes()
    path.write_bytes(content.replace(rb"\"schema\":1}", rb"\"schema\":7}"))
    with pytest.raises(BundleError, match="schema is 7, this taemi reads 1"):
        open_reference(path)
