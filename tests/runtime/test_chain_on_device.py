"""Features that stay on the device: from the encoders' plans to the fusion plan without visiting the host."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from taemi_runtime.backends.tensorrt_lane import Lane
from taemi_runtime.errors import EngineError
from tests.runtime.chains import SAID, lent, make_lanes, open_by_host, open_scorer, values
from tests.runtime.plan_bundles import add_plans
from tests.runtime.tiny_clips import make_clip

NAN = 0xFF


@pytest.fixture(params=["cuda-python", "pycuda"])
def layer(request):
    return request.param


@pytest.fixture
def place(stale_place):
    return stale_place


@pytest.fixture(params=[False, True], ids=["text", "tokens"])
def planned(make_bundle, request):
    return add_plans(make_bundle(tokens=request.param))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """More frames than three calls of the vision encoder, and a rest."""
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", seconds=2.2)


def jobs(clips, long_clip):
    return [
        (long_clip, SAID),
        (clips.both, "the race"),
        (clips.sound, None),
        (clips.silent, SAID),
        (clips.both, ""),
    ]


def test_scores_are_those_of_the_way_by_the_host_bit_for_bit(planned, clips, long_clip, place, layer):
    with open_by_host(planned, layer) as scorer:
        expected = [values(scorer.predict(*job)) for job in jobs(clips, long_clip) * 3]
        assert not scorer.model.engine("vision").pool._idle
    with open_scorer(planned, layer) as scorer:
        assert [values(scorer.predict(*job)) for job in jobs(clips, long_clip) * 3] == expected
        assert scorer.model.engine("vision").pool._idle
        if layer == "cuda-python":
            assert scorer.model.engine("fusion").counts.replayed > 0
    np.testing.assert_allclose(expected[0], planned.expected(long_clip, SAID), atol=1e-5)


def test_only_scores_come_down_and_every_pixel_goes_up_once(planned, clips, long_clip, place):
    def bytes_of(scorer):
        for _ in range(4):
            scorer.predict(long_clip, SAID)
        place.gpu.copied = dict.fromkeys(place.gpu.copied, 0)
        found = scorer.predict(long_clip, SAID)
        return dict(place.gpu.copied), found

    with open_scorer(planned) as scorer:
        copied, found = bytes_of(scorer)
        rows = scorer.model.engine("fusion").padded_lengths(
            {"batch": 1, "audio_len": 1, "vision_len": 1, "text_len": 1}
        )
        assert rows["batch"] == 1
    with open_by_host(planned) as scorer:
        by_host, _ = bytes_of(scorer)
    assert copied["down"] == 6 * 4
    assert by_host["within"] == 0
    features = 4 * (3 * found.audio.frames + 3 * found.vision.frames)
    assert copied["within"] >= 2 * features
    assert by_host["up"] - copied["up"] >= features
    pixels = found.vision.frames * 3 * 8 * 8
    waveform = 4 * round(found.audio.seconds_used * 16000)
    # What else goes up: masks, tokens and flags, and the pixels that the last call is padded with.
    assert pixels + waveform <= copied["up"] <= pixels + waveform + 16 * 3 * 8 * 8 + 2000


def test_nothing_is_allocated_in_the_steady_state(planned, clips, long_clip, place, layer):
    with open_scorer(planned, layer) as scorer:
        make_lanes(scorer)
        for job in jobs(clips, long_clip) * 2:
            scorer.predict(*job)
        held = place.gpu.allocations
        for job in jobs(clips, long_clip) * 3:
            scorer.predict(*job)
        assert place.gpu.allocations == held


def test_an_array_that_is_closed_is_refused_and_its_memory_lent_again(planned, clips, place):
    with open_scorer(planned) as scorer:
        first = scorer.encoder.read([SAID])[0][0]
        address = first._lease.memory.address
        first.close()
        first.close()
        with pytest.raises(EngineError, match="cannot use an array on cuda:0: it is closed"):
            first.numpy()
        second = scorer.encoder.read([SAID])[0][0]
        assert second._lease.memory.address == address
        left = scorer.encoder.read(["the race"])[0][0]
    with pytest.raises(EngineError, match="it is closed"):
        left.numpy()


def test_eight_threads_get_what_one_gets(planned, clips, long_clip, place):
    some = jobs(clips, long_clip)[:4] * 2
    with open_scorer(planned) as scorer:
        alone = [values(scorer.predict(*job)) for job in some]
        wrong = []

        def work(job, expected):
            for _ in range(3):
                found = values(scorer.predict(*job))
                if found != expected:
                    wrong.append((job, found, expected))

        threads = [threading.Thread(target=work, args=pair) for pair in zip(some, alone, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not lent(scorer)


def test_two_calls_of_the_vision_encoder_are_under_way_at_a_time(planned, long_clip, place, monkeypatch):
    with open_scorer(planned) as scorer:
        expected = values(scorer.predict(long_clip, SAID))
        both = threading.Barrier(2)
        # Counted on the way in: one thread may make its next call before the other one has woken.
        calls = itertools.count()
        met = []

        def meeting(self, call, inputs, keep):
            if "vision" in keep and next(calls) < 2:
                met.append(both.wait(20))
            return run(self, call, inputs, keep)

        run = Lane.run
        monkeypatch.setattr(Lane, "run", meeting)
        assert values(scorer.predict(long_clip, SAID)) == expected
        assert sorted(met) == [0, 1]
