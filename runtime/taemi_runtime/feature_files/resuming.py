"""Going on with a run over features that was cut off: the keys of ``taemi_runtime.resume`` for feature files.

A feature file is known by the digest of its bytes, which a store's index has; files that no index lists are
read for it. A file that was written again since is scored again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.feature_files.find import Features
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.manifest import file_sha256
from taemi_runtime.results import ClipFailure
from taemi_runtime.resume import Line, Settings, clip_digest, read_done, rewrite
from taemi_runtime.transcripts import Transcript
from taemi_runtime.writers import Outcome

if TYPE_CHECKING:
    from taemi_runtime.job import Job

# What stands where clips have the way in which their faces were cut out.
_FEATURES = "features"
# What a key has beside those of clips: the feature file's name.
_FILE = "file"


@dataclass(frozen=True)
class Keys:
    """What every line of a run says of what it was scored with.

    Args:
        settings: What scores depend on beside the file.
        features: The run's inputs.
        reads: Whether files that no index lists are read for their digest.
    """

    settings: Settings
    features: Features
    reads: bool

    @classmethod
    def of(cls, scorer: FeatureScorer, job: Job, features: Features) -> Keys:
        """Return the keys of a run."""
        engine = file_sha256(Path(scorer.stream.engine.info.path))
        settings = Settings(engine, max_fps=None, faces=_FEATURES, raw=not job.clip_scores, asr=None)
        return cls(settings, features, reads=job.out is not None)

    def mark(self, place: int, outcome: Outcome) -> Outcome:
        """Return an outcome with its key; one without where the file's digest is not known."""
        digest = self._digest(place) if not isinstance(outcome, ClipFailure) else ""
        if isinstance(outcome, ClipFailure) or not digest:
            return outcome
        key = {**self.settings.key(digest, Transcript()), _FILE: self.features.inputs[place].path.name}
        return replace(outcome, key=key)

    def take_up(self, out: Path) -> frozenset[int]:
        """Leave in a file what this run need not do again.

        Args:
            out: The JSON lines of an earlier run, if there was one.

        Returns:
            The places that are done.

        Raises:
            UsageError: The file was written by something else, or with other settings.
            WriteError: The disk is full, or the place cannot be written to.
        """
        done = read_done(out, self.settings)
        if not out.exists():
            return frozenset()
        kept: dict[int, Line] = {}
        used: set[int] = set()
        for place in range(len(self.features.inputs) if done.lines else 0):
            digest = self._digest(place)
            line = done.find(self.settings.key(digest, Transcript())) if digest else None
            # Of two files with the same bytes each has a line of its own.
            if line is not None and id(line) not in used:
                used.add(id(line))
                kept[place] = {**line, "index": place}
        # Another line of a file of this name is of what it held before.
        names = {item.path.name for item in self.features.inputs}
        others = [line for line in done.lines if id(line) not in used and line["key"].get(_FILE) not in names]
        rewrite(out, [*others, *kept.values()])
        return frozenset(kept)

    def _digest(self, place: int) -> str:
        item = self.features.inputs[place]
        if item.error or item.sha256 or not self.reads:
            return item.sha256
        return clip_digest(item.path)
