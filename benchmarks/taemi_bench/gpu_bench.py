"""Measure this machine's GPU: ``python -m taemi_bench.gpu_bench --out FOLDER --work FOLDER``.

Never executed on a GPU so far. One command that makes what is missing (an untrained checkpoint of published
size, its bundle, its plans), measures every row on the GPU against PyTorch there, and writes
``gpu-<model>.json`` with its Markdown, CSV and page. What is there is kept: a second call measures only.

Exit code: 0 every row that can run ran, 1 there is no GPU, or something failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taemi_bench.checkout import child_environment
from taemi_bench.gpu_check import host_slug
from taemi_runtime.console import say
from taemi_runtime.host import cuda_driver, package_versions

CHECKPOINT, BUNDLE = "published.pt", "published.taemi"
# What a row on a GPU needs, and how it comes; docs/deploy.md says more.
_NEEDED = (
    ("torch", "PyTorch's rows", "pip install torch==2.13.0, a CUDA build"),
    (
        "onnxruntime-gpu",
        "ONNX Runtime's CUDA rows",
        'pip uninstall -y onnxruntime, then pip install "taemi[gpu]"',
    ),
    ("tensorrt", "TensorRT's rows", "docs/deploy.md has the line, its wheels are on NVIDIA's index"),
    ("cuda-bindings", "TensorRT's rows", "pip install cuda-python"),
    ("matplotlib", "the page with pictures", 'pip install "taemi[bench]"'),
)


@dataclass(frozen=True)
class Stage:
    """One of our command lines.

    Args:
        module: The module whose ``main`` it is.
        arguments: What follows the program's name.
        made: Says whether what it makes is there already.
    """

    module: str
    arguments: tuple[str, ...]
    made: Callable[[], bool] = lambda: False


def stages(out: Path, work: Path, model: str, installed: Sequence[str]) -> list[Stage]:
    """Return the command lines in order.

    Args:
        out: Folder of the result files.
        work: Folder of the checkpoint and the bundle.
        model: The GPU's name for file names.
        installed: Which packages are there.
    """
    checkpoint, bundle, result = work / CHECKPOINT, work / BUNDLE, out / f"gpu-{model}"
    found = [
        Stage("taemi.cli", ("init", str(checkpoint), "--random-weights"), checkpoint.is_file),
        Stage("taemi_export.cli", ("onnx", str(checkpoint), "-o", str(bundle)), bundle.is_dir),
    ]
    if "tensorrt" in installed:
        for precision in ("fp16", "fp32"):
            arguments = ("tensorrt", str(bundle), "--precision", precision)
            found.append(Stage("taemi_export.cli", arguments, partial(_has_plans, bundle, precision)))
    outputs = ["--json", f"{result}.json", "--markdown", f"{result}.md", "--csv", f"{result}.csv"]
    if "matplotlib" in installed:
        outputs += ["--html", f"{result}.html"]
    run = ("run", str(bundle), "--checkpoint", str(checkpoint), "--device", "cuda", *outputs)
    return [*found, Stage("taemi_bench.cli", run)]


def _has_plans(bundle: Path, precision: str) -> bool:
    """Whether the bundle has a TensorRT plan of a precision."""
    from taemi_runtime.bundle import Bundle

    files = Bundle.open(bundle).manifest.files
    return any(name.endswith(".plan") and entry.precision == precision for name, entry in files.items())


def run_bench(out: Path, work: Path) -> int:
    """Make what is missing, measure, and return the exit code."""
    if why := cuda_driver().why:
        say(f"error: cannot measure a GPU: {why}. Run this on a machine with an NVIDIA GPU and its driver")
        return 1
    installed = package_versions([package for package, _, _ in _NEEDED])
    for package, what, how in _NEEDED:
        if package not in installed:
            say(f"missing: {package}, needed for {what}: {how}")
    work.mkdir(parents=True, exist_ok=True)
    environment = child_environment(work)
    for stage in stages(out, work, host_slug(), tuple(installed)):
        if stage.made():
            continue
        code = f"import {stage.module} as cli; cli.main()"
        done = subprocess.run([sys.executable, "-c", code, *stage.arguments], env=environment, check=False)
        if done.returncode:
            say(f"error: {stage.module} {stage.arguments[0]} ended with exit code {done.returncode}")
            return 1 if done.returncode < 0 else done.returncode
    return 0


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m taemi_bench.gpu_bench", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder that keeps checkpoint and bundle (some gigabytes)"
    )
    found = parser.parse_args()
    sys.exit(run_bench(found.out, found.work))


if __name__ == "__main__":
    main()
