"""What becomes of arrays on the device when clips share calls, fail, or are given up."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from taemi_runtime import streaming
from taemi_runtime.batching import DecodedClip
from taemi_runtime.clip_features import SeenFrames
from taemi_runtime.errors import EngineError, InputError
from taemi_runtime.resident import DeviceRows
from taemi_runtime.results import ClipFailure
from taemi_runtime.transcripts import Transcript
from tests.runtime.chains import SAID, decoded, lent, open_by_host, open_scorer, pools, values
from tests.runtime.fake_tensorrt import FakeContext
from tests.runtime.plan_bundles import GRAPHS, add_plan, add_plans


@pytest.fixture
def place(stale_place):
    return stale_place


@pytest.fixture(params=[{}, {"tokens": True}, {"fixed": True}], ids=str)
def planned(make_bundle, request):
    return add_plans(make_bundle(**request.param))


@pytest.fixture
def simple(make_bundle):
    return add_plans(make_bundle("simple.taemi"))


def refuse_when(monkeypatch, wanted, error=None):
    """Let calls of contexts fail for which ``wanted`` says so; return what switches it on and off."""
    execute = FakeContext.execute_async_v3
    switch = threading.Event()

    def executed(self, stream):
        if switch.is_set() and wanted(self):
            if error is not None:
                raise error
            return self.refuse("no luck today")
        return execute(self, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", executed)
    return switch


def gives(name):
    return lambda context: name in context.engine.outputs


def test_a_batch_stays_on_the_device_and_padding_changes_nothing(planned, clips, place):
    some = [
        DecodedClip(decoded(planned, path), Transcript.given(said))
        for path, said in [
            (clips.both, SAID),
            (clips.sound, None),
            (clips.second, "the race"),
            (clips.silent, SAID),
            (clips.both, ""),
        ]
    ]
    with open_by_host(planned) as scorer:
        expected = [values(found) for found in scorer.score_batch(some)]
    with open_scorer(planned) as scorer:
        for _ in range(3):
            assert [values(found) for found in scorer.score_batch(some)] == expected
            assert not lent(scorer)
        held = place.gpu.allocations
        place.gpu.copied = dict.fromkeys(place.gpu.copied, 0)
        assert [values(found) for found in scorer.score_batch(some)] == expected
        assert place.gpu.allocations == held
        # Eight rows of the bucket for five clips, six scores each, and nothing else.
        assert place.gpu.copied["down"] == 8 * 6 * 4


def test_the_clips_of_many_come_out_as_alone(simple, clips, place):
    paths = [clips.both, clips.second, clips.broken, clips.sound, clips.silent] * 3
    with open_scorer(simple) as scorer:
        alone = {path: values(scorer.predict(path)) for path in set(paths) - {clips.broken}}
        found = list(scorer.predict_many(paths, workers=2, batch=4))
        assert not lent(scorer)
    for path, outcome in zip(paths, found, strict=True):
        if path == clips.broken:
            assert isinstance(outcome, ClipFailure)
        else:
            np.testing.assert_allclose(values(outcome), alone[path], atol=1e-5)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_clip_that_fails_gives_everything_back_and_harms_no_other(simple, clips, place, graph, monkeypatch):
    output = "intensities" if graph == "fusion" else graph
    failing = refuse_when(monkeypatch, gives(output))
    some = [DecodedClip(decoded(simple, path), Transcript.given(SAID)) for path in (clips.both, clips.second)]
    with open_scorer(simple) as scorer:
        expected = values(scorer.predict(clips.both, SAID))
        together = [values(found) for found in scorer.score_batch(some)]
        failing.set()
        with pytest.raises(EngineError, match="no luck today"):
            scorer.predict(clips.second, SAID + " today")
        outcomes = scorer.score_batch(some * 5)
        assert all(isinstance(found, ClipFailure) for found in outcomes) or graph != "fusion"
        assert not lent(scorer)
        failing.clear()
        assert values(scorer.predict(clips.both, SAID)) == expected
        assert [values(found) for found in scorer.score_batch(some)] == together
        assert not lent(scorer)


def test_a_file_that_breaks_off_gives_everything_back(simple, clips, place):
    with open_scorer(simple) as scorer:
        for path in (clips.broken, clips.both, clips.broken):
            for found in scorer.predict_many([path], {str(path): SAID}):
                assert isinstance(found, ClipFailure) == (path == clips.broken)
        assert not lent(scorer)


def test_ctrl_c_while_scores_are_computed_gives_everything_back(simple, clips, place, monkeypatch):
    interrupted = refuse_when(monkeypatch, gives("intensities"), KeyboardInterrupt)
    with open_scorer(simple) as scorer:
        expected = values(scorer.predict(clips.both, SAID))
        interrupted.set()
        with pytest.raises(KeyboardInterrupt):
            scorer.predict(clips.both, SAID)
        assert not lent(scorer)
        interrupted.clear()
        assert values(scorer.predict(clips.both, SAID)) == expected


def test_ctrl_c_leaves_memory_that_a_call_uses_alone_until_it_has_ended(simple, clips, place, monkeypatch):
    running, go_on, slow = threading.Event(), threading.Event(), threading.Event()
    execute = FakeContext.execute_async_v3

    def waiting(self, stream):
        if slow.is_set() and "vision" in self.engine.outputs:
            running.set()
            assert go_on.wait(20)
        return execute(self, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", waiting)
    with open_scorer(simple) as scorer:
        expected = values(scorer.predict(clips.both, SAID))
        slow.set()
        real = streaming.next_of

        def press(items):
            assert running.wait(20)
            raise KeyboardInterrupt

        monkeypatch.setattr(streaming, "next_of", press)
        with pytest.raises(KeyboardInterrupt):
            scorer.predict(clips.both, SAID)
        pool = scorer.model.engine("vision").pool
        (busy,) = pool._lent
        assert busy.is_closed
        assert busy.memory not in [block for blocks in pool._idle.values() for block in blocks]
        go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("taemi-vision"):
                thread.join(20)
        assert not lent(scorer)
        monkeypatch.setattr(streaming, "next_of", real)
        slow.clear()
        assert values(scorer.predict(clips.both, SAID)) == expected


def test_a_stage_that_begins_after_ctrl_c_keeps_nothing(simple, clips, place, monkeypatch):
    given_up, made = threading.Event(), threading.Event()
    init = SeenFrames.__init__

    def late(self, encoder):
        assert given_up.wait(20)
        init(self, encoder)
        made.set()

    with open_scorer(simple, contexts=1) as scorer:
        expected = values(scorer.predict(clips.both, SAID))
        with monkeypatch.context() as patch:
            patch.setattr(SeenFrames, "__init__", late)
            patch.setattr(streaming, "next_of", _press)
            with pytest.raises(KeyboardInterrupt):
                scorer.predict(clips.both, SAID)
            given_up.set()
            assert made.wait(20)
            for thread in threading.enumerate():
                if thread.name.startswith("taemi-vision"):
                    thread.join(20)
        assert not lent(scorer)
        assert values(scorer.predict(clips.both, SAID)) == expected


def _press(items):
    time.sleep(0.2)  # until the encoders' threads have started
    raise KeyboardInterrupt


def test_where_the_device_is_full_features_go_by_the_host_and_that_is_said(simple, clips, place, caplog):
    caplog.set_level("INFO")
    with open_by_host(simple) as scorer:
        expected = values(scorer.predict(clips.both, SAID))
    with open_scorer(simple) as scorer:
        for graph in GRAPHS:
            scorer.model.engine(graph)
        place.gpu.memory_bytes = sum(block.nbytes for block in place.gpu.memory.values()) + 100
        assert values(scorer.predict(clips.both, SAID)) == expected
        place.gpu.memory_bytes = 1 << 40
    assert caplog.text.count("goes by the host: the device has not enough free memory") >= 2


def test_closing_a_model_takes_back_what_nobody_closed(simple, clips, place):
    scorer = open_scorer(simple)
    (left, _), *_ = scorer.encoder.read([SAID])
    with left.in_use():
        scorer.close()
        assert not place.gpu.is_clean
    assert place.gpu.is_clean
    left.close()


def test_features_can_be_kept_and_looked_at_on_the_host(simple, clips, place):
    with open_by_host(simple) as scorer:
        expected = scorer.features(clips.both, SAID)
    kept = []
    with open_scorer(simple) as scorer:
        found = scorer.features(clips.both, SAID)
        scorer.keep = lambda features: kept.append(dict(features.inputs)) or ()
        scorer.predict(clips.both, SAID)
        assert not lent(scorer)
        assert pools(scorer)
    for features in (found.inputs, *kept):
        assert features.keys() == expected.inputs.keys()
        for name, array in expected.inputs.items():
            np.testing.assert_array_equal(features[name], array)
            assert features[name].dtype == array.dtype


def test_attention_is_that_of_the_way_by_the_host(make_bundle, clips, place):
    made = make_bundle("seeing.taemi", attention=True)
    for graph in GRAPHS:
        add_plan(made, graph)
    found = []
    for opened in (open_by_host, open_scorer):
        with opened(made) as scorer:
            scorer.with_attention = True
            found.append(scorer.predict(clips.both, SAID).attention)
            assert not lent(scorer)
    assert found[0] == found[1]
    assert found[0]["audio"]


def test_what_no_mask_covers_must_be_whole(simple, clips, place):
    with open_scorer(simple) as scorer:
        (text, _), *_ = scorer.encoder.read([SAID])
        features = scorer.features(clips.both, SAID)
        short = DeviceRows((text.head(0),), (1, *text.shape[1:]), text.dtype)
        with pytest.raises(
            InputError, match=r"input fusion\.text is not whole: got 0 of 8 bytes of an entry"
        ):
            scorer.model.engine("fusion").run({**features.inputs, "text": short})
        text.close()
