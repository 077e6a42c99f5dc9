"""Tests of the tests: defects planted into the chain on the device, each of which must show."""

from __future__ import annotations

import contextlib
import threading

import pytest

from taemi_runtime.backends import tensorrt_lane
from taemi_runtime.backends.tensorrt_lane import Lane
from taemi_runtime.batching import DecodedClip
from taemi_runtime.clip_features import SeenFrames
from taemi_runtime.cuda import cuda_python
from taemi_runtime.cuda.pool import LayerPool
from taemi_runtime.device_array import DeviceArray, Pool
from taemi_runtime.engine import Engine, say_by_host
from taemi_runtime.errors import TaemiError
from taemi_runtime.feature_rooms import FeatureRooms
from taemi_runtime.resident import DeviceRows, Piece
from taemi_runtime.transcripts import Transcript
from tests.runtime.chains import SAID, decoded, lent, make_lanes, open_by_host, open_scorer, values
from tests.runtime.engine_places import SimulatedPlan
from tests.runtime.plan_bundles import GRAPHS, add_plan
from tests.runtime.tiny_bundle import make_bundle
from tests.runtime.tiny_clips import make_clip


def writes_at_a_wrong_place(patch):
    span = Piece.span
    patch.setattr(Piece, "span", lambda self, shape: (span(self, shape)[0], 0, span(self, shape)[2]))


def reads_from_a_wrong_place(patch):
    span = Piece.span
    patch.setattr(Piece, "span", lambda self, shape: (0, *span(self, shape)[1:]))


def takes_every_call_for_the_first(patch):
    piece = SeenFrames.piece
    patch.setattr(SeenFrames, "piece", lambda self, first, start, count: piece(self, first, 0, count))


