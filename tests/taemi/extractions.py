"""What the tests of extraction share: a small corpus, encoders, and what the command does."""

from __future__ import annotations

from pathlib import Path

from taemi.corpus import Layout, read_corpus
from taemi.extract.decoding import CorpusDecoder
from taemi.extract.encoders import FeatureEncoders
from taemi.extract.run import LocalEngine, extract
from taemi.extract.transcripts import Transcriber
from taemi.store.files import read_facts
from taemi_runtime.feature_files.layout import SUFFIX
from tests.taemi.broken_corpus import write_clip, write_split
from tests.taemi.small_systems import small

TRAIN, VALID, TEST = range(6), range(6, 9), range(12660, 12662)


def write_small_corpus(root: Path) -> Path:
    """Eleven whole clips: frames, sound, crops, words and features each."""
    for number in (*TRAIN, *VALID):
        write_clip(root, f"{number:05d}")
    for number in TEST:
        write_clip(root / "test", str(number))
    write_split(root / "train_split.csv", TRAIN)
    write_split(root / "valid_split.csv", VALID)
    return root


def make_system(*, seed: int = 1, max_fps: float | None = 5.0, faces: str = "none"):
    return small(seed=seed, max_fps=max_fps, faces=faces)


def run_extract(
    corpus: Path,
    store: Path,
    system,
    *,
    layout: Layout | None = None,
    splits=None,
    workers: int = 0,
    batch: int = 32,
    audio: bool = False,
    text: bool = False,
    asr: str = "none",
    decoder: type[CorpusDecoder] = CorpusDecoder,
    **options,
):
    """Extract as the command does, without its process."""
    found = read_corpus(corpus, layout)
    encoders = FeatureEncoders(
        system.vision_encoder,
        system.preprocessing,
        system.audio_encoder if audio else None,
        system.text_encoder if text else None,
        frames_at_once=batch,
    )
    transcriber = Transcriber(asr, device="cpu")
    engine = LocalEngine(encoders, transcriber, decoder(system.preprocessing), workers)
    chosen = {name: rows for name, rows in found.splits.items() if splits is None or name in splits}
    return extract(
        store,
        chosen,
        encoders.made_with(found.vision),
        transcriber,
        engine,
        corpus=found.name,
        synthetic=found.synthetic,
        **options,
    )


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, hidden ones included."""
    return {path.name: path.read_bytes() for path in store.iterdir()}


def times(store: Path) -> dict[str, int]:
    """When each clip's file was written."""
    return {path.stem: path.stat().st_mtime_ns for path in store.glob(f"*{SUFFIX}")}


def facts_of(store: Path, name: str):
    return read_facts(store / f"{name}{SUFFIX}")[1]
