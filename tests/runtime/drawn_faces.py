"""Shaded drawings of faces that OpenCV's cascade takes for real ones, and clips of them.

What makes it fire: brows and eye sockets much darker than forehead and cheeks (brows at a third of the
skin's brightness), a nose ridge brighter than its sides, a dark mouth, and hair darker than the skin
(at most 0.6 of it). A flat cartoon is found in one frame of ten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from taemi_runtime.faces.boxes import Box

SKINS = ((247, 214, 186), (205, 155, 115), (165, 115, 80), (90, 60, 45))


@dataclass(frozen=True)
class Face:
    """A face to draw.

    Args:
        x: Its middle in pixels.
        y: Its middle in pixels, downwards.
        half: Half the head's width in pixels.
        roll_deg: How far the head is tilted, clockwise.
        skin: Its colour.
    """

    x: float
    y: float
    half: float
    roll_deg: float = 0.0
    skin: tuple[int, int, int] = SKINS[0]

    @property
    def box(self) -> Box:
        """The square from brows to chin."""
        angle = np.deg2rad(self.roll_deg)
        x, y = self.x - 0.22 * self.half * np.sin(angle), self.y + 0.22 * self.half * np.cos(angle)
        reach = 0.95 * self.half
        return Box(x - reach, y - reach, 2 * reach, 2 * reach)


def wall(rows: int = 192, columns: int = 256, colour: tuple[int, int, int] = (120, 140, 160)) -> np.ndarray:
    """An empty background, lit from one side: [rows, columns, 3] uint8."""
    light = np.linspace(-15, 15, columns)[None, :, None]
    return np.clip(np.full((rows, columns, 3), colour) + light, 0, 255).astype(np.uint8)


def draw(picture: np.ndarray, face: Face) -> np.ndarray:
    """Draw a face over a picture: [rows, columns, 3] uint8."""
    rows, columns = picture.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    angle = np.deg2rad(face.roll_deg)
    across, down = (x - face.x) / face.half, (y - face.y) / face.half
    u = across * np.cos(angle) + down * np.sin(angle)
    v = down * np.cos(angle) - across * np.sin(angle)
    skin = np.asarray(face.skin, np.float32)

    def blob(a: float, b: float, width: float, height: float) -> np.ndarray:
        return np.exp(-(((u - a) / width) ** 2) - ((v - b) / height) ** 2)

    def oval(a: float, b: float, width: float, height: float) -> np.ndarray:
        edge = (1 - np.hypot((u - a) / width, (v - b) / height)) * min(width, height) * face.half
        return 1 / (1 + np.exp(-np.clip(edge, -30, 30)))

    def paint(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
        return canvas * (1 - mask[..., None]) + colour * mask[..., None]

    shade = 1 - 0.35 * np.abs(u) ** 2.5 - 0.1 * np.clip(v, 0, 2) ** 2 + 0.1 * blob(0, -0.62, 0.5, 0.25)
    shade += (
        0.14 * blob(0, 0.02, 0.1, 0.35) - 0.22 * blob(0, 0.43, 0.2, 0.05) - 0.18 * blob(0, 0.95, 0.3, 0.07)
    )
    for side in (-1, 1):
        shade += 0.12 * blob(side * 0.48, 0.3, 0.24, 0.2) - 0.12 * blob(side * 0.2, 0.3, 0.08, 0.22)
        shade -= 0.38 * blob(side * 0.4, -0.16, 0.27, 0.13)
    canvas = paint(
        picture.astype(np.float32), oval(0, -0.3, 1.08, 1.25), np.minimum((50, 35, 28), skin * 0.6)
    )
    canvas = paint(canvas, oval(0, 1.35, 0.5, 0.6), skin * 0.6)
    canvas = paint(canvas, oval(0, 0.05, 0.92, 1.25), skin * np.clip(shade, 0.1, 1.15)[..., None])
    for side in (-1, 1):
        canvas = paint(canvas, 0.85 * oval(side * 0.4, -0.14, 0.17, 0.075), np.array((235, 232, 228)))
        canvas = paint(canvas, oval(side * 0.4, -0.14, 0.08, 0.085), np.array((40, 28, 24)))
        canvas = paint(canvas, 0.9 * oval(side * 0.42, -0.38, 0.27, 0.06), skin * 0.3)
        canvas = paint(canvas, 0.8 * oval(side * 0.09, 0.4, 0.05, 0.035), skin * 0.35)
    canvas = paint(canvas, 0.9 * oval(0, 0.74, 0.36, 0.09), skin * (0.62, 0.42, 0.45))
    canvas = paint(canvas, 0.7 * oval(0, 0.74, 0.34, 0.025), skin * 0.2)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def write_video(
    path: Path, pictures: Iterable[np.ndarray], fps: int = 25, matrix: tuple[int, ...] | None = None
) -> Path:
    """Encode pictures as a clip without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=fps, options={"crf": "18", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
                if matrix:
                    stream.set_display_matrix(matrix)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
