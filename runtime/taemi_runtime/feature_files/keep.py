"""Keeping what the encoders give of every clip that is scored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from taemi_runtime.clip_features import ClipFeatures
from taemi_runtime.contract import FUSION, MODALITIES, text_input
from taemi_runtime.errors import DataError, TaemiError, WriteError
from taemi_runtime.feature_files.layout import AUDIO, VISION, FeatureFacts
from taemi_runtime.feature_files.origin import origin_of, with_precisions
from taemi_runtime.feature_files.store import FeatureStoreWriter
from taemi_runtime.manifest import file_sha256
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.remarks import tell_several
from taemi_runtime.spec import Array
from taemi_runtime.strict import to_plain


class FeatureKeeper:
    """Writes the features of clips into a store as they are scored.

    Scores do not wait for a disk that is full: the first such error is kept in ``error``, and what was
    scored is still a result.

    Args:
        scorer: What encodes the clips.
        folder: The store.

    Raises:
        DataError: The folder is no store, or one of other encoders or preprocessing.
        TaemiError: An encoder cannot be opened.
    """

    def __init__(self, scorer: ClipScorer, folder: Path) -> None:
        model = scorer.model
        self._text = text_input(model.manifest.graphs[FUSION], model.path)
        origin = with_precisions(origin_of(model), model)
        self._writer = FeatureStoreWriter(folder, origin, to_plain(scorer.preprocessing))
        self.error: TaemiError | None = None
        self._writing = threading.Lock()

    def keep(self, features: ClipFeatures) -> tuple[str, ...]:
        """Write a clip's features.

        Args:
            features: What the encoders gave, all of it on the host.

        Returns:
            Why they were not kept, as a warning for the clip's result; none where they were.
        """
        if self.error is not None:
            return (f"its features were not kept: {self.error.found or self.error}",)
        clip = features.clip
        try:
            facts = FeatureFacts(
                clip=clip.path.name,
                clip_seconds=clip.seconds,
                clip_sha256=file_sha256(clip.path),
                audio=features.audio,
                vision=features.vision,
                text=features.text,
                warnings=clip.warnings + tell_several(clip.faces) + features.warnings,
            )
            with self._writing:
                self._writer.add(clip.path.stem, self._arrays(features), facts)
        except DataError as error:
            return (f"its features were not kept: {error.found}",)
        except (OSError, WriteError) as error:
            self.error = (
                error
                if isinstance(error, TaemiError)
                else WriteError(f"cannot keep features in {self._writer.folder}", str(error))
            )
            return (f"its features were not kept: {error}",)
        return ()

    def _arrays(self, features: ClipFeatures) -> dict[str, Array]:
        """Return the valid positions of every modality that is present."""
        found: dict[str, Array] = {}
        present = dict(
            zip(
                MODALITIES,
                (features.audio.present, features.vision.present, features.text.present),
                strict=True,
            )
        )
        for modality, name, mask in (
            (AUDIO, AUDIO, "audio_mask"),
            (VISION, VISION, "vision_mask"),
            ("text", self._text, "text_mask"),
        ):
            if present[modality]:
                values = features.inputs[name][0]
                found[name] = values[features.inputs[mask][0]] if mask in features.inputs else values
        return found

    def close(self) -> None:
        """Write the store's index."""
        self._writer.flush()


@contextlib.contextmanager
def keeping(scorer: ClipScorer, folder: Path | None) -> Iterator[None]:
    """Keep the features of every clip that ``scorer`` scores within the block.

    Args:
        scorer: The scorer.
        folder: The store; nothing is kept where there is none.

    Raises:
        TaemiError: The store cannot be opened, or, at the end, something could not be written.
    """
    if folder is None:
        yield
        return
    keeper = FeatureKeeper(scorer, folder)
    scorer.keep = keeper.keep
    try:
        yield
    finally:
        scorer.keep = None
        # What was written stays, whatever ended the block.
        with contextlib.suppress(WriteError) if keeper.error is not None else contextlib.nullcontext():
            keeper.close()
    if keeper.error is not None:
        raise keeper.error
