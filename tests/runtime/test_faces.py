"""Faces: found, tracked and cut out of frames; drawn ones, which the shipped cascade takes for real."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from taemi_runtime.errors import BundleError, EngineError, MissingExtraError, SpecError
from taemi_runtime.faces import crops as crops_module
from taemi_runtime.faces.boxes import Box, crop_square, largest_first
from taemi_runtime.faces.cascade import CascadeDetector
from taemi_runtime.faces.choice import describe_difference, open_detector
from taemi_runtime.faces.crops import GRID_S, FaceCounts, FaceCropper
from taemi_runtime.faces.finder import find_faces
from taemi_runtime.faces.yunet import YunetDetector
from taemi_runtime.media import read_clip
from taemi_runtime.preprocessing import Preprocessing, VisionPreprocessing
from tests.runtime.drawn_faces import SKINS, Face, draw, wall, write_video
from tests.runtime.yunet_like import yunet_like

AUTO = Preprocessing(vision=VisionPreprocessing(height=48, width=48, faces="auto"))
WHOLE = Preprocessing(vision=VisionPreprocessing(height=48, width=48))


@pytest.fixture(scope="module")
def cascade():
    return CascadeDetector()


@pytest.fixture(scope="module")
def face_clip(tmp_path_factory):
    """One second of a face that moves slowly to the right."""
    path = tmp_path_factory.mktemp("faces") / "one.mp4"
    return write_video(path, (draw(wall(), Face(100 + index, 96, 45)) for index in range(25)))


class Scripted:
    """A detector that reads a frame's first pixel: how many pixels to the right the face is; 0 is none."""

    name = "auto"

    def __init__(self, jitter: int = 0) -> None:
        self.calls = 0
        self.jitter = jitter

    def detect(self, image):
        self.calls += 1
        place = int(image[0, 0, 0])
        shift = self.jitter * (-1) ** self.calls
        return [Box(place + shift, 100, 60, 60)] if place else []


def marked(place: int, rows: int = 240, columns: int = 320) -> np.ndarray:
    """A frame of the size that is searched, so that boxes are in its own pixels; columns tell themselves."""
    frame = np.zeros((rows, columns, 3), np.uint8)
    frame[..., 1] = np.arange(columns) // 2
    frame[..., 0] = place
    return frame


def feed(cropper: FaceCropper, frames, fps: float = 25.0, start_s: float = 0.0) -> list[np.ndarray]:
    found = []
    for index, frame in enumerate(frames):
        found += cropper.add(start_s + index / fps, frame)
    return found + cropper.finish()


@pytest.mark.parametrize("skin", SKINS)
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.2])
def test_faces_are_found_at_every_size_roll_and_skin(cascade, scale, skin):
    for roll_deg in (-20, -12, 0, 12, 20):
        face = Face(128, 96, 55 * scale, roll_deg, skin)
        found = find_faces(cascade, draw(wall(), face))
        assert len(found) == 1, roll_deg
        assert found[0].overlap(face.box) >= 0.5


def test_a_tilted_head_is_found_because_the_frame_is_turned(cascade, monkeypatch):
    picture = draw(wall(), Face(128, 96, 45, 30))
    assert len(find_faces(cascade, picture)) == 1
    monkeypatch.setattr("taemi_runtime.faces.finder._TURNS_DEG", ())
    assert find_faces(cascade, picture) == []


def test_nothing_is_found_where_no_face_is(cascade):
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    for picture in (wall(), noise, np.zeros((2, 2, 3), np.uint8), np.zeros((1080, 1920, 3), np.uint8)):
        assert find_faces(cascade, picture) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 30_000, 3), (30_000, 2, 3)])
def test_frames_of_no_shape_cost_no_more_than_others(cascade, shape, monkeypatch):
    seen = []
    detect = cascade.detect
    monkeypatch.setattr(cascade, "detect", lambda image: seen.append(image.size) or detect(image))
    assert find_faces(cascade, np.zeros(shape, np.uint8)) == []
    assert max(seen) <= 240 * 960 * 3


