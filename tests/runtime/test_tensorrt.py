"""Plans on a simulated GPU: profiles, buckets, graphs, lanes, and what is said when something is refused."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
from onnx import TensorProto

from taemi_runtime.backends import open_engine
from taemi_runtime.backends.tensorrt_engine import _say_without_graphs
from taemi_runtime.backends.tensorrt_lane import _MOST_GRAPHS
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import EngineError, InputError, UsageError
from tests.runtime.engine_places import widest
from tests.runtime.fake_tensorrt import SCRATCH_BYTES, FakeContext, write_plan
from tests.runtime.test_engine_contract import SPEC, TOLERANCE, by_hand
from tests.runtime.tiny_bundle import audio_model, audio_spec, fusion_model, vision_model, vision_spec

SMALL = {"batch": 1, "audio_len": 20, "vision_len": 9}
OTHER = {"batch": 3, "audio_len": 100, "vision_len": 33}
# A buffer and a pinned twin for each of six inputs and one output, and scratch memory.
BLOCKS_OF_A_LANE = 8


@pytest.fixture
def path(place, tmp_path):
    return place.write(tmp_path, "fusion", fusion_model(), SPEC)


@pytest.fixture
def engine(path, place):
    with open_engine(path, SPEC) as engine:
        yield engine
    assert place.gpu.is_clean


def close_to_hand(engine, arrays):
    np.testing.assert_allclose(engine.run(arrays)["intensities"], by_hand(arrays), atol=TOLERANCE)


class TestPlanContract:
    """What plans owe beyond the contract of every engine."""

    def test_the_third_call_at_a_shape_is_one_launch(self, engine):
        before = engine.counts
        for index in range(5):
            close_to_hand(engine, draw_inputs(SPEC, OTHER, seed=index))
        after = engine.counts
        assert after.enqueued - before.enqueued == 2
        assert after.captured - before.captured == 1
        assert after.replayed - before.replayed == 3

    def test_nothing_is_allocated_once_it_is_open(self, engine, place):
        held = place.gpu.allocations
        for index in range(40):
            sizes = {"batch": 1 + index % 5, "audio_len": 1 + 37 * index % 599, "vision_len": 1 + index}
            close_to_hand(engine, draw_inputs(SPEC, sizes, seed=index))
        assert place.gpu.allocations == held

    def test_changing_shapes_leaves_no_trace_in_graphs(self, engine):
        for index in range(12):
            close_to_hand(engine, draw_inputs(SPEC, (SMALL, OTHER)[index % 2], seed=index))
        assert engine.counts.replayed > 6

    def test_a_longer_call_leaves_nothing_in_the_padding_of_a_shorter_one(self, engine):
        long = {"batch": 4, "audio_len": 64, "vision_len": 16}
        for seed in range(3):
            close_to_hand(engine, draw_inputs(SPEC, long, seed=seed, ragged=False))
            close_to_hand(engine, draw_inputs(SPEC, {**long, "audio_len": 40, "batch": 3}, seed=seed))

    def test_what_the_library_refuses_is_an_error_with_its_words(self, engine, monkeypatch):
        # A bucket that no other test captures: a graph would ask the library nothing.
        arrays = draw_inputs(SPEC, {"batch": 20, "audio_len": 450, "vision_len": 300})
        for name in ("set_input_shape", "set_tensor_address", "execute_async_v3"):
            with monkeypatch.context() as patch:
                patch.setattr(FakeContext, name, lambda self, *_: self.refuse("no luck today"))
                with pytest.raises(EngineError, match="no luck today"):
                    engine.run(arrays)
        close_to_hand(engine, arrays)


def test_warm_up_captures_every_profile_before_the_first_call(engine):
    assert engine.counts.captured == 4
    before = engine.counts
    engine.run(draw_inputs(SPEC, {}))
    engine.run(draw_inputs(SPEC, {"batch": 1, "audio_len": 599, "vision_len": 400}))
    assert engine.counts.replayed == before.replayed + 2
    assert engine.warm_up.cold_ms > 0
    assert engine.warm_up.warm_ms > 0


def test_all_memory_is_there_from_the_start_at_the_largest_profile(engine, place):
    # 32 rows of 599 frames of 3 float32, a twin in pinned memory, and so on.
    sizes = sorted(block.nbytes for block in place.gpu.memory.values())
    assert len(sizes) == BLOCKS_OF_A_LANE
    assert sizes[-1] == 32 * 599 * 3 * 4
    assert SCRATCH_BYTES in sizes
    assert len(place.gpu.pinned) == BLOCKS_OF_A_LANE - 1


def test_few_graphs_are_kept_and_the_oldest_go(engine, place):
    for batch in (1, 2, 4, 8, 16, 24, 32):
        for audio_len in (1, 64):
            for seed in range(3):
                arrays = draw_inputs(SPEC, {"batch": batch, "audio_len": audio_len}, seed=seed)
                close_to_hand(engine, arrays)
    assert place.gpu.graphs == _MOST_GRAPHS


def test_where_capture_fails_calls_are_enqueued_and_that_is_said_once(path, place, caplog):
    place.gpu.refuses_capture = True
    with open_engine(path, SPEC) as engine:
        for seed in range(6):
            close_to_hand(engine, draw_inputs(SPEC, OTHER, seed=seed))
        assert engine.counts.captured == engine.counts.replayed == 0
    lines = [r.message for r in caplog.records if "without CUDA graphs" in r.message]
    assert len(lines) == 1
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in lines[0]


def test_a_capture_that_fails_midway_leaves_the_stream_usable(path, place, monkeypatch, caplog):
    execute = FakeContext.execute_async_v3

    def never_captured(self, stream):
        if place.gpu.is_capturing(stream):
            place.gpu.spoil_capture(stream)
            return self.refuse("this cannot be captured")
        return execute(self, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", never_captured)
    with open_engine(path, SPEC) as engine:
        for seed in range(4):
            close_to_hand(engine, draw_inputs(SPEC, OTHER, seed=seed))
    assert "by plain enqueue: " in caplog.text
    assert "this cannot be captured" in caplog.text


def test_ctrl_c_during_a_capture_leaves_the_stream_usable(path, place, monkeypatch):
    execute = FakeContext.execute_async_v3
    with open_engine(path, SPEC) as engine:

        def interrupted(self, stream):
            if place.gpu.is_capturing(stream):
                raise KeyboardInterrupt
            return execute(self, stream)

        monkeypatch.setattr(FakeContext, "execute_async_v3", interrupted)
        engine.run(draw_inputs(SPEC, OTHER))
        with pytest.raises(KeyboardInterrupt):
            engine.run(draw_inputs(SPEC, OTHER))
        monkeypatch.setattr(FakeContext, "execute_async_v3", execute)
        for seed in range(4):
            close_to_hand(engine, draw_inputs(SPEC, OTHER, seed=seed))
        assert engine.counts.replayed > 0


def test_an_engine_that_nobody_closed_is_closed_before_the_driver_goes(path, place):
    engine = open_engine(path, SPEC)
    assert not place.gpu.is_clean
    # What the interpreter calls at exit.
    engine._at_exit()
    assert place.gpu.is_clean


def test_what_the_library_calls_uncapturable_is_not_tried(path, monkeypatch, caplog):
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False, raising=False)
    with open_engine(path, SPEC) as engine:
        close_to_hand(engine, draw_inputs(SPEC, OTHER))
        assert engine.counts.captured == 0
    assert "the library says that this plan cannot be captured" in caplog.text


@pytest.mark.parametrize("options", [{"cuda_graphs": False}, {"cuda_backend": "pycuda"}], ids=str)
def test_without_graphs_calls_run_at_their_own_shape_and_that_is_said_once(path, options, caplog):
    _say_without_graphs.cache_clear()
    for _ in range(2):
        with caplog.at_level(logging.INFO), open_engine(path, SPEC, EngineOptions(**options)) as engine:
            for seed in range(3):
                close_to_hand(engine, draw_inputs(SPEC, OTHER, seed=seed))
            assert engine.counts.captured == engine.counts.replayed == 0
    assert caplog.text.count("pycuda has no CUDA graphs") == ("cuda_backend" in options)


def test_the_profile_is_chosen_by_shape(engine, monkeypatch):
    chosen = []
    real = FakeContext.execute_async_v3
    monkeypatch.setattr(
        FakeContext,
        "execute_async_v3",
        lambda self, stream: chosen.append(self.profile) or real(self, stream),
    )
    for batch in (2, 1, 7):
        engine.run(draw_inputs(SPEC, {"batch": batch, "audio_len": 50}))
    # A batch of one fits both profiles and runs in the one that was tuned for it.
    assert chosen == [1, 0, 1]


def test_shapes_outside_every_profile_are_refused_before_anything_runs(engine, place):
    before = engine.counts
    with pytest.raises(InputError) as caught:
        engine.run(draw_inputs(SPEC, {"batch": 33}))
    assert "audio 33x1x3 is outside 1x1x3:1x1x3:1x599x3 of profile one" in str(caught.value)
    assert "--batch MIN:OPT:MAX" in caught.value.fix
    assert engine.counts == before


def test_half_inputs_are_cast_on_their_way_and_padding_may_overflow(place, tmp_path, recwarn):
    made = fusion_model()
    for value in made.graph.input:
        if value.name in ("audio", "vision"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    nodes = list(made.graph.node)
    del made.graph.node[:]
    from onnx import helper

    for name in ("audio", "vision"):
        made.graph.node.append(helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT))
        for node in nodes:
            node.input[:] = [f"{name}_wide" if item == name else item for item in node.input]
    made.graph.node.extend(nodes)
    path = place.write(tmp_path, "fp16", made, SPEC)
    with open_engine(path, SPEC) as engine:
        assert engine.info.precision == "fp16"
        for seed in range(4):
            # Padding holds NaN, Inf and 3e38, which half precision cannot hold.
            arrays = draw_inputs(SPEC, OTHER, seed=seed)
            found = engine.run(arrays)["intensities"]
            assert found.dtype == np.float32
            with np.errstate(over="ignore"):
                halved = {
                    name: array.astype(np.float16) if name in ("audio", "vision") else array
                    for name, array in arrays.items()
                }
            np.testing.assert_allclose(found, by_hand(halved), atol=TOLERANCE)
    assert not recwarn.list


def test_outputs_of_padded_axes_are_cut_back(place, tmp_path):
    spec = vision_spec()
    path = place.write(tmp_path, "vision", vision_model(), spec)
    with open_engine(path, spec) as engine:
        for frames in (13, 13, 13, 16, 1):
            pixels = draw_inputs(spec, {"frames": frames}, seed=frames)["pixels"]
            found = engine.run({"pixels": pixels})["vision"]
            np.testing.assert_allclose(found, pixels.mean((2, 3)) / 255, rtol=1e-5)
        assert engine.counts.replayed > 0


def test_axes_that_others_follow_from_are_never_padded(place, tmp_path, monkeypatch):
    spec = audio_spec()
    path = place.write(tmp_path, "audio", audio_model(), spec)
    ran = []
    real = FakeContext.set_input_shape
    with open_engine(path, spec) as engine:
        monkeypatch.setattr(
            FakeContext,
            "set_input_shape",
            lambda self, name, shape: ran.append(tuple(shape)) or real(self, name, shape),
        )
        for samples in (1234, 1234, 1234, 5000):
            engine.run(draw_inputs(spec, {"batch": 1, "samples": samples}))
    assert {shape for shape in ran if shape[1] > 599} == {(1, 1234), (1, 5000)}


def test_callers_beyond_the_contexts_wait_and_get_their_own_results(path, place):
    with open_engine(path, SPEC, EngineOptions(contexts=2)) as engine:
        calls = [draw_inputs(SPEC, SMALL, seed=seed) for seed in range(8)]
        found = [None] * len(calls)

        def work(index):
            for _ in range(5):
                found[index] = engine.run(calls[index])["intensities"]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(place.gpu.queues) <= 2
    for arrays, scores in zip(calls, found, strict=True):
        np.testing.assert_allclose(scores, by_hand(arrays), atol=TOLERANCE)


def hold_lanes(engine, count):
    """Take lanes, as callers that are under way; return what gives them back."""
    held = [engine._lane() for _ in range(count)]
    for one in held:
        one.__enter__()
    return lambda: [one.__exit__(None, None, None) for one in reversed(held)]


def test_where_memory_ends_callers_share_what_is_there(path, place, caplog):
    with open_engine(path, SPEC, EngineOptions(contexts=8)) as engine:
        release = hold_lanes(engine, 1)
        place.gpu.memory_bytes = sum(block.nbytes for block in place.gpu.memory.values()) + 1000
        done = threading.Event()
        thread = threading.Thread(target=lambda: engine.run(draw_inputs(SPEC, SMALL)) and done.set())
        thread.start()
        assert not done.wait(0.1)
        release()
        assert done.wait(10)
        thread.join()
        assert "runs 1 callers at a time, not more: the device has not enough free memory" in caplog.text
        assert len(place.gpu.memory) == BLOCKS_OF_A_LANE


def test_closing_lets_callers_end_and_refuses_those_who_wait(path, place):
    engine = open_engine(path, SPEC, EngineOptions(contexts=1))
    release = hold_lanes(engine, 1)
    refused = []

    def wait():
        try:
            engine.run(draw_inputs(SPEC, SMALL))
        except EngineError as error:
            refused.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    engine.close()
    thread.join()
    assert "the engine is closed" in str(refused[0])
    assert not place.gpu.is_clean
    release()
    assert place.gpu.is_clean


def test_an_engine_that_fails_while_it_opens_gives_everything_back(path, place, monkeypatch):
    place.gpu.memory_bytes = 100_000
    with pytest.raises(EngineError, match=r"not enough free memory .*CUDA_ERROR_OUT_OF_MEMORY"):
        open_engine(path, SPEC)
    assert place.gpu.is_clean
    place.gpu.memory_bytes = 1 << 40
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda self, stream: self.refuse("no kernel"))
    with pytest.raises(EngineError, match="no kernel"):
        open_engine(path, SPEC)
    assert place.gpu.is_clean
    assert not place.gpu.stack


def test_a_fault_on_the_device_is_told_once_and_for_all(engine, place):
    arrays = draw_inputs(SPEC, SMALL)
    place.gpu.failed = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(EngineError, match="memory that is not its own") as caught:
        engine.run(arrays)
    assert "start again" in caught.value.fix
    place.gpu.failed = ""


@pytest.mark.parametrize(("name", "value"), [("contexts", 0), ("gpu_memory_bytes", -1)])
def test_options_without_meaning_are_refused(name, value):
    with pytest.raises(UsageError, match=f"cannot open an engine with {name} {value}"):
        EngineOptions(**{name: value})


def test_an_unknown_device_layer_is_a_usage_error(path):
    with pytest.raises(UsageError, match="cannot use CUDA backend 'cupy'"):
        open_engine(path, SPEC, EngineOptions(cuda_backend="cupy"))


def test_a_sidecar_with_other_profiles_than_the_plan_is_refused(place, tmp_path):
    path = tmp_path / "fusion.plan"
    made = fusion_model().SerializeToString()
    narrow = write_plan(path, SPEC, made, {"one": widest(SPEC) | {"batch": (1, 1, 1)}})
    write_plan(path, SPEC, made, {"one": widest(SPEC)}, profiles=narrow.profiles)
    with pytest.raises(EngineError, match=r"it has the profiles one .*32x599x3.* its sidecar says one "):
        open_engine(path, SPEC)


def test_types_that_numpy_lacks_are_refused_by_name(path, place, monkeypatch):
    def unknown(dtype):
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")

    monkeypatch.setattr(place.trt, "nptype", unknown)
    with pytest.raises(EngineError, match=r"tensor audio is of type .*, which numpy does not have"):
        open_engine(path, SPEC)
    assert place.gpu.is_clean
