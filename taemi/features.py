"""The feature store: what training reads instead of decoding and encoding the same clip every epoch.

A folder with one safetensors file a clip (vision features in float16, the waveform at the encoder's
rate in float32) and an index that says which encoder and which preprocessing made them. A store made
with others is refused, never mixed. Every file is written atomically, so that an interrupted
extraction goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from taemi.corpus import RAW, ClipRow, Corpus
from taemi.data import StoredCorpus
from taemi.encoders import AudioEncoder, TextEncoder, VisionEncoder
from taemi.extract.decoding import CorpusDecoder
from taemi.extract.encoders import FeatureEncoders, encoder_digest
from taemi.extract.run import LocalEngine, extract
from taemi.extract.transcripts import Transcriber
from taemi.store.files import clip_path
from taemi.store.index import differences
from taemi.store.layout import INDEX_NAME
from taemi.system import TaemiSystem
from taemi_runtime.errors import DataError
from taemi_runtime.preprocessing import Preprocessing

__all__ = ["INDEX_NAME", "ClipFeatures", "FeatureStore", "encoder_digest", "open_features"]


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
        audio: The audio encoder, where its features are kept, too.
        text: The text encoder, where its features are kept, too.
        workers: Processes that read clips; 0 reads in this one, ``None`` leaves it to the machine.
        device: Where the encoders run; they stay there.
    """

    def __init__(
        self,
        folder: Path,
        encoder: VisionEncoder,
        preprocessing: Preprocessing,
        faces: str | None = None,
        *,
        audio: AudioEncoder | None = None,
        text: TextEncoder | None = None,
        workers: int | None = 0,
        device: torch.device | None = None,
    ) -> None:
        self.folder = folder
        self._faces = faces
        self._audio = audio
        self._text = text
        self._workers = workers
        self._device = device or torch.device("cpu")
        self.encoder = encoder
        self.preprocessing = preprocessing

    def extract(
        self,
        rows: Iterable[ClipRow],
        progress: Callable[[int, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
        *,
        split: tuple[Corpus, str] | None = None,
    ) -> dict[str, str]:
        """Extract what is not there yet, or is there of files that have changed.

        Args:
            rows: The clips.
            progress: Called with (done, total) of those after each clip.
            warn: Called with a sentence for each part of a clip that could not be read though the rest was.
            split: The corpus and its split that these rows are, for the store's index.

        Returns:
            The reason for each clip that could not be read, by name.

        Raises:
            DataError: The store was made with another encoder or other preprocessing, or ready-made vision
                features are not as wide as the encoder's.
            BundleError: ``preprocessing`` names a detector's file, and none is given.
            MissingExtraError: Faces are to be cut out and OpenCV is missing.
            WriteError: The disk is full, or the place cannot be written to.
        """
        rows = list(rows)
        encoders = FeatureEncoders(
            self.encoder, self.preprocessing, self._audio, self._text, device=self._device
        )
        transcriber = Transcriber()
        decoder = CorpusDecoder(self.preprocessing, self._faces)
        corpus, name = split or (None, "")
        return extract(
            self.folder,
            {name: rows},
            encoders.made_with(rows[0].vision if rows else RAW),
            transcriber,
            LocalEngine(encoders, transcriber, decoder, self._workers),
            corpus=corpus.name if corpus is not None else "",
            synthetic=corpus is not None and corpus.synthetic,
            progress=progress,
            warn=warn,
        ).failures

    def read(self, name: str) -> ClipFeatures:
        """Read one clip's features."""
        arrays = load_file(clip_path(self.folder, name))
        return ClipFeatures(*(arrays.get(field.name) for field in fields(ClipFeatures)))

    def lengths(self, name: str) -> dict[str, int]:
        """Return how long each of one clip's features is; only the file's header is read."""
        with safe_open(clip_path(self.folder, name), framework="numpy") as file:
            return {key: file.get_slice(key).get_shape()[0] for key in file.keys()}  # noqa: SIM118


class StoredFeatures(FeatureStore):
    """A store that was extracted before: it is read, and nothing is added to it.

    Args:
        corpus: What the store says of its corpus.
        encoder: The vision encoder that is to have made its features.
        preprocessing: The preprocessing that is to have been used.
        audio: The audio encoder that is to have made its features, where they are to be used.
        text: The text encoder likewise.

    Raises:
        DataError: The store was made with another encoder or other preprocessing.
    """

    def __init__(
        self,
        corpus: StoredCorpus,
        encoder: VisionEncoder,
        preprocessing: Preprocessing,
        *,
        audio: AudioEncoder | None = None,
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__(corpus.root, encoder, preprocessing)
        self._corpus = corpus
        stored = corpus.index.made_with
        here = FeatureEncoders(encoder, preprocessing, audio, text).made_with(stored.vision_from)
        asked = f"cannot train on the feature store {corpus.root}"
        for name, wanted, kept in (
            ("audio", audio, stored.audio_encoder),
            ("text", text, stored.text_encoder),
        ):
            if wanted is not None and kept is None:
                raise DataError(
                    f"{asked} with frozen encoders",
                    f"it keeps no features of the {name} encoder",
                    "Extract again into another folder, with --audio-features --text-features",
                )
        # What the store keeps beyond what is used does not matter.
        used = {
            name: {key: stored.preprocessing[name][key] for key in values}
            for name, values in here.preprocessing.items()
        }
        alike = replace(
            stored,
            preprocessing=used,
            audio_encoder=stored.audio_encoder if audio is not None else None,
            text_encoder=stored.text_encoder if text is not None else None,
        )
        if found := differences(alike, here):
            raise DataError(
                asked,
                found,
                "Give the encoder that made it (--vision-encoder, --encoders), or extract again into another "
                "folder",
            )

    def extract(
        self,
        rows: Iterable[ClipRow],
        progress: Callable[[int, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
        *,
        split: tuple[Corpus, str] | None = None,
    ) -> dict[str, str]:
        """Return why clips are not in the store, by name; nothing is extracted."""
        del progress, warn, split
        return self._corpus.missing(list(rows))


def open_features(
    corpus: Corpus,
    folder: Path,
    system: TaemiSystem,
    *,
    frozen: bool = False,
    faces: str | None = None,
    workers: int | None = 0,
    device: torch.device | None = None,
) -> FeatureStore:
    """Return a corpus's features: the store that it is, or a folder that is filled by extraction.

    Args:
        corpus: The data.
        folder: Where features of a corpus are kept; not used for a store.
        system: Whose encoders they are of.
        frozen: Whether those of sound and words are kept, too.
        faces: See ``FeatureStore``, as all that follows.
        workers: Likewise.
        device: Likewise.

    Raises:
        DataError: The corpus is a store that was made with another encoder or other preprocessing.
    """
    vision, taken = system.vision_encoder, system.preprocessing
    audio, text = (system.audio_encoder, system.text_encoder) if frozen else (None, None)
    if isinstance(corpus, StoredCorpus):
        return StoredFeatures(corpus, vision, taken, audio=audio, text=text)
    return FeatureStore(folder, vision, taken, faces, audio=audio, text=text, workers=workers, device=device)