def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(cascade):
    face = Face(400, 300, 180)
    (found,) = find_faces(cascade, draw(wall(720, 960), face))
    assert found.overlap(face.box) >= 0.5


def test_the_largest_of_two_faces_comes_first(cascade):
    small, large = Face(60, 90, 30), Face(180, 100, 48, skin=SKINS[2])
    found = find_faces(cascade, draw(draw(wall(), small), large))
    assert len(found) == 2
    assert found[0].overlap(large.box) > 0.5
    assert found[1].overlap(small.box) > 0.5


def test_equal_boxes_have_one_order():
    boxes = [Box(5, 0, 2, 2), Box(1, 3, 2, 2), Box(1, 0, 2, 2), Box(0, 0, 3, 3)]
    assert largest_first(boxes) == largest_first(boxes[::-1]) == [boxes[3], boxes[2], boxes[1], boxes[0]]


def test_a_crop_is_a_square_with_its_margin():
    pixels = marked(7)
    crop = crop_square(pixels, Box(100, 80, 50, 40), margin=0.2)
    assert crop.shape == (70, 70, 3)
    np.testing.assert_array_equal(crop, pixels[65:135, 90:160])


@pytest.mark.parametrize("box", [Box(-20, -20, 60, 60), Box(290, 210, 60, 60), Box(-50, -50, 600, 600)])
def test_a_crop_never_leaves_the_frame(box):
    pixels = marked(7)
    crop = crop_square(pixels, box)
    side = len(crop)
    assert crop.shape == (side, side, 3)
    assert side == min(84, 240) if box.width == 60 else side == 240
    assert (crop[..., 0] == 7).all()


def test_faces_are_looked_for_on_a_grid_of_time_whatever_the_frame_rate():
    for fps in (10, 25, 30, 60):
        detector = Scripted()
        feed(FaceCropper(detector), [marked(90)] * (2 * fps), fps)
        assert detector.calls == round(2 / GRID_S) + 1, fps  # the last frame is looked at, too


def test_boxes_follow_a_moving_face_between_the_points_of_the_grid():
    places = [50 + 2 * index for index in range(26)]
    found = feed(FaceCropper(Scripted()), [marked(place) for place in places])
    # Which columns a crop holds tells where it was cut; 12 pixels of margin stand left of the box.
    lefts = [2 * int(crop[0, 0, 1]) for crop in found]
    for index, (left, place) in enumerate(zip(lefts, places, strict=True)):
        assert abs(left - (place - 12)) <= 2, index


def test_jitter_of_the_detector_is_damped():
    found = feed(FaceCropper(Scripted(jitter=6)), [marked(90)] * 50)
    lefts = [2 * int(crop[0, 0, 1]) for crop in found[5:-10]]
    assert max(lefts) - min(lefts) <= 2


def test_a_window_gives_the_crops_that_the_whole_video_gives():
    rng = np.random.default_rng(3)
    frames = [marked(int(place)) for place in rng.choice([0, 60, 66, 72, 180], 100)]
    whole = feed(FaceCropper(Scripted()), frames)
    window = feed(FaceCropper(Scripted()), frames[20:80], start_s=20 / 25)
    # All but two steps at either end are equal, and stand in the whole in one piece.
    core = b"".join(crop.tobytes() for crop in window[10:-12])
    assert len(core) > 10_000
    assert core in b"".join(crop.tobytes() for crop in whole)


def test_frames_without_a_face_are_left_out_and_counted():
    frames = [marked(90)] * 25 + [marked(0)] * 25 + [marked(90)] * 25
    cropper = FaceCropper(Scripted())
    found = feed(cropper, frames)
    assert cropper.counts == FaceCounts(frames=75, faces=len(found), several=0)
    assert abs(len(found) - 50) <= 4  # half a step of the grid at either change
    assert all((crop[..., 0] == 90).all() for crop in found[:20] + found[-20:])


