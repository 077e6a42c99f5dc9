"""Drawn inputs: reproducible, legal, and hostile exactly where the contract allows anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.errors import InputError
from taemi_runtime.input_checks import check_finite
from tests.runtime.tiny_bundle import WORDS, audio_spec, fusion_spec, text_spec, vision_spec

SPECS = {
    "audio": audio_spec(),
    "vision": vision_spec(),
    "text": text_spec(tokens=True),
    "fusion": fusion_spec(),
    "tokens": fusion_spec(tokens=True),
    "fixed": fusion_spec(fixed=True),
}
SIZES = {"batch": 4, "audio_len": 30, "vision_len": 20, "samples": 4000, "tokens": 9, "text_len": 9}


def sizes(spec):
    return {
        symbol.name: SIZES.get(symbol.name, symbol.typical)
        for symbol in spec.symbols
        if symbol.source is None
    }


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("poison", [False, True])
def test_what_is_drawn_fits_the_spec_and_is_finite_where_it_is_read(name, poison):
    spec = SPECS[name]
    arrays = draw_inputs(spec, sizes(spec), seed=3, poison=poison)
    spec.check(arrays)
    check_finite(spec, arrays)
    assert list(arrays) == [item.name for item in spec.inputs]


def test_a_seed_gives_the_same_inputs_and_another_seed_others():
    spec = SPECS["fusion"]
    first, again, other = (draw_inputs(spec, sizes(spec), seed=seed) for seed in (1, 1, 2))
    assert digest(first) == digest(again) != digest(other)


def test_a_digest_covers_names_types_shapes_and_bytes():
    array = np.arange(6, dtype=np.float32)
    digests = {
        digest({"a": array}),
        digest({"b": array}),
        digest({"a": array.reshape(2, 3)}),
        digest({"a": array.view(np.int32)}),
        digest({"a": array + 1}),
    }
    assert len(digests) == 5
    assert digest({"a": array, "b": array}) == digest({"b": array, "a": array})
    assert digest({"a": array[::2]}) == digest({"a": array[::2].copy()})


def test_padding_and_missing_inputs_are_poisoned():
    spec = SPECS["fusion"]
    present = [list(flags) for flags in itertools.product([True, False], repeat=3)]
    arrays = draw_inputs(spec, {"batch": 8, "audio_len": 30, "vision_len": 20}, present=present)
    audio, mask = arrays["audio"], arrays["audio_mask"]
    assert mask[0].all()
    assert not mask[1:].all()
    assert np.isnan(audio[1:][~mask[1:]]).any()
    assert np.isinf(audio[1:][~mask[1:]]).any()
    # Rows 4 to 7 lack the first modality, rows of odd index the last.
    assert not (np.abs(audio[4]) < 1e38).any()
    assert not np.isfinite(arrays["text"][1]).all()
    assert np.isfinite(arrays["text"][0]).all()
    np.testing.assert_array_equal(arrays["present"], present)


def test_padding_that_must_be_zero_is_zero():
    spec = SPECS["audio"]
    arrays = draw_inputs(spec, {"batch": 6, "samples": 4000}, seed=5)
    frames = arrays["frame_mask"].sum(1)
    assert len(set(frames.tolist())) > 1
    for row, count in zip(arrays["waveform"], frames, strict=True):
        used = np.flatnonzero(row)[-1] + 1
        assert max(1, (used - 400) // 320 + 1) == count


def test_rows_are_full_when_raggedness_is_off():
    arrays = draw_inputs(SPECS["fusion"], {"batch": 4, "audio_len": 9, "vision_len": 5}, ragged=False)
    assert arrays["audio_mask"].all()
    assert arrays["vision_mask"].all()
    assert np.isfinite(arrays["audio"]).all()


def test_integers_are_drawn_in_their_range():
    arrays = draw_inputs(SPECS["text"], {"batch": 50, "tokens": 12})
    assert set(np.unique(arrays["input_ids"])) == set(range(len(WORDS)))
    pixels = draw_inputs(SPECS["vision"], {"frames": 50})["pixels"]
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(("row", "refused"), [(0, True), (1, False)])
def test_nan_is_refused_where_it_is_read_only(row, refused):
    spec = SPECS["fusion"]
    arrays = draw_inputs(spec, {"batch": 2, "audio_len": 4, "vision_len": 4}, ragged=False)
    arrays["present"][1, 0] = False
    arrays["audio"][row, 2, 1] = np.nan
    if refused:
        with pytest.raises(
            InputError, match=r"fusion.audio is not finite where it is valid: nan at \(0, 2, 1\)"
        ):
            check_finite(spec, arrays)
    else:
        check_finite(spec, arrays)
