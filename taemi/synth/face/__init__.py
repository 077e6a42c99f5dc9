"""The picture of synthetic clips: a shaded drawn face whose expression follows the latent vector."""

from taemi.synth.face.look import HEIGHT, WIDTH
from taemi.synth.face.shots import Shot, draw_frames, film

__all__ = ["HEIGHT", "WIDTH", "Shot", "draw_frames", "film"]