@pytest.mark.parametrize("times", [[0.0] * 5, [0.3, 0.1, 0.0, 0.0], [-0.5, -0.5, 0.1], [0.0, 9.0, 0.0]])
def test_times_that_repeat_or_go_back_lose_no_frame(times):
    cropper = FaceCropper(Scripted())
    found = [crop for time_s in times for crop in cropper.add(time_s, marked(90))] + cropper.finish()
    assert [crop.shape for crop in found] == [(84, 84, 3)] * len(times)
    assert cropper.finish() == []


def test_a_jump_to_another_face_is_a_cut_and_no_slide():
    found = feed(FaceCropper(Scripted()), [marked(20)] * 25 + [marked(200)] * 25)
    lefts = {2 * int(crop[0, 0, 1]) for crop in found}
    assert lefts == {20 - 12, 200 - 12}


def test_two_faces_of_one_size_do_not_take_turns():
    class Pair:
        """Two faces of 60 and 58 pixels, but for a detector that is off by up to 3 now and then."""

        name = "auto"

        def __init__(self):
            self.calls = 0

        def detect(self, image):
            self.calls += 1
            off = 3 if self.calls % 3 == 0 else 0
            return [Box(40, 100, 60, 60), Box(200, 100, 58 + off, 58 + off)]

    frame = marked(90)
    found = feed(FaceCropper(Pair()), [frame] * 75)
    lefts = [2 * int(crop[0, 0, 1]) for crop in found]
    # By the boxes of each point alone every third one would show the other face.
    assert all(abs(left - 28) <= 2 for left in lefts)
    alone = Pair()
    assert {int(find_faces(alone, frame)[0].left) for _ in range(6)} == {40, 200}


def test_memory_holds_two_steps_of_the_grid_and_no_more():
    cropper = FaceCropper(Scripted())
    longest = 0
    for index in range(500):
        cropper.add(index / 25, marked(90))
        longest = max(longest, sum(map(len, cropper._waiting)))
    assert longest <= 3 * 25 * crops_module.GRID_S


def test_a_clip_is_cropped_and_the_same_every_time(face_clip):
    first, again = read_clip(face_clip, AUTO), read_clip(face_clip, AUTO)
    assert first.faces == FaceCounts(25, 25, 0)
    assert first.frames.shape == (25, 3, 48, 48)
    assert first.vision_seconds == pytest.approx(1.0)
    np.testing.assert_array_equal(first.frames, again.frames)
    # The face fills the crop: its middle is skin, not wall.
    middle = first.frames[:, :, 22:26, 22:26].mean((0, 2, 3))
    assert middle[0] - middle[2] > 40
    assert read_clip(face_clip, WHOLE).faces is None


def test_a_face_that_moves_stays_in_the_middle_of_its_crop(tmp_path):
    # The wall's colour would enter at one side if the box lagged behind by a tenth of the face.
    faces = (Face(70 + 4 * index, 96, 45) for index in range(25))
    clip = write_video(tmp_path / "a.mp4", (draw(wall(), face) for face in faces))
    found = read_clip(clip, AUTO)
    assert found.faces == FaceCounts(25, 25, 0)
    skin = found.frames[:, 0].astype(int) - found.frames[:, 2] > 25
    middle = (skin * np.arange(48)).sum((1, 2)) / skin.sum((1, 2))
    assert np.abs(middle - middle.mean()).max() < 48 * 0.06


@pytest.mark.parametrize(
    ("turns", "matrix"),
    [
        (1, (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)),
        (2, (-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30)),
    ],
)
def test_rotation_metadata_is_applied_first(turns, matrix, tmp_path):
    picture = draw(wall(), Face(110, 96, 45))
    lying = np.rot90(picture, turns)
    turned = write_video(tmp_path / "turned.mp4", [lying] * 10, matrix=matrix)
    plain = write_video(tmp_path / "plain.mp4", [picture] * 10)
    found, expected = read_clip(turned, AUTO), read_clip(plain, AUTO)
    assert found.faces == expected.faces == FaceCounts(10, 10, 0)
    assert np.abs(found.frames.astype(int) - expected.frames).mean() < 4
    unmarked = write_video(tmp_path / "unmarked.mp4", [lying] * 10)
    assert read_clip(unmarked, AUTO).frames is None


