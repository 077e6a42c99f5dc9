"""TAEMI as a model family: how its checkpoints become graphs for export, checking and timing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taemi.checkpoint import FAMILY, system_from_data
from taemi.encoder_graphs import audio_graph, text_graph, vision_graph
from taemi.exportable import ExportSource
from taemi.fusion_graph import fusion_graph
from taemi_runtime.strict import to_plain


class TaemiFamily:
    """Registered in the entry-point group ``taemi.families``."""

    def open(self, checkpoint: Mapping[str, Any], path: Path) -> ExportSource:
        """Build the four graphs of a checkpoint: fusion first, then the encoders.

        Raises:
            CheckpointError: The checkpoint does not hold a TAEMI system.
        """
        system, progress = system_from_data(checkpoint, path)
        tokenizer = system.preprocessing.text.tokenizer
        return ExportSource(
            family=FAMILY,
            graphs=(
                fusion_graph(system.fusion),
                audio_graph(system.audio_encoder, system.preprocessing.audio),
                text_graph(
                    system.text_encoder,
                    with_tokens=system.config.text_is_sequence,
                    preprocessing=system.preprocessing.text,
                ),
                vision_graph(system.vision_encoder),
            ),
            model=system.config.to_plain(),
            preprocessing=to_plain(system.preprocessing),
            trained=progress.trained,
            files={tokenizer: system.text_encoder.tokenizer_json.encode()},
            checkpoint=path,
        )
