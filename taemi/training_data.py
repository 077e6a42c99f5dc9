"""What training reads: the usable clips of both splits, and how batches are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taemi.batches import Collate, FeatureCollate, load_batches
from taemi.corpus import ClipRow, Corpus
from taemi.features import FeatureStore
from taemi.recipe import MODALITIES, Recipe
from taemi.system import TaemiSystem
from taemi_runtime.errors import DataError
from taemi_runtime.tokens import Tokenizer

Tick = Callable[[str, int, int], None]
Warn = Callable[[str], None]


def told_once(warn: Warn) -> Warn:
    """Return what passes each sentence on once: epochs and runs repeat what makes them doubtful."""
    told: set[str] = set()

    def pass_on(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            warn(sentence)

    return pass_on


@dataclass(frozen=True)
class TrainingData:
    """The clips that are trained on and validated with.

    Args:
        store: Their features.
        train: The clips to train on.
        valid: The clips to validate with.
        collate: Makes a batch of clips.
        corpus: What the checkpoint says of them; see ``Progress``.
    """

    store: FeatureStore
    train: Sequence[ClipRow]
    valid: Sequence[ClipRow]
    collate: Callable[[Any], Any]
    corpus: str = ""

    def load(
        self, rows: Sequence[ClipRow], indices: Sequence[Sequence[int]], *, workers: int, pin: bool
    ) -> Iterator[Any]:
        """Yield batches of one of the splits; see ``load_batches``."""
        return load_batches(rows, self.store, self.collate, indices, workers=workers, pin=pin)

    def lengths(self, modalities: Sequence[str]) -> tuple[int, ...]:
        """Return how much of a batch each clip to train on takes: its frames of sound and vision."""
        audio = self.store.preprocessing.audio
        lengths = []
        for row in self.train:
            found = self.store.lengths(row.name)
            sound = found.get("audio") or (audio.frames(found["waveform"]) if "waveform" in found else 0)
            used = {"audio": sound, "vision": found.get("vision", 0)}
            lengths.append(sum(used[name] for name in modalities if name in used))
        return tuple(lengths)


def make_collate(system: TaemiSystem, recipe: Recipe) -> Callable[[Any], Any]:
    """Return what makes batches of clips as a recipe wants them."""
    if recipe.frozen:
        return FeatureCollate(
            {name: getattr(system.config, f"{name}_dim") for name in MODALITIES},
            tokens=system.config.text_is_sequence,
            modalities=recipe.modalities,
        )
    return Collate(
        Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text),
        system.preprocessing,
        system.config.vision_dim,
        pad_to_max=recipe.pad == "max",
        modalities=recipe.modalities,
    )


def extract_split(
    store: FeatureStore,
    corpus: Corpus,
    split: str,
    tick: Tick | None,
    warn: Warn | None,
) -> Sequence[ClipRow]:
    """Extract a split's features as far as they are not there; returns the clips that can be used.

    Raises:
        DataError: The split is missing, or none of its clips can be read.
    """
    rows = corpus.split(split)
    step = f"features of {split}"
    progress = (lambda done, total: tick(step, done, total)) if tick else None
    failures = store.extract(rows, progress, warn, split=(corpus, split))
    if warn is not None:
        for name, reason in failures.items():
            warn(f"clip {name} is left out: {reason}")
    usable = [row for row in rows if row.name not in failures]
    if not usable:
        name, reason = next(iter(failures.items()), ("", "the split file has no rows"))
        raise DataError(f"no clip of the {split} split can be used", f"{name} {reason}".strip())
    return usable
