"""A split's clips, read as training reads them, each once, by processes that decode ahead.

Sound and vision come from whichever of the corpus's files has them (``taemi.clip_content``), or from a store.
What the curve over frame rates looks at is read with the clip; pictures that several rates share are kept,
and encoded, once.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from taemi.clip_content import Content, read_content
from taemi.corpus import FACES, ClipRow
from taemi.crops import read_crops
from taemi.store.files import clip_path
from taemi_runtime.calls import chunks
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.errors import MediaError
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.interrupts import next_of
from taemi_runtime.limits import DecodeLimits
from taemi_runtime.media import Clip, read_clip
from taemi_runtime.pool import DecodePool, Read, Task
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.results import ClipFailure
from taemi_runtime.scale import Scale

Frames = npt.NDArray[np.uint8]

# Sound and clip may be two files, each within the limit; crops take time, too.
_READS = 3


@dataclass(frozen=True)
class RowClip(Clip):
    """A clip of a corpus, decoded.

    Args:
        looks: For each frame rate that was asked for, which of ``frames`` are looked at.
        own_frames: How many of ``frames`` the model looks at; those after them are other rates'.
        features: [frames, width] float32, ready-made vision; ``None`` where there are pictures or nothing.
        remarks: What of the clip could not be read though it can be used.
    """

    looks: tuple[npt.NDArray[np.intp], ...] = ()
    own_frames: int = 0
    features: npt.NDArray[np.float32] | None = None
    remarks: tuple[str, ...] = ()


@dataclass
class RowDecoder:
    """Reads rows of a corpus; see ``taemi_runtime.decoding.Decoder``.

    Args:
        clips: What reads clips for the model.
        rates: Frame rates whose frames are wanted beside the model's own.
    """

    clips: ClipDecoder
    rates: tuple[float, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """What the model takes, with room for the frames of every rate."""
        taken = self.clips.preprocessing
        most = taken.vision.max_frames * (1 + len(self.rates))
        return replace(taken, vision=replace(taken.vision, max_frames=most))

    @property
    def limits(self) -> DecodeLimits:
        """What reading a row may ask for: it is read once more for every rate."""
        limits = self.clips.limits
        reads = _READS + len(self.rates)
        return replace(limits, max_decode_seconds=reads * limits.max_decode_seconds)

    @property
    def detector(self) -> FaceDetector | None:
        """What finds faces, opened now at the latest; for one thread at a time.

        Raises:
            TaemiError: It cannot be opened.
        """
        return self.clips.detector

    def decode(self, row: ClipRow, /) -> tuple[RowClip, float]:
        """Read a row.

        Returns:
            The clip, and the milliseconds that it took.

        Raises:
            MediaError: None of its files can be read.
        """
        start = time.perf_counter()
        content = read_content(row, self.clips.preprocessing, self.detector)
        frames: Frames | None = content.frames
        looks: tuple[npt.NDArray[np.intp], ...] = ()
        if self.rates:
            frames, looks = _join(content.frames, [self._look(row, rate) for rate in self.rates])
        clip = _clip(row, content, frames, looks, self.clips.preprocessing)
        return clip, (time.perf_counter() - start) * 1e3

    def _look(self, row: ClipRow, rate: float) -> Frames | None:
        """Return the frames that are looked at with ``--max-fps``."""
        taken = self.clips.preprocessing
        taken = replace(taken, vision=replace(taken.vision, max_fps=rate))
        if row.vision == FACES:
            return None if row.pictures is None else read_crops(row.pictures, taken.vision)[0]
        return read_clip(row.media, taken, audio=False, detector=self.detector).frames


@dataclass
class StoreDecoder:
    """Reads rows of a training store: sound as it was recorded, vision as features.

    Args:
        preprocessing: What the model takes.
        limits: Not used: a file of a store is read at once.
    """

    preprocessing: Preprocessing
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    detector: FaceDetector | None = None

    def decode(self, row: ClipRow, /) -> tuple[RowClip, float]:
        """Read a row; see ``RowDecoder.decode``.

        Raises:
            MediaError: The clip is not in the store, or its file is damaged.
        """
        start = time.perf_counter()
        path = clip_path(row.media.parent, row.name)
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise MediaError(
                f"cannot read features of clip {row.name}", str(error), "Extract it again: taemi extract"
            ) from error
        vision = arrays.get("vision")
        content = Content(arrays.get("waveform"), None, None if vision is None else vision.astype(np.float32))
        return _clip(row, content, None, (), self.preprocessing), (time.perf_counter() - start) * 1e3


def _clip(
    row: ClipRow,
    content: Content,
    frames: Frames | None,
    looks: tuple[npt.NDArray[np.intp], ...],
    taken: Preprocessing,
) -> RowClip:
    seen = content.frames is not None or content.features is not None
    waveform = None if content.waveform is None else content.waveform[: taken.audio.max_samples]
    seconds = 0.0 if waveform is None else waveform.size / taken.audio.rate_hz
    return RowClip(
        path=row.media,
        seconds=seconds,
        waveform=waveform,
        frames=frames,
        audio_seconds=seconds,
        vision_seconds=0.0,
        audio_truncated=False,
        vision_truncated=False,
        audio_why="" if waveform is not None else "the clip has no sound",
        vision_why="" if seen else "the clip has no picture",
        warnings=content.warnings,
        looks=looks,
        own_frames=0 if content.frames is None else len(content.frames),
        features=content.features,
        remarks=content.remarks,
    )


@dataclass(frozen=True)
class ReadRow:
    """What became of a row.

    Args:
        row: The row.
        clip: What was read; ``None`` where nothing could be.
        error: Why it could not be read.
    """

    row: ClipRow
    clip: RowClip | None = None
    error: str = ""


def read_rows(
    decoder: RowDecoder | StoreDecoder, rows: Sequence[ClipRow], scale: Scale
) -> Generator[list[ReadRow], None, None]:
    """Read rows in batches, in their order, so that what shares a call never depends on timing.

    Args:
        decoder: Reads them.
        rows: The rows.
        scale: How many processes read ahead, and how many rows a batch has.

    Yields:
        Batches; the arrays of one hold until the next is asked for.

    Raises:
        TaemiError: Workers cannot be started.
    """
    if not scale.workers:
        for some in chunks(rows, scale.batch):
            yield [_read_here(decoder, row) for row in some]
        return
    waiting: dict[int, Read] = {}
    results: queue.SimpleQueue[Read | Exception | None] = queue.SimpleQueue()
    tasks = (Task(index, row.media, what=row) for index, row in enumerate(rows))
    ahead = 2 * scale.batch
    with DecodePool(decoder, tasks, results.put, workers=scale.workers, ahead=ahead) as pool:
        del pool
        for indices in chunks(range(len(rows)), scale.batch):
            while any(index not in waiting for index in indices):
                found = next_of(results)
                if isinstance(found, Exception):
                    raise found
                if found is not None:
                    waiting[found.task.index] = found
            reads = [waiting.pop(index) for index in indices]
            with contextlib.ExitStack() as stack:
                for read in reads:
                    stack.callback(read.release)
                yield [_made(rows[read.task.index], read.clip, read.error) for read in reads]


def _read_here(decoder: RowDecoder | StoreDecoder, row: ClipRow) -> ReadRow:
    try:
        return _made(row, decoder.decode(row)[0], "")
    except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
        return _made(row, None, ClipFailure.from_error(row.name, error).error)


def _made(row: ClipRow, clip: Any, error: str) -> ReadRow:
    return ReadRow(row, clip if isinstance(clip, RowClip) else None, error)


def _join(
    own: Frames | None, others: Sequence[Frames | None]
) -> tuple[Frames | None, tuple[npt.NDArray[np.intp], ...]]:
    """Put the model's own frames and those of other rates together, each picture of the latter once.

    Returns:
        [frames, ...], the model's own first, and for each of ``others`` where its frames are.
    """
    kept = [] if own is None else list(own)
    places = {_digest(frame): place for place, frame in reversed(list(enumerate(kept)))}
    looks = []
    for frames in others:
        look = []
        for frame in () if frames is None else frames:
            digest = _digest(frame)
            if digest not in places:
                places[digest] = len(kept)
                kept.append(frame)
            look.append(places[digest])
        looks.append(np.array(look, dtype=np.intp))
    return (np.stack(kept) if kept else None), tuple(looks)


def _digest(frame: Frames) -> bytes:
    return hashlib.blake2b(frame.tobytes(), digest_size=16).digest()
