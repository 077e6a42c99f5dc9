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
from taemi.synth import VERSION, write_corpus
from taemi.synth.face import draw_frames
from taemi.synth.latent import LONGEST_S, NONZERO_SHARES, draw_scene, generator
from taemi.synth.voice import speak
from taemi.synth.words import write_transcript
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import DataError, UsageError
from taemi_runtime.media import read_clip
from taemi_runtime.preprocessing import Preprocessing, VisionPreprocessing

# Enough for one of each kind of clip that lacks something; and as few as have every split.
CLIPS, FEW, SEED = 30, 8, 11
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
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "small"
    write_corpus(out, clips=FEW, seed=SEED, workers=1)
    return out


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return read_corpus(root)


def test_the_layout_is_that_of_the_true_corpus(root: Path, corpus: Corpus) -> None:
    header = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
    for split, count in (("train", 18), ("valid", 6), ("test", 6)):
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
    assert (mark["synthetic"], mark["seed"], mark["clips"], mark["version"]) == (True, SEED, CLIPS, VERSION)
    readme = (root / "README.txt").read_text()
    assert "SYNTHETIC" in readme
    assert "no speech" in readme


def test_clips_are_h264_and_aac_of_the_scenes_length(corpus: Corpus) -> None:
    silent, faceless = [], []
    for row in (row for rows in corpus.splits.values() for row in rows):
        scene = draw_scene(SEED, int(row.name))
        with av.open(str(row.media)) as container:
            codecs = [stream.codec_context.name for stream in container.streams]
        clip = read_clip(row.media, PREPROCESSING)
        # A clip is as long as its sound; AAC adds a block, and a lone frame lasts as long as it is shown.
        assert clip.seconds == pytest.approx(scene.seconds, abs=0.2)
        assert clip.frames is not None
        assert len(clip.frames) == max(1, round(scene.seconds * scene.fps))
        if clip.waveform is None:
            assert codecs == ["h264"]
            silent.append(row.name)
        else:
            assert codecs == ["h264", "aac"]
            assert 0.05 < np.abs(clip.waveform).max() <= 1.05
        if not scene.has_face:
            faceless.append(row.name)
    assert silent == ["00027"]
    assert faceless == ["00013"]


def test_some_transcripts_are_empty_or_missing(root: Path, corpus: Corpus) -> None:
    rows = [row for rows in corpus.splits.values() for row in rows]
    assert [row.name for row in rows if not row.transcript] == ["00007", "00019", "00023"]
    assert (root / "text" / "00007.txt").read_bytes() == b""
    assert not (root / "text" / "00019.txt").exists()
    assert len({row.transcript for row in rows}) > 0.8 * CLIPS


def test_durations_are_spread_as_the_true_ones() -> None:
    seconds = np.array([draw_scene(3, index).seconds for index in range(8_000)])
    assert seconds.mean() == pytest.approx(6.92, rel=0.02)
    assert np.percentile(seconds, 95) == pytest.approx(11.48, rel=0.02)
    assert 0.064 <= seconds.min() < 0.1
    assert 16 < seconds.max() <= LONGEST_S
    # Snippets are a kind of their own; windows of 12 seconds are too short for a few clips.
    assert (seconds < 1).mean() == pytest.approx(1 / 64, rel=0.05)
    assert 0.02 < (seconds > 12).mean() < 0.06


def test_words_come_in_three_grades_of_equal_share() -> None:
    grades = np.array([draw_scene(6, index).grades for index in range(6_000)])
    shares = np.array([(grades == grade).mean(axis=0) for grade in (1, 2, 3)])
    np.testing.assert_allclose(shares, shares.mean(axis=0, keepdims=True).repeat(3, 0), atol=0.015)


def test_covers_and_noise_come_in_a_quarter_of_the_clips() -> None:
    scenes = [draw_scene(7, index) for index in range(2_000)]
    assert np.mean([scene.occluded for scene in scenes]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([scene.noisy for scene in scenes]) == pytest.approx(0.25, abs=0.04)


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


def test_what_is_put_into_words_is_marked_by_raters() -> None:
    """Also of the rarest: faint words that no rater marks would teach a model that they mean nothing."""
    scenes = [draw_scene(5, index) for index in range(4_000)]
    labels, grades = (np.array([getattr(scene, name) for scene in scenes]) for name in ("labels", "grades"))
    for column in range(len(EMOTIONS)):
        means = [labels[grades[:, column] == grade, column].mean() for grade in range(4)]
        assert means[0] < 0.05 < 0.1 < means[1] < means[2] < means[3], (EMOTIONS[column], means)


def test_any_number_of_workers_writes_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "two", clips=FEW, seed=SEED, workers=2)
    assert digests(tmp_path / "two") == digests(small)


