"""Curves for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys

import pytest

from taemi.curves import open_curves
from taemi_runtime.errors import MissingExtraError


def test_scalars_come_back_and_what_lies_beyond_a_resumed_step_is_hidden(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_curves(tmp_path / "curves", 0) as curves:
        for step in range(1, 6):
            curves.add({"train/loss": 1.0 / step, "valid/rho Joy": 0.1 * step}, step)
    with open_curves(tmp_path / "curves", 3) as curves:
        curves.add({"train/loss": 9.0}, 4)
    events = reader.EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 9.0})
    assert events.Scalars("valid/rho Joy")[0].value == pytest.approx(0.1)


def test_without_a_folder_nothing_is_written(tmp_path):
    with open_curves(None, 0) as curves:
        curves.add({"train/loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_a_missing_tensorboard_is_named_with_both_ways_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(MissingExtraError, match=r"taemi\[train\].*--no-tensorboard"),
        open_curves(tmp_path, 0),
    ):
        pass
