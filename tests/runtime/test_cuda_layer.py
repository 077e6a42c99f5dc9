"""One contract for both device layers: over a simulated driver everywhere, over the real one with a GPU."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from taemi_runtime.cuda import cuda_python, pycuda
from taemi_runtime.cuda.registry import DEFAULT, layer, layer_names
from taemi_runtime.errors import DeviceError, EngineError, MissingExtraError, UsageError
from taemi_runtime.host import cuda_driver
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_machine import install_gpu

COUNT = 1000
X = np.arange(COUNT, dtype=np.float32)
Y = np.linspace(-1, 1, COUNT, dtype=np.float32)


USABLE = {name: layer(name).probe() for name in layer_names()}
PLACES = [(name, "simulated") for name in layer_names()]
PLACES += [
    pytest.param((name, "real"), marks=pytest.mark.gpu) for name, probe in USABLE.items() if probe.usable
]


@pytest.mark.parametrize("name", layer_names())
def test_runs_on_a_real_device_below(name):
    """Prints once which layers were tried on the simulated device only, and why."""
    if not USABLE[name].usable:
        pytest.skip(f"{name}: {USABLE[name].detail}")


@pytest.fixture(params=PLACES, ids=" ".join)
def place(request):
    return request.param


@pytest.fixture
def name(place):
    return place[0]


@pytest.fixture
def gpu(place, monkeypatch):
    """The simulated GPU; ``None`` on the real one."""
    if place[1] == "real":
        return None
    made = FakeGpu()
    install_gpu(monkeypatch, made)
    return made


@pytest.fixture
def device(name, gpu):
    with layer(name).open(0) as opened:
        yield opened
    if gpu is not None:
        assert gpu.is_clean
        assert not gpu.stack


def cubin(device, gpu):
    if gpu is not None:
        return b"\x7fELF simulated"
    from taemi_bench.gpu_steps.kernel import compile_kernel

    return compile_kernel(device.facts.capability)[0]


def put(device, stream, values):
    """Return a buffer with the values, and its pinned twin."""
    buffer, twin = device.alloc(values.nbytes), device.pin(values.nbytes)
    twin.array[:] = values.view(np.uint8)
    stream.upload(buffer, twin, values.nbytes)
    return buffer, twin


def close(*resources):
    for resource in resources:
        resource.close()
        resource.close()


def test_facts_are_the_devices(device, gpu):
    facts = device.facts
    assert facts.name
    assert facts.capability >= (5, 0)
    assert facts.memory_bytes > 1 << 30
    assert float(facts.driver) >= 11
    if gpu is not None:
        assert (facts.name, facts.capability, facts.driver) == ("Simulated GPU", (8, 0), "13.0")


def test_copies_arrive_and_come_back(device):
    with device.activate():
        stream = device.stream()
        buffer, twin = put(device, stream, X)
        back = device.pin(X.nbytes)
        back.array[:] = 0
        stream.download(back, buffer, X.nbytes)
        stream.synchronise()
        np.testing.assert_array_equal(back.array.view(np.float32), X)
        close(buffer, twin, back, stream)


def test_a_part_is_copied_and_the_rest_is_left(device):
    with device.activate():
        stream = device.stream()
        buffer, twin = put(device, stream, X)
        stream.synchronise()
        twin.array[:] = 0
        stream.download(twin, buffer, 8)
        stream.synchronise()
        np.testing.assert_array_equal(twin.array.view(np.float32)[:3], [0, 1, 0])
        close(buffer, twin, stream)


def test_copies_within_the_device_go_from_any_place_to_any_place(device):
    with device.activate():
        stream = device.stream()
        (source, twin), (target, other) = put(device, stream, X), put(device, stream, Y)
        stream.copy(target, source, 40, target_offset=8, source_offset=400)
        stream.copy(source, target, 8)
        stream.download(other, target, Y.nbytes)
        stream.download(twin, source, X.nbytes)
        stream.synchronise()
        np.testing.assert_array_equal(other.array.view(np.float32), [*Y[:2], *X[100:110], *Y[12:]])
        np.testing.assert_array_equal(twin.array.view(np.float32), [*Y[:2], *X[2:]])
        for wrong in (
            {"nbytes": X.nbytes + 1},
            {"nbytes": 8, "target_offset": Y.nbytes - 4},
            {"nbytes": 8, "source_offset": -4},
        ):
            with pytest.raises(EngineError, match=r"cannot copy \d+ bytes (to|from) byte -?\d+ of a buffer"):
                stream.copy(target, source, **wrong)
        close(source, twin, target, other, stream)


def test_a_compiled_kernel_computes(device, gpu):
    with device.activate():
        stream = device.stream()
        (x, x_twin), (y, y_twin) = put(device, stream, X), put(device, stream, Y)
        module = device.module(cubin(device, gpu))
        module.kernel("scaled_add").launch(
            stream, ((COUNT + 255) // 256, 1, 1), (256, 1, 1), (np.float32(1.5), x, y, np.int32(COUNT))
        )
        stream.download(y_twin, y, Y.nbytes)
        stream.synchronise()
        np.testing.assert_allclose(y_twin.array.view(np.float32), Y + np.float32(1.5) * X, rtol=1e-6)
        close(module, x, x_twin, y, y_twin, stream)


def test_code_and_functions_that_are_not_there_are_refused(device, gpu):
    with device.activate():
        with pytest.raises(EngineError):
            device.module(b"no code")
        module = device.module(cubin(device, gpu))
        if gpu is None or device.name == "cuda-python":
            with pytest.raises(EngineError, match="failed"):
                module.kernel("no_such_function")
        close(module)


def test_a_stream_waits_for_an_event_of_another(device):
    with device.activate():
        first, second = device.stream(), device.stream()
        buffer, twin = put(device, first, X)
        event = device.event()
        first.record(event)
        second.wait(event)
        back = device.pin(X.nbytes)
        second.download(back, buffer, X.nbytes)
        second.synchronise()
        np.testing.assert_array_equal(back.array.view(np.float32), X)
        close(event, buffer, twin, back, first, second)


def test_events_tell_time_and_are_waited_for(device):
    with device.activate():
        stream = device.stream()
        start, end = device.event(timing=True), device.event(timing=True)
        stream.record(start)
        buffer, twin = put(device, stream, X)
        stream.record(end)
        end.synchronise()
        assert end.elapsed_ms(start) >= 0
        close(start, end, buffer, twin, stream)


def test_graphs_replay_or_are_refused_with_the_way_out(device, gpu):
    with device.activate():
        stream = device.stream()
        if not device.has_graphs:
            with pytest.raises(EngineError, match="Use --cuda-backend cuda-python"):
                stream.begin_capture()
            close(stream)
            return
        (x, x_twin), (y, y_twin) = put(device, stream, X), put(device, stream, Y)
        stream.synchronise()
        module = device.module(cubin(device, gpu))
        kernel = module.kernel("scaled_add")
        stream.begin_capture()
        kernel.launch(stream, (4, 1, 1), (256, 1, 1), (np.float32(2), x, y, np.int32(COUNT)))
        stream.download(y_twin, y, Y.nbytes)
        graph = stream.end_capture()
        for times in (1, 2, 3):
            stream.launch(graph)
            stream.synchronise()
            found = y_twin.array.view(np.float32)
            np.testing.assert_allclose(found, Y + np.float32(2 * times) * X, rtol=1e-6)
        close(graph, module, x, x_twin, y, y_twin, stream)


def test_another_thread_may_allocate_while_this_one_captures(device, gpu):
    # Engines are opened in threads of their own while the first ones already run and capture.
    wrong = []

    def allocate():
        try:
            with device.activate():
                device.alloc(4096).close()
        except Exception as error:
            wrong.append(error)

    with device.activate():
        if not device.has_graphs:
            return
        stream = device.stream()
        (x, twin) = put(device, stream, X)
        stream.synchronise()
        stream.begin_capture()
        other = threading.Thread(target=allocate)
        other.start()
        other.join()
        stream.download(twin, x, X.nbytes)
        graph = stream.end_capture()
        assert not wrong
        stream.launch(graph)
        stream.synchronise()
        close(graph, x, twin, stream)


def test_the_context_is_pushed_and_popped_in_every_thread(device, gpu):
    wrong = []

    def work(seed):
        try:
            with device.activate():
                stream = device.stream()
                values = X + seed
                buffer, twin = put(device, stream, values)
                stream.download(twin, buffer, values.nbytes)
                stream.synchronise()
                np.testing.assert_array_equal(twin.array.view(np.float32), values)
                close(buffer, twin, stream)
            if gpu is not None:
                assert not gpu.stack
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_its_context_a_thread_is_refused(device, gpu):
    if gpu is None:
        pytest.skip("a real process may have another library's context")
    with pytest.raises(EngineError, match=r"no context of this device .*CUDA_ERROR_INVALID_CONTEXT"):
        device.alloc(16)


def test_memory_that_is_not_there_is_an_error_with_its_reason(device):
    with device.activate():
        free = device.free_bytes()
        assert free > 0
        with pytest.raises(EngineError, match="not enough free memory"):
            device.alloc(1 << 50)
        assert abs(device.free_bytes() - free) < 64 << 20


def test_simulated_work_runs_only_when_it_is_waited_for(monkeypatch):
    # What makes a forgotten wait visible in every other test.
    gpu = FakeGpu()
    install_gpu(monkeypatch, gpu)
    with layer(DEFAULT).open(0) as device, device.activate():
        stream = device.stream()
        buffer, _ = put(device, stream, X)
        back = device.pin(X.nbytes)
        stream.download(back, buffer, X.nbytes)
        assert (back.array == 0xA5).all()
        stream.synchronise()
        assert back.array.view(np.float32)[7] == 7
        buffer.close()
        stream.download(back, buffer, 4)
        with pytest.raises(EngineError, match=r"its own .*CUDA_ERROR_ILLEGAL_ADDRESS"):
            stream.synchronise()


def test_devices_that_are_not_there_are_refused(name, gpu):
    if gpu is None:
        pytest.skip("covered on the simulated machine")
    with pytest.raises(DeviceError, match=r"cannot use cuda:1: there is 1 CUDA device\. Give cuda:0"):
        layer(name).open(1)


@pytest.mark.skipif(not cuda_driver().why, reason="this machine has a GPU")
@pytest.mark.parametrize("name", layer_names())
def test_without_a_driver_that_is_what_is_said(name):
    with pytest.raises(DeviceError, match="cannot use cuda:0"):
        layer(name).open(0)
    assert not layer(name).probe().usable
    assert layer(name).probe().fix


def test_an_unknown_layer_is_refused():
    with pytest.raises(UsageError, match="Give --cuda-backend cuda-python or pycuda"):
        layer("cupy")


@pytest.mark.parametrize("module", [cuda_python, pycuda])
def test_a_package_that_is_not_installed_is_named_with_its_remedy(module, monkeypatch):
    package = {cuda_python: "cuda.bindings", pycuda: "pycuda"}[module]
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    module.import_driver.cache_clear()
    with pytest.raises(MissingExtraError) as caught:
        module.import_driver()
    module.import_driver.cache_clear()
    assert "does not import" in caught.value.found
    assert "pip install" in caught.value.fix
