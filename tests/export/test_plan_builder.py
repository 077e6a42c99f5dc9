"""Real builds with TensorRT for RTX, on the CPU: that its importer and compiler accept or refuse a graph.

A compile check, never a run: nothing here is executed on any GPU.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from taemi_export.plans.builder import BuildOptions, BuiltPlan, build_plan
from taemi_export.plans.library import Library, open_library
from taemi_export.plans.monitor import Cancel, Phases, run_cancellable
from taemi_export.plans.targets import Target
from taemi_runtime.errors import ExportError
from taemi_runtime.plan_sidecar import PlanProfile, ShapeRange

pytestmark = pytest.mark.tensorrt
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

SM80 = BuildOptions(Target("sm80", (8, 0)))
FLOAT, HALF, BOOL, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.INT64
Value = tuple[str, int, list[str | int]]
ROWS = ShapeRange((1, 4), (2, 4), (8, 4))


@pytest.fixture(scope="module")
def rtx() -> Library:
    return open_library("rtx")


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[Value], output: Value, opset: int = 20
) -> Path:
    values = [helper.make_tensor_value_info(*value) for value in (*inputs, output)]
    graph = helper.make_graph(nodes, "g", values[:-1], values[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def build(rtx: Library, path: Path, options: BuildOptions = SM80, **inputs: ShapeRange) -> BuiltPlan:
    return build_plan(rtx, path, (PlanProfile("one", inputs),), options)


def test_the_same_graph_in_two_types_builds_in_the_types_that_it_says(rtx: Library, tmp_path: Path) -> None:
    for kind, name in ((FLOAT, "float32"), (HALF, "float16")):
        nodes = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
        path = save(
            tmp_path / f"{name}.onnx",
            nodes,
            [("x", kind, ["batch", 4]), ("z", kind, ["batch", 4])],
            ("y", kind, ["batch", 4]),
        )
        built = build(rtx, path, x=ROWS, z=ROWS)
        assert len(built.plan) > 1000
        assert built.inputs == {"x": name, "z": name}
        assert built.outputs == {"y": name}
        assert built.layer_types == {name: 2}


def test_int64_inputs_stay_int64_and_every_profile_is_in_the_plan(rtx: Library, tmp_path: Path) -> None:
    path = save(
        tmp_path / "ids.onnx",
        [helper.make_node("Cast", ["ids"], ["f"], to=FLOAT), helper.make_node("Relu", ["f"], ["y"])],
        [("ids", INT64, ["batch", 4])],
        ("y", FLOAT, ["batch", 4]),
    )
    single = ShapeRange((1, 4), (1, 4), (1, 4))
    profiles = (PlanProfile("one", {"ids": single}), PlanProfile("batch", {"ids": ROWS}))
    ticks: list[tuple[str, int, int]] = []
    built = build_plan(rtx, path, profiles, SM80, tick=lambda *tick: ticks.append(tick))
    assert built.inputs == {"ids": "int64"}
    assert ticks, "the library reported its progress"
    assert all(0 <= done <= total for _, done, total in ticks)
    assert all(step.startswith("ids.onnx: ") for step, _, _ in ticks)


def attention(path: Path, kind: int) -> Path:
    shape: list[str | int] = ["batch", 2, "n", 16]
    return save(
        path,
        [helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], name="att")],
        [*((name, kind, shape) for name in "qkv"), ("mask", BOOL, ["batch", 1, "n", "n"])],
        ("y", kind, shape),
        opset=23,
    )


def test_attention_without_a_fused_kernel_may_be_taken_apart(
    rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = attention(tmp_path / "attention.onnx", FLOAT)
    heads = ShapeRange((1, 2, 1, 16), (2, 2, 8, 16), (4, 2, 32, 16))
    square = ShapeRange((1, 1, 1, 1), (2, 1, 8, 8), (4, 1, 32, 32))
    inputs = {"q": heads, "k": heads, "v": heads, "mask": square}
    assert len(build(rtx, path, **inputs).plan) > 1000
    # The same graph left as it was parsed: what users would have seen, and what they see instead.
    monkeypatch.setattr("taemi_export.plans.builder.allow_decomposition", lambda network, library: None)
    with pytest.raises(ExportError) as caught:
        build(rtx, path, **inputs)
    assert "is_decomposable" in caught.value.found
    assert "has no fused kernel for this attention" in caught.value.found
    assert "opset 20" in caught.value.fix


Case = tuple[list[onnx.NodeProto], list[Value], dict[str, ShapeRange], tuple[str, ...]]
X: Value = ("x", FLOAT, ["batch", 4])
REFUSED: dict[str, Case] = {
    "nonzero": (
        [helper.make_node("NonZero", ["x"], ["y"], name="find_them")],
        [X],
        {"x": ROWS},
        ("at node find_them (NonZero)", "output shape depends on values", "NonZero plugin creator version 1"),
    ),
    "mixed types": (
        [helper.make_node("Add", ["x", "z"], ["y"], name="add_them")],
        [X, ("z", HALF, ["batch", 4])],
        {"x": ROWS, "z": ROWS},
        ("at node add_them (Add)", "have different types", "Float and Half"),
    ),
    "unknown operator": (
        [helper.make_node("Guess", ["x"], ["y"], name="guess_it", domain="mine")],
        [X],
        {"x": ROWS},
        ("at node guess_it (Guess)", "does not know this operator"),
    ),
    "ranges that contradict each other": (
        [helper.make_node("Add", ["x", "z"], ["y"], name="add_them")],
        [X, ("z", FLOAT, ["batch", "n"])],
        {"x": ROWS, "z": ShapeRange((1, 1), (8, 8), (16, 16))},
        ("ranges of a profile contradict each other", "add_them", "--shapes GRAPH.INPUT=MIN:OPT:MAX"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_which_node_what_it_means_and_what_to_do(
    rtx: Library, tmp_path: Path, name: str
) -> None:
    nodes, inputs, shapes, parts = REFUSED[name]
    path = save(tmp_path / "bad.onnx", nodes, inputs, ("y", FLOAT, ["batch", 4]))
    with pytest.raises(ExportError) as caught:
        build(rtx, path, **shapes)
    message = str(caught.value)
    for part in (*parts, f"cannot build a plan of {path} with tensorrt_rtx {rtx.version}"):
        assert part in message
    assert "\n" not in message
    assert caught.value.fix
    # One failure leaves nothing behind that the next build would stumble over or repeat.
    good = save(
        tmp_path / "good.onnx", [helper.make_node("Relu", ["x"], ["y"])], [X], ("y", FLOAT, ["batch", 4])
    )
    assert len(build(rtx, good, x=ROWS).plan) > 1000


def test_a_file_that_is_no_graph_is_refused(rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="the file is no ONNX graph, or is cut short"):
        build(rtx, tmp_path / "cut.onnx", x=ROWS)


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(rtx: Library, tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [X], ("y", FLOAT, ["batch", 4])
    )
    with pytest.raises(ExportError, match=r"the graph takes \['x'\], the manifest says \['z'\]"):
        build(rtx, path, z=ROWS)


def test_a_cancelled_build_ends_early_and_returns_no_plan(rtx: Library, exported: Path) -> None:
    from taemi_export.plans.profiles import plan_profiles
    from taemi_runtime.manifest import read_manifest

    profiles = plan_profiles(read_manifest(exported).graphs)["tagger"]
    cancel = Cancel()
    steps: list[str] = []

    def stop(step: str, done: int, total: int) -> None:
        steps.append(step)
        if len(steps) == 5:
            cancel.ask()

    with pytest.raises(ExportError, match="the build was cancelled"):
        build_plan(rtx, exported / "tagger.onnx", profiles, SM80, tick=stop, cancel=cancel)
    seen = len(steps)
    steps.clear()
    build_plan(rtx, exported / "tagger.onnx", profiles, SM80, tick=lambda *_: steps.append(""))
    assert seen < len(steps) / 2


def test_an_error_in_the_progress_bar_stops_the_build_and_never_the_process(
    rtx: Library, tmp_path: Path
) -> None:
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [X], ("y", FLOAT, ["batch", 4])
    )

    def broken(step: str, done: int, total: int) -> None:
        raise RuntimeError("the terminal is gone")

    with pytest.raises(ExportError, match="cancelled"):
        build_plan(rtx, path, (PlanProfile("one", {"x": ROWS}),), SM80, tick=broken)


def test_ctrl_c_reaches_a_thread_that_works_and_waits_for_it() -> None:
    # In a process of its own: the signal goes to the whole of it.
    code = (
        "import signal, threading, time, os\n"
        "from taemi_export.plans.monitor import Cancel, run_cancellable\n"
        "cancel, ended = Cancel(), []\n"
        "def work():\n"
        "    while not cancel.asked: time.sleep(0.01)\n"
        "    ended.append(True)\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    run_cancellable(work, cancel)\n"
        "except KeyboardInterrupt: print('interrupted', ended)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.stdout.strip() == "interrupted [True]", done.stderr
    assert time.perf_counter() - start < 10


def test_what_a_worker_raises_or_returns_comes_back() -> None:
    assert run_cancellable(lambda: threading.current_thread().name, Cancel()) == "taemi-build"
    with pytest.raises(ZeroDivisionError):
        run_cancellable(lambda: 1 // 0, Cancel())


def test_phases_count_steps_and_end_full() -> None:
    ticks: list[tuple[str, int, int]] = []
    phases = Phases("g", lambda *tick: ticks.append(tick))
    phases.start("tune", 3)
    phases.step("tune", 0)
    # A cancelled or optimised phase ends before all its steps were reported.
    phases.finish("tune")
    phases.step("late", 4)
    assert ticks == [("g: tune", 0, 3), ("g: tune", 1, 3), ("g: tune", 3, 3), ("g: late", 5, 5)]


def test_tf32_and_workspace_reach_the_builder(
    rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taemi_export.plans import builder

    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [X], ("y", FLOAT, ["batch", 4])
    )
    seen: list[tuple[bool, int]] = []
    compile_it: Callable[..., object] = builder._Job.build

    def spy(job: builder._Job, *arguments: object) -> object:
        trt = rtx.module
        flag = job.config.get_flag(trt.BuilderFlag.TF32)
        seen.append((flag, job.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)))
        return compile_it(job, *arguments)

    monkeypatch.setattr(builder._Job, "build", spy)
    for tf32, workspace in ((False, 64 << 20), (True, 128 << 20)):
        build(rtx, path, BuildOptions(SM80.target, workspace, tf32), x=ROWS)
    assert seen == [(False, 64 << 20), (True, 128 << 20)]
