"""Record whatever this machine's GPU can run: ``python -m taemi_bench.gpu_check --out FOLDER``.

One command for somebody who has a CUDA machine for ten minutes. Steps run one after the other, each in
a process of its own with a time limit, and the result file is rewritten after each of them: whatever
stops the check, what was found until then is on disk. A step that cannot run says why; nothing is
estimated. Only Python's standard library is needed to start; steps say which packages they miss.

Exit code: 0 every step ran or said why it cannot run here, 1 one that should have run failed or gave
wrong numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import taemi_bench
import taemi_runtime
from taemi_bench.checkout import child_environment
from taemi_bench.gpu_steps import STEPS, Step
from taemi_bench.gpu_steps.contract import format_json
from taemi_bench.nvidia_smi import read_gpus
from taemi_runtime.atomic import write_text
from taemi_runtime.host import cuda_driver, package_versions

SCHEMA = 1
KIND = "taemi-gpu-check"
# Nine minutes less what starting, stopping and writing take.
BUDGET_SECONDS = 510.0
# Less is not worth starting a step for.
SHORTEST_SECONDS = 15.0
_GRACE_SECONDS = 5.0
_LOG_LINES = 30


@dataclass(frozen=True)
class Options:
    """What to run and where.

    Args:
        out: Folder for the result file.
        work: Folder for checkpoints and bundles that the steps make.
        steps: The steps, in order.
        budget_seconds: Time for all of them.
        checkpoint: A checkpoint to use instead of making one.
        bundle: A bundle to use instead of exporting one.
        build_pycuda: Whether pycuda may be built into ``work``.
    """

    out: Path
    work: Path
    steps: tuple[Step, ...] = STEPS
    budget_seconds: float = BUDGET_SECONDS
    checkpoint: Path | None = None
    bundle: Path | None = None
    build_pycuda: bool = False


def run_check(options: Options) -> int:
    """Run the steps and return the exit code.

    Args:
        options: What to run.
    """
    start = time.monotonic()
    target = options.out / f"gpu-check-{host_slug()}.json"
    results: list[dict[str, Any]] = []
    interrupted = False
    for step in options.steps:
        left = options.budget_seconds - (time.monotonic() - start)
        try:
            results.append(_run_step(step, options, left))
        except KeyboardInterrupt:
            interrupted = True
            results.append(_result(step, "failed", "interrupted"))
        _write(target, options, results, time.monotonic() - start)
        _print_line(results[-1])
        if interrupted:
            break
    print(f"written: {target}", flush=True)
    if interrupted:
        return 130
    return int(any(result["status"] == "failed" for result in results))


def host_slug() -> str:
    """Return the GPU's name in lower case for a file name, ``cpu-only`` where there is none."""
    gpus, _ = read_gpus()
    names = [gpu.name for gpu in gpus] or list(cuda_driver().devices)
    return re.sub(r"[^a-z0-9]+", "-", names[0].lower()).strip("-") if names else "cpu-only"


