"""The synthetic corpus: its layout, its statistics, and that it can be learned from."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from taemi.corpus import Corpus, read_corpus
from taemi.synth import write_corpus
from taemi.synth.face import draw_frames
from taemi.synth.latent import NONZERO_SHARES, draw_scene, generator
from taemi.synth.voice import speak
from taemi.synth.words import write_transcript
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import DataError, UsageError
from taemi_runtime.media import read_clip
from taemi_runtime.preprocessing import Preprocessing, VisionPreprocessing

CLIPS, SEED = 40, 11
PREPROCESSING = Preprocessing(vision=VisionPreprocessing(height=64, width=64))


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "corpus"
    write_corpus(out, clips=CLIPS, seed=SEED, workers=1)
    return out


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return read_corpus(root)


def test_the_layout_is_that_of_the_true_corpus(root: Path, corpus: Corpus) -> None:
    header = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        lines = (root / f"{split}_split.csv").read_text().splitlines()
        assert lines[0] == header
        assert len(lines) == count + 1
        for row in corpus.splits[split]:
            assert row.media.is_file()
            assert row.media.parent == (root / "test_data" if split == "test" else root) / "raw"
    names = [row.name for split in ("train", "valid", "test") for row in corpus.splits[split]]
    assert names == [f"{index:05d}" for index in range(CLIPS)]
    assert not list(root.rglob("*.part"))


def test_it_says_that_it_is_synthetic(root: Path, corpus: Corpus) -> None:
    assert corpus.synthetic
    mark = json.loads((root / "corpus.json").read_text())
    assert (mark["synthetic"], mark["seed"], mark["clips"], mark["version"]) == (True, SEED, CLIPS, 1)
    readme = (root / "README.txt").read_text()
    assert "SYNTHETIC" in readme
    assert "no speech" in readme


def test_clips_are_short_h264_and_aac(corpus: Corpus) -> None:
    lacking = []
    for row in (row for rows in corpus.splits.values() for row in rows):
        with av.open(str(row.media)) as container:
            codecs = [stream.codec_context.name for stream in container.streams]
        clip = read_clip(row.media, PREPROCESSING)
        assert clip.warnings == ()
        assert 1.9 < clip.seconds < 4.2
        assert clip.frames is not None
        assert len(clip.frames) == pytest.approx(clip.seconds * 11, rel=0.15)
        if clip.waveform is None:
            assert codecs == ["h264"]
            lacking.append(row.name)
        else:
            assert codecs == ["h264", "aac"]
            assert 0.15 < np.abs(clip.waveform).max() <= 1.0
    assert lacking == ["00027"]


def test_some_transcripts_are_empty_or_missing(root: Path, corpus: Corpus) -> None:
    rows = [row for rows in corpus.splits.values() for row in rows]
    assert [row.name for row in rows if not row.transcript] == ["00007", "00019", "00039"]
    assert (root / "text" / "00007.txt").read_bytes() == b""
    assert not (root / "text" / "00019.txt").exists()
    assert len({row.transcript for row in rows}) > 0.8 * CLIPS


def test_labels_are_fractions_of_raters(corpus: Corpus) -> None:
    fractions = {round(k / n, 6) for n in (2, 3, 4, 5) for k in range(n + 1)}
    for row in (row for rows in corpus.splits.values() for row in rows):
        assert {round(label, 6) for label in row.labels} <= fractions
    # All six labels of a clip come from the same raters.
    for row in corpus.splits["train"]:
        assert any(
            all(abs(label * n - round(label * n)) < 1e-4 for label in row.labels) for n in (2, 3, 4, 5)
        )


def test_labels_are_as_sparse_as_the_true_ones() -> None:
    labels = np.array([draw_scene(5, index).labels for index in range(4_000)])
    np.testing.assert_allclose((labels > 0).mean(axis=0), NONZERO_SHARES, atol=0.025)
    assert labels.min() == 0
    assert labels.max() == 1
    correlations = np.corrcoef(labels.T)
    excitement, joy, determination = (EMOTIONS.index(name) for name in ("Excitement", "Joy", "Determination"))
    assert correlations[excitement, joy] == pytest.approx(0.229, abs=0.08)
    assert correlations[determination, joy] == pytest.approx(-0.143, abs=0.08)


def test_any_number_of_workers_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "two", clips=CLIPS, seed=SEED, workers=2)
    assert digests(tmp_path / "two") == digests(root)


def test_clips_depend_on_seed_and_index_only(root: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "small", clips=5, seed=SEED, workers=1)
    for index in range(4):
        name = f"raw/{index:05d}.mp4"
        assert (tmp_path / "small" / name).read_bytes() == (root / name).read_bytes()
    write_corpus(tmp_path / "other", clips=5, seed=SEED + 1, workers=1)
    assert (tmp_path / "other/raw/00000.mp4").read_bytes() != (root / "raw/00000.mp4").read_bytes()
    assert generator(0, 3, "voice").random() != generator(0, 3, "face").random()


def test_an_interrupted_corpus_is_finished(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(out, clips=CLIPS, seed=SEED, workers=1, progress=stop)
    assert seen == [(done, CLIPS) for done in range(1, 6)]
    # Whoever reads it now is told so instead of getting half a corpus.
    with pytest.raises(DataError, match=r"train_split\.csv"):
        read_corpus(out)
    (out / "raw" / ".00005.mp4.abc.part").write_bytes(b"half a clip")
    summary = write_corpus(out, clips=CLIPS, seed=SEED, workers=1)
    assert summary.written == CLIPS - 5
    assert digests(out) == digests(root)


def test_a_finished_corpus_is_left_as_it_is(root: Path) -> None:
    before = digests(root)
    summary = write_corpus(root, clips=CLIPS, seed=SEED, workers=1)
    assert summary.written == 0
    assert (summary.train, summary.valid, summary.test) == (24, 8, 8)
    assert (summary.without_audio, summary.without_transcript) == (1, 3)
    assert digests(root) == before


def test_other_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"--clips {CLIPS} --seed {SEED}"):
        write_corpus(root, clips=CLIPS, seed=SEED + 1, workers=1)
    with pytest.raises(DataError, match="40 clips"):
        write_corpus(root, clips=CLIPS + 1, seed=SEED, workers=1)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_corpus(tmp_path, clips=5, seed=0, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="is a file"):
        write_corpus(tmp_path / "mine.txt", clips=5, seed=0, workers=1)


def test_a_corpus_of_another_generator_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "corpus.json", tmp_path / "corpus.json")
    path = tmp_path / "corpus.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(DataError, match="generator version 99"):
        write_corpus(tmp_path, clips=CLIPS, seed=SEED, workers=1)
    path.write_text("{}")
    with pytest.raises(DataError, match="unreadable"):
        write_corpus(tmp_path, clips=CLIPS, seed=SEED, workers=1)


@pytest.mark.parametrize("wrong", [{"clips": 4}, {"clips": 100_001}, {"seed": -1}, {"workers": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_corpus(tmp_path / "corpus", **{"clips": 5, "seed": 0, "workers": 1, **wrong})
    assert not (tmp_path / "corpus").exists()


def test_the_smallest_corpus_has_every_split(tmp_path: Path) -> None:
    summary = write_corpus(tmp_path, clips=5, seed=0, workers=1)
    assert (summary.train, summary.valid, summary.test) == (3, 1, 1)
    assert {name: len(rows) for name, rows in read_corpus(tmp_path).splits.items()} == {
        "train": 3,
        "valid": 1,
        "test": 1,
    }


def words_of(text: str) -> set[str]:
    tokens = text.lower().replace(",", "").replace(".", "").split()
    return {*tokens, *(" ".join(pair) for pair in itertools.pairwise(tokens))}


def timbre(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mean and spread over time of log energies in 32 bands, and how loudness is modulated."""
    spectra = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(waveform, 512)[::256])) ** 2
    edges = np.unique(np.geomspace(2, 256, 33).astype(int))
    bands = np.log(1e-6 + np.add.reduceat(spectra, edges[:-1], axis=1))
    loudness = bands.mean(axis=1)
    modulation = np.abs(np.fft.rfft(loudness - loudness.mean(), 2 * rate_hz // 256))[1:61].reshape(20, 3)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0), np.log(1e-3 + modulation.mean(axis=1))])


def ridge_rho(features: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """Fit a linear model on the first 60 % and return the mean correlation over emotions on the rest."""
    train = len(features) * 6 // 10
    centred = features - features[:train].mean(axis=0)
    gram = centred[:train] @ centred[:train].T + penalty * np.eye(train)
    weights = np.linalg.solve(gram, labels[:train] - labels[:train].mean(axis=0))
    predicted = centred[train:] @ centred[:train].T @ weights
    rho = [np.corrcoef(predicted[:, k], labels[train:, k])[0, 1] for k in range(len(EMOTIONS))]
    return float(np.mean(rho))


def test_words_tell_most_then_voice_then_face() -> None:
    clips = 500
    scenes = [draw_scene(SEED, index) for index in range(clips)]
    labels = np.array([scene.labels for scene in scenes])
    texts, sounds, looks = [], [], []
    for index, scene in enumerate(scenes):
        texts.append(words_of(write_transcript(scene.grades, generator(SEED, index, "words"))))
        voice = speak(scene.voice, 2.0, generator(SEED, index, "voice"))
        sounds.append(timbre(voice.waveform / voice.waveform.std(), 24_000))
        frames = draw_frames(scene.face, voice, 1.0, 2, generator(SEED, index, "face"))
        small = np.mean([frame[::4, ::4] / 255 for frame in frames], axis=0)
        looks.append(small.ravel())
    vocabulary = sorted(set().union(*texts))
    bags = np.array([[word in text for word in vocabulary] for text in texts], dtype=float)
    scaled = np.array(sounds)
    scaled = (scaled - scaled.mean(axis=0)) / scaled.std(axis=0)
    text, audio, vision = (
        ridge_rho(bags, labels, 3.0),
        ridge_rho(scaled, labels, 200.0),
        ridge_rho(np.array(looks), labels, 10.0),
    )
    assert text > audio + 0.05
    assert audio > vision + 0.05
    assert vision > 0.12
