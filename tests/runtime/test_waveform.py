"""The audio graph's inputs, against the feature extractor that the encoder was trained with."""

from __future__ import annotations

import numpy as np
import pytest

from taemi_runtime.errors import InputError
from taemi_runtime.preprocessing import AudioPreprocessing
from taemi_runtime.waveform import normalise, prepare_waveform

LENGTHS = [1_024, 5_000, 16_000, 96_001, 150_000, 192_000]


def sound(samples: int, seed: int = 0) -> np.ndarray:
    """Noise of uneven loudness with an offset, as microphones give it."""
    rng = np.random.default_rng([seed, samples])
    loudness = 0.02 + 0.2 * np.linspace(0, 1, samples)
    return (0.03 + loudness * rng.normal(size=samples)).astype(np.float32)


@pytest.fixture(scope="module")
def extractor():
    transformers = pytest.importorskip("transformers")
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True)


@pytest.mark.parametrize("samples", LENGTHS)
def test_a_clip_equals_the_feature_extractor(extractor, samples: int) -> None:
    waveform = sound(samples)
    expected = extractor(waveform, sampling_rate=16_000, padding=True, return_tensors="np")
    got = prepare_waveform(waveform, AudioPreprocessing())
    np.testing.assert_array_equal(got["waveform"], expected["input_values"])
    assert got["waveform"].dtype == np.float32
    assert got["frame_mask"].all()


@pytest.mark.parametrize("samples", LENGTHS)
def test_a_padded_clip_equals_the_padded_feature_extractor(extractor, samples: int) -> None:
    waveform = sound(samples)
    preprocessing = AudioPreprocessing(padded_samples=192_000)
    expected = extractor(
        waveform, sampling_rate=16_000, padding="max_length", max_length=192_000, return_tensors="np"
    )
    got = prepare_waveform(waveform, preprocessing)
    np.testing.assert_array_equal(got["waveform"], expected["input_values"])
    assert got["frame_mask"].shape == (1, 599)
    assert got["frame_mask"].sum() == preprocessing.frames(int(expected["attention_mask"].sum()))


def test_a_long_clip_equals_the_truncating_feature_extractor(extractor) -> None:
    waveform = sound(250_000)
    expected = extractor(
        waveform,
        sampling_rate=16_000,
        padding="max_length",
        max_length=192_000,
        truncation=True,
        return_tensors="np",
    )
    got = prepare_waveform(waveform, AudioPreprocessing())
    np.testing.assert_array_equal(got["waveform"], expected["input_values"])


def test_frames_are_counted_as_the_encoder_counts_them() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tiny = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    convs = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**tiny, **convs)).eval()
    for samples in (400, 719, 720, 1_024, 16_000, 40_001):
        with torch.inference_mode():
            frames = model.feature_extractor(torch.zeros(1, samples)).shape[-1]
        mask = prepare_waveform(sound(samples), AudioPreprocessing())["frame_mask"]
        assert mask.shape == (1, frames)


@pytest.mark.parametrize("samples", [1, 12, 399, 400, 401])
def test_the_shortest_clips_make_one_valid_frame(samples: int) -> None:
    waveform = sound(samples)
    got = prepare_waveform(waveform, AudioPreprocessing())
    assert got["waveform"].shape == (1, max(400, samples))
    np.testing.assert_array_equal(got["waveform"][0, :samples], normalise(waveform))
    assert not got["waveform"][0, samples:].any()
    np.testing.assert_array_equal(got["frame_mask"], [[True]])


def test_silence_stays_silence() -> None:
    for level in (0.0, 0.25):
        got = prepare_waveform(np.full(5_000, level, dtype=np.float32), AudioPreprocessing())
        np.testing.assert_array_equal(got["waveform"], 0.0)


def test_normalisation_can_be_off() -> None:
    waveform = sound(2_000)
    got = prepare_waveform(waveform, AudioPreprocessing(normalise=False, padded_samples=3_000))
    np.testing.assert_array_equal(got["waveform"][0, :2_000], waveform)
    assert not got["waveform"][0, 2_000:].any()


def test_the_callers_waveform_is_left_alone() -> None:
    waveform = sound(2_000)
    before = waveform.copy()
    prepare_waveform(waveform, AudioPreprocessing())
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize(
    ("waveform", "found"),
    [
        (np.zeros(0, dtype=np.float32), "at least 1 sample"),
        (np.zeros((2, 100), dtype=np.float32), "float32 [2, 100]"),
        (np.zeros(100), "float64 [100]"),
        (np.array([0.0, np.nan, np.inf], dtype=np.float32), "2 of its 3 samples"),
    ],
)
def test_arrays_that_are_no_waveform_are_refused(waveform: np.ndarray, found: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare_waveform(waveform, AudioPreprocessing())
    assert found in caught.value.found
