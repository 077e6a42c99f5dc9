"""One model's scores of clips in every case, with no encoder run twice on the same thing.

A batch of clips is encoded as it is; what a case changes is encoded beside it, and only that: noise runs the
audio encoder, left-out words the text encoder. A frame's features depend on that frame alone, so every frame
is encoded once covered; each share of covered frames, like each frame rate, is put together from features.
Cases that come to the same for a clip are scored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi.corpus import ClipRow
from taemi.evaluate.cases import CONDITIONS, NOISE, OCCLUSION, RATE, WORDS, Robustness
from taemi.evaluate.disturbances import add_noise, count_of, cover_frames, drop_words, generator
from taemi.evaluate.reading import Frames, RowClip
from taemi.evaluate.work import Inputs, Present, Scored, Work, inputs_of, only_part
from taemi_runtime.batching import DecodedClip, encode_together, fuse_together
from taemi_runtime.calls import chunks
from taemi_runtime.clip_features import ClipFeatures
from taemi_runtime.closing import Closing
from taemi_runtime.contract import MODALITIES, PRESENT
from taemi_runtime.errors import DataError
from taemi_runtime.media import Clip
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.transcripts import Transcript

AUDIO, VISION, TEXT = MODALITIES
# Cases that share a call of the fusion graph: it holds that many sequences of 12 s.
_FUSED_AT_ONCE = 16


class CaseScorer(Closing):
    """Scores clips in every case; see the module.

    Args:
        path: The model as it was named.
        scorer: The model; it is closed with this.
        robustness: The levels of the curves.
        seed: What is random about them depends on it.
    """

    def __init__(self, path: Path, scorer: ClipScorer, robustness: Robustness, seed: int) -> None:
        self.path = path
        self.scorer = scorer
        self._levels = robustness
        self._seed = seed
        self._nothing: ClipFeatures | None = None
        self._width = scorer.model.manifest.graphs["vision"].outputs[0].shape[-1]

    def score(self, batch: Sequence[tuple[ClipRow, RowClip]]) -> list[Scored | Exception]:
        """Score clips.

        Args:
            batch: The clips, so many as are encoded at a time.

        Returns:
            For each its scores, or what went wrong with it.

        Raises:
            DataError: Ready-made features are not as wide as the vision encoder's.
            TaemiError: An engine cannot be opened.
        """
        encoded = self._encode([self._decoded(row, clip) for row, clip in batch], len(batch))
        work: list[Work] = []
        for (row, clip), features in zip(batch, encoded, strict=True):
            if isinstance(features, ClipFeatures):
                work.append(self._begin(row, clip, features))
        for item in work:
            self._plan_conditions(item)
        for plan in (self._plan_noise, self._plan_covered, self._plan_words, self._plan_rates):
            plan(work)
        self._fuse(work)
        done = iter(work)
        return [
            next(done).conclude() if isinstance(features, ClipFeatures) else features for features in encoded
        ]

    def close(self) -> None:
        """Close the model; closing twice does nothing."""
        self.scorer.close()

    def _decoded(self, row: ClipRow, clip: RowClip) -> DecodedClip:
        frames = clip.frames[: clip.own_frames] if clip.frames is not None and clip.own_frames else None
        # A transcript that is not there is an empty one: nobody listens.
        return DecodedClip(replace(clip, frames=frames), Transcript(row.transcript, "file"), row.name)

    def _encode(self, clips: Sequence[DecodedClip], at_once: int) -> list[ClipFeatures | Exception]:
        found: list[ClipFeatures | Exception] = []
        for some in chunks(clips, max(1, at_once)):
            for features in encode_together(self.scorer, some):
                if isinstance(features, ClipFeatures):
                    features.bring()
                elif self.scorer.model.refused(features):
                    raise features
                found.append(features)
        return found

    def _begin(self, row: ClipRow, clip: RowClip, features: ClipFeatures) -> Work:
        if self._nothing is None:
            nothing = replace(clip, waveform=None, frames=None, features=None)
            self._nothing = self.scorer.encoder.gather(nothing, Transcript(), (None, None, None), {})
        if clip.features is not None:
            if clip.features.shape[1] != self._width:
                raise DataError(
                    f"cannot score the features {row.pictures}",
                    f"they are {clip.features.shape[1]} wide, the vision encoder's {self._width}",
                    "Name the folder of those that the model was trained on, or let its encoder look at "
                    "pictures: --vision-from raw",
                )
            features.inputs.update(self._seen(clip, clip.features))
            features.inputs[PRESENT] = features.inputs[PRESENT] | np.array([[False, True, False]])
        return Work(row, clip, features, tuple(features.inputs[PRESENT][0].tolist()))

    def _plan_conditions(self, work: Work) -> None:
        for flags in CONDITIONS:
            self._plan_some(work, tuple(has and flag for has, flag in zip(work.has, flags, strict=True)))

    def _plan_some(self, work: Work, present: Present) -> None:
        """Plan a case in which some of what a clip has is left out."""
        assert self._nothing is not None  # since the first clip
        name = "+".join(modality for modality, flag in zip(MODALITIES, present, strict=True) if flag)
        work.cases.append(name)
        if name not in work.made:
            # What is left out is one frame long, so that it costs nothing.
            parts = [
                inputs_of(modality, (work.base if flag else self._nothing).inputs)
                for modality, flag in zip(MODALITIES, present, strict=True)
            ]
            work.made[name] = {**parts[0], **parts[1], **parts[2], PRESENT: np.array([present])}

    def _plan_without(self, work: Work, modality: str) -> None:
        keeps = (has and name != modality for name, has in zip(MODALITIES, work.has, strict=True))
        self._plan_some(work, tuple(keeps))

    def _plan_noise(self, work: Sequence[Work]) -> None:
        jobs: list[tuple[Work, str, DecodedClip]] = []
        for item in work:
            for snr_db in self._levels.noise:
                waveform = item.clip.waveform
                if not item.has[0] or waveform is None or not waveform.any():
                    self._plan_some(item, item.has)
                    continue
                noisy = add_noise(waveform, snr_db, generator(self._seed, item.row.name, NOISE.name))
                item.cases.append(name := f"{NOISE.name} {snr_db}")
                jobs.append((item, name, only_part(item.clip, waveform=noisy)))
        self._encode_parts(AUDIO, jobs, len(work))

    def _plan_words(self, work: Sequence[Work]) -> None:
        jobs: list[tuple[Work, str, DecodedClip]] = []
        for item in work:
            asked: set[str] = set()
            for share in self._levels.words:
                words = item.row.transcript
                rest = drop_words(words, share, generator(self._seed, item.row.name, WORDS.name))
                if not item.has[2] or len(rest.split()) == len(words.split()):
                    self._plan_some(item, item.has)
                elif not rest:
                    self._plan_without(item, TEXT)
                else:
                    item.cases.append(name := f"{WORDS.name} {rest}")
                    if name not in asked:
                        jobs.append((item, name, only_part(item.clip, words=rest)))
                    asked.add(name)
        self._encode_parts(TEXT, jobs, len(work))

    def _encode_parts(
        self, modality: str, jobs: Sequence[tuple[Work, str, DecodedClip]], at_once: int
    ) -> None:
        found = self._encode([clip for _, _, clip in jobs], at_once)
        for (item, name, _), features in zip(jobs, found, strict=True):
            if isinstance(features, ClipFeatures):
                item.made[name] = item.swap(modality, features.inputs)
            else:
                item.error = features

    def _plan_covered(self, work: Sequence[Work]) -> None:
        for item in work if self._levels.occlusion else ():
            frames = item.clip.frames
            if frames is None or not item.clip.own_frames:
                for _ in self._levels.occlusion:
                    self._plan_some(item, item.has)
                continue
            own = frames[: item.clip.own_frames]
            covered, order = cover_frames(own, generator(self._seed, item.row.name, OCCLUSION.name))
            seen, clean = self._try_see(item, covered), self._own_features(item)
            for share in self._levels.occlusion:
                mixed, some = clean.copy(), order[: count_of(share, len(own))]
                if seen is not None:
                    mixed[some] = seen[some]
                item.cases.append(name := f"{OCCLUSION.name} {share}")
                item.made[name] = item.swap(VISION, self._seen(item.clip, mixed))

    def _plan_rates(self, work: Sequence[Work]) -> None:
        for item in work if self._levels.max_fps else ():
            own, frames = item.clip.own_frames, item.clip.frames
            seen = self._own_features(item)
            more = self._try_see(item, frames[own:]) if frames is not None and len(frames) > own else None
            if more is not None:
                seen = np.concatenate([seen, more]) if own else more
            for rate, look in zip(self._levels.max_fps, item.clip.looks, strict=True):
                if not len(look):
                    self._plan_without(item, VISION)
                elif np.array_equal(look, np.arange(own)):
                    self._plan_some(item, item.has)
                elif item.error is None:
                    item.cases.append(name := f"{RATE.name} {rate}")
                    item.made[name] = item.swap(VISION, self._seen(item.clip, seen[look]))

    def _own_features(self, item: Work) -> npt.NDArray[np.float32]:
        features: npt.NDArray[np.float32] = item.base.inputs[VISION][0, : item.clip.own_frames]
        return features

    def _try_see(self, item: Work, frames: Frames) -> npt.NDArray[np.float32] | None:
        """Encode frames; what goes wrong is the clip's error."""
        encoder = self.scorer.encoder
        try:
            return np.concatenate([encoder.see(part) for part in encoder.in_calls(frames)])
        except Exception as error:  # this clip's failure, whatever it is
            item.error = error
            return None

    def _seen(self, clip: Clip, features: npt.NDArray[np.float32]) -> Inputs:
        feeds: Inputs = {}
        self.scorer.encoder.put_vision(clip, features, feeds)
        return feeds

    def _fuse(self, work: Sequence[Work]) -> None:
        """Score everything that was planned; sequences of one call have the same modalities."""
        groups: dict[Present, list[tuple[Work, str]]] = {}
        for item in work:
            for name in dict.fromkeys(item.cases if item.error is None else ()):
                present = tuple(item.made[name][PRESENT][0].tolist())
                groups.setdefault(present, []).append((item, name))
        for group in groups.values():
            for some in chunks(group, _FUSED_AT_ONCE):
                clips = [replace(item.base, inputs=item.made[name], resident={}) for item, name in some]
                for (item, name), scores in zip(some, fuse_together(self.scorer, clips), strict=True):
                    if isinstance(scores, Exception):
                        item.error = scores
                    else:
                        item.scores[name] = scores
