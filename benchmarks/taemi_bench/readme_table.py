"""The tables of README and docs/benchmarks.md that are made of the committed result files and nothing else.

``python -m taemi_bench.readme_table`` in a checkout rewrites them between their markers. A GPU has figures
only where a result file of that very model is there: its name stands in the report, and figures of another
GPU never stand in for it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taemi.sheets import Sheet, format_markdown
from taemi_bench.report import KIND, Report, read_report
from taemi_bench.row_report import RowReport
from taemi_bench.tables import COST_COLUMNS, LATENCY_COLUMNS, cells, cost_cells, filled, typical_ms
from taemi_runtime.atomic import write_text
from taemi_runtime.errors import DataError

RESULTS = Path("benchmarks/results")
CPU_RESULT = "cpu-published.json"
GPUS = ("A100", "A800")
GPU_COMMAND = "make bench-gpu"
NOT_RUN = "not run"
_FIGURES = ("p50", "p95", "cold", "times faster")
_COSTS = ("largest difference", "rho", "host memory", "device memory", "share of floor")


@dataclass(frozen=True)
class Library:
    """A library whose tested version the docs name.

    Args:
        title: What a reader calls it.
        package: Its name in constraints.txt and among a report's packages.
        backend: The backend that runs it; its rows say that it ran.
        on_gpu: Whether only a row on a GPU counts.
    """

    title: str
    package: str
    backend: str
    on_gpu: bool = False


LIBRARIES = (
    Library("PyTorch, CPU", "torch", "pytorch"),
    Library("ONNX Runtime, CPU", "onnxruntime", "onnxruntime-cpu"),
    Library("OpenVINO, CPU", "openvino", "openvino"),
    Library("PyTorch, CUDA", "torch", "pytorch", on_gpu=True),
    Library("ONNX Runtime, CUDA", "onnxruntime-gpu", "onnxruntime-cuda", on_gpu=True),
    Library("TensorRT", "tensorrt", "tensorrt", on_gpu=True),
)


def figures(results: Path) -> str:
    """Return README's table: the CPU, then each GPU that figures are wanted of."""
    report = read_report(results / CPU_RESULT)
    scopes = {scope.name for scope in report.scopes if scope.kind != "graph on the device"}
    rows = [row for row in report.rows if row.device == "cpu" and row.scope in scopes and row.state == "ran"]
    where = f"{report.machine.cpu}, {report.threads} threads"
    found = [_sheet(where, [("", row) for row in rows])]
    on_gpus = [(gpu, row) for gpu in GPUS for row in gpu_rows(results, gpu)]
    if on_gpus:
        found.append(_sheet("GPUs", on_gpus))
    missing = [gpu for gpu in GPUS if not gpu_rows(results, gpu)]
    waiting = tuple((gpu, NOT_RUN, f"`{GPU_COMMAND}` on one") for gpu in missing)
    if waiting:
        header = ("GPU", "figures", "the one command that fills them")
        found.append(Sheet("GPUs without figures", header, waiting, names=3))
    return "\n\n".join(_table_of(sheet) for sheet in found)


def versions(results: Path, constraints: str) -> str:
    """Return the table of versions that were really tested.

    Args:
        results: The folder of result files.
        constraints: What constraints.txt says.
    """
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", constraints, re.MULTILINE))
    reports = list(_reports(results))
    lines = [(library.title, _pin(pins, library), *_measured(reports, library)) for library in LIBRARIES]
    lines.append(_rtx(results, pins))
    gpus = [
        (gpu, name) for name, report in reports for gpu in report.machine.gpus if _ran_on(report, gpu.name)
    ]
    for title, part in (("CUDA, newest that the driver takes", "cuda"), ("NVIDIA driver", "driver")):
        found = "; ".join(dict.fromkeys(f"{getattr(gpu, part)} ({gpu.name}, {name})" for gpu, name in gpus))
        lines.append((title, "-", found or NOT_RUN, "measured" if found else NOT_RUN))
    header = ("library", "constraints.txt", "version in the result file", "state")
    return _table_of(Sheet("", header, tuple(lines), names=4))


def gpu_rows(results: Path, model: str) -> list[RowReport]:
    """Return the rows that ran on a GPU of a model, of the newest report that has any.

    Args:
        results: The folder of result files.
        model: A word of the GPU's name, e.g. ``A100``; ``NVIDIA A100-SXM4-80GB`` is one, ``A1000`` is none.
    """
    found: dict[str, list[RowReport]] = {}
    for _, report in _reports(results):
        rows = [row for row in report.rows if re.search(rf"\b{model}\b", _gpu_of(report, row))]
        if rows:
            found[report.created] = rows
    return found[max(found)] if found else []


