"""From rows of a corpus and their features to batches of tensors."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from taemi.corpus import ClipRow
from taemi.features import ClipFeatures, FeatureStore
from taemi.recipe import MODALITIES
from taemi.system import Batch, FeatureBatch
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.waveform import prepare_waveform

# SpecAugment in wav2vec2 masks runs of 10 frames and refuses batches shorter than that.
_MIN_SECONDS = 1.0

Clips = Sequence[tuple[ClipRow, ClipFeatures]]


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
    """Pads and stacks what the encoders take: waveforms and words.

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

    def __call__(self, clips: Clips) -> Batch:
        """Make one batch; a missing modality is zeros of length 1 with ``present`` false."""
        clips = _keep_used(clips, self.modalities)
        waveform, samples = self._waveforms([features for _, features in clips])
        vision, vision_mask = _stack([features.vision for _, features in clips], self.vision_dim)
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
            labels=_labels(clips),
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


class FeatureCollate:
    """Pads and stacks what the encoders gave: the frozen mode's batches.

    Args:
        widths: Width of a frame, or of the text vector, by modality.
        tokens: Whether the model attends to text tokens.
        modalities: What is used; the others count as missing in every clip.
    """

    def __init__(
        self, widths: dict[str, int], *, tokens: bool, modalities: Sequence[str] = MODALITIES
    ) -> None:
        self.widths = dict(widths)
        self.tokens = tokens
        self.modalities = tuple(modalities)

    def __call__(self, clips: Clips) -> FeatureBatch:
        """Make one batch; a missing modality is zeros of length 1 with ``present`` false."""
        clips = _keep_used(clips, self.modalities)
        audio, audio_mask = _stack([features.audio for _, features in clips], self.widths["audio"])
        vision, vision_mask = _stack([features.vision for _, features in clips], self.widths["vision"])
        # One vector is a sequence of one.
        words = [
            features.text_tokens if self.tokens else None if features.text is None else features.text[None]
            for _, features in clips
        ]
        text, text_mask = _stack(words, self.widths["text"])
        present = [
            (features.audio is not None, features.vision is not None, said is not None)
            for (_, features), said in zip(clips, words, strict=True)
        ]
        return FeatureBatch(
            audio=audio,
            audio_mask=audio_mask,
            vision=vision,
            vision_mask=vision_mask,
            text=text if self.tokens else text[:, 0],
            text_mask=text_mask if self.tokens else None,
            present=torch.tensor(present),
            labels=_labels(clips),
        )


def _keep_used(clips: Clips, modalities: tuple[str, ...]) -> Clips:
    if set(modalities) == set(MODALITIES):
        return clips
    unused: dict[str, Any] = {}
    if "audio" not in modalities:
        unused |= {"waveform": None, "audio": None}
    if "vision" not in modalities:
        unused |= {"vision": None}
    if "text" not in modalities:
        unused |= {"text": None, "text_tokens": None}
    return [
        (row if "text" in modalities else replace(row, transcript=""), replace(features, **unused))
        for row, features in clips
    ]


def _stack(sequences: Sequence[npt.NDArray[Any] | None], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack sequences [length, width]: values [clips, longest, width] float32 and which are valid."""
    lengths = [0 if sequence is None else len(sequence) for sequence in sequences]
    values = np.zeros((len(sequences), max(1, *lengths), width), dtype=np.float32)
    for row, sequence in enumerate(sequences):
        if sequence is not None:
            values[row, : lengths[row]] = sequence
    mask = np.arange(values.shape[1])[None, :] < np.array(lengths)[:, None]
    return torch.from_numpy(values), torch.from_numpy(mask)


def _labels(clips: Clips) -> torch.Tensor:
    return torch.tensor([row.labels for row, _ in clips], dtype=torch.float32)


def _leave_signals_to_the_training(worker: int) -> None:
    # Ctrl-C, and clusters that end jobs, signal the whole group of processes. What the training does about it
    # is inherited, and would be done again here; and a worker that died of it would fail the step that is to
    # finish first. Workers end when the loader tells them to, or is gone.
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def load_batches(
    rows: Sequence[ClipRow],
    store: FeatureStore,
    collate: Callable[[Clips], Any],
    indices: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Any]:
    """Yield batches of a split.

    Args:
        rows: The split.
        store: Its features.
        collate: Makes a batch of clips.
        indices: The clips of each batch.
        workers: Processes that read and pad; 0 does it in between.
        pin: Whether batches lie in pinned memory.
    """
    # A generator of its own: else each loader would draw from the one that dropout follows.
    yield from DataLoader(
        ClipDataset(rows, store),
        batch_sampler=[list(batch) for batch in indices],
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_training,
        generator=torch.Generator(),
    )


def in_order(clips: int, batch_size: int) -> list[range]:
    """Return the clips of each batch where they stand in order."""
    return [range(start, min(start + batch_size, clips)) for start in range(0, clips, batch_size)]
