"""Whole models side by side: PyTorch from the checkpoint, and every precision of the bundle.

A chain is one model, opened once; each scope makes rows of it that call it on something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from taemi_bench.engine_rows import engine_backends, title
from taemi_bench.pytorch_rows import EAGER
from taemi_bench.rows import PYTORCH, Row, Way
from taemi_bench.scopes import SCORES
from taemi_bench.setting import Setting
from taemi_bench.timer import describe_failure
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import DeviceError, MissingExtraError, TaemiError
from taemi_runtime.spec import Array
from taemi_runtime.whole_way import Scored, WholeModel, why_not_whole


@dataclass
class Chain:
    """One model.

    Args:
        row: What its rows have in common; ``why`` says why it cannot run here.
        model: The model, opened; ``None`` where it cannot run.
        path: What was opened.
    """

    row: Row
    model: WholeModel | None = None
    path: Path | None = None

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.row.backend == PYTORCH and self.row.device == "cpu"

    def row_of(self, scope: str, run: Callable[[WholeModel], Any]) -> Row:
        """Return its row in a scope; the row closes nothing.

        Args:
            scope: The scope.
            run: One call.
        """
        model = self.model
        if model is None:
            return replace(self.row, scope=scope)
        return replace(self.row, scope=scope, run=lambda: run(model), to_arrays=scores_of)


def scores_of(found: Sequence[Scored] | Scored) -> dict[str, Array]:
    """Return the scores of calls, [clips, outputs]."""
    some = [found] if isinstance(found, Scored) else found
    return {SCORES: np.stack([one.scores for one in some])}


def reference_of(chains: Sequence[Chain]) -> Chain | None:
    """Return what the others are compared with, where it runs."""
    return next((chain for chain in chains if chain.is_reference and chain.model is not None), None)


def running(chains: Sequence[Chain]) -> list[Chain]:
    """Return those that run here; the others have said why not."""
    return [chain for chain in chains if chain.model is not None]


@contextmanager
def open_chains(setting: Setting, prepare: Callable[[WholeModel], Any]) -> Iterator[list[Chain]]:
    """Open PyTorch, and each engine of the first graph with what belongs to it, on every device.

    Args:
        setting: What is measured.
        prepare: Opens what will be called, as part of the loading time.

    Yields:
        The chains, PyTorch's first on each device; they are closed with the block.
    """
    chains: list[Chain] = []
    try:
        for row, path in planned_rows(setting):
            row.why = row.why or setting.choice.why_not(Way(row))
            chain = Chain(row)
            chains.append(chain)
            if not row.why:
                _open(chain, path, EngineOptions(row.device, setting.threads), prepare)
        yield chains
    finally:
        for chain in chains:
            if chain.model is not None:
                chain.model.close()


def planned_rows(setting: Setting) -> Iterator[tuple[Row, Callable[[], Path]]]:
    """Yield each row of a whole model, not opened, with what gives its file."""
    bundle, first = setting.bundle, setting.first.name
    everywhere = why_not_whole(bundle.manifest, bundle.folder)
    checkpoint = setting.source.checkpoint if setting.source is not None else None
    note = setting.note if setting.source is None else "the checkpoint's file is not known"
    names: set[str] = set()
    for device in setting.devices:
        mark = ", CUDA" if device != "cpu" else ""
        why = everywhere or ("" if checkpoint is not None else note)
        row = Row(EAGER + mark, PYTORCH, "fp32", "", device, why=why, threads=_threads(device, setting))
        yield row, lambda: checkpoint or Path()
        for file, entry in bundle.engine_files(first):
            backends = engine_backends(file, device)
            if not backends:
                continue
            precision = entry.precision or "fp32"
            name = f"{title(backends[0])} {precision}"
            name = f"{name}, {file}" if name in names else name
            names.add(name)
            row = Row(name, backends[0], precision, "", device, file=file, why=everywhere)
            yield row, lambda file=file: bundle.file(file)  # type: ignore[misc]


def _threads(device: str, setting: Setting) -> int:
    return setting.threads if device == "cpu" else 0


def _open(
    chain: Chain,
    path: Callable[[], Path],
    options: EngineOptions,
    prepare: Callable[[WholeModel], Any],
) -> None:
    row = chain.row
    start = time.perf_counter()
    model: WholeModel | None = None
    try:
        chain.path = path()
        model = WholeModel(chain.path, options=options)
        prepare(model)
        info = model.open_first().info
    except TaemiError as error:
        row.why = describe_failure(error)
        row.failed = not isinstance(error, MissingExtraError | DeviceError)
        if model is not None:
            model.close()
        return
    if row.backend != PYTORCH:  # its weights were read long before
        row.load_ms = (time.perf_counter() - start) * 1e3
    chain.model = model
    row.threads = info.threads if row.device == "cpu" else 0
    row.versions = dict(info.versions)
