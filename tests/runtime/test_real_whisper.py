"""Speech through a real Whisper model, where one is at hand.

TAEMI_TEST_WHISPER   a model's folder (CTranslate2, with faster-whisper) or .pt file (openai-whisper)
TAEMI_TEST_SPEECH    clear English speech: a folder of NAME.wav with NAME.txt beside it; without it
                     sentences are spoken by flite or espeak-ng, where one of them is installed
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from taemi_runtime.asr.listener import Listener
from taemi_runtime.asr.recogniser import RATE_HZ
from taemi_runtime.errors import TaemiError
from taemi_runtime.preprocessing import SpeechGate
from tests.runtime.fake_recognisers import write_wave

MODEL = os.environ.get("TAEMI_TEST_WHISPER", "")
SPEECH = os.environ.get("TAEMI_TEST_SPEECH", "")
GATE = SpeechGate()
# Without digits and names, whose spelling is a matter of taste.
SENTENCES = (
    "I am so happy that you came to my birthday party yesterday.",
    "The teacher asked the children to open their books and read the first page.",
    "We walked along the river until the sun went down behind the hills.",
    "Please close the window before you leave the house this evening.",
    "My mother told me that nothing in the world is worth so much trouble.",
    "She could not believe that he had finished the whole race without any help.",
)


@pytest.fixture(scope="module")
def listener() -> Listener:
    if not MODEL:
        pytest.skip("TAEMI_TEST_WHISPER names no Whisper model: nothing real was heard")
    made = Listener(MODEL, device="cpu", threads=2)
    try:
        made.prepare()
    except TaemiError as error:
        pytest.fail(f"TAEMI_TEST_WHISPER is set, but: {error}")
    return made


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Clips of clear speech with what is said in them."""
    if SPEECH:
        return {path: path.with_suffix(".txt").read_text() for path in sorted(Path(SPEECH).glob("*.wav"))}
    folder = tmp_path_factory.mktemp("spoken")
    clips = {folder / f"{index}.wav": sentence for index, sentence in enumerate(SENTENCES)}
    for path, sentence in clips.items():
        if shutil.which("flite"):
            command = ["flite", "-voice", "slt", "-t", sentence, "-o", str(path)]
        elif shutil.which("espeak-ng"):
            command = ["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(path), sentence]
        else:
            pytest.skip("no speech: set TAEMI_TEST_SPEECH, or install flite or espeak-ng")
        subprocess.run(command, check=True, timeout=60)
    return clips


def words(text: str) -> list[str]:
    text = text.lower().replace("mister", "mr")
    return re.sub(r"[^a-z0-9' ]", " ", text.replace("-", " ")).split()


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's distance: the fewest substitutions, insertions and deletions."""
    row = list(range(len(other) + 1))
    for index, word in enumerate(one, 1):
        before, row[0] = row[0], index
        for place, with_ in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != with_))
    return row[-1]


def test_edits_are_counted():
    assert edits(["a", "b", "c"], ["a", "c"]) == 1
    assert edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert edits([], ["a"]) == 1


def test_clear_speech_has_a_word_error_under_ten_per_cent(listener, spoken):
    wrong = said = 0
    heard = {}
    for clip, sentence in spoken.items():
        found = listener.hear(clip, GATE)
        heard[clip.name] = found.text or found.why
        wrong += edits(words(sentence), words(found.text or ""))
        said += len(words(sentence))
    # Shown with -s: the figure that the docs give.
    print(f"\nword error {wrong / said:.1%}: {wrong} of {said} words, {len(spoken)} clips")
    assert wrong / said < 0.1, heard


