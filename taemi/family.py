"""TAEMI as a model family: how its checkpoints become graphs for export, checking and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taemi.checkpoint import FAMILY, fusion_from_data, system_from_data
from taemi.encoder_graphs import audio_graph, text_graph, vision_graph
from taemi.exportable import ExportGraph, ExportSource
from taemi.fusion_graph import attended, fusion_graph
from taemi.model import Taemi
from taemi_runtime.errors import UsageError
from taemi_runtime.strict import to_plain


class TaemiFamily:
    """Registered in the entry-point group ``taemi.families``."""

    def open(self, checkpoint: Mapping[str, Any], path: Path, *, attention: bool = False) -> ExportSource:
        """Build the four graphs of a checkpoint: fusion first, then the encoders.

        Args:
            checkpoint: Its content.
            path: The file.
            attention: Whether the fusion graph gives its attention weights, too.

        Raises:
            CheckpointError: The checkpoint does not hold a TAEMI system.
            UsageError: The variant has no attention weights.
        """
        system, progress = system_from_data(checkpoint, path)
        # Audio and text encoders are fine-tuned with the network, vision stays as it came.
        fine_tuned = progress.trained
        encoders = (
            (
                audio_graph(system.audio_encoder, system.preprocessing.audio),
                fine_tuned or not system.audio_encoder.description.random_weights,
            ),
            (
                text_graph(
                    system.text_encoder,
                    with_tokens=system.config.text_is_sequence,
                    preprocessing=system.preprocessing.text,
                ),
                fine_tuned or not system.text_encoder.description.random_weights,
            ),
            (vision_graph(system.vision_encoder), not system.vision_encoder.description.random_weights),
        )
        return ExportSource(
            family=FAMILY,
            graphs=(
                _fusion(system.fusion, path, attention=attention),
                *(replace(graph, trained=trained) for graph, trained in encoders),
            ),
            model=system.config.to_plain(),
            preprocessing=to_plain(system.preprocessing),
            trained=progress.trained,
            files={system.preprocessing.text.tokenizer: system.text_encoder.tokenizer_json.encode()},
            checkpoint=path,
        )

    def open_first(
        self, checkpoint: Mapping[str, Any], path: Path, *, attention: bool = False
    ) -> ExportSource:
        """Build the fusion graph alone: encoders may be ids that nothing here can reach.

        Args:
            checkpoint: Its content.
            path: The file.
            attention: Whether the fusion graph gives its attention weights, too.

        Raises:
            CheckpointError: The checkpoint does not hold a TAEMI system.
            UsageError: The variant has no attention weights.
        """
        part = fusion_from_data(checkpoint, path)
        tokenizer = {part.preprocessing.text.tokenizer: part.tokenizer.encode()} if part.tokenizer else {}
        return ExportSource(
            family=FAMILY,
            graphs=(_fusion(part.model, path, attention=attention),),
            model=part.model.config.to_plain(),
            preprocessing=to_plain(part.preprocessing),
            trained=part.progress.trained,
            files=tokenizer,
            checkpoint=path,
        )


def _fusion(model: Taemi, path: Path, *, attention: bool) -> ExportGraph:
    if attention and not attended(model.config):
        raise UsageError(
            f"cannot export the attention of {path}",
            f"its variant pools by {model.config.pooling!r} and attends to nothing over time",
            "Leave --attention out",
        )
    return fusion_graph(model, attention=attention)