def test_a_clip_with_no_face_is_a_result_with_its_reason(tmp_path):
    clip = write_video(tmp_path / "wall.mp4", [wall()] * 10)
    found = read_clip(clip, AUTO)
    assert found.frames is None
    assert found.vision_why == "no face was found in any of 10 frames"
    assert found.faces == FaceCounts(10, 0, 0)
    assert found.vision_seconds == 0.0


def test_a_face_in_part_of_the_frames(tmp_path):
    face, empty = draw(wall(), Face(128, 96, 45)), wall()
    clip = write_video(tmp_path / "part.mp4", [face] * 25 + [empty] * 25)
    found = read_clip(clip, AUTO)
    assert found.faces.frames == 50
    assert len(found.frames) == found.faces.faces == pytest.approx(25, abs=3)
    assert found.vision_seconds == pytest.approx(found.faces.faces / 25)


def test_no_more_frames_are_looked_at_than_the_model_takes(tmp_path):
    clip = write_video(tmp_path / "wall.mp4", [wall()] * 30)
    few = replace(AUTO, vision=replace(AUTO.vision, max_frames=12))
    found = read_clip(clip, few)
    assert found.faces == FaceCounts(12, 0, 0)
    assert found.vision_truncated


def test_huge_frames_wait_at_a_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("taemi_runtime.tracks._LARGEST_SIDE", 96)
    picture = draw(wall(384, 512), Face(256, 192, 90))
    found = read_clip(write_video(tmp_path / "large.mp4", [picture] * 10), AUTO)
    assert found.faces == FaceCounts(10, 10, 0)


def test_preprocessing_names_known_ways_only():
    VisionPreprocessing(faces="sha256:" + "0" * 64)
    with pytest.raises(SpecError, match="faces is 'sha256:12', expected none, auto or sha256: and 64 digits"):
        VisionPreprocessing(faces="sha256:12")


def test_which_detector_is_opened():
    assert open_detector("none") is None
    assert open_detector("auto", "none") is None
    assert open_detector("none", "auto").name == open_detector("auto").name == "auto"
    with pytest.raises(BundleError, match=r"a face detector from a file .* Give it: --faces FILE"):
        open_detector("sha256:" + "0" * 64)
    assert describe_difference("auto", "auto") == ""
    assert "trained on whole frames and looks at face crops" in describe_difference("none", "auto")


def test_without_opencv_one_sentence_says_what_to_install(monkeypatch, face_clip):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"OpenCV .*opencv-python-headless>=4.10,<5.*--faces none"):
        read_clip(face_clip, AUTO)
    assert read_clip(face_clip, WHOLE).frames is not None


def test_an_opencv_without_cascades_is_named(monkeypatch):
    import cv2

    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(MissingExtraError, match=f"OpenCV {cv2.__version__} has no cascade classifier"):
        CascadeDetector()


def test_a_detector_from_a_file_is_used_and_named_by_its_digest(tmp_path):
    path = yunet_like(tmp_path / "yunet.onnx")
    detector = YunetDetector(path)
    assert detector.name == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[96:128, 160:192] = 255
    (found,) = find_faces(detector, frame)
    x, y = found.centre
    assert (found.width, found.height) == (32, 32)
    assert abs(x - 160) <= 32
    assert abs(y - 96) <= 32
    assert find_faces(detector, np.zeros((240, 320, 3), np.uint8)) == []


def test_a_file_that_is_no_detector_is_refused(tmp_path, capfd):
    path = tmp_path / "yunet.onnx"
    with pytest.raises(EngineError, match="there is no such file"):
        YunetDetector(path)
    path.write_bytes(b"no network")
    with pytest.raises(EngineError, match="OpenCV cannot use it as a face detector"):
        YunetDetector(path)
    assert capfd.readouterr().err == ""
