"""``taemi-export tensorrt`` as a user types it: plans, or one sentence and the bundle as it was.

Plans are built for real by TensorRT for RTX, on the CPU. Nothing is executed on any GPU.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from taemi_export.compare import Difference
from taemi_export.plans import build as build_module
from taemi_export.plans import library as library_module
from taemi_export.plans.execution import note_executions
from taemi_export.plans.library import Gpu
from taemi_export.report import EngineResult, OutputResult
from taemi_export.sizes import Case
from taemi_runtime import host
from taemi_runtime.bundle import Bundle
from taemi_runtime.host import CudaDriver
from taemi_runtime.manifest import Parity, file_sha256, format_manifest, read_manifest
from taemi_runtime.plan_sidecar import read_sidecar

pytestmark = pytest.mark.tensorrt
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

Run = Callable[..., int]
RTX = ("--library", "rtx", "--target", "a100")


@pytest.fixture(scope="module")
def planned(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle with half-precision graphs and their plans; read only."""
    from taemi_export.plans.build import PlanRequest, build_plans

    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("planned") / "toy.taemi"))
    build_plans(folder, PlanRequest(library="rtx", target="a800"))
    return folder


@pytest.fixture
def own(planned: Path, tmp_path: Path) -> Path:
    """A copy of it to do anything with."""
    return Path(shutil.copytree(planned, tmp_path / "own.taemi"))


def state(folder: Path) -> dict[str, str]:
    """Return every file in and beside a bundle with its digest."""
    return {str(path): file_sha256(path) for path in sorted(folder.parent.rglob("*")) if path.is_file()}


def test_plans_of_every_graph_with_sidecars_that_the_runtime_reads(planned: Path) -> None:
    bundle = Bundle.open(planned)
    plans = {name: entry for name, entry in bundle.manifest.files.items() if name.endswith(".plan")}
    assert {name: entry.graph for name, entry in plans.items()} == {
        "fp16.sm80.rtx.plan": "tagger",
        "front.fp16.sm80.rtx.plan": "front",
    }
    for name, entry in plans.items():
        sidecar = read_sidecar(bundle, name)
        assert (sidecar.library, sidecar.library_version) == ("tensorrt_rtx", trt.__version__)
        assert (sidecar.target, sidecar.compute_capability) == ("sm80", "8.0")
        assert (sidecar.precision, entry.precision) == ("fp16", "fp16")
        assert sidecar.layer_types["float16"] > 0
        assert sidecar.state == "built, never executed"
        assert sidecar.device == sidecar.driver == ""
        assert sidecar.source == f"{entry.graph}.fp16.onnx"
        # What the graph's file takes, its plan takes.
        assert entry.inputs == bundle.manifest.files[sidecar.source].inputs
        spec = bundle.manifest.graphs[sidecar.graph]
        assert sidecar.inputs == {item.name: entry.inputs.get(item.name, item.dtype) for item in spec.inputs}
    assert read_sidecar(bundle, "fp16.sm80.rtx.plan").inputs["frames"] == "float16"
    assert [profile.name for profile in read_sidecar(bundle, "fp16.sm80.rtx.plan").profiles] == [
        "one",
        "batch",
        "long",
    ]


def test_the_command_says_what_each_step_took_and_that_nothing_ran(
    bundle: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--precision",
        "fp32",
        "--graph",
        "front",
        "--batch",
        "1:2:4",
        "--shapes",
        "front.signal=20:100:300",
    )
    assert run("tensorrt", bundle, *RTX, *arguments) == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    path = bundle / "front.fp32.sm80.rtx.plan"
    assert lines[0].startswith("front: parse ")
    assert f"{path} (profiles one, batch, long; built, never executed)" in lines[0]
    assert "1 plan, built and never executed" in lines[1]
    sidecar = read_sidecar(Bundle.open(bundle), path.name)
    assert str(sidecar.profiles[1].inputs["signal"]) == "1x20:2x100:4x300"
    assert "float16" not in sidecar.layer_types
    assert run("inspect", path) == 0
    shown = capfd.readouterr().out
    for part in (
        f"TensorRT for RTX {trt.__version__}",
        "built, never executed",
        "fp32, TF32 off",
        "8.0",
        "1x20:2x100:4x300",
    ):
        assert part in shown
    assert sidecar.plan_sha256 in shown
    assert run("inspect", bundle) == 0
    assert "built, never executed" in " ".join(capfd.readouterr().out.split())


