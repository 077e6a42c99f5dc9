"""Looking at one clip's files: headers of media, first and last bytes of pictures, whole pickles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av

from taemi.check.report import Effect, Finding, State
from taemi.clip_content import read_content
from taemi.corpus import FACES, RAW, TEXT, ClipRow
from taemi.crops import crop_fault, list_crops
from taemi.feature_pickles import read_features
from taemi_runtime.errors import DataError, MediaError
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import Watch, audio_stream, video_stream
from taemi_runtime.opening import open_media
from taemi_runtime.preprocessing import Preprocessing

# Ten frames of the audio encoder; below that its time masking needs padding.
_SHORT_S = 0.2
_LONG_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where the files of a split are.

    Args:
        root: The corpus's folder, which findings are told from.
        folder: The folder that holds the split's clips.
        split: The split's name.
        texts: Transcript files by clip; ``None`` where there is no folder of them.
        unread: Transcripts that could not be read, and why.
        features: Feature pickles by clip, by their folder.
        has_crops: Whether there is a folder of face crops.
    """

    root: Path
    folder: Path
    split: str
    texts: Mapping[str, Path] | None
    unread: Mapping[Path, str]
    features: Mapping[str, Mapping[str, Path]]
    has_crops: bool

    def name(self, path: Path) -> str:
        """Return a path as findings name it."""
        return path.relative_to(self.root).as_posix()


@dataclass
class ClipLook:
    """What was found of a clip.

    Args:
        row: The clip.
        audio: Whether it has sound.
        vision: Whether it has vision.
        text: Whether it has words.
        readable: Whether any of its files can be read.
        seconds: Its length; ``None`` where its container does not say.
        widths: Width of its features by folder.
        findings: What is wrong or odd.
    """

    row: ClipRow
    audio: State = State.MISSING
    vision: State = State.MISSING
    text: State = State.MISSING
    readable: bool = False
    seconds: float | None = None
    widths: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Header:
    """What a media file says that it holds."""

    audio: bool
    video: bool
    seconds: float | None


def look_at_clip(
    row: ClipRow, place: Place, *, decode: Watch | None = None, stopped: Callable[[], bool] = bool
) -> ClipLook:
    """Look at everything that there is of a clip.

    Args:
        row: The clip.
        place: Where its files are.
        decode: Decodes it as training does, too, and is shown the tracks meanwhile; what it raises ends it.
        stopped: Says that nobody waits for the result any more.

    Returns:
        What was found; never an error, whatever the files hold.
    """
    looker = _Looker(row, place, stopped)
    looker.media()
    looker.text()
    looker.pickles()
    if row.vision == FACES:
        looker.crops()
    if decode is not None and looker.look.readable:
        looker.decode(decode)
    if not looker.look.readable:
        what = "none of the clip's files can be read"
        looker.find(Effect.LEFT_OUT, "clip cannot be read", row.media, what)
    return looker.look


