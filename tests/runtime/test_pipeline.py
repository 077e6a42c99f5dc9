"""From a real clip to scores that numpy predicts."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest

from taemi_runtime import load
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import BundleError, EngineError, MediaError
from taemi_runtime.manifest import describe_file, read_manifest
from taemi_runtime.preprocessing import AudioPreprocessing, Preprocessing, VisionPreprocessing
from taemi_runtime.strict import to_plain
from tests.runtime.tiny_bundle import (
    BIAS,
    HOP,
    MISSING,
    PREPROCESSING,
    SIDE,
    WEIGHTS,
    WINDOW,
    fusion_model,
    save_manifest,
)
from tests.runtime.tiny_clips import make_clip

SAID = "I won the race today"
TOLERANCE = 2e-6


def raw_scores(made, clip, transcript=None, **options):
    with load(made.folder, device="cpu", clip_scores=False, **options) as scorer:
        result = scorer.score(clip, transcript)
    assert tuple(result.intensities) == EMOTIONS
    return np.array(list(result.intensities.values())), result


@pytest.mark.parametrize("name", ["both", "second", "sound", "silent"])
@pytest.mark.parametrize("transcript", [None, SAID])
def test_scores_are_those_computed_by_hand(bundle, clips, name, transcript):
    clip = getattr(clips, name)
    scores, result = raw_scores(bundle, clip, transcript)
    np.testing.assert_allclose(scores, bundle.expected(clip, transcript), atol=TOLERANCE)
    assert result.audio.present == (name != "silent")
    assert result.vision.present == (name != "sound")
    assert result.text.present == (transcript is not None)


def test_each_modality_changes_the_scores(bundle, clips):
    whole, _ = raw_scores(bundle, clips.both, SAID)
    no_text, _ = raw_scores(bundle, clips.both)
    other_text, _ = raw_scores(bundle, clips.both, "the race")
    silent, _ = raw_scores(bundle, clips.silent, SAID)
    for other in (no_text, other_text, silent):
        assert np.abs(whole - other).max() > 0.01


def test_text_as_a_sequence_enters_through_tokens_and_mask(make_bundle, clips):
    made = make_bundle(tokens=True)
    for transcript in (None, SAID):
        scores, result = raw_scores(made, clips.both, transcript)
        np.testing.assert_allclose(scores, made.expected(clips.both, transcript), atol=TOLERANCE)
        assert result.text.tokens == (0 if transcript is None else 5)


def test_graphs_of_fixed_length_are_fed_padding(make_bundle, clips):
    made = make_bundle(fixed=True)
    for clip in (clips.both, clips.sound, clips.silent):
        scores, _ = raw_scores(made, clip, SAID)
        np.testing.assert_allclose(scores, made.expected(clip, SAID), atol=TOLERANCE)


def test_a_padded_length_that_the_model_was_trained_with_is_fed(make_bundle, clips):
    audio = AudioPreprocessing(convs=((WINDOW, HOP),), padded_samples=32_000)
    made = make_bundle(preprocessing=Preprocessing(audio, PREPROCESSING.vision, PREPROCESSING.text))
    with load(made.folder, device="cpu") as scorer:
        features = scorer.features(clips.both)
    frames = features.inputs["audio"].shape[1]
    assert frames == (32_000 - WINDOW) // HOP + 1
    assert features.inputs["audio_mask"].sum() == features.audio.frames < frames


def test_many_frames_go_through_the_encoder_in_batches(make_bundle, tmp_path, clips):
    # 40 frames: batches of 16, 16 and 8.
    long = make_clip(tmp_path / "long.mp4", seconds=4.0)
    made = make_bundle()
    scores, result = raw_scores(made, long)
    assert result.vision.frames == 40
    np.testing.assert_allclose(scores, made.expected(long), atol=TOLERANCE)


def test_max_fps_thins_the_frames_out(bundle, clips):
    _, usual = raw_scores(bundle, clips.both)
    _, thinned = raw_scores(bundle, clips.both, max_fps=5.0)
    assert usual.vision.frames == 6
    assert thinned.vision.frames == 3


def test_the_training_frame_rate_is_obeyed_unless_told_otherwise(make_bundle, clips):
    vision = VisionPreprocessing(height=SIDE, width=SIDE, max_fps=5.0)
    made = make_bundle(preprocessing=Preprocessing(PREPROCESSING.audio, vision, PREPROCESSING.text))
    _, as_trained = raw_scores(made, clips.both)
    _, told = raw_scores(made, clips.both, max_fps=10.0)
    assert (as_trained.vision.frames, told.vision.frames) == (3, 6)


def test_scores_are_clipped_unless_raw(make_bundle, clips):
    made = make_bundle(bias=np.array([-5, 5, 0.1, 0.2, 0.3, 0.4], dtype=np.float32))
    raw, _ = raw_scores(made, clips.both)
    assert raw[0] < 0
    assert raw[1] > 1
    with load(made.folder, device="cpu") as scorer:
        clipped = np.array(list(scorer.score(clips.both).intensities.values()))
    np.testing.assert_array_equal(clipped, np.clip(raw, 0, 1))


def test_a_result_is_the_documented_object(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer:
        found = scorer.score(clips.both, SAID).to_object(4)
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "clip",
        "index",
        "clip_seconds",
        "intensities",
        "modalities",
        "engine",
        "timings_ms",
    ]
    assert (found["clip"], found["index"]) == (str(clips.both), 4)
    assert found["clip_seconds"] == pytest.approx(0.6, abs=0.1)
    audio, vision, text = (found["modalities"][name] for name in ("audio", "vision", "text"))
    assert list(audio) == ["present", "frames", "seconds_used", "truncated"]
    assert list(vision) == ["present", "frames", "faces", "seconds_used", "truncated"]
    assert text == {"present": True, "tokens": 5, "transcript": SAID, "source": "given"}
    assert vision["frames"] == 6
    assert vision["faces"] is None
    assert found["engine"] == {
        "path": str(bundle.folder / "fusion.onnx"),
        "backend": "onnxruntime-cpu",
        "precision": "fp32",
    }
    assert list(found["timings_ms"]) == ["decode", "audio", "vision", "asr", "text", "fusion", "total"]


def test_a_missing_modality_says_why(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer:
        silent = scorer.score(clips.silent).to_object(0)["modalities"]
        blank = scorer.score(clips.sound, " \n ").to_object(0)["modalities"]
    assert silent["audio"] == {
        "present": False,
        "frames": 0,
        "seconds_used": 0.0,
        "truncated": False,
        "why": "the clip has no audio track",
    }
    assert silent["text"]["why"].startswith("there is no transcript")
    assert silent["text"]["source"] == "none"
    assert blank["vision"]["why"] == "the clip has no video track"
    assert (blank["text"]["why"], blank["text"]["source"]) == ("the transcript is empty", "given")


def test_timings_are_of_this_clip(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer:
        first = scorer.score(clips.both, SAID).timings_ms
        silent = scorer.score(clips.silent).timings_ms
    stages = [first.decode, first.audio, first.vision, first.text, first.fusion]
    assert min(stages) > 0
    assert first.asr == 0
    # Stages overlap, and between them is next to nothing.
    assert max(stages) <= first.total < sum(stages) + 20
    # Nothing ran for what is missing.
    assert silent.audio < first.audio
    assert silent.text < first.text


def test_only_untrained_models_say_so(make_bundle, bundle, clips):
    made = make_bundle(trained=False)
    with load(made.folder, device="cpu") as scorer:
        assert scorer.score(clips.both).to_object(0)["untrained"] is True
    with load(bundle.folder, device="cpu") as scorer:
        assert "untrained" not in scorer.score(clips.both).to_object(0)


def test_a_transcript_that_fills_the_encoder_is_noted(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer:
        result = scorer.score(clips.both, "race " * 50)
    assert result.text.tokens == 12
    assert "of the transcript's tokens the first 12 are used, 38 are left out" in result.warnings
    assert result.to_object(0)["warnings"] == list(result.warnings)


def test_features_can_be_fused_under_any_presence(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer:
        features = scorer.features(clips.both, SAID)
        whole = scorer.fuse(features)
        without_audio = scorer.fuse(features, np.array([False, True, True]))
        again = scorer.fuse(features)
    np.testing.assert_array_equal(whole, again)
    parts = [np.full(3, MISSING), bundle.vision_vector(clips.both), bundle.text_vector(SAID)]
    np.testing.assert_allclose(without_audio, np.concatenate(parts) @ WEIGHTS + BIAS, atol=TOLERANCE)


def test_scores_that_are_not_finite_are_no_result(make_bundle, clips):
    bias = BIAS.copy()
    bias[2] = math.nan
    made = make_bundle(bias=bias)
    with load(made.folder, device="cpu") as scorer, pytest.raises(EngineError, match="they are not finite"):
        scorer.score(clips.both)


def test_no_media_is_an_error(bundle, clips):
    with load(bundle.folder, device="cpu") as scorer, pytest.raises(MediaError, match="cannot read"):
        scorer.score(clips.broken)


def test_another_family_is_refused(make_bundle):
    made = make_bundle()
    save_manifest(made.folder, family="toy")
    with pytest.raises(BundleError, match="its model family is 'toy', clips are scored by 'taemi'"):
        load(made.folder)


def test_a_bundle_without_encoders_is_refused(make_bundle):
    made = make_bundle()
    graphs = read_manifest(made.folder).graphs
    save_manifest(made.folder, graphs={"fusion": graphs["fusion"]})
    with pytest.raises(BundleError, match=r"it has no graph audio, vision, text.*without --fusion-only"):
        load(made.folder)


def test_an_unknown_way_of_cropping_is_refused_and_not_ignored(make_bundle):
    made = make_bundle()
    plain = to_plain(Preprocessing(vision=VisionPreprocessing(height=SIDE, width=SIDE)))
    plain["vision"]["faces"] = "by hand"
    save_manifest(made.folder, preprocessing=plain)
    with pytest.raises(BundleError, match="faces is 'by hand', expected none, auto or sha256: and 64 digits"):
        load(made.folder)


def test_unknown_preprocessing_is_refused(make_bundle):
    made = make_bundle()
    plain = to_plain(PREPROCESSING)
    plain["audio"]["denoise"] = True
    save_manifest(made.folder, preprocessing=plain)
    with pytest.raises(BundleError, match=r"unknown field denoise at \$\.audio"):
        load(made.folder)


def test_a_fusion_graph_of_another_signature_is_refused(make_bundle):
    made = make_bundle()
    graphs = dict(read_manifest(made.folder).graphs)
    graphs["fusion"] = graphs["audio"]
    save_manifest(made.folder, graphs=graphs)
    with pytest.raises(BundleError, match=r"its fusion graph takes \['frame_mask', 'waveform'\]"):
        load(made.folder)


def test_one_changed_weight_changes_the_scores(make_bundle, clips):
    made = make_bundle()
    before, _ = raw_scores(made, clips.both)
    path = made.folder / "fusion.onnx"
    onnx.save(fusion_model(bias=BIAS + np.eye(6, dtype=np.float32)[3] * 0.01), path)
    files = dict(read_manifest(made.folder).files)
    files["fusion.onnx"] = describe_file(path, graph="fusion", precision="fp32")
    save_manifest(made.folder, files=files)
    after, _ = raw_scores(made, clips.both)
    np.testing.assert_allclose(after - before, np.eye(6)[3] * 0.01, atol=1e-6)