def replace_table(text: str, name: str, table: str) -> str:
    """Return a page with the table between a pair of markers replaced.

    Args:
        text: The page.
        name: The markers' name.
        table: What comes between them.

    Raises:
        DataError: The page has no such markers, or several.
    """
    start, end = f"<!-- {name}: made by make readme-table -->", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise DataError(
            f"cannot replace the table {name}",
            "its markers are not there once each",
            f"Restore {start} and {end}",
        )
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def pages(root: Path) -> dict[Path, str]:
    """Return what the pages of a checkout should say, by path."""
    results = root / RESULTS
    readme, guide = root / "README.md", root / "docs" / "benchmarks.md"
    tested = versions(results, (root / "constraints.txt").read_text())
    return {
        readme: replace_table(readme.read_text(), "figures", figures(results)),
        guide: replace_table(guide.read_text(), "versions", tested),
    }


def _reports(results: Path) -> Iterator[tuple[str, Report]]:
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and found.get("kind") == KIND:
            yield path.name, read_report(path)


def _gpu_of(report: Report, row: RowReport) -> str:
    """Return the name of the GPU that a row ran on; empty where it ran on none."""
    kind, _, index = row.device.partition(":")
    place = int(index or 0)
    gpus = report.machine.gpus
    return gpus[place].name if row.state == "ran" and kind == "cuda" and place < len(gpus) else ""


def _ran_on(report: Report, gpu: str) -> bool:
    return any(_gpu_of(report, row) == gpu for row in report.rows)


def _pin(pins: Mapping[str, str], library: Library) -> str:
    # A CPU wheel and a CUDA wheel of one version are two programs.
    return pins.get(library.package, "not pinned") if not library.on_gpu else "-"


def _measured(reports: Sequence[tuple[str, Report]], library: Library) -> tuple[str, str]:
    found = [
        f"{report.machine.packages.get(library.package, 'unknown')} ({name})"
        for name, report in reports
        if any(
            row.backend == library.backend and row.state == "ran" and (row.device != "cpu") == library.on_gpu
            for row in report.rows
        )
    ]
    return ("; ".join(found), "measured") if found else (NOT_RUN, NOT_RUN)


def _rtx(results: Path, pins: Mapping[str, str]) -> tuple[str, str, str, str]:
    """Say what the GPU check made of TensorRT for RTX, which builds plans on machines without a GPU."""
    found, states = [], []
    for path in sorted(results.glob("gpu-check-*.json")):
        for step in json.loads(path.read_bytes()).get("steps", []):
            if step.get("name") == "tensorrt-rtx" and step.get("status") == "ok":
                facts = step["facts"]
                found.append(f"{facts['library'].split()[-1]} ({path.name})")
                states.append(facts["summary"].partition(":")[0])
    pin = pins.get("tensorrt-rtx", pins.get("tensorrt_rtx", "not pinned"))
    return "TensorRT for RTX", pin, "; ".join(found) or NOT_RUN, "; ".join(dict.fromkeys(states)) or NOT_RUN


def _sheet(where: str, rows: Sequence[tuple[str, RowReport]]) -> Sheet:
    header, costs = ("scope", "row", *_FIGURES), _COSTS
    lines = []
    for gpu, row in rows:
        latency = dict(zip(LATENCY_COLUMNS, cells(row), strict=True)) | {"p50": typical_ms(row.latency_ms)}
        cost = dict(zip(COST_COLUMNS, cost_cells(row), strict=True))
        line = (*(latency[name] for name in header), *(cost[name] for name in costs))
        lines.append((gpu, *line) if gpu else line)
    first = ("GPU",) if any(gpu for gpu, _ in rows) else ()
    return filled(Sheet(where, (*first, *header, *costs), tuple(lines), names=2 + len(first)))


def _table_of(sheet: Sheet) -> str:
    """Return a table without its heading."""
    return format_markdown([sheet]).partition("\n\n")[2].strip()


def main() -> None:
    """Rewrite the tables of a checkout."""
    parser = argparse.ArgumentParser(
        prog="python -m taemi_bench.readme_table", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout; default: this folder")
    for path, text in pages(parser.parse_args().root).items():
        if path.read_text() != text:
            write_text(path, text)
            print(f"written: {path}")


if __name__ == "__main__":
    main()
