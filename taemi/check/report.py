"""What ``taemi check`` finds, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Effect(StrEnum):
    """What a finding does to training, the worst first."""

    STOPS = "stops training"
    LEFT_OUT = "clip is left out"
    MISSING = "counts as missing"
    PART = "a part is left out"
    NOTE = "handled"


class State(StrEnum):
    """Whether a clip has a modality."""

    THERE = "there"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    Args:
        effect: What it does to training.
        kind: What it is, in a few words that all of its kind share.
        file: The file or folder, from the corpus's folder on.
        what: What was found in it.
        split: The split; empty where it concerns no single one.
        clip: The clip; empty where it concerns no single one.
    """

    effect: Effect
    kind: str
    file: str
    what: str
    split: str = ""
    clip: str = ""


@dataclass(frozen=True)
class Counts:
    """Clips of a split that have a modality, lack it, or have only files of it that cannot be read."""

    there: int
    missing: int
    broken: int


@dataclass(frozen=True)
class Durations:
    """Lengths of clips, in seconds, as their containers say.

    Args:
        clips: Clips whose length is known.
        unknown: Clips whose container does not say.
        total_s: All together.
        mean_s: Mean.
        p95_s: 95th percentile.
        min_s: The shortest.
        max_s: The longest.
    """

    clips: int
    unknown: int
    total_s: float
    mean_s: float
    p95_s: float
    min_s: float
    max_s: float


@dataclass(frozen=True)
class LabelStatistics:
    """Labels of a split, in the order of ``EMOTIONS``.

    Args:
        clips: Clips with labels.
        nonzero_share: Share of clips with a label above 0.
        mean: Mean label.
        correlation: Pearson's correlation of each pair; ``None`` where a label never changes.
    """

    clips: int
    nonzero_share: tuple[float, ...]
    mean: tuple[float, ...]
    correlation: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class SplitReport:
    """What is in a split.

    Args:
        split: Its name.
        listed: Where its clips are listed: the split file, or the folder where there is none.
        rows: Clips that are listed.
        known: Clips of the split as it is handed out; ``None`` for a synthetic corpus.
        usable: Clips that can be read, in part at least.
        left_out: The others.
        audio: Clips with sound.
        vision: Clips with pictures or features, from where the corpus's vision comes from.
        text: Clips with words.
        durations: Lengths; ``None`` where none is known.
        labels: Statistics of the labels; ``None`` where there are none.
        features: Width of the features in each folder of pickles.
    """

    split: str
    listed: str
    rows: int
    known: int | None
    usable: int
    left_out: int
    audio: Counts
    vision: Counts
    text: Counts
    durations: Durations | None
    labels: LabelStatistics | None
    features: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusReport:
    """What is in a corpus.

    Args:
        corpus: Its folder.
        synthetic: Whether it says of itself that it is synthetic.
        vision: Where vision comes from: ``raw``, ``face_images``, or a folder of feature pickles.
        test_folder: The folder of the test clips; empty where there is none.
        trains: Whether training can use it.
        splits: Its splits.
        findings: What is wrong or odd, the worst first.
    """

    corpus: str
    synthetic: bool
    vision: str
    test_folder: str
    trains: bool
    splits: tuple[SplitReport, ...]
    findings: tuple[Finding, ...]
