"""From a clip that was read to what its file holds; the same on one machine and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taemi.corpus import ClipRow
from taemi.extract.decoding import ReadClip
from taemi.extract.encoders import FeatureEncoders
from taemi.extract.transcripts import Transcriber
from taemi.store.layout import ClipFacts
from taemi_runtime.errors import DataError, TaemiError
from taemi_runtime.input_checks import HALF_MAX
from taemi_runtime.results import ClipFailure


@dataclass
class Made:
    """What became of a clip.

    Args:
        row: The clip.
        arrays: What its file holds, as in ``ClipFeatures``.
        facts: What its file says.
        error: Why there is nothing; empty where there is.
    """

    row: ClipRow
    arrays: dict[str, npt.NDArray[Any]]
    facts: ClipFacts
    error: str = ""


class ClipMaker:
    """Encodes clips; those whose frames wait for a batch to be full come out later.

    Args:
        encoders: The encoders, opened.
        transcriber: What finds transcripts.
    """

    def __init__(self, encoders: FeatureEncoders, transcriber: Transcriber) -> None:
        self._encoders = encoders
        self._transcriber = transcriber
        self._frames = encoders.frame_batches()

    def take(self, row: ClipRow, clip: ReadClip) -> Iterator[Made]:
        """Take a clip; nothing of its arrays is needed once this has come to its end.

        Yields:
            The clips that are done, in whatever order.

        Raises:
            DataError: Ready-made features are not as wide as the encoder's.
            DeviceError: The device's memory is too small.
        """
        try:
            transcript = self._transcriber.transcribe(row)
            facts = ClipFacts(
                clip.stamps,
                clip.sha256,
                transcript.text or "",
                transcript.source,
                transcript.why,
                self._transcriber.asr_of(row),
                clip.remarks,
            )
            made = Made(row, self._heard_and_said(clip, facts.transcript), facts)
        except TaemiError as error:
            yield Made(row, {}, ClipFacts({}, {}), ClipFailure.from_error(row.name, error).error)
            return
        if clip.features is not None:
            yield self._finish(made, self._check_width(row, clip.features))
        elif clip.frames is not None:
            for done, values in self._frames.add(made, clip.frames):
                yield self._finish(done, values)
        else:
            yield made

    def rest(self) -> Iterator[Made]:
        """Yield the clips that wait.

        Raises:
            DeviceError: The device's memory is too small.
        """
        for made, values in self._frames.flush():
            yield self._finish(made, values)

    def _heard_and_said(self, clip: ReadClip, transcript: str) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {}
        if clip.waveform is not None:
            # A copy: the memory that it lies in is used again.
            arrays["waveform"] = np.array(clip.waveform)
            if self._encoders.audio is not None:
                arrays["audio"] = _half("audio", self._encoders.encode_sound(arrays["waveform"]))
        if transcript and self._encoders.text is not None:
            for name, values in self._encoders.encode_words(transcript).items():
                arrays[name] = _half(name, values)
        return arrays

    def _finish(self, made: Made, vision: npt.NDArray[np.float32]) -> Made:
        try:
            made.arrays["vision"] = _half("vision", vision)
        except DataError as error:
            made.error = str(error)
        return made

    def _check_width(self, row: ClipRow, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        width = self._encoders.vision.dim
        if features.shape[1] != width:
            raise DataError(
                f"cannot train on the features {row.pictures}",
                f"they are {features.shape[1]} wide, the vision encoder's {width}",
                "Name the encoder that made them with --vision-encoder, or let it look at pictures: "
                "--vision-from raw",
            )
        return features


def _half(name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    largest = float(np.abs(values).max())
    # Written so that a NaN is refused, too.
    if not largest <= HALF_MAX:
        raise DataError(
            f"cannot keep the {name} features",
            f"they reach {largest:g}, half precision ends at {HALF_MAX:g}",
            "Check the encoder's weights",
        )
    return values.astype(np.float16)
