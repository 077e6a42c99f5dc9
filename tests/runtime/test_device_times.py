"""What ``timings_ms`` says of stages that run on a device: the device's own time, a call at a time."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnx
import pytest

from taemi_runtime.backends import open_engine
from taemi_runtime.backends.onnxruntime_session import import_onnxruntime
from taemi_runtime.batching import DecodedClip
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.resident import Piece
from taemi_runtime.stopwatch import count_device_ms, stopwatch
from taemi_runtime.transcripts import Transcript
from tests.runtime import fake_provider
from tests.runtime.chains import SAID, decoded, open_scorer
from tests.runtime.fake_provider import install_provider
from tests.runtime.plan_bundles import add_plans
from tests.runtime.tiny_bundle import vision_model, vision_spec

STEP_MS = 0.25
"""What every piece of work moves the simulated device's clock on by."""
PARTS = ("host_to_device", "compute", "device_to_host")


@pytest.fixture
def planned(make_bundle):
    """A bundle with a plan of every graph."""
    return add_plans(make_bundle())


def is_device_time(ms):
    return ms > 0 and ms % STEP_MS == 0


@pytest.mark.parametrize("layer", ["cuda-python", "pycuda"])
def test_a_call_takes_what_the_events_around_its_work_say(place, tmp_path, layer):
    path = place.write(tmp_path, "vision", vision_model(), vision_spec())
    with open_engine(path, vision_spec(), EngineOptions(cuda_backend=layer)) as engine:
        pixels = draw_inputs(vision_spec(), {"frames": 4})
        for _ in range(4):
            engine.run(pixels)
            # One upload, the call, one download, and the second event.
            assert engine.last_run_ms == 4 * STEP_MS
        with engine.pool.take((9, 3), "float32") as target:
            for _ in range(4):
                engine.run(pixels, keep={"vision": [Piece(target, 0, 2, at=0), Piece(target, 2, 2, at=5)]})
                # The copies to where the output stays count, too.
                assert engine.last_run_ms == 5 * STEP_MS


@pytest.mark.parametrize("layer", ["cuda-python", "pycuda"])
def test_who_asks_is_told_where_a_call_spent_its_time(place, tmp_path, layer):
    path = place.write(tmp_path, "vision", vision_model(), vision_spec())
    pixels = draw_inputs(vision_spec(), {"frames": 4})
    with open_engine(path, vision_spec(), EngineOptions(cuda_backend=layer)) as engine:
        engine.run(pixels)
        assert engine.last_split is None
    with open_engine(path, vision_spec(), EngineOptions(cuda_backend=layer, split_times=True)) as engine:
        assert engine.captures == (layer == "cuda-python")
        for _ in range(4):
            engine.run(pixels)
            found = engine.last_split
            # The upload, the call, the download; behind each an event.
            assert (found.host_to_device, found.compute, found.device_to_host) == (2 * STEP_MS,) * 3
            assert found.host_to_device + found.compute + found.device_to_host == engine.last_run_ms
            assert found.enqueue > 0
        if engine.captures:
            assert engine.counts.replayed >= 3
        with engine.pool.take((9, 3), "float32") as target:
            engine.run(pixels, keep={"vision": [Piece(target, 0, 2, at=0), Piece(target, 2, 2, at=5)]})
            # Two copies to where the output stays, and the event behind them.
            assert engine.last_split.device_to_host == 3 * STEP_MS


