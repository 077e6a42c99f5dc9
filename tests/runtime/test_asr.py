"""Speech recognition: which recogniser, which sound reaches it, and which of its words count."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import logging
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime import load
from taemi_runtime.asr import recogniser as base
from taemi_runtime.asr.listener import Listener
from taemi_runtime.asr.recogniser import Segment
from taemi_runtime.asr.speech import keep_speech, reason_for_silence
from taemi_runtime.asr.windows import SoundWindows
from taemi_runtime.doctor import examine
from taemi_runtime.errors import EngineError, MissingExtraError, UsageError
from taemi_runtime.preprocessing import SpeechGate
from tests.runtime.fake_recognisers import (
    RATE_HZ,
    hide_recognisers,
    install,
    install_metadata,
    speech_like,
    write_model,
    write_wave,
)

GATE = SpeechGate()
SAID = ("I won the race today", 0.02, -0.2)
INVENTED = ("Thanks for watching!", 0.9, -0.3)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Whatever this machine has: no recogniser, empty caches."""
    with hide_recognisers(monkeypatch, tmp_path):
        yield


@pytest.fixture
def site(tmp_path, monkeypatch):
    def make(**which):
        folder = install(tmp_path / "site", **which)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return folder

    return make


@pytest.fixture
def spoken(tmp_path):
    return write_wave(tmp_path / "spoken.wav", speech_like(2))


# Which sound reaches the model.


def test_windows_are_the_sound_itself_cut_where_it_is_quiet(tmp_path):
    samples = speech_like(70)
    pauses = [slice(round(at * RATE_HZ), round((at + 0.3) * RATE_HZ)) for at in (27.05, 55.05)]
    for pause in pauses:
        samples[pause] = 0
    clip = write_wave(tmp_path / "long.wav", samples)
    windows = SoundWindows(clip, 600)
    found = list(windows)
    assert (windows.why, windows.truncated) == ("", False)
    np.testing.assert_allclose(np.concatenate(found), samples, atol=1e-4)
    assert all(window.dtype == np.float32 and window.size <= 30 * RATE_HZ for window in found)
    cuts = np.cumsum([window.size for window in found])[:-1]
    for cut, pause in zip(cuts, pauses, strict=True):
        assert pause.start <= cut <= pause.stop


def test_listening_stops_at_its_limit_and_says_so(tmp_path):
    clip = write_wave(tmp_path / "long.wav", speech_like(50))
    windows = SoundWindows(clip, 33)
    assert sum(window.size for window in windows) == 33 * RATE_HZ
    assert windows.truncated


def test_memory_does_not_grow_with_what_is_listened_to(tmp_path):
    def peak(seconds):
        clip = write_wave(tmp_path / f"{seconds}.wav", speech_like(seconds))
        tracemalloc.start()
        for _ in SoundWindows(clip, 10_000):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(300) < 1.2 * peak(62)


def test_a_clip_without_sound_has_a_reason(clips):
    windows = SoundWindows(clips.silent, 60)
    assert list(windows) == []
    assert windows.why == "the clip has no audio track"


def test_silence_and_steady_noise_never_reach_a_model():
    rng = np.random.default_rng(3)
    time_s = np.arange(5 * RATE_HZ) / RATE_HZ
    cases = {
        "silent": [np.zeros(5 * RATE_HZ), np.full(5 * RATE_HZ, 0.2), 5e-4 * rng.standard_normal(5 * RATE_HZ)],
        "steady": [0.1 * rng.standard_normal(5 * RATE_HZ), 0.3 * np.sin(2 * np.pi * 440 * time_s)],
        "shorter": [speech_like(0.05)],
    }
    for word, sounds in cases.items():
        for sound in sounds:
            assert word in reason_for_silence(sound.astype(np.float32), GATE)
    word_in_silence = np.zeros(30 * RATE_HZ, np.float32)
    word_in_silence[: RATE_HZ // 2] = 0.05 * speech_like(0.5)
    for sound in (speech_like(5), word_in_silence, speech_like(1) + 0.02 * rng.standard_normal(RATE_HZ)):
        assert reason_for_silence(sound.astype(np.float32), GATE) == ""


# Which of its words count.


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        (Segment("Thanks for watching!", 0.61, -0.1), "no-speech probability 0.61"),
        (Segment("Thanks for watching!", 0.1, -1.2), "mean log-probability -1.20"),
        (Segment("Thanks for watching!", float("nan"), -0.1), "no-speech probability nan"),
        (Segment("ha " * 80, 0.1, -0.1), "compression ratio"),
        (Segment(" ... ♪ ", 0.1, -0.1), "heard no words"),
    ],
)
def test_each_threshold_alone_drops_a_segment(segment, reason):
    text, why = keep_speech([segment], GATE)
    assert text == ""
    assert reason in why
    assert keep_speech([segment, Segment(" I  won ", 0.1, -0.2)], GATE) == ("I won", "")


