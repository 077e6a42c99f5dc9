"""The drawn faces of the synthetic corpus: found where they are, hidden when they should be, readable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from taemi.synth.encode import write_mp4
from taemi.synth.face import HEIGHT, WIDTH, Shot, draw_frames, film
from taemi.synth.latent import generator
from taemi.synth.voice import Voice, speak
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.faces import crops as crops_module
from taemi_runtime.faces.boxes import Box
from taemi_runtime.faces.cascade import CascadeDetector
from taemi_runtime.faces.crops import FaceCropper
from taemi_runtime.faces.finder import find_faces

FPS = 10


def a_voice(seconds: float = 12.0) -> Voice:
    """A voice that gets louder and softer three times a second; nothing of it is heard here."""
    times_s = np.arange(round(200 * seconds) + 1) / 200
    return Voice(np.zeros(1, np.float32), 0.5 + 0.5 * np.sin(2 * np.pi * 3 * times_s))


def shoot(index: int, seconds: float = 0.4, **options: bool) -> list[Shot]:
    """Film clip ``index``, whose expression is drawn as those of the corpus are."""
    shown = generator(3, index, "shown").normal(0, 1.6, len(EMOTIONS))
    return list(film(shown, a_voice(), seconds, FPS, generator(3, index, "face"), **options))


def encoded(shots: list[Shot], path: Path) -> list[np.ndarray]:
    """The frames as the corpus stores them."""
    write_mp4(path, (shot.pixels for shot in shots), FPS, None, 24_000)
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def cascade() -> CascadeDetector:
    return CascadeDetector()


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Box]]:
    """What the pipeline cuts out: (id of the frame, box), in order."""
    cut: list[tuple[int, Box]] = []
    crop = crops_module.crop_square

    def noting(pixels: np.ndarray, box: Box) -> np.ndarray:
        cut.append((id(pixels), box))
        return crop(pixels, box)

    monkeypatch.setattr(crops_module, "crop_square", noting)
    return cut


def run_pipeline(cascade: CascadeDetector, frames: list[np.ndarray]) -> FaceCropper:
    cropper = FaceCropper(cascade)
    for number, frame in enumerate(frames):
        cropper.add(number / FPS, frame)
    cropper.finish()
    return cropper


def test_faces_that_nothing_hides_are_found_once_where_they_are(
    cascade: CascadeDetector, boxes: list[tuple[int, Box]], tmp_path: Path
) -> None:
    single, cut, rolls, scales = [], [], [], []
    for index in range(40):
        shots = shoot(index, 0.3)
        frames = encoded(shots, tmp_path / f"{index}.mp4")
        assert len(frames) == len(shots)
        boxes.clear()
        assert run_pipeline(cascade, frames).counts.several == 0
        in_pipeline = dict(boxes)
        for shot, frame in zip(shots, frames, strict=True):
            assert shot.box is not None
            assert not shot.covered
            box = in_pipeline.get(id(frame))
            cut.append(box is not None and box.overlap(shot.box) >= 0.5)
        found = find_faces(cascade, frames[1])
        single.append(len(found) == 1 and found[0].overlap(shots[1].box or found[0]) >= 0.5)
        rolls.append(shots[1].roll_deg)
        scales.append(shots[1].scale)
    assert np.mean(single) >= 0.95
    assert np.mean(cut) >= 0.95
    # The sample is no easy one.
    assert min(rolls) < -13
    assert max(rolls) > 13
    assert min(scales) < 0.56
    assert max(scales) > 1.1


def test_heads_move_within_their_limits() -> None:
    for index in range(3):
        shots = shoot(index, 5.0)
        rolls, scales = ([getattr(shot, name) for shot in shots] for name in ("roll_deg", "scale"))
        assert np.ptp(rolls) > 2
        assert np.ptp(scales) > 0.01
        assert max(map(abs, rolls)) <= 20
        assert 0.5 <= min(scales) <= max(scales) <= 1.2
        # Slowly: no more than two degrees from frame to frame.
        assert np.abs(np.diff(rolls)).max() < 2


def test_the_true_box_is_where_the_face_is_drawn() -> None:
    """Mouth, cheeks and lids are where a smile differs from none: in the middle of the box."""
    calm, glad = np.full(6, -3.0), np.array([-3.0, -3.0, -3.0, -3.0, -3.0, 3.0])
    for index in range(8):
        (one,), (other,) = (
            list(film(shown, a_voice(), 0.1, FPS, generator(3, index, "face"))) for shown in (calm, glad)
        )
        box = one.box
        assert box is not None
        assert box == other.box
        changed = np.abs(one.pixels.astype(int) - other.pixels).sum(axis=2)
        assert changed.sum() > 5_000
        left, top = round(box.left), round(box.top)
        inside = changed[top : top + round(box.height), left : left + round(box.width)]
        assert inside.sum() > 0.98 * changed.sum()
        middle = (changed.sum(axis=0) * (np.arange(WIDTH) + 0.5)).sum() / changed.sum()
        assert abs(middle - box.centre[0]) < 0.1 * box.width


def test_what_hides_a_face_hides_it_from_the_detector(cascade: CascadeDetector) -> None:
    shares, found, clear = [], [], []
    for index in range(10):
        shots = shoot(index, 2.0, occlude=True)
        hidden = [shot.covered for shot in shots]
        shares.append(np.mean(hidden))
        middle = max(_runs(hidden), key=len)
        found.append(bool(find_faces(cascade, shots[middle[len(middle) // 2]].pixels)))
        clear.append(len(find_faces(cascade, shots[hidden.index(False)].pixels)) == 1)
    assert all(0.1 < share < 0.6 for share in shares)
    assert np.mean(found) < 0.35
    assert np.mean(clear) > 0.8


def _runs(flags: list[bool]) -> Iterator[list[int]]:
    """Yield the numbers of the frames in each stretch that is hidden."""
    run: list[int] = []
    for number, flag in enumerate([*flags, False]):
        if flag:
            run.append(number)
        elif run:
            yield run
            run = []


def test_occlusion_changes_nothing_in_frames_that_are_not_hidden() -> None:
    for index in range(3):
        plain, hidden = shoot(index, 2.0), shoot(index, 2.0, occlude=True)
        same = [np.array_equal(one.pixels, other.pixels) for one, other in zip(plain, hidden, strict=True)]
        covered = [shot.covered for shot in hidden]
        assert all(same[number] for number in range(len(same)) if not covered[number])
        assert not all(same)


def test_an_empty_room_has_no_face(cascade: CascadeDetector) -> None:
    for index in range(12):
        shots = shoot(index, 0.4, face=False, occlude=True)
        assert [shot.box for shot in shots] == [None] * 4
        assert find_faces(cascade, shots[0].pixels) == []


def test_frames_are_reproducible_and_as_many_as_the_clip_is_long() -> None:
    shown = np.zeros(6)
    for seconds, count in ((0.064, 1), (0.01, 1), (1.0, 10)):
        for face in (True, False):
            one, other = (
                list(draw_frames(shown, a_voice(), seconds, FPS, generator(0, 1, "face"), face=face))
                for _ in range(2)
            )
            assert len(one) == count
            assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in one)
            assert all(map(np.array_equal, one, other))
    assert not np.array_equal(shoot(0)[0].pixels, shoot(1)[0].pixels)


def test_the_mouth_moves_with_the_voice_and_eyes_blink() -> None:
    quiet, loud = (Voice(np.zeros(1, np.float32), np.full(2_400, level)) for level in (0.0, 1.0))
    laugh = np.array([-2.0, 3.0, -2.0, -2.0, -2.0, -2.0])
    (one,), (other,) = (
        list(film(laugh, voice, 0.1, FPS, generator(3, 2, "face"))) for voice in (quiet, loud)
    )
    assert one.box is not None
    middle = round(one.box.top + one.box.height / 2)
    changed = np.abs(one.pixels.astype(int) - other.pixels).sum(axis=(1, 2))
    assert changed[middle:].sum() > 1_000
    assert changed[:middle].sum() == 0
    # A blink shuts the eyes of a wide-eyed, silent person, whose upper face changes at no other time so much.
    wide = np.array([-2.0, -2.0, -2.0, -2.0, 4.0, -2.0])
    shots = list(film(wide, quiet, 5.0, 12, generator(3, 2, "face")))
    white = [_whitest(shot) for shot in shots]
    assert np.min(white) < 0.3 * np.median(white)


def _whitest(shot: Shot) -> float:
    """How many pixels of the face's upper half are as white as an eye is."""
    assert shot.box is not None
    left, top = round(shot.box.left), round(shot.box.top)
    upper = shot.pixels[max(top, 0) : top + round(shot.box.height / 2), left : left + round(shot.box.width)]
    return float((upper.min(axis=2) > 205).sum())


