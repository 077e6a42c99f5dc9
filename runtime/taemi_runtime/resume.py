"""Going on with a run that was cut off: which lines of its JSON lines are still what a run would give.

Every line carries a key, so that the file alone says what is done:

    "key": {"clip": SHA-256 of the clip's bytes,
            "transcript": SHA-256 of the given transcript, or null where none was given,
            "settings": {"engine": ..., "max_fps": ..., "faces": ..., "raw": ..., "asr": ...}}

A clip is done when a line has its key, under whatever name it was scored; a clip that was changed, or whose
transcript was, is scored again, and so is every failure. Lines with other settings are refused: one file
never mixes scores of two models.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taemi_runtime.atomic import write_bytes
from taemi_runtime.crew import map_all
from taemi_runtime.errors import TaemiError, UsageError
from taemi_runtime.host import usable_cores
from taemi_runtime.inputs import ClipInput
from taemi_runtime.transcripts import Transcript, Transcripts

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer

_log = logging.getLogger(__name__)

Key = dict[str, Any]
Line = dict[str, Any]

_CHUNK_BYTES = 1 << 20
_ELSEWHERE = "write to another file: --out FILE, or start over without --resume"
# How each setting is given, for messages.
_OPTIONS = {
    "engine": "--engine",
    "max_fps": "--max-fps",
    "faces": "--faces",
    "raw": "--raw",
    "asr": "--asr and --asr-seconds",
}


def clip_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; empty where it cannot be read, which scoring then explains."""
    digest = hashlib.sha256()
    try:
        # Pipes and devices are no clips, and reading one might never end.
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


@dataclass(frozen=True)
class Settings:
    """What scores depend on beside clip and transcript.

    Args:
        engine: Digest of the engine files and the preprocessing (``LoadedModel.digest``).
        max_fps: Frames a second that are looked at; ``None`` is every frame.
        faces: How frames are cropped.
        raw: Whether scores are left unclipped.
        asr: What listens to clips without a transcript: recogniser, model and seconds, or ``none``;
            ``None`` where every clip has one.
    """

    engine: str
    max_fps: float | None
    faces: str
    raw: bool
    asr: str | None

    @classmethod
    def of(cls, scorer: ClipScorer, *, listens: bool) -> Settings:
        """Read the settings of a scorer.

        Args:
            scorer: The scorer.
            listens: Whether some clip has no transcript: the recogniser is then opened, where there is one.
        """
        vision = scorer.preprocessing.vision
        asr = scorer.listener.describe() if listens else None
        return cls(scorer.model.digest(), vision.max_fps, vision.faces, not scorer.clip_scores, asr)

    def key(self, clip: str, said: Transcript) -> Key:
        """Return the key of a clip.

        Args:
            clip: The SHA-256 of its bytes.
            said: Its transcript as it was given or read; without text where a recogniser has to listen.
        """
        settings = {name: getattr(self, name) for name in _OPTIONS}
        if said.text is None:
            return {"clip": clip, "transcript": None, "settings": settings}
        text = hashlib.sha256(said.text.encode("utf-8", "surrogatepass")).hexdigest()
        # Nobody listens to a clip whose words are known.
        return {"clip": clip, "transcript": text, "settings": {**settings, "asr": None}}


