"""The Triton repository of a bundle: parsed with Triton's own definitions, and its samples really run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from taemi_export.bundle_writer import write_manifest
from taemi_export.onnx_file import read_onnx
from taemi_export.triton import export_triton
from taemi_export.triton_config import Served, Serving, model_config
from taemi_export.triton_shapes import batch_symbol, buckets, graph_shapes
from taemi_export.triton_text import format_message
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import BundleError, UsageError
from taemi_runtime.manifest import FileEntry, describe_file, file_sha256, read_manifest
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol
from tests.export.triton_server import messages, parse_config, serve, warmup_arrays

TYPES = {"bool": "TYPE_BOOL", "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64"}


@pytest.fixture(scope="module")
def repository(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle's repository; read only."""
    return export_triton(exported, tmp_path_factory.mktemp("served") / "models")


@pytest.fixture
def halved(bundle: Path) -> Path:
    """The toy bundle with an ``fp16`` file that takes the features in half precision."""
    model = onnx.load(bundle / "tagger.onnx")
    for item in model.graph.input:
        if item.name == "frames":
            item.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for node in model.graph.node:
        node.input[:] = ["frames_wide" if name == "frames" else name for name in node.input]
    cast = onnx.helper.make_node("Cast", ["frames"], ["frames_wide"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    path = bundle / "tagger.fp16.onnx"
    onnx.save(model, path)
    relist_as(bundle, describe_file(path, graph="tagger", precision="fp16", inputs={"frames": "float16"}))
    return bundle


def relist_as(bundle: Path, entry: FileEntry) -> None:
    """Write what the manifest says of the half-precision file."""
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, files={**manifest.files, "tagger.fp16.onnx": entry}))


def test_every_field_of_the_configuration_is_the_intended_one(repository: Path, exported: Path) -> None:
    config = parse_config(repository / "toy")
    expected = messages().ModelConfig()
    expected.name, expected.backend = "toy", "onnxruntime"
    expected.default_model_filename = "model.onnx"
    expected.max_batch_size = 64
    for name, kind, dims in (
        ("ids", "TYPE_INT64", [-1]),
        ("ids_mask", "TYPE_BOOL", [-1]),
        ("frames", "TYPE_FP32", [-1, 6]),
        ("frames_mask", "TYPE_BOOL", [-1]),
        ("given", "TYPE_BOOL", [2]),
    ):
        expected.input.add(name=name, data_type=kind, dims=dims)
    # Labels are counted along a whole row: eight names do not fit steps x 8 entries.
    expected.output.add(name="tags", data_type="TYPE_FP32", dims=[-1, 8])
    expected.instance_group.add(count=1, kind="KIND_AUTO")
    expected.dynamic_batching.max_queue_delay_microseconds = 1000
    cuda = expected.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
    cuda.parameters["use_tf32"] = "0"
    manifest = read_manifest(exported)
    for key, value in {
        "cudnn_conv_algo_search": "1",
        "arena_extend_strategy": "1",
        "taemi_family": "toy",
        "taemi_graph": "tagger",
        "taemi_file": "tagger.onnx",
        "taemi_precision": "fp32",
        "taemi_sha256": manifest.files["tagger.onnx"].sha256,
        "taemi_manifest_sha256": file_sha256(exported / "manifest.json"),
        "taemi_trained": "false",
        "taemi_verified": "passed (executed)",
        "taemi_version": manifest.tools.get("taemi", ""),
        "taemi_repository_version": manifest.tools.get("taemi", ""),
    }.items():
        if value:
            expected.parameters[key].string_value = value
    for name, batch, tokens, steps in (
        ("typical", 1, 9, 12),
        ("batch", 64, 9, 12),
        ("longest", 1, 40, 60),
        ("shortest", 1, 1, 1),
    ):
        sample = expected.model_warmup.add(name=name, batch_size=batch)
        for item, kind, dims in (
            ("ids", "TYPE_INT64", [tokens]),
            ("ids_mask", "TYPE_BOOL", [tokens]),
            ("frames", "TYPE_FP32", [steps, 6]),
            ("frames_mask", "TYPE_BOOL", [steps]),
            ("given", "TYPE_BOOL", [2]),
        ):
            entry = sample.inputs[item]
            entry.data_type, entry.input_data_file = kind_number(kind), f"{item}.{'x'.join(map(str, dims))}"
            entry.dims.extend(dims)
    assert config == expected


def kind_number(word: str) -> int:
    return int(messages().DataType.Value(word))


def test_the_repository_holds_the_checked_graph_and_says_where_it_came_from(
    repository: Path, exported: Path
) -> None:
    assert sorted(path.name for path in repository.iterdir()) == [
        "README.md",
        "client.py",
        "taemi-repository.json",
        "toy",
    ]
    assert (repository / "toy/1/model.onnx").read_bytes() == (exported / "tagger.onnx").read_bytes()
    record = json.loads((repository / "taemi-repository.json").read_text())
    assert record["manifest_sha256"] == file_sha256(exported / "manifest.json")
    assert record["models"][0]["sha256"] == file_sha256(exported / "tagger.onnx")


