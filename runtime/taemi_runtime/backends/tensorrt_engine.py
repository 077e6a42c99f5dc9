"""Running a TensorRT plan: lanes for concurrent callers, profiles and buckets, warm-up.

Never executed on a GPU so far: tests run it on a simulated device that computes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taemi_runtime.backends.tensorrt_buckets import bucket, paddable, sizes_of
from taemi_runtime.backends.tensorrt_lane import Call, Counts, Lane
from taemi_runtime.backends.tensorrt_plan import Plan
from taemi_runtime.cuda.contract import DeviceLayer
from taemi_runtime.cuda.pool import LayerPool
from taemi_runtime.device_array import Pool
from taemi_runtime.engine import Engine, EngineInfo, why_not_here
from taemi_runtime.errors import EngineError
from taemi_runtime.interrupts import next_of
from taemi_runtime.plan_sidecar import Shape, choose_profile
from taemi_runtime.resident import Inputs, Keep
from taemi_runtime.spec import Array, Arrays

_log = logging.getLogger(__name__)

# Shapes whose way is remembered; clips rarely come in more.
_MOST_ROUTES = 1024
# One call computes while the inputs of another go up; a third would only wait for the first.
_WORTH_HAVING = 2


@dataclass(frozen=True)
class WarmUp:
    """What the first calls cost, which are made while the engine is opened.

    Args:
        cold_ms: The first call at the first profile's tuned shape, in milliseconds.
        warm_ms: The last one at that shape.
    """

    cold_ms: float
    warm_ms: float


class TensorRTEngine(Engine):
    """One plan on one device, for any number of threads.

    Args:
        plan: The plan.
        layer: The device; it is closed with the engine.
        info: What was loaded.
        contexts: How many callers run at a time; further ones wait.
        graphs: Whether CUDA graphs are used where the device layer has them.
        split_times: Whether calls note how long copies and computing took apart.
    """

    def __init__(
        self,
        plan: Plan,
        layer: DeviceLayer,
        info: EngineInfo,
        *,
        contexts: int = 4,
        graphs: bool = True,
        split_times: bool = False,
    ) -> None:
        super().__init__(plan.spec, info)
        self.plan: Plan | None = plan
        self.layer = layer
        self._sidecar = plan.sidecar
        self._profiles = plan.profiles
        self._ladders = paddable(plan.spec)
        self._graphs = graphs and layer.has_graphs
        self._most = contexts
        self._split_times = split_times
        self._idle: list[Lane] = []
        self._lanes: list[Lane] = []
        self._making = 0
        self._routes: dict[tuple[bool, tuple[Shape, ...]], tuple[Call, dict[str, int]]] = {}
        # No Condition: Ctrl-C within its steps would leave it locked; see [taemi_runtime.interrupts][].
        self._free = threading.Lock()
        self._waiting = 0
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._pool = LayerPool(type(layer), layer.facts.index)
        # What nobody closed must go before the driver does: pycuda aborts the process otherwise.
        self._at_exit = functools.partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        if graphs and not layer.has_graphs:
            _say_without_graphs(layer.name)
        try:
            self.warm_up = self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def counts(self) -> Counts:
        """How often calls were enqueued, captured and replayed, over all lanes."""
        with self._free:
            lanes = list(self._lanes)
        return Counts(
            sum(lane.counts.enqueued for lane in lanes),
            sum(lane.counts.captured for lane in lanes),
            sum(lane.counts.replayed for lane in lanes),
        )

    @property
    def pool(self) -> Pool:
        """Lends memory on the plan's device; see ``Engine.pool``."""
        return self._pool

    @property
    def captures(self) -> bool:
        """Whether calls are captured; ``False`` from the first that could not be."""
        return self._graphs

    @property
    def calls_at_a_time(self) -> int:
        """Two: one computes while the other one's inputs go up; see ``Engine.calls_at_a_time``."""
        return min(_WORTH_HAVING, self._most)

    def why_not_from(self, name: str, dtype: Any, devices: Collection[str]) -> str:
        """Return why an input is not taken from a device; see ``Engine.why_not_from``."""
        return why_not_here(self, name, dtype, devices)

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        return self._run_resident(inputs, {})

    def _run_resident(self, inputs: Inputs, keep: Keep) -> dict[str, Array]:
        call, sizes = self._route(tuple(inputs[item.name].shape for item in self.spec.inputs))
        with self._lane() as lane:
            found = lane.run(call, inputs, keep)
            self._note_device_ms(lane.device_ms)
            self._note_split(lane.split)
            if lane.why_no_graph:
                self._give_up_graphs(lane.why_no_graph)
            outputs = {}
            for item in self.spec.outputs:
                if item.name in keep:
                    continue
                corner = tuple(
                    slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in item.shape
                )
                # A copy: the lane's memory is written again by its next call.
                outputs[item.name] = found[item.name][corner].astype(item.dtype, order="C", copy=True)
        return outputs

    def padded_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Return the lengths of the bucket that a call belongs to; see ``Engine.padded_lengths``."""
        if not self._graphs:
            return dict(lengths)
        shapes = {item.name: self.spec.shape(item, lengths) for item in self.spec.inputs}
        profile = self._profiles[choose_profile(self._sidecar, shapes)]
        return bucket(self.spec, self._ladders, profile, lengths)

    def _route(self, shapes: tuple[Shape, ...]) -> tuple[Call, dict[str, int]]:
        """Return where a call of these shapes goes, and the lengths of its symbols."""
        graphs = self._graphs
        known = self._routes.get((graphs, shapes))
        if known is not None:
            return known
        named = {item.name: shape for item, shape in zip(self.spec.inputs, shapes, strict=True)}
        profile = choose_profile(self._sidecar, named)
        sizes = sizes_of(self.spec, named)
        if graphs:
            lengths = bucket(self.spec, self._ladders, self._profiles[profile], sizes)
            named = {item.name: self.spec.shape(item, lengths) for item in self.spec.inputs}
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        self._routes[graphs, shapes] = found = Call(profile, named, graphs), sizes
        return found

    def _give_up_graphs(self, why: str) -> None:
        with self._free:
            was_on, self._graphs = self._graphs, False
        if was_on:
            _log.warning("%s runs without CUDA graphs, by plain enqueue: %s", self.info.path, why)

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """Borrow a lane, with the device's context current in this thread."""
        with self.layer.activate():
            lane = self._take()
            try:
                yield lane
            finally:
                self._give_back(lane)
        if self.plan is None:
            self.layer.close()

    def _take(self) -> Lane:
        while True:
            with self._free:
                plan = self.plan
                if self._closed or plan is None:
                    raise EngineError(f"cannot run {self.info.path}", "the engine is closed", "Open it again")
                if self._idle:
                    return self._idle.pop()
                full = len(self._lanes) + self._making >= self._most
                if full:
                    self._waiting += 1
                else:
                    self._making += 1
            if full:
                self._wait()
                continue
            lane = self._make(plan)
            if lane is not None:
                return lane

    def _wait(self) -> None:
        """Wait until a lane may be free; whoever is woken for nothing waits again."""
        try:
            next_of(self._freed)
        finally:
            with self._free:
                self._waiting -= 1

    def _wake(self, most: int | None = None) -> None:
        """Wake callers that wait, at most so many; called with the lock held."""
        for _ in range(self._waiting if most is None else min(most, self._waiting)):
            self._freed.put(None)

    def _make(self, plan: Plan) -> Lane | None:
        """Make one more lane; where there is no memory for it, callers share those that are there."""
        try:
            lane = Lane(plan, self.layer, split_times=self._split_times)
        except EngineError as error:
            with self._free:
                self._making -= 1
                there = len(self._lanes)
                if there:
                    self._most = there
                self._wake()
            if not there:
                raise
            _log.warning("%s runs %d callers at a time, not more: %s", self.info.path, there, error.found)
            return None
        with self._free:
            self._making -= 1
            self._lanes.append(lane)
        return lane

    def _give_back(self, lane: Lane) -> None:
        with self._free:
            if not self._closed:
                self._idle.append(lane)
                self._wake(1)
                return
        self._retire(lane)

    def _retire(self, lane: Lane) -> None:
        lane.close()
        with self._free:
            self._lanes.remove(lane)
            last = not self._lanes
        if last:
            self.plan = None

    def _warm_up(self) -> WarmUp:
        """Run every profile at its tuned shape until it is captured, and at its largest.

        The first call at a shape loads kernels and allocates: it is made here, not for the first clip.
        """
        spent: list[float] = []
        for profile in self._profiles:
            held = profile.inputs.items()
            for shapes in ({name: r.optimum for name, r in held}, {name: r.maximum for name, r in held}):
                for _ in range(3):
                    start = time.perf_counter()
                    self._run(self._blank(shapes))
                    spent.append((time.perf_counter() - start) * 1e3)
        found = WarmUp(spent[0], spent[2])
        _log.debug(
            "%s: first call %.1f ms, then %.2f ms at the same shape",
            self.info.path,
            found.cold_ms,
            found.warm_ms,
        )
        return found

    def _blank(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        return {item.name: np.zeros(shapes[item.name], item.dtype) for item in self.spec.inputs}

    def close(self) -> None:
        """Give back what no caller holds; callers that are under way end first."""
        with self._free:
            if self._closed:
                return
            super().close()
            atexit.unregister(self._at_exit)
            idle, self._idle = self._idle, []
            self._wake()
        self._pool.close()
        with self.layer.activate():
            for lane in idle:
                self._retire(lane)
            if not self._lanes:
                self.plan = None
        if self.plan is None:
            self.layer.close()


@functools.cache
def _say_without_graphs(layer: str) -> None:
    _log.info("%s has no CUDA graphs: plans run by plain enqueue", layer)


def _close_at_exit(engine: weakref.ref[TensorRTEngine]) -> None:
    found = engine()
    if found is not None:
        found.close()
