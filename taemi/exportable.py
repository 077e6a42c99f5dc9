"""What a model family hands to exporter, verifier, checkpoint backend and benchmarks.

An [ExportSource][] is a checkpoint opened for everything but training: a few graphs, each with its
GraphSpec, the module to export and the reference that defines what is right. The consumers know
nothing else of a family; a family registers itself in the entry-point group ``taemi.families``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from taemi_runtime.attention import attention_outputs
from taemi_runtime.errors import CheckpointError, UsageError
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import torch

Reference = Callable[[Mapping[str, "torch.Tensor"]], dict[str, "torch.Tensor"]]


@dataclass(frozen=True)
class ExportGraph:
    """One graph of a model, ready to be exported, checked and timed.

    Args:
        spec: Its description.
        module: What is exported: float32, eval mode, ``forward`` takes the spec's inputs in order,
            under their names, and returns the outputs in order (a tensor when there is one).
        reference: The training model or the unmodified library class, never the export module where
            the two differ: inputs by name to outputs by name, under ``torch.inference_mode``.
        weights: The reference's parameters and buffers by name, which the exported graph must hold.
        trained: Whether its weights were trained at all; as the whole source when ``None``.
    """

    spec: GraphSpec
    module: torch.nn.Module
    reference: Reference
    weights: Mapping[str, torch.Tensor]
    trained: bool | None = None


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint, opened for export.

    Args:
        family: The family's registered name.
        graphs: Its graphs; the first is the one that gives the final scores.
        model: The model config as plain values.
        preprocessing: The preprocessing as plain values.
        trained: Whether the weights of the first graph were trained at all.
        files: Further files of the bundle by name, e.g. a tokenizer.
        checkpoint: The file that it came from.
    """

    family: str
    graphs: tuple[ExportGraph, ...]
    model: dict[str, Any]
    preprocessing: dict[str, Any]
    trained: bool
    files: dict[str, bytes] = field(default_factory=dict)
    checkpoint: Path | None = None

    def is_trained(self, graph: ExportGraph) -> bool:
        """Whether a graph's weights were trained at all."""
        return self.trained if graph.trained is None else graph.trained

    def graph(self, name: str) -> ExportGraph:
        """Return the graph called ``name``."""
        return next(graph for graph in self.graphs if graph.spec.name == name)


class Family(Protocol):
    """A model family: how its checkpoints become export sources.

    A family may also have ``open_first(checkpoint, path)``, which returns a source of the first graph
    alone, without reading, building or fetching what the others need. Both may take ``attention=True``,
    which gives the first graph its attention weights as further outputs, called ``NAME_attention``.
    """

    def open(self, checkpoint: Mapping[str, Any], path: Path) -> ExportSource:
        """Build the source from a loaded checkpoint.

        Raises:
            CheckpointError: The checkpoint does not hold what the family needs.
        """
        ...


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, no code is run.

    Raises:
        CheckpointError: The file is missing, no checkpoint, or holds pickled objects.
    """
    import torch

    asked = f"cannot read checkpoint {path}"
    if not path.is_file():
        raise CheckpointError(asked, "there is no such file", "Train one: taemi train DATA --out RUN")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            asked,
            f"torch.load(weights_only=True) refused it ({reason})",
            "Name a file that taemi train wrote",
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("family"), str):
        raise CheckpointError(
            asked, "it names no model family", "Name a file that taemi train or taemi init wrote"
        )
    return data


def open_source(path: Path, *, first_only: bool = False, attention: bool = False) -> ExportSource:
    """Open a checkpoint of any registered family for export.

    Args:
        path: The checkpoint.
        first_only: Whether only the first graph is needed, which gives the scores.
        attention: Whether the first graph gives its attention weights, too.

    Raises:
        CheckpointError: The file cannot be read, or its family is not installed.
        UsageError: The model has no attention weights.
    """
    data = read_checkpoint(path)
    registered = {entry.name: entry for entry in entry_points(group="taemi.families")}
    name = data["family"]
    if name not in registered:
        raise CheckpointError(
            f"cannot open checkpoint {path}",
            f"its model family is {name!r}, installed are {sorted(registered)}",
            "Install the package that provides this family",
        )
    family: Family = registered[name].load()()
    opener: Any = getattr(family, "open_first", family.open) if first_only else family.open
    options = {"attention": True} if attention else {}
    if not set(options) <= set(inspect.signature(opener).parameters):
        raise UsageError(
            f"cannot export the attention of {path}",
            f"models of the family {name!r} do not give it",
            "Leave --attention out",
        )
    source: ExportSource = opener(data, path, **options)
    return source


def has_attention(spec: GraphSpec) -> bool:
    """Return whether a graph gives attention weights, as one that was opened with ``attention`` does."""
    return bool(attention_outputs(spec))
