"""The encoders for windows: frames apart from the rest, and nothing twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from taemi_runtime.encoding import ClipEncoder
from taemi_runtime.resident import Given
from taemi_runtime.results import TextUse, VisionUse
from taemi_runtime.transcripts import Transcript


class WindowEncoder(ClipEncoder):
    """Runs a model's encoders for overlapping windows.

    Frames are encoded by themselves and fed again to every window that they lie in. The last transcript's
    features are kept, as neighbouring windows often have the same. Sound is encoded anew for each window: it
    is normalised over the window, so that not even the encoder's first convolution sees the same numbers.
    Features are kept on the host, where windows are cut out of them.
    """

    _last_text: tuple[Transcript, dict[str, Given], TextUse] | None = None

    def seen(
        self, features: npt.NDArray[np.float32] | None, use: VisionUse, feeds: dict[str, Given]
    ) -> VisionUse:
        """Add ``vision`` and ``vision_mask`` of encoded frames; a missing one is a frame of zeros."""
        if features is None:
            self._feed_sequence("vision", "vision_mask", None, None, feeds)
            return use
        mask = np.ones((1, len(features)), dtype=bool)
        self._feed_sequence("vision", "vision_mask", features[None], mask, feeds)
        return use

    def text(self, said: Transcript, feeds: dict[str, Given]) -> TextUse:
        """Add the text's features, those of the last call where the transcript is the same."""
        if self._last_text is None or self._last_text[0] != said:
            found: dict[str, Given] = {}
            self._last_text = (said, found, super().text(said, found))
        feeds.update(self._last_text[1])
        return self._last_text[2]
