"""A small corpus in the distributed layout with everything in it that is known to go wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import av
import numpy as np
from PIL import Image

from taemi_runtime.emotions import CSV_HEADER
from tests.runtime.made_clips import Recipe, make
from tests.runtime.tiny_clips import make_clip

TRAIN, VALID, TEST = range(15), range(15, 20), range(12660, 12663)
# As wide as the tiny vision encoder's.
WIDTH = 48


class Hostile:
    """Pickles as a call of ``os.system``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def write_mp3(path: Path, samples: int) -> Path:
    time_s = np.arange(samples) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * 200 * time_s)).astype(np.float32)[None]
    return make(path, Recipe(fps=0, audio_codec="mp3"), wave)


def write_long_mp3(path: Path, minutes: int) -> Path:
    """Write a minute of sound again and again: encoding all of it takes long."""
    minute = write_mp3(path.with_name("minute.mp3"), 60 * 16_000)
    with av.open(str(minute)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams[0])
        packets = [(bytes(packet), packet.duration) for packet in reader.demux() if packet.dts is not None]
        time_base, pts = reader.streams[0].time_base, 0
        for content, duration in packets * minutes:
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, time_base, pts, pts
            packet.duration = duration
            pts += duration
            writer.mux(packet)
    minute.unlink()
    return path


def write_crops(folder: Path, count: int = 12) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((48, 40, 3), 10 + 15 * (number % 16), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def write_clip(folder: Path, name: str) -> None:
    """Write everything that a whole clip has."""
    for part in ("raw", "audio", "text", "vit"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    make_clip(folder / "raw" / f"{name}.mp4")
    write_mp3(folder / "audio" / f"{name}.mp3", 16_000)
    write_crops(folder / "face_images" / name)
    (folder / "text" / f"{name}.txt").write_text(f"this is clip {name}")
    features = np.random.default_rng(int(name)).standard_normal((6, WIDTH)).astype("f4")
    (folder / "vit" / f"{name}.pkl").write_bytes(pickle.dumps(features))


def write_split(path: Path, numbers, extra: str = "") -> None:
    rows = [
        f"{number},{number % 3 / 2:g},0,0.25,{number % 5 / 4:g},1,{number // 2 % 4 / 4:g}"
        for number in numbers
    ]
    path.write_text("\n".join([",".join(CSV_HEADER), *rows]) + f"\n{extra}")


def write_broken_corpus(root: Path) -> Path:
    """Write it; ``root / "ran"`` appears where a pickle is run."""
    for number in (*TRAIN, *VALID):
        write_clip(root, f"{number:05d}")
    for number in TEST:
        write_clip(root / "test", str(number))
    # Spreadsheets make numbers of the names.
    write_split(root / "train_split.csv", TRAIN, extra="3,0,0,0,0,0,0\n")
    write_split(root / "valid_split.csv", VALID)
    faces, audio, raw, text = (root / name for name in ("face_images", "audio", "raw", "text"))
    (faces / "00000" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    write_mp3(audio / "00001.mp3", 1024)
    write_long_mp3(audio / "00002.mp3", 20)
    for crop in (faces / "00003").iterdir():
        crop.unlink()
    (faces / "00003").rmdir()
    for crop in (faces / "00004").iterdir():
        crop.unlink()
    (text / "00005.txt").unlink()
    (text / "00006.txt").write_text(" \n")
    (text / "00007.txt").write_bytes("Grüße".encode("latin1"))
    noise = np.random.default_rng(1).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(faces / "00008" / "3.jpg")
    whole = (faces / "00008" / "3.jpg").read_bytes()
    (faces / "00008" / "3.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (faces / "00008" / "4.jpg").write_bytes(b"")
    (faces / "00008" / "5.jpg").write_text("no picture")
    (audio / "00009.mp3").write_text("no sound")
    (raw / "00010.mp4").write_bytes(b"")
    (raw / "00011.mp4").write_bytes((raw / "00000.mp4").read_bytes()[:600])
    (audio / "00011.mp3").unlink()
    for crop in (faces / "00011").iterdir():
        crop.write_bytes(b"\xff\xd8")
    (root / "vit" / "00012.pkl").write_bytes(pickle.dumps(Hostile(root / "ran")))
    (root / "vit" / "00013.pkl").write_bytes((root / "vit" / "00001.pkl").read_bytes()[:-40])
    (raw / "00014.mp4").unlink()
    (raw / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    write_clip(root, "00099")
    return root