def test_clips_depend_on_seed_and_index_only(root: Path, small: Path, tmp_path: Path) -> None:
    for index in range(6):
        name = f"raw/{index:05d}.mp4"
        assert (small / name).read_bytes() == (root / name).read_bytes()
    write_corpus(tmp_path / "other", clips=5, seed=SEED + 1, workers=1)
    assert (tmp_path / "other/raw/00000.mp4").read_bytes() != (root / "raw/00000.mp4").read_bytes()
    assert generator(0, 3, "voice").random() != generator(0, 3, "face").random()


def test_an_interrupted_corpus_is_finished(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(out, clips=FEW, seed=SEED, workers=1, progress=stop)
    assert seen == [(done, FEW) for done in range(1, 4)]
    # Whoever reads it now is told so instead of getting half a corpus.
    with pytest.raises(DataError, match=r"train_split\.csv"):
        read_corpus(out)
    (out / "raw" / ".00003.mp4.abc.part").write_bytes(b"half a clip")
    summary = write_corpus(out, clips=FEW, seed=SEED, workers=1)
    assert summary.written == FEW - 3
    assert digests(out) == digests(small)


def test_a_finished_corpus_is_left_as_it_is(root: Path) -> None:
    before = digests(root)
    summary = write_corpus(root, clips=CLIPS, seed=SEED, workers=1)
    assert summary.written == 0
    assert (summary.train, summary.valid, summary.test) == (18, 6, 6)
    assert (summary.without_audio, summary.without_face, summary.without_transcript) == (1, 1, 3)
    assert digests(root) == before


def test_other_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"--clips {CLIPS} --seed {SEED}"):
        write_corpus(root, clips=CLIPS, seed=SEED + 1, workers=1)
    with pytest.raises(DataError, match=f"{CLIPS} clips"):
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
    path.write_text(path.read_text().replace(f'"version": {VERSION}', '"version": 99'))
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


def test_words_tell_most_and_the_voice_tells_something() -> None:
    clips = 300
    scenes = [draw_scene(SEED, index) for index in range(clips)]
    labels = np.array([scene.labels for scene in scenes])
    texts, sounds = [], []
    for index, scene in enumerate(scenes):
        rng = generator(SEED, index, "words")
        texts.append(words_of(write_transcript(scene.grades, scene.seconds, rng, held_out=False)))
        voice = speak(scene.voice, 2.0, generator(SEED, index, "voice"), noisy=scene.noisy)
        sounds.append(timbre(voice.waveform / voice.waveform.std(), 24_000))
    vocabulary = sorted(set().union(*texts))
    bags = np.array([[word in text for word in vocabulary] for text in texts], dtype=float)
    scaled = np.array(sounds)
    scaled = (scaled - scaled.mean(axis=0)) / scaled.std(axis=0)
    text, audio = ridge_rho(bags, labels, 3.0), ridge_rho(scaled, labels, 200.0)
    assert text > audio + 0.05
    assert audio > 0.15


def test_bursts_of_noise_are_added_and_die_away() -> None:
    scene = draw_scene(SEED, 0)
    clean, noisy = (
        speak(scene.voice, 5.0, generator(SEED, 0, "voice"), noisy=flag).waveform for flag in (False, True)
    )
    added = np.abs(noisy - clean)
    assert added.max() > 0.1
    # One to three bursts of at most 0.8 s each.
    assert 0.02 < (added > 1e-6).mean() < 0.5
    assert np.abs(noisy).max() <= 1


def test_a_snippet_of_a_clip_has_a_sound_and_a_frame(tmp_path: Path) -> None:
    scene = draw_scene(SEED, 0)
    voice = speak(scene.voice, 0.064, generator(SEED, 0, "voice"))
    assert voice.waveform.size == 1536
    frames = list(draw_frames(scene.face, voice, 0.064, 8, generator(SEED, 0, "face")))
    assert len(frames) == 1
