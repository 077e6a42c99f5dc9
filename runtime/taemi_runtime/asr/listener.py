"""From a clip's sound to its transcript, or to the reason why there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr import AUTO, NONE, open_at_hand, open_named
from taemi_runtime.asr.recogniser import RATE_HZ, WINDOW_S, Recogniser
from taemi_runtime.asr.speech import keep_speech, reason_for_silence
from taemi_runtime.asr.windows import SoundWindows
from taemi_runtime.errors import EngineError, UsageError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.preprocessing import SpeechGate
from taemi_runtime.transcripts import Transcript

_log = logging.getLogger(__name__)

DEFAULT_SECONDS = 60.0
_NO_TRANSCRIPT = "there is no transcript"


class Listener:
    """Makes transcripts of clips that have none.

    Args:
        asr: What ``--asr`` says: ``auto``, ``none``, a recogniser, a model, a file or folder.
        seconds: How much of a clip's sound is listened to.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads on the CPU; 0 is every core that may be used.

    Raises:
        UsageError: ``seconds`` is not above 0.
    """

    def __init__(
        self,
        asr: str = NONE,
        *,
        seconds: float = DEFAULT_SECONDS,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        if not 0 < seconds < float("inf"):
            raise UsageError(
                f"cannot listen to {seconds:g} s of a clip", "", "Give a number of seconds above 0"
            )
        self._asr = asr
        self._seconds = seconds
        self._device = device
        self._threads = threads
        self._recogniser: Recogniser | None = None
        self._why = _NO_TRANSCRIPT
        self._ready = asr == NONE

    @property
    def is_explicit(self) -> bool:
        """Whether a certain recogniser or model was asked for."""
        return self._asr not in (AUTO, NONE)

    def prepare(self) -> bool:
        """Load the model now, once; return whether there is one.

        Raises:
            MissingExtraError: The recogniser that was asked for is not installed.
            EngineError: The model that was asked for cannot be loaded.
        """
        if self._ready:
            return self._recogniser is not None
        if self.is_explicit:
            self._recogniser = open_named(self._asr, device=self._device, threads=self._threads)
        else:
            found = open_at_hand(device=self._device, threads=self._threads)
            if isinstance(found, Recogniser):
                self._recogniser = found
            else:
                self._why = f"{_NO_TRANSCRIPT}, and {found}"
        self._ready = True
        if self._recogniser is not None:
            _log.info("transcripts by %s, model %s", self._recogniser.name, self._recogniser.model)
        return self._recogniser is not None

    def describe(self) -> str:
        """Return what listens and for how long, e.g. ``faster-whisper small.en 60 s``, or ``none``."""
        if not self.prepare() or self._recogniser is None:
            return NONE
        return f"{self._recogniser.name} {self._recogniser.model} {self._seconds:g} s"

    def hear(self, clip: Path, gate: SpeechGate, limits: DecodeLimits | None = None) -> Transcript:
        """Transcribe a clip.

        Args:
            clip: A local media file.
            gate: What counts as speech.
            limits: What the file may ask for; the defaults when ``None``.

        Returns:
            The transcript; without text it says why. ``source`` is the recogniser's name where it listened.

        Raises:
            MediaError: The file is no readable media.
            EngineError: The recogniser failed.
        """
        if not self.prepare() or self._recogniser is None:
            return Transcript(why=self._why)
        recogniser = self._recogniser
        texts: list[str] = []
        reasons: list[str] = []
        windows = SoundWindows(clip, self._seconds, limits)
        for samples in windows:
            text, reason = _recognise(recogniser, samples, gate, str(clip))
            if text:
                texts.append(text)
            reasons.append(reason)
        if not texts and windows.why:
            return Transcript(why=f"{_NO_TRANSCRIPT}, and {windows.why}")
        warnings: tuple[str, ...] = ()
        if windows.truncated:
            warnings = (f"speech was recognised in the first {self._seconds:g} s only (--asr-seconds)",)
        if texts:
            return Transcript(" ".join(texts), recogniser.name, warnings=warnings)
        # Of several windows the last reason stands for all; those of a model say more than silence.
        why = f"no speech was recognised: {max(reasons, key=lambda reason: 'recogni' in reason)}"
        return Transcript(None, recogniser.name, why, warnings)

    def hear_samples(
        self, samples: npt.NDArray[np.float32], rate_hz: int, gate: SpeechGate, name: str
    ) -> Transcript:
        """Transcribe sound that is decoded already, all of it at once.

        Args:
            samples: [samples], float32, mono, full scale 1, finite, at most 30 s.
            rate_hz: Its sampling rate; recognisers take 16 kHz only.
            gate: What counts as speech.
            name: What messages call it.

        Returns:
            The transcript; without text it says why.

        Raises:
            EngineError: The recogniser failed.
        """
        if not self.prepare() or self._recogniser is None:
            return Transcript(why=self._why)
        if rate_hz != RATE_HZ or samples.size > WINDOW_S * RATE_HZ:
            seconds = samples.size / rate_hz
            return Transcript(
                why=f"{_NO_TRANSCRIPT}: recognisers take {WINDOW_S:g} s at {RATE_HZ} Hz, "
                f"this is {seconds:g} s at {rate_hz} Hz"
            )
        text, reason = _recognise(self._recogniser, samples, gate, name)
        name = self._recogniser.name
        return (
            Transcript(text, name) if text else Transcript(None, name, f"no speech was recognised: {reason}")
        )


def _recognise(
    recogniser: Recogniser, samples: npt.NDArray[np.float32], gate: SpeechGate, name: str
) -> tuple[str, str]:
    """Return what is said in up to 30 s of sound, and why nothing is; one of them is empty.

    Raises:
        EngineError: The recogniser failed.
    """
    reason = reason_for_silence(samples, gate)
    if reason:
        return "", reason
    try:
        segments = recogniser.recognise(samples, gate)
    except Exception as error:  # libraries of others, in every way they can fail
        raise EngineError(
            f"cannot recognise speech in {name}",
            f"{recogniser.name} failed ({type(error).__name__}: {error})",
            "Give --transcript, or leave text out: --asr none",
        ) from error
    return keep_speech(segments, gate)
