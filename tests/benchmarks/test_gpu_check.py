from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest

from taemi_bench import checkout, gpu_check
from taemi_bench.gpu_check import BUDGET_SECONDS, Options, parse_options, run_check
from taemi_bench.gpu_steps import STEPS
from taemi_bench.gpu_steps.contract import Context, NotRunError, Recorder, format_json
from taemi_runtime.errors import DeviceError, MissingExtraError, ParityError

ROOT = Path(__file__).parents[2]
NEEDS_CUDA = ("torch-eager", "torch-compile", "onnxruntime", "pycuda")


@pytest.fixture
def no_gpu(monkeypatch):
    """Hides every device, also where this machine has one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def options(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    return Options(out=tmp_path / "results", work=work)


def step(name: str):
    return next(item for item in STEPS if item.name == name)


def only(options: Options, *names: str, **changes) -> Options:
    return dataclasses.replace(options, steps=tuple(step(name) for name in names), **changes)


def results(options: Options) -> dict[str, dict]:
    (path,) = options.out.glob("gpu-check-*.json")
    return {item["name"]: item for item in json.loads(path.read_text())["steps"]}


def test_without_a_gpu_every_step_is_recorded_with_its_reason(tmp_path, no_gpu):
    out = tmp_path / "results"
    names = ("machine", "cuda-python", *NEEDS_CUDA, "export-all")
    folders = [ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks"]
    done = subprocess.run(
        [sys.executable, "-m", "taemi_bench.gpu_check", "--out", str(out), "--steps", ",".join(names)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("gpu-check-*.json")
    report = json.loads(path.read_text())
    assert (report["schema"], report["kind"]) == (1, "taemi-gpu-check")
    found = {item["name"]: item for item in report["steps"]}
    assert set(found) == set(names)
    assert found["machine"]["status"] == "ok"
    assert found["machine"]["facts"]["cuda_driver"]["devices"] == []
    for name in NEEDS_CUDA:
        assert found[name]["status"] == "not run"
        assert found[name]["why"].startswith("no CUDA device: ")
        assert "\n" not in found[name]["why"]
    assert found["cuda-python"]["status"] == "not run"
    assert found["export-all"]["why"].startswith("not needed")
    for name in names:
        assert name in done.stdout


def test_nothing_in_a_result_names_the_host_or_a_folder(options, no_gpu):
    run_check(only(options, "machine"))
    (path,) = options.out.glob("*.json")
    text = path.read_text()
    assert os.uname().nodename not in text
    assert str(options.work) not in text
    assert str(ROOT) not in text


def test_a_step_that_dies_is_a_failure_and_the_next_one_runs(options, monkeypatch, capsys):
    ordinary = gpu_check._command

    def command(item, options, path, limit):
        if item.name == "cuda-python":
            state = json.dumps({"status": "running", "why": "", "facts": {"seen": 1}})
            code = f"import os; open({str(path)!r}, 'w').write({state!r}); os.kill(os.getpid(), 11)"
            return [sys.executable, "-c", code]
        return ordinary(item, options, path, limit)

    monkeypatch.setattr(gpu_check, "_command", command)
    assert run_check(only(options, "cuda-python", "machine")) == 1
    found = results(options)
    assert found["cuda-python"]["status"] == "failed"
    assert "SIGSEGV" in found["cuda-python"]["why"]
    assert found["cuda-python"]["facts"] == {"seen": 1}
    assert found["machine"]["status"] == "ok"


def test_a_step_that_hangs_is_stopped_with_what_it_started(options, monkeypatch, tmp_path):
    marker = tmp_path / "grandchild"
    child = f"import time; time.sleep(1.5); open({str(marker)!r}, 'w')"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    monkeypatch.setattr(gpu_check, "_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(gpu_check, "SHORTEST_SECONDS", 0.0)
    slow = dataclasses.replace(step("machine"), limit_seconds=0.7)
    assert run_check(dataclasses.replace(options, steps=(slow,))) == 1
    assert results(options)["machine"]["why"] == "stopped after 1 s"
    # Its child would have left the marker by now.
    time.sleep(1.5)
    assert not marker.exists()


def test_a_spent_budget_leaves_steps_that_say_so(options):
    assert run_check(only(options, "machine", "pycuda", budget_seconds=3.0)) == 0
    for item in results(options).values():
        assert item["status"] == "not run"
        assert "of the check's 3 s" in item["why"]


def test_the_budget_keeps_the_whole_check_under_nine_minutes():
    assert BUDGET_SECONDS + gpu_check._GRACE_SECONDS < 9 * 60
    assert parse_options(["--out", "x"], Path()).budget_seconds == BUDGET_SECONDS


def test_each_result_is_on_disk_before_the_next_step_starts(options, monkeypatch):
    seen = []
    ordinary = gpu_check._run_step

    def look(item, options, left):
        paths = list(options.out.glob("*.json"))
        seen.append([entry["name"] for path in paths for entry in json.loads(path.read_text())["steps"]])
        return ordinary(item, options, left)

    monkeypatch.setattr(gpu_check, "_run_step", look)
    run_check(only(options, "machine", "cuda-python", "pycuda", budget_seconds=1.0))
    assert seen == [[], ["machine"], ["machine", "cuda-python"]]


def test_unknown_steps_and_missing_files_are_usage_errors(capsys):
    for arguments in (["--steps", "machines"], ["--checkpoint", "none.pt"], ["--bundle", "none.taemi"]):
        with pytest.raises(SystemExit) as caught:
            parse_options(["--out", "results", *arguments], Path())
        assert caught.value.code == 2
    assert "machine, cuda-python" in capsys.readouterr().err


def test_steps_run_in_the_order_of_the_registry_whatever_was_typed():
    found = parse_options(["--out", "x", "--steps", "pycuda,machine"], Path())
    assert [item.name for item in found.steps] == ["machine", "pycuda"]


@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (None, "ok", ""),
        (NotRunError("no CUDA device: none"), "not run", "no CUDA device: none"),
        (MissingExtraError("cannot run", "torch is not installed"), "not run", "torch is not installed"),
        (DeviceError("cannot run", "no driver"), "not run", "no driver"),
        (
            ModuleNotFoundError("No module named 'msgspec'", name="msgspec"),
            "not run",
            "msgspec is not installed",
        ),
        (ModuleNotFoundError("No module named 'taemi.x'", name="taemi.x"), "failed", "taemi.x"),
        (ParityError("the result is wrong", "by 3"), "failed", "by 3"),
        (MemoryError("out of memory\nmore"), "failed", "MemoryError: out of memory"),
    ],
)
def test_how_a_step_ends(tmp_path, monkeypatch, error, status, why):
    from taemi_bench.gpu_steps import machine_facts
    from taemi_bench.gpu_steps.__main__ import run_step

    def run(context):
        context.record(first=1)
        if error is not None:
            raise error

    monkeypatch.setattr(machine_facts, "record_machine", run)
    path = tmp_path / "result.json"
    assert run_step("machine", Context(tmp_path, Recorder(path, "machine"))) == status
    found = json.loads(path.read_text())
    assert found["status"] == status
    assert why in found["why"]
    assert "\n" not in found["why"]
    assert found["facts"] == {"first": 1}


def test_numbers_that_json_lacks_become_null():
    found = json.loads(format_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": (1, 2)}))
    assert found == {"a": None, "b": [None, 1.5], "c": [1, 2]}


def test_every_step_of_the_registry_exists():
    from importlib import import_module

    for item in STEPS:
        module, _, function = item.place.partition(":")
        assert callable(getattr(import_module(f"taemi_bench.gpu_steps.{module}"), function))
    assert len({item.name for item in STEPS}) == len(STEPS)


def test_a_step_of_several_parts_ends_by_itself(tmp_path):
    recorder = Recorder(tmp_path / "result.json", "step")
    assert Context(tmp_path, recorder, ends_at=time.monotonic() + 100).too_late(50) == ""
    assert "s are left" in Context(tmp_path, recorder, ends_at=time.monotonic() + 40).too_late(50)
    assert "0 s are left" in Context(tmp_path, recorder, ends_at=time.monotonic() - 5).too_late(50)


def test_a_checkout_that_is_not_installed_finds_its_model_families(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    assert checkout.write_metadata(tmp_path / "installed") is None or not _installed()
    monkeypatch.setattr(checkout, "distribution", missing)
    folder = checkout.write_metadata(tmp_path / "metadata")
    found = {
        (entry.group, entry.name): entry.value
        for item in distributions(path=[str(folder)])
        for entry in item.entry_points
    }
    assert found["taemi.families", "taemi"] == "taemi.family:TaemiFamily"
    assert found["taemi_runtime.backends", "checkpoint"].startswith("taemi.checkpoint_backend:")
    assert checkout.write_metadata(tmp_path / "none", tmp_path / "pyproject.toml") is None


def _installed() -> bool:
    try:
        distribution("taemi")
    except PackageNotFoundError:
        return False
    return True