def copies_half(patch):
    copy = cuda_python._Stream._copy
    patch.setattr(
        cuda_python._Stream, "_copy", lambda self, to, source, nbytes: copy(self, to, source, nbytes // 2)
    )


def puts_every_clip_into_the_first_row(patch):
    bring = Lane._bring

    def first_only(self, name, rows, shape, memory):
        for part in rows.parts:
            if part is not None:
                bring(self, name, DeviceRows((part,), rows.shape, rows.dtype), shape, memory)

    patch.setattr(Lane, "_bring", first_only)


def copies_to_rows_of_the_callers_length(patch):
    bring = Lane._bring
    patch.setattr(
        Lane,
        "_bring",
        lambda self, name, rows, shape, memory: bring(self, name, rows, rows.shape, memory),
    )


def keeps_the_first_address(patch):
    bring, seen = Lane._bring, {}

    def stale(self, name, rows, shape, memory):
        held = {
            id(part): seen.setdefault((id(self), name), memory[id(part)])
            for part in rows.parts
            if part is not None
        }
        bring(self, name, rows, shape, held)

    patch.setattr(Lane, "_bring", stale)


def captures_uploads_of_what_is_there(patch):
    patch.setattr(
        tensorrt_lane._Way,
        "key",
        property(lambda self: (self.call.profile, tuple(self.call.shapes.values()))),
    )
    device_inputs = tensorrt_lane.device_inputs
    run = Lane._run

    def uploading(self, call, inputs, keep, memory):
        way = tensorrt_lane._Way(call, self.plan.inputs, ())
        if device_inputs(inputs) and way.key not in self._slots:
            # As when the graph of a call was captured with uploads of all its inputs.
            host = {
                name: given.numpy() if name in device_inputs(inputs) else given
                for name, given in inputs.items()
            }
            return run(self, call, host, keep, memory)
        return run(self, call, inputs, keep, memory)

    patch.setattr(Lane, "_run", uploading)


def does_not_wait_for_what_it_keeps(patch):
    run, wait = Lane._run, Lane._wait
    mine = threading.local()

    def noting(self, call, inputs, keep, memory):
        mine.keeps = bool(keep)
        return run(self, call, inputs, keep, memory)

    def waiting(self):
        if not mine.keeps:
            wait(self)

    patch.setattr(Lane, "_run", noting)
    patch.setattr(Lane, "_wait", waiting)
    patch.setattr(cuda_python._Event, "elapsed_ms", lambda self, since: 0.5)


def gives_back_too_early(patch):
    take = Pool.take

    def closing(self, shape, dtype):
        found = take(self, shape, dtype)
        found.close()
        return found

    patch.setattr(Pool, "take", closing)


def lends_what_is_in_use(patch):
    take, memory = Pool.take, {}

    def sharing(self, shape, dtype):
        found = take(self, shape, dtype)
        found._lease.memory = memory.setdefault(id(self), found._lease.memory)
        return found

    patch.setattr(Pool, "take", sharing)


def frees_what_comes_back(patch):
    give_back = Pool.give_back

    def freeing(self, lease):
        give_back(self, lease)
        with self._lock:
            memory = [block for blocks in self._idle.values() for block in blocks]
            self._idle.clear()
        self._free(memory)

    patch.setattr(Pool, "give_back", freeing)


def uses_freed_memory(patch):
    allocate = LayerPool._allocate

    def freed(self, nbytes):
        block = allocate(self, nbytes)
        with self._layer.activate():
            block.close()
        return block

    patch.setattr(LayerPool, "_allocate", freed)


def never_gives_back(patch):
    patch.setattr(DeviceArray, "close", lambda self: None)


def goes_by_the_host(patch):
    patch.setattr(FeatureRooms, "pool", lambda self, graph: None)


def brings_features_to_the_host(patch):
    patch.setattr(Engine, "why_not_from", lambda self, name, dtype, devices: "")
    bring = Engine._bring

    def down(self, inputs, resident):
        found, resident = bring(self, inputs, resident)
        return {**found, **{name: given.numpy() for name, given in resident.items()}}, {}

    patch.setattr(Engine, "_bring", down)


FAULTS = [
    writes_at_a_wrong_place,
    reads_from_a_wrong_place,
    takes_every_call_for_the_first,
    copies_half,
    puts_every_clip_into_the_first_row,
    copies_to_rows_of_the_callers_length,
    keeps_the_first_address,
    captures_uploads_of_what_is_there,
    does_not_wait_for_what_it_keeps,
    gives_back_too_early,
    lends_what_is_in_use,
    frees_what_comes_back,
    uses_freed_memory,
    never_gives_back,
    goes_by_the_host,
    brings_features_to_the_host,
]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A bundle of plans, clips of several lengths, and what they give by the host."""
    folder = tmp_path_factory.mktemp("chain")
    made = make_bundle(folder / "own.taemi")
    for graph in GRAPHS:
        add_plan(made, graph)
    paths = [make_clip(folder / f"{place}.mp4", seconds=s) for place, s in enumerate((2.2, 0.9, 1.6, 1.2))]
    jobs = list(zip(paths, (SAID, "the race", "today", None), strict=True))
    some = [DecodedClip(decoded(made, path), Transcript.given(said)) for path, said in jobs]
    with simulated(), open_by_host(made) as scorer:
        alone = [values(scorer.predict(*job)) for job in jobs]
        together = [values(found) for found in scorer.score_batch(some)]
    return made, jobs, some, alone, together


@contextlib.contextmanager
def simulated(fault=None):
    say_by_host.cache_clear()
    place = SimulatedPlan("simulated", "tensorrt", "cuda:0", ".plan")
    with pytest.MonkeyPatch.context() as patch:
        place.install(patch)
        place.gpu.rubbish = 0xFF
        if fault is not None:
            fault(patch)
        yield place.gpu


def broken_parts(chain, fault=None):
    """Return what a fault breaks of the chain's promises."""
    made, jobs, some, alone, together = chain
    broken = []
    with simulated(fault) as gpu:
        try:
            with open_scorer(made) as scorer:
                make_lanes(scorer)
                for _ in range(4):
                    if [values(scorer.predict(*job)) for job in jobs] != alone:
                        broken.append("scores alone")
                    if [values(found) for found in scorer.score_batch(some)] != together:
                        broken.append("scores together")
                held, gpu.copied = gpu.allocations, dict.fromkeys(gpu.copied, 0)
                for job in jobs:
                    scorer.predict(*job)
                if gpu.allocations != held:
                    broken.append("steady state")
                if gpu.copied["down"] != len(jobs) * 6 * 4:
                    broken.append("downloads")
                if lent(scorer):
                    broken.append("memory")
        except (TaemiError, AttributeError) as error:
            broken.append(str(error))
        if gpu.races:
            broken.append("races")
    return broken


def test_without_a_fault_the_chain_keeps_its_promises(chain):
    assert broken_parts(chain) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_breaks_a_promise(chain, fault):
    assert broken_parts(chain, fault)