@dataclass
class Done:
    """What an earlier run has done.

    Args:
        lines: Its results in their order, failures left out.
        torn: Whether its last line was cut off and is dropped.
    """

    lines: list[Line] = field(default_factory=list)
    torn: bool = False
    _by_key: dict[str, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_key = {_flat(line["key"]): line for line in self.lines}

    def find(self, key: Key) -> Line | None:
        """Return the line of a key; ``None`` where the clip is still to be scored."""
        return self._by_key.get(_flat(key))


def read_done(out: Path, settings: Settings) -> Done:
    """Read what an earlier run wrote.

    Args:
        out: Its JSON lines; a file that is not there is an empty one.
        settings: What this run would score with.

    Returns:
        Its results; a torn last line and failures are dropped.

    Raises:
        UsageError: The file holds something else than such lines, or lines with other settings.
    """
    asked = f"cannot resume {out}"
    try:
        content = out.read_bytes() if out.exists() else b""
    except OSError as error:
        raise UsageError(asked, error.strerror or str(error), f"Check the file, or {_ELSEWHERE}") from error
    *whole, last = content.split(b"\n")
    lines: list[Line] = []
    for number, raw in enumerate(whole, 1):
        line = _parse(raw)
        if line is None or "clip" not in line:
            raise UsageError(
                asked,
                f"its line {number} is no result of taemi-infer",
                f"Check the file, or {_ELSEWHERE}",
            )
        if "error" in line:
            continue
        if not _is_key(line.get("key")):
            raise UsageError(
                asked,
                f"its line {number} has no key that says what was scored, and with what",
                f"It is of another version or tool: {_ELSEWHERE}",
            )
        _compare(asked, number, line["key"]["settings"], settings)
        lines.append(line)
    return Done(lines, torn=bool(last))


def _compare(asked: str, number: int, found: dict[str, Any], settings: Settings) -> None:
    for name, option in _OPTIONS.items():
        before, now = found[name], getattr(settings, name)
        if before == now or (name == "asr" and None in (before, now)):
            continue
        raise UsageError(
            asked,
            f"its line {number} was scored with {name} {_short(before)}, this run has {_short(now)}",
            f"Give the same {option} as then, or {_ELSEWHERE}",
        )


def rewrite(out: Path, lines: Iterable[Line]) -> None:
    """Replace a file by lines that are kept, as a whole.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Names that are no text stand as escapes, as the writer puts them.
    write_bytes(out, text.encode("utf-8", "backslashreplace"))


def sort_lines(out: Path) -> None:
    """Put the lines of a finished file into the order of the inputs.

    Raises:
        WriteError: The disk is full, or the place cannot be written to.
    """
    lines = [json.loads(raw) for raw in out.read_bytes().splitlines()]
    rewrite(out, sorted(lines, key=lambda line: line["index"]))


def take_up(
    out: Path, settings: Settings, clips: Sequence[ClipInput], texts: Transcripts
) -> list[tuple[int, ClipInput]]:
    """Leave in a file what this run need not do again, and return the rest.

    Lines are put into the order of the inputs, with their present names and places; those of clips that are
    not among the inputs stay before them as they are.

    Args:
        out: The JSON lines of an earlier run, if there was one.
        settings: What this run scores with.
        clips: Its inputs.
        texts: Their transcripts.

    Returns:
        The clips to score, with their places among the inputs.

    Raises:
        UsageError: The file was written by something else, or with other settings.
        WriteError: The disk is full, or the place cannot be written to.
    """
    done = read_done(out, settings)
    if not out.exists():
        return list(enumerate(clips))

    def find(clip: ClipInput) -> Line | None:
        if clip.error:
            return None
        try:
            said = texts.read(clip.path)
        except TaemiError:  # scoring says what is wrong with it
            return None
        return done.find(settings.key(clip_digest(clip.path), said))

    lines: list[Line | None] = [None] * len(clips)
    if done.lines:
        # Digests are computed outside the interpreter's lock.
        lines = map_all(find, clips, usable_cores(), "digest")
    names = {str(clip.path) for clip in clips}
    used = {id(line) for line in lines}
    others = [line for line in done.lines if id(line) not in used and line["clip"] not in names]
    kept = [
        {**line, "clip": str(clip.path), "index": index}
        for index, (clip, line) in enumerate(zip(clips, lines, strict=True))
        if line is not None
    ]
    if others:
        count = f"{len(others)} line{'s' * (len(others) != 1)}"
        _log.warning("%s holds %s of clips that are not among the inputs; kept as they are", out, count)
    rewrite(out, [*others, *kept])
    return [(index, clip) for index, clip in enumerate(clips) if lines[index] is None]


def _parse(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _is_key(key: Any) -> bool:
    return (
        isinstance(key, dict)
        and isinstance(key.get("clip"), str)
        and "transcript" in key
        and isinstance(key.get("settings"), dict)
        and set(key["settings"]) == set(_OPTIONS)
    )


def _flat(key: Key) -> str:
    # The settings are those of the run, or the file would have been refused.
    return f"{key['clip']} {key['transcript']}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}..." if len(text) == 64 else text