def test_thresholds_are_data():
    doubtful = [Segment("I won", 0.7, -1.5)]
    assert keep_speech(doubtful, GATE)[0] == ""
    looser = SpeechGate(no_speech_threshold=0.8, logprob_threshold=-2.0)
    assert keep_speech(doubtful, looser)[1].startswith("what was recognised is doubtful")
    assert keep_speech(doubtful, replace(looser, unsure_logprob=-2.0))[0] == "I won"
    assert keep_speech(doubtful, replace(looser, unsure_no_speech=0.75))[0] == "I won"


def test_what_is_invented_for_music_breaks_both_milder_limits_and_speech_does_not():
    # Measured with tiny.en and no voice activity detector: instrumental music, telephone and clear speech.
    for text, no_speech, logprob in (("Thank you.", 0.43, -0.95), ("Thank you very much.", 0.47, -0.93)):
        assert keep_speech([Segment(text, no_speech, logprob)], GATE)[0] == ""
    for no_speech, logprob in ((0.22, -0.97), (0.45, -0.4)):
        assert keep_speech([Segment("I won", no_speech, logprob)], GATE)[0] == "I won"


def test_a_loop_over_many_segments_is_dropped():
    loop = [Segment("Thank you very much.", 0.1, -0.2)] * 12
    assert keep_speech(loop[:1], GATE)[0] == "Thank you very much."
    assert keep_speech(loop, GATE)[0] == ""


# From clip to result.


def test_speech_becomes_the_transcript(site, bundle, spoken, tmp_path):
    site()
    model = write_model(tmp_path / "ct2", SAID, INVENTED)
    with load(bundle.folder, device="cpu", asr=model) as scorer:
        found = scorer.predict(spoken)
        given = scorer.predict(spoken, transcript="the race")
        empty = scorer.predict(spoken, transcript="")
    text = found.to_object(0)["modalities"]["text"]
    assert text == {"present": True, "tokens": 5, "transcript": SAID[0], "source": "faster-whisper"}
    assert found.timings_ms.asr > 0
    expected = np.clip(bundle.expected(spoken, SAID[0]), 0, 1)
    np.testing.assert_allclose(list(found.intensities.values()), expected, atol=2e-6)
    # A transcript that is there is never replaced, an empty one included.
    assert (given.text.source, given.timings_ms.asr) == ("given", 0)
    assert (empty.text.present, empty.text.source) == (False, "given")
    samples, options = sys.modules["faster_whisper"].calls[0]
    assert len(sys.modules["faster_whisper"].calls) == 1
    assert (samples.dtype, samples.shape) == (np.float32, (2 * RATE_HZ,))
    assert (options["no_speech_threshold"], options["log_prob_threshold"]) == (0.6, -1.0)
    assert (options["temperature"], options["language"], options["vad_filter"]) == (0.0, "en", True)


def test_nothing_invented_becomes_a_transcript(site, bundle, spoken, clips, tmp_path):
    site()
    model = write_model(tmp_path / "ct2", INVENTED)
    silent = write_wave(tmp_path / "silent.wav", np.zeros(RATE_HZ))
    with load(bundle.folder, device="cpu", asr=model) as scorer:
        uses = [scorer.predict(clip).text for clip in (spoken, silent, clips.silent)]
    assert [use.present for use in uses] == [False] * 3
    assert [use.transcript for use in uses] == [""] * 3
    assert uses[0].why == (
        "no speech was recognised: what was recognised is probably no speech (no-speech probability 0.90)"
    )
    assert uses[1].why == "no speech was recognised: the sound is silent (-120 dBFS)"
    assert uses[2].why == "there is no transcript, and the clip has no audio track"
    assert [use.source for use in uses] == ["faster-whisper", "faster-whisper", "none"]
    assert len(sys.modules["faster_whisper"].calls) == 1


