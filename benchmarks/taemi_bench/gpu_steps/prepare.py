"""What GPU steps need and a CPU can make: an untrained checkpoint of published size, and its graphs."""

from __future__ import annotations

import subprocess
import sys
import time

from taemi_bench.gpu_steps.contract import BUNDLE_NAME, CHECKPOINT_NAME, SCORES_NAME, Context, NotRunError
from taemi_bench.gpu_steps.machine_facts import tensorrt_version
from taemi_runtime.errors import ExportError
from taemi_runtime.host import cuda_driver


def make_checkpoint(context: Context) -> None:
    """Write an untrained checkpoint of published size; nothing is downloaded."""
    if context.given_checkpoint is not None:
        context.record(summary="given", bytes=context.checkpoint.stat().st_size)
        return
    if not _cuda() and context.given_bundle is not None:
        raise NotRunError("not needed: a bundle was given, and there is no CUDA device for PyTorch")
    _need(_cuda() or _tensorrt(), "there is no CUDA device and no TensorRT that could use it")
    target = context.work / CHECKPOINT_NAME
    seconds = _run("taemi.cli", ["init", str(target), "--random-weights", "--force", "--quiet"])
    context.record(summary="untrained, published size", bytes=target.stat().st_size, seconds=seconds)


def export_scores(context: Context) -> None:
    """Export the graph that gives the scores, which is small and quick, for TensorRT."""
    if context.given_bundle is not None:
        context.record(summary="given")
        return
    _need(_cuda() or _tensorrt(), "there is no CUDA device and no TensorRT that could use it")
    _export(context, SCORES_NAME, ["--fusion-only"])


def export_all(context: Context) -> None:
    """Export every graph, for ONNX Runtime's CUDA provider."""
    if context.given_bundle is not None:
        context.record(summary="given")
        return
    _need(_cuda(), "there is no CUDA device that could use it")
    _export(context, BUNDLE_NAME, [])


def _export(context: Context, name: str, options: list[str]) -> None:
    target = context.work / name
    arguments = ["onnx", str(context.checkpoint), "-o", str(target), "--force", "--quiet", *options]
    seconds = _run("taemi_export.cli", arguments)
    files = {path.name: path.stat().st_size for path in sorted(target.glob("*.onnx"))}
    context.record(summary=f"{', '.join(files)} exported and verified", files=files, seconds=seconds)


def _run(module: str, arguments: list[str]) -> float:
    """Run one of our command lines and return its seconds.

    The module is called and not the console script: the check works from a checkout, too.

    Raises:
        NotRunError: A package that it needs is not installed.
        ExportError: It failed; says with what.
    """
    code = f"import {module} as cli; cli.main()"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        said = next((line for line in lines if line.startswith("error: ")), lines[-1])
        if "is not installed" in said or said.startswith("ModuleNotFoundError"):
            raise NotRunError(said.removeprefix("error: "))
        raise ExportError(f"{module} {arguments[0]} failed", said.removeprefix("error: "))
    return time.perf_counter() - start


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise NotRunError(f"not needed: {why}")


def _cuda() -> bool:
    return not cuda_driver().why


def _tensorrt() -> bool:
    return any("import" not in found and "installed" not in found for found in _tensorrt_versions())


def _tensorrt_versions() -> list[str]:
    return [tensorrt_version(name) for name in ("tensorrt", "tensorrt_rtx")]