class _Looker:
    def __init__(self, row: ClipRow, place: Place, stopped: Callable[[], bool]) -> None:
        self._row = row
        self._place = place
        self._stopped = stopped
        self.look = ClipLook(row)

    def find(self, effect: Effect, kind: str, path: Path, what: str) -> None:
        """Note a finding."""
        place = self._place
        self.look.findings.append(Finding(effect, kind, place.name(path), what, place.split, self._row.name))

    def media(self) -> None:
        """Look at the clip and at the file of its sound alone."""
        row, look = self._row, self.look
        sound = self._open(row.audio) if row.audio is not None else None
        clip = self._open(row.media) if row.media.exists() else None
        if not row.media.exists() and (row.media.parent.is_dir() or row.vision == RAW):
            # Where there is no raw/ at all, and no need for it, one line for each clip says nothing.
            needed = row.vision == RAW or row.audio is None
            self.find(
                Effect.MISSING if needed else Effect.NOTE,
                "clip file missing",
                row.media,
                "there is no such file" + ("" if needed else "; sound and vision come from others"),
            )
        headers = [header for header in (sound, clip) if header is not None]
        look.readable = bool(headers)
        broken = (row.audio is not None and sound is None) or (row.media.exists() and clip is None)
        if any(header.audio for header in headers):
            look.audio = State.THERE
        elif broken:
            look.audio = State.BROKEN
        elif headers:
            path = row.audio if row.audio is not None and clip is None else row.media
            self.find(Effect.MISSING, "no sound", path, "it has no audio track")
        if row.vision == RAW:
            if clip is not None and clip.video:
                look.vision = State.THERE
            elif clip is not None:
                self.find(Effect.MISSING, "no picture", row.media, "it has no video track")
            elif row.media.exists():
                look.vision = State.BROKEN
        look.seconds = next((header.seconds for header in headers if header.seconds is not None), None)
        longest = row.audio if sound is not None and row.audio is not None else row.media
        if look.seconds is not None and look.seconds < _SHORT_S:
            self.find(Effect.NOTE, "very short", longest, f"it lasts {look.seconds:.3f} s; it is padded")
        if look.seconds is not None and look.seconds > _LONG_S:
            what = f"it lasts {look.seconds:,.1f} s; its beginning is used"
            self.find(Effect.NOTE, "very long", longest, what)

    def text(self) -> None:
        """Look at the transcript."""
        texts, row = self._place.texts, self._row
        path = texts.get(row.name) if texts is not None else None
        unread = self._place.unread.get(path, "") if path is not None else ""
        if row.transcript:
            self.look.text = State.THERE
            if path is not None and unread:
                self.find(Effect.PART, "transcript damaged", path, unread)
        elif path is not None and unread:
            self.look.text = State.BROKEN
            self.find(Effect.MISSING, "transcript damaged", path, unread)
        elif path is not None:
            self.find(Effect.MISSING, "transcript empty", path, "it holds no word")
        elif texts is not None:
            where = self._place.folder / TEXT / f"{row.name}.txt"
            self.find(Effect.MISSING, "no transcript", where, "there is no such file")

    def pickles(self) -> None:
        """Read the pickles of features."""
        row, look = self._row, self.look
        for folder, files in self._place.features.items():
            used = folder == row.vision
            if self._stopped():
                return
            path = files.get(row.name)
            if path is None:
                where = self._place.folder / folder / f"{row.name}.pkl"
                effect = Effect.MISSING if used else Effect.NOTE
                unused = "" if used else "; not used"
                self.find(effect, "no features", where, f"there is no such file{unused}")
                continue
            try:
                features = read_features(path)
            except DataError as error:
                state, effect, what = State.BROKEN, Effect.MISSING, error.found or error.asked
                kind = "feature file refused" if "nothing of it was run" in what else "feature file broken"
            else:
                state = State.THERE if features is not None else State.MISSING
                if features is not None:
                    look.widths[folder] = features.shape[1]
                effect, kind, what = (
                    Effect.MISSING,
                    "features empty",
                    "there is no frame in it, or only zeros",
                )
            if used:
                look.vision = state
                look.readable |= state is not State.BROKEN
            if state is not State.THERE:
                self.find(effect if used else Effect.NOTE, kind, path, what + ("" if used else "; not used"))

    def crops(self) -> None:
        """Look at every face crop."""
        row, look = self._row, self.look
        folder = row.pictures
        if folder is None:
            if self._place.has_crops:
                where = self._place.folder / FACES / row.name
                self.find(Effect.MISSING, "no face folder", where, "there is no such folder")
            return
        try:
            listed = list_crops(folder)
        except OSError as error:
            look.vision = State.BROKEN
            self.find(Effect.MISSING, "face folder broken", folder, error.strerror or str(error))
            return
        for other in listed.others:
            self.find(Effect.NOTE, "no face crop", other, "it is no numbered picture; it is ignored")
        whole = 0
        for _, path in listed.crops:
            if self._stopped():
                return
            fault = crop_fault(path)
            whole += not fault
            if fault:
                self.find(Effect.PART, "face crop broken", path, fault)
        if whole:
            look.vision = State.THERE
            look.readable = True
        elif listed.crops:
            look.vision = State.BROKEN
            what = f"none of its {len(listed.crops)} crops is whole"
            self.find(Effect.MISSING, "face folder broken", folder, what)
        else:
            self.find(Effect.MISSING, "face folder empty", folder, "there is no face crop in it")

    def decode(self, watch: Watch) -> None:
        """Read the clip as training does."""
        row, look = self._row, self.look
        try:
            content = read_content(row, Preprocessing(), None, watch)
        except MediaError as error:
            look.readable = False
            look.audio = State.BROKEN if look.audio is State.THERE else look.audio
            look.vision = State.BROKEN if look.vision is State.THERE else look.vision
            self.find(Effect.PART, "damage within", row.media, error.found)
            return
        if content.waveform is None and look.audio is State.THERE:
            look.audio = State.BROKEN
            self.find(Effect.MISSING, "damage within", row.audio or row.media, "no sound can be decoded")
        if content.frames is None and content.features is None and look.vision is State.THERE:
            look.vision = State.BROKEN
            self.find(Effect.MISSING, "damage within", row.pictures or row.media, "no picture can be decoded")
        for remark in content.remarks:
            # What the first and last bytes told already is not told again.
            if not any(finding.file in remark for finding in look.findings):
                self.find(Effect.PART, "damage within", row.pictures or row.media, remark)
        for warning in content.warnings:
            self.find(Effect.NOTE, "seen while decoding", row.media, warning)

    def _open(self, path: Path) -> _Header | None:
        try:
            with open_media(path, DecodeLimits()) as container:
                seconds = (container.duration or 0) / av.time_base
                return _Header(
                    not isinstance(audio_stream(container), str),
                    not isinstance(video_stream(container), str),
                    seconds if seconds > 0 else None,
                )
        except MediaError as error:
            self.find(Effect.PART, "media file broken", path, error.found)
        except OSError as error:
            self.find(Effect.PART, "media file broken", path, error.strerror or str(error))
        return None
