"""Reading a corpus's clips in other processes: no torch is imported there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace

from taemi.clip_content import Content, read_content
from taemi.corpus import ClipRow
from taemi.extract.changes import digests_of, stamps_of
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.errors import MediaError
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.preprocessing import Preprocessing

# Sound and clip may be two files, each within the limit; crops and digests take time, too.
_READS = 4


@dataclass(frozen=True)
class ReadClip(Content):
    """A clip that was read, and of which files.

    Args:
        stamps: Each file's name, size and time of change; see ``ClipFacts``.
        sha256: The digest of each file that was read.
    """

    stamps: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass
class CorpusDecoder:
    """Reads rows of a corpus; see ``taemi_runtime.decoding.Decoder``.

    Args:
        preprocessing: What the model takes.
        faces: The YuNet file where ``preprocessing`` names one by its digest; ``None`` elsewhere.
    """

    preprocessing: Preprocessing
    faces: str | None = None
    _clips: ClipDecoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._clips = ClipDecoder(self.preprocessing, self.faces)

    @property
    def limits(self) -> DecodeLimits:
        """What reading one clip may ask for."""
        limits = self._clips.limits
        return replace(limits, max_decode_seconds=_READS * limits.max_decode_seconds)

    @property
    def detector(self) -> FaceDetector | None:
        """What finds faces, opened now at the latest; for one thread at a time.

        Raises:
            TaemiError: It cannot be opened.
        """
        return self._clips.detector

    def decode(self, row: ClipRow, /) -> tuple[ReadClip, float]:
        """Read a clip.

        Returns:
            The clip, and the milliseconds that it took.

        Raises:
            MediaError: None of its files can be read, or one changed meanwhile.
        """
        start = time.perf_counter()
        stamps = stamps_of(row)
        content = read_content(row, self.preprocessing, self.detector)
        sha256 = digests_of(row, content.read)
        if stamps_of(row) != stamps:
            raise MediaError(f"cannot read clip {row.name}", "a file changed meanwhile", "Extract again")
        parts = {item.name: getattr(content, item.name) for item in fields(Content)}
        return ReadClip(**parts, stamps=stamps, sha256=sha256), (time.perf_counter() - start) * 1e3
