"""What stands between a clip and the graphs' inputs, as data.

Training writes these values into the checkpoint, export copies them into the manifest, and the
runtime obeys them, so that what was trained on and what is served cannot drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from taemi_runtime.errors import SpecError

# (kernel, stride) of wav2vec2's seven feature convolutions: 400 samples make the first frame and
# every further 320 one more (Baevski et al. 2020, appendix; the shipped configs of the large models).
WAV2VEC2_CONVS: tuple[tuple[int, int], ...] = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


@dataclass(frozen=True)
class AudioPreprocessing:
    """From an audio track to the audio encoder's input.

    Args:
        rate_hz: Sampling rate of the mono waveform.
        max_seconds: Only this much of the clip's beginning is used.
        normalise: Whether each waveform gets zero mean and unit variance.
        statistics: Over which samples mean and variance are taken: the ``valid`` ones, or, as feature
            extractors with ``return_attention_mask`` false do, the waveform ``padded`` with zeros to
            ``padded_samples`` (``max_samples`` where that is unset), whose padding is normalised, too.
        padded_samples: The fixed length that every waveform is padded to with zeros, for encoders
            that were trained without a mask; ``None`` for masked encoders, where padding never matters.
        convs: (kernel, stride) of the encoder's unpadded convolutions, which turn samples into frames.
    """

    rate_hz: int = 16_000
    max_seconds: float = 12.0
    normalise: bool = True
    statistics: Literal["valid", "padded"] = "valid"
    padded_samples: int | None = None
    convs: tuple[tuple[int, int], ...] = WAV2VEC2_CONVS

    def __post_init__(self) -> None:
        if self.rate_hz < 1 or self.max_seconds <= 0 or not self.convs:
            raise SpecError(
                "audio preprocessing is inconsistent",
                f"rate_hz {self.rate_hz}, max_seconds {self.max_seconds}, convs {self.convs}",
            )

    @property
    def max_samples(self) -> int:
        """The longest waveform in samples."""
        return round(self.rate_hz * self.max_seconds)

    @property
    def min_samples(self) -> int:
        """The shortest waveform in samples that makes one frame."""
        length = 1
        for kernel, stride in reversed(self.convs):
            length = (length - 1) * stride + kernel
        return length

    def frames(self, samples: int) -> int:
        """Return how many encoder frames ``samples`` samples make, at least 1.

        Each unpadded convolution maps n to floor((n - kernel) / stride) + 1.
        """
        for kernel, stride in self.convs:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return max(samples, 1)


# How frames are cropped before they are resized; FACES_FILE is followed by the digest of a detector's file.
FACES_NONE = "none"
FACES_AUTO = "auto"
FACES_FILE = "sha256:"


@dataclass(frozen=True)
class VisionPreprocessing:
    """From a video track to the vision encoder's input.

    Args:
        height: Height of a resized frame in pixels.
        width: Width of a resized frame in pixels.
        max_frames: Only this many sampled frames are used.
        max_fps: Sampling rate of the training features in frames a second; ``None`` is every frame.
        faces: How a frame is cropped before resizing: ``none`` is the whole frame, ``auto`` a square around
            the largest face that OpenCV's cascade finds, ``sha256:`` and 64 digits the same with the
            detector of that file. Frames without a face are left out.
    """

    height: int = 224
    width: int = 224
    max_frames: int = 400
    max_fps: float | None = None
    faces: str = "none"

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.max_frames) < 1 or (
            self.max_fps is not None and not self.max_fps > 0
        ):
            raise SpecError(
                "vision preprocessing is inconsistent",
                f"{self.height} x {self.width} pixels, {self.max_frames} frames, max_fps {self.max_fps}",
            )
        if self.faces not in (FACES_NONE, FACES_AUTO) and not re.fullmatch(
            rf"{FACES_FILE}[0-9a-f]{{64}}", self.faces
        ):
            raise SpecError(
                "vision preprocessing is inconsistent",
                f"faces is {self.faces!r}, expected {FACES_NONE}, {FACES_AUTO} or {FACES_FILE} and 64 digits",
            )


@dataclass(frozen=True)
class SpeechGate:
    """What of a clip's sound counts as speech, where a recogniser makes the transcript.

    Recognisers invent sentences for silence and noise ("Thanks for watching!"). The first three limits
    are Whisper's own, with its defaults (Radford et al. 2022, section 4.5; ``whisper.transcribe``), but
    stricter: Whisper keeps a segment that breaks one of them, here one is enough to drop it. The next two are
    milder and drop a segment that breaks both: "Thank you." for music has 0.43 and -0.95, while of 199
    segments of recorded and synthetic speech none broke both (tiny.en, voice activity detector off).

    Args:
        no_speech_threshold: Segments whose no-speech probability is above this are dropped.
        logprob_threshold: Segments whose mean log-probability a token is below this are dropped.
        unsure_no_speech: Segments above this no-speech probability and
        unsure_logprob: below this mean log-probability are dropped, too.
        compression_ratio_threshold: Text that zlib shrinks by more than this repeats itself and is dropped.
        silence_dbfs: Sound whose loudest tenth of a second is below this level never reaches the
            recogniser. In dB relative to a full-scale constant; quiet speech is at -45.
        modulation_db: Neither does sound that is louder than its quiet parts by less than this: hum, hiss
            and tones are steady to 2 dB, speech varies by more than 10.
        language: The language that is spoken, as a code such as ``en``; empty lets the recogniser guess.
    """

    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    unsure_no_speech: float = 0.3
    unsure_logprob: float = -0.8
    compression_ratio_threshold: float = 2.4
    silence_dbfs: float = -55.0
    modulation_db: float = 3.0
    language: str = "en"


@dataclass(frozen=True)
class TextPreprocessing:
    """From a transcript to the text encoder's input.

    Args:
        max_tokens: Longest token sequence, special tokens included; the rest is cut.
        tokenizer: The tokenizer's file in the bundle.
        pad_id: The token that fills padding.
        speech: What counts as speech, where a recogniser makes the transcript.
    """

    max_tokens: int = 128
    tokenizer: str = "tokenizer.json"
    pad_id: int = 0
    speech: SpeechGate = field(default_factory=SpeechGate)


@dataclass(frozen=True)
class Preprocessing:
    """Everything between a clip and the graphs."""

    audio: AudioPreprocessing = field(default_factory=AudioPreprocessing)
    vision: VisionPreprocessing = field(default_factory=VisionPreprocessing)
    text: TextPreprocessing = field(default_factory=TextPreprocessing)
