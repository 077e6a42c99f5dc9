"""Several clips in shared calls: encoded together where that changes no result, fused together, told apart.

What one clip breaks is run again clip by clip, so that its error is its own and the others have their scores.
Integer graphs take the range of a whole call for their quantisation: there clips are never put together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from taemi_runtime.calls import chunks, join_inputs, most_rows, run_together
from taemi_runtime.clip_features import ClipFeatures, Encoded, SeenFrames, give_back, see_together
from taemi_runtime.contract import FUSION, SCORES
from taemi_runtime.encoding import ClipEncoder, is_said
from taemi_runtime.errors import EngineError, TaemiError
from taemi_runtime.media import Clip
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.spec import Array
from taemi_runtime.stopwatch import Stopwatch, stopwatch
from taemi_runtime.transcripts import Transcript

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer

Found = TypeVar("Found")

# Waveforms share a call when the shortest has at least this share of the longest one's samples: what fills it
# up is computed for nothing.
_SHORTEST = 0.8


@dataclass(frozen=True)
class DecodedClip:
    """A clip that is decoded, with what is said in it.

    Args:
        clip: What was decoded.
        said: Its transcript; one without text leaves it to the recogniser.
        name: The clip as it was named; its path when empty.
        decode_ms: How long decoding took, in milliseconds.
    """

    clip: Clip
    said: Transcript = field(default_factory=Transcript)
    name: str = ""
    decode_ms: float = 0.0


def score_together(scorer: ClipScorer, clips: Sequence[DecodedClip]) -> list[ClipResult | ClipFailure]:
    """Score decoded clips; see ``ClipScorer.score_batch``."""
    encoded = encode_together(scorer, clips)
    whole = [item for item in encoded if isinstance(item, ClipFeatures)]
    with contextlib.ExitStack() as stack:
        for features in whole:
            stack.callback(features.close)
        with stopwatch() as watch:
            scores = iter(fuse_together(scorer, whole))
        share_ms = watch.ms / max(1, len(whole))
        outcomes: list[ClipResult | ClipFailure] = []
        for given, item in zip(clips, encoded, strict=True):
            name = given.name or str(given.clip.path)
            found = next(scores) if isinstance(item, ClipFeatures) else item
            if isinstance(item, ClipFeatures) and not isinstance(found, Exception):
                item.spent_ms["fusion"] = share_ms
                total_ms = item.wall_ms + watch.wall_ms / len(whole)
                outcomes.append(scorer.conclude(name, item, found, total_ms))
            elif isinstance(found, Exception):
                outcomes.append(ClipFailure.from_error(name, found))
        return outcomes


def encode_together(scorer: ClipScorer, clips: Sequence[DecodedClip]) -> list[ClipFeatures | Exception]:
    """Encode decoded clips.

    Returns:
        For each clip its features, which the caller closes, or what went wrong with it.
    """
    encoder = scorer.encoder
    work = [_Work(item, item.said, {"decode": item.decode_ms}, item.decode_ms) for item in clips]
    for item in work:
        if item.said.text is None:
            with stopwatch() as watch:
                try:
                    item.said = scorer.hear(item.given.clip.path)
                except Exception as error:  # this clip's failure, whatever it is
                    item.error = error
            item.count("asr", watch)
    try:
        _encode_all(encoder, scorer, work)
        return [_conclude(encoder, item) for item in work]
    except BaseException:
        for item in work:
            item.close()
        raise


def _encode_all(encoder: ClipEncoder, scorer: ClipScorer, work: list[_Work]) -> None:
    for graph, encode, needs_it in _ENCODERS:
        some = [item for item in work if item.error is None and needs_it(item)]
        try:
            most = most_rows(scorer.model.engine(graph)) if some else 0
        except TaemiError as error:  # it cannot be opened: the failure of every clip that needs it
            for item in some:
                item.error = error
            continue
        if some:
            encode(encoder, scorer, some, most)


def fuse_together(
    scorer: ClipScorer, clips: Sequence[ClipFeatures]
) -> list[npt.NDArray[np.float32] | Exception]:
    """Score encoded clips in as few calls of the fusion graph as it takes.

    Returns:
        For each clip [outputs] float32, not clipped, or what went wrong with it.
    """
    engine = scorer.model.engine(FUSION)

    def fuse(some: Sequence[ClipFeatures]) -> list[npt.NDArray[np.float32]]:
        if len(some) == 1:
            return [scorer.fuse(some[0])]
        scores = engine.run(join_inputs(engine.spec, [clip.feeds() for clip in some]))[SCORES]
        if not np.isfinite(scores).all():
            raise EngineError("cannot use the scores of a batch", "some are not finite")  # each is run alone
        return list(scores)

    found: list[npt.NDArray[np.float32] | Exception] = []
    for group in chunks(clips, most_rows(engine)):
        found += run_together(fuse, group)
    return found


@dataclass
class _Work:
    """A clip on its way through the encoders."""

    given: DecodedClip
    said: Transcript
    spent_ms: dict[str, float]
    wall_ms: float
    error: Exception | None = None
    heard: Encoded | None = None
    seen: SeenFrames | None = None
    read: Encoded | None = None

    def count(self, stage: str, watch: Stopwatch, clips: int = 1) -> None:
        """Count its share of what so many clips took together."""
        self.spent_ms[stage] = self.spent_ms.get(stage, 0.0) + watch.ms / clips
        self.wall_ms += watch.wall_ms / clips

    def close(self) -> None:
        """Give back what lies on a device."""
        give_back((self.heard, self.read), self.seen)

    @property
    def has_sound(self) -> bool:
        waveform = self.given.clip.waveform
        return waveform is not None and waveform.size > 0

    @property
    def has_pictures(self) -> bool:
        frames = self.given.clip.frames
        return frames is not None and len(frames) > 0

    @property
    def has_text(self) -> bool:
        return is_said(self.said.text)


def _encode_sound(encoder: ClipEncoder, scorer: ClipScorer, work: list[_Work], most: int) -> None:
    def hear(some: Sequence[_Work]) -> list[Encoded]:
        waveforms = [item.given.clip.waveform for item in some if item.given.clip.waveform is not None]
        return encoder.hear(waveforms)

    ordered = sorted(work, key=_samples)
    fixed = scorer.preprocessing.audio.padded_samples is not None
    for group in _near(ordered, most, fixed=fixed):
        for item, found in zip(group, _timed("audio", hear, group), strict=True):
            if isinstance(found, Exception):
                item.error = found
            else:
                item.heard = found


def _encode_pictures(encoder: ClipEncoder, scorer: ClipScorer, work: list[_Work], most: int) -> None:
    """Encode frames: whole calls clip by clip, as alone; what is left of several clips shares calls."""

    def see(some: Sequence[_Work]) -> list[None]:
        calls = []
        for item in some:
            assert item.seen is not None  # as the whole calls are over
            rest = _rest(item, encoder.frames_a_call)
            calls.append((item.seen, rest, len(_frames(item)) - len(rest)))
        see_together(encoder, calls)
        return [None for _ in some]

    del scorer
    for item in work:
        frames = _frames(item)
        whole = frames[: len(frames) - len(_rest(item, encoder.frames_a_call))]
        with stopwatch() as watch:
            try:
                item.seen = SeenFrames(encoder)
                for call, part in enumerate(encoder.in_calls(whole)):
                    item.seen.see(part, call * encoder.frames_a_call)
            except Exception as error:  # this clip's failure, whatever it is
                item.error = error
        if len(whole):
            item.count("vision", watch)
    left = [item for item in work if item.error is None and len(_rest(item, encoder.frames_a_call))]
    for group in [[item] for item in left] if most == 1 else _fill(left, encoder.frames_a_call):
        for item, found in zip(group, _timed("vision", see, group), strict=True):
            if isinstance(found, Exception):
                item.error = found


def _encode_text(encoder: ClipEncoder, scorer: ClipScorer, work: list[_Work], most: int) -> None:
    def read(some: Sequence[_Work]) -> list[Encoded]:
        return encoder.read([item.said.text or "" for item in some])

    del scorer
    for group in chunks(work, most):
        for item, found in zip(group, _timed("text", read, group), strict=True):
            if isinstance(found, Exception):
                item.error = found
            else:
                item.read = found


_ENCODERS: tuple[
    tuple[str, Callable[[ClipEncoder, ClipScorer, list[_Work], int], None], Callable[[_Work], bool]], ...
] = (
    ("audio", _encode_sound, lambda item: item.has_sound),
    ("vision", _encode_pictures, lambda item: item.has_pictures),
    ("text", _encode_text, lambda item: item.has_text),
)


def _conclude(encoder: ClipEncoder, item: _Work) -> ClipFeatures | Exception:
    error = item.error
    if error is None:
        try:
            seen = item.seen.whole() if item.seen is not None else None
            encoded = (item.heard, seen, item.read)
            found = encoder.gather(item.given.clip, item.said, encoded, item.spent_ms)
            return replace(found, wall_ms=item.wall_ms)
        except Exception as caught:  # this clip's failure, whatever it is
            error = caught
    item.close()
    return error


def _timed(
    stage: str, run: Callable[[Sequence[_Work]], Sequence[Found]], group: list[_Work]
) -> list[Found | Exception]:
    """Run a group and share its time out evenly."""
    with stopwatch() as watch:
        found = run_together(run, group)
    for item in group:
        item.count(stage, watch, len(group))
    return found


def _near(ordered: list[_Work], most: int, *, fixed: bool) -> Iterator[list[_Work]]:
    """Cut clips in order of their samples into groups of nearly the same length."""
    group: list[_Work] = []
    for item in ordered:
        # The shortest of a group comes first.
        far = bool(group) and not fixed and _samples(group[0]) < _SHORTEST * _samples(item)
        if far or len(group) == most:
            yield group
            group = []
        group.append(item)
    yield group


def _fill(work: list[_Work], most: int) -> list[list[_Work]]:
    """Group clips so that what is left of their frames fits into calls of at most so many, the most first."""
    groups: list[list[_Work]] = []
    for item in sorted(work, key=lambda item: -len(_rest(item, most))):
        for group in groups:
            if sum(len(_rest(one, most)) for one in [*group, item]) <= most:
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _samples(item: _Work) -> int:
    waveform = item.given.clip.waveform
    return 0 if waveform is None else waveform.size


def _frames(item: _Work) -> Array:
    frames = item.given.clip.frames
    assert frames is not None  # only clips with frames come here
    return frames


def _rest(item: _Work, frames_a_call: int) -> Array:
    """Return the frames after the last whole call."""
    frames = _frames(item)
    return frames[len(frames) // frames_a_call * frames_a_call :]
