"""The whole chain: encoders of another precision feed the first graph, and the scores are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from taemi_export import verify_bundle
from taemi_export.bundle_writer import describe_graph, write_manifest
from taemi_export.chain import ROWS, chain_failures, compare_chains, encode_rows, find_links, score_rows
from taemi_export.facts import finish_model, read_facts
from taemi_export.onnx_file import read_onnx
from taemi_export.report import VerifyReport
from taemi_export.verify import store_parity
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import ParityError
from taemi_runtime.manifest import read_manifest
from taemi_runtime.spec import Array, Arrays, Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

FIRST = GraphSpec(
    "mixer",
    (Symbol("rows"), Symbol("steps", typical=20, maximum=90), Symbol("shots", typical=12, maximum=30)),
    (
        InputSpec("hum", "float32", ("rows", "steps", 3)),
        InputSpec("hum_mask", "bool", ("rows", "steps"), role="mask", masks="hum"),
        InputSpec("look", "float32", ("rows", "shots", 5)),
        InputSpec("look_mask", "bool", ("rows", "shots"), role="mask", masks="look"),
        InputSpec("tone", "float32", ("rows", 2)),
        InputSpec("given", "bool", ("rows", 2), role="presence", governs=(("hum",), ("look",))),
    ),
    (OutputSpec("marks", "float32", ("rows", 4)),),
    {"fp32": Gate(1e-4)},
    {"int8": Gate(mean_abs=1e-2, min_rho=0.995)},
)
HUMMER = GraphSpec(
    "hummer",
    (
        Symbol("rows"),
        Symbol("samples", minimum=4, typical=256, maximum=400),
        Symbol("steps", typical=64, maximum=100, source="samples", convs=((4, 4),)),
    ),
    (
        InputSpec("wave", "float32", ("rows", "samples"), padding="zero"),
        InputSpec("wave_mask", "int64", ("rows", "steps"), role="mask", masks="wave"),
    ),
    (OutputSpec("hum", "float32", ("rows", "steps", 3)), OutputSpec("tone", "float32", ("rows", 2))),
    {"fp32": Gate(1e-4)},
)
LOOKER = GraphSpec(
    "looker",
    (Symbol("frames", typical=8),),
    (InputSpec("picture", "uint8", ("frames", 6), draw=Draw("integers", 0, 256)),),
    (OutputSpec("look", "float32", ("frames", 5)),),
    {"fp32": Gate(1e-4)},
)
OTHER = replace(LOOKER, name="other", outputs=(OutputSpec("look", "float32", ("frames", 6)),))
GRAPHS = {spec.name: spec for spec in (FIRST, HUMMER, LOOKER)}


class Chain:
    """Three graphs in numpy; ``error`` is what quantisation would add to the hum."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.calls: list[tuple[str, int]] = []

    def run(self, name: str, inputs: Arrays) -> dict[str, Array]:
        spec = GRAPHS[name]
        spec.check(inputs)
        self.calls.append((name, len(inputs[spec.inputs[0].name])))
        if name == "hummer":
            wave = inputs["wave"]
            steps = inputs["wave_mask"].shape[1]
            hum = wave[:, : 4 * steps].reshape(len(wave), steps, 4)[:, :, :3] * np.float32(1 + self.error)
            return {"hum": hum, "tone": hum[:, 0, :2].copy()}
        if name == "looker":
            return {"look": inputs["picture"][:, :5].astype(np.float32) / 255}
        marks = np.zeros((len(inputs["hum"]), 4), np.float32)
        for column, (data, mask) in enumerate((("hum", "hum_mask"), ("look", "look_mask"))):
            valid = inputs[mask] & inputs["given"][:, column, None]
            total = np.where(valid[:, :, None], inputs[data], 0).sum(1) / np.maximum(valid.sum(1), 1)[:, None]
            marks[:, 2 * column : 2 * column + 2] = total[:, :2]
        return {"marks": marks}


def scores(chain: Chain) -> dict[tuple[bool, ...], Array]:
    return dict(score_rows(FIRST, encode_rows(GRAPHS, chain.run), chain.run))


def test_links_are_found_by_name_width_and_rank() -> None:
    found = {(link.graph, link.output.name, link.as_frames) for link in find_links(GRAPHS)}
    assert found == {("hummer", "hum", False), ("hummer", "tone", False), ("looker", "look", True)}
    assert find_links({"mixer": FIRST, "other": OTHER}) == []
    assert find_links({"looker": LOOKER}) == []


def test_outputs_and_masks_of_the_same_row_arrive_in_the_same_row() -> None:
    chain = Chain()
    rows = encode_rows(GRAPHS, chain.run)
    assert rows.inputs["hum"].shape[0] == ROWS == len(rows.inputs["tone"])
    np.testing.assert_array_equal(rows.inputs["hum"][:, 0, :2], rows.inputs["tone"])
    assert rows.inputs["hum_mask"].dtype == bool
    lengths = rows.inputs["hum_mask"].sum(1)
    assert lengths.min() >= 1
    assert len(set(lengths.tolist())) > 3
    assert rows.inputs["look"].shape[0] == ROWS
    assert len(np.unique(rows.inputs["look"].reshape(ROWS, -1), axis=0)) == ROWS
    assert rows.lengths == {"steps": rows.inputs["hum"].shape[1], "shots": rows.inputs["look"].shape[1]}