def test_thresholds_come_from_the_manifest(site, make_bundle, spoken, tmp_path):
    from tests.runtime.tiny_bundle import PREPROCESSING

    site()
    text = replace(PREPROCESSING.text, speech=SpeechGate(no_speech_threshold=0.95))
    made = make_bundle(preprocessing=replace(PREPROCESSING, text=text))
    with load(made.folder, device="cpu", asr=write_model(tmp_path / "ct2", INVENTED)) as scorer:
        assert scorer.predict(spoken).text.transcript == INVENTED[0]


def test_what_was_not_listened_to_is_said(site, bundle, tmp_path):
    site()
    clip = write_wave(tmp_path / "long.wav", speech_like(5))
    with load(bundle.folder, device="cpu", asr=write_model(tmp_path / "ct2", SAID), asr_seconds=3) as scorer:
        result = scorer.predict(clip)
    assert "speech was recognised in the first 3 s only (--asr-seconds)" in result.warnings
    with pytest.raises(UsageError, match="cannot listen to 0 s"):
        load(bundle.folder, asr_seconds=0)


def test_a_recogniser_that_fails_fails_its_clip_only(site, infer, bundle, spoken, clips, tmp_path):
    site()
    model = write_model(tmp_path / "ct2", "crash")
    code, out, _ = infer(
        spoken, clips.silent, "--engine", bundle.folder, "--asr", model, "--format", "json", "--quiet"
    )
    failed, scored = json.loads(out)
    assert code == 1
    assert failed["error"].startswith(
        f"cannot recognise speech in {spoken}: faster-whisper failed (RuntimeError"
    )
    assert "intensities" in scored


# Which recogniser.


def test_with_none_installed_text_is_missing_and_says_what_to_install(infer, bundle, spoken):
    code, out, err = infer(spoken, "--engine", bundle.folder, "--format", "json")
    text = json.loads(out)["modalities"]["text"]
    assert code == 0
    assert (text["present"], text["source"]) == (False, "none")
    why = 'there is no transcript, and no speech recogniser is installed: pip install "taemi[asr]"'
    assert text["why"] == why
    assert "error" not in err
    _, out, _ = infer(spoken, "--engine", bundle.folder, "--format", "json", "--asr", "none")
    assert json.loads(out)["modalities"]["text"]["why"] == "there is no transcript"


@pytest.mark.parametrize(
    "asked", ["small", "faster-whisper", "faster-whisper:small", "openai-whisper", "x/y"]
)
def test_asking_for_what_is_not_installed_is_an_error_before_any_clip(
    infer, bundle, clips, asked, monkeypatch
):
    monkeypatch.setattr("taemi_runtime.decoding.read_clip", lambda *_, **__: pytest.fail("a clip was read"))
    code, out, err = infer(clips.both, "--engine", bundle.folder, "--asr", asked, "--transcript", "I won")
    assert (code, out) == (1, "")
    extra = "whisper" if asked.startswith("openai") else "asr"
    assert err.startswith(f"error: cannot recognise speech with {asked.partition(':')[0]}")
    assert err.endswith(f'installed. pip install "taemi[{extra}]"\n')


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("huge", "cannot load faster-whisper model huge: there is no such model, file or folder"),
        (
            "small",
            "cannot load faster-whisper model small: it is not on this machine and cannot be downloaded",
        ),
        (
            "faster-whisper",
            "none of its models is on this machine. Name one to download it: --asr faster-whisper:",
        ),
        ("nowhere/model.pt", "there is no such file or folder"),
        ("FOLDER", "it is neither a Whisper .pt file nor a CTranslate2 folder"),
        ("BARE", "the folder has no tokenizer.json"),
    ],
)
def test_models_that_cannot_be_had_are_errors(site, infer, bundle, clips, tmp_path, asked, message):
    site()
    (write_model(tmp_path / "bare", SAID) / "tokenizer.json").unlink()
    asked = {"FOLDER": tmp_path, "BARE": tmp_path / "bare"}.get(asked, asked)
    code, out, err = infer(clips.both, "--engine", bundle.folder, "--asr", asked)
    assert (code, out) == (1, "")
    assert message in err


def test_auto_takes_what_is_on_this_machine_and_downloads_nothing(site, infer, bundle, spoken):
    folder = site()
    _, out, _ = infer(spoken, "--engine", bundle.folder, "--format", "json")
    assert json.loads(out)["modalities"]["text"]["why"] == (
        "there is no transcript, and faster-whisper has no model on this machine: "
        "name one to download it, --asr large-v3-turbo"
    )
    for name in ("tiny", "small"):
        write_model(folder / "cache" / name, (f"{name} won", 0.1, -0.1))
    _, out, err = infer(spoken, "--engine", bundle.folder, "--format", "json")
    assert json.loads(out)["modalities"]["text"]["transcript"] == "small won"
    assert "transcripts by faster-whisper, model small\n" in err
    assert sys.modules["faster_whisper"].downloads == []


