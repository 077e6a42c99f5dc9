"""Transcripts: the corpus's own, and a recogniser's where the corpus has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taemi.corpus import ClipRow
from taemi.extract import DEFAULT_ASR
from taemi.store.layout import FROM_FILE, FROM_NOWHERE
from taemi_runtime.asr import NONE
from taemi_runtime.asr.listener import Listener
from taemi_runtime.errors import EngineError, MediaError, MissingExtraError
from taemi_runtime.preprocessing import SpeechGate
from taemi_runtime.transcripts import Transcript


class Transcriber:
    """Finds what is said in clips.

    Args:
        asr: A recogniser, a model, both, a file or folder, or ``none``, as ``--asr`` says.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads on the CPU; 0 is every core that may be used.
    """

    def __init__(
        self,
        asr: str = NONE,
        *,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        self.asr = asr
        # What every checkpoint says, so that what is trained on is what is heard later.
        self._gate = SpeechGate()
        self._listener = Listener(asr, device=device, threads=threads)

    def asr_of(self, row: ClipRow) -> str | None:
        """Return what a clip's transcript is asked of; ``None`` where it has a file, or nobody is asked.

        A model's file is known by its name, wherever it lies.
        """
        if row.text is not None or self.asr == NONE:
            return None
        return Path(self.asr).name if Path(self.asr).exists() else self.asr

    def prepare(self, rows: Sequence[ClipRow]) -> None:
        """Load the recogniser if any of these clips needs it.

        Raises:
            MissingExtraError: The recogniser that was asked for is not installed.
            EngineError: Its model cannot be loaded, or there is none.
        """
        mute = [row for row in rows if self.asr_of(row) is not None]
        if not mute:
            return
        asked = f"cannot transcribe {len(mute)} of {len(rows)} clips, which have no transcript file"
        way_on = "or go on without their words: --asr none"
        try:
            there = self._listener.prepare()
        except (MissingExtraError, EngineError) as error:
            fix = f"{error.fix or 'Name another model: --asr NAME_OR_PATH'}, {way_on}"
            raise type(error)(asked, f"{error.asked}: {error.found}", fix) from error
        if not there:
            raise EngineError(
                asked,
                f"--asr {self.asr} finds no recogniser with a model on this machine",
                f'pip install "taemi[whisper]" and give --asr {DEFAULT_ASR}, {way_on}',
            )

    def transcribe(self, row: ClipRow) -> Transcript:
        """Return a clip's transcript.

        Raises:
            MediaError: It has no file that can be listened to.
            TaemiError: The recogniser cannot be loaded, or failed.
        """
        if row.text is not None:
            return Transcript(row.transcript, FROM_FILE)
        if self.asr == NONE:
            return Transcript("", FROM_NOWHERE)
        self.prepare([row])
        if row.audio is not None:
            try:
                return self._listener.hear(row.audio, self._gate)
            except MediaError:
                if not row.media.is_file():
                    return Transcript("", FROM_NOWHERE, "its sound cannot be read")
        if not row.media.is_file():
            return Transcript("", FROM_NOWHERE, "it has no sound")
        try:
            return self._listener.hear(row.media, self._gate)
        except MediaError as error:
            # What can be read of the clip is used all the same, as it is with a transcript.
            return Transcript("", FROM_NOWHERE, str(error))
