"""PyTorch as an engine: lets the runtime score clips straight from a checkpoint.

The runtime finds this class through the entry-point group ``taemi_runtime.backends``; it runs the
references of the export source, i.e. the training model and the unmodified encoder classes.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, ClassVar

from taemi_runtime.engine import Backend, Engine, EngineInfo, EngineOptions, Probe
from taemi_runtime.errors import DeviceError, EngineError, MissingExtraError
from taemi_runtime.manifest import Manifest
from taemi_runtime.spec import Arrays, GraphSpec

_INSTALL = 'pip install "taemi[train]"'


class CheckpointBackend(Backend):
    """Runs the graphs of a checkpoint with PyTorch in float32."""

    name: ClassVar[str] = "checkpoint"
    suffixes: ClassVar[tuple[str, ...]] = (".pt",)
    extra: ClassVar[str] = "train"

    @classmethod
    def probe(cls) -> Probe:
        """Say whether torch and transformers are installed."""
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                return Probe(False, f"{package} is not installed", _INSTALL)
        from importlib.metadata import version

        return Probe(True, f"torch {version('torch')}, transformers {version('transformers')}")

    @classmethod
    def describe(cls, path: Path) -> tuple[Manifest, dict[str, bytes]]:
        """Return what a bundle's manifest would say of the checkpoint, and its further files.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            CheckpointError: The file cannot be read.
        """
        source = open_shared(path)
        manifest = Manifest(
            family=source.family,
            graphs={graph.spec.name: graph.spec for graph in source.graphs},
            files={},
            model=source.model,
            preprocessing=source.preprocessing,
            trained=source.trained,
        )
        return manifest, dict(source.files)

    @classmethod
    def open(cls, path: Path, spec: GraphSpec, options: EngineOptions, **facts: Any) -> Engine:
        """Open the graph called ``spec.name``; see ``Backend.open``."""
        del facts
        import torch

        source = open_shared(path)
        device = _device(options.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        info = EngineInfo(
            path=str(path),
            backend=cls.name,
            precision="fp32",
            device=device,
            versions={"torch": str(torch.__version__)},
            limits={symbol.name: symbol.maximum for symbol in spec.symbols if symbol.maximum is not None},
            threads=torch.get_num_threads(),
        )
        return _TorchEngine(source.graph(spec.name), info)


class _TorchEngine(Engine):
    def __init__(self, graph: Any, info: EngineInfo) -> None:
        super().__init__(graph.spec, info)
        self._reference = graph.reference

    def _run(self, inputs: Arrays) -> dict[str, Any]:
        import torch

        try:
            tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
            outputs = self._reference(tensors)
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed on graph {self.spec.name!r}", str(error)) from error
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}


def _device(asked: str) -> str:
    # The references stay on the CPU: this backend is the yardstick, not the fast path.
    if asked in ("auto", "cpu"):
        return "cpu"
    raise DeviceError(
        f"cannot run a checkpoint on {asked}",
        "the checkpoint backend runs on the CPU only",
        "Export it (taemi-export onnx CKPT) and run the bundle, or use --device cpu",
    )


def open_shared(path: Path) -> Any:
    """Open a checkpoint as ``open_source`` does, or return it as it was opened last.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        CheckpointError: The file cannot be read.
    """
    if not (probe := CheckpointBackend.probe()).usable:
        raise MissingExtraError(f"cannot run checkpoint {path}", probe.detail, probe.fix)
    stat = path.stat() if path.exists() else None
    return _open_once(path.resolve(), stat.st_mtime_ns if stat else 0, stat.st_size if stat else 0)


@functools.lru_cache(maxsize=1)
def _open_once(path: Path, modified_ns: int, size: int) -> Any:
    # The four graphs of one model are opened one after another; reading the file once is enough.
    del modified_ns, size
    from taemi.exportable import open_source

    return open_source(path)
