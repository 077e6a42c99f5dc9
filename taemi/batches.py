"""From rows of a corpus and their features to batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from taemi.corpus import ClipRow
from taemi.features import ClipFeatures, FeatureStore
from taemi.recipe import MODALITIES
from taemi.system import Batch
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.waveform import prepare_waveform

# SpecAugment in wav2vec2 masks runs of 10 frames and refuses batches shorter than that.
_MIN_SECONDS = 1.0


class ClipDataset(Dataset[tuple[ClipRow, ClipFeatures]]):
    """Rows of one split with their features."""

    def __init__(self, rows: Sequence[ClipRow], store: FeatureStore) -> None:
        self.rows = list(rows)
        self.store = store

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[ClipRow, ClipFeatures]:
        row = self.rows[index]
        return row, self.store.read(row.name)


class Collate:
    """Pads and stacks clips.

    Args:
        tokenizer: The text encoder's.
        preprocessing: Windows and lengths.
        vision_dim: Width of a vision frame.
        pad_to_max: Whether waveforms are padded to the full window.
        modalities: What is used; the others count as missing in every clip.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        vision_dim: int,
        *,
        pad_to_max: bool,
        modalities: Sequence[str] = MODALITIES,
    ) -> None:
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.vision_dim = vision_dim
        self.pad_to_max = pad_to_max or preprocessing.audio.padded_samples is not None
        self.modalities = tuple(modalities)

    def __call__(self, clips: Sequence[tuple[ClipRow, ClipFeatures]]) -> Batch:
        """Make one batch; a missing modality is zeros of length 1 with ``present`` false."""
        clips = [self._keep_used(row, features) for row, features in clips]
        waveform, samples = self._waveforms([features for _, features in clips])
        vision, vision_mask = self._vision([features for _, features in clips])
        tokens = self.tokenizer.encode([row.transcript for row, _ in clips])
        present = [
            (features.waveform is not None, features.vision is not None, bool(row.transcript))
            for row, features in clips
        ]
        return Batch(
            waveform=waveform,
            samples=samples,
            vision=vision,
            vision_mask=vision_mask,
            input_ids=torch.from_numpy(tokens["input_ids"]),
            attention_mask=torch.from_numpy(tokens["attention_mask"]),
            present=torch.tensor(present),
            labels=torch.tensor([row.labels for row, _ in clips], dtype=torch.float32),
        )

    def _keep_used(self, row: ClipRow, features: ClipFeatures) -> tuple[ClipRow, ClipFeatures]:
        return (
            row if "text" in self.modalities else replace(row, transcript=""),
            ClipFeatures(
                features.waveform if "audio" in self.modalities else None,
                features.vision if "vision" in self.modalities else None,
            ),
        )

    def _waveforms(self, clips: Sequence[ClipFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
        audio = self.preprocessing.audio
        shortest = max(audio.min_samples, round(audio.rate_hz * _MIN_SECONDS))
        longest = max((len(clip.waveform) for clip in clips if clip.waveform is not None), default=0)
        length = audio.max_samples if self.pad_to_max else max(longest, shortest)
        waveform = np.zeros((len(clips), length), dtype=np.float32)
        samples = np.full(len(clips), audio.min_samples, dtype=np.int64)
        for row, clip in enumerate(clips):
            if clip.waveform is not None:
                values = prepare_waveform(clip.waveform, audio)["waveform"][0]
                waveform[row, : len(values)] = values
                samples[row] = max(len(clip.waveform), audio.min_samples)
        return torch.from_numpy(waveform), torch.from_numpy(samples)

    def _vision(self, clips: Sequence[ClipFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = [len(clip.vision) if clip.vision is not None else 0 for clip in clips]
        vision = np.zeros((len(clips), max(1, *lengths), self.vision_dim), dtype=np.float32)
        for row, clip in enumerate(clips):
            if clip.vision is not None:
                vision[row, : lengths[row]] = clip.vision
        mask = np.arange(vision.shape[1])[None, :] < np.array(lengths)[:, None]
        return torch.from_numpy(vision), torch.from_numpy(mask)


def loader(
    rows: Sequence[ClipRow], store: FeatureStore, collate: Collate, batch_size: int, *, seed: int | None
) -> DataLoader[tuple[ClipRow, ClipFeatures]]:
    """Return batches of a split, shuffled by ``seed``, or in order when it is ``None``."""
    return DataLoader(
        ClipDataset(rows, store),
        batch_size=batch_size,
        shuffle=seed is not None,
        generator=torch.Generator().manual_seed(seed) if seed is not None else None,
        collate_fn=collate,
    )