@pytest.mark.parametrize("emotion", range(len(EMOTIONS)), ids=EMOTIONS)
def test_each_emotion_shows_and_none_like_another(emotion: int) -> None:
    """Each moves its own part of the picture by a lot: the patterns of two emotions hardly agree."""
    patterns = []
    for number in range(len(EMOTIONS)):
        low, high = np.full(6, -1.0), np.full(6, -1.0)
        low[number], high[number] = -2.0, 2.0
        one, other = (
            next(film(shown, a_voice(), 0.1, FPS, generator(3, 9, "face"))).pixels.astype(float)
            for shown in (low, high)
        )
        patterns.append((other - one).ravel())
    own = np.linalg.norm(patterns[emotion])
    assert own > 500
    for number, pattern in enumerate(patterns):
        if number != emotion:
            assert abs(patterns[emotion] @ pattern) / (own * np.linalg.norm(pattern)) < 0.6


def test_the_expression_can_be_read_whoever_wears_it() -> None:
    """A linear model of the cropped pixels, fitted on some people, reads all six emotions of others."""
    looks, shown = [], []
    for index in range(200):
        (shot,) = shoot(index, 0.1)
        assert shot.box is not None
        small = Image.fromarray(crops_module.crop_square(shot.pixels, shot.box)).resize((24, 24))
        looks.append(np.asarray(small, float).ravel() / 255)
        shown.append(generator(3, index, "shown").normal(0, 1.6, len(EMOTIONS)))
    pictures, wanted, fitted = np.array(looks), np.array(shown), 140
    centred = pictures - pictures[:fitted].mean(axis=0)
    gram = centred[:fitted] @ centred[:fitted].T + 10 * np.eye(fitted)
    read = centred[fitted:] @ centred[:fitted].T @ np.linalg.solve(gram, wanted[:fitted])
    for number, name in enumerate(EMOTIONS):
        assert np.corrcoef(read[:, number], wanted[fitted:, number])[0, 1] > 0.5, name


def test_the_voice_of_the_corpus_drives_it() -> None:
    """The frames of a real clip's call, with the voice that ``speak`` makes."""
    voice = speak(np.zeros(6), 1.0, generator(1, 1, "voice"))
    frames = list(draw_frames(np.zeros(6), voice, 1.0, 12, generator(1, 1, "face"), occlude=True))
    assert len(frames) == 12