def test_auto_loads_nothing_where_every_clip_has_its_transcript(site, infer, bundle, spoken):
    site()
    code, _, _ = infer(spoken, "--engine", bundle.folder, "--transcript", "I won", "--format", "json")
    assert code == 0
    assert "faster_whisper" not in sys.modules


def test_naming_a_model_is_the_wish_to_download_it(site, caplog):
    site()
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match="--asr DIR"):
        Listener("tiny").prepare()
    assert sys.modules["faster_whisper"].downloads == ["tiny"]
    assert "model tiny is not on this machine and is downloaded, as --asr names it" in caplog.text


def test_openai_whisper_takes_a_file_and_its_cache(site, spoken, tmp_path):
    site(faster=False, openai=True)
    file = tmp_path / "own.pt"
    file.write_text(json.dumps([SAID]))
    found = Listener(str(file)).hear(spoken, GATE)
    assert (found.text, found.source) == (SAID[0], "openai-whisper")
    samples, options = sys.modules["whisper"].calls[0]
    assert samples.dtype == np.float32
    assert (options["logprob_threshold"], options["fp16"], options["temperature"]) == (-1.0, False, 0.0)
    cache = tmp_path / "cache-home" / "whisper"
    cache.mkdir(parents=True)
    (cache / "large-v3-turbo.pt").write_text(json.dumps([("cached", 0.1, -0.1)]))
    for asked in ("auto", "turbo", "openai-whisper"):
        assert Listener(asked).hear(spoken, GATE).text == "cached"


def test_another_project_called_whisper_is_none(site, tmp_path):
    folder = site(faster=False, openai=True)
    (folder / "openai_whisper-1.2.1.dist-info" / "METADATA").write_text("Name: other\nVersion: 1\n")
    (folder / "openai_whisper-1.2.1.dist-info").rename(folder / "other-1.dist-info")
    importlib.invalidate_caches()
    with pytest.raises(MissingExtraError, match="belongs to another distribution"):
        Listener("openai-whisper").prepare()


def test_the_doctor_says_which_model_is_there(site):
    folder = site()
    checks = {check.name: check for check in examine()}
    assert checks["faster-whisper"].detail.endswith("no model here yet (--asr large-v3-turbo downloads one)")
    assert checks["openai-whisper"].fix == 'pip install "taemi[whisper]"'
    write_model(folder / "cache" / "small", SAID)
    checks = {check.name: check for check in examine()}
    assert checks["faster-whisper"].detail == "faster-whisper 1.2.1, model small"


def test_beside_onnxruntime_gpu_the_extra_is_not_what_installs_it(site, infer, bundle, spoken, tmp_path):
    # The extra's dependency onnxruntime would overwrite the module of onnxruntime-gpu.
    site(faster=False)
    install_metadata(tmp_path / "site", "onnxruntime-gpu")
    importlib.invalidate_caches()
    command = "pip install ctranslate2 huggingface-hub tqdm, then pip install --no-deps faster-whisper"
    checks = {check.name: check for check in examine()}
    assert checks["faster-whisper"].fix == command
    _, out, _ = infer(spoken, "--engine", bundle.folder, "--format", "json")
    assert json.loads(out)["modalities"]["text"]["why"].endswith(command)
    with pytest.raises(MissingExtraError) as caught:
        Listener("small").prepare()
    assert caught.value.fix == command


def test_faster_whisper_without_any_onnxruntime_is_refused_before_a_model_is_loaded(
    site, monkeypatch, tmp_path
):
    site()
    found = base.importlib.util.find_spec
    monkeypatch.setattr(
        base.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r'activity detector needs onnxruntime.*"taemi\[gpu\]"'):
        Listener(str(write_model(tmp_path / "ct2", SAID))).prepare()
    assert "faster_whisper" not in sys.modules


def test_the_real_library_takes_what_is_given_to_it(site, spoken, tmp_path):
    site()
    Listener(str(write_model(tmp_path / "ct2", SAID))).hear(spoken, GATE)
    given = set(sys.modules.pop("faster_whisper").calls[0][1])
    sys.path.remove(str(tmp_path / "site"))
    importlib.invalidate_caches()
    real = pytest.importorskip("faster_whisper")
    assert given <= set(inspect.signature(real.WhisperModel.transcribe).parameters)