def test_speech_of_several_windows_is_heard_to_its_end_and_in_order(listener, spoken, tmp_path):
    from taemi_runtime.asr.windows import SoundWindows

    parts = [np.concatenate(list(SoundWindows(clip, 60))) for clip in spoken]
    pause = np.zeros(RATE_HZ // 2, np.float32)
    rounds = 1 + round(70 * RATE_HZ / sum(part.size + pause.size for part in parts))
    joined = np.concatenate([piece for part in parts * rounds for piece in (part, pause)])
    assert joined.size > 61 * RATE_HZ
    clip = write_wave(tmp_path / "long.wav", joined)
    found = Listener(MODEL, device="cpu", threads=2, seconds=3600).hear(clip, GATE)
    expected = words(" ".join(spoken.values())) * rounds
    assert edits(expected, words(found.text or "")) / len(expected) < 0.12, found.text
    assert found.warnings == ()


def melody(rng: np.random.Generator, seconds: float, beat_s: float, decay: float) -> np.ndarray:
    """Plucked or held notes of a major scale, six harmonics each, some with an octave below."""
    samples = np.zeros(round((seconds + 8) * RATE_HZ))
    at = 0.0
    while at < seconds:
        length = rng.choice([0.5, 1, 2]) * beat_s
        pitch_hz = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        for hz in (pitch_hz, pitch_hz / 2)[: rng.integers(1, 3)]:
            time_s = np.arange(round(length * 1.5 * RATE_HZ)) / RATE_HZ
            note = sum(np.sin(2 * np.pi * hz * k * time_s) / k for k in range(1, 7))
            start = round(at * RATE_HZ)
            samples[start : start + time_s.size] += (
                0.15 * note * np.exp(-decay * time_s) * np.minimum(time_s * 200, 1)
            )
        at += length
    return samples[: round(seconds * RATE_HZ)]


def drums(rng: np.random.Generator, seconds: float) -> np.ndarray:
    samples = np.zeros(round(seconds * RATE_HZ))
    for beat, start in enumerate(range(0, samples.size - RATE_HZ // 4, RATE_HZ // 4)):
        time_s = np.arange(RATE_HZ // 5) / RATE_HZ
        kick = 0.6 * np.sin(2 * np.pi * (50 + 80 * np.exp(-30 * time_s)) * time_s) * np.exp(-12 * time_s)
        snare = 0.3 * rng.standard_normal(time_s.size) * np.exp(-25 * time_s)
        samples[start : start + time_s.size] = snare if beat % 2 else kick
    return samples


@pytest.mark.parametrize(
    "name",
    ["silence", "hiss", "swelling", "rumble", "clicks", "bursts", "ring", "piano", "organ", "drums", "band"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_no_speech_has_no_transcript(listener, tmp_path, name, seed):
    rng = np.random.default_rng(seed)
    seconds = 12.0
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = rng.standard_normal(time_s.size)
    sounds = {
        "silence": lambda: 0 * time_s,
        "hiss": lambda: 0.1 * noise,
        "swelling": lambda: 0.1 * noise * (1 + np.sin(2 * np.pi * 3 * time_s)),
        "rumble": lambda: 0.05 * np.convolve(noise, np.ones(160) / 12, "same"),
        "clicks": lambda: np.where(rng.random(time_s.size) < 2e-4, 0.9, 0.0),
        "bursts": lambda: 0.3 * noise * (np.repeat(rng.random(240), 800) < 0.2),
        "ring": lambda: (
            0.3 * (np.sin(2 * np.pi * 440 * time_s) + np.sin(2 * np.pi * 480 * time_s)) * (time_s % 6 < 2)
        ),
        "piano": lambda: melody(rng, seconds, 0.55, 3.0),
        "organ": lambda: melody(rng, seconds, 0.75, 0.3),
        "drums": lambda: drums(rng, seconds),
        "band": lambda: 0.5 * drums(rng, seconds) + 0.6 * melody(rng, seconds, 0.5, 2.0),
    }
    found = listener.hear(write_wave(tmp_path / "sound.wav", sounds[name]()), GATE)
    assert found.text is None, found.text
    assert found.why.startswith("no speech was recognised: ")