def _run_step(step: Step, options: Options, left: float) -> dict[str, Any]:
    limit = min(step.limit_seconds, left)
    if limit < SHORTEST_SECONDS:
        why = f"{max(0.0, left):.0f} s are left of the check's {options.budget_seconds:.0f} s"
        return _result(step, "not run", why)
    path = options.work / f"{step.name}.json"
    path.unlink(missing_ok=True)
    log = options.work / f"{step.name}.log"
    start = time.monotonic()
    timed_out = False
    with log.open("wb") as stream:
        process = subprocess.Popen(
            _command(step, options, path, limit),
            stdout=stream,
            stderr=stream,
            env=child_environment(options.work),
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _stop(process)
    found = _read(path)
    status, why = found["status"], found["why"]
    if timed_out:
        status, why = "failed", f"stopped after {limit:.0f} s"
        if limit < step.limit_seconds:
            # The step is not at fault when earlier ones have used the time up.
            status, why = "not run", f"stopped after {limit:.0f} s, the end of the check's budget"
    elif status == "running":
        code = process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        status, why = "failed", f"its process ended with {how}"
    result = _result(step, status, why, time.monotonic() - start, found["facts"])
    if status == "failed":
        result["log"] = _tail(log, options)
    return result


def _command(step: Step, options: Options, path: Path, limit: float) -> list[str]:
    command = [sys.executable, "-m", "taemi_bench.gpu_steps", step.name]
    command += ["--work", str(options.work), "--result", str(path), "--seconds", f"{limit:.0f}"]
    if options.checkpoint is not None:
        command += ["--checkpoint", str(options.checkpoint)]
    if options.bundle is not None:
        command += ["--bundle", str(options.bundle)]
    return [*command, "--build-pycuda"] if options.build_pycuda else command


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a step that still runs and whatever it started; its own session is its process group."""
    if process.poll() is not None:
        return
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if number == signal.SIGKILL:
                return


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {"status": "running", "why": "", "facts": {}}
    return found if isinstance(found, dict) else {"status": "running", "why": "", "facts": {}}


def _result(
    step: Step, status: str, why: str, seconds: float = 0.0, facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "name": step.name,
        "what": step.what,
        "status": status,
        "why": why,
        "seconds": round(seconds, 2),
        "facts": facts or {},
    }


def _tail(log: Path, options: Options) -> list[str]:
    """Return the log's last lines with this machine's folders taken out: results are shared."""
    text = log.read_text(errors="replace").replace(str(options.work), "WORK")
    for folder in sorted(
        {*map(str, _package_folders()), sys.prefix, str(Path.home())}, key=len, reverse=True
    ):
        text = text.replace(folder, "...")
    return text.splitlines()[-_LOG_LINES:]


def _package_folders() -> list[Path]:
    return [
        Path(path).resolve().parent for package in (taemi_bench, taemi_runtime) for path in package.__path__
    ]


def _write(target: Path, options: Options, results: Sequence[dict[str, Any]], seconds: float) -> None:
    report = {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": host_slug(),
        "taemi": package_versions(["taemi"]).get("taemi", "not installed"),
        "seconds": round(seconds, 1),
        "budget_seconds": options.budget_seconds,
        "steps": list(results),
    }
    write_text(target, format_json(report))


def _print_line(result: dict[str, Any]) -> None:
    said = result["why"] or result["facts"].get("summary", "")
    why = f": {said}" if said else ""
    print(f"{result['status']:<8} {result['name']:<14} {result['seconds']:6.1f} s{why}", flush=True)


def parse_options(arguments: Sequence[str], work: Path) -> Options:
    """Read the command line.

    Args:
        arguments: What follows the program's name.
        work: Folder for what the steps make, unless ``--work`` names one.
    """
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="python -m taemi_bench.gpu_check", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the result file")
    parser.add_argument("--steps", help=f"only these, separated by commas: {', '.join(names)}")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds for everything")
    parser.add_argument("--work", type=Path, help="keep checkpoints and bundles (some gigabytes) there")
    parser.add_argument("--checkpoint", type=Path, help="use this one instead of making one")
    parser.add_argument("--bundle", type=Path, help="use this one instead of exporting one")
    parser.add_argument("--build-pycuda", action="store_true", help="build pycuda where it is missing")
    found = parser.parse_args(arguments)
    asked = found.steps.split(",") if found.steps else names
    unknown = [name for name in asked if name not in names]
    if unknown:
        parser.error(f"unknown steps {', '.join(unknown)}; there are {', '.join(names)}")
    for option, path in (("--checkpoint", found.checkpoint), ("--bundle", found.bundle)):
        if path is not None and not path.exists():
            parser.error(f"{option} {path} does not exist")
    if found.work is not None:
        found.work.mkdir(parents=True, exist_ok=True)
    return Options(
        out=found.out,
        work=(found.work or work).resolve(),
        steps=tuple(step for step in STEPS if step.name in asked),
        budget_seconds=found.budget,
        checkpoint=found.checkpoint.resolve() if found.checkpoint else None,
        bundle=found.bundle.resolve() if found.bundle else None,
        build_pycuda=found.build_pycuda,
    )


def main() -> None:
    """Parse the command line and run the check."""
    with tempfile.TemporaryDirectory(prefix="taemi-gpu-check-") as scratch:
        options = parse_options(sys.argv[1:], Path(scratch))
        sys.exit(run_check(options))


if __name__ == "__main__":
    main()
