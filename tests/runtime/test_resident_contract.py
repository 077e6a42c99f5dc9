"""One contract for every engine that keeps outputs on its device and takes inputs from there."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import say_by_host
from taemi_runtime.errors import EngineError, InputError
from taemi_runtime.resident import DeviceRows, Piece
from tests.runtime.engine_places import installed, place_params
from tests.runtime.plan_bundles import with_halves
from tests.runtime.tiny_bundle import fusion_model, fusion_spec, vision_model, vision_spec

SPEC, FUSION = vision_spec(), fusion_spec()
SIZES = {"batch": 1, "audio_len": 9, "vision_len": 6}


@pytest.fixture(scope="class", params=place_params(without={"onnxruntime-cpu"}))
def place(request):
    with installed(request.param) as made:
        yield made


@pytest.fixture(scope="class")
def open_here(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")

    def open_it(name, made, spec):
        path = place.write(folder, name, made, spec)
        return open_engine(path, spec, place.opened_with(), backend=place.backend, precision="fp32")

    return open_it


@pytest.fixture(scope="class")
def engine(open_here):
    with open_here("vision", vision_model(), SPEC) as engine:
        yield engine


@pytest.fixture(scope="class")
def fusion(open_here):
    with open_here("fusion", fusion_model(), FUSION) as engine:
        yield engine


def pixels(frames, seed=0):
    return draw_inputs(SPEC, {"frames": frames}, seed=seed)


def keep(engine, inputs, target, at=0):
    return keep_rows(engine, inputs, target, len(inputs["pixels"]), at)


def keep_rows(engine, inputs, target, count, at=0):
    return engine.run(inputs, keep={"vision": [Piece(target, 0, count, at=at)]})


class TestResidentContract:
    def test_what_is_kept_is_what_would_have_come_and_nothing_else_comes(self, engine):
        for frames in (5, 16, 5, 16, 5, 1):
            inputs = pixels(frames, seed=frames)
            with engine.pool.take((frames, 3), "float32") as target:
                assert keep(engine, inputs, target) == {}
                np.testing.assert_array_equal(target.numpy(), engine.run(inputs)["vision"])
                assert (target.shape, target.dtype, target.device) == (
                    (frames, 3),
                    "float32",
                    engine.info.device,
                )

    def test_calls_fill_one_array_in_any_order(self, engine):
        calls = [pixels(count, seed) for seed, count in enumerate((16, 16, 7))]
        with engine.pool.take((60, 3), "float32") as target:
            for place in (2, 0, 1):
                keep(engine, calls[place], target, at=16 * place)
            found = target.head(39).numpy()
        np.testing.assert_array_equal(found, np.concatenate([engine.run(call)["vision"] for call in calls]))

    def test_an_input_on_the_device_counts_as_one_on_the_host(self, fusion):
        source = draw_inputs(FUSION, SIZES, seed=3, poison=False)
        with open_source(fusion, source["vision"][0]) as held:
            for length in (6, 4, 6, 4, 6, 4):
                mask = np.arange(6)[None] < length
                given = {**source, "vision_mask": mask, "vision": DeviceRows.of(held.head(length), (6, 3))}
                clean = {**source, "vision_mask": mask}
                np.testing.assert_array_equal(
                    fusion.run(given)["intensities"], fusion.run(clean)["intensities"]
                )

    def test_the_padded_rest_of_its_memory_is_never_read(self, engine, fusion):
        source = draw_inputs(FUSION, SIZES, seed=4, poison=False)
        with engine.pool.take((64, 3), "float32") as held:
            keep(engine, pixels(16), held)
            mask = np.arange(40)[None] < 16
            rows = DeviceRows.of(held.head(16), (40, 3))
            found = fusion.run({**source, "vision": rows, "vision_mask": mask})["intensities"]
            wide = np.zeros((1, 40, 3), np.float32)
            wide[0, :16] = held.head(16).numpy()
            expected = fusion.run({**source, "vision": wide, "vision_mask": mask})["intensities"]
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected)

    def test_half_precision_stays_half_precision(self, open_here):
        made = with_halves(vision_model(), ["vision"])
        with open_here("half", made, SPEC) as engine:
            assert engine.info.outputs == {"vision": "float16"}
            inputs = pixels(8)
            with engine.pool.take((8, 3), "float16") as target:
                keep(engine, inputs, target)
                found = target.numpy()
            wide = engine.run(inputs)["vision"]
        assert (found.dtype, wide.dtype) == (np.float16, np.float32)
        np.testing.assert_array_equal(found.astype(np.float32), wide)

    def test_what_does_not_fit_is_refused_and_leaves_no_trace(self, engine, fusion):
        inputs = pixels(8)
        with engine.pool.take((8, 3), "float32") as target:
            keep(engine, inputs, target)
            expected = target.numpy()
            for wrong in (
                Piece(target, 0, 8, at=1),
                Piece(target, 1, 8),
                Piece(target, -1, 4),
                Piece(target, 0, 8, entry=1),
            ):
                with pytest.raises(EngineError, match=r"cannot keep \d+ rows from row -?\d+ of an output"):
                    engine.run(inputs, keep={"vision": [wrong]})
            np.testing.assert_array_equal(target.numpy(), expected)
            source = draw_inputs(FUSION, SIZES, poison=False)
            with pytest.raises(InputError, match=r"fusion.vision_mask has the wrong shape.*vision_len = 8"):
                fusion.run({**source, "vision": DeviceRows.of(target, (8, 3))})
            with pytest.raises(EngineError, match=r"cannot keep vision\.sound on the device: its outputs"):
                engine.run(inputs, keep={"sound": ()})
            # The rows that a call is padded with are nobody's.
            with pytest.raises(EngineError, match="cannot keep 8 rows from row 0 of an output of shape"):
                keep_rows(engine, pixels(5), target, 8)
        with (
            engine.pool.take((8, 3), "float16") as target,
            pytest.raises(EngineError, match=r"it is float32 on .*, the array float16 on"),
        ):
            keep(engine, inputs, target)

    def test_arrays_that_are_closed_are_refused(self, engine):
        target = engine.pool.take((8, 3), "float32")
        target.close()
        with pytest.raises(EngineError, match="it is closed"):
            keep(engine, pixels(8), target)
        with pytest.raises(EngineError, match="cannot take 9 rows"):
            target.head(9)

    def test_other_types_and_places_come_to_the_host_and_that_is_said_once(self, fusion, caplog):
        say_by_host.cache_clear()
        caplog.set_level("INFO")
        source = draw_inputs(FUSION, SIZES, seed=5, poison=False)
        expected = fusion.run(source)["intensities"]
        rows = DeviceRows.of(Elsewhere(source["vision"][0]), (6, 3))
        for _ in range(2):
            np.testing.assert_array_equal(fusion.run({**source, "vision": rows})["intensities"], expected)
        assert caplog.text.count("fusion.vision goes by the host: it lies on elsewhere:3") == 1

    def test_memory_is_lent_again_and_threads_do_not_disturb_each_other(self, engine):
        calls = [pixels(16, seed) for seed in range(8)]
        alone = [engine.run(call)["vision"] for call in calls]
        wrong = []

        def work(call, expected):
            for _ in range(10):
                with engine.pool.take((16, 3), "float32") as target:
                    keep(engine, call, target)
                    if not np.array_equal(target.numpy(), expected):
                        wrong.append(call)

        threads = [threading.Thread(target=work, args=pair) for pair in zip(calls, alone, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not engine.pool._lent
        assert len(engine.pool._idle[16 * 3 * 4]) <= len(calls)


class Elsewhere:
    """An array on a device that no engine here runs on."""

    device = "elsewhere:3"

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.nbytes = values, values.shape, values.dtype, values.nbytes

    def numpy(self):
        return self.values


def open_source(engine, values):
    """Put values onto the engine's device, through a graph of it that gives them back."""
    pool = engine.pool
    target = pool.take(values.shape, values.dtype)
    with target.in_use() as memory:
        write(pool, memory, values)
    return target


def write(pool, memory, values):
    raw = np.ascontiguousarray(values).view(np.uint8).ravel()
    if hasattr(memory, "value"):
        held = pool.read(memory, memory.nbytes)
        held[: raw.size] = raw
        memory.value.update_inplace(held)
        return
    layer = pool._open()
    with layer.activate():
        stream, twin = layer.stream(), layer.pin(raw.size)
        twin.array[:] = raw
        stream.upload(memory, twin, raw.size)
        stream.synchronise()
        twin.close()
        stream.close()
