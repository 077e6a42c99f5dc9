"""Tests of the tests: defects planted into the TensorRT path, each of which the contract must show."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from taemi_runtime.backends import open_engine, tensorrt_lane
from taemi_runtime.backends.tensorrt_engine import TensorRTEngine
from taemi_runtime.backends.tensorrt_lane import Lane
from taemi_runtime.backends.tensorrt_plan import ContextState
from taemi_runtime.errors import TaemiError
from tests.runtime import test_engine_contract, test_tensorrt
from tests.runtime.engine_places import SimulatedPlan
from tests.runtime.tiny_bundle import fusion_model

SPEC, SIZES = test_engine_contract.SPEC, test_engine_contract.SIZES


def forgets_the_address_of_new_memory(patch):
    run = Lane.run

    def reallocating(self, call, inputs, keep):
        # As when buffers grow with the call, and the context keeps the addresses of the old ones.
        for name, buffer in list(self._buffers.items()):
            self._buffers[name] = self.layer.alloc(buffer.nbytes)
            buffer.close()
        return run(self, call, inputs, keep)

    patch.setattr(Lane, "run", reallocating)


def copies_half(patch):
    upload = Lane._upload
    patch.setattr(Lane, "_upload", lambda self, tensor, nbytes: upload(self, tensor, nbytes // 2))


def copies_half_back(patch):
    download = Lane._download
    patch.setattr(Lane, "_download", lambda self, tensor, nbytes: download(self, tensor, nbytes // 2))


def does_not_wait(patch):
    patch.setattr(Lane, "_wait", lambda self: None)


def sets_addresses_before_shapes(patch):
    def bind(self, profile, shapes, addresses):
        self.set_addresses(addresses)
        return self.set_shapes(profile, shapes)

    patch.setattr(ContextState, "bind", bind)


def keeps_the_shapes_of_the_first_call(patch):
    bind = ContextState.bind

    def once(self, profile, shapes, addresses):
        return self._outputs if self._key is not None else bind(self, profile, shapes, addresses)

    patch.setattr(ContextState, "bind", once)


def ignores_false(patch):
    patch.setattr(ContextState, "enqueue", lambda self: self.context.execute_async_v3(self.stream.handle))


def captures_without_a_run(patch):
    patch.setattr(Lane, "_warm", lambda self, state, way, outputs: None)


def allocates_in_every_call(patch):
    run = Lane.run

    def allocating(self, call, inputs, keep):
        self.layer.alloc(64)
        return run(self, call, inputs, keep)

    patch.setattr(Lane, "run", allocating)


def shares_a_context_among_graphs(patch):
    new_state = Lane._new_state
    patch.setattr(Lane, "_new_state", lambda self: self._plain or new_state(self))


def leaves_the_padding_as_it_was(patch):
    def corner_only(target, source):
        target[tuple(slice(length) for length in source.shape)] = source

    patch.setattr(tensorrt_lane, "fill", corner_only)


def gives_its_own_memory_away(patch):
    def run(self, inputs):
        class Borrowed(np.ndarray):
            def astype(self, *_, **__):
                return self.view(np.ndarray)

        lane_run = Lane.run
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                Lane,
                "run",
                lambda lane, call, given, keep: {
                    name: array.view(Borrowed) for name, array in lane_run(lane, call, given, keep).items()
                },
            )
            return real(self, inputs)

    real = TensorRTEngine._run
    patch.setattr(TensorRTEngine, "_run", run)


FAULTS = [
    forgets_the_address_of_new_memory,
    copies_half,
    copies_half_back,
    does_not_wait,
    sets_addresses_before_shapes,
    keeps_the_shapes_of_the_first_call,
    ignores_false,
    captures_without_a_run,
    allocates_in_every_call,
    shares_a_context_among_graphs,
    leaves_the_padding_as_it_was,
    gives_its_own_memory_away,
]


def contract(engine, place):
    """Every part of the contract that a fault in running can break, as callables by name."""
    common, own = test_engine_contract.TestEngineContract(), test_tensorrt.TestPlanContract()
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield "numbers", lambda: common.test_numbers_are_right_at_any_batch_and_length(engine, SIZES)
        yield "presence", lambda: common.test_all_presence_combinations(engine)
        yield "repeats", lambda: common.test_a_run_repeats_to_the_last_bit(engine)
        yield "outputs owned", lambda: common.test_outputs_belong_to_the_caller(engine)
        yield "launches", lambda: own.test_the_third_call_at_a_shape_is_one_launch(engine)
        yield "steady", lambda: own.test_nothing_is_allocated_once_it_is_open(engine, place)
        yield "shapes", lambda: own.test_changing_shapes_leaves_no_trace_in_graphs(engine)
        yield "padding", lambda: own.test_a_longer_call_leaves_nothing_in_the_padding_of_a_shorter_one(engine)
        yield (
            "refusals",
            lambda: own.test_what_the_library_refuses_is_an_error_with_its_words(engine, monkeypatch),
        )


def broken_parts(tmp_path, fault=None):
    """Return the parts of the contract that fail with a fault."""
    place = SimulatedPlan("simulated", "tensorrt", "cuda:0", ".plan")
    broken = []
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        place.install(patch)
        path = place.write(tmp_path, "fusion", fusion_model(), SPEC)
        if fault is not None:
            fault(patch)
        try:
            engine = stack.enter_context(open_engine(path, SPEC))
        except (TaemiError, AssertionError) as error:
            return [f"opening: {error}"]
        for name, check in contract(engine, place):
            try:
                check()
            except (AssertionError, TaemiError, pytest.fail.Exception):
                broken.append(name)
    return broken


def test_without_a_fault_the_contract_holds(tmp_path):
    assert broken_parts(tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_breaks_the_contract(tmp_path, fault):
    assert broken_parts(tmp_path, fault)