def test_every_presence_combination_has_its_256_rows_and_equal_chains_are_equal() -> None:
    expected, got = scores(Chain()), scores(Chain())
    assert set(expected) == {(True, True), (True, False), (False, True), (False, False)}
    compared = compare_chains(expected, got)
    assert [item.rows for item in compared] == [256] * 4
    assert all(item.mean_abs == item.max_abs == 0 for item in compared)
    by_flags = {item.present: item.rho for item in compared}
    assert by_flags[True, True] == pytest.approx(1)
    assert by_flags[False, False] is None, "nothing varies where everything is missing"
    assert chain_failures(Gate(mean_abs=1e-2, min_rho=0.995), compared) == []


def test_an_error_shows_in_the_combinations_that_read_it_and_only_there() -> None:
    compared = compare_chains(scores(Chain()), scores(Chain(error=0.5)))
    for item in compared:
        assert (item.mean_abs > 1e-2) is item.present[0], item
    failures = chain_failures(Gate(mean_abs=1e-2, min_rho=0.995), compared)
    assert [text.split(":")[0] for text in failures] == ["presence 11", "presence 10"]


def test_correlation_is_taken_over_rows_column_by_column() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((ROWS, 1)) * 0.01 + np.array([0.0, 5.0, 10.0, 15.0])
    # Columns differ much more than rows: over all values together the correlation would be almost 1.
    shuffled = base[rng.permutation(ROWS)]
    (found,) = compare_chains({(): base}, {(): shuffled})
    assert found.rho is not None
    assert abs(found.rho) < 0.5
    (broken,) = compare_chains({(): base}, {(): np.where(np.arange(ROWS)[:, None] == 3, np.nan, base)})
    assert broken.mean_abs == np.inf
    assert chain_failures(Gate(mean_abs=1e-2), (broken,))


def test_graphs_of_fixed_lengths_get_padded_rows() -> None:
    fixed = replace(
        FIRST,
        symbols=(FIRST.symbols[0],),
        inputs=tuple(
            replace(item, shape=tuple({"steps": 40, "shots": 25}.get(str(axis), axis) for axis in item.shape))
            for item in FIRST.inputs
        ),
    )
    chain = Chain()
    rows = encode_rows({"mixer": fixed, "hummer": HUMMER, "looker": LOOKER}, chain.run)
    assert rows.inputs["hum"].shape == (ROWS, 40, 3)
    assert rows.inputs["look"].shape == (ROWS, 25, 5)
    assert not rows.inputs["hum_mask"][:, -1].any()
    assert rows.lengths == {}


@pytest.fixture(scope="module")
def int8_bundle(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny system with its audio encoder's matrices in int8."""
    import shutil

    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = Path(shutil.copytree(demo_bundle, tmp_path_factory.mktemp("int8") / "tiny.taemi"))
    source, target = out / "audio.onnx", out / "audio.int8.onnx"
    quantize_dynamic(
        source, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
    relist(out, onnx.load(target))
    return out


def relist(bundle: Path, model: onnx.ModelProto) -> None:
    path = bundle / "audio.int8.onnx"
    finish_model(model, replace(read_facts(read_onnx(bundle / "audio.onnx"), "audio"), precision="int8"))
    path.write_bytes(model.SerializeToString())
    manifest = read_manifest(bundle)
    entry = describe_graph(path, "audio", "int8")
    write_manifest(bundle, replace(manifest, files={**manifest.files, path.name: entry}))


def verified(bundle: Path) -> VerifyReport:
    return verify_bundle(bundle, Path("audio.int8.onnx"), EngineOptions("cpu"))


def test_int8_is_judged_by_the_scores_of_the_real_chain(int8_bundle: Path) -> None:
    report = verified(int8_bundle)
    assert report.passed, [str(error) for error in report.all_errors]
    (chain,) = report.chains
    assert chain.files == ("audio.int8.onnx",)
    assert len(chain.combinations) == 8
    assert all(item.rows >= 256 for item in chain.combinations)
    changed = {item.present for item in chain.combinations if item.mean_abs > 0}
    assert changed == {item.present for item in chain.combinations if item.present[0]}
    assert not chain.trained
    assert set(chain.sizes) == {"audio", "text", "vision"}
    assert store_parity(report)
    parity = read_manifest(int8_bundle).parity["audio.int8.onnx"]
    assert parity.passed
    assert parity.chain == chain.combinations


def test_int8_that_moves_the_scores_fails_however_well_it_points(int8_bundle: Path, tmp_path: Path) -> None:
    import shutil

    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "tiny.taemi"))
    model = onnx.load(bundle / "audio.int8.onnx")
    last = next(node for node in model.graph.node if "audio" in node.output)
    last.output[0] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(6.0, np.float32), "six"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "six"], ["audio"], "six_times"))
    relist(bundle, model)
    report = verified(bundle)
    assert report.engines[0].passed, "its direction, all that its own gate looks at, is right"
    with pytest.raises(
        ParityError, match=r"audio\.int8\.onnx: the scores of the whole chain differ.*presence 1"
    ):
        report.require()
    store_parity(report)
    assert not read_manifest(bundle).parity["audio.int8.onnx"].passed
