from __future__ import annotations

import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from taemi.exportable import ExportSource
from taemi_export import export_onnx, verify_bundle
from taemi_export.export import default_bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import ExportError, ParityError, UsageError, WriteError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import read_manifest


def small_source(toy: ModuleType) -> ExportSource:
    """Only the quicker graph."""
    source = toy.toy_source()
    return replace(source, graphs=source.graphs[1:])


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_bundle_has_its_files_and_says_what_it_is(exported: Path) -> None:
    assert set(listing(exported)) == {
        "manifest.json",
        "tagger.onnx",
        "front.onnx",
        "reference.safetensors",
        "words.json",
    }
    manifest = read_manifest(exported)
    assert manifest.family == "toy"
    assert manifest.trained is False
    assert list(manifest.graphs) == ["tagger", "front"]
    assert set(manifest.files) == set(listing(exported)) - {"manifest.json"}
    assert manifest.files["front.onnx"].precision == "fp32"
    assert {"torch", "onnx", "numpy", "taemi"} <= set(manifest.tools)


def test_no_path_of_this_machine_is_in_a_bundle(exported: Path) -> None:
    for name, content in listing(exported).items():
        for path in (str(Path.cwd()), sys.prefix, __file__, str(exported.parent)):
            assert path.encode() not in content, name


def test_second_family_runs_through_the_runtime_as_it_is(exported: Path, toy: ModuleType) -> None:
    source = toy.toy_source()
    with open_model(exported) as model:
        for graph, sizes in ((source.graphs[0], (5, 31, 47)), (source.graphs[1], (4, 333))):
            names = [symbol.name for symbol in graph.spec.free_symbols]
            for seed, part in enumerate([sizes, tuple(max(1, size // 2) for size in sizes)]):
                inputs = draw_inputs(
                    graph.spec, dict(zip(names, part, strict=True)), seed=900 + seed, poison=True
                )
                got = model.engine(graph.spec.name).run(inputs)
                wanted = graph.reference({name: torch.from_numpy(array) for name, array in inputs.items()})
                for item in graph.spec.outputs:
                    keep = inputs[item.mask]
                    np.testing.assert_allclose(
                        got[item.name][keep], wanted[item.name].numpy()[keep], atol=1e-5
                    )
        assert model.asset("words.json") == b'{"a": 1}'


def test_existing_bundle_is_refused_before_any_work(toy: ModuleType, bundle: Path) -> None:
    before = listing(bundle)
    unusable = replace(small_source(toy), graphs=())
    with pytest.raises(UsageError, match=r"exists already.*--force"):
        export_onnx(unusable, bundle)
    assert listing(bundle) == before


def test_force_replaces_a_bundle_but_nothing_else(toy: ModuleType, bundle: Path, tmp_path: Path) -> None:
    export_onnx(small_source(toy), bundle, force=True)
    assert list(read_manifest(bundle).graphs) == ["front"]
    assert not (bundle / "tagger.onnx").exists()
    assert verify_bundle(bundle).passed

    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.md").write_text("ten years")
    with pytest.raises(UsageError, match="no bundle"):
        export_onnx(small_source(toy), home, force=True)
    assert (home / "thesis.md").read_text() == "ten years"
    with pytest.raises(UsageError, match="file of that name"):
        export_onnx(small_source(toy), home / "thesis.md", force=True)


def test_failing_gate_keeps_the_previous_bundle_and_leaves_nothing_else(
    toy: ModuleType, bundle: Path
) -> None:
    before = listing(bundle)
    source = small_source(toy)
    front = source.graphs[0]
    gate = replace(toy.GATE, max_abs=0.0, mean_abs=0.0)
    strict = replace(front, spec=replace(front.spec, gates={"fp32": gate}))
    with pytest.raises(ParityError, match=r"front\.features.*got .*expected .*max 0, mean 0"):
        export_onnx(replace(source, graphs=(strict,)), bundle, force=True)
    assert listing(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_export_of_other_numbers_than_the_reference_fails(toy: ModuleType, tmp_path: Path) -> None:
    source, other = toy.toy_source(seed=7), toy.toy_source(seed=8)
    front = replace(source.graphs[1], module=other.graphs[1].module)
    with pytest.raises(ExportError, match=r"initialiser first\.weight differs from the reference's"):
        export_onnx(replace(source, graphs=(front,)), tmp_path / "b.taemi")
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_the_previous_bundle_alone(toy: ModuleType, bundle: Path) -> None:
    before = listing(bundle)

    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("verify"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(small_source(toy), bundle, force=True, progress=interrupt)
    assert listing(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_full_disk_leaves_nothing_behind(toy: ModuleType, tmp_path: Path) -> None:
    # A limit on file size makes every larger write fail in the kernel, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*b\.taemi: File too large"):
            export_onnx(small_source(toy), tmp_path / "b.taemi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_fusion_only_exports_the_first_graph_alone(toy: ModuleType, tmp_path: Path) -> None:
    source = toy.toy_source()
    turned = replace(source, graphs=source.graphs[::-1])
    lines: list[str] = []
    out = export_onnx(turned, tmp_path / "b.taemi", fusion_only=True, say=lines.append)
    assert list(read_manifest(out).graphs) == ["front"]
    assert len(lines) == 1
    assert lines[0].startswith("front: ")
    assert str(out / "front.onnx") in lines[0]
    assert "6 of 6 weights bit for bit" in lines[0]


def test_exporting_twice_gives_the_same_bytes(toy: ModuleType, exported: Path, tmp_path: Path) -> None:
    again = export_onnx(small_source(toy), tmp_path / "b.taemi")
    assert (again / "front.onnx").read_bytes() == (exported / "front.onnx").read_bytes()


def test_clashing_file_names_are_refused(toy: ModuleType, tmp_path: Path) -> None:
    for name in ("front.onnx", "manifest.json", "../escape", "a/b"):
        source = replace(small_source(toy), files={name: b""})
        with pytest.raises(ExportError, match="cannot name a file"):
            export_onnx(source, tmp_path / "b.taemi")
    assert list(tmp_path.iterdir()) == []


def test_default_bundle_stands_beside_the_checkpoint() -> None:
    assert default_bundle(Path("run/best.pt")) == Path("run/best.taemi")