@pytest.mark.parametrize("slowed", ["host_to_device", "compute", "device_to_host"])
def test_onnx_runtime_s_calls_are_split_by_the_clock(place, tmp_path, monkeypatch, slowed):
    install_provider(monkeypatch, place.gpu)
    path = tmp_path / "vision.onnx"
    onnx.save(vision_model(), path)
    pixels = draw_inputs(vision_spec(), {"frames": 4})

    def late(kind, name):
        known = getattr(kind, name)

        def call(self, *arguments):
            time.sleep(0.02)
            return known(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    with open_engine(path, vision_spec(), EngineOptions(device="cuda")) as engine:
        expected = engine.run(pixels)["vision"]
        assert engine.last_split is None
    with open_engine(path, vision_spec(), EngineOptions(device="cuda", split_times=True)) as engine:
        engine.run(pixels)
        value = import_onnxruntime("cpu").OrtValue
        late(
            *{
                "host_to_device": (value, "update_inplace"),
                "compute": (fake_provider._Session, "run_with_iobinding"),
                "device_to_host": (value, "numpy"),
            }[slowed]
        )
        found = []
        for _ in range(3):
            np.testing.assert_array_equal(engine.run(pixels)["vision"], expected)
            found.append([getattr(engine.last_split, name) for name in PARTS])
            assert sum(found[-1]) <= engine.last_run_ms
            assert engine.last_split.enqueue is None
        # The quickest of three: other processes may stop this one in any part.
        least = dict(zip(PARTS, map(min, *found), strict=True))
        assert least.pop(slowed) >= 20
        assert all(0 < ms < 20 for ms in least.values())
        with engine.pool.take((9, 3), "float32") as target:
            engine.run(pixels, keep={"vision": [Piece(target, 0, 4)]})
            # Nothing comes down.
            assert engine.last_split.device_to_host < 20


def test_every_thread_has_the_time_of_its_own_call(place, tmp_path):
    path = place.write(tmp_path, "vision", vision_model(), vision_spec())
    with open_engine(path, vision_spec()) as engine:
        engine.run(draw_inputs(vision_spec(), {"frames": 4}))
        here = engine.last_run_ms
        seen = []

        def work():
            seen.append(engine.last_run_ms)
            with engine.pool.take((4, 3), "float32") as target:
                engine.run(
                    draw_inputs(vision_spec(), {"frames": 4}),
                    keep={"vision": [Piece(target, row, 1, at=row) for row in range(4)]},
                )
            seen.append(engine.last_run_ms)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [0.0, 7 * STEP_MS]
        assert engine.last_run_ms == here


def test_stages_say_what_the_device_says_and_the_total_is_by_the_clock(planned, clips, place):
    with open_scorer(planned) as scorer:
        scorer.predict(clips.both, SAID)
        start = time.perf_counter()
        alone = scorer.predict(clips.both, SAID).timings_ms
        wall_ms = (time.perf_counter() - start) * 1e3
        batch = [DecodedClip(decoded(planned, clips.both), Transcript.given(SAID), decode_ms=1.0)]
        together = scorer.score_batch(batch)[0].timings_ms
        (window,) = scorer.predict_windows(clips.both, 30, SAID)
        over_time = window.timings_ms
    for found in (alone, together, over_time):
        for stage in ("audio", "vision", "text", "fusion"):
            assert is_device_time(getattr(found, stage)), (stage, found)
        assert found.total % STEP_MS
    assert 0 < alone.total <= wall_ms
    assert not is_device_time(alone.decode)
    assert together.total > 1.0


def test_what_has_no_events_is_timed_by_the_clock(make_bundle, clips, place, monkeypatch):
    install_provider(monkeypatch, place.gpu)
    made = make_bundle()
    with open_scorer(made) as scorer:
        assert scorer.model.engine("vision").info.backend == "onnxruntime-cuda"
        found = scorer.predict(clips.both, SAID).timings_ms
        for stage in ("audio", "vision", "text", "fusion"):
            assert getattr(found, stage) % STEP_MS
        assert scorer.model.engine("fusion").last_run_ms % STEP_MS


def test_blocks_in_one_another_keep_their_times_apart():
    with stopwatch() as outer:
        count_device_ms(2.0)
        with stopwatch() as inner:
            count_device_ms(3.0)
            count_device_ms(4.0)
        count_device_ms(1.0)
        with stopwatch() as plain:
            time.sleep(0.01)
    assert (outer.ms, inner.ms) == (3.0, 7.0)
    assert plain.ms == plain.wall_ms >= 10
    count_device_ms(5.0)
    assert outer.ms == 3.0
