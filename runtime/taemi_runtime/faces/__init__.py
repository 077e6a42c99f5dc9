"""Faces: found by a detector on a fixed grid of time, tracked between, and cut out of the frames."""
