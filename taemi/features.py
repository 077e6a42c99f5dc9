"""The feature store: what training reads instead of decoding and encoding the same clip every epoch.

A folder with one safetensors file a clip (vision features in float16, the waveform at the encoder's
rate in float32) and an index that says which encoder and which preprocessing made them. A store made
with others is refused, never mixed. Every file is written atomically, so that an interrupted
extraction goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from taemi.clip_content import Content, read_content
from taemi.corpus import RAW, ClipRow
from taemi.encoders import VisionEncoder
from taemi_runtime.atomic import atomic_file, write_text
from taemi_runtime.errors import DataError, MediaError
from taemi_runtime.faces.choice import open_detector
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.strict import to_plain

INDEX_NAME = "index.json"
_FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class ClipFeatures:
    """What a store holds of one clip.

    Args:
        waveform: [samples] float32, mono, not normalised; ``None`` without an audio track.
        vision: [frames, vision_dim] float16; ``None`` without a frame.
        audio: [frames, audio_dim] float16, what the audio encoder made of the waveform; ``None`` where that
            was not kept.
        text: [text_dim] float16, the text encoder's vector; ``None`` where that was not kept.
        text_tokens: [tokens, text_dim] float16, its token vectors; ``None`` where those were not kept.
    """

    waveform: npt.NDArray[np.float32] | None
    vision: npt.NDArray[np.float16] | None
    audio: npt.NDArray[np.float16] | None = None
    text: npt.NDArray[np.float16] | None = None
    text_tokens: npt.NDArray[np.float16] | None = None


class FeatureStore:
    """A folder of features.

    Args:
        folder: Where it is; created by the first extraction.
        encoder: The vision encoder.
        preprocessing: What turns a clip into the encoder's input.
        faces: The YuNet file that ``preprocessing`` names by its digest; ``None`` where it names none.
    """

    def __init__(
        self, folder: Path, encoder: VisionEncoder, preprocessing: Preprocessing, faces: str | None = None
    ) -> None:
        self.folder = folder
        self._faces = faces
        self.encoder = encoder
        self.preprocessing = preprocessing
        self._detector: FaceDetector | None = None

    def extract(
        self,
        rows: Iterable[ClipRow],
        progress: Callable[[int, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> dict[str, str]:
        """Extract what is not there yet.

        Args:
            rows: The clips.
            progress: Called with (done, total) after each clip.
            warn: Called with a sentence for each part of a clip that could not be read though the rest was.

        Returns:
            The reason for each clip that could not be read, by name.

        Raises:
            DataError: The store was made with another encoder or other preprocessing, or ready-made vision
                features are not as wide as the encoder's.
            BundleError: ``preprocessing`` names a detector's file, and none is given.
            MissingExtraError: Faces are to be cut out and OpenCV is missing.
        """
        rows = list(rows)
        self._open_index(rows[0].vision if rows else RAW)
        self._detector = open_detector(self.preprocessing.vision.faces, self._faces)
        failures: dict[str, str] = {}
        for done, row in enumerate(rows, 1):
            if not self._path(row.name).exists():
                try:
                    remarks = self._extract_clip(row)
                except MediaError as error:
                    failures[row.name] = str(error)
                    remarks = ()
                if warn is not None:
                    for remark in remarks:
                        warn(f"clip {row.name}: {remark}")
            if progress is not None:
                progress(done, len(rows))
        return failures

    def read(self, name: str) -> ClipFeatures:
        """Read one clip's features."""
        arrays = load_file(self._path(name))
        return ClipFeatures(*(arrays.get(field.name) for field in fields(ClipFeatures)))

    def lengths(self, name: str) -> dict[str, int]:
        """Return how long each of one clip's features is; only the file's header is read."""
        with safe_open(self._path(name), framework="numpy") as file:
            return {key: file.get_slice(key).get_shape()[0] for key in file.keys()}  # noqa: SIM118

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _extract_clip(self, row: ClipRow) -> tuple[str, ...]:
        content = read_content(row, self.preprocessing, self._detector)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if content.waveform is not None:
            arrays["waveform"] = content.waveform
        if (vision := self._vision(row, content)) is not None:
            arrays["vision"] = vision.astype(np.float16)
        with atomic_file(self._path(row.name)) as part:
            save_file(arrays, part)
        return content.remarks

    def _vision(self, row: ClipRow, content: Content) -> npt.NDArray[np.float32] | None:
        if content.features is not None and content.features.shape[1] != self.encoder.dim:
            raise DataError(
                f"cannot train on the features {row.pictures}",
                f"they are {content.features.shape[1]} wide, the vision encoder's {self.encoder.dim}",
                "Name the encoder that made them with --vision-encoder, or let it look at pictures: "
                "--vision-from raw",
            )
        if content.frames is None:
            return content.features
        with torch.inference_mode():
            parts = [
                self.encoder(torch.from_numpy(content.frames[start : start + _FRAMES_AT_ONCE]))
                for start in range(0, len(content.frames), _FRAMES_AT_ONCE)
            ]
        encoded: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return encoded

    def _open_index(self, vision: str) -> None:
        made_with = {
            "vision_encoder": encoder_digest(self.encoder),
            "preprocessing": to_plain(self.preprocessing),
        }
        if vision != RAW:
            made_with["vision_from"] = vision
        path = self.folder / INDEX_NAME
        if not path.exists():
            write_text(path, json.dumps(made_with, indent=2) + "\n")
            return
        # Through JSON and back, so that tuples and lists compare equal.
        found, wanted = json.loads(path.read_text()), json.loads(json.dumps(made_with))
        if found != wanted:
            differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
            raise DataError(
                f"cannot add to the feature store {self.folder}",
                f"it was made with another {' and '.join(differing)}",
                "Delete the folder, or extract into another one",
            )


def encoder_digest(encoder: torch.nn.Module) -> str:
    """Return a digest of an encoder's weights: two encoders with one digest give one result."""
    sha = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
