"""What is said in each window: the whole transcript, the words of its subtitles, or what is recognised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.listener import Listener
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.transcripts import Transcript


class WordsOverTime:
    """Gives each window its transcript.

    Text without times is every window's. Of subtitles a window has the words that fall into it, the words of
    a cue being spread evenly over its time. Without a transcript a recogniser hears each window's own sound.

    Args:
        said: The clip's transcript; one without text leaves it to the recogniser.
        listener: The recogniser.
        preprocessing: Sampling rate, and what counts as speech.
        name: What messages call the clip.
    """

    def __init__(self, said: Transcript, listener: Listener, preprocessing: Preprocessing, name: str) -> None:
        self._said = said
        self._listener = listener
        self._preprocessing = preprocessing
        self._name = name
        self._words: list[tuple[float, str]] = []
        for cue in said.cues or ():
            words = cue.text.split()
            step_s = (cue.end_s - cue.start_s) / len(words) if words else 0.0
            self._words += [(cue.start_s + (at + 0.5) * step_s, word) for at, word in enumerate(words)]

    def said(self, start_s: float, end_s: float, waveform: npt.NDArray[np.float32] | None) -> Transcript:
        """Return the transcript of a window.

        Args:
            start_s: Its beginning on the source's axis of time, in seconds.
            end_s: Its end.
            waveform: Its sound, for the recogniser; ``None`` without any.

        Raises:
            EngineError: The recogniser failed.
        """
        if self._said.text is None:
            if waveform is None or not waveform.size:
                return Transcript(why="there is no transcript, and no sound to recognise speech in")
            rate_hz, gate = self._preprocessing.audio.rate_hz, self._preprocessing.text.speech
            return self._listener.hear_samples(waveform, rate_hz, gate, self._name)
        if self._said.cues is None:
            return self._said
        inside = " ".join(word for time_s, word in self._words if start_s <= time_s < end_s)
        why = "" if inside else "the subtitles say nothing in this window"
        return replace(self._said, text=inside, why=why)