def test_two_exports_of_one_bundle_are_alike_to_the_byte(
    repository: Path, exported: Path, tmp_path: Path
) -> None:
    again = export_triton(exported, tmp_path / "again")
    files = [path.relative_to(repository) for path in repository.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (again / file).read_bytes() == (repository / file).read_bytes(), file


@pytest.mark.parametrize("file", ["tagger.onnx", "tagger.fp16.onnx"])
def test_the_configuration_agrees_with_what_the_graph_declares(
    halved: Path, tmp_path: Path, file: str
) -> None:
    out = export_triton(halved, tmp_path / "models", engines=(file,))
    model = next(path for path in out.iterdir() if path.is_dir())
    assert model.name == ("toy" if file == "tagger.onnx" else "toy_fp16")
    config, declared = parse_config(model), read_onnx(model / "1/model.onnx")
    for configured, items in ((config.input, declared.inputs), (config.output, declared.outputs)):
        assert [item.name for item in configured] == [item.name for item in items]
        for entry, item in zip(configured, items, strict=True):
            assert messages().DataType.Name(entry.data_type) == TYPES[item.dtype]
            assert [-1 if isinstance(axis, str) else axis for axis in item.shape] == [-1, *entry.dims]


def test_warm_up_samples_run_and_hold_valid_numbers_only(halved: Path, tmp_path: Path) -> None:
    out = export_triton(halved, tmp_path / "models", engines=("tagger.onnx", "tagger.fp16.onnx"))
    for name in ("toy", "toy_fp16"):
        config, session = parse_config(out / name), ort.InferenceSession(out / name / "1/model.onnx")
        assert [sample.batch_size for sample in config.model_warmup] == [1, 64, 1, 1]
        for sample in config.model_warmup:
            arrays = warmup_arrays(out / name, sample, batched=True)
            (tags,) = session.run(["tags"], arrays)
            assert tags.shape == (sample.batch_size, len(arrays["frames"][0]), 8)
            assert np.isfinite(tags).all()
            assert arrays["frames"].std() > 0.5, "zeros would not warm up what skips them"
            assert arrays["ids"].max() < 48, "an index beyond the table fails on a GPU only"
            for mask in ("ids_mask", "frames_mask", "given"):
                assert arrays[mask].all()


def test_client_pads_to_a_bucket_and_gets_the_scores_of_the_unpadded_call(
    repository: Path, exported: Path
) -> None:
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")
    client = load_client(repository)
    assert client.BUCKETS == {"tokens": [1, 9, 40], "steps": [1, 12, 60]}
    spec = read_manifest(exported).graphs["tagger"]
    alone = draw_inputs(spec, {"batch": 1, "tokens": 5, "steps": 17}, seed=3, poison=False)
    import tritonclient.http as triton

    inputs = client.request("toy", {name: array[0] for name, array in alone.items()})
    shapes = {item.name(): item.shape() for item in inputs}
    assert shapes["ids"][1] in client.BUCKETS["tokens"]
    assert shapes["ids"][1] > 5
    assert shapes["frames"][1] in client.BUCKETS["steps"]
    assert shapes["frames"][1] > 17
    assert shapes["frames_mask"] == shapes["frames"][:2]
    with serve(repository) as url:
        connection = triton.InferenceServerClient(url)
        answer = connection.infer("toy", inputs, outputs=[triton.InferRequestedOutput("tags")])
        tags = answer.as_numpy("tags")
        connection.close()
    (expected,) = ort.InferenceSession(exported / "tagger.onnx").run(["tags"], alone)
    np.testing.assert_allclose(tags[:, :17], expected, atol=1e-5)


def test_client_as_a_script_prints_the_outputs(
    halved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")
    out = export_triton(halved, tmp_path / "models", engines=("tagger.fp16.onnx",))
    client = load_client(out)
    with serve(out) as url:
        client.main(url)
    assert capsys.readouterr().out.startswith("tags (1, ")


def load_client(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("served_client", repository / "client.py")
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    return client


def test_options_reach_the_configuration(exported: Path, tmp_path: Path) -> None:
    serving = Serving(max_batch=16, preferred=(16, 4), queue_us=250, instances=2, device="cuda:1", threads=3)
    config = parse_config(export_triton(exported, tmp_path / "m", name="scores", serving=serving) / "scores")
    assert config.name == "scores"
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.count, list(group.gpus)) == (2, [1])
    assert group.kind == messages().ModelInstanceGroup.Kind.Value("KIND_GPU")
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert max(sample.batch_size for sample in config.model_warmup) == 16

    config = parse_config(export_triton(exported, tmp_path / "c", serving=Serving(device="cpu")) / "toy")
    assert config.instance_group[0].kind == messages().ModelInstanceGroup.Kind.Value("KIND_CPU")
    assert not config.HasField("optimization")
    assert "--gpus" not in (tmp_path / "c/README.md").read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 0},
        {"preferred": (0,)},
        {"queue_us": -1},
        {"threads": -1},
        {"instances": 0},
        {"device": "gpu"},
    ],
)
def test_senseless_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Serving(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("serving", [Serving(max_batch=65), Serving(max_batch=8, preferred=(9,))])
def test_batches_beyond_the_graph_are_refused(exported: Path, tmp_path: Path, serving: Serving) -> None:
    with pytest.raises(UsageError, match=r"at most 64|largest batch is 8"):
        export_triton(exported, tmp_path / "m", serving=serving)
    assert not any(tmp_path.iterdir())


def test_a_graph_that_disagrees_with_the_manifest_is_refused(halved: Path, tmp_path: Path) -> None:
    relist_as(halved, replace(read_manifest(halved).files["tagger.fp16.onnx"], inputs={}))
    with pytest.raises(BundleError, match=r"frames is \('float16'.*'float32'"):
        export_triton(halved, tmp_path / "m", engines=("tagger.fp16.onnx",))
    assert not (tmp_path / "m").exists()


GATES = {"fp32": Gate(1e-4, 1e-5)}


def odd_spec(batch: str | int = "batch") -> GraphSpec:
    """One number a row, and an output with one named entry for each row."""
    return GraphSpec(
        "odd",
        (Symbol("batch", maximum=4), Symbol("length", minimum=2, typical=100, maximum=700)),
        (InputSpec("level", "float32", (batch,)), InputSpec("values", "float32", (batch, "length"))),
        (OutputSpec("scores", "float32", (batch, 2), labels=("low", "high")),),
        GATES,
    )


def config_of(spec: GraphSpec, max_batch: int) -> object:
    dtypes = {item.name: item.dtype for item in (*spec.inputs, *spec.outputs)}
    served = Served("odd", "odd.onnx", "onnxruntime", dtypes, max_batch, (), graph_shapes(spec, max_batch))
    from google.protobuf import text_format

    return text_format.Parse(format_message(model_config(spec, served, Serving())), messages().ModelConfig())


def test_one_number_a_row_is_declared_and_reshaped_away() -> None:
    level, values = config_of(odd_spec(), 4).input  # type: ignore[attr-defined]
    assert list(level.dims) == [1]
    assert level.HasField("reshape")
    assert list(level.reshape.shape) == []
    assert list(values.dims) == [-1]
    assert not values.HasField("reshape")


def test_named_entries_get_a_file_of_labels() -> None:
    assert config_of(odd_spec(), 4).output[0].label_filename == "scores.txt"  # type: ignore[attr-defined]


def test_a_graph_without_a_batch_axis_is_served_whole() -> None:
    spec = odd_spec(batch=3)
    assert batch_symbol(spec) is None
    config = config_of(spec, 0)
    assert config.max_batch_size == 0  # type: ignore[attr-defined]
    assert not config.HasField("dynamic_batching")  # type: ignore[attr-defined]
    assert [list(item.dims) for item in config.input] == [[3], [3, -1]]  # type: ignore[attr-defined]
    assert {sample.batch_size for sample in config.model_warmup} == {1}  # type: ignore[attr-defined]


def test_an_axis_that_something_follows_from_is_no_batch(toy: ModuleType) -> None:
    assert batch_symbol(toy.tagger_spec()) is not None
    spec = GraphSpec(
        "pooled",
        (Symbol("n", maximum=9), Symbol("m", source="n", convs=((2, 2),))),
        (InputSpec("x", "float32", ("n", 3)),),
        (OutputSpec("y", "float32", ("n", "m")),),
        GATES,
    )
    assert batch_symbol(spec) is None


def test_buckets_cover_every_length_and_never_triple_a_long_one() -> None:
    symbol = Symbol("length", typical=299, maximum=599)
    sizes = buckets(symbol, 1, 599)
    assert sizes == [1, 38, 75, 150, 299, 599]
    for length in range(39, 600):
        padded = next(size for size in sizes if size >= length)
        assert padded <= 2 * length + 1
    assert buckets(symbol, 1, 100) == [1, 50, 100]
    assert buckets(symbol, 5, 5) == [5]


def test_the_readme_names_every_model_and_bucket(repository: Path) -> None:
    page = (repository / "README.md").read_text()
    client = load_client(repository) if importlib.util.find_spec("geventhttpclient") else None
    for word in ("`toy`", "`ids`", "true where `frames` is valid", "columns: `ids`, `frames`", "UNTRAINED"):
        assert word in page
    if client is not None:
        for axis, sizes in client.BUCKETS.items():
            assert f"`{axis}`: {', '.join(map(str, sizes))}" in page