def test_what_verify_measured_on_a_gpu_ends_the_never_executed(
    own: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(own)
    done = Parity("tags", 1e-3, 1e-4, 0.9999, 12, "tensorrt 11.4", passed=True, device="cuda:0")
    parity = {**manifest.parity, "fp16.sm80.rtx.plan": done}
    (own / "manifest.json").write_text(format_manifest(replace(manifest, parity=parity)))
    assert run("inspect", own / "fp16.sm80.rtx.plan") == 0
    shown = capfd.readouterr().out
    assert "executed by taemi-export verify on cuda:0" in shown
    assert run("inspect", own / "front.fp16.sm80.rtx.plan") == 0
    assert "built, never executed" in capfd.readouterr().out


def test_the_sidecar_of_a_plan_that_verify_ran_says_where(
    own: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # What a GPU would have given; here nothing runs plans.
    case = Difference("tags", Case("typical", {}, 1), 9, 1e-3, 1e-4, 0.9999, (0,), 0.5, 0.501)
    result = OutputResult("tags", case, 1e-3, 1e-4, 0.9999, 0.99, 0, True)
    ran, beside = "fp16.sm80.rtx.plan", "front.fp16.sm80.rtx.plan"
    engine = EngineResult(ran, "tagger", "fp16", None, device="cuda:1", cases=3, outputs=(result,))
    unrun = replace(engine, file=beside, graph="front", method="not run", outputs=())
    driver = CudaDriver("13.0", ("NVIDIA T4", "NVIDIA A100-SXM4-80GB"))
    monkeypatch.setattr(host, "cuda_driver", lambda: driver)
    monkeypatch.setattr(host, "compute_capability", lambda index: (8, 0) if index == 1 else (7, 5))
    before = Bundle.open(own).manifest
    assert note_executions(own, [engine, unrun], "cuda:1") == [ran]
    bundle = Bundle.open(own)
    done = read_sidecar(bundle, ran).executed
    assert done is not None
    assert (done.device, done.compute_capability, done.driver, done.library_version) == (
        "NVIDIA A100-SXM4-80GB",
        "8.0",
        "13.0",
        trt.__version__,
    )
    assert read_sidecar(bundle, beside).executed is None
    assert bundle.manifest.parity == before.parity
    assert {name for name in before.files if before.files[name] != bundle.manifest.files[name]} == {
        f"{ran}.json"
    }
    assert run("inspect", own / ran) == 0
    assert "executed on NVIDIA A100-SXM4-80GB (compute capability 8.0)" in capfd.readouterr().out
    # The first time is the one that is kept.
    assert note_executions(own, [engine], "cuda:1") == []


def test_verify_goes_on_beside_plans_and_says_that_they_did_not_run(
    bundle: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("tensorrt", bundle, *RTX, "--precision", "fp32", "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert run("verify", bundle, "--device", "cpu") == 0
    out, err = capfd.readouterr()
    assert "fp32.sm80.rtx.plan (fp32): built, not run" in out
    assert "built, not run: 2" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--library", "rtx", "--target", "h100"),
            "cannot build plans for h100 (sm90) with TensorRT for RTX",
        ),
        (("--library", "rtx"), "Name the target: --target sm75"),
        (("--library", "trt"), "there is no such library"),
        (("--precision", "int8", *RTX), "Choose from: fp16, fp32"),
        (("--target", "a1000"), "there is no such target"),
        (("--batch", "32:8:1", *RTX), "do not ascend"),
        (("--batch", "1:8:99", *RTX), "it makes batch 1:8:99, and the graph takes 1 to 64"),
        (("--shapes", "tagger.smell=1:2:3", *RTX), "has no input 'smell'"),
        (
            ("--shapes", "tagger.frames=1:2:3", "--shapes", "tagger.frames_mask=1:2:4", *RTX),
            "they share this axis",
        ),
        (("--graph", "smell", *RTX), "has no such graph"),
        (("--workspace", "0", *RTX), "kernels need scratch memory"),
        (("--timing-cache", "a.timing", *RTX), "TensorRT for RTX measures no kernels"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_exit_code_2(
    bundle: Path,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(build_module, "find_gpu", lambda: None)
    before = state(bundle)
    assert run("tensorrt", bundle, *arguments) == 2
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert state(bundle) == before


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = library_module.importlib.util.find_spec
    monkeypatch.setattr(
        library_module.importlib.util,
        "find_spec",
        lambda name, *rest: None if name.startswith("tensorrt") else real(name, *rest),
    )


def test_without_tensorrt_the_half_graphs_are_written_and_the_line_to_run_is_printed(
    bundle: Path, run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    assert run("tensorrt", bundle, "--batch", "1:4:16", "--target", "a800") == 1
    lines = capfd.readouterr().err.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["tagger", "front", "error"]
    assert "tensorrt: it is not installed" in lines[2]
    assert "no plan was built" in lines[2]
    assert "tagger.fp16.onnx, front.fp16.onnx" in lines[2]
    assert lines[2].endswith(f"run there: taemi-export tensorrt {bundle} --target a800 --batch 1:4:16")
    made = Bundle.open(bundle)
    for name in ("tagger.fp16.onnx", "front.fp16.onnx"):
        assert made.file(name).is_file()
        assert made.manifest.files[name].precision == "fp16"
    assert made.manifest.files["tagger.fp16.onnx"].inputs["frames"] == "float16"
    # The second time there is nothing left to convert, and the sentence is the same.
    before = state(bundle)
    assert run("tensorrt", bundle, "--batch", "1:4:16", "--target", "a800") == 1
    assert capfd.readouterr().err.strip() == lines[2]
    assert state(bundle) == before


def test_without_rtx_nothing_is_converted(
    bundle: Path, run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    before = state(bundle)
    assert run("tensorrt", bundle, *RTX) == 1
    assert 'pip install "taemi[rtx]", then run: taemi-export tensorrt' in capfd.readouterr().err
    assert state(bundle) == before


@pytest.mark.parametrize("name", ["fp16.sm80.rtx.plan", "fp16.sm80.rtx.plan.json", "tagger.fp16.onnx"])
def test_one_changed_byte_is_refused_before_any_library_sees_it(
    own: Path, run: Run, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = own / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    listed = read_manifest(own).files[name].sha256
    if name.endswith(".onnx"):
        assert run("tensorrt", own, *RTX) == 1
    else:
        assert run("inspect", own / "fp16.sm80.rtx.plan") == 1
    err = capfd.readouterr().err
    assert file_sha256(path) in err
    assert listed in err
    assert err.count("\n") == 1


def test_a_plan_of_rtx_is_refused_where_tensorrt_is_meant(own: Path) -> None:
    from taemi_runtime.errors import EngineError
    from taemi_runtime.plan_sidecar import PlanHost, check_host

    sidecar = read_sidecar(Bundle.open(own), "fp16.sm80.rtx.plan")
    with pytest.raises(EngineError, match=r"built by TensorRT for RTX .*, and this is TensorRT 11"):
        check_host(sidecar, PlanHost("tensorrt", "11.4.1.2", "8.0"))
    assert check_host(sidecar, PlanHost("tensorrt_rtx", trt.__version__, "8.0")) == ()


def test_building_again_replaces_a_plan_and_what_was_said_of_it(own: Path, run: Run) -> None:
    before = read_sidecar(Bundle.open(own), "fp16.sm80.rtx.plan")
    assert run("tensorrt", own, *RTX, "--graph", "tagger", "--batch", "1:1:2", "--quiet") == 0
    after = read_sidecar(Bundle.open(own), "fp16.sm80.rtx.plan")
    assert after.plan_sha256 != before.plan_sha256
    assert "fp16.sm80.rtx.plan" not in read_manifest(own).parity


def test_a_refused_graph_leaves_the_bundle_as_it_was(
    own: Path, run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from taemi_runtime.errors import ExportError

    built: list[Path] = []
    real = build_module.build_plan

    def second_fails(library: object, onnx: Path, *arguments: object, **options: object) -> object:
        built.append(onnx)
        if len(built) == 2:
            raise ExportError(f"cannot build a plan of {onnx}", "it does not like it")
        return real(library, onnx, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(build_module, "build_plan", second_fails)
    before = state(own)
    assert run("tensorrt", own, *RTX) == 1
    assert len(built) == 2
    assert f"cannot build a plan of {own / 'front.fp16.onnx'}: it does not like it" in capfd.readouterr().err
    assert state(own) == before


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_ctrl_c_and_kill_during_a_build_leave_the_bundle_as_it_was(
    own: Path, python_env: dict[str, str], how: signal.Signals, code: int
) -> None:
    script = (
        "import os, sys\n"
        "from taemi_export.plans import build\n"
        "real = build.build_plan\n"
        "def slow(*arguments, **options):\n"
        "    seen = []\n"
        "    def tick(*_):\n"
        "        seen.append(1)\n"
        "        if len(seen) == 3: print('building', flush=True)\n"
        "        import time; time.sleep(0.05)\n"
        "    return real(*arguments, **{**options, 'tick': tick})\n"
        "build.build_plan = slow\n"
        f"sys.argv = ['taemi-export', 'tensorrt', {str(own)!r}, '--library', 'rtx', '--target', 'sm80']\n"
        "from taemi_export.cli import main; main()\n"
    )
    before = {path.name: file_sha256(path) for path in own.iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=python_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "building"
    start = time.perf_counter()
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert time.perf_counter() - start < 30
    assert {path.name: file_sha256(path) for path in own.iterdir()} == before
    if how is signal.SIGINT:
        assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_the_way_of_tensorrt_itself_with_the_library_under_its_name(
    own: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # TensorRT needs a GPU. Its API is the other library's, so everything around it can be walked here.
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tensorrt_rtx import *\n__version__ = '11.4.1.2'\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    a100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), "13.0")
    monkeypatch.setattr(library_module, "find_gpu", lambda: a100)
    monkeypatch.setattr(build_module, "find_gpu", lambda: a100)
    assert run("tensorrt", own, "--timing-cache", "none") == 0, capfd.readouterr().err
    assert run("tensorrt", own, "--timing-cache", "none", "--target", "ampere-plus", "--graph", "tagger") == 0
    assert run("tensorrt", own, "--timing-cache", "none", "--target", "h100") == 1
    assert "is sm80. Run the same command on a machine with sm90" in capfd.readouterr().err
    sys.modules.pop("tensorrt")
    bundle = Bundle.open(own)
    sidecar = read_sidecar(bundle, "fp16.plan")
    assert (sidecar.library, sidecar.library_version) == ("tensorrt", "11.4.1.2")
    assert (sidecar.target, sidecar.compute_capability) == ("current", "8.0")
    assert sidecar.compatibility == "same-compute-capability"
    assert (sidecar.device, sidecar.driver) == ("NVIDIA A100-SXM4-80GB", "13.0")
    assert read_sidecar(bundle, "front.fp16.plan").graph == "front"
    assert read_sidecar(bundle, "fp16.ampere-plus.plan").compatibility == "ampere-plus"


def test_a_full_disk_is_said_before_the_first_build(
    own: Path, run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "taemi_export.bundle_update.shutil.disk_usage", lambda path: SimpleNamespace(free=1000)
    )
    before = state(own)
    assert run("tensorrt", own, *RTX) == 1
    err = capfd.readouterr().err
    assert f"cannot add to bundle {own}" in err
    assert "1.0 kB are free" in err
    assert state(own) == before
