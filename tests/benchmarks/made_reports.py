"""Made-up reports: every figure here is invented, to see what outputs make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taemi_bench.machine import Machine, Noise
from taemi_bench.nvidia_smi import Gpu
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import DeviceSplit, Floor, Memory, RowReport
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import ScopeReport, SweepPoint, SweepReport, SweepRow
from taemi_bench.stats import Latency, ratio_per_round

QUIET = Noise(seconds=1.0, load_before=0.1, load_after=0.1, others_share=0.0, steal_share=0.0)
TORCH, ENGINE, SMALL = "PyTorch eager fp32", "Made-up engine fp32", "Made-up engine int8"


def machine(*gpus: str) -> Machine:
    return Machine(
        cpu="Made-up CPU",
        cores_online=4,
        cores_usable=2,
        memory_bytes=8 << 30,
        system="Linux 0.0",
        architecture="x86_64",
        python="3.11.0",
        packages={"torch": "0.0", "onnxruntime": "0.0"},
        gpus=tuple(
            Gpu(name=name, driver="0.0", cuda="0.0", memory_bytes=80 << 30, memory_used_bytes=0)
            for name in gpus
        ),
        gpu_note="" if gpus else "nvidia-smi not found",
    )


def latency(typical_ms: float, *, count: int = 60, seed: int = 0) -> Latency:
    drawn = np.random.default_rng(seed).lognormal(0, 0.03, count)
    found = Latency.from_values((typical_ms * drawn).tolist())
    assert found is not None
    return found


def row(
    scope: str,
    name: str,
    typical_ms: float,
    *,
    seed: int = 0,
    error: float = 0.0,
    device: str = "cpu",
    base_ms: float | None = None,
) -> RowReport:
    """A row that ran; ``base_ms`` is its baseline's typical latency."""
    measured = latency(typical_ms, seed=seed)
    base = latency(base_ms, seed=seed + 1) if base_ms else None
    return RowReport(
        scope=scope,
        name=name,
        backend="pytorch" if name.startswith("PyTorch") else "made-up",
        precision="int8" if "int8" in name else "fp32",
        device=device,
        state="ran",
        threads=2,
        load_ms=31.25,
        cold_ms=2 * typical_ms,
        latency_ms=measured,
        baseline=TORCH if base else "",
        times_faster=ratio_per_round(base.values, measured.values) if base else None,
        output="y",
        max_abs=error,
        mean_abs=error / 4,
        cosine=1.0,
        rho=1.0 - error,
        memory=Memory(host_bytes=150_000_000, engine_bytes=90_000_000, device_bytes=None),
        floor=Floor(floor_ms=typical_ms / 4, share=0.25, note="MatMul takes 80 % of the floor: look there"),
    )


def scope(name: str, kind: str = "graph", **sizes: int) -> ScopeReport:
    return ScopeReport(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        includes="one call of something made up",
        sizes=sizes or {"batch": 1},
        seed=20,
        inputs_sha256="0" * 64,
        rounds=60,
        seconds=3.0,
        stopped="done",
        noise=QUIET,
    )


def report(
    rows: Sequence[RowReport],
    *,
    scopes: Sequence[ScopeReport] = (),
    sweeps: Sequence[SweepReport] = (),
    gpus: Sequence[str] = (),
) -> Report:
    names = dict.fromkeys(item.scope for item in rows)
    return Report(
        bundle="made-up.taemi",
        family="toy",
        trained=False,
        source="made-up.pt",
        device="auto",
        threads=2,
        machine=machine(*gpus),
        schedule=Schedule(),
        scopes=tuple(scopes) or tuple(scope(name) for name in names),
        rows=tuple(rows),
        created="2026-01-01T00:00:00+00:00",
        sweeps=tuple(sweeps),
    )


def full_report() -> Report:
    """One with everything that a report can hold."""
    split = DeviceSplit(
        latency(0.4), latency(0.3), latency(2.0), latency(0.1), ("made-up: bound by enqueueing",)
    )
    on_gpu = RowReport(
        **{**vars(row("squares", f"{ENGINE}, CUDA", 2.5, device="cuda:0", error=1e-4)), "split": split}
    )
    stages = {
        "decode": 40.0,
        "resample": 3.0,
        "crop": 25.0,
        "encode": 90.0,
        "mix": 4.0,
        "tokens": 1.0,
        "score": 2.0,
    }
    of_file = [
        RowReport(**{**vars(row("file", name, 165.0, seed=place)), "stages_ms": stages})
        for place, name in enumerate((TORCH, ENGINE))
    ]
    failed = RowReport(
        **{
            **vars(row("squares", "Made-up engine fp16", 7.0, error=0.5)),
            "state": "failed",
            "why": "beyond its gate",
        }
    )
    missing = RowReport(
        "frames", "OpenVINO fp32", "openvino", "fp32", "cpu", "not run", why="pip install openvino[x]"
    )
    rows = [
        *(
            item
            for place, name in enumerate(("frames", "squares"))
            for item in (
                row(name, TORCH, 20.0 * (place + 1), seed=1),
                row(name, ENGINE, 9.5 * (place + 1), seed=2, error=8e-8, base_ms=20.0 * (place + 1)),
                row(name, SMALL, 4.8 * (place + 1), seed=3, error=3e-4, base_ms=20.0 * (place + 1)),
            )
        ),
        missing,
        failed,
        on_gpu,
        *of_file,
    ]
    return Report(
        **{
            **vars(
                report(
                    rows,
                    scopes=[
                        scope("frames", steps=12, batch=1),
                        scope("squares"),
                        scope("file", "file", frames=150),
                    ],
                    sweeps=[
                        batches(),
                        presence(),
                        limits(),
                        SweepReport("file", "callers", why="no clip was given"),
                    ],
                    gpus=["Made-up GPU"],
                )
            ),
            "ceilings": {
                "cpu": Ceilings(
                    "cpu", 2, {"fp32": 6e10, "int8": 2e11}, 2.1e10, {"fp32": "a made-up product"}
                ),
                "cuda:0": Ceilings("cuda:0", 0, {"fp16": 3e14}, 1.5e12, {"fp16": "a larger product"}),
            },
        }
    )


def batches() -> SweepReport:
    points = []
    for place, size in enumerate((1, 2, 4, 8, 16)):
        items = [
            SweepRow(name, latency(base * size**0.8, seed=place, count=60 if size < 16 else 1), size / base)
            for name, base in ((TORCH, 20.0), (ENGINE, 9.5), (SMALL, 4.8))
        ]
        points.append(SweepPoint(str(size), float(size), {"batch": size}, tuple(items), "done", QUIET))
    return SweepReport("frames", "batch", tuple(points))


def presence() -> SweepReport:
    points = [
        SweepPoint(
            label,
            None,
            {"batch": 1},
            (
                SweepRow(TORCH, latency(20.0, seed=place)),
                SweepRow(ENGINE, latency(9.0 + place, seed=place)),
                SweepRow(SMALL, why="made-up reason"),
            ),
            "done",
            QUIET,
        )
        for place, label in enumerate(("all there", "first input missing", "second input missing"))
    ]
    return SweepReport("squares", "presence", tuple(points))


def limits() -> SweepReport:
    points = [
        SweepPoint(
            f"{fps:g}", fps, {}, (SweepRow(ENGINE, latency(30.0 * fps), rho=0.3 + 0.05 * fps),), "done", QUIET
        )
        for fps in (0.5, 1.0, 2.0)
    ]
    return SweepReport("file", "max_fps", tuple(points), notes={"labels": "made-up labels of 8 clips"})
