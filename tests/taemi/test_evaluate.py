"""``taemi evaluate``: every figure against an independent computation, from whatever the corpus offers."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from taemi.assemble import assemble
from taemi.checkpoint import Progress, load_system, save_checkpoint
from taemi.choice import EncoderChoice
from taemi.corpus import Layout, read_corpus
from taemi.crops import read_crops
from taemi.data import read_data
from taemi.evaluate import Asked, Robustness, compare, evaluate_models, evaluate_split
from taemi.evaluate.disturbances import add_noise, count_of, cover_frames, drop_words, generator
from taemi.evaluate.files import write_submission
from taemi.evaluate.reading import RowDecoder, read_rows
from taemi.evaluate.report import write_report
from taemi.features import FeatureStore
from taemi.recipe import Recipe
from taemi.train import train
from taemi_runtime import load
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import DataError
from taemi_runtime.media import read_clip
from taemi_runtime.pipeline import MODALITIES
from taemi_runtime.scale import Scale
from taemi_runtime.transcripts import Transcript
from tests.taemi.broken_corpus import write_mp3
from tests.taemi.small_systems import small
from tests.taemi.test_cli import HEADER, taemi

LEVELS = Robustness(noise=(10.0, -5.0), occlusion=(0.5, 1.0), words=(0.5, 1.0), max_fps=(2.0, 1000.0))
FEW = Asked(resamples=200)
# One call or several, of one length or padded: what the runtime allows itself.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def scorer(demo_bundle):
    with load(demo_bundle, device="cpu") as found:
        yield found


@pytest.fixture(scope="module")
def found(demo_checkpoint, demo_bundle, demo_corpus):
    """Checkpoint and bundle on the test clips, with curves, and how often each clip was decoded."""
    decoded = []
    decode = RowDecoder.decode

    def count(self, row, /):
        decoded.append(row.name)
        return decode(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowDecoder, "decode", count)
        asked = replace(FEW, robustness=LEVELS, seed=5)
        models = [demo_checkpoint, demo_bundle]
        return evaluate_models(models, read_corpus(demo_corpus), "test", asked), decoded


def rho(predicted, labels):
    """Correlate by scipy; constant columns count as 0."""
    return [
        0.0
        if np.ptp(predicted[:, column]) < 1e-6 or not np.ptp(labels[:, column])
        else stats.pearsonr(predicted[:, column], labels[:, column])[0]
        for column in range(len(EMOTIONS))
    ]


def point(evaluation, curve, level):
    (points,) = [item.points for item in evaluation.curves if item.kind.name == curve]
    return next(item.figures.rho for item in points if item.level == level)


def labels_of(rows):
    return np.array([row.labels for row in rows], np.float32)


def test_figures_are_those_of_the_saved_predictions(found, tmp_path):
    (evaluation, _), _ = found
    write_submission(tmp_path / "scores.csv", evaluation)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == HEADER
    saved = np.array([[float(cell) for cell in line.split(",")[1:]] for line in lines[1:]])
    expected = rho(saved, evaluation.labels.astype(np.float64))
    # Six digits of each score were saved.
    np.testing.assert_allclose(evaluation.whole.rho, expected, atol=1e-3)
    np.testing.assert_allclose(
        evaluation.whole.rho,
        rho(evaluation.predicted.astype(np.float64), evaluation.labels.astype(np.float64)),
        atol=1e-9,
    )
    assert evaluation.mean_rho == pytest.approx(np.mean(evaluation.whole.rho))
    for value, ends in zip(evaluation.whole.rho, evaluation.whole.intervals, strict=True):
        assert -1 <= ends.low <= ends.high <= 1
        assert ends.low - 1e-9 <= value <= ends.high + 1e-9


def test_eight_conditions_are_what_the_runtime_scores_with_modalities_switched_off(
    found, scorer, demo_corpus
):
    (_, evaluation), _ = found
    rows = read_corpus(demo_corpus).split("test")
    features = [scorer.features(row.media, row.transcript) for row in rows]
    assert len(evaluation.figures) == 8
    assert next(iter(evaluation.figures)) == "audio+vision+text"
    assert list(evaluation.figures)[-1] == "none"
    for name, figures in evaluation.figures.items():
        flags = np.array([modality in name for modality in MODALITIES])
        scores = [scorer.fuse(item, item.inputs["present"][0] & flags) for item in features]
        expected = rho(np.clip(np.stack(scores), 0, 1), evaluation.labels)
        np.testing.assert_allclose(figures.rho, expected, atol=1e-3, err_msg=name)
        has = [(item.inputs["present"][0] | ~flags).all() for item in features]
        assert evaluation.clips[name] == sum(has)
    assert evaluation.rho["none"] == (0.0,) * 6
    assert not any(note.startswith("none") for note in evaluation.notes)


def test_curves_are_what_the_runtime_scores_of_clips_that_are_disturbed_one_by_one(
    found, scorer, demo_corpus, demo_bundle
):
    (_, evaluation), _ = found
    corpus = read_corpus(demo_corpus)
    rows = corpus.split("test")
    clips = [read_clip(row.media, scorer.preprocessing) for row in rows]

    def expected(change):
        scores = []
        for row, clip in zip(rows, clips, strict=True):
            changed, words = change(row, clip)
            scores.append(scorer.fuse(scorer.encode(changed, Transcript(words, "given"))))
        return rho(np.clip(np.stack(scores), 0, 1), labels_of(rows))

    def noisy(row, clip):
        if clip.waveform is None:
            return clip, row.transcript
        noise = add_noise(clip.waveform, -5.0, generator(5, row.name, "noise"))
        return replace(clip, waveform=noise), row.transcript

    def covered(row, clip):
        if clip.frames is None:
            return clip, row.transcript
        frames, order = cover_frames(clip.frames, generator(5, row.name, "occlusion"))
        some = order[: count_of(0.5, len(order))]
        mixed = clip.frames.copy()
        mixed[some] = frames[some]
        return replace(clip, frames=mixed), row.transcript

    def shortened(row, clip):
        return clip, drop_words(row.transcript, 0.5, generator(5, row.name, "words"))

    assert evaluation.whole.rho == point(evaluation, "noise", None)
    for curve, level, change in (
        ("noise", -5.0, noisy),
        ("occlusion", 0.5, covered),
        ("words", 0.5, shortened),
    ):
        there = point(evaluation, curve, level)
        np.testing.assert_allclose(there, expected(change), atol=2e-3, err_msg=curve)
        assert np.abs(np.array(there) - evaluation.whole.rho).max() > 1e-4, curve
    np.testing.assert_allclose(point(evaluation, "words", 1.0), evaluation.rho["audio+vision"], atol=1e-6)
    # More frames than there are: all of them, as the model looks at them anyway.
    assert point(evaluation, "max_fps", 1000.0) == evaluation.whole.rho
    (slow,) = evaluate_models([demo_bundle], corpus, "test", replace(FEW, max_fps=2.0))
    np.testing.assert_allclose(point(evaluation, "max_fps", 2.0), slow.whole.rho, atol=2e-3)
    assert slow.max_fps == 2.0


def test_an_engine_stands_beside_pytorch_and_each_clip_is_decoded_once(found, demo_corpus):
    (checkpoint, bundle), decoded = found
    rows = read_corpus(demo_corpus).split("test")
    assert sorted(decoded) == sorted(row.name for row in rows)
    first, second = compare([checkpoint, bundle])
    assert first.max_abs == first.mean == 0.0
    # The gate of a whole chain in float32.
    assert 0 < second.max_abs < 1e-4
    assert second.interval.low <= second.mean <= second.interval.high
    assert second.interval.high - second.interval.low < 0.01
    assert checkpoint.engine == "checkpoint fp32"
    assert bundle.engine.startswith("onnxruntime")


def test_what_workers_read_ahead_is_what_is_read_here(scorer, demo_corpus):
    rows = read_corpus(demo_corpus).split("train")
    decoder = RowDecoder(scorer.decoder, (2.0, 1000.0))
    here = [read for batch in read_rows(decoder, rows, Scale()) for read in batch]
    ahead = []
    for batch in read_rows(decoder, rows, Scale(workers=2, batch=3)):
        assert len(batch) <= 3
        ahead += [replace(read, clip=_copied(read.clip)) for read in batch]
    assert [read.row for read in ahead] == [read.row for read in here] == list(rows)
    for one, other in zip(here, ahead, strict=True):
        for name in ("waveform", "frames"):
            np.testing.assert_array_equal(getattr(one.clip, name), getattr(other.clip, name))
        assert [list(look) for look in one.clip.looks] == [list(look) for look in other.clip.looks]
        # Every frame of the clip is looked at 1,000 times a second, and none of them is there twice.
        assert list(one.clip.looks[1]) == list(range(one.clip.own_frames))


def _copied(clip):
    arrays = {name: getattr(clip, name) for name in ("waveform", "frames")}
    return replace(clip, **{name: None if array is None else array.copy() for name, array in arrays.items()})


@pytest.fixture
def corpus_copy(demo_corpus, tmp_path):
    """The test clips alone, to be added to."""
    root = tmp_path / "corpus"
    shutil.copytree(demo_corpus, root)
    return root


def test_face_crops_and_separate_sound_are_taken_where_there_are_any(corpus_copy, demo_bundle, scorer):
    rows = read_corpus(corpus_copy).split("test")
    folder = read_corpus(corpus_copy).folder("test") / "face_images"
    sounds = folder.with_name("audio")
    sounds.mkdir()
    for number, row in enumerate(rows):
        (folder / row.name).mkdir(parents=True)
        write_mp3(sounds / f"{row.name}.mp3", 20_000 + 4000 * number)
        for frame in range(3 + number):
            grey = np.random.default_rng([number, frame]).integers(0, 256, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(grey).save(folder / row.name / f"{frame}.png")
    for name in ("train", "valid"):
        (corpus_copy / f"{name}_split.csv").unlink()
    shutil.rmtree(corpus_copy / "raw")
    corpus = read_corpus(corpus_copy)
    assert corpus.vision == "face_images"
    (crops,) = evaluate_models([demo_bundle], corpus, "test", FEW)
    (whole,) = evaluate_models([demo_bundle], read_corpus(corpus_copy, Layout(vision="raw")), "test", FEW)
    assert (crops.vision, whole.vision) == ("face_images", "raw")
    for row, scores in zip(rows, crops.predicted, strict=True):
        frames, _ = read_crops(folder / row.name, scorer.preprocessing.vision)
        sound = read_clip(sounds / f"{row.name}.mp3", scorer.preprocessing, vision=False)
        clip = replace(read_clip(row.media, scorer.preprocessing), frames=frames, waveform=sound.waveform)
        expected = scorer.fuse(scorer.encode(clip, Transcript(row.transcript, "given")))
        np.testing.assert_allclose(scores, np.clip(expected, 0, 1), atol=CLOSE)
    assert np.abs(crops.predicted - whole.predicted).max() > 1e-3


def test_ready_made_features_go_straight_into_fusion(corpus_copy, demo_bundle, scorer):
    corpus = read_corpus(corpus_copy)
    folder = corpus.folder("test") / "googlevit"
    folder.mkdir()
    for row in corpus.split("test"):
        features = scorer.features(row.media, row.transcript)
        if features.vision.present:
            content = pickle.dumps(features.inputs["vision"][0])
            (folder / f"{row.name}.pkl").write_bytes(content)
    told = []
    asked = replace(FEW, robustness=LEVELS)
    ready = read_corpus(corpus_copy, Layout(vision="googlevit"))
    (found,) = evaluate_models([demo_bundle], ready, "test", asked, warn=told.append)
    assert [curve.kind.name for curve in found.curves] == ["noise", "words"]
    assert "no curves over covered frames and frame rates; --vision-from raw" in told[0]
    seen = evaluate_split(demo_bundle, corpus, "test")
    np.testing.assert_allclose(found.predicted, seen.predicted, atol=CLOSE)
    assert found.clips == seen.clips
    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(np.ones((4, 7), np.float32)))
    with pytest.raises(DataError, match=r"they are 7 wide, the vision encoder's 48"):
        evaluate_split(demo_bundle, ready, "test")


@pytest.mark.slow
def test_a_store_is_scored_as_its_corpus_by_the_encoder_that_made_it(
    demo_corpus, demo_checkpoint, demo_bundle, tmp_path
):
    corpus = read_corpus(demo_corpus)
    system, _ = load_system(demo_checkpoint)
    store = FeatureStore(tmp_path / "store", system.vision_encoder, system.preprocessing)
    assert store.extract(corpus.split("test"), split=(corpus, "test")) == {}
    stored = read_data(tmp_path / "store")
    told = []
    found = evaluate_models([demo_checkpoint], stored, "test", FEW, warn=told.append)[0]
    seen = evaluate_split(demo_checkpoint, corpus, "test")
    # Vision is kept in half precision.
    np.testing.assert_allclose(found.predicted, seen.predicted, atol=1e-3)
    assert (found.names, found.clips, found.synthetic) == (seen.names, seen.clips, True)
    assert not any("digest" in text for text in told)
    evaluate_split(demo_bundle, stored, "test", warn=told.append)
    assert any("cannot be told: bundles keep no digest of it" in text for text in told)
    with pytest.raises(DataError, match=r"vision max_fps None, the model takes 2\.0"):
        evaluate_models([demo_checkpoint], stored, "test", replace(FEW, max_fps=2.0))
    other = tmp_path / "other.pt"
    save_checkpoint(other, assemble("paper", EncoderChoice("tiny"), seed=12), Progress(trained=False))
    with pytest.raises(DataError, match="the model's has another digest"):
        evaluate_split(other, stored, "test")
    (tmp_path / "store" / f"{found.names[0]}.safetensors").write_bytes(b"broken")
    (tmp_path / "store" / f"{found.names[1]}.safetensors").unlink()
    left = evaluate_split(demo_checkpoint, stored, "test")
    assert sorted(left.failures) == sorted(found.names[:2])


def test_a_clip_that_cannot_be_read_is_left_out_and_the_submission_is_whole(
    corpus_copy, demo_bundle, tmp_path
):
    row = read_corpus(corpus_copy).split("test")[1]
    row.media.write_bytes(b"no clip")
    done = taemi(
        *("evaluate", demo_bundle, corpus_copy, "--split", "test", "--resamples", "200"),
        *("--robustness", "--snr", "10,-5", "--occlude", "1", "--at-fps", "2"),
        *("--report", tmp_path / "report", "--against", demo_bundle / "fusion.onnx"),
    )
    assert done.returncode == 1, done.stderr
    assert f"warning: clip {row.name} is left out: " in done.stderr
    assert f"1 clips that could not be scored have the others' mean scores ({row.name})" in done.stderr
    assert "1 of 4 clips could not be scored and are left out" in done.stdout
    report = tmp_path / "report"
    names = [other.name for other in read_corpus(corpus_copy).split("test")]
    lines = [line.split(",") for line in (report / "scores.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["Filename", *names]
    scores = np.array([line[1:] for line in lines[1:]], float)
    np.testing.assert_allclose(scores[1], scores[[0, 2, 3]].mean(0), atol=2e-6)
    figures = json.loads((report / "evaluation.json").read_text())
    assert (figures["clips"], list(figures["failures"])) == (3, [row.name])
    # The undisturbed clips, and the levels: those that were given, and the usual ones of words.
    assert [len(points) for points in figures["curves"].values()] == [3, 2, 6, 2]
    (other,) = figures["against"]
    assert other["model"].endswith("fusion.onnx")
    assert (other["difference"]["max_abs_score"], other["difference"]["mean_interval"]) == (0.0, [0.0, 0.0])
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert figures["intervals"] == {
        "method": "BCa bootstrap over clips",
        "confidence": 0.95,
        "resamples": 200,
        "seed": 3407,
    }
    curves = (report / "robustness.csv").read_text().splitlines()
    assert len(curves) == 1 + 2 * 7 * (3 + 2 + 6 + 2)
    tables = (report / "evaluation.md").read_text()
    for picture in ("conditions.png", "robustness.png"):
        assert f"({picture})" in tables
        with Image.open(report / picture) as image:
            assert min(image.size) > 300


def test_training_names_emotions_whose_predictions_are_constant(demo_corpus, tmp_path):
    corpus = read_corpus(demo_corpus)
    speechless = tuple(replace(row, transcript="") for row in corpus.split("valid"))
    corpus = replace(corpus, splits={**corpus.splits, "valid": speechless})
    system = small("released", seed=2, max_fps=0.5)
    told = []
    recipe = Recipe(epochs=2, batch_size=12, warmup_epochs=0, modalities=("text",), pad="longest")
    best = train(system, corpus, tmp_path, recipe, warn=told.append)
    assert best.rho == 0.0
    # Once, and not in every epoch.
    assert len(told) == 1
    assert all(f"predictions of {emotion}" in told[0] for emotion in EMOTIONS)


def test_without_matplotlib_everything_else_is_written(found, tmp_path, monkeypatch):
    evaluations, _ = found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = write_report(tmp_path / "report", evaluations, compare(evaluations))
    assert told == ['there are no pictures: matplotlib is not installed. pip install "taemi[bench]"']
    written = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert written == ["evaluation.json", "evaluation.md", "robustness.csv", "scores.csv"]
